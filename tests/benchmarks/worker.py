"""What one client does in one case: run.py starts it, and asks for a round with each line that it writes.

    worker.py CASE CLIENT PORT CA       CLIENT: gigachat_lite, gigachat (the official SDK), or floor

Each round answers with a line of JSON: "wall" and "cpu", seconds; and what else the case measures.
The floor is http.client and json, with no models, errors, retries or settings.
"""

import asyncio
import concurrent.futures
import http.client
import importlib
import json
import os
import resource
import ssl
import statistics
import sys
import tempfile
import threading
import time
import types
from typing import Any, Callable, Dict, Iterator, List, Optional

QUESTION = "Привет! Чем ты можешь помочь?"
CHATS = 100  # in one round
FILE_MEGABYTES = 256
CALLS = 96

Round = Callable[[], Optional[Dict[str, float]]]


class Bare:
    """The floor: one kept connection, and JSON both ways."""

    def __init__(self, case: str) -> None:
        self.prefix = f"/{case}/v1"
        self.http = http.client.HTTPSConnection("localhost", PORT, context=ssl.create_default_context(cafile=CA))

    def post(self, path: str, body: Any, **headers: str) -> http.client.HTTPResponse:
        whole = json.dumps(body, ensure_ascii=False).encode("utf-8")
        self.http.request("POST", self.prefix + path, whole, {"Authorization": "Bearer token", **headers})
        return self.http.getresponse()

    def chat(self, payload: Any) -> Any:
        if isinstance(payload, str):
            payload = {"messages": [{"role": "user", "content": payload}], "model": "GigaChat"}
        return json.loads(self.post("/chat/completions", payload).read())

    def embeddings(self, texts: List[str]) -> Any:
        return json.loads(self.post("/embeddings", {"input": texts, "model": "Embeddings"}).read())

    def stream(self, question: str) -> Iterator[Any]:
        body = {"messages": [{"role": "user", "content": question}], "model": "GigaChat", "stream": True}
        response = self.post("/chat/completions", body)
        rest = b""
        while True:
            data = response.read1(65_536)
            if not data:
                return
            *events, rest = (rest + data).split(b"\n\n")
            for event in events:
                if event != b"data: [DONE]":
                    yield json.loads(event[6:])

    def get_files(self) -> Any:
        self.http.request("GET", self.prefix + "/files", headers={"Authorization": "Bearer token"})
        return json.loads(self.http.getresponse().read())

    def upload(self, file: Any) -> Any:
        self.http.blocksize = 65_536
        length = {"Content-Length": str(os.fstat(file.fileno()).st_size)}
        self.http.request("POST", self.prefix + "/files", file, length)
        return json.loads(self.http.getresponse().read())

    def download(self, to: Any) -> None:
        self.http.request("GET", self.prefix + "/files/x/content")
        response = self.http.getresponse()
        for block in iter(lambda: response.read(65_536), b""):
            to.write(block)


def client(case: str) -> Any:
    """Make the client whose answers are those of *case*, see server.py."""
    if CLIENT == "floor":
        return Bare(case)
    kind = importlib.import_module(CLIENT).GigaChat
    url = f"https://localhost:{PORT}/{case}/v1"
    return kind(base_url=url, access_token="token", model="GigaChat", ca_bundle_file=CA, timeout=120)


def peak_megabytes() -> float:
    """Give the most memory that this process ever had."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    except OSError:
        unit = 1024 * 1024 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def added_megabytes(work: Callable[[], Any]) -> float:
    """Tell how much memory *work* takes at most, above what the process has before it."""
    try:
        with open("/proc/self/clear_refs", "w") as peak:
            peak.write("5")  # the peak falls to what is in use now; Linux only
    except OSError:
        pass
    before = peak_megabytes()
    work()
    return peak_megabytes() - before


# The cases: each prepares a client, warm unless it says otherwise, and gives what one round does.


def chats() -> Round:
    one = client("chat")

    def round_() -> None:
        for _ in range(CHATS):
            one.chat(QUESTION)

    return round_


def stream(case: str) -> Round:
    one = client(case)
    expected = int(case.partition("-")[2])

    def round_() -> None:
        assert sum(1 for _ in one.stream(QUESTION)) == expected

    return round_


def stream_async(case: str) -> Round:
    if CLIENT == "floor":
        return stream(case)
    one = client(case)
    loop = asyncio.new_event_loop()
    expected = int(case.partition("-")[2])

    async def read() -> None:
        count = 0
        async for _ in one.astream(QUESTION):
            count += 1
        assert count == expected

    return lambda: loop.run_until_complete(read())


def paced() -> Round:
    one = client("paced-100")

    def round_() -> Dict[str, float]:
        delays = []
        for chunk in one.stream(QUESTION):
            now = time.monotonic_ns()
            choice = chunk["choices"][0]["delta"] if CLIENT == "floor" else chunk.choices[0].delta
            delays.append(now - int(choice["content"] if CLIENT == "floor" else choice.content))
        return {"value": statistics.median(delays) / 1e9}

    return round_


def paced_async() -> Round:
    if CLIENT == "floor":
        return paced()
    one = client("paced-100")
    loop = asyncio.new_event_loop()

    async def read() -> Dict[str, float]:
        stream = one.astream(QUESTION)
        delays = [time.monotonic_ns() - int(chunk.choices[0].delta.content) async for chunk in stream]
        return {"value": statistics.median(delays) / 1e9}

    return lambda: loop.run_until_complete(read())


def embeddings() -> Round:
    one = client("chat")
    texts = ["Привет"] * 256

    def round_() -> None:
        one.embeddings(texts)

    return round_


def messages(count: int, models: bool = False) -> Round:
    one = client("chat")
    roles = ("user", "assistant")
    plain = [{"role": roles[number % 2], "content": f"{QUESTION} {number}"} for number in range(count)]

    def round_() -> None:
        if models and CLIENT != "floor":
            module = importlib.import_module(CLIENT)
            one.chat(module.Chat(messages=[module.Messages(**message) for message in plain]))
        else:
            one.chat({"messages": plain, "model": "GigaChat"})

    return round_


def concurrent_calls(case: str, count: int, cold: bool = False) -> Round:
    if CLIENT == "floor":
        return _floor_calls(case, count, cold)
    loop = asyncio.new_event_loop()
    warm = client(case)

    async def calls() -> None:
        one = client(case) if cold else warm
        await asyncio.gather(*(one.achat(QUESTION) for _ in range(count)))
        if cold:
            await one.aclose()

    return lambda: loop.run_until_complete(calls())


def _floor_calls(case: str, count: int, cold: bool) -> Round:
    """Call from as many threads, each with its own connection."""
    width = min(count, 100)
    local = threading.local()
    pool = concurrent.futures.ThreadPoolExecutor(width)

    def call(_: int) -> None:
        if cold or not hasattr(local, "bare"):
            local.bare = Bare(case)
        local.bare.chat(QUESTION)

    def round_() -> None:
        list(pool.map(call, range(count)))

    return round_


def upload() -> Round:
    one = client("chat")
    file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the worker lives
    for _ in range(FILE_MEGABYTES):
        file.write(bytes(1024 * 1024))
    file.flush()

    def round_() -> Dict[str, float]:
        file.seek(0)
        named = ("large.txt", file)
        return {"memory": added_megabytes(lambda: one.upload(file) if CLIENT == "floor" else one.upload_file(named))}

    return round_


def download() -> Round:
    one = client("chat")

    def round_() -> Optional[Dict[str, float]]:
        if CLIENT == "gigachat":
            return {"memory": added_megabytes(lambda: one.get_image("x"))}  # all that it has
        with open(os.devnull, "wb") as to:
            get = one.download if CLIENT == "floor" else lambda to: one.download_file("x", to)
            return {"memory": added_megabytes(lambda: get(to))}

    return round_


# Growth.


def events(count: int) -> Round:
    """Measure from the first event to the last, of as many streams as make 10,000 events."""
    one = client(f"framed-{count}")

    def round_() -> Dict[str, float]:
        seconds = 0.0
        for _ in range(10_000 // count):
            chunks = iter(one.stream(QUESTION))
            next(chunks)
            started = time.perf_counter()
            for _ in chunks:
                pass
            seconds += time.perf_counter() - started
        return {"value": seconds / (10_000 // count) / (count - 1)}

    return round_


def stream_memory(count: int) -> Round:
    small, one = client("framed-10"), client(f"framed-{count}")

    def read(which: Any) -> None:
        for _ in which.stream(QUESTION):
            pass

    def round_() -> Dict[str, float]:
        read(small)
        return {"memory": added_megabytes(lambda: read(one))}

    return round_


def idle_connections(count: int) -> Round:
    """Measure calls of a client that keeps *count* idle connections."""
    one = client("burst-2")
    if CLIENT != "floor":
        opened = [iter(one.stream(QUESTION)) for _ in range(count)]
        for chunks in opened:  # all of them are open before the first one ends
            next(chunks)
        for chunks in opened:
            for _ in chunks:
                pass

    def round_() -> None:
        for _ in range(CHATS):
            one.get_files()

    return round_


# The worst inputs: what a hostile server sends, to the parser that takes it.


def worst(name: str) -> Round:
    """Compare the time for each megabyte of 2, 4 and 8 with that for a single one."""
    if CLIENT == "floor":
        return lambda: {"value": 1.0}
    parse, unit = _worst_inputs(importlib.import_module(CLIENT))[name]

    def seconds(megabytes: int) -> float:
        data = (unit * (megabytes * 1_000_000 // len(unit) + 1))[: megabytes * 1_000_000]
        started = time.process_time()
        parse(data)
        return time.process_time() - started

    def round_() -> Dict[str, float]:
        one = max(min(seconds(1) for _ in range(3)), 0.01)  # what takes less is not worth a look
        return {"value": max(seconds(megabytes) / megabytes for megabytes in (2, 4, 8)) / one}

    return round_


def _worst_inputs(module: Any) -> Dict[str, Any]:
    """Give what parses and what it gets again and again, by the names in run.py."""

    def pieces(data: bytes, size: int) -> Iterator[bytes]:
        return (data[at : at + size] for at in range(0, len(data), size))

    def events(data: bytes, size: int = 65_536) -> None:
        parser = module._EventParser()
        for piece in pieces(data, size):
            parser.feed(piece)
        parser.feed(b"\n\n")

    def chunks(data: bytes, size: int = 65_536) -> None:
        payload = module._Payload(module._Head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked"))
        for piece in pieces(data, size):
            payload.feed(piece)

    def head(data: bytes) -> None:
        connection = module._Connection(("http", "localhost", None))
        blocks = pieces(data, 65_536)
        connection.receive = lambda: next(blocks, b"")
        try:
            connection.read_head("reading")
        except (ConnectionError, module._NotHTTP):
            pass

    def lines(data: bytes, size: int = 65_536) -> None:
        blocks = pieces(data, size)
        reply = types.SimpleNamespace(
            receive=lambda: next(blocks, b""), parse=lambda line: line, as_model=lambda _, line: line
        )
        for _ in module._read_lines(dict, reply):
            pass

    settings = module._read_settings({"credentials": "Y2xpZW50OnNlY3JldA=="}, {})
    secrets = module._Secrets(settings, {"Authorization": "Bearer to-ken+1"})
    return {
        "short lines": (events, b"data:\n"),
        "blank lines": (events, b"\n"),
        "lines that end with CR": (events, b"data: x\r"),
        "one long line": (lambda data: events(data, 1_000), b"x"),
        "chunks of a byte": (chunks, b"1\r\nx\r\n"),
        "long chunk extensions": (lambda data: chunks(data, 1_000), b"1;" + b"x" * 60_000 + b"\r\nx\r\n"),
        "a long trailer": (lambda data: chunks(b"0\r\n" + data, 1_000), b"a: b\r\n"),
        "provisional answers": (head, b"HTTP/1.1 100 Continue\r\n\r\n"),
        "a head that does not end": (head, b"HTTP/1.1 200 OK\r\n"),
        "short JSON lines": (lines, b"{}\n"),
        "one long JSON line": (lambda data: lines(data, 1_000), b"x"),
        "images without an end": (lambda data: module.file_ids(data.decode()), b"<img "),
        "escapes to look for secrets in": (
            lambda data: secrets.hide(data.decode()),
            b"to-ken%2B1 %2525 &amp;amp; \\\\u0074 &#116 \\",
        ),
    }


def main() -> None:
    case, _, size = CASE.partition("@")
    prepare = {
        "chats": chats,
        "stream": lambda: stream(size),
        "stream-async": lambda: stream_async(size),
        "paced": paced,
        "paced-async": paced_async,
        "embeddings": embeddings,
        "messages": lambda: messages(int(size)),
        "messages-models": lambda: messages(int(size), models=True),
        "calls-slow": lambda: concurrent_calls("slow", CALLS),
        "calls-cold": lambda: concurrent_calls("slow", CALLS, cold=True),
        "calls": lambda: concurrent_calls("chat", int(size)),
        "upload": upload,
        "download": download,
        "events": lambda: events(int(size)),
        "stream-memory": lambda: stream_memory(int(size)),
        "worst": lambda: worst(size),
        "idle": lambda: idle_connections(int(size)),
    }[case]
    one_round = prepare()
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            measured = one_round() or {}
        except Exception as error:
            measured = {"failure": f"{type(error).__name__}: {error}"[:200]}  # type: ignore[dict-item]
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"wall": wall, "cpu": cpu, **measured}), flush=True)
    os._exit(0)  # nothing here needs a tidy end, and the official SDK warns of clients that were not closed


if __name__ == "__main__":
    CASE, CLIENT, PORT, CA = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    main()
