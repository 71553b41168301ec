"""Get an answer as an object of a class of your own instead of as text."""

from dataclasses import dataclass
from typing import List, Literal

from gigachat_lite import GigaChat, InvalidResponseError, LengthFinishReasonError


@dataclass
class Step:
    what: str
    minutes: int


@dataclass
class Recipe:
    title: str
    level: Literal["easy", "hard"]
    steps: List[Step]


with GigaChat() as client:
    try:
        completion, recipe = client.chat_parse("How do I make pancakes?", response_format=Recipe)
        print(f"{recipe.title} ({recipe.level}), {sum(step.minutes for step in recipe.steps)} minutes")
        for number, step in enumerate(recipe.steps, 1):
            print(f"{number}. {step.what}")
    except (InvalidResponseError, LengthFinishReasonError) as error:
        print(f"The model did not keep to the form: {error}")
