"""Seeded fuzzing: recorded answers with bytes changed. The outcome is a right value or a GigaChatException, always.

They come from a server on a real socket; only the cutting of events and of chunks is also tried without one.
FUZZ=10 in the environment makes ten times as many of them.
"""

import json
import os
import random
import socket
import threading

import pytest
from conftest import raw_client
from faults import COMPLETION, DONE, LAST_CHUNK, RawServer, answer, chunk, delta, event

from gigachat_lite import (
    APIConnectionError,
    GigaChat,
    GigaChatException,
    JSONObject,
    ResponseError,
    _EventParser,
    _Head,
    _NotHTTP,
    _Payload,
)

DEPTH = int(os.environ.get("FUZZ", "1"))
CALL = {
    "choices": [
        {
            "message": {
                "role": "assistant",
                "content": "",
                "function_call": {"name": "погода", "arguments": {"city": "Москва", "days": [1, 2.5e3, None, True]}},
                "functions_state_id": "77d3fb14-457a-46ba-937e-8d856156d003",
            },
            "index": 0,
            "finish_reason": "function_call",
        }
    ],
    **{name: COMPLETION[name] for name in ("created", "model", "object", "usage")},
}
ANSWERS = [
    (lambda client: client.chat("x"), (), COMPLETION),
    (lambda client: client.chat("x"), (), CALL),
    (
        lambda client: client.chat.create("x"),
        (),
        {"messages": [{"role": "assistant", "content": [{"text": "да", "inline_data": {"sources": {"1": {}}}}]}]},
    ),
    (
        GigaChat.get_models,
        (),
        {
            "data": [{"id": "GigaChat", "object": "model", "owned_by": "salutedevices", "type": "chat"}],
            "object": "list",
        },
    ),
    (
        GigaChat.embeddings,
        ("x",),
        {"data": [{"embedding": [0.5, -1e-3], "index": 0, "usage": {"prompt_tokens": 6}}], "object": "list"},
    ),
    (
        GigaChat.get_files,
        (),
        {"data": [{"id": "f", "bytes": 120, "filename": "a.txt", "purpose": "general", "access_policy": "private"}]},
    ),
    (
        GigaChat.openapi_function_convert,
        ("x",),
        {"functions": [{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}]},
    ),
    (
        lambda client: client.threads.get_messages("t"),
        (),
        {"thread_id": "t", "messages": [{"message_id": "m", "role": "user", "attachments": [{"file_id": "f"}]}]},
    ),
]
STREAM = (
    b": hello\r\n\r\n"
    + delta("Привет\u2028")
    + b"event: message\nid: 5\n"
    + delta("мир 🙂")
    + event({"choices": [{"delta": {"function_call": CALL["choices"][0]["message"]["function_call"]}, "index": 0}]})
    + delta("", "stop")
    + DONE
)
PIECES = [
    b"",
    b"\x00",
    b"\xff",
    b"\xc3",
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\n",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"0",
    b"-",
    b"9" * 5000,
    b"1e999",
    b"NaN",
    b"-Infinity",
    b"null",
    b"true",
    b'"\\ud800"',
    b"[" * 3000,
    b'{"a":' * 3000,
    b"data:",
    b"data: [DONE]\n\n",
    b"event: error\n",
    b'{"status":429,"message":"x"}',
    b"\xef\xbb\xbf",
    b'"__class__":1,',
    b'"to_dict":1,',
    b'"_adopt":1,',
    b"0\r\n\r\n",
    b"fffffffffff\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b": \r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
]


def mutate(rnd, data):
    """Change, drop, double, insert or cut a few bytes; each place is as likely as any other."""
    changed = bytearray(data)
    for _ in range(rnd.choice((1, 1, 1, 2, 3, 8))):
        at = rnd.randrange(len(changed) + 1)
        kind = rnd.randrange(6)
        if kind == 0 and at < len(changed):
            changed[at] = rnd.randrange(256)
        elif kind == 1:
            del changed[at : at + rnd.choice((1, 1, 2, 10, 100))]
        elif kind == 2:
            changed[at:at] = rnd.choice(PIECES)
        elif kind == 3:
            changed[at:at] = changed[at : at + rnd.randrange(40)]
        elif kind == 4 and at < len(changed):
            changed[at] ^= 1 << rnd.randrange(8)
        elif kind == 5 and rnd.randrange(4) == 0:
            del changed[at:]
    return bytes(changed)


def cut_up(rnd, data):
    """Cut bytes into parts of any size, as they come off a network."""
    at = 0
    while at < len(data):
        size = rnd.choice((1, 2, 7, 50, 1000, 100_000))
        yield data[at : at + size]
        at += size


def use(value):
    """Do with a value what callers do."""
    assert isinstance(value, JSONObject)
    assert len(repr(value)) > 0
    JSONObject.to_dict(value)
    assert type(value).from_dict(JSONObject.to_dict(value)) is not None


class Playing(RawServer):
    """Answers each request with ``parts``, sent one by one; ``closing``: and then closes."""

    def __init__(self):
        super().__init__(self.play)
        self.parts, self.closing = [], False

    def play(self, wire):
        while wire.receive() is not None:
            wire.send(*self.parts)
            if self.closing:
                return


def test_answers():
    """4,000 JSON answers."""
    rnd = random.Random(1)
    right = 0
    with Playing() as server, raw_client(server) as client:
        for number in range(4000 * DEPTH):
            method, arguments, value = ANSWERS[number % len(ANSWERS)]
            server.parts = [answer(mutate(rnd, json.dumps(value, ensure_ascii=False).encode()))]
            try:
                model = method(client, *arguments)
            except GigaChatException as error:
                assert len(str(error)) < 1000
            else:
                use(model)
                right += 1
        assert server.connections == 1
    assert 400 < right < 3600 * DEPTH  # both ends are reached


def test_errors():
    """1,500 error answers."""
    rnd = random.Random(2)
    bodies = [
        b'{"status":404,"message":"No such model"}\n',
        '{"code":7,"message":"нет"}'.encode(),
        b"<html><body><h1>502 Bad Gateway</h1></body></html>",
        b'{"error":{"message":"quux7"}}',
    ]
    with Playing() as server, raw_client(server, access_token="quux7") as client:
        for number in range(1500 * DEPTH):
            body = mutate(rnd, bodies[number % 4])
            after = rnd.choice(
                ("5", "soon", "-1", "inf", "Wed, 21 Oct 2099 07:28:00 GMT", mutate(rnd, b"Wed, 21").decode("latin-1"))
            )
            after = "".join(character for character in after if character not in "\r\n\0")
            status = rnd.choice((400, 403, 404, 429, 500))
            server.parts = [answer(body, f"{status} No", Retry_After=after, X_Request_Id="id")]
            with pytest.raises(ResponseError) as caught:
                client.chat("x")
            error = caught.value
            assert error.status_code == status and str(error).isprintable() and "quux7" not in str(error)
            assert error.code is None or isinstance(error.code, int)
            assert getattr(error, "retry_after", 0.0) >= 0.0


def test_streams():
    """2,500 streams, framed and not, in parts of any size: words that were sent, in order, or an error of ours."""
    rnd = random.Random(3)
    ends = [0, 0]
    with Playing() as server, raw_client(server) as client:
        for number in range(2500 * DEPTH):
            whole, head, server.closing = mutate(rnd, STREAM), b"\r\n", number % 4 != 3
            if number % 2:
                head = b"Transfer-Encoding: chunked\r\n\r\n"
                middle = rnd.randrange(len(whole) + 1)
                whole = b"".join(chunk(part) for part in (whole[:middle], whole[middle:]) if part) + LAST_CHUNK
                whole = mutate(rnd, whole) if number % 4 == 1 else whole
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + head
            server.parts = [head, *cut_up(rnd, whole)]
            try:
                for part in client.stream("x"):
                    use(part)
            except GigaChatException as error:
                assert len(str(error)) < 1000
                ends[1] += 1
            else:
                ends[0] += 1
    assert min(ends) > 350


def test_events():
    """4,000 streams of bytes: the events do not depend on where the bytes were cut."""
    rnd = random.Random(4)

    def events_of(parts):
        parser = _EventParser()
        return [found for part in parts for found in parser.feed(part)] + parser.feed(b"\n\n")

    for _ in range(4000):
        whole = mutate(rnd, STREAM)
        assert events_of([whole]) == events_of(cut_up(rnd, whole))


def test_chunks():
    """4,000 chunked bodies: the payload does not depend on where the bytes were cut, nor does the failure."""
    rnd = random.Random(5)

    def payload_of(parts):
        body, payload = _Payload(_Head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked")), b""
        try:
            for part in [*parts, b""]:  # at last the connection ends
                payload += body.feed(part)
                if body.complete:
                    break
        except (_NotHTTP, ConnectionError) as error:
            return type(error)
        return payload

    for _ in range(4000):
        parts = [bytes([rnd.randrange(256)]) * rnd.randrange(1, 50) for _ in range(3)]
        whole = mutate(rnd, b"".join(map(chunk, parts)) + LAST_CHUNK)
        assert payload_of([whole]) == payload_of(cut_up(rnd, whole))


@pytest.mark.parametrize("streamed", [False, True], ids=["chat", "stream"])
def test_over_sockets(streamed):
    """500 whole answers, heads and all, over real connections, some of them kept."""
    rnd = random.Random(6)
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Request-Id: id\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    recorded = [
        answer(CALL, X_Request_Id="id"),
        answer({"status": 429, "message": "нет"}, "429 Too Many", Retry_After="1"),
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer(CALL),
    ]
    lock = threading.Lock()

    def handler(wire):
        while wire.receive():
            with lock:
                whole = head + chunk(STREAM) + LAST_CHUNK if streamed else rnd.choice(recorded)
                at = whole.index(b"\r\n\r\n") + 4
                parts = whole[:at], whole[at:]
                changed = rnd.randrange(2)
                whole = mutate(rnd, parts[0]) + parts[1] if changed else parts[0] + mutate(rnd, parts[1])
            wire.send(whole)
            wire.sock.shutdown(socket.SHUT_WR)

    with RawServer(handler) as server:
        with raw_client(server, timeout=5, max_connections=1) as client:
            ends = [0, 0]
            for _ in range(250):
                try:
                    if streamed:
                        for part in client.stream("x"):
                            use(part)
                    else:
                        use(client.chat("x"))
                except GigaChatException as error:
                    assert len(str(error)) < 1000
                    assert not isinstance(error, APIConnectionError) or "timed out" not in str(error)
                    ends[1] += 1
                else:
                    ends[0] += 1
            assert min(ends) > 10
