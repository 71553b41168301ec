"""Uploads that have to be sent again: whole, from where the file stood, or not at all."""

import io
import os
import re

import pytest
from faults import RawServer, always, answer, closing

import gigachat_lite
from gigachat_lite import APIConnectionError, AuthenticationError, GigaChat, GigaChatException, ServerError

CONTENT = bytes(range(256)) * 4096  # 1 MiB: more than one block
STORED = {"id": "f", "object": "file", "bytes": 1, "created_at": 1, "filename": "x", "purpose": "general"}


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch):
    """Retries without the random part of their pause, which these tests would only wait for."""
    monkeypatch.setattr(gigachat_lite, "_JITTER", 0.0)


class Unseekable(io.RawIOBase):
    """A pipe: it can be read once."""

    name = "pipe.bin"

    def __init__(self, content):
        self._rest = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._rest.readinto(buffer)


def content_of(request):
    boundary = re.search("boundary=(.*)", request.headers["content-type"]).group(1).encode()
    parts = request.body.split(b"--" + boundary)
    assert parts[-1] == b"--\r\n" and len(parts) == 4
    return parts[2].partition(b"\r\n\r\n")[2][:-2]


def as_bytes(directory):
    return ("name.bin", CONTENT), CONTENT


def as_path(directory):
    path = directory / "name.bin"
    path.write_bytes(CONTENT)
    return path, CONTENT


def as_file(directory):
    return io.BytesIO(CONTENT), CONTENT


def as_file_in_the_middle(directory):
    file = io.BytesIO(b"skipped" + CONTENT)
    file.seek(7)
    return ("name.bin", file), CONTENT


def as_empty_file(directory):
    return ("name.bin", io.BytesIO(b"skipped")), b"skipped"


sources = pytest.mark.parametrize("source", [as_bytes, as_path, as_file, as_file_in_the_middle, as_empty_file])


def upload_client(server, **settings):
    return GigaChat(
        **{
            "base_url": server.base_url,
            "auth_url": server.auth_url,
            "credentials": "YTpi",
            "timeout": 20,
            "retry_backoff_factor": 0,
            **settings,
        }
    )


def oauth_or(reply):
    """Answer token requests, and the uploads by number, from 1."""
    uploads = []

    def of(request):
        if request.path.endswith("/oauth"):
            return answer({"access_token": "new", "expires_at": 0})
        uploads.append(request)
        return reply(len(uploads))

    handler = always(of)
    return handler, uploads


@sources
@pytest.mark.parametrize("failure", ["401 No", "503 No"])
def test_sent_again_whole(call, tmp_path, source, failure):
    """After a 401, and after an error that is retried, the same bytes go out again."""
    handler, uploads = oauth_or(lambda number: answer(b"", failure) if number == 1 else answer(STORED))
    what, content = source(tmp_path)
    with RawServer(handler) as server, upload_client(server, max_retries=1) as client:
        assert call(client, "upload_file", what).id == "f"
    assert [content_of(upload) == content for upload in uploads] == [True, True]
    assert uploads[0].body == uploads[1].body


@sources
def test_connection_that_breaks(call, tmp_path, source):
    """A connection that breaks after the request, with retries on."""

    def handler(wire):
        if wire.number == 1:
            closing(b"HTTP/1.1 20")(wire)
        else:
            always(answer(STORED))(wire)

    what, content = source(tmp_path)
    with RawServer(handler) as server, upload_client(server, access_token="t", max_retries=1) as client:
        assert call(client, "upload_file", what).id == "f"
        assert [content_of(upload) == content for upload in server.requests] == [True, True]


@sources
def test_stale_connection(call, tmp_path, source):
    """A kept connection that the server closes upon the upload: it is repeated on a fresh one, without retries."""

    def handler(wire):
        request = wire.receive()
        wire.send(answer(STORED))
        if wire.number == 1:
            wire.receive()
        while request is not None and wire.number > 1:
            request = wire.receive()
            wire.send(answer(STORED) if request else b"")

    what, content = source(tmp_path)
    with RawServer(handler) as server, upload_client(server, access_token="t") as client:
        call(client, "get_file", "f")
        assert call(client, "upload_file", what).id == "f"
        assert [content_of(upload) == content for upload in server.requests[1:]] == [True, True]
        assert server.connections == 2


@pytest.mark.parametrize(("status", "kind"), [("401 No", AuthenticationError), ("503 No", ServerError)])
def test_unseekable_is_sent_once(call, status, kind):
    """What can be read only once goes out once, in chunks, and the first failure is the answer."""
    handler, uploads = oauth_or(lambda number: answer(b"", status))
    with RawServer(handler) as server, upload_client(server, max_retries=3) as client:
        with pytest.raises(kind):
            call(client, "upload_file", Unseekable(CONTENT))
    assert [content_of(upload) == CONTENT for upload in uploads] == [True]
    assert uploads[0].headers["transfer-encoding"] == "chunked"


def test_unseekable_takes_a_fresh_connection(call):
    """It could not be repeated if a kept connection turned out to be stale."""
    with RawServer(always(answer(STORED))) as server, upload_client(server, access_token="t") as client:
        call(client, "get_file", "f")
        call(client, "upload_file", Unseekable(CONTENT))
        assert [request.connection for request in server.requests] == [1, 2]


def test_pipe(call):
    """A real pipe."""
    reading, writing = os.pipe()
    os.write(writing, b"through the pipe")
    os.close(writing)
    with RawServer(always(answer(STORED))) as server, upload_client(server, access_token="t") as client:
        with open(reading, "rb") as file:
            call(client, "upload_file", ("pipe.txt", file))
        assert content_of(server.requests[0]) == b"through the pipe"


class Shrinking(io.BytesIO):
    """A file that loses its end between being measured and being read."""

    def read(self, size=-1):
        return b"" if self.tell() >= 100 else super().read(min(size, 100))


def test_file_that_shrinks(call):
    """A file that became shorter is an error and no hang; its connection is not used again."""
    done = []

    def handler(wire):
        try:
            wire.receive()
        except ConnectionError:
            done.append(wire.number)

    with RawServer(handler) as server, upload_client(server, access_token="t") as client:
        with pytest.raises((OSError, GigaChatException), match="shorter"):
            call(client, "upload_file", ("a.bin", Shrinking(b"x" * 1000)))
        server.wait(lambda: server.closed == 1)
        assert client._pool._busy == set() and client._pool._idle_connections() == []
    assert done == [1]


def test_file_that_grows(call, tmp_path):
    """Only what was there at the beginning is sent: the Content-Length holds."""

    class Growing(io.BytesIO):
        def read(self, size=-1):
            at = self.tell()
            self.seek(0, 2)
            self.write(b"more")
            self.seek(at)
            return super().read(size)

    with RawServer(always(answer(STORED))) as server, upload_client(server, access_token="t") as client:
        call(client, "upload_file", ("a.bin", Growing(b"x" * 1000)))
        assert content_of(server.requests[0]).startswith(b"x" * 1000)
        assert len(content_of(server.requests[0])) <= 1004


class Failing(io.BytesIO):
    def __init__(self, error):
        super().__init__(b"x" * 1_000_000)
        self._error = error
        self._reads = 0

    def read(self, size=-1):
        self._reads += size != 0
        if self._reads > 2:
            raise self._error
        return super().read(size)


@pytest.mark.parametrize("error", [OSError(5, "no disk"), ValueError("closed"), StopIteration(), ZeroDivisionError()])
def test_file_that_fails(call, error):
    """What the caller's own file raises reaches him, and no request is completed with half of it."""

    def handler(wire):
        try:
            wire.receive()
        except ConnectionError:
            return
        raise AssertionError("a whole request came")

    with RawServer(handler) as server, upload_client(server, access_token="t", timeout=5) as client:
        with pytest.raises((GigaChatException, type(error), RuntimeError)) as caught:
            call(client, "upload_file", ("a.bin", Failing(error)))
        assert not isinstance(caught.value, AssertionError)
        server.wait(lambda: server.closed == 1)
        assert client._pool._busy == set()


def test_file_that_vanishes(call, tmp_path):
    """A path that is gone when the upload has to be repeated."""
    path = tmp_path / "name.bin"
    path.write_bytes(CONTENT)

    def failing(number):
        path.unlink()
        return answer(b"", "503 No")

    handler, uploads = oauth_or(failing)
    with RawServer(handler) as server, upload_client(server, max_retries=1) as client:
        with pytest.raises((GigaChatException, FileNotFoundError)):
            call(client, "upload_file", path)
    assert len(uploads) == 1


def test_no_such_file(call, tmp_path):
    """A path that is not there: nothing is sent."""
    with RawServer(always(answer(STORED))) as server, upload_client(server, access_token="t") as client:
        for path in (tmp_path / "nothing", tmp_path, "a\0b"):
            with pytest.raises((OSError, ValueError)) as caught:
                call(client, "upload_file", path)
            assert not isinstance(caught.value, APIConnectionError)
        assert server.requests == []
