"""Async chat: questions side by side, then an answer as it arrives."""

import asyncio

from gigachat_lite import GigaChat


async def main() -> None:
    async with GigaChat() as client:
        questions = ["What is a coroutine?", "What is a thread?", "What is a process?"]
        answers = await asyncio.gather(*(client.achat(question) for question in questions))
        for question, answer in zip(questions, answers):
            print(f"> {question}\n{answer.choices[0].message.content}")

        async for chunk in client.astream("Tell me a joke"):
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        print()


asyncio.run(main())
