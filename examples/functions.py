"""Let the model call a Python function: its call, the function's result, the answer made of it."""

import json

from gigachat_lite import Chat, Function, GigaChat, Messages, MessagesRole


def get_weather(city: str, unit: str = "celsius") -> dict:
    return {"city": city, "temperature": 21 if unit == "celsius" else 70, "unit": unit}


properties = {
    "city": {"type": "string", "description": "City, for example Moscow"},
    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
}
parameters = {"type": "object", "properties": properties, "required": ["city"]}
weather = Function(name="get_weather", description="Tell the weather in a city", parameters=parameters)
chat = Chat(messages=["What is the weather in Tokyo?"], functions=[weather])

with GigaChat() as client:
    message = client.chat(chat).choices[0].message
    while message.function_call is not None:  # the result of one call may lead to another
        call = message.function_call
        result = get_weather(**call.arguments)
        print(f"{call.name}({call.arguments}) gives {result}")
        said = json.dumps(result, ensure_ascii=False)  # the API wants JSON
        chat.messages += [message, Messages(role=MessagesRole.FUNCTION, name=call.name, content=said)]
        message = client.chat(chat).choices[0].message
    print(message.content)
