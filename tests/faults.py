"""Servers on raw sockets, for answers that no decent server would give: one function per fault.

A fault is a function of one accepted connection::

    def hang_up(wire):
        wire.receive()                      # one request, or None where the client has closed
        wire.send(b"HTTP/1.1 200 OK\\r\\n")   # any bytes, at once
        wire.reset()                        # RST; returning from the function closes decently

    with RawServer(hang_up) as server, GigaChat(base_url=server.base_url, access_token="token") as client:
        ...
        assert server.connections == 1 and server.requests[0].path == "/api/v1/chat/completions"

Wait for what happens, not for time: ``server.wait(lambda: server.closed == 1)``, ``threading.Event``.
"""

import functools
import json
import socket
import ssl
import struct
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

CERTS = Path(__file__).resolve().parent / "certs"
SERVER_TLS = (str(CERTS / "server.pem"), str(CERTS / "server.key"))
WAIT_SECONDS = 20  # a test that waits in vain fails
SHORT = 0.2  # seconds: the timeout of a client that is to wait in vain
SOON = 10  # seconds: what takes none, on the busiest machine; less than anything waits for in vain

COMPLETION = {
    "choices": [{"message": {"content": "да", "role": "assistant"}, "index": 0, "finish_reason": "stop"}],
    "created": 1_700_000_000,
    "model": "GigaChat:1",
    "object": "chat.completion",
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


class Request(NamedTuple):
    """One request as it came: ``headers`` by name in lower case, ``head`` byte for byte."""

    method: str
    target: str
    headers: Dict[str, str]
    body: bytes
    head: bytes
    connection: int

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """The server's end of one connection; ``number`` counts from 1."""

    def __init__(self, server: "RawServer", sock: socket.socket, number: int) -> None:
        self.server = server
        self.sock = sock
        self.number = number
        self._pending = b""

    def receive(self) -> Optional[Request]:
        """Read one request and note it; None where the client closed first."""
        head = self._until(b"\r\n\r\n")
        if head is None:
            return None
        request_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        if headers.get("transfer-encoding") == "chunked":
            body = self._chunks()
        else:
            body = self._exactly(int(headers.get("content-length", 0)))
        method, target, _ = request_line.split(" ")
        request = Request(method, target, headers, body, head, self.number)
        self.server.note_request(request)
        return request

    def __iter__(self) -> Iterator[Request]:
        """Give the requests, one by one, until the client closes."""
        return iter(self.receive, None)

    def _until(self, mark: bytes) -> Optional[bytes]:
        while mark not in self._pending:
            data = self.sock.recv(65_536)
            if not data:
                return None
            self._pending += data
        found, _, self._pending = self._pending.partition(mark)
        return found + mark

    def _exactly(self, size: int) -> bytes:
        while len(self._pending) < size:
            data = self.sock.recv(65_536)
            if not data:
                raise ConnectionError("the client closed in the middle of a body")
            self._pending += data
        taken, self._pending = self._pending[:size], self._pending[size:]
        return taken

    def _chunks(self) -> bytes:
        body = b""
        while True:
            size = int(self._until(b"\r\n") or b"0", 16)
            body += self._exactly(size)
            self._exactly(2)
            if size == 0:
                return body

    def send(self, *pieces: bytes) -> None:
        """Send each piece on its own, at once."""
        for piece in pieces:
            self.sock.sendall(piece)

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def wait_for_close(self) -> bytes:
        """Wait until the client closes; give what it sent meanwhile."""
        received = self._pending
        while True:
            try:
                data = self.sock.recv(65_536)
            except OSError:
                data = b""
            if not data:
                return received
            received += data


class RawServer:
    """Runs *handler* once per connection, each in a daemon thread. ``tls``: certificate and key, or a context.

    To read: ``base_url``, ``auth_url``, ``port``, ``connections`` (accepted), ``closed`` (ended), ``requests``,
    ``tls_failures``. What a handler raises, other than OSError, comes out of the ``with`` block.
    """

    def __init__(
        self, handler: Callable[[Wire], object], tls: Union[Tuple[str, str], ssl.SSLContext, None] = None
    ) -> None:
        self.handler = handler
        self.context = tls if tls is None or isinstance(tls, ssl.SSLContext) else shared_context(*tls)
        self.connections = 0
        self.closed = 0
        self.requests: List[Request] = []
        self.tls_failures: List[OSError] = []
        self._failures: List[BaseException] = []
        self._changed = threading.Condition()  # guards all of the above
        self._socks: List[socket.socket] = []
        self._threads: List[threading.Thread] = []
        self._stopping = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.origin = f"{'https' if tls else 'http'}://localhost:{self.port}"
        self.base_url = self.origin + "/api/v1"
        self.auth_url = self.origin + "/api/v2/oauth"

    def __enter__(self) -> "RawServer":
        self._start(self._accept)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stopping = True
        _shut(self._listener)
        self._threads[0].join(WAIT_SECONDS)
        self._listener.close()
        with self._changed:
            for sock in self._socks:
                _shut(sock)
        for thread in self._threads[1:]:
            thread.join(WAIT_SECONDS)
        if self._failures and kind is None:
            raise self._failures[0]

    def wait(self, fulfilled: Callable[[], bool]) -> None:
        """Wait until a request, a new or an ended connection makes *fulfilled* true."""
        with self._changed:
            assert self._changed.wait_for(fulfilled, WAIT_SECONDS), "waited in vain"

    def note_request(self, request: Request) -> None:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if self._stopping:
                sock.close()
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                self.connections += 1
                self._socks.append(sock)
                self._changed.notify_all()
            self._start(self._serve, sock, self.connections)

    def _serve(self, sock: socket.socket, number: int) -> None:
        wire = Wire(self, sock, number)
        try:
            if self.context is not None:
                wire.sock = self._secure(sock)
            self.handler(wire)
        except OSError:  # the client went away; tests look at what it got
            pass
        except BaseException as error:
            self._failures.append(error)
        finally:
            wire.sock.close()
            with self._changed:
                self.closed += 1
                self._changed.notify_all()

    def _secure(self, sock: socket.socket) -> ssl.SSLSocket:
        assert self.context is not None
        with self._changed:
            secured = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            self._socks[self._socks.index(sock)] = secured
        try:
            secured.do_handshake()
        except OSError as error:
            self.tls_failures.append(error)
            secured.close()
            raise
        return secured


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


shared_context = functools.lru_cache(maxsize=None)(server_context)  # for servers that change nothing in it


def _shut(sock: socket.socket) -> None:
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass


# ---------- what goes to a server

# Texts that would end a header, a parameter or a segment.
BREAKS = [
    "a\r\nX-Evil: 1",
    "a\nX-Evil: 1",
    "a\rX-Evil: 1",
    "a\0b",
    "a\x0bb",
    "a\x85b\u2028c",
    "\r\n\r\nGET /evil HTTP/1.1\r\n\r\n",
]

# ---------- answers


def answer(body: Union[bytes, Dict[str, Any], None] = None, status: str = "200 OK", **headers: str) -> bytes:
    """Write a whole answer, by default a chat completion; ``Retry_After="5"`` is the header Retry-After."""
    data = body if isinstance(body, bytes) else json.dumps(COMPLETION if body is None else body).encode()
    fields = {"Content-Type": "application/json", "Content-Length": str(len(data))}
    fields.update((name.replace("_", "-"), value) for name, value in headers.items())
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + data


def event(data: Any) -> bytes:
    """Write one server-sent event; *data* is text, or becomes JSON."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return b"data: " + text.encode() + b"\n\n"


def delta(content: str, finish_reason: Optional[str] = None) -> bytes:
    """Write one event of a chat stream."""
    choice = {"delta": {"content": content}, "index": 0, "finish_reason": finish_reason}
    return event({"choices": [choice], "created": 1, "model": "GigaChat:1", "object": "chat.completion"})


DONE = event("[DONE]")
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """Wrap *data* as one chunk (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


# ---------- faults


def well_behaved(wire: Wire) -> None:
    """Answer every request of the connection, a stream with a stream: no fault, to compare with."""
    for request in wire:
        wire.send(good_answer(request))


def good_answer(request: Request) -> bytes:
    if b'"stream": true' not in request.body:
        return answer()
    return STREAM_HEAD + chunk(delta("да", "stop")) + chunk(DONE) + LAST_CHUNK


def hold_streams(wire: Wire) -> None:
    """Answer a stream with one chunk and then nothing, until the client closes; other requests well."""
    for request in wire:
        if b'"stream": true' in request.body:
            wire.send(STREAM_HEAD, chunk(delta("раз")))
            wire.wait_for_close()
            return
        wire.send(answer())


def one_answer_then_close(wire: Wire) -> None:
    """Answer one request, then close without having said so."""
    if wire.receive():
        wire.send(answer())


Handler = Callable[[Wire], None]


def closing(*pieces: bytes) -> Handler:
    """Send *pieces* for the first request, then close."""

    def handler(wire: Wire) -> None:
        wire.receive()
        wire.send(*pieces)

    return handler


def resetting(*pieces: bytes) -> Handler:
    """Send *pieces* for the first request, then RST."""

    def handler(wire: Wire) -> None:
        wire.receive()
        wire.send(*pieces)
        wire.reset()

    return handler


def silent_after(*pieces: bytes) -> Handler:
    """Send *pieces* for the first request, then keep silent until the client goes."""

    def handler(wire: Wire) -> None:
        wire.receive()
        wire.send(*pieces)
        wire.wait_for_close()

    return handler


def always(reply: Union[bytes, Callable[[Request], bytes]]) -> Handler:
    """Answer every request with the same bytes, or with what *reply* makes of it."""

    def handler(wire: Wire) -> None:
        for request in wire:
            wire.send(reply if isinstance(reply, bytes) else reply(request))

    return handler


def echo(request: Request) -> bytes:
    """Answer a chat with its own last message."""
    message = {"content": request.json["messages"][-1]["content"], "role": "assistant"}
    return answer({**COMPLETION, "choices": [{"message": message, "index": 0, "finish_reason": "stop"}]})


def endless(piece: bytes, head: bytes = b"") -> Handler:
    """Send *head*, and then *piece* again and again until the client goes."""

    def handler(wire: Wire) -> None:
        wire.receive()
        wire.send(head)
        stop = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < stop:
            wire.send(piece)

    return handler
