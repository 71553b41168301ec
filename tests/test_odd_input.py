"""Odd input of callers: a right request or a clear error, and nothing half sent."""

import decimal
import io
import json
import math
import threading

import pytest
from faults import RawServer, always, answer, echo, well_behaved

from gigachat_lite import Chat, ConfigurationError, Function, GigaChat, GigaChatException, Messages, MessagesRole


def raw_client(server, **settings):
    """Make a client of a RawServer; it needs no token request."""
    return GigaChat(**{"base_url": server.base_url, "access_token": "token", "timeout": 20, **settings})


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
    "generator": (text for text in ("a", "b")),
    "generator of messages": {"messages": (text for text in ("a", "b"))},
    "set": {"a", "b"},
    "set inside": message(a={1, 2}),
    "iterator": iter(["a"]),
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
def test_refused(call, payload):
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_retries", -1),
        ("max_retries", 1.5),
        ("max_retries", "many"),
        ("max_retries", True),
        ("max_retries", math.inf),
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", math.nan),
        ("timeout", math.inf),
        ("timeout", 1e300),
        ("timeout", "soon"),
        ("max_connections", 0),
        ("max_connections", -5),
        ("max_connections", 2.5),
        ("retry_backoff_factor", -1),
        ("retry_backoff_factor", math.nan),
        ("retry_on_status_codes", [99]),
        ("retry_on_status_codes", 503),
        ("token_expiry_buffer_ms", -1),
        ("token_expiry_buffer_ms", 1.5),
    ],
)
def test_numbers_that_cannot_work(monkeypatch, name, value):
    """They are refused at once, by argument and by environment variable."""
    with pytest.raises(ConfigurationError, match=name):
        GigaChat(**{name: value})
    if not isinstance(value, list) and value is not True and value != 503:
        monkeypatch.setenv(f"GIGACHAT_{name.upper()}", str(value))
        with pytest.raises(ConfigurationError, match=name.upper()):
            GigaChat()


def test_answer_that_is_no_model_of_ours(call):
    """What a caller does with values of odd types is his; reading them raises AttributeError and nothing else."""
    with RawServer(always(answer({"choices": [{"message": {"content": None}}]}))) as server:
        with raw_client(server) as client:
            completion = call(client, "chat", "x")
            assert completion.choices[0].message.content is None or completion.choices[0].message.content == ""
            with pytest.raises(AttributeError, match="no attribute"):
                completion.unknown  # noqa: B018
    assert not isinstance(completion, GigaChatException)
