"""Retries: off by default; how often, for what, after how long, and what ends them."""

import asyncio
import email.utils
import io
import logging
import threading
import time

import pytest
from faults import DONE, LAST_CHUNK, STREAM_HEAD, WAIT_SECONDS, RawServer, answer, chunk, delta

from gigachat_lite import (
    APIConnectionError,
    APITimeoutError,
    BadRequestError,
    GigaChat,
    GigaChatException,
    RateLimitError,
    ResponseError,
    ServerError,
    StreamInterruptedError,
)

FAST = {"retry_backoff_factor": 0}


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch):
    """Take the half second of jitter away, which is no part of what is tested but in one test."""
    monkeypatch.setattr("gigachat_lite._JITTER", 0)


def fault(times, reply):
    """Make a handler that answers with *reply*, bytes or what to do with the wire, *times* times; then it behaves."""
    left = [times]

    def handler(wire):
        while True:
            request = wire.receive()
            if request is None:
                return
            if request.path.endswith("/oauth"):
                wire.send(answer({"access_token": "token", "expires_at": 0}))
                continue
            left[0] -= 1
            if left[0] >= 0 and callable(reply):
                reply(wire)
                return
            if left[0] >= 0:
                wire.send(reply)
            elif request.json.get("stream"):
                wire.send(STREAM_HEAD, chunk(delta("да", "stop") + DONE), LAST_CHUNK)
            else:
                wire.send(answer())

    return handler


def raw_client(server, **settings):
    """Make a client of a RawServer; it needs no token request."""
    return GigaChat(**{"base_url": server.base_url, "access_token": "token", "timeout": 20, **FAST, **settings})


def refusal(status, **headers):
    return answer({"status": status, "message": "Нет"}, f"{status} No", **headers)


METHODS = pytest.mark.parametrize("method", ["chat", "stream"])


# ---------- how often, for what


@METHODS
@pytest.mark.parametrize("status", [429, 500, 503])
def test_off_by_default(client, server, call, method, status):
    """Without max_retries an error is the caller's at once."""
    server.answer_next("/chat", status, b"{}", times=None)
    with pytest.raises(ResponseError):
        call(client, method, "Привет")
    assert len(server.requests) == 2


def test_connection_errors_are_not_retried_by_default(call):
    """Nor is a connection that breaks repeated."""
    with RawServer(fault(1, lambda wire: wire.reset())) as server, raw_client(server) as client:
        with pytest.raises(APIConnectionError):
            call(client, "chat", "Привет")
        assert len(server.requests) == 1


@METHODS
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_statuses(call, method, status):
    """These are tried again, until the answer comes; each time it is the same request."""
    with RawServer(fault(2, refusal(status))) as server, raw_client(server, max_retries=2) as client:
        assert call(client, method, "Привет")
        assert len(server.requests) == 3
        assert len({request.body for request in server.requests}) == 1
        assert {request.connection for request in server.requests} == {1}


@METHODS
@pytest.mark.parametrize(("retries", "tries"), [(0, 1), (1, 2), (3, 4)])
def test_counts(call, method, retries, tries):
    """max_retries bounds the repetitions; the last error is the caller's."""
    with RawServer(fault(99, refusal(503))) as server, raw_client(server, max_retries=retries) as client:
        with pytest.raises(ServerError, match="Нет"):
            call(client, method, "Привет")
        assert len(server.requests) == tries


@METHODS
@pytest.mark.parametrize("status", [301, 400, 402, 403, 404, 413, 418, 422, 501])
def test_other_statuses(call, method, status):
    """These are the caller's at once, however many retries there are."""
    with RawServer(fault(1, refusal(status))) as server, raw_client(server, max_retries=3) as client:
        with pytest.raises(ResponseError, match=f"^{status} "):
            call(client, method, "Привет")
        assert len(server.requests) == 1


@pytest.mark.parametrize(("codes", "status", "tries"), [((418,), 418, 2), ((418,), 503, 1), ((), 503, 1)])
def test_retry_on_status_codes(call, codes, status, tries):
    """retry_on_status_codes says which: instead of the default ones, not besides them."""
    settings = {"max_retries": 1, "retry_on_status_codes": codes}
    with RawServer(fault(99, refusal(status))) as server, raw_client(server, **settings) as client:
        with pytest.raises(ResponseError):
            call(client, "chat", "Привет")
        assert len(server.requests) == tries


def test_each_call_has_its_own_count(call):
    """The retries of one call are not taken from the next."""
    with RawServer(fault(99, refusal(503))) as server, raw_client(server, max_retries=1) as client:
        for _ in range(3):
            with pytest.raises(ServerError):
                call(client, "chat", "Привет")
        assert len(server.requests) == 6


@METHODS
@pytest.mark.parametrize(
    "reply",
    [
        lambda wire: wire.reset(),
        lambda wire: None,
        lambda wire: wire.send(b"HTTP/1.1 200"),
        b"HTTP/1.1 ???\r\n\r\n",
    ],
    ids=["reset", "closed", "half a head", "no HTTP"],
)
def test_connection_errors(call, method, reply):
    """A connection that fails before its answer is here is tried again."""
    fault_once = reply if callable(reply) else lambda wire: wire.send(reply)
    with RawServer(fault(2, fault_once)) as server, raw_client(server, max_retries=2) as client:
        assert call(client, method, "Привет")
        assert len(server.requests) == 3


def test_answer_that_breaks_off(call):
    """So is a plain answer that breaks off: nothing of it has been given out."""
    half = answer()[:-10]
    with RawServer(fault(1, lambda wire: wire.send(half))) as server, raw_client(server, max_retries=1) as client:
        assert call(client, "chat", "Привет").choices
        assert len(server.requests) == 2


def test_download_whose_head_breaks_off(call, tmp_path):
    """A head that breaks off is no empty file: the download fails, and is tried again where retries are on."""
    half = b"HTTP/1.1 200 OK\r\nContent-Type: application/jpg\r\n"
    with RawServer(lambda wire: wire.receive() and wire.send(half)) as server:
        with raw_client(server, max_retries=1) as client, pytest.raises(APIConnectionError):
            call(client, "download_file", "1", tmp_path / "file")
        assert len(server.requests) == 2
    assert not (tmp_path / "file").exists()


def test_timeouts(call):
    """And a server that keeps silent."""
    silent = fault(1, lambda wire: wire.wait_for_close())
    with RawServer(silent) as server, raw_client(server, max_retries=1, timeout=0.2) as client:
        try:
            assert call(client, "chat", "Привет").choices
        except APITimeoutError:  # a slow machine
            pass
        assert len(server.requests) == 2


def test_nobody_listens(call, monkeypatch):
    """A refused connection is tried again, and is the caller's in the end."""
    with RawServer(fault(0, b"")) as server:
        pass
    pauses = watch_pauses(monkeypatch)
    with raw_client(server, max_retries=3) as client, pytest.raises(APIConnectionError):
        call(client, "chat", "Привет")
    assert len(pauses) == 3


@METHODS
def test_certificates_do_not_heal(settings, server, call, method):
    """A certificate that is not trusted will not be next time either: one attempt."""
    settings = {**settings, "ca_bundle_file": None, "max_retries": 3, **FAST}
    with GigaChat(**settings) as client, pytest.raises(APIConnectionError, match="certificate"):
        call(client, method, "Привет")
    assert server.connections == 1


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"choices":null}'])
def test_unreadable_answers_are_not_retried(call, body):
    """What came back whole, and is no answer, would come back again."""
    with RawServer(fault(1, answer(body))) as server, raw_client(server, max_retries=3) as client:
        with pytest.raises(GigaChatException):
            call(client, "chat", "Привет")
        assert len(server.requests) == 1


def test_started_streams_are_not_retried(call):
    """Once a stream has begun no chunk is ever repeated: it breaks off for good."""

    def break_off(wire):
        wire.send(STREAM_HEAD, chunk(delta("раз")))

    with RawServer(fault(1, break_off)) as server, raw_client(server, max_retries=3) as client:
        with pytest.raises(StreamInterruptedError):
            call(client, "stream", "Привет")
        assert len(server.requests) == 1


@METHODS
@pytest.mark.parametrize("status", [429, 503])
def test_oauth_failures(settings, server, call, method, status):
    """Failures of the token endpoint are tried again like others, with a fresh RqUID; the call is sent once."""
    for _ in range(2):
        server.answer_next("/oauth", status, b"")
    with GigaChat(**settings, max_retries=2, **FAST) as client:
        assert call(client, method, "Привет")
    assert [request.path.rpartition("/")[2] for request in server.requests] == ["oauth"] * 3 + ["completions"]
    assert len({request.headers["RqUID"] for request in server.requests[:3]}) == 3


def test_get_token_is_retried(settings, server, call):
    """get_token() is tried again too."""
    server.answer_next("/oauth", 503, b"")
    with GigaChat(**settings, max_retries=1, **FAST) as client:
        assert call(client, "get_token").access_token
    assert len(server.requests) == 2


def test_oauth_refusals(settings, server, call):
    """A key that is refused is not tried again."""
    server.answer_next("/oauth", 400, {"code": 7, "message": "scope"}, times=None)
    with GigaChat(**settings, max_retries=3, **FAST) as client, pytest.raises(BadRequestError):
        call(client, "chat", "Привет")
    assert len(server.requests) == 1


def test_refusal_of_a_token_between_retries(settings, server, call):
    """A 401 in the midst of retries renews the token, once for each attempt, and does not count as a retry."""
    server.answer_next("/chat", 503, b"{}")
    server.answer_next("/chat", 401, b"{}")
    with GigaChat(**settings, max_retries=1, **FAST) as client:
        assert call(client, "chat", "Привет").choices
    names = [request.path.rpartition("/")[2] for request in server.requests]
    assert names == ["oauth", "completions", "completions", "oauth", "completions"]


class Unseekable(io.RawIOBase):
    """A file that can be read once."""

    def __init__(self, content):
        self.content = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.content.readinto(buffer)


def test_uploads_are_rewound(settings, server, call, tmp_path):
    """An upload is sent again from where it started."""
    (tmp_path / "a.txt").write_bytes(b"0123456789")
    server.answer_next("/files", 503, b"{}")
    with GigaChat(**settings, max_retries=1, **FAST) as client, open(tmp_path / "a.txt", "rb") as file:
        file.seek(5)
        assert call(client, "upload_file", file).bytes == 5
    assert all(b"\r\n\r\n56789\r\n" in request.body for request in server.requests[1:])
    assert len(server.requests) == 3


def test_uploads_that_can_be_read_once(settings, server, call):
    """One that cannot be rewound is not tried again."""
    server.answer_next("/files", 503, b"{}")
    with GigaChat(**settings, max_retries=1, **FAST) as client, pytest.raises(ServerError):
        call(client, "upload_file", ("a.txt", Unseekable(b"0123456789")))
    assert len(server.requests) == 2


# ---------- after how long


def watch_pauses(monkeypatch):
    """Note how long a client would pause, and pause for nothing. Waiting itself is tested below."""
    pauses = []
    monkeypatch.setattr("gigachat_lite.KeepAlive.pause", lambda self, seconds: pauses.append(seconds))
    return pauses


def test_backoff(monkeypatch, call):
    """The pauses double from retry_backoff_factor on, up to a minute."""
    pauses = watch_pauses(monkeypatch)
    settings = {"max_retries": 10, "retry_backoff_factor": 0.5}
    with RawServer(fault(10, refusal(503))) as server, raw_client(server, **settings) as client:
        assert call(client, "chat", "Привет").choices
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_jitter(monkeypatch, call):
    """Up to half a second is added, each time another, so that many clients do not come back together."""
    monkeypatch.undo()
    pauses = watch_pauses(monkeypatch)
    with RawServer(fault(20, refusal(503))) as server, raw_client(server, max_retries=20) as client:
        call(client, "chat", "Привет")
    assert len(set(pauses)) == 20
    assert 0 <= min(pauses) < max(pauses) <= 0.5


def test_backoff_that_overflows(monkeypatch, call):
    """Very many retries are no overflow."""
    pauses = watch_pauses(monkeypatch)
    settings = {"max_retries": 1100, "retry_backoff_factor": 1e300, "retry_on_status_codes": [418]}
    with RawServer(fault(99_999, refusal(418))) as server, raw_client(server, **settings) as client:
        with pytest.raises(ResponseError):
            call(client, "chat", "Привет")
    assert len(pauses) == 1100
    assert set(pauses) == {60}


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("retry_after", "pause"),
    [
        ("0.01", 0.01),
        ("7", 7),
        ("120", 120),
        ("0", 0.5),
        ("-1", 0.5),
        ("soon", 0.5),
        ("nan", 0.5),
        ("inf", 0.5),
        ("Wed, 21 Oct 1999 07:28:00 GMT", 0.5),
    ],
)
def test_retry_after(monkeypatch, call, status, retry_after, pause):
    """The pause is the one that the server asks for, else the backoff."""
    pauses = watch_pauses(monkeypatch)
    settings = {"max_retries": 1, "retry_backoff_factor": 0.5}
    reply = refusal(status, Retry_After=retry_after)
    with RawServer(fault(1, reply)) as server, raw_client(server, **settings) as client:
        assert call(client, "chat", "Привет").choices
    assert pauses == [pause]


def test_retry_after_a_date(monkeypatch, call):
    """The server may name a time, which counts by its own clock."""
    pauses = watch_pauses(monkeypatch)
    date, then = (email.utils.formatdate(1_000_000_000 + seconds, usegmt=True) for seconds in (0, 90))
    reply = refusal(429, Retry_After=then, Date=date)
    with RawServer(fault(1, reply)) as server, raw_client(server, max_retries=1) as client:
        assert call(client, "chat", "Привет").choices
    assert pauses == [90]


@METHODS
@pytest.mark.parametrize("retry_after", ["121", "604800", "1e9"])
def test_long_retry_after(monkeypatch, call, method, retry_after):
    """A server that asks for more than two minutes gets no wait but the caller's attention."""
    pauses = watch_pauses(monkeypatch)
    reply = refusal(429, Retry_After=retry_after)
    with RawServer(fault(1, reply)) as server, raw_client(server, max_retries=3) as client:
        with pytest.raises(RateLimitError) as caught:
            call(client, method, "Привет")
        assert caught.value.retry_after == float(retry_after)
        assert len(server.requests) == 1
    assert pauses == []


def test_pauses_are_kept(call):
    """The client does wait: the second request comes no sooner than the server asked."""
    times = []
    behave = fault(1, refusal(429, Retry_After="0.05"))

    class Clocked(RawServer):
        def note_request(self, request):
            times.append(time.monotonic())
            super().note_request(request)

    with Clocked(behave) as server, raw_client(server, max_retries=1) as client:
        call(client, "chat", "Привет")
    assert times[1] - times[0] >= 0.05


def test_retries_are_logged(caplog, call):
    """Each retry is a line at DEBUG, and at no higher level."""
    caplog.set_level(logging.DEBUG, "gigachat_lite")
    with RawServer(fault(2, refusal(503))) as server, raw_client(server, max_retries=2) as client:
        call(client, "chat", "Привет")
    assert [record.getMessage() for record in caplog.records].count("ServerError: trying again in 0.0 s") == 2
    assert {record.levelname for record in caplog.records} == {"DEBUG"}


# ---------- what ends a pause

LONG = {"max_retries": 3, "retry_backoff_factor": 60}


@pytest.fixture
def pausing():
    """An event that is set when a client begins to pause: it says so in the log."""
    event = threading.Event()

    class Watcher(logging.Handler):
        def emit(self, record):
            if "trying again" in record.getMessage():
                event.set()

    logger, watcher = logging.getLogger("gigachat_lite"), Watcher()
    level = logger.level
    logger.addHandler(watcher)
    logger.setLevel(logging.DEBUG)
    yield event
    logger.setLevel(level)
    logger.removeHandler(watcher)


@pytest.mark.parametrize("method", ["achat", "astream"])
def test_cancelling_ends_a_pause(pausing, method):
    """A task that is cancelled in the midst of a pause ends at once, and leaves nothing behind."""
    with RawServer(fault(99, refusal(503))) as server, raw_client(server, **LONG) as client:

        async def ask():
            if method == "achat":
                return await client.achat("Привет")
            return [chunk async for chunk in client.astream("Привет")]

        async def run():
            loop = asyncio.get_running_loop()
            task = loop.create_task(ask())
            assert await loop.run_in_executor(None, pausing.wait, WAIT_SECONDS)
            started = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while client._pool._pausing and time.monotonic() - started < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            assert time.monotonic() - started < 5

        asyncio.run(run())
        assert len(server.requests) == 1


def test_wait_for_ends_a_pause():
    """So does one whose time is over."""
    with RawServer(fault(99, refusal(503))) as server, raw_client(server, **LONG) as client:

        async def run():
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.achat("Привет"), 0.05)

        started = time.monotonic()
        asyncio.run(run())
        assert time.monotonic() - started < 5


@METHODS
def test_closing_ends_a_pause(pausing, call, method):
    """A client that is closed in the midst of a pause raises at once."""
    failures = []
    with RawServer(fault(99, refusal(503))) as server:
        client = raw_client(server, **LONG)

        def ask():
            try:
                call(client, method, "Привет")
            except GigaChatException as error:
                failures.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        assert pausing.wait(WAIT_SECONDS)
        client.close()
        thread.join(5)
        assert not thread.is_alive()
        assert "closed" in str(failures[0])
        assert len(server.requests) == 1


def test_closing_a_stream_ends_its_pause(pausing):
    """close() of a stream, from another thread, ends the pause before its retry."""
    failures = []
    with RawServer(fault(99, refusal(503))) as server, raw_client(server, **LONG) as client:
        stream = client.stream("Привет")

        def read():
            try:
                list(stream)
            except GigaChatException as error:
                failures.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        assert pausing.wait(WAIT_SECONDS)
        stream.close()
        thread.join(5)
        assert not thread.is_alive()
        assert "the stream was closed" in str(failures[0])
