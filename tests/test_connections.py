"""Connections that fail, at each step: an exception of ours in bounded time, and nothing left behind."""

import asyncio
import gc
import os
import signal
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import CERTS
from faults import (
    LAST_CHUNK,
    SERVER_TLS,
    WAIT_SECONDS,
    RawServer,
    always,
    answer,
    chunk,
    closing,
    delta,
    echo,
    endless,
    resetting,
    silent_after,
    well_behaved,
)

from gigachat_lite import (
    APIConnectionError,
    APITimeoutError,
    GigaChat,
    GigaChatException,
    InvalidResponseError,
    RequestEntityTooLargeError,
    ServerError,
)

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
SHORT = 0.2  # seconds: a client that waits in vain


def raw_client(server, **settings):
    """Make a client of a RawServer; it needs no token request."""
    return GigaChat(**{"base_url": server.base_url, "access_token": "token", "timeout": 20, **settings})


def words(completion):
    return completion.choices[0].message.content


def open_files():
    return len(os.listdir("/proc/self/fd"))


# ---------- cut

STAGES = {
    "nothing": b"",
    "in the status line": b"HTTP/1.1 20",
    "behind the status line": OK,
    "in a header": OK + b"Content-Len",
    "behind a header": OK + b"Content-Length: 10\r\n",
    "in the body": OK + b"Content-Length: 10\r\n\r\n{",
    "before the body": OK + b"Content-Length: 10\r\n\r\n",
    "in a chunk size": OK + b"Transfer-Encoding: chunked\r\n\r\n1",
    "in a chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n10\r\n{",
    "behind a chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    "before the trailers' end": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
}


@pytest.mark.parametrize(
    ("end", "tls"), [(closing, None), (resetting, None), (resetting, SERVER_TLS)], ids=["close", "reset", "reset tls"]
)
@pytest.mark.parametrize("stage", STAGES)
def test_cut(call, stage, end, tls):
    """A connection that ends too early, whether decently or not, is an APIConnectionError or no right answer."""
    with RawServer(end(STAGES[stage]), tls) as server, raw_client(server, ca_bundle_file=CERTS / "ca.pem") as client:
        with pytest.raises((APIConnectionError, InvalidResponseError)) as caught:
            call(client, "chat", "Привет")
        if "body" in stage or "chunk" in stage or not STAGES[stage]:
            assert type(caught.value) is APIConnectionError
        assert client._pool._busy == set()


def test_cut_in_the_handshake(call):
    """A server that resets in place of a TLS handshake."""

    def handler(wire):
        wire.sock.recv(1)
        wire.reset()

    with RawServer(handler) as server:
        client = raw_client(server, base_url=f"https://localhost:{server.port}/api/v1")
        with client, pytest.raises(APIConnectionError):
            call(client, "chat", "Привет")


def test_reset_before_reading(call):
    """A server that resets as soon as it has accepted."""
    with RawServer(lambda wire: wire.reset()) as server, raw_client(server) as client:
        with pytest.raises(APIConnectionError):
            call(client, "chat", "Привет")


def test_refused(call):
    """Nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with GigaChat(base_url=f"http://127.0.0.1:{port}/v1", access_token="token") as client:
        with pytest.raises(APIConnectionError):
            call(client, "chat", "Привет")


@pytest.mark.parametrize("host", ["name.invalid", "a" * 64 + ".invalid", "a..b", ".invalid", "xn--a.invalid"])
def test_name_not_found(call, host):
    """A name that nobody has, or that cannot be one."""
    try:
        client = GigaChat(base_url=f"https://{host}/v1", access_token="token", timeout=20)
    except GigaChatException:
        return
    with client, pytest.raises(GigaChatException):
        call(client, "chat", "Привет")


# ---------- rubbish

RUBBISH = {
    "bytes": b"\x00\xff\xfe rubbish\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "http/2": b"HTTP/2 200\r\n\r\n",
    "http/0.9": b"<html>hello</html>",
    "status 9999": b"HTTP/1.1 9999 X\r\n\r\n",
    "status 99": b"HTTP/1.1 099 X\r\n\r\n",
    "status abc": b"HTTP/1.1 abc X\r\n\r\n",
    "status -200": b"HTTP/1.1 -200 X\r\n\r\n",
    "empty lines": b"\r\n\r\n\r\n",
    "long status line": b"HTTP/1.1 200 " + b"a" * 100_000 + b"\r\n\r\n",
    "long header": OK + b"A: " + b"a" * 100_000 + b"\r\n\r\n",
    "many headers": OK + b"A: b\r\n" * 1000 + b"\r\n",
    "header bomb": OK + (b"A: " + b"b" * 60_000 + b"\r\n") * 150 + b"\r\n",
    "chunk size zz": CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    "chunk size -1": CHUNKED + b"-1\r\n{}\r\n0\r\n\r\n",
    "chunk size 0x2": CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n",
    "chunk size of 68 bits": CHUNKED + b"f" * 17 + b"\r\n{}",
    "chunk without end": CHUNKED + b"2\r\n{}0\r\n\r\n",
    "long chunk extension": CHUNKED + b"2;" + b"a" * 100_000,
    "length that is no number": OK + b"Content-Length: x\r\n\r\n{}",
    "length below zero": OK + b"Content-Length: -2\r\n\r\n{}",
    "list of lengths": OK + b"Content-Length: 2, 2\r\n\r\n{}",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 100\r\n\r\n{}",
}


@pytest.mark.parametrize("reply", RUBBISH.values(), ids=list(RUBBISH))
def test_rubbish(call, reply):
    """What is no HTTP is an APIConnectionError; the text does not repeat it."""
    with RawServer(closing(reply)) as server, raw_client(server) as client:
        with pytest.raises(APIConnectionError) as caught:
            call(client, "chat", "Привет")
        assert "rubbish" not in str(caught.value) and len(str(caught.value)) < 200
        assert client._pool._busy == set() and client._pool._idle_connections() == []


def test_odd_but_right(call):
    """Interim answers, HTTP/1.0, bare line feeds and folded headers are understood."""
    whole = answer()
    body = whole.partition(b"\r\n\r\n")[2]
    for reply in (
        b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + whole,
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + whole,
        b"HTTP/1.0 200 OK\r\n\r\n" + body,
        b"HTTP/1.1 200\r\n\r\n" + body,
        OK + b"Connection: close\r\n\r\n" + body,
        whole.replace(b"\r\n", b"\n"),
        whole.replace(b"\r\n", b"\r\nX: a\r\n\tb\r\n", 1),
        OK + b"Transfer-Encoding: Chunked\r\n\r\n" + b"".join(chunk(bytes([byte])) for byte in body) + LAST_CHUNK,
        OK
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + b"%X ;a=b\r\n%b\r\n000;c\r\nTrailer: x\r\n\r\n" % (len(body), body),
    ):
        with RawServer(closing(reply)) as server, raw_client(server) as client:
            assert words(call(client, "chat", "Привет")) == "да"


def test_stray_answers_are_never_taken(call):
    """Bytes behind the end of an answer, even a whole other answer, cost the connection and reach nobody."""
    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    bodies = (
        answer(),
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(answer().partition(b"\r\n\r\n")[2]) + LAST_CHUNK,
        b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST_CHUNK,
    )
    for body in bodies:
        with RawServer(always(body + evil)) as server, raw_client(server) as client:
            for _ in range(2):
                try:
                    assert words(call(client, "chat", "Привет")) == "да"
                except GigaChatException as error:
                    assert error.status_code in (404, 500)
            assert server.connections == 2


# ---------- silence


@pytest.mark.parametrize("method", ["chat", "stream", "download_file"])
def test_silence(call, method):
    """A server that falls silent at any stage: APITimeoutError after ``timeout``, and the connection is dropped."""

    def wait_in_vain(stage):
        reply = STAGES[stage].replace(OK, OK + b"Content-Type: text/event-stream\r\n")
        with RawServer(silent_after(reply)) as server, raw_client(server, timeout=SHORT) as client:
            started = time.monotonic()
            with pytest.raises(APITimeoutError, match="GIGACHAT_TIMEOUT"):
                call(client, method, "x")
            server.wait(lambda: server.closed == 1)
            return time.monotonic() - started

    stages = ["nothing", "in the status line", "in a header", "in the body", "in a chunk"]
    with ThreadPoolExecutor(len(stages)) as threads:
        for seconds in threads.map(wait_in_vain, stages):
            assert SHORT * 0.9 < seconds < SHORT * 20


@pytest.mark.parametrize("scheme", ["https", "proxy"])
def test_silence_before_the_request(call, scheme):
    """A server that accepts and says nothing, where TLS or a proxy should answer."""
    with RawServer(lambda wire: wire.wait_for_close()) as server:
        proxy = f"http://127.0.0.1:{server.port}" if scheme == "proxy" else ""
        base_url = "https://name.invalid/v1" if proxy else f"https://localhost:{server.port}/v1"
        with GigaChat(base_url=base_url, proxy=proxy, access_token="token", timeout=SHORT) as client:
            with pytest.raises(APITimeoutError):
                call(client, "chat", "Привет")


def test_server_that_does_not_read(call):
    """A large request that nobody takes ends after ``timeout`` too."""
    done = threading.Event()
    with RawServer(lambda wire: done.wait(WAIT_SECONDS)) as server, raw_client(server, timeout=SHORT) as client:
        started = time.monotonic()
        with pytest.raises(APITimeoutError, match="sending"):
            call(client, "upload_file", b"x" * 20_000_000)
        assert time.monotonic() - started < SHORT * 20
        done.set()


@pytest.mark.parametrize("head", [OK + b"A: ", OK + b"Content-Length: 10000\r\n\r\n"], ids=["header", "body"])
def test_drop_by_drop(call, head):
    """A byte now and then does not stretch ``timeout``: it bounds an answer as a whole."""
    gone = threading.Event()

    def handler(wire):
        wire.receive()
        wire.send(head)
        for _ in range(500):
            if gone.wait(0.02):
                break
            wire.send(b" ")

    with RawServer(handler) as server, raw_client(server, timeout=SHORT) as client:
        started = time.monotonic()
        with pytest.raises(APITimeoutError):
            call(client, "chat", "Привет")
        assert time.monotonic() - started < SHORT * 20
        gone.set()


@pytest.mark.parametrize("interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nA: b\r\n\r\n"])
def test_endless_interim_answers(call, interim):
    """Interim answers without end do not outlast ``timeout``."""
    with RawServer(endless(interim * 50)) as server, raw_client(server, timeout=SHORT) as client:
        started = time.monotonic()
        with pytest.raises(APITimeoutError):
            call(client, "chat", "Привет")
        assert time.monotonic() - started < SHORT * 20


def test_silence_in_an_error_page(call):
    """The status of an error is known before its body: it is what the caller gets."""
    reply = b"HTTP/1.1 500 No\r\nContent-Length: 50\r\n\r\n<html>"
    with RawServer(silent_after(reply)) as server, raw_client(server, timeout=SHORT) as client:
        with pytest.raises(ServerError, match="500"):
            call(client, "chat", "Привет")


def test_early_answer(call):
    """A server that refuses a large body without reading it: its answer counts, not the broken pipe or the wait."""
    too_large = answer({"status": 413, "message": "too large"}, "413 Too Large")
    done = threading.Event()

    def deaf(wire):
        wire.sock.recv(1000)
        wire.send(too_large)
        done.wait(WAIT_SECONDS)

    def leaving(wire):
        wire.sock.recv(1000)
        wire.send(too_large)

    for handler in (deaf, leaving):
        with RawServer(handler) as server, raw_client(server, timeout=SHORT) as client:
            with pytest.raises(RequestEntityTooLargeError, match="too large"):
                call(client, "upload_file", b"x" * 20_000_000)
            assert client._pool._idle_connections() == []
            done.set()


# ---------- floods


def test_a_thousand_calls():
    """1,000 calls on one client leave the number of open files and threads where it was."""
    with RawServer(well_behaved) as server, raw_client(server) as client:
        client.chat("Привет")
        before = open_files(), threading.active_count()
        for _ in range(1000):
            client.chat("Привет")
        assert (open_files(), threading.active_count()) == before
        assert server.connections == 1


def test_failures_leave_nothing():
    """Failed calls leave no open file."""
    with RawServer(resetting(OK + b"Content-Length: 10\r\n\r\n{")) as server, raw_client(server) as client:
        for number in range(60):
            with pytest.raises(APIConnectionError):
                client.chat("Привет")
            server.wait(lambda number=number: server.closed == number + 1)
            if number == 9:
                gc.collect()
                before = open_files()
        gc.collect()
        assert open_files() == before


@pytest.mark.parametrize(("most", "turns"), [(None, 50), (3, 15)])
def test_everybody_gets_his_own_answer(most, turns):
    """64 threads with many calls each, on as many connections and on few."""

    def talk(number):
        return [words(client.chat(f"{number}-{turn}")) for turn in range(turns)]

    with RawServer(always(echo)) as server, raw_client(server, max_connections=most) as client:
        with ThreadPoolExecutor(64) as threads:
            for number, answers in enumerate(threads.map(talk, range(64))):
                assert answers == [f"{number}-{turn}" for turn in range(turns)]


def test_max_connections():
    """Two connections for 16 threads are never exceeded, and nobody starves."""
    lock, open_now, most = threading.Lock(), [0], [0]

    def handler(wire):
        with lock:
            open_now[0] += 1
            most[0] = max(most[0], open_now[0])
        try:
            always(echo)(wire)
        finally:
            with lock:
                open_now[0] -= 1

    with RawServer(handler) as server, raw_client(server, max_connections=2) as client:
        with ThreadPoolExecutor(16) as threads:
            calls = [threads.submit(client.chat, str(number)) for number in range(320)]
            assert [words(future.result(WAIT_SECONDS)) for future in calls] == [str(number) for number in range(320)]
    assert most[0] == 2 and server.connections == 2


def test_idle_connections_that_the_server_closes(call):
    """A server that closes each connection after its answer costs no call."""

    def handler(wire):
        wire.receive()
        wire.send(answer())

    with RawServer(handler) as server, raw_client(server) as client:
        for number in range(1, 21):
            assert words(call(client, "chat", "Привет")) == "да"
            assert server.connections == number


class Interrupted(Exception):
    pass


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
@pytest.mark.parametrize("reply", [b"", OK + b"Content-Length: 10\r\n\r\n{", CHUNKED + chunk(delta("a"))])
def test_interrupted_by_a_signal(reply):
    """What a signal handler raises in the middle of a call leaves no connection behind, and no place taken."""

    def handler(wire):
        if wire.number == 1:
            silent_after(reply)(wire)
        else:
            well_behaved(wire)

    def interrupt(*_):
        raise Interrupted

    earlier = signal.signal(signal.SIGALRM, interrupt)
    try:
        with RawServer(handler) as server, raw_client(server, max_connections=1) as client:
            with pytest.raises(Interrupted):
                signal.setitimer(signal.ITIMER_REAL, 0.1)
                if b"event-stream" in reply:
                    for _ in client.stream("Привет"):
                        pass
                else:
                    client.chat("Привет")
            server.wait(lambda: server.closed == 1)
            assert words(client.chat("Привет")) == "да"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


def test_more_streams_than_connections():
    """Streams that hold all places make other calls fail in bounded time, sync and async; closing them heals it."""

    def handler(wire):
        while True:
            request = wire.receive()
            if request is None:
                return
            if request.json.get("stream"):
                wire.send(CHUNKED + chunk(delta("a")))
                wire.wait_for_close()
                return
            wire.send(answer())

    async def run(client):
        streams = [client.astream("x") for _ in range(3)]
        await streams[0].__anext__()
        await streams[1].__anext__()
        for blocked in (client.achat("x"), streams[2].__anext__()):
            with pytest.raises(APITimeoutError, match="max_connections"):
                await blocked
        for stream in streams:
            await stream.aclose()
        return await client.achat("x")

    with RawServer(handler) as server, raw_client(server, max_connections=2, timeout=SHORT) as client:
        streams = [client.stream("x"), client.stream("x")]
        for stream in streams:
            next(stream)
        with pytest.raises(APITimeoutError, match="max_connections"):
            client.chat("x")
        for stream in streams:
            stream.close()
        assert words(client.chat("x")) == "да"
        assert words(asyncio.run(run(client))) == "да"


def test_connection_cut_without_close_notify():
    """Bytes of an answer that TLS cannot vouch for, of known length, are an error."""

    def handler(wire):
        wire.receive()
        wire.send(OK + b"Content-Length: 10\r\n\r\n{}")
        socket.socket.shutdown(wire.sock, socket.SHUT_RDWR)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*SERVER_TLS)
    with RawServer(handler, context) as server, raw_client(server, ca_bundle_file=CERTS / "ca.pem") as client:
        with pytest.raises(APIConnectionError):
            client.chat("Привет")
