"""A handler for AWS Lambda: ``{"question": ..., "stream": true}`` gives ``{"answer": ..., "tokens": ...}``.

Called directly, or through API Gateway or a function URL with that JSON as the body. Set the function's handler to
``lambda_handler.handler`` and give it the layer that lambda_layer.py writes. Variables: GIGACHAT_CREDENTIALS,
GIGACHAT_SCOPE, GIGACHAT_CA_BUNDLE_FILE=/opt/python/ca.pem, and a GIGACHAT_TIMEOUT below the function's own limit.
"""

import base64
import json

from gigachat_lite import GigaChat, GigaChatException

# Made once for each instance: warm calls find the token and the connection ready. Nothing is opened here.
client = GigaChat()


def handler(event, context):
    if "body" not in event:
        return answer(event)[1]
    body = event["body"] or ""
    try:
        status, result = answer(json.loads(base64.b64decode(body) if event.get("isBase64Encoded") else body))
    except ValueError:
        status, result = 400, {"error": "the body is not JSON"}
    headers = {"Content-Type": "application/json; charset=utf-8"}
    return {"statusCode": status, "headers": headers, "body": json.dumps(result, ensure_ascii=False)}


def answer(asked):
    """Give an HTTP status and the result."""
    if not (isinstance(asked, dict) and isinstance(asked.get("question"), str)):
        return 400, {"error": 'a "question" is missing: {"question": "..."}'}
    try:
        if asked.get("stream"):
            parts, tokens = [], None
            for chunk in client.stream(asked["question"]):
                parts += [choice.delta.content or "" for choice in chunk.choices]
                tokens = chunk.usage.total_tokens if chunk.usage else tokens
            return 200, {"answer": "".join(parts), "tokens": tokens}
        completion = client.chat(asked["question"])
        return 200, {"answer": completion.choices[0].message.content, "tokens": completion.usage.total_tokens}
    except GigaChatException as error:
        return 502, {"error": str(error)}
