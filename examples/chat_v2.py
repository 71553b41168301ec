"""Speak the second version of chat: a question, a stream, a search in the web with its sources, a picture."""

from gigachat_lite import ChatCompletionRequest, ChatMessage, ChatModelOptions, GigaChat, file_ids

with GigaChat() as client:
    answer = client.chat.create("Привет! Кто ты?")
    print(answer.text)

    request = ChatCompletionRequest(
        messages=[
            ChatMessage(role="system", content="Answer in one sentence."),
            ChatMessage(role="user", content="Why?"),
        ],
        model_options=ChatModelOptions(temperature=0.2, max_tokens=100),
    )
    for chunk in client.chat.stream(request):
        print(chunk.text, end="", flush=True)
    print(f"\n{chunk.event}: {chunk.finish_reason}")

    question = "What is the weather in Moscow like?"
    for chunk in client.chat.stream({"messages": [question], "tools": ["web_search"]}):
        for number, source in enumerate(chunk.sources, 1):
            print(f"[{number}] {source.title} {source.url}")
        print(chunk.text, end="")
    print()

    picture = client.chat.create({"messages": ["Draw a pink elephant."], "tools": ["image_generate"]})
    for file_id in file_ids(picture):
        print(f"The picture {file_id} has {len(client.download_file(file_id))} bytes.")
