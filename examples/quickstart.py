#!/usr/bin/env python3
"""A first conversation: a chat, a stream that prints as it arrives, and an async chat.

    python examples/quickstart.py ["question"]

Needs nothing but Python 3.8 or newer. Talks to GigaChat if GIGACHAT_CREDENTIALS or GIGACHAT_ACCESS_TOKEN is set, and
else to the local server of this repository, which it starts.
"""

import asyncio
import os
import sys
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CERTS = ROOT / "tests" / "certs"
sys.path.insert(0, str(ROOT))

from gigachat_lite import GigaChat, GigaChatException  # noqa: E402  # found by the line above
from local_server import LocalServer  # noqa: E402


def local_client(opened: ExitStack) -> GigaChat:
    """Start the local server, for as long as *opened* lasts, and make a client of it."""
    server = opened.enter_context(LocalServer(tls=(str(CERTS / "server.pem"), str(CERTS / "server.key"))))
    print("Neither GIGACHAT_CREDENTIALS nor GIGACHAT_ACCESS_TOKEN is set.")
    print(f"So this talks to a local server, {server.base_url}: real TLS, a real token, canned answers.")
    return GigaChat(
        base_url=server.base_url,
        auth_url=server.auth_url,
        credentials=server.credentials,
        scope=server.scope,
        model="GigaChat",
        ca_bundle_file=str(CERTS / "ca.pem"),
        verify_ssl_certs=True,
        proxy="",
    )


def converse(client: GigaChat, question: str) -> None:
    print(f"\n--- client.chat({question!r})")
    answer = client.chat(question)
    print(answer.choices[0].message.content)
    if answer.usage is not None:
        print(f"({answer.model}, {answer.usage.total_tokens} tokens)")

    print(f"\n--- client.stream({question!r})")
    # update_interval: seconds between two pieces, at least; a str alone would do.
    for chunk in client.stream({"messages": [question], "update_interval": 0.02}):
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()

    print(f"\n--- await client.achat({question!r})")
    print(asyncio.run(client.achat(question)).choices[0].message.content)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal may know no Cyrillic
    question = " ".join(sys.argv[1:]) or "What can you do?"
    question = os.fsencode(question).decode("utf-8", "replace")  # in the C locale arguments are not decoded
    with ExitStack() as opened:
        if os.environ.get("GIGACHAT_CREDENTIALS") or os.environ.get("GIGACHAT_ACCESS_TOKEN"):
            client = GigaChat()
            print(f"This talks to GigaChat: {client}.")
        else:
            client = local_client(opened)
        converse(opened.enter_context(client), question)


if __name__ == "__main__":
    try:
        main()
    except GigaChatException as error:
        sys.exit(f"{type(error).__name__}: {error}")
