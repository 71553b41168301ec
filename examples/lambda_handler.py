"""A handler for AWS Lambda: ``{"question": ..., "stream": true}`` gives ``{"answer": ..., "tokens": ...}``.

Set its name to ``lambda_handler.handler`` and give the function the layer that lambda_layer.py writes.
Variables: GIGACHAT_CREDENTIALS, GIGACHAT_SCOPE, GIGACHAT_CA_BUNDLE_FILE=/opt/python/ca.pem.
"""

from gigachat_lite import GigaChat, GigaChatException

# Made once for each instance: warm calls find the token and the connection ready. Nothing is opened here.
client = GigaChat()


def handler(event, context):
    try:
        if event.get("stream"):
            parts, tokens = [], None
            for chunk in client.stream(event["question"]):
                parts += [choice.delta.content or "" for choice in chunk.choices]
                tokens = chunk.usage.total_tokens if chunk.usage else tokens
            return {"answer": "".join(parts), "tokens": tokens}
        answer = client.chat(event["question"])
        return {"answer": answer.choices[0].message.content, "tokens": answer.usage.total_tokens}
    except GigaChatException as error:
        return {"error": str(error)}
