"""A TLS server for the benchmarks: canned bytes, kept connections, one thread for each.

The first segment of a path chooses the answer, so that a client chooses it by its base_url, as in .../framed-4000/v1:

    chat        a small answer in one write
    slow        the same after 200 ms
    burst-N     a stream of N events, as many to a chunk as fit into 16 KiB, in one write
    framed-N    the same, each event its own chunk as the service frames them, in one write
    records-N   the same, each event its own chunk and its own write, and so its own TLS record
    paced-N     the same, one event every 2 ms; its content is the time of sending, by time.monotonic_ns()

/embeddings, /files, /files/{id}/content and /oauth answer the same below all of them. Prints its port.
"""

import argparse
import functools
import json
import random
import re
import socket
import ssl
import sys
import threading
import time
from typing import Any, Iterable, Iterator, List

SLOW_SECONDS = 0.2
PACE_SECONDS = 0.002
FILE_BYTES = 256 * 1024 * 1024
_BLOCK = bytes(1024 * 1024)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("certificate")
    parser.add_argument("key")
    arguments = parser.parse_args()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(arguments.certificate, arguments.key)
    threading.stack_size(256 * 1024)  # there may be a thousand threads
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=_accept, args=(listener, context), daemon=True).start()
        sys.stdin.read()  # until the benchmark closes it


def _accept(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_serve, args=(sock, context), daemon=True).start()


def _serve(plain: socket.socket, context: ssl.SSLContext) -> None:
    try:
        with context.wrap_socket(plain, server_side=True) as sock:
            for path in _requests(sock):
                answer = _answer(path)
                if callable(answer):
                    answer(sock)
                else:
                    sock.sendall(answer)
    except OSError:
        pass  # the client has gone


_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)


def _requests(sock: ssl.SSLSocket) -> Iterator[str]:
    """Give the path of each request; its body is read and thrown away."""
    scratch = bytearray(65_536)
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            piece = sock.recv(65_536)
            if not piece:
                return
            data += piece
        head, _, data = data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if length is not None:
            left = int(length.group(1)) - len(data)
            while left > 0:
                left -= sock.recv_into(scratch)
        elif _CHUNKED.search(head):
            while not data.endswith(b"0\r\n\r\n"):
                data = data[-8:] + sock.recv(65_536)
        data = b""  # nobody here sends the next request before the answer to this one
        yield head.split(b" ", 2)[1].decode("ascii")


@functools.lru_cache(maxsize=None)
def _answer(path: str) -> Any:
    """Make the bytes to send, or what sends them; once for each path."""
    kind, _, count = path.split("/")[1].partition("-")
    if path.endswith("/oauth"):
        return _whole({"access_token": "token", "expires_at": int(time.time() + 1800) * 1000})
    if path.endswith("/embeddings"):
        return _whole(_embeddings(256, 1024))
    if path.endswith("/content"):
        return _send_file
    if path.endswith("/files"):
        stored = {"id": "file", "object": "file", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "general"}
        return _whole({**stored, "data": [stored]})  # to an upload and to the question what there is alike
    if kind == "slow":
        return _send_late
    if kind == "paced":
        return functools.partial(_send_paced, int(count))
    if kind == "records":
        return functools.partial(_send_each, [_STREAM_HEAD, *map(_chunk, _events(int(count))), b"0\r\n\r\n"])
    if kind == "framed":
        return b"".join([_STREAM_HEAD, *map(_chunk, _events(int(count))), b"0\r\n\r\n"])
    if kind == "burst":
        whole = b"".join(_events(int(count)))
        blocks = [whole[at : at + 16_384] for at in range(0, len(whole), 16_384)]
        return b"".join([_STREAM_HEAD, *map(_chunk, blocks), b"0\r\n\r\n"])
    return _CHAT


_IDS = "x-request-id: 8a3e7a4e-7e9f-4a33-8a3d-3f5d5f4a8f10\r\nx-session-id: 0b2b6f3c-6d1e-4a0f-9d0e-5c6c1f0f7a11\r\n"
_STREAM_HEAD = (
    f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n{_IDS}\r\n"
).encode("ascii")


def _whole(value: Any) -> bytes:
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{_IDS}\r\n"
    return head.encode("ascii") + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_CHAT = _whole({
    "choices": [{
        "message": {"content": "Здравствуйте! Чем я могу вам помочь сегодня?", "role": "assistant"},
        "index": 0,
        "finish_reason": "stop",
    }],
    "created": 1768996176,
    "model": "GigaChat:2.0.28.2",
    "object": "chat.completion",
    "usage": {"prompt_tokens": 17, "completion_tokens": 42, "total_tokens": 59, "precached_prompt_tokens": 2},
})  # fmt: skip


def _event(content: str, finish_reason: str = "") -> bytes:
    choice: Any = {"delta": {"content": content}, "index": 0}
    value = {"choices": [choice], "created": 1768996176, "model": "GigaChat:2.0.28.2", "object": "chat.completion"}
    if finish_reason:
        choice["finish_reason"] = finish_reason
        value["usage"] = {"prompt_tokens": 17, "completion_tokens": 42, "total_tokens": 59}
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8") + b"\n\n"


def _events(count: int) -> List[bytes]:
    events = [_event(f"\n- Добавляем следующее число: {number}.") for number in range(count - 1)]
    return [*events, _event("", "stop"), b"data: [DONE]\n\n"]


def _embeddings(texts: int, numbers: int) -> Any:
    chance = random.Random(1)
    data = [
        {
            "object": "embedding",
            "embedding": [round(chance.uniform(-2, 2), 7) for _ in range(numbers)],
            "index": index,
            "usage": {"prompt_tokens": 6},
        }
        for index in range(texts)
    ]
    return {"object": "list", "data": data, "model": "Embeddings"}


def _send_late(sock: ssl.SSLSocket) -> None:
    time.sleep(SLOW_SECONDS)
    sock.sendall(_CHAT)


def _send_each(pieces: Iterable[bytes], sock: ssl.SSLSocket) -> None:
    for piece in pieces:
        sock.sendall(piece)


def _send_paced(count: int, sock: ssl.SSLSocket) -> None:
    sock.sendall(_STREAM_HEAD)
    for _ in range(count - 1):
        time.sleep(PACE_SECONDS)
        sock.sendall(_chunk(_event(str(time.monotonic_ns()))))
    sock.sendall(_chunk(_event(str(time.monotonic_ns()), "stop")) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def _send_file(sock: ssl.SSLSocket) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {FILE_BYTES}\r\n{_IDS}\r\n"
    sock.sendall(head.encode("ascii"))
    for _ in range(FILE_BYTES // len(_BLOCK)):
        sock.sendall(_BLOCK)


if __name__ == "__main__":
    main()
