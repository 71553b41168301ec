"""Chat: what goes out for each form of a payload, what comes back, and how streams end."""

import asyncio
import copy
import gc
import json
import threading

import pytest
from conftest import CERTS
from faults import DONE, LAST_CHUNK, STREAM_HEAD, WAIT_SECONDS, RawServer, answer, chunk, delta, event

import gigachat_lite
from gigachat_lite import (
    APIConnectionError,
    AsyncStream,
    BadRequestError,
    Chat,
    ChatCompletion,
    ChatCompletionChunk,
    ChatFunctionCall,
    Function,
    FunctionCall,
    GigaChat,
    GigaChatAsyncClient,
    GigaChatException,
    GigaChatSyncClient,
    InvalidResponseError,
    Messages,
    MessagesRole,
    NotFoundError,
    RateLimitError,
    ResponseError,
    ServerError,
    Storage,
    Stream,
    StreamInterruptedError,
    chat_url_cvar,
)

METHODS = ["chat", "stream"]
USER = {"role": "user", "content": "Привет"}
ASKED = {"model": "GigaChat", "messages": [USER]}


def raw_client(server, **settings):
    """Make a client of a RawServer; it needs no token request."""
    return GigaChat(**{"base_url": server.base_url, "access_token": "token", "timeout": 20, **settings})


def sent(server):
    """Give the JSON of the last request, without what only says that it is a stream."""
    body = json.loads(server.requests[-1].body)
    streamed = "text/event-stream" in server.requests[-1].headers["Accept"]
    assert body.pop("stream", None) == (True if streamed else None)
    return body


@pytest.fixture(params=METHODS)
def ask(request, call):
    """Run chat or stream, sync or async; a stream is read to its end."""

    def run(client, payload):
        return call(client, request.param, payload)

    return run


# ---------- payloads

WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
PAYLOADS = [
    ("Привет", ASKED),
    ("", {**ASKED, "messages": [{"role": "user", "content": ""}]}),
    (["Привет"], ASKED),
    (("Привет",), ASKED),
    ([USER], ASKED),
    ([Messages(role=MessagesRole.USER, content="Привет")], ASKED),
    ([Messages(role="user", content="Привет")], ASKED),
    (
        [Messages(role=MessagesRole.SYSTEM, content="Коротко"), {"role": "user", "content": "Раз"}, "Два"],
        {
            "model": "GigaChat",
            "messages": [
                {"role": "system", "content": "Коротко"},
                {"role": "user", "content": "Раз"},
                {"role": "user", "content": "Два"},
            ],
        },
    ),
    ({"messages": [USER]}, ASKED),
    ({"messages": ["Привет"]}, ASKED),
    ({"messages": (USER,)}, ASKED),
    ({"messages": [Messages(role=MessagesRole.USER, content="Привет")]}, ASKED),
    (Chat(messages=[Messages(role=MessagesRole.USER, content="Привет")]), ASKED),
    (Chat(messages=[USER]), ASKED),
    (Chat(messages=["Привет"], model="GigaChat-2-Max"), {**ASKED, "model": "GigaChat-2-Max"}),
    ({"messages": [USER], "model": "GigaChat-2"}, {**ASKED, "model": "GigaChat-2"}),
    ({"messages": [USER], "model": None, "temperature": None, "flags": None}, ASKED),
    (Chat(messages=[USER], temperature=None), ASKED),
    ({"messages": [{**USER, "name": None, "attachments": None}]}, ASKED),
    ({"messages": [{"role": "user", "content": '\u2028 <&> 😀 \x00 \\ "'}]}, None),
    (
        Chat(
            messages=[USER],
            temperature=0.5,
            top_p=0,
            n=1,
            max_tokens=5,
            repetition_penalty=1.0,
            update_interval=0,
            profanity_check=False,
            function_call="none",
            functions=[Function(**WEATHER)],
            flags=[],
            reasoning_effort="low",
        ),
        {
            **ASKED,
            "temperature": 0.5,
            "top_p": 0,
            "n": 1,
            "max_tokens": 5,
            "repetition_penalty": 1.0,
            "update_interval": 0,
            "profanity_check": False,
            "function_call": "none",
            "functions": [WEATHER],
            "flags": [],
            "reasoning_effort": "low",
        },
    ),
    (
        Chat(messages=[USER], functions=[WEATHER], function_call=ChatFunctionCall("weather", {"city": None})),
        {
            **ASKED,
            "functions": [WEATHER],
            "function_call": {"name": "weather", "partial_arguments": {"city": None}},
        },
    ),
    (
        {"messages": [USER], "functions": [Function(**WEATHER)], "function_call": {"name": "weather"}},
        {**ASKED, "functions": [WEATHER], "function_call": {"name": "weather"}},
    ),
    (
        [
            USER,
            Messages(role="assistant", function_call=FunctionCall("weather", {"city": "Омск"}), functions_state_id="1"),
            Messages(role=MessagesRole.FUNCTION, name="weather", content='{"t": 1}'),
        ],
        {
            "model": "GigaChat",
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": "",
                    "function_call": {"name": "weather", "arguments": {"city": "Омск"}},
                    "functions_state_id": "1",
                },
                {"role": "function", "content": '{"t": 1}', "name": "weather"},
            ],
        },
    ),
    (
        {"messages": [USER], "response_format": {"type": "json_schema", "schema": {"default": None}, "strict": True}},
        {**ASKED, "response_format": {"type": "json_schema", "schema": {"default": None}, "strict": True}},
    ),
    (
        Chat(messages=[USER], function_ranker={"enabled": True, "top_n": 3}),
        {**ASKED, "function_ranker": {"enabled": True, "top_n": 3}},
    ),
    # What we do not know is sent as it is, with the nulls inside.
    (
        {"messages": [{**USER, "mood": {"joy": None}}], "new_field": [None, {"a": None}]},
        {"model": "GigaChat", "messages": [{**USER, "mood": {"joy": None}}], "new_field": [None, {"a": None}]},
    ),
    # Additional fields go to the top level; explicit ones win.
    (
        Chat(messages=[USER], temperature=0.5, additional_fields={"temperature": 1, "top_p": 0.1, "x": {"y": None}}),
        {**ASKED, "temperature": 0.5, "top_p": 0.1, "x": {"y": None}},
    ),
    (
        {"messages": [USER], "additional_fields": {"x": 1, "model": "GigaChat-2", "messages": [], "stream": 7}},
        {**ASKED, "x": 1, "model": "GigaChat-2"},
    ),
    (
        {"messages": [USER], "model": "GigaChat-2", "additional_fields": {"model": "x"}},
        {**ASKED, "model": "GigaChat-2"},
    ),
    (Chat(messages=[USER], additional_fields={"stream": False}), ASKED),
    (Chat(messages=[USER], additional_fields={}), ASKED),
    (Chat(messages=[USER], stream=True), ASKED),
    ({"messages": [USER], "stream": False}, ASKED),
    # The model of a conversation on the server is the assistant's or the thread's.
    (Chat(messages=[USER], storage=Storage(is_stateful=True)), {**ASKED, "storage": {"is_stateful": True}}),
    (
        Chat(messages=[USER], storage=Storage(is_stateful=False, thread_id="")),
        {**ASKED, "storage": {"is_stateful": False, "thread_id": ""}},
    ),
    (
        Chat(messages=[USER], storage=Storage(is_stateful=True, thread_id="1")),
        {"messages": [USER], "storage": {"is_stateful": True, "thread_id": "1"}},
    ),
    (
        {"messages": [USER], "storage": {"is_stateful": True, "assistant_id": "1", "metadata": {"a": None}}},
        {"messages": [USER], "storage": {"is_stateful": True, "assistant_id": "1", "metadata": {"a": None}}},
    ),
    (
        {"messages": [USER], "storage": {"is_stateful": True, "thread_id": "1"}, "model": "GigaChat-2"},
        {"messages": [USER], "storage": {"is_stateful": True, "thread_id": "1"}, "model": "GigaChat-2"},
    ),
    (
        {"messages": [USER], "additional_fields": {"storage": {"is_stateful": True, "thread_id": "1"}}},
        {"messages": [USER], "storage": {"is_stateful": True, "thread_id": "1"}},
    ),
]


@pytest.fixture
def echo():
    """A server that answers whatever it gets, chat or stream; requests as they came in ``requests``."""

    def handler(wire):
        while True:
            request = wire.receive()
            if request is None:
                return
            if request.json.get("stream"):
                wire.send(STREAM_HEAD, chunk(delta("да", "stop")), chunk(DONE), LAST_CHUNK)
            else:
                wire.send(answer())

    with RawServer(handler) as server:
        yield server


def received(server):
    """Give the last body that a RawServer received, without what only says that it is a stream."""
    request = server.requests[-1]
    body = request.json
    assert body.pop("stream", None) == (True if request.headers["accept"] == "text/event-stream" else None)
    return body


@pytest.mark.parametrize(("payload", "body"), PAYLOADS, ids=range(len(PAYLOADS)))
def test_payloads(echo, ask, payload, body):
    """Each form of a payload becomes this JSON; the payload itself is left as it was."""
    before = copy.deepcopy(payload)
    with raw_client(echo) as client:
        assert ask(client, payload)
    assert received(echo) == (body or {**ASKED, "messages": payload["messages"]})
    assert payload == before


def test_exact_bytes(client, server, call):
    """A whole request as it goes out: UTF-8 unescaped, and no header but these."""
    call(client, "chat", "Привет, 😀")
    request = server.requests[-1]
    assert (request.method, request.path, request.query) == ("POST", "/api/v1/chat/completions", "")
    assert request.body == '{"model": "GigaChat", "messages": [{"role": "user", "content": "Привет, 😀"}]}'.encode()
    headers = dict(request.headers.raw)
    assert headers.pop("User-Agent").startswith("gigachat_lite/")
    assert headers == {
        "Host": f"localhost:{server.port}",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Authorization": f"Bearer {client.token}",
        "Content-Type": "application/json",
        "Content-Length": str(len(request.body)),
    }


def test_exact_bytes_of_a_stream(client, server, call):
    """A stream asks for events that nobody stores."""
    call(client, "stream", "Привет")
    request = server.requests[-1]
    assert request.body == (
        '{"model": "GigaChat", "messages": [{"role": "user", "content": "Привет"}], "stream": true}'.encode()
    )
    assert request.headers["Accept"] == "text/event-stream"
    assert request.headers["Cache-Control"] == "no-store"
    assert request.headers["Content-Type"] == "application/json"


SETTINGS_BODY = {"model": "GigaChat-2", "profanity_check": False, "flags": ["a", "b"]}


@pytest.mark.parametrize(
    ("payload", "body"),
    [
        ("Привет", SETTINGS_BODY),
        ({"messages": ["Привет"]}, SETTINGS_BODY),
        ({"messages": ["Привет"], "model": None, "profanity_check": None, "flags": None}, SETTINGS_BODY),
        ({"messages": ["Привет"], "profanity_check": True}, {**SETTINGS_BODY, "profanity_check": True}),
        (Chat(messages=["Привет"], flags=[]), {**SETTINGS_BODY, "flags": []}),
        (Chat(messages=["Привет"], model="GigaChat-Pro"), {**SETTINGS_BODY, "model": "GigaChat-Pro"}),
        ({"messages": ["Привет"], "additional_fields": {"flags": ["c"]}}, {**SETTINGS_BODY, "flags": ["c"]}),
    ],
)
def test_settings_fill_in(echo, ask, payload, body):
    """The client's model, profanity_check and flags fill in what a payload leaves open; False and [] count as said."""
    with raw_client(echo, model="GigaChat-2", profanity_check=False, flags=["a", "b"]) as client:
        ask(client, payload)
    assert received(echo) == {**body, "messages": [USER]}


@pytest.mark.parametrize("path", ["/chat/completions/../x", "/my/chat", "/chat?a=b"])
def test_chat_url_cvar(echo, ask, path):
    """chat_url_cvar replaces the path of chats and streams."""
    chat_url_cvar.set(path)
    with raw_client(echo) as client:
        ask(client, "Привет")
    assert echo.requests[-1].target == "/api/v1" + path


@pytest.mark.parametrize("path", ["", "chat", "/chat completions", "/чат", "/chat\r\nX-Evil: 1", None, 7, "http://x/"])
def test_bad_chat_url(echo, ask, path):
    """A chat_url_cvar that is no path is named in a ValueError before anything is sent."""
    chat_url_cvar.set(path)
    with raw_client(echo) as client, pytest.raises(ValueError, match="chat_url_cvar"):
        ask(client, "Привет")
    assert echo.connections == 0


# ---------- bad payloads

LOOP = {"messages": ["Привет"]}
LOOP["self"] = LOOP
DEEP = []
for _ in range(100_000):
    DEEP = [DEEP]


class Odd:
    pass


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (None, TypeError),
        (7, TypeError),
        (b"bytes", TypeError),
        (Odd(), TypeError),
        ({"a set"}, TypeError),
        ([7], TypeError),
        ([None], TypeError),
        ([["Привет"]], TypeError),
        ([b"bytes"], TypeError),
        ({}, TypeError),
        ({"messages": None}, TypeError),
        ({"messages": "Привет"}, TypeError),
        ({"messages": [7]}, TypeError),
        ({"messages": ["Привет"], "x": Odd()}, TypeError),
        ({"messages": ["Привет"], "x": b"bytes"}, TypeError),
        ({"messages": ["Привет"], "x": {1, 2}}, TypeError),
        ({"messages": ["Привет"], ("a", "b"): 1}, TypeError),
        ({"messages": ["Привет"], "temperature": float("nan")}, ValueError),
        ({"messages": ["Привет"], "temperature": float("inf")}, ValueError),
        ({"messages": ["Привет"], "x": {"y": [float("-inf")]}}, ValueError),
        ("\ud83d", ValueError),
        ({"messages": [{"role": "user", "content": "half \ud83d of it"}]}, ValueError),
        ({"messages": ["Привет"], "x": {"\udc80": 1}}, ValueError),
        (LOOP, ValueError),
        ({"messages": ["Привет"], "x": DEEP}, ValueError),
        ({"messages": ["Привет"], "additional_fields": {"x": Odd()}}, TypeError),
    ],
    ids=range(26),
)
def test_bad_payloads(echo, ask, payload, kind):
    """What cannot be sent is a TypeError or ValueError with a text, before anything is sent."""
    with raw_client(echo) as client, pytest.raises(kind) as caught:
        ask(client, payload)
    assert type(caught.value) is kind
    assert str(caught.value)
    assert echo.connections == 0


@pytest.mark.parametrize("additional", [[("x", 1)], "x", 7, ["x"]])
def test_bad_additional_fields(echo, ask, additional):
    """additional_fields that are no dict are named in a TypeError or ValueError."""
    with raw_client(echo) as client, pytest.raises((TypeError, ValueError)):
        ask(client, {"messages": ["Привет"], "additional_fields": additional})
    assert echo.connections == 0


def test_bad_payload_of_a_stream_raises_at_once(client):
    """stream() and astream() refuse a bad payload when they are called, not when they are iterated."""
    with pytest.raises(TypeError):
        client.stream(None)
    with pytest.raises(TypeError):
        client.astream(None)


# ---------- answers


def test_answer(client, server, call):
    """A chat's answer is a ChatCompletion with everything the server said, and the ids of the exchange."""
    completion = call(client, "chat", {"messages": ["Привет"], "functions": [WEATHER]})
    assert type(completion) is ChatCompletion
    choice = completion.choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call == FunctionCall("weather", {"city": "Привет"})
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens > 0
    assert completion.object == completion.object_ == "chat.completion"
    assert set(completion.x_headers) == {"x-request-id", "x-session-id", "x-client-id"}
    assert len(completion.x_headers["x-request-id"]) == 36
    assert completion.x_headers["x-client-id"] is None


def test_conversation(client, server, call):
    """An answer's message can be sent back as it is."""
    question = Messages(role="user", content="Погода в Омске")
    first = call(client, "chat", Chat(messages=[question], functions=[WEATHER])).choices[0].message
    result = Messages(role=MessagesRole.FUNCTION, name="weather", content='{"t": 1}')
    second = call(client, "chat", Chat(messages=[question, first, result], functions=[WEATHER]))
    assert json.loads(server.requests[-1].body)["messages"][1] == first.to_dict()
    assert "weather" in second.choices[0].message.content


def test_stream(client, server, call):
    """A stream's chunks add up to the answer; each carries the ids of the exchange."""
    chunks = call(client, "stream", "Расскажи длинно о том, как устроены потоки событий")
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == call(client, "chat", "Расскажи длинно о том, как устроены потоки событий").choices[0].message.content
    assert len(chunks) > 2
    assert {type(chunk) for chunk in chunks} == {ChatCompletionChunk}
    assert {chunk.choices[0].finish_reason for chunk in chunks[:-1]} == {None}
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.total_tokens > 0
    assert len({chunk.x_headers["x-request-id"] for chunk in chunks}) == 1
    assert chunks[0].x_headers["x-session-id"]


@pytest.mark.parametrize("kind", [GigaChat, GigaChatSyncClient])
def test_sync_client(settings, kind):
    """Both classes chat and stream, blocking."""
    with kind(**settings) as client:
        assert type(client.chat("Привет")) is ChatCompletion
        assert type(client.stream("Привет")) is Stream


@pytest.mark.parametrize("kind", [GigaChat, GigaChatAsyncClient])
def test_async_client(settings, kind):
    """Both classes chat and stream, async."""

    async def run():
        async with kind(**settings) as client:
            assert type(await client.achat("Привет")) is ChatCompletion
            assert type(client.astream("Привет")) is AsyncStream
            return [chunk async for chunk in client.astream("Привет")]

    assert asyncio.run(run())


@pytest.mark.parametrize(
    ("status", "kind"), [(400, BadRequestError), (404, NotFoundError), (429, RateLimitError), (500, ServerError)]
)
def test_stream_that_is_refused(client, server, call, status, kind):
    """An error status of a stream is the same exception as of a chat, at the first chunk; the connection stays good."""
    server.answer_next("/chat", status, {"status": status, "message": "Нет"})
    with pytest.raises(kind, match="Нет"):
        call(client, "stream", "Привет")
    assert call(client, "stream", "Привет")
    assert server.connections == 1


def test_stream_without_events(client, server, call):
    """A stream that is answered with something else is an InvalidResponseError that quotes it."""
    server.answer_next("/chat", 200, {"choices": []})
    with pytest.raises(InvalidResponseError, match=r"expected a stream of events.*choices"):
        call(client, "stream", "Привет")


# ---------- ends of streams

FINISHED = delta("два", "stop")


def streaming(*pieces, end=LAST_CHUNK):
    """Make a handler that answers every request with a stream of *pieces*, and *end* behind it."""

    def handler(wire):
        while wire.receive():
            wire.send(STREAM_HEAD, *map(chunk, pieces), end)
            if not end:
                return

    return handler


def contents(chunks):
    return [choice.delta.content for one in chunks for choice in one.choices]


@pytest.mark.parametrize("end", [LAST_CHUNK, b""], ids=["whole", "cut"])
@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([delta("раз"), FINISHED, DONE], ["раз", "два"]),
        ([delta("раз"), FINISHED], ["раз", "два"]),
        ([delta("раз"), DONE], ["раз"]),
        ([DONE], []),
        ([delta("раз"), DONE, delta("лишнее"), b"\xff"], ["раз"]),
        ([FINISHED, event({"choices": [], "usage": {"total_tokens": 1}}), DONE], ["два"]),
        ([FINISHED, DONE[:-1]], ["два"]),
        ([FINISHED, b"data: {half"], ["два"]),
        ([b": ping\n\n", b"event: ping\ndata: {}\n\n", FINISHED, DONE], ["два"]),
        ([delta("a", "length")], ["a"]),
        ([delta("a", "blacklist")], ["a"]),
        ([delta("", "function_call")], [""]),
        ([delta("a", "new_reason")], ["a"]),
    ],
    ids=range(13),
)
def test_complete_streams(call, pieces, expected, end):
    """[DONE] or any finish_reason ends a stream well, whatever the connection does then."""
    with RawServer(streaming(*pieces, end=end)) as server, raw_client(server) as client:
        assert contents(call(client, "stream", "Привет")) == expected


@pytest.mark.parametrize("missing", [1, 2])
def test_last_blank_line_is_missing(call, missing):
    """The end of the answer completes its last event."""
    with RawServer(streaming(delta("раз"), FINISHED[:-missing])) as server, raw_client(server) as client:
        assert contents(call(client, "stream", "Привет")) == ["раз", "два"]


@pytest.mark.parametrize("end", [LAST_CHUNK, b""], ids=["whole", "cut"])
@pytest.mark.parametrize(
    ("pieces", "delivered"),
    [
        ([], []),
        ([delta("раз")], ["раз"]),
        ([delta("раз"), delta("два")], ["раз", "два"]),
        ([delta("раз"), FINISHED[:20]], ["раз"]),
        ([delta("раз"), b": ping\n\n"], ["раз"]),
        ([b"\n\n"], []),
    ],
    ids=range(6),
)
def test_cut_streams(call, pieces, delivered, end):
    """A stream without its end raises StreamInterruptedError, behind the chunks that came."""
    with RawServer(streaming(*pieces, end=end)) as server, raw_client(server, max_retries=3) as client:
        got = []
        with pytest.raises(StreamInterruptedError):
            collect(call, client, got)
        assert contents(got) == delivered
        assert len(server.requests) == 1


def collect(call, client, got):
    """Read a stream into *got*, so that what came before an error is there too."""
    if call.__name__ == "call_sync":
        for one in client.stream("Привет"):
            got.append(one)
        return

    async def run():
        async for one in client.astream("Привет"):
            got.append(one)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("piece", "kind", "text"),
    [
        (event({"status": 429, "message": "Слишком часто"}), RateLimitError, "429 .*Слишком часто"),
        (event({"status": 500, "message": "Сбой"}), ServerError, "500 .*Сбой"),
        (event({"error": {"status": 400, "message": "Плохо"}}), BadRequestError, "400 .*Плохо"),
        (event({"error": {"message": "Плохо"}}), ResponseError, "Плохо"),
        (event({"code": 7, "message": "Плохо"}), ResponseError, "Плохо"),
        (b"event: error\n" + event({"message": "Плохо"}), ResponseError, "Плохо"),
        (b"event: error\n" + event("просто текст"), GigaChatException, "просто текст"),
        (event({"choices": 7}), InvalidResponseError, "choices|list"),
        (event({"status": "odd"}), InvalidResponseError, "choices"),
        (event("не JSON"), InvalidResponseError, "не JSON"),
        (event("[]"), InvalidResponseError, "object"),
        (b"data: \xff\n\n", InvalidResponseError, "JSON"),
        (event("[" * 100_000), InvalidResponseError, "JSON"),
    ],
    ids=range(13),
)
def test_errors_inside_streams(call, piece, kind, text):
    """An error that comes as an event is the exception of its status; what is no chunk is an InvalidResponseError."""
    pieces = [delta("раз"), piece, FINISHED, DONE]
    with RawServer(streaming(*pieces)) as server, raw_client(server, max_retries=3, max_connections=1) as client:
        got = []
        with pytest.raises(kind, match=text):
            collect(call, client, got)
        assert contents(got) == ["раз"]
        assert len(server.requests) == 1
        with pytest.raises(kind):  # the connection's place is free again
            collect(call, client, got)


# ---------- leaving a stream


@pytest.fixture
def holding():
    """A server whose streams bring one chunk and then nothing, until the client closes; other calls are answered."""

    def handler(wire):
        while True:
            request = wire.receive()
            if request is None:
                return
            if request.json.get("stream"):
                wire.send(STREAM_HEAD, chunk(delta("раз")))
                wire.wait_for_close()
                return
            wire.send(answer())

    with RawServer(handler) as server:
        yield server


def leave_with_close(client):
    stream = client.stream("Привет")
    assert contents([next(stream)]) == ["раз"]
    stream.close()
    stream.close()
    return stream


def leave_with_block(client):
    with client.stream("Привет") as stream:
        assert contents([next(stream)]) == ["раз"]
    return stream


def leave_with_break(client):
    for one in client.stream("Привет"):
        assert contents([one]) == ["раз"]
        break
    gc.collect()  # where references are not counted


def leave_with_error(client):
    with pytest.raises(ZeroDivisionError), client.stream("Привет") as stream:
        next(stream)
        1 / 0  # noqa: B018
    return stream


async def leave_async_with_close(client):
    stream = client.astream("Привет")
    assert contents([await stream.__anext__()]) == ["раз"]
    await stream.aclose()
    await stream.aclose()
    return stream


async def leave_async_with_block(client):
    async with client.astream("Привет") as stream:
        async for _ in stream:
            break
    return stream


async def leave_async_with_break(client):
    async for one in client.astream("Привет"):
        assert contents([one]) == ["раз"]
        break
    gc.collect()


async def leave_async_with_timeout(client):
    stream = client.astream("Привет")
    await stream.__anext__()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(stream.__anext__(), 0.02)
    return stream


async def leave_async_by_cancelling(client):
    entered = asyncio.Event()

    async def read():
        async for _ in client.astream("Привет"):
            entered.set()

    task = asyncio.get_running_loop().create_task(read())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "leave",
    [
        leave_with_close,
        leave_with_block,
        leave_with_break,
        leave_with_error,
        leave_async_with_close,
        leave_async_with_block,
        leave_async_with_break,
        leave_async_with_timeout,
        leave_async_by_cancelling,
    ],
)
def test_leaving_early(holding, leave):
    """Leaving a stream early closes its connection at once, and the next call has its place in the pool."""
    with raw_client(holding, max_connections=1) as client:
        left = leave(client)
        if asyncio.iscoroutine(left):
            left = asyncio.run(left)
        holding.wait(lambda: holding.closed == 1)
        assert client.chat("Привет").choices
        assert asyncio.run(client.achat("Привет")).choices
        del left


def test_left_streams_are_over(holding):
    """A stream that was left gives no more chunks, and raises nothing but the end."""
    with raw_client(holding) as client:
        assert list(leave_with_close(client)) == []

        async def rest():
            return [one async for one in await leave_async_with_close(client)]

        assert asyncio.run(rest()) == []


def test_stream_that_is_never_read(holding):
    """A stream sends nothing before it is iterated, and can be closed unread."""
    with raw_client(holding) as client:
        client.stream("Привет").close()
        with client.stream("Привет"):
            pass
        asyncio.run(client.astream("Привет").aclose())
        unread = [client.stream("Привет"), client.astream("Привет")]
    assert holding.connections == 0
    del unread


def test_finished_streams_keep_the_connection(echo):
    """A stream that was read to its end, or to its last chunk, gives its connection back."""
    with raw_client(echo, max_connections=1) as client:
        for _ in range(3):
            with client.stream("Привет") as stream:
                list(stream)
                assert list(stream) == []
            client.chat("Привет")
    assert echo.connections == 1


def test_close_from_another_thread(holding):
    """close() from another thread ends the read that is under way; the reader gets an end or an APIConnectionError."""
    with raw_client(holding, max_connections=1) as client:
        stream = client.stream("Привет")
        next(stream)
        over = []

        def read():
            try:
                over.append(list(stream))
            except APIConnectionError as error:
                over.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        stream.close()
        reader.join(WAIT_SECONDS)
        assert not reader.is_alive()
        assert over[0] == [] or "the stream was closed" in str(over[0])
        holding.wait(lambda: holding.closed == 1)
        assert client.chat("Привет").choices


def test_close_before_the_answer():
    """close() from another thread works before the head of the answer has come, too."""

    def handler(wire):
        wire.receive()
        wire.wait_for_close()

    with RawServer(handler) as server, raw_client(server) as client:
        stream = client.stream("Привет")
        failures = []

        def read():
            try:
                list(stream)
            except APIConnectionError as error:
                failures.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        server.wait(lambda: len(server.requests) == 1)
        stream.close()
        reader.join(WAIT_SECONDS)
        assert not reader.is_alive()
        assert len(failures) == 1
        server.wait(lambda: server.closed == 1)


def test_aclose_from_another_task(holding):
    """aclose() from another task ends the read that is under way; its task gets no more than an APIConnectionError."""
    with raw_client(holding, max_connections=1) as client:

        async def run():
            stream = client.astream("Привет")
            await stream.__anext__()
            reader = asyncio.ensure_future(stream.__anext__())
            await asyncio.sleep(0.01)
            await stream.aclose()
            (over,) = await asyncio.gather(reader, return_exceptions=True)
            assert isinstance(over, (APIConnectionError, StopAsyncIteration))

        asyncio.run(run())
        holding.wait(lambda: holding.closed == 1)
        assert client.chat("Привет").choices


def test_first_chunk_is_not_held_back(holding, call):
    """The first chunk reaches the caller when it arrives, although the server says nothing more."""
    with raw_client(holding) as client:
        if call.__name__ == "call_sync":
            with client.stream("Привет") as stream:
                assert contents([next(stream)]) == ["раз"]
        else:
            assert asyncio.run(leave_async_with_block(client))


def test_streams_side_by_side(settings, server):
    """Streams that are read in turns do not disturb each other."""
    with GigaChat(**{**settings, "ca_bundle_file": str(CERTS / "ca.pem")}) as client:
        questions = [f"Вопрос номер {number}" for number in range(5)]
        streams = [client.stream(question) for question in questions]
        texts = ["" for _ in questions]
        while streams:
            for number, stream in list(enumerate(streams)):
                one = next(stream, None) if stream is not None else None
                streams[number] = stream if one is not None else None
                texts[number] += (one.choices[0].delta.content or "") if one is not None else ""
            if not any(streams):
                break
        assert all(question in text for question, text in zip(questions, texts))


def test_module_defaults():
    """The path of chats is a context variable with the API's path as its default."""
    import contextvars

    assert contextvars.Context().run(gigachat_lite.chat_url_cvar.get) == "/chat/completions"
