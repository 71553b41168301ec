"""Uploads and downloads: forms of the argument, exact bytes, constant memory, sending again, path arguments."""

import base64
import io
import mmap
import os
import re
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from conftest import output_of, raw_client
from faults import BREAKS, RawServer, always, answer, chunk, closing

from gigachat_lite import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    ForbiddenError,
    GigaChat,
    GigaChatException,
    Messages,
    NotFoundError,
    ServerError,
    UploadedFile,
    client_id_cvar,
    custom_headers_cvar,
    file_ids,
)

pytestmark = pytest.mark.usefixtures("no_jitter")

STORED = {"id": "f-1", "object": "file", "bytes": 5, "created_at": 1, "filename": "a", "purpose": "general"}
MEGABYTE = 1 << 20


@pytest.fixture
def plain(plain_server):
    """A server that plays scripts, and a client of it that never sleeps long between attempts."""
    settings = {"credentials": plain_server.credentials, "auth_url": plain_server.auth_url, "timeout": 20}
    with GigaChat(base_url=plain_server.base_url, **settings) as client:
        yield plain_server, client


def parts_of(request):
    """Take a multipart body apart by hand, every byte accounted for: [(header lines, content)]."""
    kind = request.headers["Content-Type"]
    boundary = re.match(r"multipart/form-data; boundary=([0-9a-f]{32})\Z", kind).group(1).encode()
    first, *parts, end = (b"\r\n" + request.body).split(b"\r\n--" + boundary)
    assert (first, end) == (b"", b"--\r\n")
    found = []
    for part in parts:
        head, _, content = part.partition(b"\r\n\r\n")
        nothing, *lines = head.split(b"\r\n")
        assert nothing == b""
        found.append(([line.decode() for line in lines], content))
    return found


def file_part(request):
    """The file's headers and content, after a look at the other part."""
    purpose, file = parts_of(request)
    assert purpose == (['Content-Disposition: form-data; name="purpose"'], b"general")
    return file


def disposition(name):
    return f'Content-Disposition: form-data; name="file"; filename="{name}"'


class Unseekable(io.RawIOBase):
    """What a pipe or the body of a download is like: it can only be read, and nobody knows how long it is."""

    name = "pipe.pdf"

    def __init__(self, data):
        super().__init__()
        self.rest = data

    def readable(self):
        return True

    def readinto(self, buffer):
        data, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


class Duck:
    """A file object that has nothing but read()."""

    def __init__(self, data):
        self._file = io.BytesIO(data)

    def read(self, size=-1):
        return self._file.read(size)


class CustomPath:
    def __init__(self, path):
        self._path = path

    def __fspath__(self):
        return str(self._path)


# ---------- what can be uploaded

PDF = b"%PDF-1.7\r\n--boundary\r\n\x00\xff"


def named(data, name):
    file = io.BytesIO(data)
    file.name = name
    return file


def advanced(data, offset, name="tail.txt"):
    file = named(data, name)
    file.seek(offset)
    return file


def spooled(data, offset):
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115  # the test closes it
    file.write(data)
    file.seek(offset)
    return file


def mapped(path):
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


FORMS = {
    "bytes": (lambda path: PDF, "upload", "application/octet-stream", PDF),
    "no bytes": (lambda path: b"", "upload", "application/octet-stream", b""),
    "bytearray": (lambda path: bytearray(PDF), "upload", "application/octet-stream", PDF),
    "memoryview": (lambda path: memoryview(PDF), "upload", "application/octet-stream", PDF),
    "path as text": (str, "имя файла.pdf", "application/pdf", PDF),
    "Path": (lambda path: path, "имя файла.pdf", "application/pdf", PDF),
    "PathLike": (CustomPath, "имя файла.pdf", "application/pdf", PDF),
    "BytesIO": (lambda path: io.BytesIO(PDF), "upload", "application/octet-stream", PDF),
    "object with a name": (lambda path: named(PDF, "/tmp/ph.o.to.PNG"), "ph.o.to.PNG", "image/png", PDF),
    "object with a number for a name": (lambda path: named(PDF, 7), "upload", "application/octet-stream", PDF),
    "object at an offset": (lambda path: advanced(b"0123456789", 4), "tail.txt", "text/plain", b"0123456789"),
    "object at its end": (lambda path: advanced(b"0123", 4), "tail.txt", "text/plain", b"0123"),
    "object behind its end": (lambda path: advanced(b"0123", 9), "tail.txt", "text/plain", b"0123"),
    "spooled file": (lambda path: spooled(b"0123456789", 4), "upload", "application/octet-stream", b"0123456789"),
    "mmap": (lambda path: mapped(path), "upload", "application/octet-stream", PDF),
    "pair": (lambda path: ("a.jpg", PDF), "a.jpg", "image/jpeg", PDF),
    "pair with a path": (lambda path: ("b.txt", path), "b.txt", "text/plain", PDF),
    "pair with text": (lambda path: ("c.txt", "привет"), "c.txt", "text/plain", "привет".encode()),
    "pair with an object": (lambda path: ("d.md", advanced(b"0123", 1)), "d.md", "text/markdown", b"0123"),
    "pair without a name": (lambda path: (None, PDF), "upload", "application/octet-stream", PDF),
    "three": (lambda path: ("a.txt", PDF, "image/png"), "a.txt", "image/png", PDF),
    "three without a type": (lambda path: ("a.txt", PDF, None), "a.txt", "text/plain", PDF),
    "three without a name": (lambda path: (None, path, "text/x-y"), "имя файла.pdf", "text/x-y", PDF),
}


@pytest.mark.parametrize("form", FORMS)
def test_upload_forms(plain, call, form, tmp_path):
    """A file comes from a path, bytes, a binary object or a tuple; the server gets its bytes, name and type."""
    server, client = plain
    path = tmp_path / "имя файла.pdf"
    path.write_bytes(PDF)
    make, name, kind, content = FORMS[form]
    server.answer_next("/files", 200, STORED)
    source = make(path)
    result = call(client, "upload_file", source)
    if form in ("spooled file", "mmap"):
        source.close()
    assert (type(result), result.to_dict()) == (UploadedFile, STORED)
    request = server.requests[-1]
    assert (request.method, request.path) == ("POST", "/api/v1/files")
    assert request.headers["Content-Length"] == str(len(request.body))
    assert file_part(request) == ([disposition(name), f"Content-Type: {kind}"], content)


def test_upload_headers_of_a_part(plain, call):
    """The fourth of a tuple are headers of the file's part; a Content-Type there is the type."""
    server, client = plain
    server.answer_next("/files", 200, STORED, times=2)
    call(client, "upload_file", ("a.txt", b"A", "text/x", {"X-Note": "1", "Content-ID": "<c>"}))
    lines, _ = file_part(server.requests[-1])
    assert lines == [disposition("a.txt"), "X-Note: 1", "Content-ID: <c>", "Content-Type: text/x"]
    call(client, "upload_file", ("a.txt", b"A", None, {"content-type": "text/z"}))
    lines, _ = file_part(server.requests[-1])
    assert lines == [disposition("a.txt"), "content-type: text/z"]


def test_upload_real_file(client, call, tmp_path):
    """An open file goes out under its own name, from its beginning, and stays open."""
    path = tmp_path / "notes.txt"
    path.write_bytes(b"0123456789")
    with open(path, "rb") as file:
        file.seek(3)
        stored = call(client, "upload_file", file)
        assert not file.closed
        assert file.tell() == 10
    assert (stored.filename, stored.bytes) == ("notes.txt", 10)
    assert call(client, "download_file", stored.id) == b"0123456789"


@pytest.mark.parametrize("source", [Unseekable, Duck])
def test_upload_of_unknown_length(plain, call, source):
    """What cannot be measured goes out in chunks, whole."""
    server, client = plain
    server.answer_next("/files", 200, STORED)
    data = os.urandom(700_001)
    call(client, "upload_file", source(data))
    request = server.requests[-1]
    assert request.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in request.headers
    lines, content = file_part(request)
    assert content == data
    assert lines[0] == disposition("pipe.pdf" if source is Unseekable else "upload")


def test_upload_of_a_pipe(client, call):
    """A pipe can be uploaded."""
    reading, writing = os.pipe()
    with open(reading, "rb") as source:
        with open(writing, "wb") as sink:
            sink.write(b"through a pipe")
        stored = call(client, "upload_file", ("pipe.txt", source))
    assert call(client, "download_file", stored.id) == b"through a pipe"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_upload_of_a_named_pipe(client, call, tmp_path):
    """A named pipe is opened once: whoever writes to it has one reader."""
    path = tmp_path / "pipe.txt"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=[b"through a pipe"])
    writer.start()
    stored = call(client, "upload_file", path)
    writer.join()
    assert call(client, "download_file", stored.id) == b"through a pipe"


NAMES = {
    "имя файла.txt": "имя файла.txt",
    'a"b.txt': "a%22b.txt",
    "a\\b.txt": "a\\\\b.txt",
    "a\r\nContent-Type: evil\r\n\r\n.txt": "a%0D%0AContent-Type: evil%0D%0A%0D%0A.txt",
    "nul\0tab\t.txt": "nul%00tab%09.txt",
    "日本 — «ёлочки».txt": "日本 — «ёлочки».txt",
    "50%22.txt": "50%22.txt",
    "a;b=c.txt": "a;b=c.txt",
}


@pytest.mark.parametrize("name", NAMES)
def test_names(plain, call, name):
    """A name goes out in UTF-8; what would end its quotes, or its line, is escaped."""
    server, client = plain
    server.answer_next("/files", 200, STORED)
    call(client, "upload_file", (name, b"x"))
    assert file_part(server.requests[-1])[0] == [disposition(NAMES[name]), "Content-Type: text/plain"]


@pytest.mark.parametrize("name", ["имя.txt", 'a"b.txt', "a\\b.txt", 'C:\\"x"\r\n.txt'])
def test_names_come_back(client, call, name):
    """The service knows a file by the name that it was given, whatever is in it."""
    assert call(client, "upload_file", (name, b"x")).filename == name


TYPES = [
    "a.txt",
    "text/plain",
    "a.doc",
    "application/msword",
    "a.pdf",
    "application/pdf",
    "a.docx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "a.epub",
    "application/epub",
    "a.ppt",
    "application/ppt",
    "a.pptx",
    "application/pptx",
    "a.xlsx",
    "application/vnd.ms-excel",
    "a.jpeg",
    "image/jpeg",
    "a.jpg",
    "image/jpeg",
    "a.png",
    "image/png",
    "a.tiff",
    "image/tiff",
    "a.tif",
    "image/tiff",
    "a.bmp",
    "image/bmp",
    "a.mp4",
    "audio/mp4",
    "a.mp3",
    "audio/mp3",
    "a.m4a",
    "audio/x-m4a",
    "a.wav",
    "audio/wav",
    "a.weba",
    "audio/webm",
    "a.ogg",
    "audio/x-ogg",
    "a.opus",
    "audio/opus",
    "A.B.JPG",
    "image/jpeg",
    "a.csv",
    "text/csv",
    "a.html",
    "text/html",
    "a.unheard-of",
    "application/octet-stream",
    "noending",
    "application/octet-stream",
    ".txt",
    "application/octet-stream",
]


@pytest.mark.parametrize(("name", "kind"), list(zip(TYPES[::2], TYPES[1::2])))
def test_types(plain, name, kind):
    """The type comes from the ending of the name: what the API takes, before what Python knows."""
    server, client = plain
    server.answer_next("/files", 200, STORED)
    client.upload_file((name, b"x"))
    assert file_part(server.requests[-1])[0][1] == f"Content-Type: {kind}"


# ---------- what cannot


@pytest.mark.parametrize("as_pair", [False, True])
def test_text_mode(plain, call, tmp_path, as_pair):
    """A file that is open in text mode is refused with the advice to open it with "rb"."""
    server, client = plain
    path = tmp_path / "a.txt"
    path.write_text("привет", encoding="utf-8")
    with open(path, encoding="utf-8") as file:
        with pytest.raises(TypeError, match='"rb"'):
            call(client, "upload_file", ("a.txt", file) if as_pair else file)
    with pytest.raises(TypeError, match='"rb"'):
        call(client, "upload_file", io.StringIO("text"))
    assert not server.requests


@pytest.mark.parametrize("as_pair", [False, True])
def test_missing_file(plain, call, tmp_path, as_pair):
    """A path that leads nowhere is a FileNotFoundError that names it; nothing is sent."""
    server, client = plain
    path = tmp_path / "нет такого.txt"
    for given in (path, str(path)):
        with pytest.raises(FileNotFoundError) as raised:
            call(client, "upload_file", ("a.txt", given) if as_pair and given is path else given)
        assert raised.value.filename == str(path)
    assert not server.requests


def test_directory(plain, call, tmp_path):
    """A directory is an OSError that names it, before anything is sent, and no failure of the connection."""
    server, client = plain
    with pytest.raises(OSError, match=re.escape(str(tmp_path))) as raised:
        call(client, "upload_file", tmp_path)
    assert not isinstance(raised.value, APIConnectionError)
    assert not server.requests


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="Linux has files whose size reads as 0")
def test_what_is_no_regular_file(plain, call):
    """A path whose size says 0, as pipes' and devices' do, gives what can be read there, not nothing."""
    server, client = plain
    server.answer_next("/files", 200, STORED)
    call(client, "upload_file", "/proc/self/stat")
    assert file_part(server.requests[-1])[1].startswith(str(os.getpid()).encode())


@pytest.mark.parametrize(
    "odd", [None, 7, object(), [], {}, (), ("a",), ("a", b"", None, {}, 1), ("a", None), ("a", 7), (b"a", 7)], ids=repr
)
def test_odd_arguments(plain, call, odd):
    """What is no file is a TypeError that says so; nothing is sent."""
    server, client = plain
    with pytest.raises(TypeError, match="file"):
        call(client, "upload_file", odd)
    assert not server.requests


@pytest.mark.parametrize(
    "extra", [("text/plain\r\nX: 1",), ("text/plain", {"X-A": "1\r\nX-B: 2"}), (None, {"a b": "1"})]
)
def test_no_headers_are_smuggled_in(plain, call, extra):
    """Neither a type nor a header of a part may hold a line end."""
    server, client = plain
    with pytest.raises(ValueError, match="header"):
        call(client, "upload_file", ("a.txt", b"x", *extra))
    assert not server.requests


def test_file_that_fails(plain, call):
    """An object that cannot be read passes its own error on: it is no failure of the connection."""

    class Broken(io.BytesIO):
        def read(self, size=-1):
            if size == 0:
                return b""
            raise PermissionError(13, "no reading here")

    server, client = plain
    with pytest.raises(PermissionError, match="no reading here") as raised:
        call(client, "upload_file", ("a.txt", Broken(b"12345")))
    assert not isinstance(raised.value, APIConnectionError)
    server.answer_next("/files", 200, STORED)
    assert call(client, "upload_file", b"12345").id == "f-1"


# ---------- sent again


def test_sent_again_with_a_new_token(plain, call, tmp_path):
    """A token that is no longer taken costs a second request with the same body, from the beginning of the file."""
    server, client = plain
    call(client, "get_token")
    path = tmp_path / "a.txt"
    path.write_bytes(b"0123456789" * 60_000)
    whole = path.read_bytes()
    sources = [(whole, whole), (advanced(whole, 7), whole), (path, whole), (("b.txt", advanced(whole, 7)), whole)]
    for source, content in sources:
        server.requests.clear()
        server.revoke_tokens()
        call(client, "upload_file", source)
        first, login, second = server.requests
        assert login.path.endswith("/oauth")
        assert first.body == second.body
        assert first.headers["Authorization"] != second.headers["Authorization"]
        assert file_part(second)[1] == content


def test_sent_again_after_a_failure(settings, server, call):
    """A retry sends the whole body, from the beginning of the file."""
    options = {**settings, "max_retries": 2, "retry_backoff_factor": 0}
    with GigaChat(**options) as client:
        call(client, "get_token")
        server.requests.clear()
        server.answer_next("/files", 503, {"status": 503, "message": "later"}, headers={"Retry-After": "0.01"}, times=2)
        stored = call(client, "upload_file", advanced(b"x" * 600_000 + b"end", 5))
        bodies = [request.body for request in server.requests]
        assert len(bodies) == 3
        assert bodies[0] == bodies[1] == bodies[2]
        assert stored.bytes == 600_003
        assert call(client, "download_file", stored.id) == b"x" * 600_000 + b"end"


@pytest.mark.parametrize("source", [Unseekable, Duck])
def test_what_can_be_read_once_is_sent_once(settings, server, call, source):
    """What cannot be rewound is not sent again in part: the first failure is the result."""
    options = {**settings, "max_retries": 2, "retry_backoff_factor": 0}
    with GigaChat(**options) as client:
        server.answer_next("/files", 503, {"status": 503, "message": "later"})
        with pytest.raises(ServerError):
            call(client, "upload_file", source(b"12345"))
        server.revoke_tokens()
        with pytest.raises(AuthenticationError):
            call(client, "upload_file", source(b"12345"))
        assert len([request for request in server.requests if request.path.endswith("/files")]) == 2
        assert call(client, "upload_file", source(b"12345")).bytes == 5


def test_file_that_shrinks(call):
    """A file that became shorter than it was ends the call: what was promised to the server never comes."""

    class Shrinking(io.BytesIO):
        def read(self, size=-1):
            return super().read(size)[: max(0, min(size, 2))] if self.tell() < 2 else b""

    def swallow(wire):
        wire.receive()

    with RawServer(swallow) as server:
        with raw_client(server) as client:
            with pytest.raises(GigaChatException, match="shorter"):
                call(client, "upload_file", Shrinking(b"0123456789"))
        server.wait(lambda: server.closed == server.connections)
        assert server.requests == []


# ---------- downloads


def test_download(client, call, tmp_path):
    """download_file() gives bytes, or writes them to a path or an object; each byte as it was stored."""
    data = bytes(range(256)) * 3000
    stored = call(client, "upload_file", ("a.txt", data))
    assert call(client, "download_file", stored.id) == data
    for target in (tmp_path / "as path", str(tmp_path / "as text"), CustomPath(tmp_path / "as path like")):
        assert call(client, "download_file", stored.id, target) == b""
        assert Path(target).read_bytes() == data
    sink = io.BytesIO(b"before ")
    sink.seek(7)
    assert call(client, "download_file", stored.id, to=sink) == b""
    assert sink.getvalue() == b"before " + data
    assert sorted(os.listdir(tmp_path)) == ["as path", "as path like", "as text"]


def test_download_replaces(client, call, tmp_path):
    """A file that is there already is replaced at the end, not before."""
    path = tmp_path / "copy.txt"
    path.write_bytes(b"a much longer content than the new one")
    stored = call(client, "upload_file", ("a.txt", b"new"))
    call(client, "download_file", stored.id, path)
    assert path.read_bytes() == b"new"


def test_get_image(client, call):
    """get_image() gives the content in base64, as in the official SDK."""
    stored = call(client, "upload_file", ("a.jpg", b"\xff\xd8\xff\x00"))
    image = call(client, "get_image", stored.id)
    assert base64.b64decode(image.content) == b"\xff\xd8\xff\x00"
    assert image.x_headers["x-request-id"]


CONTENT_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_file_appears_when_it_is_complete(call, tmp_path, framing):
    """The path of a download comes into being with the last byte; after a failure nothing is left behind."""
    path, seen, go_on = tmp_path / "a.bin", [], threading.Event()

    def cut_off(wire):
        wire.receive()
        if framing == "length":
            wire.send(CONTENT_HEAD + b"Content-Length: 10\r\n\r\n01234")
        else:
            wire.send(CONTENT_HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"01234"))
        assert go_on.wait(20)

    with RawServer(cut_off) as server:
        with raw_client(server) as client:

            def look():
                deadline = time.monotonic() + 20
                while not seen and time.monotonic() < deadline:
                    seen.extend(os.listdir(tmp_path))
                    time.sleep(0.002)
                go_on.set()

            watcher = threading.Thread(target=look)
            watcher.start()
            with pytest.raises(APIConnectionError):
                call(client, "download_file", "f", path)
            watcher.join()
    assert len(seen) == 1
    assert path.name not in seen
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("status", [403, 404, 500])
def test_failed_download_leaves_the_old_file(server, client, call, tmp_path, status):
    """A download that fails touches nothing that was there."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    server.answer_next("/content", status, {"status": status, "message": "no"})
    with pytest.raises(Exception) as raised:
        call(client, "download_file", "f", path)
    assert raised.value.status_code == status
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_download_to_nowhere(client, call, tmp_path):
    """A directory that is not there is a FileNotFoundError, and the client goes on working."""
    stored = call(client, "upload_file", ("a.txt", b"x"))
    with pytest.raises(FileNotFoundError):
        call(client, "download_file", stored.id, tmp_path / "no" / "a.txt")
    assert call(client, "download_file", stored.id) == b"x"


def test_object_that_takes_nothing(client, call):
    """What the object raises comes out as it is; the connection of the broken download is not used again."""

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    stored = call(client, "upload_file", ("a.txt", os.urandom(300_000)))
    with pytest.raises(OSError, match="No space left") as raised:
        call(client, "download_file", stored.id, Full())
    assert not isinstance(raised.value, APIConnectionError)
    assert len(call(client, "download_file", stored.id)) == 300_000


def test_raw_objects_may_take_less(client, call):
    """An unbuffered object may write less than it was given (io.RawIOBase.write): the rest is written too."""

    class Sparing(io.RawIOBase):
        taken = b""

        def writable(self):
            return True

        def write(self, data):
            self.taken += bytes(data[:1000])
            return min(len(data), 1000)

    data = os.urandom(50_000)
    stored = call(client, "upload_file", ("a.txt", data))
    sink = Sparing()
    call(client, "download_file", stored.id, sink)
    assert sink.taken == data


# ---------- constant memory

MEMORY = """
import os, sys, tempfile, tracemalloc
from gigachat_lite import GigaChat

SIZE = 64 << 20
client = GigaChat(base_url=sys.argv[1], access_token="token", timeout=60)
client.get_models()  # what the first call imports is not the question
with tempfile.TemporaryDirectory() as directory:
    source, target = os.path.join(directory, "big.txt"), os.path.join(directory, "copy.bin")
    with open(source, "wb") as file:
        file.truncate(SIZE)
    tracemalloc.start()
    assert client.upload_file(source).id == "f"
    with open(source, "rb") as file:
        assert client.upload_file(file).id == "f"
        file.seek(0)
        assert client.upload_file(("a.txt", type("Pipe", (), {"read": file.read})())).id == "f"
    client.download_file("f", target)
    assert os.path.getsize(target) == SIZE
    with open(os.devnull, "wb") as file:
        client.download_file("f", file)
    print(tracemalloc.get_traced_memory()[1])
client.close()
"""


def test_memory():
    """64 MB go up from a path, an object and a pipe, and down to a path and an object, in a few megabytes of memory."""
    size = 64 * MEGABYTE
    zeros = bytes(MEGABYTE)
    sizes = []

    def swallow(wire, head):
        """Take an upload without keeping it; give its size."""
        found = re.search(r"(?i)content-length: (\d+)", head)
        if found is None:
            sizes = iter(lambda: int(wire._until(b"\r\n"), 16), 0)
            count = sum(len(wire._exactly(size + 2)) - 2 for size in sizes)
            wire._exactly(2)
            return count
        left = int(found.group(1)) - len(wire._pending)
        wire._pending = b""
        while left:
            left -= len(wire.sock.recv(min(left, MEGABYTE)))
        return int(found.group(1))

    def serve(wire):
        for head in iter(lambda: (wire._until(b"\r\n\r\n") or b"").decode(), ""):
            if head.startswith("POST"):
                sizes.append(swallow(wire, head))
                wire.send(answer({"id": "f"}))
            elif "/models " in head:
                wire.send(answer({"data": []}))
            else:
                wire.send(CONTENT_HEAD + b"Content-Length: %d\r\n\r\n" % size, *[zeros] * 64)

    with RawServer(serve) as server:
        peak = output_of("-c", MEMORY, server.base_url)
    assert len(sizes) == 3
    assert all(size < sent < size + 1000 for sent in sizes)
    assert int(peak) < 8 * MEGABYTE


# ---------- who may read what


def test_file_of_another_client(client, call):
    """A file that was stored under an X-Client-ID can be read under that one only; the error says what to do."""
    client_id_cvar.set("ivan")
    stored = call(client, "upload_file", ("a.txt", b"x"))
    assert call(client, "download_file", stored.id) == b"x"
    for other in ("maria", None):
        client_id_cvar.set(other)
        for method in ("download_file", "get_image"):
            with pytest.raises(ForbiddenError, match="X-Client-ID") as raised:
                call(client, method, stored.id)
            assert "client_id_cvar" in str(raised.value)
    custom_headers_cvar.set({"x-client-id": "ivan"})
    assert call(client, "download_file", stored.id) == b"x"


def test_deleted(client, call):
    """A deleted file is gone; what does not exist is a NotFoundError in each method."""
    stored = call(client, "upload_file", ("a.txt", b"x"))
    assert [file.id for file in call(client, "get_files").data] == [stored.id]
    assert call(client, "get_file", stored.id).to_dict() == stored.to_dict()
    gone = call(client, "delete_file", stored.id)
    assert (gone.id, gone.deleted) == (stored.id, True)
    assert call(client, "get_files").data == []
    for method in ("get_file", "delete_file", "get_image", "download_file"):
        with pytest.raises(NotFoundError):
            call(client, method, stored.id)


SEGMENTS = {
    "a/b": "a%2Fb",
    "..": "%2E%2E",
    ".": "%2E",
    "...": "...",
    "../../oauth": "..%2F..%2Foauth",
    "?x": "%3Fx",
    "#x": "%23x",
    "%2e": "%252e",
    "%2F": "%252F",
    "a b": "a%20b",
    "a+b": "a%2Bb",
    "имя": "%D0%B8%D0%BC%D1%8F",
    "\\": "%5C",
    "a;b=c": "a%3Bb%3Dc",
    "\r\nX: 1": "%0D%0AX%3A%201",
    "//host/": "%2F%2Fhost%2F",
    "~a-b_c.d": "~a-b_c.d",
    "../../admin": "..%2F..%2Fadmin",
    "a?b=c": "a%3Fb%3Dc",
    "a#b": "a%23b",
    "a%2fb": "a%252fb",
    "%2e%2e": "%252e%252e",
    "a\\b": "a%5Cb",
    "//evil.invalid/": "%2F%2Fevil.invalid%2F",
    "http://evil.invalid/": "http%3A%2F%2Fevil.invalid%2F",
    " ": "%20",
    "ы": "%D1%8B",
    "a&b": "a%26b",
    "a@b:1": "a%40b%3A1",
    "[::1]": "%5B%3A%3A1%5D",
}


@pytest.mark.parametrize("argument", SEGMENTS)
def test_path_arguments(plain, call, argument):
    """An id or a name is one segment of the path, whatever it holds."""
    server, client = plain
    server.answer_next("/files", 200, STORED, times=4)
    server.answer_next("/models", 200, {"id": "m"})
    for method, before, after in (
        ("get_file", "/files/", ""),
        ("delete_file", "/files/", "/delete"),
        ("get_image", "/files/", "/content"),
        ("download_file", "/files/", "/content"),
        ("get_model", "/models/", ""),
    ):
        call(client, method, argument)
        request = server.requests[-1]
        assert (request.path, request.query) == (f"/api/v1{before}{SEGMENTS[argument]}{after}", "")


@pytest.mark.parametrize("method", ["get_file", "delete_file", "get_image", "download_file", "get_model"])
@pytest.mark.parametrize("argument", ["", None, 7, b"f", "\ud800"], ids=ascii)
def test_path_arguments_that_are_none(plain, call, method, argument):
    """An id that is empty, or no text, is a ValueError before anything is sent."""
    server, client = plain
    with pytest.raises(ValueError):
        call(client, method, argument)
    assert not server.requests


@pytest.mark.parametrize("odd", [io.StringIO(), 5, b"x"], ids=repr)
def test_download_to_what_takes_no_bytes(client, server, call, odd):
    """What cannot take bytes is a TypeError, and so is found before anything is sent."""
    with pytest.raises(TypeError, match="binary"):
        call(client, "download_file", "f", odd)
    assert not server.requests


def test_download_to_a_directory(client, server, call, tmp_path):
    """A directory is an error that names it, before anything is sent."""
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        call(client, "download_file", "f", tmp_path)
    assert not server.requests


@pytest.mark.skipif(os.name == "nt", reason="there are no links without a right of its own")
def test_download_through_a_link(client, call, tmp_path):
    """A link is followed, as open() follows it, and stays a link."""
    stored = call(client, "upload_file", ("a.txt", b"x"))
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    call(client, "download_file", stored.id, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"x"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names on disk are Unicode there")
def test_upload_of_a_name_that_is_no_utf8(client, call, tmp_path):
    """A file whose name on disk is no UTF-8 goes out, with the replacement character for what is not readable."""
    path = os.path.join(os.fsencode(str(tmp_path)), b"\xff.txt")
    with open(path, "wb") as file:
        file.write(b"x")
    assert call(client, "upload_file", os.fsdecode(path)).filename == "\ufffd.txt"


CONTENT = bytes(range(256)) * 4096  # 1 MiB: more than one block


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
    return ("name.bin", file), b"skipped" + CONTENT


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
        assert call(client, "upload_file", what).id == STORED["id"]
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
        assert call(client, "upload_file", what).id == STORED["id"]
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
        assert call(client, "upload_file", what).id == STORED["id"]
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


def test_file_that_loses_its_end(call):
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
def test_file_that_fails_midway(call, error):
    """What the caller's own file raises reaches him, and no request is completed with half of it."""

    def handler(wire):
        try:
            wire.receive()
        except ConnectionError:
            return
        raise AssertionError("a whole request came")

    with RawServer(handler) as server, upload_client(server, access_token="t", max_connections=1) as client:
        for number in (1, 2):  # the first leaves its place to the second
            with pytest.raises((GigaChatException, type(error), RuntimeError)) as caught:
                call(client, "upload_file", ("a.bin", Failing(error)))
            assert not isinstance(caught.value, (AssertionError, APITimeoutError))
            server.wait(lambda number=number: server.closed == number)


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
def test_file_that_vanishes(call, tmp_path):
    """A path that is gone when the upload has to be repeated: what was opened goes out again, whole."""
    path = tmp_path / "name.bin"
    path.write_bytes(CONTENT)

    def failing(number):
        if number > 1:
            return answer(STORED)
        path.unlink()
        return answer(b"", "503 No")

    handler, uploads = oauth_or(failing)
    with RawServer(handler) as server, upload_client(server, max_retries=1) as client:
        assert call(client, "upload_file", path).id == STORED["id"]
    assert [content_of(upload) == CONTENT for upload in uploads] == [True, True]


def test_no_such_file(call, tmp_path):
    """A path that is not there: nothing is sent."""
    with RawServer(always(answer(STORED))) as server, upload_client(server, access_token="t") as client:
        for path in (tmp_path / "nothing", tmp_path, "a\0b"):
            with pytest.raises((OSError, ValueError)) as caught:
                call(client, "upload_file", path)
            assert not isinstance(caught.value, APIConnectionError)
        assert server.requests == []


# ---------- retries


def test_uploads_are_rewound(settings, server, call, tmp_path):
    """An upload is sent again from the beginning."""
    (tmp_path / "a.txt").write_bytes(b"0123456789")
    server.answer_next("/files", 503, b"{}")
    with GigaChat(**settings, max_retries=1, retry_backoff_factor=0) as client, open(tmp_path / "a.txt", "rb") as file:
        file.seek(5)
        assert call(client, "upload_file", file).bytes == 10
    assert all(b"\r\n\r\n0123456789\r\n" in request.body for request in server.requests[1:])
    assert len(server.requests) == 3


def test_uploads_that_can_be_read_once(settings, server, call):
    """One that cannot be rewound is not tried again."""
    server.answer_next("/files", 503, b"{}")
    with GigaChat(**settings, max_retries=1, retry_backoff_factor=0) as client, pytest.raises(ServerError):
        call(client, "upload_file", ("a.txt", Unseekable(b"0123456789")))
    assert len(server.requests) == 2


# ---------- names and ids stay in their place


def evil_in(server):
    return [one for one in server.requests if re.search(rb"[\r\n]X-Evil", one.head) or one.path.startswith("/evil")]


@pytest.mark.parametrize("text", BREAKS)
def test_names_and_ids(call, text):
    """Ids, names, models and file names stay where they belong: in one segment, one parameter, one field."""
    file = {"id": "f", "object": "file"}
    everything = answer({**file, "data": [], "threads": [], "batches": [{"id": text}], "messages": [], "choices": []})
    with RawServer(always(everything)) as server, raw_client(server) as client:
        for name in (
            "get_model",
            "get_file",
            "delete_file",
            "download_file",
            "get_image",
            "threads.get_messages",
            "threads.get_run",
            "assistants.get",
            "get_batch",
        ):
            try:
                call(client, name, text)
            except (GigaChatException, ValueError):
                pass
        try:
            call(client, "upload_file", (text, b"x"), text)
            call(client, "upload_file", (text, b"x", text))
        except ValueError:
            pass
        assert len(server.requests) >= 9 and evil_in(server) == []
        for request in server.requests:
            assert re.match(r"/api/v1/[A-Za-z0-9/._~%-]*\Z", request.path)
            if request.path.endswith("/files"):
                head = request.body.partition(b"\r\n\r\nx\r\n--")[0]
                assert b"\nX-Evil" not in head.partition(b'name="file"')[2]


# ---------- file objects that lie


class Bad:
    """A file object of which one method does what *how* says; a size that no read shows to be wrong is believed."""

    def __init__(self, data, read):
        self._file = io.BytesIO(data)
        self._read = read

    def read(self, size=-1):
        return self._read(self._file, size)


async def later(file, size):
    return file.read(size)


class UploadFile:
    """What web frameworks give for an uploaded file."""

    def __init__(self, data):
        self.file = io.BytesIO(data)

    async def read(self, size=-1):
        return self.file.read(size)

    async def seek(self, offset, whence=0):
        return self.file.seek(offset, whence)

    async def tell(self):
        return self.file.tell()


FOUND_BEFORE = {
    "asynchronous": (UploadFile(b"x"), r"\.file"),
    "asynchronous, in a tuple": (("a.txt", UploadFile(b"x")), r"\.file"),
    "asynchronous, without seek": (Bad(b"x", later), r"\.file"),
    "takes no size": (Bad(b"abc", lambda file, size: file.getvalue()), r"read\(0\)"),
    "has nothing yet": (Bad(b"abc", lambda file, size: None), r"read\(0\)"),
    "text": (Bad(b"abc", lambda file, size: file.read(size).decode()), '"rb"'),
    "a number": (Bad(b"abc", lambda file, size: size), r"read\(0\)"),
    "a name that is no text": ((b"a.txt", b"x"), "name of a file"),
}


@pytest.mark.parametrize("case", FOUND_BEFORE)
def test_bad_file_objects(call, case):
    """A file object that cannot be read as a file is a TypeError that says why, before anything is sent."""
    source, said = FOUND_BEFORE[case]
    with RawServer(always(answer(STORED))) as server, raw_client(server) as client:
        with pytest.raises(TypeError, match=said):
            call(client, "upload_file", source)
        assert server.connections == 0


def test_tell_of_another_type(call):
    """A size that is no number is found before anything is sent, too."""

    class Odd(io.BytesIO):
        def tell(self):
            return "3"

    with RawServer(always(answer(STORED))) as server, raw_client(server) as client:
        with pytest.raises(TypeError, match=r"tell\(\)"):
            call(client, "upload_file", Odd(b"abc"))
        assert server.connections == 0


MIDWAY = {
    "more than asked": lambda file, size: file.read(size) + b"POST /evil HTTP/1.1" if size else b"",
    "nothing yet": lambda file, size: None if size else b"",
    "text": lambda file, size: "text" if size else b"",
    "an object": lambda file, size: object() if size else b"",
}


@pytest.mark.parametrize("seekable", [True, False])
@pytest.mark.parametrize("read", MIDWAY.values(), ids=list(MIDWAY))
def test_reads_that_lie(call, read, seekable):
    """What a read gives that it should not is an error; nothing of it is sent, and no request is completed."""
    heads = []

    def handler(wire):
        try:
            heads.append(wire.receive())
        except ConnectionError:
            heads.append(None)

    source = Bad(b"x" * 400_000, read)
    if seekable:
        source.seek, source.tell = source._file.seek, source._file.tell
    with RawServer(handler) as server, raw_client(server) as client:
        with pytest.raises(GigaChatException, match="the file gave"):
            call(client, "upload_file", ("a.bin", source))
        server.wait(lambda: server.closed == 1)
        assert heads == [None]


@pytest.mark.parametrize("claimed", [5, 20])
def test_size_that_lies(call, claimed):
    """An object that is shorter than it says ends the call; of a longer one what it said is sent."""

    class Lying(io.BytesIO):
        def tell(self):
            return claimed

    def handler(wire):
        try:
            wire.receive()
            wire.send(answer(STORED))
        except ConnectionError:
            pass

    with RawServer(handler) as server, raw_client(server) as client:
        if claimed == 20:
            with pytest.raises(GigaChatException, match="shorter"):
                call(client, "upload_file", Lying(b"0123456789"))
        else:
            call(client, "upload_file", Lying(b"0123456789"))
            assert content_of(server.requests[0]) == b"01234"


def test_file_that_was_just_written(client, call):
    """What was written into a BytesIO goes out whole, though it stands at its end."""
    file = io.BytesIO()
    file.write(b"just written")
    assert call(client, "upload_file", ("a.txt", file)).bytes == 12


def test_name_with_halves_of_a_character(plain, call):
    """Halves of a character that stand side by side are joined in names; a lone one is refused."""
    server, client = plain
    server.answer_next("/files", 200, STORED)
    call(client, "upload_file", ("\ud83d\ude00.txt", "\ud83d\ude00"))
    assert file_part(server.requests[-1]) == ([disposition("😀.txt"), "Content-Type: text/plain"], "😀".encode())
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        call(client, "upload_file", ("\ud83d.txt", b"x"))


# ---------- where downloads go

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="devices and modes of Linux")


def test_download_to_a_long_name(client, call, tmp_path):
    """A name as long as the file system takes is no reason to fail."""
    stored = call(client, "upload_file", ("a.txt", b"x"))
    path = tmp_path / ("a" * 255)
    call(client, "download_file", stored.id, path)
    assert path.read_bytes() == b"x"


def test_download_to_a_name_that_is_too_long(client, server, call, tmp_path):
    """One that is longer is an error before anything is sent."""
    with pytest.raises(OSError, match="a" * 256):
        call(client, "download_file", "f", tmp_path / ("a" * 256))
    assert not server.requests


@linux
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_download_keeps_the_mode(client, call, tmp_path, mode):
    """A file that is replaced keeps its mode."""
    stored = call(client, "upload_file", ("a.txt", b"new"))
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    path.chmod(mode)
    call(client, "download_file", stored.id, path)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", mode)


@linux
def test_download_to_devices(client, call, tmp_path):
    """A device stays one; a full one is an error that names it."""
    stored = call(client, "upload_file", ("a.txt", b"x"))
    call(client, "download_file", stored.id, "/dev/null")
    assert not os.path.isfile("/dev/null")
    (tmp_path / "link").symlink_to("/dev/full")
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "link"))):
        call(client, "download_file", stored.id, tmp_path / "link")
    assert os.listdir(tmp_path) == ["link"]


@linux
def test_download_into_a_pipe_by_its_name(client, call):
    """A path that stands for an open pipe, as /dev/stdout does, is written to."""
    stored = call(client, "upload_file", ("a.txt", b"through"))
    reading, writing = os.pipe()
    call(client, "download_file", stored.id, f"/dev/fd/{writing}")
    os.close(writing)
    with open(reading, "rb") as file:
        assert file.read() == b"through"


FULL = """
import os, resource, sys
from gigachat_lite import GigaChat

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
path = sys.argv[2]
with GigaChat(base_url=sys.argv[1], access_token="token", timeout=20) as client:
    try:
        client.download_file("f", path)
    except OSError as error:
        print(type(error).__name__, error.filename == path, sorted(os.listdir(os.path.dirname(path))))
"""


@linux
@pytest.mark.parametrize("old", [[], ["a.bin"]], ids=["new", "replaced"])
def test_disk_full(tmp_path, old):
    """A disk without room is an error that names the file; nothing of the new is left, and all of the old."""
    for name in old:
        (tmp_path / name).write_bytes(b"old")
    with RawServer(always(answer(b"x" * 5000))) as server:
        printed = output_of("-c", FULL, server.base_url, tmp_path / "a.bin")
    assert printed.split(maxsplit=2) == ["OSError", "True", f"{old}\n"]
    assert all((tmp_path / name).read_bytes() == b"old" for name in old)


IN_PLACE = """
import html, os, sys
from gigachat_lite import GigaChat, ServerError

directory = sys.argv[2]
path = os.path.join(directory, "a.bin")
with GigaChat(base_url=sys.argv[1], access_token="token", timeout=20) as client:
    client.download_file("f")  # imports what it needs, which may lie where only root can read
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    client.download_file("f", path)
    try:
        client.download_file("f", os.path.join(directory, "new.bin"))
    except PermissionError as error:
        print(error.filename == os.path.join(directory, "new.bin"), os.listdir(directory))
    try:
        client.download_file("failing", path)
    except ServerError:
        with open(path, "rb") as file:
            print(file.read())
"""


@linux
def test_download_into_a_directory_that_takes_no_names(tmp_path):
    """A file that may be written, in a directory that may not, is written in place; what fails leaves it alone."""
    directory = tmp_path / "closed"
    directory.mkdir()
    (directory / "a.bin").write_bytes(b"old, and longer")
    (directory / "a.bin").chmod(0o666)
    directory.chmod(0o555)
    for parent in (tmp_path, *list(tmp_path.parents)[:2]):
        parent.chmod(parent.stat().st_mode | 0o055)

    def reply(request):
        return answer(b"", "500 No") if "failing" in request.path else answer(b"new")

    with RawServer(always(reply)) as server:
        printed = output_of("-c", IN_PLACE, server.base_url, directory)
    assert printed.splitlines() == ["True ['a.bin']", "b'new'"]


def test_object_with_an_asynchronous_write(client, server, call):
    """An asynchronous file object is refused, before anything is sent."""

    class Sink:
        async def write(self, data):
            raise AssertionError("nobody awaits this")

    with pytest.raises(TypeError, match="binary"):
        call(client, "download_file", "f", Sink())
    assert not server.requests


def test_object_that_does_not_block(client, call):
    """A raw object that takes nothing is an error: no part of the file is dropped."""

    class Full(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            return None

    stored = call(client, "upload_file", ("a.txt", b"x"))
    with pytest.raises(BlockingIOError):
        call(client, "download_file", stored.id, Full())


@pytest.mark.parametrize("method", ["get_file", "get_image", "download_file"])
def test_uploaded_files_for_their_ids(client, call, method):
    """What upload_file() gave may stand for its id."""
    stored = call(client, "upload_file", ("a.txt", b"x"))
    assert call(client, method, stored)


# ---------- files that an answer shows

SHOWN = [
    ('<img src="a" fuse="true"/> and <video src=\'b\' ...> <audio x src="c">', ["a", "b", "c"]),
    ('<IMG\nalt="1 < 2" SRC="a">', ["a"]),
    ('<img <img src="a"> <img src="b" src="c">', ["a", "b"]),
    ('<img> src="a" <img alt=">" src="b"> <image src="c"> <img data-src="d"> <img src="">', ["d"]),
    ('<img src="a', []),
    ("", []),
]


@pytest.mark.parametrize(("text", "found"), SHOWN)
def test_file_ids(text, found):
    """The ids stand in the sources of tags, whatever is around them."""
    assert file_ids(text) == file_ids(Messages(role="assistant", content=text)) == found


@pytest.mark.parametrize(
    "piece", ["<img ", "<img src=", '<img src="', "<img src='a", " src=", "<img\n", "<", 'src="a"']
)
def test_file_ids_of_a_long_text(piece):
    """1 MB of beginnings of tags takes no time."""
    started = time.process_time()
    file_ids(piece * (MEGABYTE // len(piece)))
    assert time.process_time() - started < 5
