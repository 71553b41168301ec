"""Print an answer as it arrives; stop reading one that is long enough."""

from gigachat_lite import GigaChat

with GigaChat() as client:
    for chunk in client.stream("Write a short poem about programming"):
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print(f"\n({chunk.usage.completion_tokens} tokens)")  # the last chunk has the usage

    # Leaving the block frees the connection, however far the answer has come.
    length = 0
    with client.stream("Count to one hundred") as stream:
        for chunk in stream:
            content = chunk.choices[0].delta.content or ""
            print(content, end="", flush=True)
            length += len(content)
            if length > 40:
                break
    print("... enough.")
