"""What the local server does, seen through the client: state, rights, round trips; and the server as a program."""

import contextlib
import http.client
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from conftest import CERTS
from local_server import LocalServer

from gigachat_lite import (
    BadRequestError,
    ForbiddenError,
    GigaChat,
    Messages,
    MessagesRole,
    NotFoundError,
    ResponseError,
    ThreadRunOptions,
    ThreadStatus,
    UnprocessableEntityError,
    client_id_cvar,
    file_ids,
    session_id_cvar,
)

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CORP = "GIGACHAT_API_CORP"


@pytest.fixture(scope="module")
def shared_server():
    with LocalServer() as server:
        yield server


@pytest.fixture
def plain(shared_server):
    """A client of a server whose state is new."""
    shared_server.reset()
    with GigaChat(base_url=shared_server.base_url, access_token=shared_server.issue_token(), timeout=20) as client:
        yield client


@pytest.fixture
def corporate(shared_server):
    """As plain, for a pay-as-you-go legal entity."""
    shared_server.reset()
    token = shared_server.issue_token(CORP)
    with GigaChat(base_url=shared_server.base_url, access_token=token, timeout=20) as client:
        yield client


def said(answer):
    return answer.choices[0].message.content


# ---------- pictures and files


def test_vision(plain, call):
    """An image that was uploaded, and is named in attachments, is what the answer is about."""
    picture = call(plain, "upload_file", ("слон.png", b"\x89PNG" + bytes(96), "image/png"))
    assert picture.modalities == ["image"]
    question = Messages(role=MessagesRole.USER, content="Что на картинке?", attachments=[picture.id])
    for payload in ({"messages": [question]}, [question], {"messages": [question.to_dict()]}):
        assert "Приложен файл слон.png (image/png, 100 байт)" in said(call(plain, "chat", payload))
    chunks = call(plain, "stream", [question])
    text = "".join(chunk.choices[0].delta.content for chunk in chunks)
    assert "слон.png (image/png, 100 байт)" in text


def test_attachment_that_is_not_there(plain, call):
    """A file id that nobody stored is a NotFoundError."""
    with pytest.raises(NotFoundError, match="No such file"):
        call(plain, "chat", [{"role": "user", "content": "Что на фото?", "attachments": ["no-such-id"]}])


def test_text_attachment(plain, call):
    """The answer quotes a text file that is attached."""
    story = call(plain, "upload_file", ("story.txt", b"In a hole in the ground there lived a hobbit."))
    answer = call(plain, "chat", [{"role": "user", "content": "Who lives there?", "attachments": [story.id]}])
    assert "there lived a hobbit" in said(answer)


def test_generated_picture(plain, call):
    """A picture in an answer is a file: file_ids() finds it, and it can be downloaded under the same X-Client-ID."""
    client_id_cvar.set("artist")
    answer = call(plain, "chat", {"messages": ["Нарисуй розового слона"], "function_call": "auto"})
    assert answer.choices[0].finish_reason == "stop"
    (file_id,) = file_ids(answer)
    assert file_ids(answer.choices[0].message) == file_ids(said(answer)) == [file_id]
    content = call(plain, "download_file", file_id)
    assert content.startswith(b"\xff\xd8")
    assert content.endswith(b"\xff\xd9")
    assert "Нарисуй розового слона".encode() in content
    client_id_cvar.set(None)
    with pytest.raises(ForbiddenError):
        call(plain, "download_file", file_id)


# ---------- embeddings and tokens


@pytest.mark.parametrize(
    ("model", "size"),
    [("Embeddings", 1024), ("Embeddings-2", 1024), ("EmbeddingsGigaR", 2560), ("GigaEmbeddings-3B-2025-09", 2048)],
)
def test_embeddings(plain, call, model, size):
    """Vectors have the documented size and length 1, are the same every time, and near for texts that share words."""
    texts = ["Кошка спит на диване", "На диване спит рыжая кошка", "Биржевые котировки упали", ""]
    found = call(plain, "embeddings", texts, model)
    assert [item.index for item in found.data] == [0, 1, 2, 3]
    vectors = [item.embedding for item in found.data]
    assert {len(vector) for vector in vectors} == {size}
    assert all(math.isclose(sum(value * value for value in vector), 1) for vector in vectors)

    def nearness(one, other):
        return sum(left * right for left, right in zip(vectors[one], vectors[other]))

    assert nearness(0, 1) > 0.5 > nearness(0, 2) + 0.2
    assert call(plain, "embeddings", texts[0], model).data[0].embedding == vectors[0]
    counts = call(plain, "tokens_count", texts)
    assert [item.usage.prompt_tokens for item in found.data] == [count.tokens for count in counts]


def test_tokens_agree_with_usage(plain, call):
    """usage counts what tokens_count() counts; precached tokens are what the session's last request began with."""
    texts = ["Ты — эксперт.", "Сколько будет 2+2?"]
    messages = [{"role": "system", "content": texts[0]}, {"role": "user", "content": texts[1]}]
    session_id_cvar.set("session-1")
    answer = call(plain, "chat", messages)
    assert answer.x_headers["x-session-id"] == "session-1"
    counts = call(plain, "tokens_count", [*texts, said(answer)])
    assert [count.characters for count in counts] == [len(text) for text in [*texts, said(answer)]]
    usage = answer.usage
    assert usage.prompt_tokens == counts[0].tokens + counts[1].tokens
    assert usage.completion_tokens == counts[2].tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.precached_prompt_tokens == 0
    again = call(plain, "chat", [*messages, answer.choices[0].message, "А 3+3?"])
    assert again.usage.precached_prompt_tokens == usage.prompt_tokens
    (last,) = [chunk.usage for chunk in call(plain, "stream", messages) if chunk.usage is not None]
    assert (last.prompt_tokens, last.completion_tokens) == (usage.prompt_tokens, usage.completion_tokens)


# ---------- functions

WEATHER = {
    "name": "weather_forecast",
    "description": "Возвращает температуру",
    "parameters": {
        "type": "object",
        "properties": {
            "location": {"type": "string"},
            "format": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "num_days": {"type": "integer", "minimum": 1},
        },
        "required": ["location"],
    },
}


@pytest.mark.parametrize("streamed", [False, True])
def test_function_round_trip(plain, call, streamed):
    """The model calls a function, gets its result in the answer's own words, and answers with it."""
    conversation = [Messages(role=MessagesRole.USER, content="Погода в Москве?")]
    payload = {"messages": conversation, "functions": [WEATHER], "function_call": "auto"}
    if streamed:
        chunks = call(plain, "stream", payload)
        assert chunks[-1].choices[0].finish_reason == "function_call"
        (asked,) = [chunk.choices[0].delta for chunk in chunks if chunk.choices[0].delta.function_call]
        message = Messages(
            role="assistant", function_call=asked.function_call, functions_state_id=asked.functions_state_id
        )
    else:
        choice = call(plain, "chat", payload).choices[0]
        assert choice.finish_reason == "function_call"
        message = choice.message
    assert message.function_call.name == "weather_forecast"
    assert message.function_call.arguments == {"format": "celsius", "location": "Погода в Москве?", "num_days": 1}
    assert message.functions_state_id
    result = json.dumps({"temperature": -7})
    conversation += [message, {"role": "function", "name": "weather_forecast", "content": result}]
    answer = call(plain, "chat", {**payload, "messages": conversation})
    assert 'Функция weather_forecast вернула {"temperature": -7}' in said(answer)
    assert answer.choices[0].finish_reason == "stop"
    with pytest.raises(UnprocessableEntityError, match="every assistant function call must have a result"):
        call(plain, "chat", {**payload, "messages": conversation[:-1]})
    with pytest.raises(BadRequestError, match="JSON parse error"):
        call(plain, "chat", {**payload, "messages": [*conversation[:-1], {**conversation[-1], "content": "тепло"}]})


def test_forced_function(plain, call):
    """A forced function keeps the arguments that are already known."""
    forced = {"name": "weather_forecast", "partial_arguments": {"location": "Омск"}}
    answer = call(plain, "chat", {"messages": ["Привет"], "functions": [WEATHER], "function_call": forced})
    assert answer.choices[0].message.function_call.arguments["location"] == "Омск"


def test_validate_function(plain, call):
    """Faults are found in the words of the service; what is only incomplete is valid, with warnings."""
    verdict = call(plain, "validate_function", {"name": "f", "parameters": {}})
    assert not verdict.valid
    assert verdict.message == "Incorrect function syntax"
    assert [(fault.description, fault.schema_location) for fault in verdict.errors] == [
        ("Required properties 'properties', 'type' are missing", "#/properties/parameters"),
        ("Properties 'type', 'properties' do not match their schemas", "#/properties/parameters"),
        ("Value is null but should be string", "#/properties/type"),
        ("Value should match one of the values specified by the enum", "#/properties/type"),
        ("Value is null but should be object", "#/properties/properties"),
    ]
    assert verdict.warnings == []
    verdict = call(plain, "validate_function", WEATHER)
    assert verdict.valid
    assert [remark.schema_location for remark in verdict.warnings] == [
        "#/properties/return_parameters",
        "#/properties/few_shot_examples",
    ]
    whole = {**WEATHER, "return_parameters": {"type": "object"}, "few_shot_examples": []}
    verdict = call(plain, "validate_function", whole)
    assert (verdict.valid, verdict.errors, verdict.warnings) == (True, [], [])
    assert not call(plain, "validate_function", {**WEATHER, "name": "7 погод"}).valid


def test_convert_and_call(plain, call):
    """Functions made of an OpenAPI document can be given to the model as they are."""
    properties = {"text": {"$ref": "#/components/schemas/Text"}, "urgent": {"type": "boolean"}}
    sms = {"type": "object", "properties": properties}
    done = {"type": "object", "properties": {"status": {"type": "boolean"}}}
    operation = {
        "operationId": "send_sms",
        "description": "Отправляет СМС",
        "requestBody": {"content": {"application/json": {"schema": {**sms, "required": ["text"]}}}},
        "responses": {"200": {"description": "Готово", "content": {"application/json": {"schema": done}}}},
    }
    schemas = {"Text": {"type": "string", "minLength": 1}}
    openapi = {"openapi": "3.0.0", "paths": {"/sms": {"post": operation}}, "components": {"schemas": schemas}}
    document = json.dumps(openapi)
    (function,) = call(plain, "openapi_function_convert", document).functions
    assert function.parameters.properties["text"].to_dict() == {"type": "string", "minLength": 1}
    assert function.parameters.required == ["text"]
    assert function.return_parameters == done
    assert call(plain, "validate_function", function).valid
    answer = call(plain, "chat", {"messages": ["send_sms: я опоздаю"], "functions": [function]})
    assert answer.choices[0].message.function_call.arguments == {"text": "send_sms: я опоздаю", "urgent": True}
    with pytest.raises(ResponseError, match="JSON only"):
        call(plain, "openapi_function_convert", "openapi: 3.0.0\npaths: {}\n")


# ---------- rights and checks


def test_rights(plain, shared_server, call):
    """Balance is for packages, batches and the AI detector for pay-as-you-go; the others get a ForbiddenError."""
    assert {item.usage for item in call(plain, "get_balance").balance} >= {"GigaChat", "embeddings"}
    for method, *arguments in (
        ("create_batch", ["привет"]),
        ("get_batches",),
        ("get_batch", "b"),
        ("check_ai", "текст", "GigaCheckDetection"),
    ):
        with pytest.raises(ForbiddenError, match="Permission denied"):
            call(plain, method, *arguments)
    token = shared_server.issue_token(CORP)
    with GigaChat(base_url=shared_server.base_url, access_token=token) as client:
        with pytest.raises(ForbiddenError, match=r"Permission denied.*Pay-as-you-go"):
            call(client, "get_balance")


def test_check_ai(corporate, call):
    """The detector finds the machine's sentences; the classifier only says what the whole is."""
    human, machine = "Мы шли весь день. ", "Как языковая модель, я не хожу."
    found = call(corporate, "check_ai", human + machine, "GigaCheckDetection")
    assert (found.category, found.characters) == ("mixed", len(human + machine))
    ((start, end),) = found.ai_intervals
    assert (human + machine)[start:end] == machine
    assert call(corporate, "check_ai", human + machine, "GigaCheckClassification").category == "ai"
    assert call(corporate, "check_ai", human, "GigaCheckDetection").to_dict()["ai_intervals"] == []
    with pytest.raises(NotFoundError, match="No such model"):
        call(corporate, "check_ai", human, "GigaChat")


def test_check_filter(plain, call):
    """The filter looks at all messages."""
    verdict = call(plain, "check_filter", "Привет, мир")
    assert (verdict.is_profane, verdict.usage.filter_tokens) == (False, 3)
    messages = [{"role": "user", "content": "forbidden-topic"}, {"role": "assistant", "content": "нет"}]
    assert call(plain, "check_filter", messages, neuro=False).is_profane
    answer = call(plain, "chat", "Расскажи про forbidden-topic")
    assert answer.choices[0].finish_reason == "blacklist"


# ---------- batches


def test_batches(corporate, call):
    """A batch goes created, in_progress, completed; its results are matched to the requests by their ids."""
    payloads = ["Первый", {"messages": ["Второй"], "model": "no-such-model"}, {"messages": ["Третий"], "max_tokens": 3}]
    batch = call(corporate, "create_batch", payloads)
    assert (batch.status, batch.method, batch.request_counts.total) == ("created", "chat_completions", 3)
    with pytest.raises(ValueError, match="no results yet: it is created"):
        call(corporate, "batch_results", batch)
    seen = [call(corporate, "get_batch", batch.id) for _ in range(3)]
    assert [look.status for look in seen] == ["in_progress", "completed", "completed"]
    assert seen[0].output_file_id is None
    assert seen[1].request_counts.to_dict() == {"total": 3, "completed": 2, "failed": 1}
    results = {result.id: result for result in call(corporate, "batch_results", seen[1])}
    assert list(results) == ["0", "1", "2"]
    assert "Первый" in results["0"].result["choices"][0]["message"]["content"]
    assert results["1"].error == {"status": 404, "message": "No such model"}
    assert results["1"].result is None
    assert results["2"].result["choices"][0]["finish_reason"] == "length"
    assert [listed.id for listed in call(corporate, "get_batches")] == [batch.id]
    with pytest.raises(NotFoundError, match="Batch task not found"):
        call(corporate, "get_batch", "no-such-batch")


def test_batch_of_embeddings(corporate, call, tmp_path):
    """A batch can be a file of JSON Lines with ids of one's own; bodies of /embeddings with method="embedder"."""
    path = tmp_path / "batch.jsonl"
    lines = [{"id": name, "request": {"model": "Embeddings", "input": [name]}} for name in ("кот", "пёс")]
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    batch = call(corporate, "create_batch", path, "embedder")
    while batch.status != "completed":
        batch = call(corporate, "get_batch", batch.id)
    results = call(corporate, "batch_results", batch)
    assert [result.id for result in results] == ["кот", "пёс"]
    assert results[1].result["data"][0]["embedding"] == call(corporate, "embeddings", "пёс").data[0].embedding


# ---------- assistants and threads


def test_assistants(plain, call):
    """Assistants are remembered, can be changed and deleted, and lose files one by one."""
    files = [call(plain, "upload_file", (f"{name}.txt", b"x")).id for name in "ab"]
    made = call(
        plain, "assistants.create", "GigaChat-Pro", "Помощник", instructions="Отвечай кратко", file_ids=files,
        metadata={"k": 1},
    )  # fmt: skip
    (kept,) = call(plain, "assistants.get", made.assistant_id).data
    assert (kept.model, kept.instructions, kept.metadata) == ("GigaChat-Pro", "Отвечай кратко", {"k": 1})
    assert [file.name for file in kept.files] == ["a.txt", "b.txt"]
    changed = call(plain, "assistants.update", made.assistant_id, description="Новое")
    assert (changed.description, changed.instructions) == ("Новое", "Отвечай кратко")
    gone = call(plain, "assistants.delete_file", made.assistant_id, files[0])
    assert (gone.file_id, gone.deleted) == (files[0], True)
    (kept,) = call(plain, "assistants.get").data
    assert kept.file_ids == files[1:]
    assert call(plain, "assistants.delete", made.assistant_id).deleted
    assert call(plain, "assistants.get").data == []
    with pytest.raises(NotFoundError):
        call(plain, "assistants.delete", made.assistant_id)


def test_threads_remember(plain, call):
    """A thread keeps its messages and its assistant's role; each answer sees all of them."""
    assistant = call(plain, "assistants.create", "GigaChat", "a", "Ты — пират").assistant_id
    first = call(plain, "threads.run_messages", ["Меня зовут Аня"], assistant_id=assistant)
    assert "Моя роль: «Ты — пират»" in first.message.content
    thread = first.thread_id
    call(plain, "threads.add_messages", thread, ["Мне семь лет", {"role": "user", "content": "Как меня зовут?"}])
    assert call(plain, "threads.run", thread).status == ThreadStatus.IN_PROGRESS
    run = call(plain, "threads.get_run", thread)
    assert run.status == ThreadStatus.READY
    assert "До этого сообщений в разговоре: 3" in run.messages[-1].content
    assert "начался с вопроса «Меня зовут Аня»" in run.messages[-1].content
    roles = [message.role for message in call(plain, "threads.get_messages", thread).messages]
    assert roles == ["user", "assistant", "user", "user", "assistant"]
    last = call(plain, "threads.get_messages", thread, limit=1).messages
    assert [message.content for message in last] == [run.messages[-1].content]
    again = call(plain, "threads.rerun_messages", thread, ThreadRunOptions(max_tokens=2))
    assert (again.finish_reason, again.usage.completion_tokens) == ("length", 2)
    assert len(call(plain, "threads.get_messages", thread).messages) == 5
    (known,) = call(plain, "threads.retrieve", [thread, "no-such-thread"]).threads
    assert (known.id, known.assistant_id, known.run_lock) == (thread, assistant, False)
    assert [known.id for known in call(plain, "threads.list", [assistant]).threads] == [thread]
    assert call(plain, "threads.delete", thread) is True
    assert call(plain, "threads.list").threads == []
    with pytest.raises(NotFoundError, match="No such thread"):
        call(plain, "threads.get_messages", thread)


@pytest.mark.parametrize("method", ["run_stream", "run_messages_stream", "rerun_messages_stream"])
def test_thread_streams(plain, call, method):
    """Streams of threads come in pieces with a usage each, and what they said is remembered."""
    thread = call(plain, "threads.create").id
    call(plain, "threads.add_message", thread, "Привет")
    arguments = {"run_messages_stream": [["Как дела?"], thread]}.get(method, [thread])
    chunks = call(plain, f"threads.{method}", *arguments)
    assert len(chunks) > 2
    assert {chunk.thread_id for chunk in chunks} == {thread}
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[0].usage.prompt_tokens > 0
    assert all(chunk.usage.completion_tokens > 0 for chunk in chunks)
    assert not any(chunk.usage.prompt_tokens for chunk in chunks[1:])
    last = call(plain, "threads.get_messages", thread).messages[-1]
    assert last.content == "".join(chunk.choices[0].delta.content for chunk in chunks)
    assert {chunk.message_id for chunk in chunks} == {last.message_id}


def test_stateful_chat(plain, call):
    """chat() with a storage keeps the conversation in a thread."""
    answer = call(
        plain, "chat", {"messages": ["Меня зовут Аня"], "model": "GigaChat", "storage": {"is_stateful": True}}
    )
    follow_up = {"messages": ["Как меня зовут?"], "storage": {"is_stateful": True, "thread_id": answer.thread_id}}
    assert "начался с вопроса «Меня зовут Аня»" in said(call(plain, "chat", follow_up))


@pytest.mark.parametrize("method", ["run", "run_stream"])
def test_options_of_run_are_deprecated(plain, call, method):
    """run(options=...) still works, with a DeprecationWarning in favour of thread_options."""
    thread = call(plain, "threads.create").id
    call(plain, "threads.add_message", thread, "Привет")
    with pytest.warns(DeprecationWarning, match="thread_options"):
        call(plain, f"threads.{method}", thread, options=ThreadRunOptions(max_tokens=1))
    last = call(plain, "threads.get_messages", thread).messages[-1]
    assert last.finish_reason == "length"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(plain, f"threads.{method}", thread, thread_options=ThreadRunOptions(max_tokens=1))


def test_the_warning_is_about_the_callers_line(plain):
    """The deprecation of run(options=...) points to the line of the caller, so that Python shows it there."""
    thread = plain.threads.add_messages(None, ["Привет"]).thread_id
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DeprecationWarning)
        plain.threads.run(thread, options=ThreadRunOptions(max_tokens=1))
        plain.threads.run_stream(thread, options=ThreadRunOptions(max_tokens=1)).close()
    assert [warning.filename for warning in caught] == [__file__, __file__]
    assert caught[1].lineno == caught[0].lineno + 1


# ---------- chat v2, by bare requests

V2 = "/api/v2/chat/completions"
ORDER = {"name": "get_order", "parameters": {"type": "object", "properties": {"id": {"type": "string"}}}}
STOCK = {"name": "get_stock", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}}
FUNCTIONS = [{"functions": {"specifications": [ORDER, STOCK]}}]


def ask(server, body, path=V2):
    """Post *body*; give the status and the JSON of the answer, or the events of a stream as (name, data)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("POST", path, json.dumps(body), {"Authorization": f"Bearer {server.issue_token()}"})
        response = connection.getresponse()
        text = response.read().decode()
    if response.headers["Content-Type"] != "text/event-stream":
        return response.status, json.loads(text)
    events = [re.fullmatch("(?:event: (.*)\n)?data: (.*)", event).groups() for event in text.split("\n\n")[:-1]]
    return response.status, [(name, data if data == "[DONE]" else json.loads(data)) for name, data in events]


def user(text, **parts):
    return {"role": "user", "content": [{"text": text, **parts}]}


def v2(*messages, **body):
    return {"model": "GigaChat-2", "messages": [user(one) if isinstance(one, str) else one for one in messages], **body}


def calling(*calls):
    return {"role": "assistant", "content": [{"function_call": {"arguments": {}, **call}} for call in calls]}


def answering(*results, role="tool"):
    return {"role": role, "content": [{"function_result": {"result": {}, **result}} for result in results]}


@pytest.mark.parametrize("path", [V2, "/v2/chat/completions"])
def test_v2_answer(shared_server, path):
    """Keys come in the order that was recorded; the usage has its details."""
    status, answer = ask(shared_server, v2("Hello"), path)
    assert status == 200
    assert list(answer) == ["model", "created_at", "messages", "finish_reason", "usage"]
    assert answer["model"].startswith("GigaChat-2:")
    (message,) = answer["messages"]
    assert list(message) == ["role", "content"]
    assert 'You wrote: "Hello"' in message["content"][0]["text"]
    usage = answer["usage"]
    assert list(usage) == ["input_tokens", "input_tokens_details", "output_tokens", "total_tokens"]
    assert usage["input_tokens_details"] == {"prompt_tokens": 1, "cached_tokens": 0}
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert answer["finish_reason"] == "stop"


TWO_CALLS = calling({"name": "a", "id": "1"}, {"name": "b", "id": "2"})
COUNTS = "Function calls count does not match function results count"
REFUSED = {
    "string content": ({"messages": [{"role": "user", "content": "hi"}]}, 400, "invalid JSON syntax"),
    "no messages": ({"messages": []}, 400, "invalid JSON syntax"),
    "role": ({"messages": [{**user("hi"), "role": "boss"}]}, 400, "invalid JSON syntax"),
    "string arguments": ({"messages": [calling({"name": "f", "arguments": "{}"})]}, 400, "invalid JSON syntax"),
    "nameless result": ({"messages": [calling({"name": "f"}), answering({})]}, 400, "invalid JSON syntax"),
    "result": (
        {"messages": [calling({"name": "f"}), answering({"name": "f", "result": "-7 C"})]},
        400,
        "JSON parse err",
    ),
    "OpenAI's tool": ({"tools": [{"type": "function", "function": ORDER}]}, 400, "invalid JSON syntax"),
    "unknown tool": ({"tools": [{"teleport": {}}]}, 404, "Unknown tool teleport"),
    "v1's tool": ({"tools": [{"text2image": {}}]}, 404, "Unknown tool text2image"),
    "unavailable": ({"tools": [{"code_interpreter": {}}]}, 422, "Tool code_interpreter is unavailable"),
    "function name": ({"tools": [{"functions": {"specifications": [{**ORDER, "name": "7"}]}}]}, 422, "function names"),
    "forced nothing": ({"tools": FUNCTIONS, "tool_config": {"mode": "forced"}}, 422, "tool_config"),
    "mode": ({"tools": FUNCTIONS, "tool_config": {"mode": "sometimes"}}, 400, "invalid JSON syntax"),
    "format": ({"model_options": {"response_format": {"type": "json_object"}}}, 400, 'Unknown type "json_object"'),
    "no schema": ({"model_options": {"response_format": {"type": "json_schema"}}}, 400, "Empty schema"),
    "option": ({"model_options": {"temperature": 0}}, 422, "temperature must be"),
    "model": ({"model": "GigaChat-9"}, 404, "No such model"),
    "no model": ({"model": None}, 400, "invalid JSON syntax"),
    "thread": ({"storage": {"thread_id": "none"}}, 404, "No such thread"),
    "file": ({"messages": [user("hi", files=[{"id": "none"}])]}, 404, "No such file"),
    "assistant and model": ({"assistant_id": "a"}, 422, "assistant_id excludes model"),
    "call without result": ({"messages": [calling({"name": "f"})]}, 422, "must have a result"),
    "result without call": ({"messages": [answering({"name": "f"})]}, 422, "must have an assistant function call"),
    "one of two results": ({"messages": [TWO_CALLS, answering({"name": "a", "id": "1"})]}, 422, COUNTS),
    "ids of some": ({"messages": [TWO_CALLS, answering({"name": "a", "id": "1"}, {"name": "b"})]}, 422, COUNTS),
}


@pytest.mark.parametrize(("changes", "status", "message"), REFUSED.values(), ids=REFUSED)
def test_v2_refuses(shared_server, changes, status, message):
    """What the service refuses is refused, with its words."""
    got, error = ask(shared_server, {**v2("hi"), **changes})
    assert (got, error["status"]) == (status, status)
    assert message in error["message"]


def test_v2_has_no_other_paths(shared_server):
    """Other paths below v2 are 403, as at the service."""
    assert ask(shared_server, {}, "/api/v2/files")[0] == 403


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("state", ["tool_state_id", "tools_state_id", "functions_state_id"])
@pytest.mark.parametrize("role", ["tool", "function"])
def test_v2_functions(shared_server, stream, ids, state, role):
    """All functions that the question names are called, and results are paired by ids, else by position."""
    question = v2("get_stock and get_order, please", tools=FUNCTIONS, stream=stream)
    _, answer = ask(shared_server, question)
    if stream:
        ((name, answer),) = answer
        assert name == "response.message.done"
    assert answer["finish_reason"] == "function_call"
    (message,) = answer["messages"]
    assert re.match(r"[0-9a-f]{8}-[0-9a-f]{4}-7", message["tool_state_id"])
    calls = [part["function_call"] for part in message["content"]]
    assert [call["name"] for call in calls] == ["get_order", "get_stock"]
    assert calls[1]["arguments"] == {"n": 1}
    assert len({call["id"] for call in calls}) == 2
    results = [{"name": call["name"], "result": {"is": call["name"]}, "id": call["id"]} for call in calls[::-1]]
    if not ids:
        message["content"] = [{"function_call": {**call, "id": None}} for call in calls]
        results = [{**result, "id": None} for result in results]
    message[state] = message.pop("tool_state_id")
    reply = {**answering(*results, role=role), state: message[state]}
    question.update(messages=[*question["messages"], message, reply], stream=False)
    _, answer = ask(shared_server, question)
    text = answer["messages"][0]["content"][0]["text"]
    swapped = 'get_order returned {"is":"get_stock"}'
    assert ('get_order returned {"is":"get_order"}' in text, swapped in text) == (ids, not ids)
    assert answer["messages"][0]["tool_state_id"] != message[state]


@pytest.mark.parametrize(
    ("text", "config", "called"),
    [
        ("hi", None, ["get_order"]),
        ("get_stock", None, ["get_stock"]),
        ("hi", {"mode": "none"}, []),
        ("hi", {"mode": "forced", "function_name": "get_stock"}, ["get_stock"]),
        ("hi", {"mode": "any", "functions_names_any": ["get_stock"]}, ["get_stock"]),
        ("draw a cat", None, []),
        ("hi", {"mode": "forced", "tool_name": "image_generate"}, []),
    ],
)
def test_v2_tool_config(shared_server, text, config, called):
    """tool_config chooses among functions and built-in tools."""
    tools = [*FUNCTIONS, {"image_generate": {}}]
    _, answer = ask(shared_server, v2(text, tools=tools, **({"tool_config": config} if config else {})))
    parts = answer["messages"][0]["content"]
    assert [part["function_call"]["name"] for part in parts if "function_call" in part] == called
    assert ("files" in parts[0]) == ("draw" in text or "image_generate" in str(config))


def test_v2_picture(shared_server):
    """A picture is a file of the answer, which can be downloaded."""
    _, answer = ask(shared_server, v2("Нарисуй кота", tools=[{"image_generate": {}}]))
    picture, text = answer["messages"][0]["content"]
    assert (picture["files"][0]["mime"], picture["files"][0]["target"]) == ("image/jpeg", "image")
    assert text == {"text": "Вот мой рисунок: Нарисуй кота"}
    with GigaChat(base_url=shared_server.base_url, access_token=shared_server.issue_token()) as client:
        assert client.download_file(picture["files"][0]["id"]).startswith(b"\xff\xd8")


def test_v2_stream(shared_server):
    """A built-in tool tells its progress; deltas repeat the role; only the last event has usage and state."""
    _, events = ask(shared_server, v2("What is new?", tools=[{"web_search": {}}], stream=True))
    names = [name for name, _ in events]
    assert names[:2] == ["response.tool.in_progress", "response.tool.completed"]
    assert names[2:] == ["response.message.delta"] * (len(names) - 3) + ["response.message.done"]
    assert all(list(data)[:2] == ["model", "created_at"] for _, data in events)
    *deltas, (_, done) = events
    assert {message["role"] for _, data in deltas for message in data["messages"]} == {"assistant"}
    parts = [data["messages"][0]["content"][0] for _, data in deltas]
    assert parts[0] == {"tool_execution": {"id": "", "name": "web_search"}}
    assert parts[1] == {"tool_execution": {"id": "", "name": "web_search", "status": "success"}}
    assert set(parts[2]["inline_data"]["sources"]["1"]) == {"url", "title"}
    assert "".join(part["text"] for part in parts[3:]).endswith("[sources=[1, 2]]")
    assert not any("usage" in data for _, data in deltas)
    assert list(done) == ["model", "created_at", "messages", "finish_reason", "usage"]
    assert set(done["messages"][0]) == {"role", "tool_state_id"}
    _, plain = ask(shared_server, v2("Hello", stream=True))
    assert list(plain[-1][1]) == ["model", "created_at", "finish_reason", "usage"]


def test_v2_storage(shared_server):
    """A thread remembers, also what came through v1; the answer has its ids; a refused request leaves no trace."""
    _, first = ask(shared_server, v2("My name is Ann", storage={}))
    thread = {"thread_id": first["thread_id"]}
    assert first["messages"][0]["message_id"]
    assert ask(shared_server, {**v2("x", storage=thread), "tools": [{"teleport": {}}]})[0] == 404
    again = {"messages": [user("What is my name?")], "storage": thread}
    _, second = ask(shared_server, again)
    assert 'began with the question "My name is Ann"' in second["messages"][0]["content"][0]["text"]
    assert "Earlier messages in this conversation: 2." in second["messages"][0]["content"][0]["text"]
    _, events = ask(shared_server, {**again, "stream": True})
    assert {data["thread_id"] for _, data in events} == {first["thread_id"]}
    old = {"messages": [{"role": "user", "content": "And now?"}], "storage": {"is_stateful": True, **thread}}
    _, third = ask(shared_server, old, "/v1/chat/completions")
    assert "Earlier messages in this conversation: 6." in third["choices"][0]["message"]["content"]
    _, calls = ask(shared_server, v2("get_stock, get_order", tools=FUNCTIONS, storage={}))
    results = [{**part["function_call"], "result": "1"} for part in calls["messages"][0]["content"]]
    status, answer = ask(shared_server, v2(answering(*results), storage={"thread_id": calls["thread_id"]}))
    assert (status, answer["finish_reason"]) == (200, "stop")


def test_v2_reasoning_filter_and_failure(shared_server):
    """Reasoning comes first, and may be all that fits; the filter can be turned off; a failure has no usage."""
    _, answer = ask(shared_server, v2("Hi", reasoning={"effort": "low"}))
    assert [message["role"] for message in answer["messages"]] == ["reasoning", "assistant"]
    _, short = ask(shared_server, v2("Hi", model_options={"reasoning": {"effort": "low"}, "max_tokens": 2}))
    assert [message["role"] for message in short["messages"]] == ["reasoning"]
    assert short["finish_reason"] == "length"
    assert ask(shared_server, v2("forbidden-topic"))[1]["finish_reason"] == "blacklist"
    assert ask(shared_server, v2("forbidden-topic", disable_filter=True))[1]["finish_reason"] == "stop"
    _, ((name, failed),) = ask(shared_server, v2("model-error", stream=True))
    assert (name, failed["finish_reason"], failed["usage"]["total_tokens"]) == ("response.message.done", "error", 0)
    assert isinstance(failed["created_at"], str)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_assistant_in_chat(shared_server, version):
    """assistant_id brings the assistant's model and instructions, and excludes a model."""
    with GigaChat(base_url=shared_server.base_url, access_token=shared_server.issue_token()) as client:
        made = client.assistants.create("GigaChat-Pro", "Pirate", instructions="You are a pirate")
    body = {"assistant_id": made.assistant_id, "messages": [user("Hi")]}
    if version == "v1":
        body["messages"] = [{"role": "user", "content": "Hi"}]
    status, answer = ask(shared_server, body, f"/{version}/chat/completions")
    assert (status, answer["model"].split(":")[0]) == (200, "GigaChat-Pro")
    assert "You are a pirate" in json.dumps(answer)
    assert ask(shared_server, {**body, "model": "GigaChat"}, f"/{version}/chat/completions")[0] == 422


SCHEMAS = {
    "nested": (
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"enum": ["x", "y"]}}},
        {"a": "x"},
    ),
    "required only": ({"type": "object", "required": ["a"]}, {"a": "Hi"}),
    "optional": ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, 1),
    "array": ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
    "short array": ({"type": "array", "items": {"type": "string"}, "maxItems": 0}, []),
    "tuple": ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False}, [1, "Hi"]),
    "minimum": ({"type": "integer", "minimum": 5}, 5),
    "fraction": ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
    "multiple": ({"type": "integer", "minimum": 7, "multipleOf": 5}, 10),
    "maximum": ({"type": "integer", "maximum": -3}, -3),
    "length": ({"type": "string", "minLength": 4, "maxLength": 5}, "Hi--"),
    "root list": ({"type": "array", "items": {"const": 7}}, [7]),
}


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(("schema", "value"), SCHEMAS.values(), ids=SCHEMAS)
def test_structured_answers(shared_server, version, schema, value):
    """The answer to a json_schema request is JSON that fits the schema."""
    wanted = {"type": "json_schema", "schema": schema, "strict": True}
    if version == "v2":
        _, answer = ask(shared_server, v2("Hi", model_options={"response_format": wanted}))
        text = answer["messages"][0]["content"][0]["text"]
    else:
        body = {"model": "GigaChat", "messages": [{"role": "user", "content": "Hi"}], "response_format": wanted}
        text = ask(shared_server, body, "/v1/chat/completions")[1]["choices"][0]["message"]["content"]
    assert json.loads(text) == value


# ---------- the server as a program


@pytest.fixture
def interruptible():
    """Let child processes take SIGINT even where the tests run in the background, where shells have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to one process there")
@pytest.mark.parametrize("tls", [False, True], ids=["http", "tls"])
def test_as_a_program(tls, tmp_path, interruptible):
    """The program takes a free port, prints the variables of a client, serves it, and ends at Ctrl-C with status 0."""
    command = [sys.executable, str(EXAMPLES / "local_server.py"), "--port", "0"]
    if tls:
        command += ["--tls", str(CERTS / "server.pem"), str(CERTS / "server.key")]
    names = ["BASE_URL", "AUTH_URL", "CREDENTIALS", "SCOPE"] + ["CA_BUNDLE_FILE"] * tls
    program = subprocess.Popen(command, cwd=str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        lines = [program.stdout.readline().decode() for _ in names]
        variables = dict(re.fullmatch(r"export GIGACHAT_(\w+)=(\S+)\n", line).groups() for line in lines)
        assert list(variables) == names
        with GigaChat(**{name.lower(): value for name, value in variables.items()}, timeout=20) as client:
            assert "Привет" in said(client.chat("Привет"))
        log = [program.stderr.readline().decode() for _ in range(2)]
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=60)
    finally:
        program.kill()
        program.communicate()
    assert (program.returncode, out, err) == (0, b"", b"")
    assert [re.sub(r"\d+\.\d ms", "N ms", line) for line in log] == [
        "POST /api/v2/oauth 200 N ms\n",
        "POST /api/v1/chat/completions 200 N ms\n",
    ]


def test_the_program_says_what_it_takes():
    """--help explains the options; an unknown scope is refused."""
    command = [sys.executable, str(EXAMPLES / "local_server.py")]
    shown = subprocess.run([*command, "--help"], stdout=subprocess.PIPE, timeout=60)
    assert shown.returncode == 0
    assert all(option in shown.stdout for option in (b"--port", b"--tls", b"--scope", b"--client-ca"))
    refused = subprocess.run([*command, "--scope", "NO"], stderr=subprocess.PIPE, timeout=60)
    assert refused.returncode == 2


def test_a_port_that_is_taken(shared_server):
    """The program names the port that is taken, and says what to do."""
    command = [sys.executable, str(EXAMPLES / "local_server.py"), "--port", str(shared_server.port)]
    refused = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert f"port {shared_server.port} of 127.0.0.1 is taken".encode() in refused.stderr
    assert b"choose another port" in refused.stderr
    assert b"Traceback" not in refused.stderr


@pytest.mark.skipif(os.name == "nt", reason="POSIX shells")
def test_exports_can_be_pasted(tmp_path):
    """Whatever the path of the certificates holds, the shell reads each variable as it is."""
    odd = tmp_path / "a b;'$(c)"
    shutil.copytree(str(CERTS), str(odd))
    command = [sys.executable, str(EXAMPLES / "local_server.py"), "--port", "0"]
    command += ["--tls", str(odd / "server.pem"), str(odd / "server.key")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
        exports = b"".join(program.stdout.readline() for _ in range(5))
        program.kill()
    shell = ["sh", "-c", exports.decode() + 'printf %s "$GIGACHAT_CA_BUNDLE_FILE"']
    assert subprocess.run(shell, stdout=subprocess.PIPE, timeout=60).stdout.decode() == str(odd / "ca.pem")


# ---------- HTTP

MODELS_HEAD = b"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer "
CHAT = b'{"model": "GigaChat", "messages": [{"role": "user", "content": "hi"}]}'
CHAT_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer "


@pytest.mark.parametrize(
    ("head", "rest", "status"),
    [
        pytest.param(MODELS_HEAD, b"", 200, id="no body"),
        pytest.param(MODELS_HEAD, b"".join(b"X-%d: 1\r\n" % number for number in range(300)), 200, id="300 fields"),
        pytest.param(MODELS_HEAD, b"X-Long: " + bytes(100_000).replace(b"\0", b"x") + b"\r\n", 200, id="long field"),
        pytest.param(MODELS_HEAD.replace(b"/v1", b"http://localhost/v1"), b"", 200, id="whole URL"),
        pytest.param(
            CHAT_HEAD,
            b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nX-Trailer: 1\r\n" % (len(CHAT), CHAT),
            200,
            id="chunked",
        ),
        pytest.param(
            CHAT_HEAD, b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n%b" % (len(CHAT), CHAT[:-4]), 100, id="100"
        ),
        pytest.param(b"DELETE /v1/models HTTP/1.1\r\nAuthorization: Bearer ", b"", 405, id="method"),
        pytest.param(MODELS_HEAD, b"Name : 1\r\n", 400, id="blank before the colon"),
        pytest.param(MODELS_HEAD, b"X-Folded: 1\r\n 2\r\n", 400, id="folded"),
        pytest.param(MODELS_HEAD, b"Content-Length: -1\r\n", 400, id="negative length"),
        pytest.param(MODELS_HEAD, b"Transfer-Encoding: chunked\r\n\r\n2\r\nxxx", 400, id="long chunk"),
        pytest.param(MODELS_HEAD.replace(b"HTTP/1.1", b"FTP/1.1"), b"", 400, id="not HTTP"),
    ],
)
def test_requests_byte_for_byte(shared_server, head, rest, status):
    """The server takes every form that HTTP allows a request, and refuses with 400 what is ambiguous."""
    shared_server.reset()
    with socket.create_connection(("127.0.0.1", shared_server.port), timeout=20) as sock:
        sock.sendall(head + shared_server.issue_token().encode() + b"\r\n" + rest + b"\r\n")
        assert int(sock.recv(65_536).split()[1]) == status
    assert len(shared_server.requests) == (0 if status in (100, 400) else 1)


def test_environment_leads_to_the_server(server, monkeypatch, call):
    """What environment() gives is all that a client needs."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    with GigaChat() as client:
        assert "Hello" in said(call(client, "chat", "Hello"))
