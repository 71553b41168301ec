"""Let the server keep the instructions (an assistant) and the history (a thread)."""

from gigachat_lite import GigaChat

with GigaChat() as client:
    assistant = client.assistants.create(
        model="GigaChat", name="Librarian", instructions="You are a librarian. Answer in one sentence."
    )
    first = client.threads.run_messages(["Who wrote Dead Souls?"], assistant_id=assistant.assistant_id)
    print(first.message.content)

    for chunk in client.threads.run_messages_stream(["When?"], thread_id=first.thread_id):
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()

    for message in client.threads.get_messages(first.thread_id).messages:
        print(f"{message.role}: {message.content[:60]}")

    client.threads.delete(first.thread_id)
    client.assistants.delete(assistant.assistant_id)
