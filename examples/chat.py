"""Ask one question, then hold a conversation that remembers what was said."""

from gigachat_lite import Chat, GigaChat, Messages, MessagesRole

with GigaChat() as client:
    answer = client.chat("Привет! Кто ты?")
    print(answer.choices[0].message.content)

    chat = Chat(
        messages=[Messages(role=MessagesRole.SYSTEM, content="You are a librarian. Answer in one sentence.")],
        temperature=0.7,
        max_tokens=200,
    )
    for question in ("Who wrote The Master and Margarita?", "What else did he write?"):
        chat.messages.append(Messages(role=MessagesRole.USER, content=question))
        answer = client.chat(chat)
        chat.messages.append(answer.choices[0].message)
        print(f"> {question}\n{answer.choices[0].message.content}")
    choice = answer.choices[0]
    print(f"The last answer took {answer.usage.total_tokens} tokens and ended with {choice.finish_reason!r}.")
