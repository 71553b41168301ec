"""Send headers that identify a request, without handing them through every call: one set for each task."""

import asyncio

from gigachat_lite import GigaChat, custom_headers_cvar, request_id_cvar, session_id_cvar


async def serve(client: GigaChat, user: str) -> None:
    # What a task sets is seen by this task alone.
    session_id_cvar.set(f"session-of-{user}")
    request_id_cvar.set(f"request-of-{user}")
    custom_headers_cvar.set({"X-Department": "support"})
    answer = await client.achat(f"Hello, I am {user}")
    print(f"{user}: the server calls this request {answer.x_headers['x-request-id']}")


async def main() -> None:
    async with GigaChat() as client:
        await asyncio.gather(*(serve(client, user) for user in ("ann", "boris", "vera")))


asyncio.run(main())
