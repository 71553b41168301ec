"""Find out which part of a text was written by a model. Needs the scope GIGACHAT_API_CORP."""

from gigachat_lite import GigaChat

TEXT = (
    "Yesterday we walked along the river until it got dark and the mosquitoes drove us home. "
    "As a language model, I can say that walking is an activity that has numerous positive effects on well-being. "
    "Mum made tea, and nobody wanted to be the one who had to wash the cups."
)

with GigaChat() as client:
    result = client.check_ai(TEXT, model="GigaCheckDetection")
    print(f"{result.category}: {result.characters} characters, {result.tokens} tokens")
    for start, end in result.ai_intervals or []:
        print(f"written by a model, characters {start} to {end}: {TEXT[start:end]}")
