"""Let the model call Python functions: it sees their names, docstrings and annotations."""

from gigachat_lite import GigaChat


def get_weather(city: str, unit: str = "celsius") -> dict:
    """Tell the weather in a city.

    Args:
        city: City, for example Moscow.
        unit: celsius or fahrenheit.
    """
    return {"city": city, "temperature": 21 if unit == "celsius" else 70, "unit": unit}


with GigaChat() as client:
    completion, messages = client.run_tools("What is the weather in Tokyo?", [get_weather])
    for message in messages:
        if message.function_call is not None:
            print(f"called {message.function_call.name}({message.function_call.arguments})")
        elif message.role == "function":
            print(f"it gives {message.content}")
    print(completion.choices[0].message.content)
