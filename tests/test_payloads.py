"""Payloads of chats and batches: each form becomes its JSON; what cannot be sent is a clear error, before sending."""

import copy
import dataclasses
import datetime as dt
import decimal
import enum
import io
import json
import math
import threading

import pytest
from conftest import raw_client
from faults import LAST_CHUNK, STREAM_HEAD, RawServer, always, answer, chunk, closing, echo, resetting, well_behaved

from gigachat_lite import (
    APIConnectionError,
    APITimeoutError,
    Batch,
    Chat,
    ChatCompletion,
    ChatFunctionCall,
    Function,
    FunctionCall,
    GigaChatException,
    Messages,
    MessagesRole,
    Storage,
    StreamInterruptedError,
    UploadedFile,
    chat_url_cvar,
)

METHODS = ["chat", "stream"]
USER = {"role": "user", "content": "Привет"}
ASKED = {"model": "GigaChat", "messages": [USER]}


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
        {**ASKED, "functions": [WEATHER], "function_call": {"name": "weather", "partial_arguments": {"city": None}}},
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


def received(server):
    """Give the last body that a RawServer received, without what only says that it is a stream."""
    request = server.requests[-1]
    body = request.json
    assert body.pop("stream", None) == (True if request.headers["accept"] == "text/event-stream" else None)
    return body


@pytest.mark.parametrize(("payload", "body"), PAYLOADS, ids=range(len(PAYLOADS)))
def test_payloads(raw_server, ask, payload, body):
    """Each form of a payload becomes this JSON; the payload itself is left as it was."""
    before = copy.deepcopy(payload)
    with raw_client(raw_server) as client:
        assert ask(client, payload)
    assert received(raw_server) == (body or {**ASKED, "messages": payload["messages"]})
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
def test_settings_fill_in(raw_server, ask, payload, body):
    """The client's model, profanity_check and flags fill in what a payload leaves open; False and [] count as said."""
    with raw_client(raw_server, model="GigaChat-2", profanity_check=False, flags=["a", "b"]) as client:
        ask(client, payload)
    assert received(raw_server) == {**body, "messages": [USER]}


@pytest.mark.parametrize("path", ["/chat/completions/../x", "/my/chat", "/chat?a=b"])
def test_chat_url_cvar(raw_server, ask, path):
    """chat_url_cvar replaces the path of chats and streams."""
    chat_url_cvar.set(path)
    with raw_client(raw_server) as client:
        ask(client, "Привет")
    assert raw_server.requests[-1].target == "/api/v1" + path


@pytest.mark.parametrize("path", ["", "chat", "/chat completions", "/чат", "/chat\r\nX-Evil: 1", None, 7, "http://x/"])
def test_bad_chat_url(raw_server, ask, path):
    """A chat_url_cvar that is no path is named in a ValueError before anything is sent."""
    chat_url_cvar.set(path)
    with raw_client(raw_server) as client, pytest.raises(ValueError, match="chat_url_cvar"):
        ask(client, "Привет")
    assert raw_server.connections == 0


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
def test_bad_payloads(raw_server, ask, payload, kind):
    """What cannot be sent is a TypeError or ValueError with a text, before anything is sent."""
    with raw_client(raw_server) as client, pytest.raises(kind) as caught:
        ask(client, payload)
    assert type(caught.value) is kind
    assert str(caught.value)
    assert raw_server.connections == 0


@pytest.mark.parametrize("additional", [[("x", 1)], "x", 7, ["x"]])
def test_bad_additional_fields(raw_server, ask, additional):
    """additional_fields that are no dict are named in a TypeError or ValueError."""
    with raw_client(raw_server) as client, pytest.raises((TypeError, ValueError)):
        ask(client, {"messages": ["Привет"], "additional_fields": additional})
    assert raw_server.connections == 0


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


def nested(depth):
    value = "x"
    for _ in range(depth):
        value = [value]
    return value


def inside_itself(kind):
    value = kind()
    if kind is dict:
        value["value"] = value
    else:
        value.append(value)
    return value


def message(**fields):
    return {"messages": [{"role": "user", "content": "x", **fields}]}


REFUSED = {
    "surrogate": "a\ud800b",
    "surrogate in a key": message(**{"\ud800": 1}),
    "surrogate in a role": {"messages": [{"role": "\udfff", "content": "x"}]},
    "nan": {**message(), "temperature": math.nan},
    "infinity": {**message(), "top_p": math.inf},
    "nan inside": message(deep=[{"a": math.nan}]),
    "bytes": b"hello",
    "bytes in content": message(content=b"hello"),
    "bytes in a key": message(a={b"x": 1}),
    "bytearray": bytearray(b"x"),
    "set": {"a", "b"},
    "set inside": message(a={1, 2}),
    "none": None,
    "number": 5,
    "list of numbers": [5],
    "list of bytes": [b"x"],
    "decimal": {**message(), "temperature": decimal.Decimal("0.5")},
    "complex": message(a=1j),
    "object": message(a=object()),
    "function": message(a=print),
    "file": message(a=io.StringIO("x")),
    "tuple as a key": message(a={(1, 2): 3}),
    "dict inside itself": message(a=inside_itself(dict)),
    "list inside itself": message(a=inside_itself(list)),
    "payload inside itself": inside_itself(dict),
    "messages inside themselves": inside_itself(list),
    "too deep": message(a=nested(100_000)),
    "exception": ValueError("x"),
    "class": Chat,
}


@pytest.mark.parametrize("payload", REFUSED.values(), ids=list(REFUSED))
def test_refused_by_every_call(call, payload):
    """What cannot be said in JSON is a ValueError or TypeError, for each kind of call, and nothing is sent."""
    with RawServer(well_behaved) as server, raw_client(server) as client:
        for name, argument in (
            ("chat", payload),
            ("stream", payload),
            ("threads.run_messages", [payload]),
            ("create_batch", [payload]),
        ):
            with pytest.raises((ValueError, TypeError)) as caught:
                call(client, name, argument)
            assert len(str(caught.value)) > 5 and len(str(caught.value)) < 1000
        assert server.connections == 0


@pytest.mark.parametrize("argument", [None, 5, b"x", "", [], {}, object(), ["x"], True, "\ud800"])
def test_wrong_ids(call, argument):
    """An id that is none is refused before anything is sent: "GET /models/" would be another request."""
    with RawServer(well_behaved) as server, raw_client(server) as client:
        for name in ("get_model", "get_file", "delete_file", "get_image", "download_file"):
            with pytest.raises((ValueError, TypeError)):
                call(client, name, argument)
        assert server.connections == 0


@pytest.mark.parametrize("texts", [None, 5, b"x", [b"x"], [None], {"a": 1}, object(), "\ud800", ["\ud800"]])
def test_wrong_texts(call, texts):
    """The same of texts to embed or to count."""
    with RawServer(well_behaved) as server, raw_client(server) as client:
        for name in ("embeddings", "tokens_count"):
            with pytest.raises((ValueError, TypeError)):
                call(client, name, texts)
        assert server.connections == 0


@pytest.mark.parametrize(
    "file",
    [
        None,
        5,
        [],
        {},
        object(),
        io.StringIO("text"),
        ("a",),
        ("a", 5),
        (),
        ("a", b"x", "b\r\nc"),
        ("a", b"x", None, {"X-A": "b\r\nc"}),
        ("a", b"x", None, {"A\r\n": "b"}),
        ("\ud800", b"x"),
    ],
)
def test_wrong_files(call, file):
    """The same of files."""
    with RawServer(well_behaved) as server, raw_client(server) as client:
        with pytest.raises((ValueError, TypeError)):
            call(client, "upload_file", file)
        assert server.connections == 0


TEXTS = {
    "empty": "",
    "nul": "a\0b",
    "controls": "".join(map(chr, range(32))) + "\x7f\x85",
    "line separators": "a\u2028b\u2029c",
    "emoji": "👨\u200d👩\u200d👧 \U0010ffff \ufeff",
    "not normalised": "й й ﷺ",
    "right to left": "\u202eabc",
    "json": '{"a": "\\u0000"}\\',
    "one long line": "ы" * 100_000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_texts_arrive(call, text):
    """Any text of real characters arrives as it is, and comes back so."""
    with RawServer(always(echo)) as server, raw_client(server) as client:
        assert call(client, "chat", text).choices[0].message.content == text
        assert server.requests[0].json["messages"][0]["content"] == text


def test_large_prompt(call):
    """10 MB of text go out and come back."""
    text = "я" * 5_000_000
    with RawServer(always(echo)) as server, raw_client(server) as client:
        assert call(client, "chat", text).choices[0].message.content == text
        assert int(server.requests[0].headers["content-length"]) > 10_000_000


def test_odd_but_right(call):
    """Subclasses, enums, tuples, long and small numbers are no reason to refuse."""

    class Text(str):
        __slots__ = ()

    class Number(int):
        pass

    payload = {
        "messages": ({"role": MessagesRole.USER, "content": Text("x"), "n": Number(5), 7: [None]},),
        "temperature": 1e-300,
        "long": 10**400,
        "none": None,
        "empty": {},
    }
    before = json.dumps(payload, default=str)
    with RawServer(always(echo)) as server, raw_client(server) as client:
        assert call(client, "chat", payload).choices[0].message.content == "x"
        sent = server.requests[0].json
        assert sent["messages"] == [{"role": "user", "content": "x", "n": 5, "7": [None]}]
        assert sent["long"] == 10**400 and sent["temperature"] == 1e-300 and sent["empty"] == {}
    assert json.dumps(payload, default=str) == before


def test_models_inside_themselves():
    """Models refuse what holds itself, when they are made or when they are sent, with a clear error."""
    ring = inside_itself(dict)
    with RawServer(well_behaved) as server, raw_client(server) as client:
        for make in (
            lambda: Chat(messages=[ring]),
            lambda: Chat.from_dict(ring),
            lambda: Messages(role="x", content=ring),
            lambda: Function(name="x", parameters=ring),
            lambda: client.validate_function(ring),
        ):
            with pytest.raises(ValueError, match=r"itself|deep|ircular"):
                client.chat(make())
        assert server.connections == 0


def test_payload_that_changes_meanwhile():
    """A payload that another thread changes is sent as it was at some moment, or refused; never garbled."""
    payload = message(a={})
    stop = threading.Event()

    def change():
        number = 0
        while not stop.is_set():
            number += 1
            payload["messages"][0]["a"][str(number % 100)] = number
            payload["messages"][0]["a"].pop(str((number + 50) % 100), None)

    changer = threading.Thread(target=change)
    with RawServer(always(echo)) as server, raw_client(server) as client:
        changer.start()
        try:
            for _ in range(50):
                try:
                    client.chat(payload)
                except RuntimeError as error:  # the dict changed size: the caller's own doing
                    assert "changed" in str(error)
        finally:
            stop.set()
            changer.join()
        for request in server.requests:
            assert request.json["messages"][0]["content"] == "x"


def test_answer_that_is_no_model_of_ours(call):
    """What a caller does with values of odd types is his; reading them raises AttributeError and nothing else."""
    with RawServer(always(answer({"choices": [{"message": {"content": None}}]}))) as server:
        with raw_client(server) as client:
            completion = call(client, "chat", "x")
            assert completion.choices[0].message.content is None or completion.choices[0].message.content == ""
            with pytest.raises(AttributeError, match="no attribute"):
                completion.unknown  # noqa: B018
    assert not isinstance(completion, GigaChatException)


# ---------- what is as good as a list


class Vector:
    """What numpy and pandas have in common."""

    def __init__(self, *values):
        self._values = values

    def tolist(self):
        return list(self._values)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Messages(role="user", content="Привет"),
        lambda: (text for text in ["Привет"]),
        lambda: iter([Messages(role="user", content="Привет")]),
        lambda: Vector("Привет"),
        lambda: {"messages": (message for message in [USER])},
        lambda: Chat(messages=(message for message in [USER])),
    ],
)
def test_as_good_as_a_list(raw_server, ask, make):
    """A single message, generators and vectors of numpy and pandas are taken for lists of messages."""
    with raw_client(raw_server) as client:
        assert ask(client, make())
    assert received(raw_server) == ASKED


@pytest.mark.parametrize("make", [lambda: (text for text in "ab"), lambda: ("a", "b"), lambda: Vector("a", "b")])
def test_texts_as_good_as_a_list(client, server, call, make):
    """So are they for lists of texts."""
    assert [one.index for one in call(client, "embeddings", make()).data] == [0, 1]
    assert json.loads(server.requests[-1].body)["input"] == ["a", "b"]
    assert len(call(client, "tokens_count", make())) == 2


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Plan:
    steps: list
    color: Color = Color.RED


WRONG = [
    ({}, r'no "messages"'),
    (USER, r'no "messages"; a single message goes into a list'),
    ([], "empty"),
    ({"messages": []}, "empty"),
    (["a", 5], r"\$\.messages\[1\] must be Messages, a dict or str, not int"),
    ([{"role": "user", "content": 5}], r"\$\.messages\[0\]\.content must be text, not int"),
    ({"messages": ["a", {"role": 7, "content": "x"}]}, r"\$\.messages\[1\]\.role must be text, not int"),
    ({"messages": ["a"], "model": 5}, r"\$\.model must be text, not int"),
    ({"messages": ["a"], "functions": {}}, r"\$\.functions must be a list, not dict"),
    ({"messages": ["a"], "functions": [{"name": "f"}, 5]}, r"\$\.functions\[1\] must be an object, not int"),
    ({"messages": ["a"], "flags": "x"}, r"\$\.flags must be a list, not str"),
    ({"messages": ["a"], "max_tokens": Vector(5)}, r"\$\.max_tokens is Vector, .*value\.tolist\(\)"),
    ({"messages": ["a"], "top_p": decimal.Decimal(1)}, r"\$\.top_p is Decimal, .*float\(value\)"),
    ({"messages": ["a"], "x": [{"at": dt.date(2026, 1, 1)}]}, r"\$\.x\[0\]\.at is date, .*value\.isoformat\(\)"),
    ({"messages": ["a"], "x": {1}}, r"\$\.x is set, .*list\(value\)"),
    ({"messages": ["a"], "x": b"x"}, r"\$\.x is bytes, .*value\.decode\(\)"),
    ({"messages": ["a"], "x": Plan([Odd()])}, r"\$\.x\.steps\[0\] is Odd, which has no form in JSON"),
    ({"messages": ["a"], "x": [1.0, math.nan]}, r"\$\.x\[1\] is nan"),
    ({"messages": ["a", "\ud83d"]}, r"\$\.messages\[1\]\.content: .*half of a surrogate pair"),
]


@pytest.mark.parametrize(("payload", "said"), WRONG, ids=range(len(WRONG)))
def test_mistakes_and_their_places(raw_server, ask, payload, said):
    """What is wrong with a payload is said with its place, and what to write instead, before anything is sent."""
    with raw_client(raw_server) as client, pytest.raises((TypeError, ValueError), match=said):
        ask(client, payload)
    assert raw_server.connections == 0


@pytest.mark.parametrize(
    ("texts", "said"), [(["a", None], "text 1 of the list must be str, not NoneType"), (Vector("a", 5), "text 1")]
)
def test_wrong_text_of_a_list(raw_server, call, texts, said):
    """The same of texts."""
    with raw_client(raw_server) as client:
        for method in ("embeddings", "tokens_count"):
            with pytest.raises(TypeError, match=said):
                call(client, method, texts)
    assert raw_server.connections == 0


def test_enums_and_dataclasses(raw_server, ask):
    """Enums go out by value, dataclasses as objects."""
    with raw_client(raw_server) as client:
        ask(client, {"messages": ["Привет"], "color": Color.RED, "plan": Plan([1])})
    assert received(raw_server) == {**ASKED, "color": "red", "plan": {"steps": [1], "color": "red"}}


@pytest.mark.parametrize("content", [{"t": None}, [1, "два"], Plan([1]), 5, Color.RED], ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("make", [dict, Messages])
def test_results_of_functions(raw_server, ask, make, content):
    """What a function gave is sent as JSON text."""
    with raw_client(raw_server) as client:
        ask(client, ["Привет", make(role=MessagesRole.FUNCTION, name="f", content=content)])
    sent = received(raw_server)["messages"][1]
    known = {Plan: {"steps": [1], "color": "red"}, Color: "red"}
    assert (sent["role"], sent["name"]) == ("function", "f")
    assert json.loads(sent["content"]) == known.get(type(content), content)
    assert "\\u" not in sent["content"]


def test_attachments_of_uploaded_files(raw_server, ask):
    """What upload_file() gave may stand for its id."""
    message = Messages(role="user", content="x", attachments=[UploadedFile(id="f-1"), "f-2"])
    with raw_client(raw_server) as client:
        ask(client, [message])
    assert received(raw_server)["messages"][0]["attachments"] == ["f-1", "f-2"]


# ---------- halves of characters


@pytest.mark.parametrize("place", ["text", "key", "other"])
def test_halves_are_joined(raw_server, ask, place):
    """The halves of a character that two pieces of an answer brought are joined when they are sent back."""
    halves, whole = "a\ud83d\ude00b", "a😀b"
    with raw_client(raw_server) as client:
        if place == "text":
            ask(client, [halves])
            assert received(raw_server)["messages"][0]["content"] == whole
        else:
            field = {halves: 1} if place == "key" else [halves]
            ask(client, {"messages": ["x"], "x": field})
            assert received(raw_server)["x"] == ({whole: 1} if place == "key" else [whole])


@pytest.mark.parametrize("text", ["\ude00\ud83d", "\ud83d", "\ud83d\ud83d\ude00", "\ud83d \ude00"])
def test_lone_halves_are_refused(raw_server, call, text):
    """A half without the other is refused, in bodies of text too."""
    with raw_client(raw_server) as client:
        for name in ("chat", "openapi_function_convert"):
            with pytest.raises(ValueError, match="half of a surrogate pair"):
                call(client, name, text)
    assert raw_server.connections == 0


def test_halves_in_a_document(call):
    """An OpenAPI document is text like any other."""
    with RawServer(always(answer({"functions": []}))) as server, raw_client(server) as client:
        call(client, "openapi_function_convert", "\ud83d\ude00")
        assert server.requests[0].body == "😀".encode()


# ---------- JSON Lines

LINES = [{"id": str(number), "result": {"текст": "\u2028" * number}} for number in range(5)]
BATCH = {"id": "b", "method": "chat_completions", "status": "completed", "output_file_id": "f"}


@pytest.mark.parametrize("end", [b"\n", b"", b"\r\n\r\n\n"])
def test_json_lines(call, end):
    """The results of a batch, cut anywhere; a last line without its end counts."""
    body = b"\n".join(json.dumps(line, ensure_ascii=False).encode() for line in LINES) + end
    pieces = [chunk(body[at : at + 7]) for at in range(0, len(body), 7)]
    with RawServer(closing(STREAM_HEAD, *pieces, LAST_CHUNK)) as server, raw_client(server) as client:
        assert [line.id for line in call(client, "batch_results", Batch.from_dict(BATCH))] == list("01234")


@pytest.mark.parametrize("end", [closing, resetting])
def test_json_lines_broken_off(call, end):
    """Results that break off are an error."""
    body = b"\n".join(json.dumps(line).encode() for line in LINES)
    with RawServer(end(STREAM_HEAD, chunk(body[:60]))) as server, raw_client(server, max_connections=1) as client:
        for _ in range(2):  # the first leaves its place to the second
            with pytest.raises(APIConnectionError) as caught:
                call(client, "batch_results", Batch.from_dict(BATCH))
            assert type(caught.value) is not APITimeoutError


def test_timeout_is_one_of_connection_errors():
    """Who catches connection errors catches a stream's silence too."""
    assert issubclass(APITimeoutError, APIConnectionError) and issubclass(StreamInterruptedError, APIConnectionError)


@pytest.mark.parametrize("wrap", [list, tuple, iter, lambda messages: (message for message in messages)])
def test_a_request_leaves_the_callers_messages_alone(wrap):
    """However the messages come, the request has copies of its own."""
    mine = [{"role": "function", "name": "f", "content": {"a": 1}}, {"role": "user", "content": None}]
    before = copy.deepcopy(mine)
    for chat in (Chat.from_dict({"messages": wrap(mine)}), Chat(messages=wrap(mine))):
        chat.messages[0].name = "other"
        chat.messages[1].content = "other"
    assert mine == before
