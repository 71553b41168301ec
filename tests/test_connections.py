"""Connections: kept, shared, broken at each step, flooded; forks, copies of clients, the interpreter's end."""

import asyncio
import copy
import gc
import multiprocessing
import os
import pickle
import signal
import socket
import ssl
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import CA, CERTS, MODULE, hurried, patient, raw_client, run_python, sockets_to, wait_until
from faults import (
    DONE,
    LAST_CHUNK,
    SERVER_TLS,
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
    echo,
    endless,
    one_answer_then_close,
    resetting,
    silent_after,
    well_behaved,
)
from local_server import LocalServer

import gigachat_lite
from gigachat_lite import (
    APIConnectionError,
    APITimeoutError,
    GigaChat,
    GigaChatException,
    InvalidResponseError,
    RequestEntityTooLargeError,
    ResponseError,
    ServerError,
)


def serials(server):
    """Give the number of the connection that each request came on."""
    return [request.connection for request in server.requests]


@pytest.fixture
def holding_server():
    """A server whose streams bring one chunk, and the rest when ``server.release`` is set."""
    release = threading.Event()

    def handler(wire):
        for request in wire:
            if not request.json.get("stream"):
                wire.send(answer())
                continue
            wire.send(STREAM_HEAD, chunk(delta("раз")))
            release.wait(WAIT_SECONDS)
            wire.send(chunk(delta("два", "stop")) + chunk(DONE) + LAST_CHUNK)

    with RawServer(handler) as server:
        server.release = release
        yield server
        release.set()


# ---------- connections are kept


def test_keep_alive(client, server, call):
    """A token request and 20 calls, plain and streamed, share one connection."""
    for _ in range(10):
        call(client, "chat", "Привет")
        call(client, "stream", "Привет")
    assert len(server.requests) == 21
    assert server.connections == 1


def test_newest_idle_connection_first(holding_server):
    """Of two idle connections the one that was used last is taken."""
    server = holding_server
    with raw_client(server) as client:
        stream = client.stream("Привет")
        next(stream)
        client.chat("Привет")
        server.release.set()
        assert len(list(stream)) == 1
        client.chat("Привет")
    assert serials(server) == [1, 2, 1]


def test_connection_that_the_server_closed(call):
    """A connection that the server has closed while it was idle is replaced before anything is sent on it."""
    with RawServer(one_answer_then_close) as server, raw_client(server) as client:
        for number in (1, 2, 3):
            call(client, "chat", "Привет")
            server.wait(lambda number=number: server.closed == number)
        assert serials(server) == [1, 2, 3]


def test_server_that_speaks_unasked(call):
    """What a server says on an idle connection, as in a 408 before it closes, is no answer to the next request."""
    idle = threading.Event()

    def handler(wire):
        if wire.receive():
            wire.send(answer())
            idle.wait(WAIT_SECONDS)
            if wire.number == 1:
                wire.send(answer(b"too slow", "408 Request Timeout", Connection="close"))

    with RawServer(handler) as server, raw_client(server) as client:
        call(client, "chat", "Привет")
        idle.set()
        server.wait(lambda: server.closed == 1)
        assert call(client, "chat", "Привет").choices
        assert serials(server) == [1, 2]


def close_on_the_second_request(wire):
    if wire.receive():
        wire.send(answer())
        wire.receive()


def reset_on_the_second_request(wire):
    if wire.receive():
        wire.send(answer())
        wire.receive()
        wire.reset()


@pytest.mark.parametrize("handler", [close_on_the_second_request, reset_on_the_second_request])
@pytest.mark.parametrize("tls", [None, SERVER_TLS], ids=["http", "https"])
def test_stale_connection(call, handler, tls):
    """A request that met a server about to close is sent once more on a fresh connection, without any retries."""
    with RawServer(handler, tls) as server, raw_client(server, ca_bundle_file=CA) as client:
        for _ in range(3):
            assert call(client, "chat", "Привет").choices
        assert serials(server) == [1, 1, 2, 2, 3]
        assert len({request.head + request.body for request in server.requests}) == 1


def test_stale_connection_only_once(call):
    """The repetition on the fresh connection is the last one."""

    def handler(wire):
        if wire.receive() and wire.number == 1:
            wire.send(answer())
            wire.receive()

    with RawServer(handler) as server, raw_client(server) as client:
        call(client, "chat", "Привет")
        with pytest.raises(APIConnectionError, match="closed"):
            call(client, "chat", "Привет")
        assert serials(server) == [1, 1, 2]


@pytest.mark.parametrize("tls", [None, SERVER_TLS], ids=["http", "https"])
@pytest.mark.parametrize("end", ["close", "reset"])
def test_fresh_connection_is_not_repeated(call, tls, end):
    """A request that fails on a fresh connection may have been carried out: it is sent once."""

    def handler(wire):
        wire.receive()
        if end == "reset":
            wire.reset()

    with RawServer(handler, tls) as server, raw_client(server, ca_bundle_file=CA) as client:
        with pytest.raises(APIConnectionError):
            call(client, "chat", "Привет")
        assert server.connections == len(server.requests) == 1


@pytest.mark.parametrize("end", ["close", "reset"])
def test_begun_answer_is_not_repeated(call, end):
    """Once a byte of the answer is here, a failure on a reused connection is a failure."""

    def handler(wire):
        if wire.receive():
            wire.send(answer())
            wire.receive()
            wire.send(b"HTTP/1.1 2")
            if end == "reset":
                wire.reset()

    with RawServer(handler) as server, raw_client(server) as client:
        call(client, "chat", "Привет")
        with pytest.raises(APIConnectionError):
            call(client, "chat", "Привет")
        assert serials(server) == [1, 1]


@pytest.mark.parametrize(
    "reply",
    [
        answer(Connection="close"),
        answer(Connection="Keep-Alive, Close"),
        answer().replace(b"HTTP/1.1", b"HTTP/1.0"),
        answer() + b"HTTP/1.1 200 OK\r\n\r\n",
    ],
    ids=["close", "list with close", "HTTP/1.0", "more than asked for"],
)
def test_connections_that_are_not_kept(call, reply):
    """A connection that the server will close, or that holds bytes which belong to no answer, is not used again."""

    def handler(wire):
        while wire.receive():
            wire.send(reply)

    with RawServer(handler) as server, raw_client(server) as client:
        for _ in range(3):
            assert call(client, "chat", "Привет").choices
        assert serials(server) == [1, 2, 3]
        server.wait(lambda: server.closed == 3)


def test_error_answers_keep_the_connection(client, server, call):
    """An error is an answer: read to its end, it leaves the connection good."""
    for _ in range(3):
        with pytest.raises(ResponseError):
            call(client, "get_model", "missing")
    assert server.connections == 1


@pytest.mark.parametrize(("passed", "connections"), [(30, [1, 1]), (61, [1, 2])])
@pytest.mark.parametrize("clock", ["time", "monotonic"])
def test_idle_connections_expire(monkeypatch, clock, passed, connections):
    """After a minute by either clock, a frozen process's wall clock too, an idle connection is not trusted any more."""
    with RawServer(well_behaved) as server, raw_client(server) as client:
        client.chat("Привет")
        read = getattr(time, clock)
        monkeypatch.setattr(time, clock, lambda: read() + passed)
        client.chat("Привет")
        assert serials(server) == connections


def test_socket_options(client, server):
    """Small requests leave at once, and a vanished peer is noticed."""
    client.chat("Привет")
    (sock,) = sockets_to(server)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
    if hasattr(socket, "TCP_KEEPIDLE"):
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


def test_close_closes_idle_connections(call):
    """close() ends idle connections at once."""
    with RawServer(well_behaved) as server, raw_client(server) as client:
        call(client, "chat", "Привет")
        client.close()
        server.wait(lambda: server.closed == 1)


def test_forgotten_client():
    """A client that nobody closed leaves no connection behind, nor a ResourceWarning."""
    with RawServer(well_behaved) as server:
        client = raw_client(server)
        client.chat("Привет")
        del client
        gc.collect()
        server.wait(lambda: server.closed == 1)


def test_failures_are_collected_quietly(monkeypatch):
    """Garbage of a failed exchange raises nothing when it is collected: nothing shows up on stderr."""
    complaints = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    with RawServer(lambda wire: wire.receive()) as server, raw_client(server) as client:
        for _ in range(3):
            with pytest.raises(APIConnectionError):
                client.chat("Привет")
            gc.collect()
    assert [str(complaint.exc_value) for complaint in complaints] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork():
    """A forked child opens its own connection, and leaves the parent's as it was."""
    script = """
        import os
        client.chat("parent 1")
        child = os.fork()
        if not child:
            client.chat("child")
            client.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        client.chat("parent 2")
        client.close()
    """
    with RawServer(well_behaved) as server:
        done = run_script(script, server)
        assert done.returncode == 0, done.stderr
        assert [(r.connection, r.json["messages"][0]["content"]) for r in server.requests] == [
            (1, "parent 1"),
            (2, "child"),
            (1, "parent 2"),
        ]


# ---------- max_connections


@pytest.fixture
def threes():
    """A server that answers no request before it has three."""
    together = threading.Barrier(3)

    def handler(wire):
        for _ in wire:
            together.wait(WAIT_SECONDS)
            wire.send(answer())

    with RawServer(handler, SERVER_TLS) as server:
        yield server


def test_max_connections_threads(threes):
    """Twelve threads share three connections; all get their answers."""
    with raw_client(threes, ca_bundle_file=CA, max_connections=3) as client, ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(client.chat, ["Привет"] * 12))
    assert len(answers) == 12
    assert threes.connections == 3


def test_max_connections_tasks(threes):
    """Twelve tasks share three connections; all get their answers."""

    async def run():
        async with raw_client(threes, ca_bundle_file=CA, max_connections=3) as client:
            return await asyncio.gather(*(client.achat("Привет") for _ in range(12)))

    assert len(asyncio.run(run())) == 12
    assert threes.connections == 3


def test_no_connection_becomes_free(holding_server):
    """A stream holds its place; who waits for longer than the timeout gets an APITimeoutError, and nothing is sent."""
    client = raw_client(holding_server, max_connections=1)
    with client, client.stream("Привет") as stream:
        next(stream)
        with hurried(client), pytest.raises(APITimeoutError, match="max_connections"):
            client.chat("Привет")
    assert len(holding_server.requests) == holding_server.connections == 1


def wait_for_a_place(client, threads):
    """Begin a stream that takes the only connection, and a call that waits for it."""
    stream = client.stream("Привет")
    next(stream)
    waiting = threads.submit(client.chat, "Привет")
    time.sleep(0.05)
    assert not waiting.done()
    return stream, waiting


def test_closed_stream_gives_its_place(holding_server):
    """A caller that waits for a connection gets one when a stream is closed early."""
    with raw_client(holding_server, max_connections=1) as client, ThreadPoolExecutor(1) as threads:
        stream, waiting = wait_for_a_place(client, threads)
        assert len(holding_server.requests) == 1
        stream.close()
        assert waiting.result(WAIT_SECONDS).choices
    assert serials(holding_server) == [1, 2]


def test_close_wakes_who_waits(holding_server):
    """close() ends the wait for a connection."""
    client = raw_client(holding_server, max_connections=1, timeout=3 * WAIT_SECONDS)
    with client, ThreadPoolExecutor(1) as threads:
        stream, waiting = wait_for_a_place(client, threads)
        client.close()
        with pytest.raises(GigaChatException, match="closed"):
            waiting.result(WAIT_SECONDS)
        stream.close()
    assert len(holding_server.requests) == 1


def test_one_connection_for_two_hosts(settings, server, call):
    """With max_connections=1 an idle connection to the token endpoint makes room for one to the API."""
    with LocalServer(tls=SERVER_TLS) as oauth:
        settings["auth_url"] = oauth.auth_url
        with GigaChat(**settings, max_connections=1) as client:
            with pytest.raises(ResponseError):  # this server does not know the other one's tokens, but it was asked
                call(client, "chat", "Привет")
    assert len(oauth.requests) == len(server.requests) == 2


# ---------- nobody there


def test_nobody_listens(call):
    """A refused connection is an APIConnectionError with the address, and a ConnectionError."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound but not listening: nobody else gets the port
        port = sock.getsockname()[1]
        with GigaChat(base_url=f"http://127.0.0.1:{port}/v1", access_token="token") as client:
            with pytest.raises(APIConnectionError, match=rf"127\.0\.0\.1:{port}") as caught:
                call(client, "chat", "Привет")
    assert isinstance(caught.value, ConnectionError)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def words(completion):
    return completion.choices[0].message.content


def open_files():
    return len(os.listdir("/proc/self/fd"))


# ---------- cut off

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
    options = {"ca_bundle_file": CA, "max_connections": 1}
    with RawServer(end(STAGES[stage]), tls) as server, raw_client(server, **options) as client:
        for _ in range(2):  # the first leaves its place to the second
            with pytest.raises((APIConnectionError, InvalidResponseError)) as caught:
                call(client, "chat", "Привет")
            assert type(caught.value) is not APITimeoutError
            if "body" in stage or "chunk" in stage or not STAGES[stage]:
                assert type(caught.value) is APIConnectionError


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
    with RawServer(closing(reply)) as server, raw_client(server, max_connections=1) as client:
        for number in (1, 2):
            with pytest.raises(APIConnectionError) as caught:
                call(client, "chat", "Привет")
            assert type(caught.value) is not APITimeoutError
            assert "rubbish" not in str(caught.value) and len(str(caught.value)) < 200
            assert server.connections == number
        assert sockets_to(server) == []


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


LINES_TO_SKIP = [
    b"Broken line",
    b"X Y: 1",
    "Заголовок: 1".encode(),
    b"X-Blank : 1",
    b": 1",
    b"X-Long: a\r\n\tb",
    b"A: \xff",
]


@pytest.mark.parametrize("line", LINES_TO_SKIP)
def test_malformed_line_hides_nothing(call, line):
    """A malformed line among the fields costs itself alone: the length behind it counts, and so do the others."""
    head, _, body = answer(X_Request_ID="id\t ").partition(b"\r\n")
    with RawServer(closing(head + b"\r\n" + line + b"\r\n" + body)) as server, raw_client(server) as client:
        completion = call(client, "chat", "Привет")
        assert words(completion) == "да" and completion.x_headers["x-request-id"] == "id"
    with RawServer(closing((head + b"\r\n" + line + b"\r\n" + body)[:-1])) as server, raw_client(server) as client:
        with pytest.raises(APIConnectionError, match="cut"):
            call(client, "chat", "Привет")


AMBIGUOUS = {
    "blank before the colon": b"Content-Length : 2\r\n",
    "length without a colon": b"Content-Length 2\r\n",
    "length behind a blank": b" Content-Length: 2\r\n",
    "length +2": b"Content-Length: +2\r\n",
    "length of 5,000 digits": b"Content-Length: " + b"1" * 5000 + b"\r\n",
    "no length": b"Content-Length:\r\n",
    "length in Arabic digits": "Content-Length: \u0662\r\n".encode(),
    "gzip, chunked": b"Transfer-Encoding: gzip, chunked\r\n",
    "chunked, identity": b"Transfer-Encoding: chunked, identity\r\n",
    "two codings": b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
    "coding with a blank": b"Transfer-Encoding : chunked\r\n",
    "unknown coding": b"Transfer-Encoding: x\r\n",
}


@pytest.mark.parametrize("line", AMBIGUOUS.values(), ids=list(AMBIGUOUS))
def test_ambiguous_framing_is_refused(call, line):
    """Where two readers could see two lengths of a body, nothing of it is taken (RFC 9112, section 6.3)."""
    with RawServer(closing(OK + line + b"\r\n2\r\n{}\r\n0\r\n\r\n")) as server, raw_client(server) as client:
        with pytest.raises(APIConnectionError, match="not HTTP"):
            call(client, "chat", "Привет")


@pytest.mark.parametrize(
    "line",
    [b"Transfer-Encoding: chunked \t", b"transfer-encoding:\tCHUNKED", b"X: a, b;c\r\nTransfer-Encoding:\r\n chunked"],
)
def test_spellings_of_chunked(call, line):
    """Blanks, upper case and a folded value are understood."""
    body = answer().partition(b"\r\n\r\n")[2]
    with RawServer(closing(OK + line + b"\r\n\r\n" + chunk(body) + LAST_CHUNK)) as server, raw_client(server) as client:
        assert words(call(client, "chat", "Привет")) == "да"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("framing", [b"Content-Length: 40\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_body_that_cannot_be(call, status, framing):
    """A 204 or 304 has no body; one that announces it is not waited for, and does not become the next answer."""
    late = threading.Event()

    def handler(wire):
        wire.receive()
        if wire.number > 1:
            wire.send(answer())
            return
        wire.send(b"HTTP/1.1 " + status.encode() + b"\r\n" + framing + b"\r\n")
        late.wait(WAIT_SECONDS)
        wire.send(answer({"choices": []}))

    with RawServer(handler) as server, raw_client(server, max_connections=1, timeout=WAIT_SECONDS) as client:
        with pytest.raises(GigaChatException):
            call(client, "get_models")
        late.set()
        assert words(call(client, "chat", "Привет")) == "да"
        assert server.connections == 2


@pytest.mark.parametrize("seconds", [0, 0.4])
def test_kept_connection_that_breaks(monkeypatch, call, seconds):
    """A request is sent again only where the kept connection broke at once: after some time it may be carried out."""

    def handler(wire):
        wire.receive()
        wire.send(answer())
        if wire.number == 1 and wire.receive():
            time.sleep(seconds)
            wire.reset()
        elif wire.receive():
            wire.send(answer())

    if seconds:
        monkeypatch.setattr(gigachat_lite, "_AT_ONCE_SECONDS", 0.1)
    with RawServer(handler) as server, raw_client(server) as client:
        call(client, "chat", "раз")
        if seconds:
            with pytest.raises(APIConnectionError):
                call(client, "chat", "два")
            assert len(server.requests) == 2
        else:
            assert words(call(client, "chat", "два")) == "да"
            assert len(server.requests) == 3


@patient
def test_addresses_share_the_time(monkeypatch, call, timeout=SHORT):
    """A dead first address leaves the second its share of ``timeout``; getaddrinfo() gets text."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as hole, RawServer(well_behaved) as server:
        plugs = [socket.socket() for _ in range(4)]
        for plug in plugs:  # a full backlog drops what comes next
            plug.setblocking(False)
            plug.connect_ex(hole.getsockname())
        asked = []

        def addresses(host, port, *args, **kwargs):
            asked.append(host)
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*kind, hole.getsockname()), (*kind, ("127.0.0.1", server.port))]

        monkeypatch.setattr(socket, "getaddrinfo", addresses)
        with raw_client(server, base_url="http://giga.test/v1", timeout=timeout) as client:
            assert words(call(client, "chat", "Привет")) == "да"
        for plug in plugs:
            plug.close()
    assert asked == ["giga.test"]


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
            assert SHORT * 0.9 < seconds < SOON


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
        assert time.monotonic() - started < SOON
        done.set()


@pytest.mark.parametrize("head", [OK + b"A: ", OK + b"Content-Length: 10000\r\n\r\n"], ids=["header", "body"])
def test_drop_by_drop(call, head):
    """A byte now and then does not stretch ``timeout``: it bounds an answer as a whole."""
    gone = threading.Event()

    def handler(wire):
        wire.receive()
        wire.send(head)
        for _ in range(1000):  # 20 seconds
            if gone.wait(0.02):
                break
            wire.send(b" ")

    with RawServer(handler) as server, raw_client(server, timeout=SHORT) as client:
        started = time.monotonic()
        with pytest.raises(APITimeoutError):
            call(client, "chat", "Привет")
        assert time.monotonic() - started < SOON
        gone.set()


@pytest.mark.parametrize("interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nA: b\r\n\r\n"])
def test_endless_interim_answers(call, interim):
    """Interim answers without end do not outlast ``timeout``."""
    with RawServer(endless(interim * 50)) as server, raw_client(server, timeout=SHORT) as client:
        started = time.monotonic()
        with pytest.raises(APITimeoutError):
            call(client, "chat", "Привет")
        assert time.monotonic() - started < SOON


@patient
def test_silence_in_an_error_page(call, timeout=SHORT):
    """The status of an error is known before its body: it is what the caller gets."""
    reply = b"HTTP/1.1 500 No\r\nContent-Length: 50\r\n\r\n<html>"
    with RawServer(silent_after(reply)) as server, raw_client(server, timeout=timeout) as client:
        with pytest.raises(ServerError, match="500"):
            call(client, "chat", "Привет")


@patient
def test_early_answer(call, timeout=SHORT):
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
        with RawServer(handler) as server, raw_client(server, timeout=timeout) as client:
            with pytest.raises(RequestEntityTooLargeError, match="too large"):
                call(client, "upload_file", b"x" * 20_000_000)
            assert sockets_to(server) == []
            done.set()


# ---------- floods


def test_a_thousand_calls():
    """1,000 calls on one client leave the number of open files and threads where it was."""
    with RawServer(well_behaved) as server, raw_client(server) as client:
        client.chat("Привет")
        before = open_files(), threading.active_count()
        for _ in range(1000):
            client.chat("Привет")
        wait_until(lambda: open_files() <= before[0] and threading.active_count() <= before[1])
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
        wait_until(lambda: open_files() <= before)


@pytest.mark.parametrize(("most", "turns"), [(None, 50), (3, 15)])
def test_everybody_gets_his_own_answer(most, turns):
    """64 threads with many calls each, on as many connections and on few."""

    def talk(number):
        return [words(client.chat(f"{number}-{turn}")) for turn in range(turns)]

    with RawServer(always(echo)) as server, raw_client(server, max_connections=most) as client:
        with ThreadPoolExecutor(64) as threads:
            for number, answers in enumerate(threads.map(talk, range(64))):
                assert answers == [f"{number}-{turn}" for turn in range(turns)]


def test_max_connections_are_never_exceeded():
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


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads here")
@pytest.mark.parametrize("reply", [b"", OK + b"Content-Length: 10\r\n\r\n{", CHUNKED + chunk(delta("a"))])
def test_interrupted_by_a_signal(reply):
    """What a signal handler raises in the middle of a call leaves no connection behind, and no place taken."""

    def handler(wire):
        if wire.number > 1:
            well_behaved(wire)
            return
        wire.receive()
        wire.send(reply)
        time.sleep(0.05)  # the client waits by then
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
        wire.wait_for_close()

    def interrupt(*_):
        raise Interrupted

    earlier = signal.signal(signal.SIGALRM, interrupt)
    try:
        with RawServer(handler) as server, raw_client(server, max_connections=1) as client:
            with pytest.raises(Interrupted):
                if b"event-stream" in reply:
                    for _ in client.stream("Привет"):
                        pass
                else:
                    client.chat("Привет")
            server.wait(lambda: server.closed == 1)
            assert words(client.chat("Привет")) == "да"
    finally:
        signal.signal(signal.SIGALRM, earlier)


def test_more_streams_than_connections():
    """Streams that hold all places make other calls fail in bounded time, sync and async; closing them heals it."""

    def handler(wire):
        for request in wire:
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
            with hurried(client), pytest.raises(APITimeoutError, match="max_connections"):
                await blocked
        for stream in streams:
            await stream.aclose()
        return await client.achat("x")

    with RawServer(handler) as server, raw_client(server, max_connections=2) as client:
        streams = [client.stream("x"), client.stream("x")]
        for stream in streams:
            next(stream)
        with hurried(client), pytest.raises(APITimeoutError, match="max_connections"):
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
    with RawServer(handler, context) as server, raw_client(server, ca_bundle_file=CA) as client:
        with pytest.raises(APIConnectionError):
            client.chat("Привет")


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def moods(wire):
    """Answer as the words of the request ask_and_close: "hang", "fail", "stream", or an echo."""
    for request in wire:
        words = request.json["messages"][-1]["content"]
        if words == "hang":
            wire.wait_for_close()
        elif words == "fail":
            wire.send(answer(b"", "503 No", Retry_After="100"))
        elif words == "stream":
            wire.send(STREAM_HEAD, chunk(delta("x")))
            wire.wait_for_close()
        else:
            wire.send(echo(request))


# ---------- fork


def run_script(script, server, *options, **environment):
    """Run a script in a process of its own that has a client of *server*, called ``client``."""
    head = "import asyncio, sys, threading, time\nfrom gigachat_lite import *\n"
    head += f"base_url = {server.base_url!r}\nclient = GigaChat(base_url=base_url, access_token='token', timeout=100)\n"
    return run_python(*options, "-c", head + textwrap.dedent(script), **environment)


FORK_IN_CALLS = """
    import os, signal, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and newer warn of any fork beside threads
    wrong, stop = [], []

    def talk(number):
        turn = 0
        while not stop:
            turn += 1
            words = f"{os.getpid()} {number} {turn}"
            if client.chat(words).choices[0].message.content != words:
                wrong.append(words)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for fork in range(25):
        child = os.fork()
        if not child:
            signal.alarm(20)  # a child that hangs dies of it
            words = f"child {fork}"
            right = client.chat(words).choices[0].message.content == words
            right = right and asyncio.run(client.achat(words)).choices[0].message.content == words
            os._exit(0 if right else 1)
        if os.waitpid(child, 0)[1] != 0:
            wrong.append(fork)
            break
    stop.append(True)
    for thread in threads:
        thread.join()
    client.close()
    assert wrong == [], wrong
"""


@needs_fork
def test_fork_with_calls_in_flight():
    """Forks, from the very first call on, beside eight threads that call: parent and child get their own answers."""
    with RawServer(moods) as server:
        done = run_script(FORK_IN_CALLS, server)
        assert done.returncode == 0, done.stderr
        ours = {}
        for request in server.requests:  # no connection serves two processes
            words = request.json["messages"][0]["content"]
            process = words if words.startswith("child") else words.split()[0]
            assert ours.setdefault(request.connection, process) == process


@needs_fork
def test_fork_with_a_login_in_flight():
    """A lock that is held by another thread of the parent is free in the child."""
    script = """
        import os, signal, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        early = client
        client = GigaChat(base_url=base_url, auth_url=base_url + "/oauth", credentials="YTpi", timeout=30)
        thread = threading.Thread(target=client.get_token, daemon=True)
        thread.start()
        early.chat("has the login arrived?")
        child = os.fork()
        if not child:
            signal.alarm(20)
            print(client.chat("child").choices[0].message.content, flush=True)
            os._exit(0)
        sys.exit(os.waitpid(child, 0)[1])
    """
    logins = []

    def handler(wire):
        for request in wire:
            if not request.path.endswith("/oauth"):
                server.wait(lambda: any(request.path.endswith("/oauth") for request in server.requests))
                wire.send(echo(request))
                continue
            logins.append(request)
            if len(logins) == 1:
                wire.wait_for_close()
                return
            wire.send(answer({"access_token": "new", "expires_at": 0}))

    with RawServer(handler) as server:
        done = run_script(script, server)
        assert (done.returncode, done.stdout.strip()) == (0, "child"), done.stderr


@needs_fork
def test_fork_with_a_stream():
    """The child cannot read the parent's stream, and does not disturb it."""
    script = """
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        stream = client.stream("x")
        print(next(stream).choices[0].delta.content, flush=True)
        child = os.fork()
        if not child:
            try:
                next(stream)
            except GigaChatException as error:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        client.chat("release")
        print("".join(part.choices[0].delta.content for part in stream))
        client.close()
    """
    release = threading.Event()

    def handler(wire):
        request = wire.receive()
        if not request.json.get("stream"):
            release.set()
            wire.send(answer())
            return
        wire.send(STREAM_HEAD, chunk(delta("раз")))
        release.wait(20)
        wire.send(chunk(delta("два", "stop")), b"0\r\n\r\n")

    with RawServer(handler) as server:
        done = run_script(script, server)
        assert done.stdout.split() == ["раз", "два"], done.stderr


# ---------- copies


@pytest.mark.parametrize(
    "make",
    [copy.copy, copy.deepcopy, lambda client: pickle.loads(pickle.dumps(client))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies(make, call):
    """A copy works, has the same settings and connections of its own."""
    with RawServer(always(echo)) as server, raw_client(server, max_connections=3, model="Модель") as client:
        call(client, "chat", "x")
        with make(client) as other:
            assert type(other) is GigaChat and repr(other) == repr(client)
            call(other, "chat", "y")
            client.close()
            assert call(other, "chat", "z").choices[0].message.content == "z"
        assert [request.connection for request in server.requests] == [1, 2, 2]
        assert {request.json["model"] for request in server.requests} == {"Модель"}


def test_copy_keeps_the_proxy_of_the_environment(monkeypatch):
    """What the environment said when the client was made holds for its copies, in whatever process."""
    with RawServer(always(echo)) as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.port}")
        client = GigaChat(base_url="http://name.invalid/v1", access_token="token", timeout=20)
        pickled = pickle.dumps(client)
        monkeypatch.delenv("HTTP_PROXY")
        for other in (copy.copy(client), pickle.loads(pickled)):
            with other:
                assert other.chat("x").choices
        client.close()


def test_copies_of_resources():
    """The groups of methods, and a client inside another object, are copied too."""
    with RawServer(always(answer({"threads": []}))) as server, raw_client(server) as client:
        holder = copy.deepcopy({"client": client, "threads": client.threads})
        assert holder["client"] is not client
        assert holder["threads"].list().threads == []
        holder["client"].close()


def ask_and_close(client, words):
    with client:
        return client.chat(words).choices[0].message.content


@pytest.mark.parametrize("method", sorted({"spawn", "fork"} & set(multiprocessing.get_all_start_methods())))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_worker_processes(method):
    """A client reaches the workers of an engine."""
    with RawServer(always(echo)) as server, raw_client(server) as client:
        client.chat("x")
        with multiprocessing.get_context(method).Pool(2) as pool:
            calls = [pool.apply_async(ask_and_close, (client, str(number))) for number in range(6)]
            assert [call.get(60) for call in calls] == [str(number) for number in range(6)]


# ---------- the interpreter's end

ENDS = {
    "idle": "client.chat('x')",
    "idle after async": "asyncio.run(client.achat('x'))",
    "task left": """
        async def main():
            task = asyncio.ensure_future(client.achat("hang"))
            await asyncio.sleep(0.05)
        asyncio.run(main())
    """,
    "timed out": """
        async def main():
            for call in (client.achat("hang"), client.astream("hang").__anext__()):
                try:
                    await asyncio.wait_for(call, 0.05)
                except asyncio.TimeoutError:
                    pass
        asyncio.run(main())
    """,
    "stream open": "stream = client.stream('stream')\nnext(stream)",
    "async stream open": """
        async def main():
            global stream
            stream = client.astream("stream")
            await stream.__anext__()
        asyncio.run(main())
    """,
    "async stream left": """
        async def main():
            async for _ in client.astream("stream"):
                break
        asyncio.run(main())
    """,
    "thread in a call": "threading.Thread(target=client.chat, args=('hang',), daemon=True).start()\ntime.sleep(0.05)",
    "backoff": """
        client = GigaChat(base_url=base_url, access_token="token", max_retries=5)
        async def main():
            try:
                await asyncio.wait_for(client.achat("fail"), 0.1)
            except asyncio.TimeoutError:
                pass
        asyncio.run(main())
    """,
    "loop dropped": """
        loop = asyncio.new_event_loop()
        task = loop.create_task(client.achat("hang"))
        loop.call_later(0.05, loop.stop)
        loop.run_forever()
        task.cancel()
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        loop.close()
    """,
    "used at exit": "import atexit\natexit.register(lambda: client.chat('x') and None)",
    "ring": "client.me = client\nclient.chat('x')",
    "exit in a stream": "for _ in client.stream('stream'):\n    sys.exit()",
}


def test_the_end_is_quick_and_silent():
    """Whatever is under way or idle, the interpreter ends at once and says nothing."""

    def run(script):
        started = time.monotonic()
        done = run_script(script, server)
        return done.returncode, done.stdout, done.stderr, time.monotonic() - started < 50  # timeout is 100

    with RawServer(moods) as server, ThreadPoolExecutor(3) as threads:
        for name, end in zip(ENDS, threads.map(run, ENDS.values())):
            assert (name, *end) == (name, 0, "", "", True)


def test_poor_surroundings(tmp_path):
    """No HOME, no PATH, no standard streams, only this file."""
    with RawServer(moods) as server:
        script = f"""
            import os, traceback
            report = open({str(tmp_path / "report")!r}, "w")
            for stream in (0, 1, 2):
                os.close(stream)
            try:
                client.chat("x")
                asyncio.run(client.achat("x"))
                report.write("fine")
            except BaseException:
                report.write(traceback.format_exc())
            report.flush()
            os._exit(0)
        """
        run_script(script, server, "-S", HOME="", PATH="")
        assert (tmp_path / "report").read_text() == "fine"
        assert len(server.requests) == 2


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no user ids here")
def test_read_only_files(tmp_path):
    """Nothing is written: not beside the module, not in the working directory, not in the temporary one."""
    module = tmp_path / "lib"
    module.mkdir()
    (module / "gigachat_lite.py").write_bytes(MODULE.read_bytes())
    (tmp_path / "empty").mkdir()
    with RawServer(moods) as server:
        script = """
            import os
            opened = []
            def watch(event, arguments):
                if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
                    opened.append(arguments)
                if event in ("os.mkdir", "os.rename", "tempfile.mkstemp"):
                    opened.append((event, arguments))
            sys.addaudithook(watch)
            client.chat("да")
            asyncio.run(client.achat("да"))
            client.close()
            assert not opened, opened
        """
        surroundings = {"PYTHONPATH": str(module), "HOME": "/nonexistent", "TMPDIR": "/nonexistent"}
        done = run_script(script, server, **surroundings)
        assert done.returncode == 0, done.stderr
    assert [path.name for path in module.iterdir()] == ["gigachat_lite.py"]


def test_client_certificate_in_a_worker_process(call):
    """Settings with files survive the way through pickle."""
    with LocalServer(tls=SERVER_TLS, client_ca=CA) as server:
        files = {"ca_bundle_file": CA, "cert_file": CERTS / "client.pem", "key_file": CERTS / "client.key"}
        with GigaChat(base_url=server.base_url, **files) as client, pickle.loads(pickle.dumps(client)) as other:
            assert call(other, "chat", "Привет").choices
        assert "TEST client" in str(server.requests[0].peer_certificate)
