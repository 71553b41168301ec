"""Count tokens before a request is sent, and see what it took and what is left."""

from gigachat_lite import ForbiddenError, GigaChat

question = "Explain quantum computing in simple terms"

with GigaChat() as client:
    for text, count in zip([question, "Hello"], client.tokens_count([question, "Hello"])):
        print(f"{count.tokens} tokens, {count.characters} characters: {text}")

    usage = client.chat(question).usage
    print(f"The request took {usage.prompt_tokens} tokens, the answer {usage.completion_tokens}.")

    try:
        for package in client.get_balance().balance:
            print(f"{package.usage}: {package.value} tokens left")
    except ForbiddenError:
        print("Pay-as-you-go accounts have no balance.")
