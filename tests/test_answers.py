"""Answers: whatever a server sends is a right value or a GigaChatException; events cut anywhere; streams to any end.

The examples of server-sent events are those of
https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation and what GigaChat sends.
"""

import asyncio
import gc
import gzip
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import CA, patient, raw_client
from faults import (
    COMPLETION,
    DONE,
    LAST_CHUNK,
    SHORT,
    SOON,
    STREAM_HEAD,
    WAIT_SECONDS,
    RawServer,
    always,
    answer,
    chunk,
    closing,
    delta,
    endless,
    event,
    resetting,
    silent_after,
    well_behaved,
)

import gigachat_lite
from gigachat_lite import (
    APIConnectionError,
    APITimeoutError,
    AsyncStream,
    AuthenticationError,
    BadRequestError,
    ChatCompletion,
    ChatCompletionChunk,
    ChoicesChunk,
    GigaChat,
    GigaChatAsyncClient,
    GigaChatException,
    GigaChatSyncClient,
    InvalidResponseError,
    NotFoundError,
    RateLimitError,
    ResponseError,
    ServerError,
    Stream,
    StreamInterruptedError,
    _EventParser,
)

pytestmark = pytest.mark.usefixtures("no_jitter")

# Every shape of result that the endpoints have.
CALLS = {
    "chat": ("x",),
    "get_models": (),
    "get_model": ("x",),
    "embeddings": ("x",),
    "tokens_count": ("x",),
    "upload_file": (b"x",),
    "get_file": ("x",),
    "get_files": (),
    "delete_file": ("x",),
    "get_balance": (),
    "check_ai": ("x", "y"),
    "openapi_function_convert": ("x",),
    "validate_function": ({"name": "x"},),
    "check_filter": ("x",),
    "create_batch": (["x"],),
    "get_batches": (),
    "get_batch": ("x",),
    "assistants.get": (),
    "assistants.create": ("GigaChat", "x"),
    "threads.list": (),
    "threads.create_thread": (),
    "threads.add_messages": (["x"],),
    "threads.get_messages": ("x",),
    "threads.get_run": ("x",),
    "threads.run_messages": (["x"],),
}
NO_ANSWERS = {
    "empty": b"",
    "blank": b" \r\n",
    "html": b"<html><body>hello</body></html>",
    "null": b"null",
    "number": b"1",
    "text": b'"text"',
    "true": b"true",
    "array of numbers": b"[1]",
    "nothing in it": b"{}",
    "wrong types": b'{"choices":5,"data":5,"id":[],"messages":5,"threads":5,"access_token":[],"message":5,"id_":1}',
    "items of wrong types": b'{"choices":[5],"data":[5],"messages":[5],"threads":[null],"batches":[5]}',
    "nulls": b'{"choices":null,"data":null,"id":null,"messages":null,"message":null,"balance":null}',
    "utf-16": '{"choices":[]}'.encode("utf-16"),
    "truncated": b'{"choices":[{"message":{"content":"a"',
    "two objects": b'{"choices":[]}{"choices":[]}',
    "deep array": b"[" * 100_000,
    "deep object": b'{"data":' * 100_000,
    "deep and closed": b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "long number": b'{"choices":' + b"9" * 10_000 + b',"data":1}',
    "nan": b'{"choices":NaN,"data":NaN}',
    "nan inside": b'{"choices":[],"data":[],"created":NaN}',
    "infinity": b'{"choices":[],"data":[],"created":-Infinity}',
}


@pytest.mark.parametrize("body", NO_ANSWERS.values(), ids=list(NO_ANSWERS))
def test_no_answer(body):
    """Each endpoint makes an InvalidResponseError, or a value, of any rubbish; a chat never makes a value of it."""
    with RawServer(always(answer(body))) as server, raw_client(server) as client:
        for name, arguments in CALLS.items():
            method = client
            for part in name.split("."):
                method = getattr(method, part)
            try:
                method(*arguments)
            except InvalidResponseError as error:
                assert len(str(error)) < 500 and "\n" not in str(error)
            else:
                assert name != "chat"
        assert server.connections == 1  # the answers were read to the end


@pytest.mark.parametrize("body", [NO_ANSWERS["html"], NO_ANSWERS["deep array"]], ids=["html", "deep array"])
def test_no_answer_in_a_task(call, body):
    """The same from an event loop, whose threads have stacks of their own."""
    with RawServer(always(answer(body))) as server, raw_client(server) as client:
        with pytest.raises(InvalidResponseError):
            call(client, "chat", "Привет")


def test_odd_values_are_kept(call):
    """Unknown keys, names of our own attributes, surrogates and long numbers do not break a model."""
    odd = {"to_dict": 1, "_adopt": 2, "__class__": 3, "__dict__": 4, "x_headers": 5, "choices_": 6, "": 7}
    choice = {
        "message": {"content": "\ud800", "role": "новая", "to_dict": 1, "_essential": 2},
        "finish_reason": "новая",
    }
    body = json.dumps({**odd, "choices": [{**choice, **odd}], "created": 10**400}).encode()
    with RawServer(always(answer(body))) as server, raw_client(server) as client:
        completion = call(client, "chat", "Привет")
    assert completion.choices[0].message.content == "\ud800"
    assert completion.created == 10**400
    assert type(completion).to_dict(completion)["__class__"] == 3
    assert completion == completion and "новая" in repr(completion)


def test_odd_token(call):
    """An answer of the token endpoint with keys that are our own names."""

    def reply(request):
        if request.path.endswith("/oauth"):
            return answer({"access_token": "new", "expires_at": 0, "to_dict": 1, "x_headers": 2, "_adopt": 3})
        return answer()

    with RawServer(always(reply)) as server:
        with raw_client(server, access_token=None, credentials="YTpi", auth_url=server.auth_url) as client:
            assert call(client, "chat", "Привет").choices
        assert server.requests[-1].headers["authorization"] == "Bearer new"


def test_unexpected_gzip(call):
    """A body that is compressed although we did not ask for that is refused by name."""
    body = gzip.compress(json.dumps(COMPLETION).encode())
    with RawServer(always(answer(body, Content_Encoding="gzip"))) as server, raw_client(server) as client:
        with pytest.raises(InvalidResponseError, match="gzip"):
            call(client, "chat", "Привет")
        assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", ["204 No Content", "205 Reset Content", "200 OK"])
def test_no_content(call, status):
    """A success without a body is no completion."""
    reply = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()
    with RawServer(always(reply)) as server, raw_client(server) as client:
        with pytest.raises(InvalidResponseError, match="empty body"):
            call(client, "chat", "Привет")


# ---------- events: bytes in, events out


def parse(pieces):
    """Give the events of a stream that came in *pieces*, and ended."""
    parser = _EventParser()
    events = [event for piece in pieces for event in parser.feed(piece)]
    return events + parser.feed(b"\n\n")


def cuts(stream):
    """Give every way to cut *stream* in two, and byte by byte."""
    yield [stream]
    for at in range(len(stream) + 1):
        yield [stream[:at], b"", stream[at:]]
    yield [stream[at : at + 1] for at in range(len(stream))]


CASES = {
    "nothing": (b"", []),
    "one": (b"data: 1\n\n", [("", b"1")]),
    "several": (b"data: 1\n\ndata: 2\n\ndata: [DONE]\n\n", [("", b"1"), ("", b"2"), ("", b"[DONE]")]),
    "CRLF": (b"data: 1\r\n\r\ndata: 2\r\n\r\n", [("", b"1"), ("", b"2")]),
    "CR": (b"data: 1\r\rdata: 2\r\r", [("", b"1"), ("", b"2")]),
    "mixed line ends": (b"data: 1\r\n\ndata: 2\n\r\ndata: 3\r\r\ndata: 4\n\r", [("", b"%d" % n) for n in (1, 2, 3, 4)]),
    "CR then LF of the same line": (b"data: 1\r\ndata: 2\r\n\r\n", [("", b"1\n2")]),
    "LF then CR are two": (b"data: 1\n\rdata: 2\n\r", [("", b"1"), ("", b"2")]),
    "no space": (b"data:1\n\ndata:  2 \n\n", [("", b"1"), ("", b" 2 ")]),
    "multi-line data": (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("", b"YHOO\n+2\n10")]),
    "empty data": (b"data\n\ndata\ndata\n\ndata:\n\n", [("", b""), ("", b"\n"), ("", b"")]),
    "BOM": (b"\xef\xbb\xbfdata: 1\n\n", [("", b"1")]),
    "BOM only once": (b"data: 1\n\n\xef\xbb\xbfdata: 2\n\n", [("", b"1")]),
    "BOM in front of a blank line": (b"\xef\xbb\xbf\ndata: 1\n\n", [("", b"1")]),
    "two BOMs": (b"\xef\xbb\xbf\xef\xbb\xbfdata: 1\n\n", []),
    "comments": (b": ping\n\n:\ndata: 1\n: inside\ndata: 2\n\n: last\n\n", [("", b"1\n2")]),
    "names": (b"event: error\ndata: 1\n\ndata: 2\n\nevent:x\ndata: 3\n\n", [("error", b"1"), ("", b"2"), ("x", b"3")]),
    "last name counts": (b"event: a\nevent: b\ndata: 1\n\n", [("b", b"1")]),
    "name without data": (b"event: a\n\ndata: 1\n\n", [("", b"1")]),
    "id and retry": (b"id: 7\nretry: 10\ndata: 1\n\nid\n\n", [("", b"1")]),
    "unknown fields": (b"datum: 1\nDATA: 2\n data: 3\ndata : 4\ndata: 5\n\n", [("", b"5")]),
    "colons in the data": (b"data: a: b:\n\ndata::\n\n", [("", b"a: b:"), ("", b":")]),
    "blank lines": (b"\n\n\r\n\rdata: 1\n\n\n\n\n", [("", b"1")]),
    "no last blank line": (b"data: 1\n\ndata: 2\n", [("", b"1"), ("", b"2")]),
    "no last line end": (b"data: 1\n\ndata: 2", [("", b"1"), ("", b"2")]),
    "ends in CR": (b"data: 1\r", [("", b"1")]),
    "Unicode line ends": (
        "data: а\u2028б\u2029в\u0085г\x0bд\x0cе\x1cж\n\n".encode(),
        [("", "а\u2028б\u2029в\u0085г\x0bд\x0cе\x1cж".encode())],
    ),
    "emoji": ("data: 👨‍👩‍👧 😀\n\nevent: имя\ndata: 1\n\n".encode(), [("", "👨‍👩‍👧 😀".encode()), ("имя", b"1")]),
    "no UTF-8": (b"event: \xff\ndata: \xff\xfe\n\n", [("\ufffd", b"\xff\xfe")]),
    "NUL": (b"data: \x00\n\n", [("", b"\x00")]),
    "lf": (b"data: a\n\ndata: b\n\n", [("", b"a"), ("", b"b")]),
    "crlf again": (b"data: a\r\n\r\ndata: b\r\n\r\n", [("", b"a"), ("", b"b")]),
    "cr again": (b"data: a\r\rdata: b\r\r", [("", b"a"), ("", b"b")]),
    "mixed": (b"data: a\r\n\ndata: b\r\r\n", [("", b"a"), ("", b"b")]),
    "bom again": (b"\xef\xbb\xbfdata: a\n\n", [("", b"a")]),
    "bom inside": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [("", b"a")]),
    "two boms again": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
    "comments again": (b": c\n:\n\n:data: x\ndata: a\n: d\n\n", [("", b"a")]),
    "no space again": (b"data:a\n\n", [("", b"a")]),
    "two spaces": (b"data:  a\n\n", [("", b" a")]),
    "tab": (b"data:\ta\n\n", [("", b"\ta")]),
    "lines": (b"data: a\ndata: b\ndata\ndata:\n\n", [("", b"a\nb\n\n")]),
    "names again": (
        b"event: x\ndata: a\n\ndata: b\n\nevent:y\nevent: z\ndata: c\n\n",
        [("x", b"a"), ("", b"b"), ("z", b"c")],
    ),
    "name alone": (b"event: x\n\ndata: a\n\n", [("", b"a")]),
    "id, retry, unknown": (b"id: 1\nretry: 5\nfoo: bar\nfoo\ndata: a\n\n", [("", b"a")]),
    "capitals": (b"Data: a\nDATA: b\n\n", []),
    "space before": (b" data: a\n\n", []),
    "colon inside": (b"data: a:b: c\n\n", [("", b"a:b: c")]),
    "blank lines again": (b"\n\n\ndata: a\n\n\n\n", [("", b"a")]),
    "unicode": ("data: я\u2028\u2029\u0085\v\f\x1c🙂\n\n".encode(), [("", "я\u2028\u2029\u0085\v\f\x1c🙂".encode())]),
    "nul again": (b"data: a\x00b\n\n", [("", b"a\x00b")]),
    "no end": (b"data: a\n\ndata: b", [("", b"a"), ("", b"b")]),
    "no blank line": (b"data: a\n\ndata: b\n", [("", b"a"), ("", b"b")]),
    "blank line in data": (b"data\n\n\ndata: 1\n\n", [("", b""), ("", b"1")]),
}


@pytest.mark.parametrize(("stream", "events"), CASES.values(), ids=CASES)
def test_cut_anywhere(stream, events):
    """The events are the same wherever the stream is cut: at every byte, and byte by byte."""
    for pieces in cuts(stream):
        assert parse(pieces) == events, pieces


def test_everything_in_one_stream():
    """All cases but those about a beginning or an end give their events one after another, cut anywhere."""
    ends = ("no last", "no end", "no blank", "ends", "blank lines")
    inside = [case for name, case in CASES.items() if "bom" not in name.lower() and not name.startswith(ends)]
    stream = b"".join(stream + b"\n\n" for stream, _ in inside)
    events = [event for _, events in inside for event in events]
    for pieces in cuts(stream):
        assert parse(pieces) == events, pieces


def test_events_come_at_once():
    """An event is given by the feed that brings its blank line, not later; after CR nothing waits for an LF."""
    parser = _EventParser()
    assert parser.feed(b"data: 1\n") == []
    assert [data for _, data in parser.feed(b"\nda")] == [b"1"]
    assert parser.feed(b"ta: 2\r") == []
    assert [data for _, data in parser.feed(b"\r")] == [b"2"]
    assert parser.feed(b"\n") == []
    assert parser.feed(b"\n\n") == []


def seconds_for(size, piece_size):
    """Measure an event of *size* bytes; the better of three."""
    stream = b"data: " + b"x" * size + b"\n\n"
    pieces = [stream[at : at + piece_size] for at in range(0, len(stream), piece_size)]
    spent = []
    for _ in range(3):
        started = time.process_time()
        events = parse(pieces)
        spent.append(time.process_time() - started)
        assert [len(data) for _, data in events] == [size]
    return min(spent)


@pytest.mark.parametrize("piece_size", [100, 16_384])
def test_large_event_is_linear(piece_size):
    """An event of 5 MB in small pieces takes about five times as long as one of 1 MB, not 25 times."""
    ratio = seconds_for(5_000_000, piece_size) / max(seconds_for(1_000_000, piece_size), 0.000_5)
    assert ratio < 15


def test_many_lines_in_an_event_are_linear():
    """So does an event of many lines."""

    def seconds(count):
        stream = b"data: x\n" * count + b"\n"
        started = time.process_time()
        assert len(parse([stream[at : at + 1_000] for at in range(0, len(stream), 1_000)])) == 1
        return time.process_time() - started

    assert min(seconds(100_000) for _ in range(3)) / max(min(seconds(20_000) for _ in range(3)), 0.000_5) < 15


PIECES = {
    "one line": b"x" * 100,
    "many lines": b"data: " + b"x" * 93 + b"\n",
    "short lines": b"data: x\r\n",
    "comments": b": comment\n",
    "names": b"event: " + b"x" * 50 + b"\n",
    "one line of large pieces": b"x" * 65_536,
    "large lines": b"data: " + b"x" * 65_530 + b"\n",
    "one large comment": b": " + b"x" * 65_530,
}


@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES)
def test_too_large_event(monkeypatch, piece):
    """An event without an end is refused when it exceeds the bound, however it is made up."""
    monkeypatch.setattr(gigachat_lite, "_MOST_JSON_BYTES", 100_000)
    parser = _EventParser()
    with pytest.raises(InvalidResponseError, match="an event of more than 100000 bytes"):
        for _ in range(100_000 // len(piece) + 2):
            parser.feed(piece)


def test_bound_is_for_one_event(monkeypatch):
    """Streams of any length pass: only what has come since the last blank line counts."""
    monkeypatch.setattr(gigachat_lite, "_MOST_JSON_BYTES", 10_000)
    event = b"data: " + b"x" * 5_000 + b"\n\n"
    assert len(parse([event] * 100)) == 100
    assert len(parse([event * 100])) == 100
    whole = event * 20
    assert len(parse([whole[at : at + 7_000] for at in range(0, len(whole), 7_000)])) == 20
    assert len(parse([b"data: " + b"x" * 500, b"\n\ndata: ab"] * 1_000)) == 1_001


# ---------- streams: cut anywhere, broken off, silent

UNFRAMED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"  # lasts until the server closes


def contents(chunks):
    return [choice.delta.content for one in chunks for choice in one.choices]


def text(chunks):
    return "".join(part.choices[0].delta.content for part in chunks)


async def take(stream, into):
    async for part in stream:
        into.append(part)


def gather(client, how):
    """Read a stream to whatever end it has, sync or async; give what came and what was raised."""
    chunks = []
    try:
        if how == "sync":
            for part in client.stream("Привет"):
                chunks.append(part)  # noqa: PERF402 - what came before an exception counts
        else:
            asyncio.run(take(client.astream("Привет"), chunks))
    except GigaChatException as error:
        return text(chunks), error
    return text(chunks), None


both = pytest.mark.parametrize("how", ["sync", "async"])


def assert_place_is_free(client, how):
    """A stream that failed has given the only place back: the next one does not wait for it."""
    assert not isinstance(gather(client, how)[1], APITimeoutError)


WHOLE = (
    b"\xef\xbb\xbf: hello\r\n\r\n"
    + delta("раз\u2028")
    + delta("два\u0085\u2029").replace(b"\n", b"\r\n")
    + delta("🙂").replace(b"\n", b"\r")
    + delta("!", "stop")
    + DONE
)
WORDS = "раз\u2028два\u0085\u2029🙂!"


@both
def test_bytes_one_by_one(how):
    """A stream whose bytes come one by one, and in chunks of one byte each."""
    for head, pieces in (
        (UNFRAMED, [WHOLE[at : at + 1] for at in range(len(WHOLE))]),
        (STREAM_HEAD, [*(chunk(WHOLE[at : at + 1]) for at in range(len(WHOLE))), LAST_CHUNK]),
    ):
        with RawServer(closing(head, *pieces)) as server, raw_client(server) as client:
            assert gather(client, how) == (WORDS, None)


def test_cut_at_every_position():
    """Wherever a stream is cut: all of the text, or the beginning of it and an error; never less without one."""
    ends = [0, 0]
    for framed in (False, True):
        whole = chunk(WHOLE[:150]) + chunk(WHOLE[150:]) + LAST_CHUNK if framed else WHOLE
        positions = iter(range(len(whole) + 1))
        lock = threading.Lock()

        def handler(wire, framed=framed, whole=whole, positions=positions, lock=lock):
            with lock:
                position = next(positions)
            closing(STREAM_HEAD if framed else UNFRAMED, whole[:position])(wire)

        with RawServer(handler) as server, raw_client(server) as client:
            for position in range(len(whole) + 1):
                words, error = gather(client, "sync")
                assert WORDS.startswith(words)
                assert error is None or type(error) is StreamInterruptedError
                assert (words == WORDS) == (error is None)
                ends[error is None] += 1
                server.wait(lambda position=position: server.closed == position + 1)
    assert min(ends) > 10


@both
@pytest.mark.parametrize("end", [closing, resetting])
@pytest.mark.parametrize(
    "rest",
    [
        b"",
        chunk(b"data: {"),
        chunk(delta("два"))[:-9],
        b"5",
        b"zz\r\n",
        chunk(delta("два").replace(b"}", b"")) + LAST_CHUNK,
        LAST_CHUNK,
    ],
    ids=["between", "in an event", "in a chunk", "in a size", "rubbish", "broken json", "no end"],
)
def test_broken_off(how, rest, end):
    """What was delivered stays, then comes an error; nothing is cut off in silence."""
    with RawServer(end(STREAM_HEAD, chunk(delta("раз")), rest)) as server:
        with raw_client(server, max_connections=1) as client:
            words, error = gather(client, how)
            assert words == "раз"[: len(words)]
            assert isinstance(error, (StreamInterruptedError, InvalidResponseError))
            assert_place_is_free(client, how)


@both
def test_end_without_done(how):
    """A finish reason is an end as well, and "[DONE]" without one too."""
    for end in (chunk(delta("", "stop")) + LAST_CHUNK, chunk(DONE) + LAST_CHUNK, chunk(delta("", "stop"))):
        with RawServer(closing(STREAM_HEAD, chunk(delta("раз")) + end)) as server, raw_client(server) as client:
            assert gather(client, how) == ("раз", None)


@both
@patient
def test_silence_in_a_stream(how, timeout=SHORT):
    """A stream that falls silent is an error after ``timeout``."""
    handler = silent_after(STREAM_HEAD, chunk(delta("раз")))
    with RawServer(handler) as server, raw_client(server, timeout=timeout) as client:
        words, error = gather(client, how)
        assert words == "раз" and isinstance(error, APIConnectionError)
        server.wait(lambda: server.closed == 1)


@both
@patient
def test_long_stream_outlives_the_timeout(how, timeout=SHORT):
    """``timeout`` bounds the wait for each part, not the whole stream."""

    def handler(wire):
        wire.receive()
        wire.send(STREAM_HEAD)
        for _ in range(10):
            wire.send(chunk(delta("а")))
            time.sleep(timeout / 5)
        wire.send(chunk(DONE) + LAST_CHUNK)

    with RawServer(handler) as server, raw_client(server, timeout=timeout) as client:
        assert gather(client, how) == ("а" * 10, None)


# ---------- streams: errors


@both
def test_error_in_mid_stream(how):
    """An error object after the first events is raised as what it is."""
    cases = [
        (event({"status": 429, "message": "Слишком"}), RateLimitError),
        (event({"status": 500, "message": "Слишком"}), ServerError),
        (event({"error": {"status": 400, "message": "Слишком"}}), BadRequestError),
        (event({"code": 7, "message": "Слишком"}), ResponseError),
        (event({"error": "Слишком"}), ResponseError),
        (b"event: error\n" + event({"message": "Слишком"}), ResponseError),
    ]
    for bad, kind in cases:
        with RawServer(closing(STREAM_HEAD, chunk(delta("раз") + bad) + LAST_CHUNK)) as server:
            with raw_client(server, max_connections=1) as client:
                words, error = gather(client, how)
                assert words == "раз" and type(error) is kind and "Слишком" in str(error)
                assert_place_is_free(client, how)


@both
@pytest.mark.parametrize(
    "data", [b"1", b"null", b"[]", b'"x"', b"{}", b"{", b"\xff", b'{"choices":5}', b'{"choices":[5]}']
)
def test_event_that_is_none(how, data):
    """An event of another shape is an InvalidResponseError, after what came before it."""
    reply = STREAM_HEAD + chunk(delta("раз") + b"data: " + data + b"\n\n" + DONE) + LAST_CHUNK
    with RawServer(closing(reply)) as server, raw_client(server, max_connections=1) as client:
        words, error = gather(client, how)
        assert words == "раз" and type(error) is InvalidResponseError
        assert_place_is_free(client, how)


@both
@pytest.mark.parametrize("kind", ["application/json", "text/html; charset=utf-8", "text/event-streams", ""])
def test_wrong_content_type(how, kind):
    """Something else than a stream is not taken for an empty one."""
    with RawServer(closing(answer(b"<html>", Content_Type=kind))) as server:
        with raw_client(server, max_connections=1) as client:
            words, error = gather(client, how)
            assert words == "" and type(error) is InvalidResponseError
            assert_place_is_free(client, how)


@both
def test_errors_at_the_start(how):
    """401, 429 and 5xx in place of a stream, without retries."""
    for status, kind in ((401, AuthenticationError), (429, RateLimitError), (503, ServerError)):
        with RawServer(always(answer({"message": "нет"}, f"{status} No"))) as server, raw_client(server) as client:
            words, error = gather(client, how)
            assert words == "" and type(error) is kind and len(server.requests) == 1


@both
def test_retried_stream_repeats_nothing(how):
    """Retries end with the head of the answer: a stream that breaks later is an error, not a second request."""
    replies = [
        (answer(b"", "503 No"),),
        (b"HTTP/1.1",),
        (STREAM_HEAD, chunk(delta("раз"))),
        (STREAM_HEAD, chunk(delta("never", "stop")), LAST_CHUNK),
    ]

    def handler(wire):
        closing(*replies[wire.number - 1])(wire)

    with RawServer(handler) as server:
        with raw_client(server, max_retries=5, retry_backoff_factor=0, retry_on_status_codes=(503,)) as client:
            words, error = gather(client, how)
            assert words == "раз" and type(error) is StreamInterruptedError
            assert server.connections == 3 and len(server.requests) == 3


@both
def test_new_token_at_the_start(how):
    """A 401 in place of a stream brings a new token and the whole stream, once."""

    def reply(request):
        if request.path.endswith("/oauth"):
            return answer({"access_token": "new", "expires_at": 0})
        if request.headers["authorization"] == "Bearer new":
            return STREAM_HEAD + chunk(WHOLE) + LAST_CHUNK
        return answer({"status": 401}, "401 No")

    with RawServer(always(reply)) as server:
        with raw_client(server, auth_url=server.auth_url, credentials="YTpi") as client:
            assert gather(client, how) == (WORDS, None)


# ---------- streams: pace


@both
def test_first_event_comes_at_once(how):
    """The first event is delivered while the server holds back the second."""
    release = threading.Event()

    def handler(wire):
        wire.receive()
        wire.send(STREAM_HEAD, chunk(delta("раз")))
        assert release.wait(WAIT_SECONDS)
        wire.send(chunk(delta("два", "stop") + DONE) + LAST_CHUNK)

    async def run(client):
        words = ""
        async for part in client.astream("x"):
            words += text([part])
            release.set()
        return words

    with RawServer(handler) as server, raw_client(server) as client:
        if how == "async":
            assert asyncio.run(run(client)) == "раздва"
            return
        words = ""
        for part in client.stream("x"):
            words += text([part])
            release.set()
        assert words == "раздва"


@both
def test_large_event(how):
    """An event of 5 MB over a connection."""
    words = "да" * 1_250_000
    reply = STREAM_HEAD + chunk(delta(words)) + chunk(DONE) + LAST_CHUNK
    with RawServer(closing(reply)) as server, raw_client(server) as client:
        started = time.monotonic()
        assert gather(client, how) == (words, None)
        assert time.monotonic() - started < SOON


@both
def test_slow_reader_holds_the_server_back(how):
    """Nobody reads ahead: a server that never stops is held back by a reader that waits."""
    sent = [0]
    full = threading.Event()
    piece = chunk(delta("x" * 50_000))

    def handler(wire):
        wire.receive()
        wire.send(STREAM_HEAD)
        wire.sock.settimeout(0.3)
        try:
            while True:
                wire.send(piece)
                sent[0] += len(piece)
        except TimeoutError:
            pass
        except OSError as error:
            if "timed out" not in str(error):
                raise
        full.set()

    async def run(client):
        stream = client.astream("x")
        await stream.__anext__()
        assert await asyncio.get_running_loop().run_in_executor(None, full.wait, WAIT_SECONDS)
        await stream.aclose()

    with RawServer(handler) as server, raw_client(server) as client:
        if how == "async":
            asyncio.run(run(client))
        else:
            stream = client.stream("x")
            next(stream)
            assert full.wait(WAIT_SECONDS)
            stream.close()
        assert sent[0] < 20_000_000  # what the buffers of the two sockets take


# ---------- streams: readers that leave


def leave_by_close(client):
    stream = client.stream("x")
    assert contents([next(stream)])
    stream.close()
    stream.close()
    with pytest.raises(APIConnectionError, match="closed before its end"):
        list(stream)
    return stream


def leave_by_with(client):
    with client.stream("x") as stream:
        next(stream)
    return stream


def leave_by_break(client):
    for _ in client.stream("x"):
        break
    gc.collect()  # where references are not counted


def leave_by_garbage(client):
    ring = [client.stream("x")]
    ring.append(ring)
    next(ring[0])
    del ring
    gc.collect()


def leave_by_error(client):
    with pytest.raises(ZeroDivisionError):
        for _ in client.stream("x"):
            raise ZeroDivisionError


def leave_by_error_in_with(client):
    with pytest.raises(ZeroDivisionError), client.stream("x") as stream:
        next(stream)
        raise ZeroDivisionError
    return stream


async def leave_by_aclose(client):
    stream = client.astream("x")
    assert contents([await stream.__anext__()])
    await stream.aclose()
    await stream.aclose()
    with pytest.raises(APIConnectionError, match="closed before its end"):
        await stream.__anext__()
    return stream


async def leave_by_async_with(client):
    async with client.astream("x") as stream:
        async for _ in stream:
            break
    return stream


async def leave_by_async_break(client):
    async for _ in client.astream("x"):
        break
    gc.collect()


async def leave_by_async_garbage(client):
    ring = [client.astream("x")]
    ring.append(ring)
    await ring[0].__anext__()
    del ring
    gc.collect()


async def leave_by_cancelling(client):
    entered = asyncio.Event()

    async def read():
        async for _ in client.astream("x"):
            entered.set()

    task = asyncio.ensure_future(read())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def leave_by_timeout(client):
    stream = client.astream("x")
    await stream.__anext__()
    with pytest.raises(asyncio.TimeoutError):
        while True:
            await asyncio.wait_for(stream.__anext__(), 0.02)
    return stream


LEAVES = [value for name, value in sorted(globals().items()) if name.startswith("leave_by_")]


@pytest.mark.parametrize("leave", LEAVES)
def test_leaving_early(holding, leave):
    """A reader that leaves, in whatever way, frees connection and place at once, though he keeps the stream."""
    with raw_client(holding, max_connections=1) as client:
        left = leave(client)
        if asyncio.iscoroutine(left):
            left = asyncio.run(left)
        holding.wait(lambda: holding.closed == 1)
        assert client.chat("Привет").choices
        assert asyncio.run(client.achat("Привет")).choices
        del left


@pytest.mark.parametrize("leave", [leave for leave in LEAVES if leave is not leave_by_timeout])
def test_leaving_an_endless_stream(leave):
    """The same while the server never stops."""
    with RawServer(endless(chunk(delta("x")) * 10, STREAM_HEAD)) as server:
        with raw_client(server, max_connections=1) as client:
            for number in (1, 2):
                left = leave(client)
                if asyncio.iscoroutine(left):
                    asyncio.run(left)
                server.wait(lambda number=number: server.closed == number)


BEGINNINGS = {"nothing": (), "head": (STREAM_HEAD,), "chunk": (STREAM_HEAD, chunk(delta("раз")))}


@pytest.mark.parametrize("reply", BEGINNINGS.values(), ids=BEGINNINGS)
def test_closed_from_another_thread(reply):
    """close() from another thread ends a reader that waits, before the first byte of the answer or after."""

    def handler(wire):
        if wire.number == 1:
            silent_after(*reply)(wire)
        else:
            well_behaved(wire)

    with RawServer(handler) as server, raw_client(server, max_connections=1) as client, ThreadPoolExecutor(
        1
    ) as threads:
        stream = client.stream("x")
        reader = threads.submit(list, stream)
        server.wait(lambda: server.requests)
        stream.close()
        ended = reader.exception(WAIT_SECONDS / 2)
        assert ended is None or isinstance(ended, APIConnectionError)
        assert ended is not None or reply
        assert ended is None or "the stream was closed" in str(ended)
        server.wait(lambda: server.closed == 1)
        assert client.chat("Привет").choices


def test_closed_by_another_task():
    """aclose() by another task ends a reader that waits with an exception of ours; the place is free again."""

    async def run(client, server):
        for reply in range(3):
            stream = client.astream(str(reply))
            reader = asyncio.ensure_future(take(stream, []))
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, server.wait, lambda reply=reply: len(server.requests) == reply + 1)
            await stream.aclose()
            (ended,) = await asyncio.wait_for(asyncio.gather(reader, return_exceptions=True), WAIT_SECONDS)
            assert ended is None or isinstance(ended, GigaChatException)
            await loop.run_in_executor(None, server.wait, lambda reply=reply: server.closed == reply + 1)

    replies = list(BEGINNINGS.values())
    with RawServer(lambda wire: silent_after(*replies[wire.number - 1])(wire)) as server:
        with raw_client(server, max_connections=1) as client:
            asyncio.run(run(client, server))


def test_closed_while_events_arrive():
    """A stream that is closed or cancelled between two reads frees its place, even while somebody keeps the object."""

    async def run(client):
        kept = []
        for number in range(40):
            stream = client.astream("x")
            kept.append(stream)
            await asyncio.wait_for(stream.__anext__(), WAIT_SECONDS)
            reader = asyncio.ensure_future(take(stream, []))
            for _ in range(number % 20):
                await asyncio.sleep(0)
            if number % 2:
                reader.cancel()
            else:
                await stream.aclose()
            (ended,) = await asyncio.gather(reader, return_exceptions=True)
            assert ended is None or isinstance(ended, (asyncio.CancelledError, GigaChatException))

    with RawServer(endless(chunk(delta("x")) * 3, STREAM_HEAD)) as server:
        with raw_client(server, max_connections=1) as client:
            asyncio.run(run(client))


# ---------- chunks


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


# ---------- streams: ends

FINISHED = delta("два", "stop")


def streaming(*pieces, end=LAST_CHUNK):
    """Make a handler that answers every request with a stream of *pieces*, and *end* behind it."""

    def handler(wire):
        while wire.receive():
            wire.send(STREAM_HEAD, *map(chunk, pieces), end)
            if not end:
                return

    return handler


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
        ([b'event: response.ping\ndata: {"t":1}\n\n', FINISHED, DONE], ["два"]),
        ([delta("a", "length")], ["a"]),
        ([delta("a", "blacklist")], ["a"]),
        ([delta("", "function_call")], [""]),
        ([delta("a", "new_reason")], ["a"]),
    ],
    ids=range(14),
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
    with RawServer(streaming(*pieces, end=end)) as server, raw_client(
        server, max_retries=3, retry_backoff_factor=0
    ) as client:
        got = []
        with pytest.raises(StreamInterruptedError):
            collect(call, client, got)
        assert contents(got) == delivered
        assert len(server.requests) == (1 if delivered else 4)  # nothing that came can come twice


def test_stream_is_retried_until_its_first_chunk(call):
    """Nothing was delivered yet, so nothing can come twice; an error in place of the first chunk counts too."""
    firsts = [STREAM_HEAD, STREAM_HEAD + chunk(event({"status": 503, "message": "Сбой"})) + LAST_CHUNK]

    def handler(wire):
        wire.receive()
        whole = STREAM_HEAD + chunk(delta("да", "stop")) + LAST_CHUNK
        wire.send(firsts[wire.number - 1] if wire.number <= len(firsts) else whole)

    with RawServer(handler) as server, raw_client(server, max_retries=2, retry_backoff_factor=0) as client:
        assert contents(call(client, "stream", "Привет")) == ["да"]
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("ends", "whole"),
    [
        ([(0, "stop"), (1, "stop")], True),
        ([(1, "stop")], False),
        ([(0, "stop"), (1, "")], False),
        ([(0, ""), (1, "")], False),
        ([(0, "length"), (1, "blacklist")], True),
    ],
)
def test_every_choice_must_end(call, ends, whole):
    """With n=2 the answer is whole when both choices have a finish reason; an empty one is none."""

    def piece(index, **more):
        return event({"choices": [{"delta": {"content": "x"}, "index": index, **more}]})

    pieces = [piece(0), piece(1), *(piece(index, finish_reason=reason) for index, reason in ends)]
    with RawServer(streaming(*pieces, end=b"")) as server, raw_client(server) as client:
        got = []
        if whole:
            collect(call, client, got)
        else:
            with pytest.raises(StreamInterruptedError):
                collect(call, client, got)
        assert len(got) == len(pieces)


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


# ---------- streams and their connections


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


def test_finished_streams_keep_the_connection(raw_server):
    """A stream that was read to its end, or to its last chunk, gives its connection back."""
    with raw_client(raw_server, max_connections=1) as client:
        for _ in range(3):
            with client.stream("Привет") as stream:
                list(stream)
                assert list(stream) == []
            client.chat("Привет")
    assert raw_server.connections == 1


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
            assert asyncio.run(leave_by_async_with(client))


def test_streams_side_by_side(settings, server):
    """Streams that are read in turns do not disturb each other."""
    with GigaChat(**{**settings, "ca_bundle_file": CA}) as client:
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


@pytest.mark.parametrize(
    "piece", [b"event: ping\ndata:\n\n", b"event: heartbeat\ndata: hi\n\n", b"data:\n\n", b"event: ping\ndata: 17\n\n"]
)
def test_events_that_keep_a_connection_alive(call, piece):
    """Events without data, and named ones that are none of ours, are skipped."""
    with RawServer(streaming(delta("раз"), piece, delta("два", "stop"), DONE)) as server, raw_client(server) as client:
        assert contents(call(client, "stream", "Привет")) == ["раз", "два"]


def test_long_streams_do_not_grow():
    """What is kept of an answer is its text, not its chunks."""
    count = 5000
    body = b"".join([delta("x")] * count)
    with RawServer(streaming(body, delta("y", "stop"), DONE)) as server, raw_client(server) as client:
        stream = client.stream("Привет")
        assert sum(1 for _ in stream) == count + 1
        assert stream.get_final_completion().choices[0].message.content == "x" * count + "y"
        assert sum(type(one) is ChoicesChunk for one in gc.get_objects()) < 2000


@pytest.mark.parametrize("most", [2, 3, 10_000])
def test_halves_of_a_surrogate_pair_in_a_long_stream(monkeypatch, most):
    """What is kept of a long stream is put together now and then, also between two halves of a character."""
    monkeypatch.setattr(gigachat_lite, "_MOST_EVENTS", most)
    halves = [delta("HALF").replace(b"HALF", half) for half in (rb"\ud83d", rb"\ude00")]
    with RawServer(streaming(delta("a"), *halves, *halves, delta("z", "stop"), DONE)) as server:
        with raw_client(server) as client:
            stream = client.stream("Привет")
            assert contents(stream) == ["a", "\ud83d", "\ude00", "\ud83d", "\ude00", "z"]
            whole = stream.get_final_completion().choices[0].message.content
    assert whole.encode("utf-16", "surrogatepass").decode("utf-16") == "a\U0001f600\U0001f600z"


def test_infinity_in_a_long_stream(monkeypatch):
    """Numbers that JSON can write and Python cannot hold do no harm when a long stream is put together."""
    monkeypatch.setattr(gigachat_lite, "_MOST_EVENTS", 2)
    pieces = [delta("a").replace(b'"index"', b'"score": 1e999, "index"')] * 5
    with RawServer(streaming(*pieces, delta("z", "stop"), DONE)) as server, raw_client(server) as client:
        stream = client.stream("Привет")
        assert contents(stream) == ["a"] * 5 + ["z"]
        wholes = [stream.get_final_completion().choices[0].message.content for _ in range(2)]
    assert wholes == ["aaaaaz"] * 2


def test_null_delta():
    """A delta that is null is as good as an absent one, in a chunk and in the whole answer."""
    null = event({"choices": [{"delta": None, "index": 0}]})
    with RawServer(streaming(delta("раз"), null, FINISHED, DONE)) as server, raw_client(server) as client:
        stream = client.stream("Привет")
        assert contents(stream) == ["раз", None, "два"]
        assert stream.get_final_completion().choices[0].message.content == "раздва"


@both
def test_whole_answer_of_a_closed_stream(how):
    """What came whole can be put together after the stream was closed, as often as one likes."""

    async def run(client):
        async with client.astream("Привет") as stream:
            async for _ in stream:
                pass
        return [await stream.get_final_completion() for _ in range(2)]

    with RawServer(streaming(delta("раз"), FINISHED, DONE)) as server, raw_client(server) as client:
        if how == "async":
            wholes = asyncio.run(run(client))
        else:
            with client.stream("Привет") as stream:
                for _ in stream:
                    pass
            wholes = [stream.get_final_completion() for _ in range(2)]
        assert [one.choices[0].message.content for one in wholes] == ["раздва"] * 2
