"""The async half: tasks that are cancelled, loops that come and go, and a loop that never waits."""

import asyncio
import io
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import CA, raw_client, wait_until
from faults import (
    DONE,
    LAST_CHUNK,
    SERVER_TLS,
    SOON,
    STREAM_HEAD,
    WAIT_SECONDS,
    RawServer,
    always,
    answer,
    chunk,
    delta,
    echo,
    endless,
    server_context,
    silent_after,
    well_behaved,
)

from gigachat_lite import APIConnectionError, GigaChat, GigaChatException

OK = b"HTTP/1.1 200 OK\r\n"


async def until(server, fulfilled):
    await asyncio.get_running_loop().run_in_executor(None, server.wait, fulfilled)


async def first_of(stream):
    return await stream.__anext__()


STUCK = {
    "connected": b"",
    "status": b"HTTP/1.1 2",
    "header": OK + b"A: ",
    "body": OK + b"Content-Length: 10\r\n\r\n{",
    "chunk": OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nda",
    "error": b"HTTP/1.1 500 No\r\nContent-Length: 10\r\n\r\n{",
}


@pytest.mark.parametrize("tls", [None, SERVER_TLS], ids=["plain", "tls"])
@pytest.mark.parametrize("stage", STUCK)
def test_cancelled(stage, tls):
    """Whatever the server does not do, a cancelled call or stream returns at once, and so do worker and connection."""

    async def run(client, server):
        calls = [
            client.achat("x"),
            first_of(client.astream("x")),
            client.adownload_file("x"),
            client.aupload_file(b"x"),
        ]
        for number, call in enumerate(calls, 1):
            task = asyncio.ensure_future(call)
            await until(server, lambda number=number: len(server.requests) == number)
            started = time.monotonic()
            task.cancel()
            (ended,) = await asyncio.gather(task, return_exceptions=True)
            if not isinstance(ended, asyncio.CancelledError):  # a stream of something else has ended by itself
                assert isinstance(ended, GigaChatException) and number == 2
            await until(server, lambda number=number: server.closed == number)
            assert time.monotonic() - started < SOON

    with RawServer(silent_after(STUCK[stage]), tls) as server:
        with raw_client(server, ca_bundle_file=CA, max_connections=1) as client:
            asyncio.run(run(client, server))


def test_cancelled_in_the_handshake():
    """A server that accepts and never speaks TLS."""

    async def run(client, server):
        task = asyncio.ensure_future(client.achat("x"))
        await until(server, lambda: server.connections == 1)
        task.cancel()
        started = time.monotonic()
        await asyncio.gather(task, return_exceptions=True)
        await until(server, lambda: server.closed == 1)
        assert task.cancelled() and time.monotonic() - started < SOON

    with RawServer(lambda wire: wire.wait_for_close()) as server:
        with raw_client(server, base_url=f"https://localhost:{server.port}/v1") as client:
            asyncio.run(run(client, server))


def test_cancelled_while_sending():
    """A server that does not read a large upload."""
    done = threading.Event()

    async def run(client, server):
        task = asyncio.ensure_future(client.aupload_file(b"x" * 20_000_000))
        await until(server, lambda: server.connections == 1)
        await asyncio.sleep(0.02)
        task.cancel()
        started = time.monotonic()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled() and time.monotonic() - started < SOON
        assert (await client.achat("x")).choices  # the place is free
        assert time.monotonic() - started < SOON

    def handler(wire):
        if wire.number == 1:
            done.wait(WAIT_SECONDS)
        else:
            well_behaved(wire)

    with RawServer(handler) as server, raw_client(server, max_connections=1) as client:
        asyncio.run(run(client, server))
        done.set()


def test_cancelled_backoff():
    """Cancelling ends the pause before a retry; nothing is sent afterwards."""

    async def run(client, server):
        task = asyncio.ensure_future(client.achat("x"))
        await until(server, lambda: server.requests)
        await asyncio.sleep(0.02)
        task.cancel()
        started = time.monotonic()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled() and time.monotonic() - started < SOON
        assert (await client.achat("y")).choices
        assert [request.json["messages"][0]["content"] for request in server.requests] == ["x", "y"]

    def reply(request):
        return answer(b"", "503 No", Retry_After="100") if b'"x"' in request.body else answer()

    with RawServer(always(reply)) as server, raw_client(server, max_retries=1) as client:
        asyncio.run(run(client, server))


def test_cancelled_while_waiting_for_a_connection():
    """A task that waits for its turn is cancelled alone: its place in the queue goes to the next."""

    async def run(client, server):
        stream = client.astream("x")
        await stream.__anext__()
        tasks = [asyncio.ensure_future(client.achat(str(number))) for number in range(10)]
        await asyncio.sleep(0.03)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks[::2], return_exceptions=True)
        await stream.aclose()
        assert all(completion.choices for completion in await asyncio.gather(*tasks[1::2]))

    def handler(wire):
        request = wire.receive()
        if request.json.get("stream"):
            wire.send(STREAM_HEAD, chunk(delta("x")))
            wire.wait_for_close()
        else:
            wire.send(answer())
            well_behaved(wire)

    with RawServer(handler) as server, raw_client(server, max_connections=1) as client:
        asyncio.run(run(client, server))


def test_wait_for():
    """wait_for() ends a call; the client goes on working."""

    async def run(client, server):
        for number, call in enumerate((client.achat("x"), first_of(client.astream("x"))), 1):
            task = asyncio.ensure_future(call)
            await until(server, lambda number=number: len(server.requests) == number)
            started = time.monotonic()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(task, 0.02)
            assert time.monotonic() - started < SOON

    with RawServer(silent_after()) as server, raw_client(server) as client:
        asyncio.run(run(client, server))
        server.wait(lambda: server.closed == 2)


def test_cancelling_cuts_nobody_else():
    """Cancelled tasks among others, again and again: everyone else gets his own answer on a sound connection."""

    async def one(client, number, patience):
        try:
            completion = await asyncio.wait_for(client.achat(str(number)), patience)
        except asyncio.TimeoutError:
            return None
        return completion.choices[0].message.content == str(number)

    async def run(client):
        outcomes = []
        for _ in range(15):
            patient = [one(client, number, WAIT_SECONDS) for number in range(20)]
            hasty = [one(client, number, 0.0005 * number) for number in range(20, 60)]
            mixed = [call for pair in zip(hasty[::2], patient) for call in pair] + hasty[1::2]
            outcomes += await asyncio.gather(*mixed)
        assert False not in outcomes and outcomes.count(True) >= 300
        await asyncio.gather(*(client.achat("together") for _ in range(4)))  # each place is free

    together = threading.Barrier(4)

    def reply(request):
        if request.json["messages"][0]["content"] == "together":
            together.wait(WAIT_SECONDS)
        return echo(request)

    with RawServer(always(reply)) as server, raw_client(server, max_connections=4) as client:
        asyncio.run(run(client))


def test_foreign_stream_collected_in_a_worker():
    """Garbage of another stream, collected in a worker, does not keep the worker's own call from being cancelled."""
    holder = []

    class File(io.RawIOBase):
        name = "a.bin"
        reads = 0

        def read(self, size=-1):
            self.reads += size != 0
            if self.reads == 2:
                holder.clear()
            return b"x" if self.reads == 1 else b""

    async def run(client, server):
        task = asyncio.ensure_future(client.aupload_file(File()))
        await until(server, lambda: len(server.requests) == 2)
        task.cancel()
        started = time.monotonic()
        await until(server, lambda: server.closed == 2)
        assert time.monotonic() - started < SOON
        await asyncio.gather(task, return_exceptions=True)

    def handler(wire):
        request = wire.receive()
        if b'"stream"' in request.body:
            wire.send(STREAM_HEAD, chunk(delta("x")))
        wire.wait_for_close()

    with RawServer(handler) as server, raw_client(server) as client:
        holder.append(client.stream("x"))
        next(holder[0])
        asyncio.run(run(client, server))


def test_a_hundred_calls_at_once():
    """100 calls are under way at the same time: the server answers none before it has all."""
    barrier = threading.Barrier(100)

    def reply(request):
        barrier.wait(WAIT_SECONDS)
        return echo(request)

    async def run(client):
        return await asyncio.gather(*(client.achat(str(number)) for number in range(100)))

    with RawServer(always(reply)) as server, raw_client(server) as client:
        answers = asyncio.run(run(client))
        assert [one.choices[0].message.content for one in answers] == [str(number) for number in range(100)]


def test_two_hundred_streams_at_once():
    """Streams wait for nobody, either."""
    barrier = threading.Barrier(200)

    def handler(wire):
        wire.receive()
        wire.send(STREAM_HEAD, chunk(delta("x")))
        barrier.wait(WAIT_SECONDS)
        wire.send(chunk(DONE) + LAST_CHUNK)

    async def read(client):
        return [part async for part in client.astream("x")]

    async def run(client):
        return await asyncio.gather(*(read(client) for _ in range(200)))

    with RawServer(handler) as server, raw_client(server) as client:
        assert [len(parts) for parts in asyncio.run(run(client))] == [1] * 200


# ---------- the loop never waits


class Ticks:
    """Counts the turns of a loop while it does some work; whoever waits for more of them sees that it goes on."""

    def __init__(self):
        self.count = 0

    async def beside(self, work):
        async def tick():
            while True:
                await asyncio.sleep(0.001)
                self.count += 1

        ticking = asyncio.ensure_future(tick())
        await work
        ticking.cancel()

    def wait(self):
        seen = self.count
        wait_until(lambda: self.count > seen + 10)


def reply_to(request):
    if request.path.endswith("/oauth"):
        return answer({"access_token": "new", "expires_at": 0})
    if b'"stream"' in request.body:
        return STREAM_HEAD + chunk(delta("x", "stop")) + chunk(DONE) + LAST_CHUNK
    if request.path.endswith("/files"):
        return answer({"id": "f", "object": "file"})
    return answer()


def test_the_loop_never_waits():
    """In handshake, token request, call, stream and upload the server does nothing before the loop has gone on."""
    ticks, context = Ticks(), server_context(*SERVER_TLS)

    async def work(client):
        await client.achat("x")
        async for _ in client.astream("x"):
            pass
        await client.aupload_file(b"x" * 1_000_000)

    async def run(https):
        settings = {**https, "credentials": "YTpi", "ca_bundle_file": CA}
        async with raw_client(server, access_token=None, **settings) as client:
            await ticks.beside(work(client))

    def handler(wire):
        ticks.wait()
        wire.sock = context.wrap_socket(wire.sock, server_side=True)
        for request in wire:
            ticks.wait()
            wire.send(reply_to(request))
        answered.append(wire.number)

    answered = []
    with RawServer(handler) as server:
        https = {name: getattr(server, name).replace("http:", "https:") for name in ("base_url", "auth_url")}
        asyncio.run(run(https))
    assert answered == [1]


def test_leaving_never_waits():
    """Cancelling and closing do not block the loop, though the server neither reads nor answers."""
    done = threading.Event()

    async def longest(work):
        turns = [time.monotonic()]

        async def tick():
            while True:
                turns.append(time.monotonic())
                await asyncio.sleep(0.001)

        ticking = asyncio.ensure_future(tick())
        await work
        ticking.cancel()
        return max(later - earlier for earlier, later in zip(turns, [*turns[1:], time.monotonic()]))

    async def work(client):
        tasks = [asyncio.ensure_future(client.aupload_file(b"x" * 5_000_000)) for _ in range(5)]
        stream = client.astream("x" * 1000)
        tasks.append(asyncio.ensure_future(first_of(stream)))
        await asyncio.sleep(0.05)
        tasks[0].cancel()
        await stream.aclose()
        await client.aclose()
        await asyncio.gather(*tasks, return_exceptions=True)

    with RawServer(lambda wire: done.wait(WAIT_SECONDS)) as server, raw_client(server) as client:
        assert asyncio.run(longest(work(client))) < SOON
        done.set()


# ---------- several loops, threads


def test_several_loops():
    """One client serves one loop after the other, several at once, and threads besides."""

    async def run():
        answers = await asyncio.gather(*(client.achat(str(number)) for number in range(20)))
        return [one.choices[0].message.content for one in answers] == [str(number) for number in range(20)]

    with RawServer(always(echo)) as server, raw_client(server, max_connections=3) as client:
        assert asyncio.run(run()) and asyncio.run(run())
        with ThreadPoolExecutor(8) as threads:
            loops = [threads.submit(asyncio.run, run()) for _ in range(4)]
            calls = [threads.submit(client.chat, "x") for _ in range(50)]
            assert all(loop.result(WAIT_SECONDS) for loop in loops)
            assert all(call.result(WAIT_SECONDS).choices for call in calls)


def test_loop_that_is_gone():
    """A loop that is closed while a call is under way takes nothing with it."""
    release = threading.Event()

    def reply(request):
        if b"slow" in request.body:
            assert release.wait(WAIT_SECONDS)
        return answer()

    with RawServer(always(reply)) as server, raw_client(server, max_connections=1) as client:
        loop = asyncio.new_event_loop()
        task = loop.create_task(client.achat("slow"))
        loop.run_until_complete(until(server, lambda: server.requests))
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()
        release.set()
        assert client.chat("x").choices


@pytest.mark.parametrize("stage", ["call", "stream", "backoff", "waiting"])
def test_closing_with_calls_in_flight(stage):
    """aclose() ends what is under way, in whatever stage, with an exception of ours, at once."""

    async def run(server):
        client = raw_client(server, max_connections=1 if stage == "waiting" else None, max_retries=3)
        words = "backoff" if stage == "backoff" else "x"
        calls = [client.achat(words) for _ in range(3)] if stage != "stream" else [first_of(client.astream("x"))]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await until(server, lambda: len(server.requests) == (1 if stage in ("waiting", "stream") else 3))
        await asyncio.sleep(0.02)
        started = time.monotonic()
        await client.aclose()
        ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), WAIT_SECONDS)
        assert time.monotonic() - started < SOON
        assert all(isinstance(one, GigaChatException) for one in ended)
        with pytest.raises(GigaChatException, match="closed"):
            await client.achat("x")

    def handler(wire):
        while True:
            request = wire.receive()
            if request is None or b"backoff" not in request.body:
                break
            wire.send(answer(b"", "503 No", Retry_After="100"))
        wire.wait_for_close()

    with RawServer(handler) as server:
        asyncio.run(run(server))


def test_closing_during_a_backoff():
    """close() from another thread ends the pause before a retry."""
    with RawServer(always(answer(b"", "503 No", Retry_After="100"))) as server, ThreadPoolExecutor(1) as threads:
        client = raw_client(server, max_retries=3)
        call = threads.submit(client.chat, "x")
        server.wait(lambda: server.requests)
        client.close()
        assert isinstance(call.exception(SOON), GigaChatException)
        assert len(server.requests) == 1


def test_no_thread_to_be_had(monkeypatch):
    """Where no thread can be started, calls fail as ours, nothing is sent, and the client recovers."""

    async def run(client, server):
        size = threading.stack_size()
        for _ in range(150):
            threading.stack_size(1 << 50)
            try:
                with pytest.raises(GigaChatException):
                    await asyncio.wait_for(client.achat("failed"), WAIT_SECONDS)
            finally:
                threading.stack_size(size)
        assert (await asyncio.wait_for(client.achat("x"), WAIT_SECONDS)).choices
        assert [request.json["messages"][0]["content"] for request in server.requests] == ["x"]

    try:
        threading.stack_size(1 << 50)
        threading.Thread(target=int).start()
    except (RuntimeError, ValueError):
        pass
    else:
        pytest.skip("this machine starts any thread")
    finally:
        threading.stack_size(0)
    with RawServer(well_behaved) as server, raw_client(server) as client:
        asyncio.run(run(client, server))


def test_nothing_is_left():
    """500 calls, cancelled ones among them, and the client's end leave no connection, and no task of ours."""

    async def run(server):
        client = raw_client(server, max_connections=5)
        for turn in range(10):
            tasks = [asyncio.ensure_future(client.achat(str(number))) for number in range(50)]
            await asyncio.sleep(0.001 * turn)
            for task in tasks[::3]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await client.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with RawServer(always(echo)) as server:
        asyncio.run(run(server))
        server.wait(lambda: server.closed == server.connections)


def test_errors_of_a_broken_stream_are_ours():
    """A stream whose client is closed by somebody else while it is read."""

    async def run(client, server):
        stream = client.astream("x")
        await stream.__anext__()
        await client.aclose()
        with pytest.raises(APIConnectionError):
            async for _ in stream:
                pass

    with RawServer(endless(chunk(delta("x")), STREAM_HEAD)) as server:
        client = raw_client(server)
        asyncio.run(run(client, server))


def test_two_tasks_on_one_stream():
    """The second task that asks for the next chunk is told so; the first one gets it, and the stream goes on."""
    with RawServer(silent_after(STREAM_HEAD, chunk(delta("a")))) as server, raw_client(server) as client:

        async def run():
            stream = client.astream("x")
            assert (await stream.__anext__()).choices[0].delta.content == "a"
            first = asyncio.ensure_future(stream.__anext__())
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task"):
                await stream.__anext__()
            assert not first.done()
            await stream.aclose()
            await asyncio.gather(first, return_exceptions=True)

        asyncio.run(run())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_cancelling_does_not_wait_for_the_roots(tmp_path):
    """A task that is cancelled while its worker reads the root certificates is free at once, and so is the loop."""
    pipe = tmp_path / "roots.pem"
    os.mkfifo(str(pipe))

    def end():  # there is a writer, and there is none
        os.close(os.open(str(pipe), os.O_RDWR | os.O_NONBLOCK))

    async def main(server):
        url = server.base_url.replace("http:", "https:")
        async with GigaChat(base_url=url, access_token="t", ca_bundle_file=str(pipe)) as client:
            task = asyncio.ensure_future(client.achat("Привет"))
            await asyncio.get_running_loop().run_in_executor(None, server.wait, lambda: server.connections)
            await asyncio.sleep(0.05)
            started = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - started < WAIT_SECONDS / 4

    with RawServer(well_behaved) as server:
        late = threading.Timer(WAIT_SECONDS / 2, end)
        late.start()
        try:
            asyncio.run(main(server))
        finally:
            late.cancel()
            end()
