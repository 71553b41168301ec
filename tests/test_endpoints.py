"""Every endpoint, sync and async, from one table: what a call sends, byte for byte, and what it makes of the answer.

Replies are what the real service was recorded to send, where there is a recording.
"""

import base64
import json
import re
from typing import Any, Dict, List, NamedTuple, Optional, Set, Tuple, Union

import pytest
from conftest import raw_client
from local_server import LocalServer

import gigachat_lite
from gigachat_lite import (
    AICheckResult,
    Assistant,
    AssistantAttachment,
    AssistantDelete,
    AssistantFileDelete,
    Assistants,
    Balance,
    Batch,
    BatchRequestCounts,
    BatchResult,
    Chat,
    ChatCompletion,
    ChatCompletionChunk,
    ChatFunctionCall,
    CreateAssistant,
    DeletedFile,
    Embeddings,
    FilterCheck,
    Function,
    FunctionParameters,
    FunctionParametersProperty,
    FunctionRemark,
    FunctionValidation,
    GigaChat,
    Image,
    InvalidResponseError,
    JSONObject,
    Messages,
    MessagesRole,
    Model,
    Models,
    OpenApiFunctions,
    Storage,
    Thread,
    ThreadCompletion,
    ThreadCompletionChunk,
    ThreadMessage,
    ThreadMessageResponse,
    ThreadMessages,
    ThreadMessagesResponse,
    ThreadRunOptions,
    ThreadRunResponse,
    ThreadRunResult,
    Threads,
    ThreadStatus,
    TokensCount,
    UploadedFile,
    UploadedFiles,
)

# ---------- what the service was recorded, or is documented, to answer

HELLO = (
    '{"choices":[{"message":{"content":"Hello.","role":"assistant"},"index":0,"finish_reason":"stop"}],'
    '"created":1768996171,"model":"GigaChat:2.0.28.2","object":"chat.completion","usage":{"prompt_tokens":17,'
    '"completion_tokens":3,"total_tokens":20,"precached_prompt_tokens":2}}'
)
FUNCTION_CALL = (
    '{"choices":[{"message":{"content":"","role":"assistant","function_call":{"name":"weather_forecast","arguments":'
    '{"format":"celsius","location":"Москва","num_days":1}},"functions_state_id":"c258f824-d527-4a62-af5d-6c3f8c6dd617"'
    '},"index":0,"finish_reason":"function_call"}],"created":1745854526,"model":"GigaChat-2-Max:2.0.28.2",'
    '"object":"chat.completion","usage":{"prompt_tokens":130,"completion_tokens":33,"total_tokens":163,'
    '"precached_prompt_tokens":0}}'
)
PICTURE = (
    '{"choices":[{"message":{"content":"<img src=\\"d3e6ab2d-c836-4924-925e-29272fdab3ec\\" fuse=\\"true\\"/> Вот мой '
    'рисунок розового слона.","role":"assistant","functions_state_id":"0199e210-2f13-744c-8000-000000000000"},'
    '"index":0,"finish_reason":"stop"}],"created":1745854526,"model":"GigaChat-2-Max:2.0.28.2","object":"chat.completion",'
    '"usage":{"prompt_tokens":548,"completion_tokens":37,"total_tokens":585,"precached_prompt_tokens":176}}'
)
STORED = (
    '{"choices":[{"message":{"content":"4","role":"assistant","reasoning_content":"2+2"},"index":0,'
    '"finish_reason":"stop"}],"created":1,"model":"GigaChat:1","object":"chat.completion","usage":{"prompt_tokens":1,'
    '"completion_tokens":1,"total_tokens":2,"system_tokens":7},"thread_id":"t-1","message_id":"m-1"}'
)
CHAT_EVENTS = r"""data: {"choices":[{"delta":{"content":"$1\\, 2\\, 3$  \n\n**Подробный разбор:","role":"assistant"},"index":0}],"created":1768996176,"model":"GigaChat:2.0.28.2","object":"chat.completion"}

data: {"choices":[{"delta":{"content":"**\n- Начинаем счёт с единицы."},"index":0}],"created":1768996176,"model":"GigaChat:2.0.28.2","object":"chat.completion"}

data: {"choices":[{"delta":{"content":"\n- Добавляем следующее число — двойку."},"index":0}],"created":1768996176,"model":"GigaChat:2.0.28.2","object":"chat.completion"}

data: {"choices":[{"delta":{"content":"\n- Заканчиваем счётом числом три."},"index":0}],"created":1768996176,"model":"GigaChat:2.0.28.2","object":"chat.completion"}

data: {"choices":[{"delta":{"content":""},"index":0,"finish_reason":"stop"}],"created":1768996176,"model":"GigaChat:2.0.28.2","object":"chat.completion","usage":{"prompt_tokens":17,"completion_tokens":42,"total_tokens":59,"precached_prompt_tokens":2}}

data: [DONE]

"""  # noqa: E501
THREAD_EVENTS = r"""data: {"choices":[{"delta":{"content":"Здравствуйте! Отвечу на ваши","role":"assistant"},"index":0}],"created":1715684409,"model":"GigaChat-Pro:2.2.25.3","object":"threads.messages.run","usage":{"prompt_tokens":12,"completion_tokens":7,"total_tokens":19},"thread_id":"9b1cc6d9-0eeb-46de-b01f-6f74c9a82df7","message_id":"fd753d3f-f1f5-498f-b5dd-da380607d470"}

data: {"choices":[{"delta":{"content":" вопросы. Чем могу вам помочь?"},"index":0,"finish_reason":"stop"}],"created":1715684409,"model":"GigaChat-Pro:2.2.25.3","object":"threads.messages.run","usage":{"prompt_tokens":0,"completion_tokens":8,"total_tokens":8},"thread_id":"9b1cc6d9-0eeb-46de-b01f-6f74c9a82df7","message_id":"fd753d3f-f1f5-498f-b5dd-da380607d470"}

data: [DONE]

"""  # noqa: E501
MODEL = '{"id":"GigaChat","object":"model","owned_by":"salutedevices","type":"chat"}'
MODELS = (
    '{"object":"list","data":[{"id":"GigaChat","object":"model","owned_by":"salutedevices","type":"chat"},'
    '{"id":"GigaFilter","object":"model","owned_by":"salutedevices","type":"filter"},'
    '{"id":"GigaCheckDetection","object":"model","owned_by":"salutedevices","type":"aicheck"},'
    '{"id":"GigaChat:v1.2.19.2","object":"model","owned_by":"salutedevices"}]}'
)
EMBEDDINGS_2026 = (
    '{"object":"list","model":"Embeddings","data":[{"object":"embedding","index":0,"embedding":[0.34342318773269653,'
    '-1.0],"usage":{"prompt_tokens":7}},{"object":"embedding","index":1,"embedding":[1e-05,2],"usage":'
    '{"prompt_tokens":7}}]}'
)
EMBEDDINGS_2025 = (
    '{"object":"list","data":[{"usage":{"prompt_tokens":8},"object":"embedding","embedding":[0.0078125],"index":0}],'
    '"model":"EmbeddingsGigaR"}'
)
TOKENS = '[{"object":"tokens","tokens":2,"characters":10},{"object":"tokens","tokens":2,"characters":11}]'
FILE = (
    '{"id":"c757a9c5-de04-498f-baa3-efcc54de7853","object":"file","bytes":42966,"created_at":1715768909,'
    '"filename":"image.jpg","purpose":"general","access_policy":"private"}'
)
FILE_2024 = (
    '{"id":"b28fbd4e-105b-4e2b-bc32-9b2b0b4d8b5b","object":"file","bytes":120,"created_at":1715768909,'
    '"filename":"имя.txt","purpose":"general"}'
)
FILES = '{"data":[' + FILE + "," + FILE_2024[:-1] + ',"modalities":["image"]}]}'
DELETED = '{"id":"c757a9c5-de04-498f-baa3-efcc54de7853","deleted":true,"access_policy":"private"}'
BALANCE = '{"balance":[{"usage":"GigaChat","value":900000},{"usage":"embeddings","value":10000000.5}]}'
AI_CHECK = '{"category":"mixed","characters":533,"tokens":224,"ai_intervals":[[1,262],[415,533]]}'
CONVERTED = (
    '{"functions":[{"name":"send_sms","description":"...","parameters":{"type":"object","properties":{"text":'
    '{"type":"string","minLength":1,"description":"..."}},"required":["text"]},"return_parameters":{"type":"object",'
    '"properties":{"status":{"type":"boolean"}}}}]}'
)
WRONG_FUNCTION = (
    '{"status":200,"message":"Incorrect function syntax","json_ai_rules_version":"1.0.5","errors":[{"description":'
    '"Required properties \'properties\', \'type\' are missing","schema_location":"#/properties/parameters"},'
    '{"description":"Properties \'type\', \'properties\' do not match their schemas","schema_location":'
    '"#/properties/parameters"},{"description":"Value is null but should be string","schema_location":'
    '"#/properties/type"},{"description":"Value should match one of the values specified by the enum",'
    '"schema_location":"#/properties/type"},{"description":"Value is null but should be object","schema_location":'
    '"#/properties/properties"}]}'
)
VALID_FUNCTION = (
    '{"status":200,"message":"Function is valid","json_ai_rules_version":"1.0.5","warnings":[{"description":'
    '"Value is null but should be object","schema_location":"#/properties/return_parameters"},{"description":'
    '"Value is null but should be array","schema_location":"#/properties/few_shot_examples"}]}'
)
FILTERED = '{"is_profane":false,"usage":{"filter_tokens":12}}'
BATCH = (
    '{"id":"b-1","method":"chat_completions","request_counts":{"total":2},"status":"created","created_at":1764240000,'
    '"updated_at":1764240000}'
)
DONE_BATCH = (
    '{"id":"b-2","method":"embedder","request_counts":{"total":3,"completed":2,"failed":1},"status":"completed",'
    '"output_file_id":"out/put","created_at":1764240000,"updated_at":1764240009}'
)
RESULTS = (
    '{"id":"1","error":{"status":400,"message":"Your request contains invalid JSON syntax."}}\n'
    '{"id":"0","result":' + HELLO + "}"
)
ASSISTANT = (
    '{"assistant_id":"111","created_at":1715684019,"name":"lonely","instructions":"Assistant","model":"GigaChat-Pro",'
    '"updated_at":1715684019,"metadata":{"test":234},"file_ids":["222"]}'
)
FULL_ASSISTANT = (
    '{"assistant_id":"112","created_at":1,"name":"n","description":"d","instructions":"i","model":"GigaChat",'
    '"updated_at":2,"metadata":{},"files":[{"file_id":"222","name":"a.txt"}],"threads_count":3,"functions":'
    '[{"name":"sms","parameters":{"type":"object","properties":{"to":{"type":"string"}}}}]}'
)
THREAD = (
    '{"id":"2cc91bae-34f7-4ee4-bcae-f5f71880deda","model":"GigaChat-Pro","created_at":1715684634,'
    '"updated_at":1715684764,"status":"ready","run_lock":false}'
)
MESSAGES = (
    '{"thread_id":"t-1","messages":[{"message_id":"m-1","role":"user","content":"Что на фото?","attachments":'
    '[{"file_id":"f-1","name":"a.jpg"}],"created_at":1715684634,"model":"GigaChat-Pro"},{"message_id":"m-2",'
    '"role":"assistant","content":"","created_at":1715684635,"function_call":{"name":"f","arguments":{"a":1}},'
    '"finish_reason":"function_call"}]}'
)
ADDED = '{"thread_id":"t-1","messages":[{"created_at":1715684634,"message_id":"m-1"}]}'
STARTED = '{"status":"in_progress","thread_id":"t-1","created_at":1715684634}'
RUN = (
    '{"status":"ready","thread_id":"t-1","updated_at":1715684764,"model":"GigaChat-Pro:2.2.25.3","messages":'
    '[{"message_id":"m-2","role":"assistant","content":"Привет","created_at":1715684764,"finish_reason":"stop"}]}'
)
THREAD_ANSWER = (
    '{"object":"threads.messages.run","model":"GigaChat-Pro:2.2.25.3","thread_id":"b549e2ec-a691-409d-aa6f-ff6a1271db47'
    '","message_id":"4c600221-1aaa-4c9d-9edb-572e465f4ee8","created":1715686918,"usage":{"prompt_tokens":12,'
    '"completion_tokens":15,"total_tokens":27},"message":{"content":"Здравствуйте! ...","role":"assistant"},'
    '"finish_reason":"stop"}'
)
JPEG = b"\xff\xd8\xff\xe0\x00\r\n\x00\xff\xd9"

OPENAPI = 'openapi: 3.0.0\ninfo: {title: смс, version: "1"}\n'
BOUNDARY = b"BOUNDARY"  # stands for the boundary of the form, which is random


def question(text: str, **fields: Any) -> Dict[str, Any]:
    return {"role": "user", "content": text, **fields}


def with_nulls(text: str, **fields: Any) -> Dict[str, Any]:
    """A message as /threads/messages gets it: with all fields, the id under the official SDK's own name."""
    names = ("function_call", "name", "attachments", "data_for_context", "functions_state_id", "reasoning_content")
    return {**question(text), **dict.fromkeys(names), "id_": None, **fields}


def asked(*messages: Dict[str, Any], **fields: Any) -> Dict[str, Any]:
    return {"model": "GigaChat", "messages": list(messages), **fields}


# ---------- the table


class Case(NamedTuple):
    """One call: what it sends, below base_url, and what comes back. Unless ``gives`` says so: the reply as *kind*."""

    method: str
    arguments: Tuple[Any, ...]
    named: Dict[str, Any]
    request: str
    body: Any
    reply: Union[str, bytes]
    kind: Optional[type]
    has: Dict[str, Any]  # attribute path -> value
    gives: Any
    headers: Dict[str, str]


CASES: List[Case] = []
NOTHING = object()


def case(
    method: str,
    /,
    *arguments: Any,
    sends: str,
    reply: Union[str, bytes],
    kind: Optional[type] = None,
    body: Any = None,
    has: Optional[Dict[str, Any]] = None,
    gives: Any = NOTHING,
    headers: Optional[Dict[str, str]] = None,
    **named: Any,
) -> None:
    CASES.append(Case(method, arguments, named, sends, body, reply, kind, has or {}, gives, headers or {}))


# fmt: off
STREAMING = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
HI = asked(question("hi"))

case("get_models", sends="GET /models", reply=MODELS, kind=Models, has={
    "object": "list", "object_": "list", "data.0.id": "GigaChat", "data.0.id_": "GigaChat", "data.0.object_": "model",
    "data.1.type": "filter", "data.2.type_": "aicheck", "data.3.type": None, "data.3.type_": None,
    "data.3.owned_by": "salutedevices"})
case("get_model", "GigaChat", sends="GET /models/GigaChat", reply=MODEL, kind=Model, has={
    "id": "GigaChat", "id_": "GigaChat", "object": "model", "object_": "model", "owned_by": "salutedevices",
    "type": "chat", "type_": "chat"})
case("get_model", model="GigaChat:latest", sends="GET /models/GigaChat%3Alatest", reply=MODEL, kind=Model)

case("chat", "hi", sends="POST /chat/completions", body=HI, reply=HELLO, kind=ChatCompletion, has={
    "choices.0.message.content": "Hello.", "choices.0.message.role": MessagesRole.ASSISTANT, "choices.0.index": 0,
    "choices.0.finish_reason": "stop", "created": 1768996171, "model": "GigaChat:2.0.28.2",
    "object": "chat.completion", "object_": "chat.completion", "usage.prompt_tokens": 17,
    "usage.completion_tokens": 3, "usage.total_tokens": 20, "usage.precached_prompt_tokens": 2, "thread_id": None,
    "message_id": None, "choices.0.message.function_call": None, "choices.0.message.id_": None})
case("chat", payload="hi", sends="POST /chat/completions", body=HI, reply=HELLO, kind=ChatCompletion)
case("chat", {"messages": [question("q", attachments=["f"])], "model": "GigaChat-2-Max", "function_call": "auto",
              "temperature": None, "new_field": {"deep": None}},
     sends="POST /chat/completions", body={"model": "GigaChat-2-Max", "messages": [question("q", attachments=["f"])],
                                           "function_call": "auto", "new_field": {"deep": None}},
     reply=FUNCTION_CALL, kind=ChatCompletion, has={
    "choices.0.message.function_call.name": "weather_forecast", "choices.0.finish_reason": "function_call",
    "choices.0.message.function_call.arguments": {"format": "celsius", "location": "Москва", "num_days": 1},
    "choices.0.message.functions_state_id": "c258f824-d527-4a62-af5d-6c3f8c6dd617"})
case("chat", ["нарисуй слона"], sends="POST /chat/completions", body=asked(question("нарисуй слона")),
     reply=PICTURE, kind=ChatCompletion, has={"usage.precached_prompt_tokens": 176})
case("chat", Chat(messages=[Messages(role=MessagesRole.USER, content="2+2?")],
                  storage=Storage(is_stateful=True, thread_id="t-1"), profanity_check=False, flags=["a"],
                  function_call=ChatFunctionCall(name="f", partial_arguments={"a": None}), reasoning_effort="low",
                  additional_fields={"top_k": 5}),
     sends="POST /chat/completions",
     body={"messages": [question("2+2?")], "storage": {"is_stateful": True, "thread_id": "t-1"}, "flags": ["a"],
           "profanity_check": False, "function_call": {"name": "f", "partial_arguments": {"a": None}},
           "reasoning_effort": "low", "top_k": 5},
     reply=STORED, kind=ChatCompletion, has={
    "thread_id": "t-1", "message_id": "m-1", "choices.0.message.reasoning_content": "2+2",
    "usage.precached_prompt_tokens": None, "usage.system_tokens": 7})
case("stream", "hi", sends="POST /chat/completions", body={**HI, "stream": True}, headers=STREAMING,
     reply=CHAT_EVENTS, kind=ChatCompletionChunk, has={
    "0.choices.0.delta.role": "assistant", "0.choices.0.delta.content": "$1\\, 2\\, 3$  \n\n**Подробный разбор:",
    "0.choices.0.finish_reason": None, "0.usage": None, "1.object_": "chat.completion", "1.choices.0.delta.role": None,
    "4.choices.0.finish_reason": "stop", "4.usage.total_tokens": 59})

case("embeddings", ["First text", "Second text"], sends="POST /embeddings",
     body={"input": ["First text", "Second text"], "model": "Embeddings"}, reply=EMBEDDINGS_2026, kind=Embeddings,
     has={"object_": "list", "model": "Embeddings", "data.0.embedding": [0.34342318773269653, -1.0], "data.1.index": 1,
          "data.1.object": "embedding", "data.1.object_": "embedding", "data.1.usage.prompt_tokens": 7})
case("embeddings", "текст", "EmbeddingsGigaR", sends="POST /embeddings",
     body={"input": ["текст"], "model": "EmbeddingsGigaR"}, reply=EMBEDDINGS_2025, kind=Embeddings)
case("embeddings", texts=("a",), model="Embeddings-2", sends="POST /embeddings",
     body={"input": ["a"], "model": "Embeddings-2"}, reply=EMBEDDINGS_2025, kind=Embeddings)
case("tokens_count", ["First text", "Second text"], sends="POST /tokens/count",
     body={"model": "GigaChat", "input": ["First text", "Second text"]}, reply=TOKENS, kind=TokensCount,
     has={"0.tokens": 2, "1.characters": 11, "1.object": "tokens", "1.object_": "tokens"})
case("tokens_count", input_="First text", model="GigaChat-2-Pro", sends="POST /tokens/count",
     body={"model": "GigaChat-2-Pro", "input": ["First text"]}, reply=TOKENS, kind=TokensCount)

case("upload_file", ("notes.txt", b"Hello", "text/plain"), sends="POST /files",
     body=b'--BOUNDARY\r\nContent-Disposition: form-data; name="purpose"\r\n\r\ngeneral\r\n--BOUNDARY\r\n'
          b'Content-Disposition: form-data; name="file"; filename="notes.txt"\r\nContent-Type: text/plain\r\n\r\n'
          b"Hello\r\n--BOUNDARY--\r\n",
     reply=FILE, kind=UploadedFile, has={
    "id": "c757a9c5-de04-498f-baa3-efcc54de7853", "id_": "c757a9c5-de04-498f-baa3-efcc54de7853", "object": "file",
    "object_": "file", "bytes": 42966, "bytes_": 42966, "created_at": 1715768909, "filename": "image.jpg",
    "purpose": "general", "access_policy": "private", "modalities": None})
case("upload_file", file=("a.pdf", b"%PDF"), purpose="assistant", sends="POST /files",
     body=b'--BOUNDARY\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistant\r\n--BOUNDARY\r\n'
          b'Content-Disposition: form-data; name="file"; filename="a.pdf"\r\nContent-Type: application/pdf\r\n\r\n'
          b"%PDF\r\n--BOUNDARY--\r\n",
     reply=FILE_2024, kind=UploadedFile, has={"access_policy": None, "filename": "имя.txt"})
case("get_file", "f-1", sends="GET /files/f-1", reply=FILE, kind=UploadedFile)
case("get_file", file="f-1", sends="GET /files/f-1", reply=FILE_2024, kind=UploadedFile)
case("get_files", sends="GET /files", reply=FILES, kind=UploadedFiles, has={
    "data.0.bytes_": 42966, "data.1.modalities": ["image"], "data.1.access_policy": None})
case("get_files", sends="GET /files", reply='{"data":[]}', kind=UploadedFiles, has={"data": []})
case("delete_file", "f-1", sends="POST /files/f-1/delete",
     body=b'--BOUNDARY\r\nContent-Disposition: form-data; name="file"; filename="upload"\r\n'
          b"Content-Type: application/octet-stream\r\n\r\nf-1\r\n--BOUNDARY--\r\n",
     reply=DELETED, kind=DeletedFile, has={"id_": "c757a9c5-de04-498f-baa3-efcc54de7853", "deleted": True,
                                           "access_policy": "private"})
case("delete_file", file="f-1", sends="POST /files/f-1/delete", body=NOTHING,
     reply='{"id":"f-1","deleted":true,"object":"file"}', kind=DeletedFile,
     has={"object": "file", "access_policy": None})
case("get_image", "f-1", sends="GET /files/f-1/content", headers={"Accept": "application/jpg"}, reply=JPEG, kind=Image,
     gives={"content": base64.b64encode(JPEG).decode()})
case("get_image", file_id="f-1", sends="GET /files/f-1/content", headers={"Accept": "application/jpg"}, reply=b"",
     kind=Image, gives={"content": ""})
case("download_file", "f-1", sends="GET /files/f-1/content", reply=JPEG, gives=JPEG)
case("download_file", file_id="f-1", to=None, sends="GET /files/f-1/content", reply=b"", gives=b"")

case("get_balance", sends="GET /balance", reply=BALANCE, kind=Balance, has={
    "balance.0.usage": "GigaChat", "balance.0.value": 900000, "balance.1.value": 10000000.5})
case("check_ai", "Первый спутник", "GigaCheckDetection", sends="POST /ai/check",
     body={"input": "Первый спутник", "model": "GigaCheckDetection"}, reply=AI_CHECK, kind=AICheckResult, has={
    "category": "mixed", "characters": 533, "tokens": 224, "ai_intervals": [[1, 262], [415, 533]]})
case("check_ai", text="t", model="m", sends="POST /ai/check", body={"input": "t", "model": "m"},
     reply='{"category":"human","characters":1,"tokens":1,"ai_intervals":[]}', kind=AICheckResult)
case("openapi_function_convert", OPENAPI, sends="POST /functions/convert", body=OPENAPI.encode(), reply=CONVERTED,
     kind=OpenApiFunctions, has={
    "functions.0.name": "send_sms", "functions.0.parameters.type_": "object",
    "functions.0.parameters.properties.text.type": "string", "functions.0.parameters.properties.text.type_": "string",
    "functions.0.parameters.properties.text.minLength": 1, "functions.0.parameters.required": ["text"],
    "functions.0.return_parameters": {"type": "object", "properties": {"status": {"type": "boolean"}}},
    "functions.0.few_shot_examples": None})
case("openapi_function_convert", openapi_function=OPENAPI, sends="POST /functions/convert", body=OPENAPI.encode(),
     reply='{"functions":[]}', kind=OpenApiFunctions)
case("validate_function", {"name": "f", "parameters": {}, "description": None}, sends="POST /functions/validate",
     body={"name": "f", "parameters": {}, "description": None}, reply=WRONG_FUNCTION, kind=FunctionValidation, has={
    "valid": False, "status": 200, "message": "Incorrect function syntax", "json_ai_rules_version": "1.0.5",
    "errors.2": FunctionRemark("Value is null but should be string", "#/properties/type"), "warnings": []},
     )
case("validate_function", function=Function(
        name="f", parameters=FunctionParameters(properties={"a": FunctionParametersProperty(type="string")})),
     sends="POST /functions/validate",
     body={"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}},
     reply=VALID_FUNCTION, kind=FunctionValidation, has={
    "valid": True, "errors": [], "warnings.0.description": "Value is null but should be object",
    "warnings.1.schema_location": "#/properties/few_shot_examples"})
case("check_filter", "текст", sends="POST /filter/check",
     body={"model": "GigaFilter", "messages": [question("текст")]}, reply=FILTERED, kind=FilterCheck,
     has={"is_profane": False, "usage.filter_tokens": 12})
case("check_filter", messages=[question("q", attachments=["f-1"]), Messages("assistant", "a")], model="GigaFilter-2",
     functions=[{"name": "f"}], neuro=True, blacklist=False, whitelist=True, unnormalized_history=False,
     sends="POST /filter/check",
     body={"model": "GigaFilter-2", "functions": [{"name": "f"}],
           "messages": [question("q", attachments=["f-1"]), {"role": "assistant", "content": "a"}],
           "settings": {"neuro": True, "blacklist": False, "whitelist": True, "unnormalized_history": False}},
     reply='{"is_profane":true}', kind=FilterCheck, has={"is_profane": True, "usage": None})

JSONL = {"Content-Type": "application/octet-stream"}
case("create_batch", ["один", {"messages": [question("два")], "model": "GigaChat-2"}], headers=JSONL,
     sends="POST /batches?method=chat_completions",
     body=[{"id": "0", "request": asked(question("один"))},
           {"id": "1", "request": {"model": "GigaChat-2", "messages": [question("два")]}}],
     reply=BATCH, kind=Batch, has={
    "id": "b-1", "id_": "b-1", "method": "chat_completions", "status": "created", "request_counts.total": 2,
    "request_counts.completed": 0, "output_file_id": None, "created_at": 1764240000})
case("create_batch", requests=[{"model": "Embeddings", "input": ["a"]}], method="embedder", headers=JSONL,
     sends="POST /batches?method=embedder", body=[{"id": "0", "request": {"model": "Embeddings", "input": ["a"]}}],
     reply=BATCH, kind=Batch)
case("create_batch", b'{"id": "x", "request": {}}\n\n', headers=JSONL, sends="POST /batches?method=chat_completions",
     body=b'{"id": "x", "request": {}}\n\n', reply=BATCH, kind=Batch)
case("get_batches", sends="GET /batches", reply='{"batches":[' + BATCH + "," + DONE_BATCH + "]}", kind=Batch,
     gives=[json.loads(BATCH), json.loads(DONE_BATCH)], has={
    "0.status": "created", "1.id_": "b-2", "1.output_file_id": "out/put",
    "1.request_counts": BatchRequestCounts(3, 2, 1)})
case("get_batches", sends="GET /batches", reply="[" + BATCH + "]", kind=Batch, gives=[json.loads(BATCH)])
case("get_batches", sends="GET /batches", reply=BATCH, kind=Batch, gives=[json.loads(BATCH)])
case("get_batches", sends="GET /batches", reply='{"batches":[]}', kind=Batch, gives=[])
case("get_batches", sends="GET /batches", reply="[]", kind=Batch, gives=[])
case("get_batch", "b-2", sends="GET /batches?batch_id=b-2", reply='{"batches":[' + DONE_BATCH + "]}", kind=Batch,
     gives=json.loads(DONE_BATCH))
case("get_batch", "b-2", sends="GET /batches?batch_id=b-2", reply="[" + BATCH + "," + DONE_BATCH + "]", kind=Batch,
     gives=json.loads(DONE_BATCH))
case("get_batch", batch_id="b-2", sends="GET /batches?batch_id=b-2", reply=DONE_BATCH, kind=Batch,
     gives=json.loads(DONE_BATCH))
case("batch_results", Batch.from_dict(json.loads(DONE_BATCH)), sends="GET /files/out%2Fput/content",
     reply=RESULTS.encode(), kind=BatchResult, gives=[json.loads(line) for line in RESULTS.split("\n")], has={
    "0.id": "1", "0.id_": "1", "0.error": {"status": 400, "message": "Your request contains invalid JSON syntax."},
    "0.result": None, "1.id_": "0", "1.result": json.loads(HELLO), "1.error": None})
case("batch_results", batch=Batch(id="b", output_file_id="o"), sends="GET /files/o/content", kind=BatchResult,
     reply=b'\n{"id":"a"}\r\n\n{"id":"b"}\n', gives=[{"id": "a"}, {"id": "b"}])
case("batch_results", Batch(id="b", output_file_id="o"), sends="GET /files/o/content", reply=b"", gives=[])

case("assistants.get", sends="GET /assistants", reply='{"data":[' + ASSISTANT + "," + FULL_ASSISTANT + "]}",
     kind=Assistants, has={
    "data.0.assistant_id": "111", "data.0.created_at": 1715684019, "data.0.name": "lonely",
    "data.0.instructions": "Assistant", "data.0.model": "GigaChat-Pro", "data.0.updated_at": 1715684019,
    "data.0.metadata": {"test": 234}, "data.0.file_ids": ["222"], "data.0.files": None, "data.0.functions": None,
    "data.1.files": [AssistantAttachment("222", "a.txt")], "data.1.threads_count": 3, "data.1.description": "d",
    "data.1.functions.0.parameters.properties.to.type_": "string"})
case("assistants.get", "1/1", sends="GET /assistants?assistant_id=1%2F1", reply='{"data":[]}', kind=Assistants)
case("assistants.get", assistant_id="111", sends="GET /assistants?assistant_id=111",
     reply='{"data":[' + ASSISTANT + "]}", kind=Assistants)
NO_DETAILS = {"description": None, "instructions": None, "file_ids": None, "metadata": None}
CREATED = '{"assistant_id":"111","created_at":1715684019}'
case("assistants.create", "GigaChat-Pro", "helper", "Assistant", sends="POST /assistants",
     body={**NO_DETAILS, "model": "GigaChat-Pro", "name": "helper", "instructions": "Assistant"}, reply=CREATED,
     kind=CreateAssistant, has={"assistant_id": "111", "created_at": 1715684019})
case("assistants.create", "m", "n", instructions="i", description="d", file_ids=["f"],
     functions=[Function(name="g", parameters=FunctionParameters(properties={}))], metadata={"k": None},
     sends="POST /assistants",
     body={"model": "m", "name": "n", "instructions": "i", "description": "d", "file_ids": ["f"],
           "functions": [{"name": "g", "parameters": {"type": "object", "properties": {}}}], "metadata": {"k": None}},
     reply=CREATED, kind=CreateAssistant)
case("assistants.update", "111", sends="POST /assistants/modify",
     body={**NO_DETAILS, "assistant_id": "111", "name": None}, reply=ASSISTANT, kind=Assistant)
case("assistants.update", "111", "n", "d", "i", ["f"], [], {"a": 1}, sends="POST /assistants/modify",
     body={"assistant_id": "111", "name": "n", "description": "d", "instructions": "i", "file_ids": ["f"],
           "functions": [], "metadata": {"a": 1}},
     reply=FULL_ASSISTANT, kind=Assistant)
case("assistants.delete", "111", sends="POST /assistants/delete", body={"assistant_id": "111"},
     reply='{"assistant_id":"111","deleted":true}', kind=AssistantDelete, has={"deleted": True})
case("assistants.delete_file", "111", "222", sends="POST /assistants/files/delete",
     body={"assistant_id": "111", "file_id": "222"}, reply='{"file_id":"222","deleted":true}',
     kind=AssistantFileDelete, has={"file_id": "222", "deleted": True})

THREADS = '{"threads":[' + THREAD + "]}"
case("threads.list", sends="GET /threads", reply=THREADS, kind=Threads, has={
    "threads.0.id": "2cc91bae-34f7-4ee4-bcae-f5f71880deda", "threads.0.id_": "2cc91bae-34f7-4ee4-bcae-f5f71880deda",
    "threads.0.status": ThreadStatus.READY, "threads.0.run_lock": False, "threads.0.assistant_id": None,
    "threads.0.created_at": 1715684634, "threads.0.updated_at": 1715684764})
case("threads.list", ["a", "b&c"], 1, 1715684634, reply=THREADS, kind=Threads,
     sends="GET /threads?assistants_ids=a&assistants_ids=b%26c&limit=1&before=1715684634")
case("threads.list", assistants_ids=[], limit=0, before=0, sends="GET /threads", reply='{"threads":[]}', kind=Threads)
case("threads.get_threads", limit=2, sends="GET /threads?limit=2", reply=THREADS, kind=Threads)
case("threads.create", sends="POST /threads", body={}, reply=THREAD, kind=Thread)
case("threads.create_thread", sends="POST /threads", body={}, reply=THREAD,
     gives="2cc91bae-34f7-4ee4-bcae-f5f71880deda")
case("threads.retrieve", ["t-1"], sends="POST /threads/retrieve", body={"threads_ids": ["t-1"]}, reply=THREADS,
     kind=Threads)
case("threads.delete", "t-1", sends="POST /threads/delete", body={"thread_id": "t-1"}, reply=b"", gives=True)
case("threads.get_messages", "t-1", sends="GET /threads/messages?thread_id=t-1", reply=MESSAGES, kind=ThreadMessages,
     has={"thread_id": "t-1", "messages.0.message_id": "m-1", "messages.0.role": "user",
          "messages.0.attachments.0.file_id": "f-1", "messages.0.attachments.0.name": "a.jpg",
          "messages.0.model": "GigaChat-Pro", "messages.1.attachments": [], "messages.1.model": None,
          "messages.1.function_call.arguments": {"a": 1}, "messages.1.finish_reason": "function_call"})
case("threads.get_messages", "t-1", limit=2, before=3, sends="GET /threads/messages?thread_id=t-1&limit=2&before=3",
     reply=MESSAGES, kind=ThreadMessages)
IN_THREAD = {"thread_id": "t-1", "model": None, "assistant_id": None}
case("threads.add_message", "t-1", "q", sends="POST /threads/messages",
     body={**IN_THREAD, "messages": [with_nulls("q")]}, reply=ADDED, kind=ThreadMessagesResponse, has={
    "thread_id": "t-1", "messages": [ThreadMessageResponse(message_id="m-1", created_at=1715684634)]})
case("threads.add_messages", messages=["q", question("z", attachments=["f-1"]), Messages(role="user", content="w")],
     sends="POST /threads/messages",
     body={**IN_THREAD, "thread_id": None,
           "messages": [with_nulls("q"), with_nulls("z", attachments=["f-1"]), with_nulls("w")]},
     reply=ADDED, kind=ThreadMessagesResponse)
case("threads.add_messages", "t-1", sends="POST /threads/messages", body={**IN_THREAD, "messages": []}, reply=ADDED,
     kind=ThreadMessagesResponse)
OPTIONS = ThreadRunOptions(
    temperature=0.3, top_p=0.1, limit=3, max_tokens=4, repetition_penalty=1.5, profanity_check=False, flags=["a"],
    function_call="auto", functions=[Function(name="g")],
)
SENT_OPTIONS = {
    "temperature": 0.3, "top_p": 0.1, "limit": 3, "max_tokens": 4, "repetition_penalty": 1.5, "profanity_check": False,
    "flags": ["a"], "function_call": "auto", "functions": [{"name": "g"}],
}
case("threads.run", "t-1", sends="POST /threads/run", body={"thread_id": "t-1", "assistant_id": None}, reply=STARTED,
     kind=ThreadRunResponse, has={"status": ThreadStatus.IN_PROGRESS, "thread_id": "t-1", "created_at": 1715684634},
     )
case("threads.run", "t-1", "111", OPTIONS, sends="POST /threads/run",
     body={"thread_id": "t-1", "assistant_id": "111", **SENT_OPTIONS}, reply=STARTED,
     kind=ThreadRunResponse)
case("threads.run_stream", "t-1", thread_options=ThreadRunOptions(limit=1), sends="POST /threads/run",
     body={"thread_id": "t-1", "assistant_id": None, "limit": 1, "stream": True}, reply=THREAD_EVENTS,
     kind=ThreadCompletionChunk, has={
    "0.choices.0.delta.role": "assistant", "0.usage.prompt_tokens": 12, "1.choices.0.finish_reason": "stop",
    "1.thread_id": "9b1cc6d9-0eeb-46de-b01f-6f74c9a82df7", "1.message_id": "fd753d3f-f1f5-498f-b5dd-da380607d470",
    "1.object_": "threads.messages.run"})
case("threads.get_run", "t-1", sends="GET /threads/run?thread_id=t-1", reply=RUN, kind=ThreadRunResult, has={
    "status": ThreadStatus.READY, "updated_at": 1715684764, "model": "GigaChat-Pro:2.2.25.3", "messages": [
        ThreadMessage(message_id="m-2", role="assistant", content="Привет", created_at=1715684764,
                      finish_reason="stop")]})
case("threads.get_run", thread_id="t-1", sends="GET /threads/run?thread_id=t-1", kind=ThreadRunResult,
     reply='{"status":"in_progress","thread_id":"t-1","updated_at":1,"model":"m"}', has={"messages": None})
case("threads.run_messages", ["Привет"], model="GigaChat-Pro", sends="POST /threads/messages/run",
     body={"thread_id": None, "assistant_id": None, "model": "GigaChat-Pro", "messages": [question("Привет")]},
     reply=THREAD_ANSWER, kind=ThreadCompletion, has={
    "object": "threads.messages.run", "object_": "threads.messages.run", "model": "GigaChat-Pro:2.2.25.3",
    "message.content": "Здравствуйте! ...", "message.role": MessagesRole.ASSISTANT, "finish_reason": "stop",
    "usage.total_tokens": 27, "created": 1715686918, "message_id": "4c600221-1aaa-4c9d-9edb-572e465f4ee8"},
     )
case("threads.run_messages", [question("q"), Messages(role="user", content="w")], "t-1", "111", "ignored", OPTIONS,
     sends="POST /threads/messages/run",
     body={"thread_id": "t-1", "assistant_id": "111", "model": None, "messages": [question("q"), question("w")],
           **SENT_OPTIONS},
     reply=THREAD_ANSWER, kind=ThreadCompletion)
case("threads.run_messages_stream", ["q"], update_interval=2, sends="POST /threads/messages/run",
     body={"thread_id": None, "assistant_id": None, "model": None, "messages": [question("q")], "stream": True,
           "update_interval": 2},
     reply=THREAD_EVENTS, kind=ThreadCompletionChunk)
case("threads.rerun_messages", "t-1", OPTIONS, sends="POST /threads/messages/rerun",
     body={"thread_id": "t-1", **SENT_OPTIONS}, reply=THREAD_ANSWER, kind=ThreadCompletion)
case("threads.rerun_messages_stream", thread_id="t-1", sends="POST /threads/messages/rerun",
     body={"thread_id": "t-1", "stream": True, "update_interval": None}, reply=THREAD_EVENTS,
     kind=ThreadCompletionChunk)

# fmt: on


# ---------- the tests


@pytest.fixture
def scripted(plain_server):
    with raw_client(plain_server) as client:
        yield plain_server, client


def at(value: Any, path: str) -> Any:
    """Follow *path*: attributes, places in lists, keys of dicts of models."""
    for step in path.split("."):
        value = value[int(step)] if step.isdigit() else value[step] if isinstance(value, dict) else getattr(value, step)
    return value


def models_in(value: Any) -> List[JSONObject]:
    """List a result's models, nested ones too."""
    if isinstance(value, JSONObject):
        return [value] + [model for part in vars(value).values() for model in models_in(part)]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [model for part in parts for model in models_in(part)]


def recorded(row: Case) -> Any:
    """What ``to_dict()`` is to give: what the service sent, or what the row says."""
    if row.gives is not NOTHING:
        return row.gives
    assert isinstance(row.reply, str)
    if row.reply.startswith("data: "):
        return [json.loads(line[6:]) for line in row.reply.split("\n") if line.startswith("data: {")]
    return json.loads(row.reply)


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.to_dict() if isinstance(value, JSONObject) else value


def sent_body(row: Case, request: Any) -> Any:
    """The body that a row expects, as bytes or JSON, beside the one that came."""
    kind = request.headers.get("Content-Type")
    if isinstance(row.body, bytes) and BOUNDARY in row.body:
        boundary = re.match(r"multipart/form-data; boundary=([0-9a-f]{32})\Z", kind).group(1).encode()
        return row.body.replace(BOUNDARY, boundary), request.body
    if row.headers == JSONL and isinstance(row.body, list):
        assert request.body.endswith(b"}\n")
        return row.body, [json.loads(line) for line in request.body.split(b"\n")[:-1]]
    if row.body is None or isinstance(row.body, bytes):
        assert kind == row.headers.get("Content-Type")
        return row.body or b"", request.body
    assert kind == "application/json"
    return row.body, json.loads(request.body)


def play(server: LocalServer, row: Case) -> None:
    target = row.request.partition(" ")[2]
    data = row.reply.encode() if isinstance(row.reply, str) else row.reply
    is_stream = data.startswith(b"data: ")
    headers = {"X-Request-Id": "r-1", "X-Session-Id": "s-1"}
    if is_stream:
        headers.update({"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
    server.answer_next(target.partition("?")[0], 200, data, headers)


@pytest.mark.parametrize("row", CASES, ids=lambda row: f"{row.method}-{CASES.index(row)}")
def test_endpoint(scripted, call, row):
    """A call sends exactly this request and gives exactly what the service answered."""
    server, client = scripted
    play(server, row)
    result = call(client, row.method, *row.arguments, **row.named)

    (request,) = server.requests
    method, _, target = row.request.partition(" ")
    assert (request.method, request.path + "?" * bool(request.query) + request.query) == (method, "/api/v1" + target)
    assert request.headers["Authorization"] == "Bearer token"
    assert {name: request.headers.get(name) for name in ("Accept", "Cache-Control")} == {
        "Accept": row.headers.get("Accept", "*/*"),
        "Cache-Control": row.headers.get("Cache-Control"),
    }
    if row.body is not NOTHING:
        expected, came = sent_body(row, request)
        assert came == expected
    assert request.headers.get("Content-Length") == (str(len(request.body)) if method == "POST" else None)

    assert plain(result) == recorded(row)
    for path, value in row.has.items():
        assert at(result, path) == value, path
    answers = result if isinstance(result, list) else [result]
    if row.kind is not None:
        assert all(type(answer) is row.kind for answer in answers)
        expected_ids = {"x-request-id": "r-1", "x-session-id": "s-1", "x-client-id": None}
        if row.method not in ("tokens_count", "get_batches", "get_batch"):
            assert all(answer.x_headers == expected_ids for answer in answers)
    for model in models_in(result):
        for field in {"id", "object", "type", "bytes"} & set(type(model).__dataclass_fields__):
            assert getattr(model, field + "_") == getattr(model, field), "the official SDK's spelling"


def test_the_table_is_whole():
    """Every public method of the client is in the table, and has an async twin."""
    apart = {
        "close",
        "aclose",
        "token",
        "get_token",
        "aget_token",
        "assistants",
        "threads",
        "a_assistants",
        "a_threads",
        "chat_parse",  # these four: test_schemas_and_tools.py
        "achat_parse",
        "run_tools",
        "arun_tools",
        "with_options",  # test_calls.py
    }
    groups = {"assistants.": gigachat_lite.AssistantsSyncClient, "threads.": gigachat_lite.ThreadsSyncClient}
    grouped = {prefix + name for prefix, group in groups.items() for name in public(group)}
    flat = public(gigachat_lite.GigaChatSyncClient) - apart
    assert flat | grouped == {row.method for row in CASES}
    assert public(gigachat_lite.GigaChatAsyncClient) - apart == {"a" + name for name in flat}
    assert public(gigachat_lite.AssistantsAsyncClient) == public(gigachat_lite.AssistantsSyncClient)
    assert public(gigachat_lite.ThreadsAsyncClient) == public(gigachat_lite.ThreadsSyncClient)


def public(owner: type) -> Set[str]:
    return {name for name in dir(owner) if not name.startswith("_")}


ARGUMENTS_AGAINST_NOTHING = [
    ("get_model", ("",), ValueError),
    ("get_file", ("",), ValueError),
    ("delete_file", ("",), ValueError),
    ("get_image", ("",), ValueError),
    ("download_file", ("",), ValueError),
    ("get_file", (None,), ValueError),
    ("embeddings", (b"bytes",), TypeError),
    ("embeddings", (["a", None],), TypeError),
    ("tokens_count", ({"a": 1},), TypeError),
    ("create_batch", ([],), TypeError),
    ("create_batch", ({"messages": []},), TypeError),
    ("create_batch", ("/no/such/file.jsonl",), FileNotFoundError),
    ("batch_results", (Batch(id="b-1", status="in_progress"),), ValueError),
    ("chat", (7,), TypeError),
    ("chat", ([7],), TypeError),
    ("chat", ({"messages": [], "temperature": float("nan")},), ValueError),
    ("validate_function", ({"name": "f", "parameters": {1, 2}},), TypeError),
    ("validate_function", ("f",), TypeError),
    ("openapi_function_convert", (5,), TypeError),
    ("openapi_function_convert", (b"openapi: 3.0.0",), TypeError),
    ("get_batch", (None,), ValueError),
    ("get_batch", ("",), ValueError),
    ("threads.get_run", (None,), ValueError),
    ("threads.get_messages", ("",), ValueError),
    ("threads.add_message", ("t-1", 7), TypeError),
    ("threads.run_messages", (None,), TypeError),
]


@pytest.mark.parametrize(("method", "arguments", "error"), ARGUMENTS_AGAINST_NOTHING)
def test_wrong_arguments(scripted, call, method, arguments, error):
    """Arguments that no request can be made of raise TypeError or ValueError before anything is sent."""
    server, client = scripted
    with pytest.raises(error):
        call(client, method, *arguments)
    assert not server.requests


@pytest.mark.parametrize("method", ["chat", "stream", "chat.create", "chat.stream"])
def test_options_belong_into_the_payload(scripted, call, method):
    """An option beside the payload is answered with the way to write it."""
    server, client = scripted
    with pytest.raises(TypeError, match=r"temperature belongs in the payload: \{'messages': \[...\], 'temperature'"):
        call(client, method, "x", temperature=0.5)
    assert not server.requests


NO_ANSWERS = [
    ("get_models", (), "[]"),
    ("get_models", (), '{"object":"list"}'),
    ("get_models", (), '{"data":{}}'),
    ("get_models", (), '{"data":["GigaChat"]}'),
    ("get_model", ("m",), '{"object":"model"}'),
    ("chat", ("hi",), '{"choices":null}'),
    ("embeddings", ("a",), '{"data":null}'),
    ("tokens_count", ("a",), "{}"),
    ("tokens_count", ("a",), "[1]"),
    ("get_file", ("f",), "null"),
    ("get_balance", (), "<html>"),
    ("get_balance", (), ""),
    ("get_batches", (), '[{"status":"created"}]'),
    ("get_batch", ("b-2",), '{"batches":[' + BATCH + "]}"),
    ("get_batch", ("b-2",), BATCH),
    ("get_batch", ("b-2",), '{"batches":[]}'),
    ("batch_results", (Batch(id="b", output_file_id="o"),), '{"result":{}}'),
    ("batch_results", (Batch(id="b", output_file_id="o"),), '{"id":"0"}\n{"id":'),
    ("validate_function", ({"name": "f"},), '{"status":200}'),
    ("threads.list", (), '{"data":[]}'),
    ("threads.create_thread", (), '{"assistant_id":"t"}'),
    ("threads.run_messages", (["q"],), '{"choices":[]}'),
    ("assistants.create", ("m", "n"), '{"created_at":1}'),
]


@pytest.mark.parametrize(("method", "arguments", "reply"), NO_ANSWERS)
def test_answers_that_are_none(scripted, call, method, arguments, reply):
    """An answer of status 200 that lacks what the call is for is an InvalidResponseError that names the request."""
    server, client = scripted
    server.answer_next("/api/v1", 200, reply.encode())
    with pytest.raises(InvalidResponseError) as raised:
        call(client, method, *arguments)
    (request,) = server.requests
    assert f"{request.method} {request.path[len('/api/v1') :]}" in str(raised.value).replace("%2F", "/")


def test_more_than_the_table_says(scripted, call):
    """Fields that no class knows are attributes, on every level, and come back."""
    server, client = scripted
    reply = {"data": [{"id": "m", "новое": {"a": [None]}, "type": None}], "object": "list", "next": "page"}
    server.answer_next("/models", 200, reply)
    models = call(client, "get_models")
    assert models.next == "page"
    assert models.data[0].новое == {"a": [None]}
    assert models.to_dict() == reply


def test_results_come_one_by_one(scripted):
    """batch_results() gives a result as soon as its line is there, and frees the connection when it is closed."""
    server, client = scripted
    server.answer_next("/content", 200, RESULTS.encode(), times=2)
    before = server.connections
    with client.batch_results(Batch(id="b", output_file_id="o")) as results:
        assert next(results).id == "1"
    assert [result.id for result in client.batch_results(Batch(id="b", output_file_id="o"))] == ["1", "0"]
    assert server.connections - before <= 2


def test_batch_of_a_file(scripted, call, tmp_path):
    """create_batch() takes the path of a JSON Lines file, as text or PathLike, and sends it as it is."""
    server, client = scripted
    path = tmp_path / "запросы.jsonl"
    path.write_bytes('{"id": "я", "request": {}}\r\n'.encode())
    server.answer_next("/batches", 200, json.loads(BATCH), times=2)
    assert call(client, "create_batch", path).id == call(client, "create_batch", str(path)).id == "b-1"
    assert [request.body for request in server.requests] == [path.read_bytes()] * 2


def test_batches_follow_the_settings(plain_server, call):
    """Payloads of a batch get what chat() would add: the client's model, flags and profanity_check, and no stream."""
    plain_server.answer_next("/batches", 200, json.loads(BATCH))
    options = {"model": "GigaChat-2-Max", "flags": ["x"], "profanity_check": False}
    with GigaChat(base_url=plain_server.base_url, access_token="token", **options) as client:
        call(client, "create_batch", ["привет"])
    line = json.loads(plain_server.requests[-1].body)
    assert line == {"id": "0", "request": {**options, "messages": [question("привет")]}}


def test_tokens_are_counted_for_the_model_of_the_client(plain_server, call):
    """tokens_count() without a model counts for the client's."""
    plain_server.answer_next("/tokens/count", 200, json.loads(TOKENS))
    with GigaChat(base_url=plain_server.base_url, access_token="token", model="GigaChat-2-Max") as client:
        call(client, "tokens_count", ["a"])
    assert json.loads(plain_server.requests[-1].body) == {"model": "GigaChat-2-Max", "input": ["a"]}
