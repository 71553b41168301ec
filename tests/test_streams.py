"""Streams: the grammar of server-sent events, cut anywhere; servers that break off, stall or never stop."""

import asyncio
import gc
import json
import threading
import time

import pytest
from faults import (
    DONE,
    LAST_CHUNK,
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
)

import gigachat_lite
from gigachat_lite import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    Batch,
    GigaChat,
    GigaChatException,
    InvalidResponseError,
    RateLimitError,
    ResponseError,
    ServerError,
    StreamInterruptedError,
    _EventParser,
)

UNFRAMED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"  # lasts until the server closes
SHORT = 0.2


def raw_client(server, **settings):
    """Make a client of a RawServer; it needs no token request."""
    return GigaChat(**{"base_url": server.base_url, "access_token": "token", "timeout": 20, **settings})


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch):
    """Retries without the random part of their pause, which these tests would only wait for."""
    monkeypatch.setattr(gigachat_lite, "_JITTER", 0.0)


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


# ---------- the grammar

GRAMMAR = {
    "lf": (b"data: a\n\ndata: b\n\n", [("", b"a"), ("", b"b")]),
    "crlf": (b"data: a\r\n\r\ndata: b\r\n\r\n", [("", b"a"), ("", b"b")]),
    "cr": (b"data: a\r\rdata: b\r\r", [("", b"a"), ("", b"b")]),
    "mixed": (b"data: a\r\n\ndata: b\r\r\n", [("", b"a"), ("", b"b")]),
    "bom": (b"\xef\xbb\xbfdata: a\n\n", [("", b"a")]),
    "bom inside": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [("", b"a")]),
    "two boms": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
    "comments": (b": c\n:\n\n:data: x\ndata: a\n: d\n\n", [("", b"a")]),
    "no space": (b"data:a\n\n", [("", b"a")]),
    "two spaces": (b"data:  a\n\n", [("", b" a")]),
    "tab": (b"data:\ta\n\n", [("", b"\ta")]),
    "lines": (b"data: a\ndata: b\ndata\ndata:\n\n", [("", b"a\nb\n\n")]),
    "names": (
        b"event: x\ndata: a\n\ndata: b\n\nevent:y\nevent: z\ndata: c\n\n",
        [("x", b"a"), ("", b"b"), ("z", b"c")],
    ),
    "name alone": (b"event: x\n\ndata: a\n\n", [("", b"a")]),
    "id, retry, unknown": (b"id: 1\nretry: 5\nfoo: bar\nfoo\ndata: a\n\n", [("", b"a")]),
    "capitals": (b"Data: a\nDATA: b\n\n", []),
    "space before": (b" data: a\n\n", []),
    "colon inside": (b"data: a:b: c\n\n", [("", b"a:b: c")]),
    "blank lines": (b"\n\n\ndata: a\n\n\n\n", [("", b"a")]),
    "unicode": ("data: я\u2028\u2029\u0085\v\f\x1c🙂\n\n".encode(), [("", "я\u2028\u2029\u0085\v\f\x1c🙂".encode())]),
    "nul": (b"data: a\x00b\n\n", [("", b"a\x00b")]),
    "no end": (b"data: a\n\ndata: b", [("", b"a"), ("", b"b")]),
    "no blank line": (b"data: a\n\ndata: b\n", [("", b"a"), ("", b"b")]),
    "nothing": (b"", []),
}


def events_of(pieces):
    parser = _EventParser()
    found = [found for piece in pieces for found in parser.feed(piece)]
    return [tuple(found) for found in found + parser.end()]


@pytest.mark.parametrize(("stream", "events"), GRAMMAR.values(), ids=list(GRAMMAR))
def test_grammar(stream, events):
    """The same events come of the bytes at once, one by one, and in two parts cut at every place."""
    assert events_of([stream]) == events
    assert events_of([stream[at : at + 1] for at in range(len(stream))]) == events
    for cut in range(len(stream) + 1):
        assert events_of([stream[:cut], b"", stream[cut:]]) == events


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
    with RawServer(end(STREAM_HEAD, chunk(delta("раз")), rest)) as server, raw_client(server) as client:
        words, error = gather(client, how)
        assert words == "раз"[: len(words)]
        assert isinstance(error, (StreamInterruptedError, InvalidResponseError))
        assert client._pool._busy == set()


@both
def test_end_without_done(how):
    """A finish reason is an end as well, and "[DONE]" without one too."""
    for end in (chunk(delta("", "stop")) + LAST_CHUNK, chunk(DONE) + LAST_CHUNK, chunk(delta("", "stop"))):
        with RawServer(closing(STREAM_HEAD, chunk(delta("раз")) + end)) as server, raw_client(server) as client:
            assert gather(client, how) == ("раз", None)


@both
def test_silence_in_a_stream(how):
    """A stream that falls silent is an error after ``timeout``."""
    with RawServer(silent_after(STREAM_HEAD, chunk(delta("раз")))) as server, raw_client(
        server, timeout=SHORT
    ) as client:
        words, error = gather(client, how)
        assert words == "раз" and isinstance(error, APIConnectionError)
        server.wait(lambda: server.closed == 1)


@both
def test_long_stream_outlives_the_timeout(how):
    """``timeout`` bounds the wait for each part, not the whole stream."""

    def handler(wire):
        wire.receive()
        wire.send(STREAM_HEAD)
        for _ in range(10):
            wire.send(chunk(delta("а")))
            time.sleep(0.05)
        wire.send(chunk(DONE) + LAST_CHUNK)

    with RawServer(handler) as server, raw_client(server, timeout=0.3) as client:
        assert gather(client, how) == ("а" * 10, None)


# ---------- errors in a stream


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
            with raw_client(server) as client:
                words, error = gather(client, how)
                assert words == "раз" and type(error) is kind and "Слишком" in str(error)
                assert client._pool._busy == set()


@both
@pytest.mark.parametrize(
    "data", [b"1", b"null", b"[]", b'"x"', b"{}", b"{", b"\xff", b'{"choices":5}', b'{"choices":[5]}']
)
def test_event_that_is_none(how, data):
    """An event of another shape is an InvalidResponseError, after what came before it."""
    reply = STREAM_HEAD + chunk(delta("раз") + b"data: " + data + b"\n\n" + DONE) + LAST_CHUNK
    with RawServer(closing(reply)) as server, raw_client(server) as client:
        words, error = gather(client, how)
        assert words == "раз" and type(error) is InvalidResponseError
        assert client._pool._busy == set()


@both
@pytest.mark.parametrize("kind", ["application/json", "text/html; charset=utf-8", "text/event-streams", ""])
def test_wrong_content_type(how, kind):
    """Something else than a stream is not taken for an empty one."""
    with RawServer(closing(answer(b"<html>", Content_Type=kind))) as server, raw_client(server) as client:
        words, error = gather(client, how)
        assert words == "" and type(error) is InvalidResponseError
        assert client._pool._busy == set()


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


# ---------- pace


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


def test_large_event_takes_linear_time():
    """An event of 5 MB in parts of 100 bytes, also with lines inside, takes no more than a moment."""
    for line_end in (b"", b"\ndata: "):
        data = b"data: " + line_end.join([b"x" * 100] * 50_000) + b"\n\n"
        parser = _EventParser()
        started = time.monotonic()
        events = [found for at in range(0, len(data), 100) for found in parser.feed(data[at : at + 100])]
        assert time.monotonic() - started < 5
        assert len(events) == 1 and len(events[0].data) == 5_000_000 + (49_999 if line_end else 0)


@both
def test_large_event(how):
    """An event of 5 MB over a connection."""
    words = "да" * 1_250_000
    reply = STREAM_HEAD + chunk(delta(words)) + chunk(DONE) + LAST_CHUNK
    with RawServer(closing(reply)) as server, raw_client(server) as client:
        started = time.monotonic()
        assert gather(client, how) == (words, None)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("piece", [b"x" * 65_536, b"data: " + b"x" * 65_530 + b"\n", b": " + b"x" * 65_530])
def test_event_without_end(monkeypatch, piece):
    """An event that never ends is given up: it does not eat the memory."""
    monkeypatch.setattr(_EventParser, "_MOST_EVENT_BYTES", 1_000_000)
    parser = _EventParser()
    with pytest.raises(InvalidResponseError):
        for _ in range(100):
            parser.feed(piece)


def test_many_events_are_not_a_large_one(monkeypatch):
    """The limit is one of each event, not of the stream."""
    monkeypatch.setattr(_EventParser, "_MOST_EVENT_BYTES", 1_000_000)
    parser = _EventParser()
    piece = (b"data: " + b"x" * 1000 + b"\n\n") * 100
    for _ in range(100):
        assert len(parser.feed(piece)) == 100
    for _ in range(10_000):
        assert len(parser.feed(b"data: " + b"x" * 500)) + len(parser.feed(b"\n\ndata: ab")) == 1


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


# ---------- readers that leave


def leave_by_break(client):
    for _ in client.stream("x"):
        break


def leave_by_close(client):
    stream = client.stream("x")
    next(stream)
    stream.close()
    assert list(stream) == []


def leave_by_with(client):
    with client.stream("x") as stream:
        next(stream)


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


def leave_by_async_break(client):
    async def run():
        async for _ in client.astream("x"):
            break

    asyncio.run(run())


def leave_by_aclose(client):
    async def run():
        stream = client.astream("x")
        await stream.__anext__()
        await stream.aclose()
        assert [part async for part in stream] == []

    asyncio.run(run())


def leave_by_async_with(client):
    async def run():
        async with client.astream("x") as stream:
            await stream.__anext__()

    asyncio.run(run())


def leave_by_async_garbage(client):
    async def run():
        ring = [client.astream("x")]
        ring.append(ring)
        await ring[0].__anext__()
        del ring
        gc.collect()

    asyncio.run(run())


@pytest.mark.parametrize("leave", [value for name, value in sorted(globals().items()) if name.startswith("leave_by_")])
def test_leaving_early(leave):
    """A reader that leaves, in whatever way, frees the connection at once, though the server never stops."""
    with RawServer(endless(chunk(delta("x")) * 10, STREAM_HEAD)) as server:
        with raw_client(server, max_connections=1) as client:
            for number in (1, 2):
                leave(client)
                server.wait(lambda number=number: server.closed == number)


def test_closed_from_another_thread():
    """close() from another thread ends a reader that waits, before the first byte of the answer or after."""
    for reply in ((), (STREAM_HEAD,), (STREAM_HEAD, chunk(delta("раз")))):
        with RawServer(silent_after(*reply)) as server, raw_client(server) as client:
            stream, ended, chunks = client.stream("x"), [], []

            def read(stream=stream, ended=ended, chunks=chunks):
                try:
                    chunks.extend(stream)
                except BaseException as error:
                    ended.append(error)  # noqa: B023

            reader = threading.Thread(target=read)
            reader.start()
            server.wait(lambda server=server: server.requests)
            stream.close()
            reader.join(WAIT_SECONDS / 2)
            assert not reader.is_alive()
            assert all(isinstance(error, GigaChatException) for error in ended)
            server.wait(lambda server=server: server.closed == 1)


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

    replies = [(), (STREAM_HEAD,), (STREAM_HEAD, chunk(delta("раз")))]
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
        with raw_client(server, max_connections=1, timeout=5) as client:
            asyncio.run(run(client))


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
    with RawServer(end(STREAM_HEAD, chunk(body[:60]))) as server, raw_client(server) as client:
        with pytest.raises(APIConnectionError):
            call(client, "batch_results", Batch.from_dict(BATCH))
        assert client._pool._busy == set()


def test_timeout_is_one_of_connection_errors():
    """Who catches connection errors catches a stream's silence too."""
    assert issubclass(APITimeoutError, APIConnectionError) and issubclass(StreamInterruptedError, APIConnectionError)
