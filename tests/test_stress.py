"""The worst fault, an answer delivered to another's question, and what is left behind: under stress, forks, limits.

GIGACHAT_LITE_STRESS sets the number of calls of the stress test, GIGACHAT_LITE_SEED what happens in it.
"""

import asyncio
import concurrent.futures
import gc
import io
import os
import random
import signal
import sys
import textwrap
import threading
import time

import pytest
from conftest import output_of, raw_client, wait_until
from faults import (
    COMPLETION,
    DONE,
    LAST_CHUNK,
    SHORT,
    STREAM_HEAD,
    RawServer,
    always,
    answer,
    chunk,
    closing,
    delta,
    event,
    hold_streams,
    resetting,
    silent_after,
)

import gigachat_lite
from gigachat_lite import GigaChatException, ResponseError

CALLS = int(os.environ.get("GIGACHAT_LITE_STRESS", "2000"))
SEED = os.environ.get("GIGACHAT_LITE_SEED", "1")
THREADS, TASKS, CONNECTIONS = 4, 16, 4
POISON = "somebody else's answer"


# ---------- an answer to another's question


def completion(words):
    choice = {"message": {"content": words, "role": "assistant"}, "index": 0, "finish_reason": "stop"}
    return answer({**COMPLETION, "choices": [choice]})


class BadServer(RawServer):
    """Answers each question with itself, and does to some, chosen by their words, what servers and gateways do."""

    def __init__(self):
        super().__init__(self._answer)
        self.good = False

    def _answer(self, wire):
        for request in wire:
            self.requests.clear()  # nobody looks at them
            words = request.json["messages"][-1]["content"]
            streamed = b'"stream": true' in request.body
            reply = completion(words)
            if streamed:
                pieces = [chunk(delta(piece)) for piece in words.split(" ")]
                reply = b"".join([STREAM_HEAD, *pieces, chunk(delta("", "stop")), chunk(DONE), LAST_CHUNK])
            chance = random.Random(SEED + words)
            fault = "none" if self.good else chance.choices(list(FAULTS), FAULTS.values())[0]
            if fault == "pieces":
                at = chance.randrange(len(reply))
                wire.send(reply[:at])
                time.sleep(0.001)
                wire.send(reply[at:])
            elif fault == "slow":
                time.sleep(chance.uniform(0, 0.005))
                wire.send(reply)
            elif fault == "error":
                wire.send(answer({"status": 400, "message": words}, "400 Bad Request"))
            elif fault == "closed behind":
                wire.send(reply)
                return
            elif fault == "reset behind":
                wire.send(reply)
                wire.reset()
                return
            elif fault == "closed before":
                return
            elif fault == "cut":
                wire.send(reply[: chance.randrange(len(reply))])
                return
            elif fault == "more behind":
                wire.send(reply + completion(POISON))
            elif fault == "more behind, later":
                wire.send(reply)
                time.sleep(chance.uniform(0, 0.002))
                wire.send(answer(completion(POISON), "408 Request Timeout", Connection="close"))
                return
            elif fault == "204 with a body":
                body = completion(POISON)
                wire.send(b"HTTP/1.1 204 No Content\r\nContent-Length: %d\r\n\r\n" % len(body))
                time.sleep(0.001)
                wire.send(body)
            elif fault == "two lengths":
                wire.send(reply.replace(b"\r\n\r\n", b"\r\nContent-Length: 9\r\n\r\n", 1) + completion(POISON))
            elif fault == "silent":
                wire.wait_for_close()
                return
            else:
                wire.send(reply)


FAULTS = {
    "none": 700,
    "pieces": 60,
    "slow": 60,
    "error": 40,
    "closed behind": 30,
    "reset behind": 15,
    "closed before": 15,
    "cut": 15,
    "more behind": 15,
    "more behind, later": 15,
    "204 with a body": 15,
    "two lengths": 15,
    "silent": 2,
}


class Interrupt(Exception):
    """What the signal handler raises."""


class Asker:
    """Asks what nobody else asks, in each way there is, and notes what came as the answer."""

    def __init__(self, client, name, most):
        self.client, self.name, self.most = client, name, most
        self.chance = random.Random(f"{SEED} {name}")
        self.answered, self.failed, self.wrong = 0, 0, []

    def _questions(self):
        return (f"{self.name} asks {number}" for number in range(self.most))

    def _take(self, question, words, whole=True):
        expected = question if whole else question[: len(words)]
        if words == expected:
            self.answered += whole
        else:
            self.wrong.append((question, words))

    def _fail(self, question, error):
        self.failed += 1
        if isinstance(error, ResponseError) and error.status_code == 400 and question not in str(error):
            self.wrong.append((question, str(error)))

    # A thread's.

    def run(self, around=lambda ask, *arguments: ask(*arguments)):
        for question in self._questions():
            try:
                around(
                    self.chance.choice([self.chat, self.chat, self.stream, self.stream_left, self.stream_cut]), question
                )
            except GigaChatException as error:
                self._fail(question, error)

    def chat(self, question):
        self._take(question, self.client.chat(question).choices[0].message.content)

    def stream(self, question):
        self._take(question, " ".join(map(content, self.client.stream(question))).strip())

    def stream_left(self, question):
        with self.client.stream(question) as stream:
            self._take(question, content(next(stream)), whole=False)

    def stream_cut(self, question):
        """Another thread closes the stream, or finds it at its end."""
        stream = self.client.stream(question)
        closer = threading.Timer(self.chance.uniform(0, 0.003), stream.close)
        closer.start()
        try:
            self.stream_of(stream, question)
        finally:
            closer.join()

    def stream_of(self, stream, question):
        self._take(question, " ".join(map(content, stream)).strip())

    # A task's.

    async def arun(self):
        for question in self._questions():
            try:
                await self.chance.choice(
                    [self.achat, self.achat_cut, self.astream, self.astream_left, self.astream_waited]
                )(question)
            except (GigaChatException, asyncio.TimeoutError, asyncio.CancelledError) as error:
                self._fail(question, error)

    async def achat(self, question):
        self._take(question, (await self.client.achat(question)).choices[0].message.content)

    async def achat_cut(self, question):
        await asyncio.wait_for(self.achat(question), self.chance.uniform(0, 0.01))

    async def astream(self, question):
        async with self.client.astream(question) as stream:
            self._take(question, " ".join([content(one) async for one in stream]).strip())

    async def astream_left(self, question):
        async for one in self.client.astream(question):
            self._take(question, content(one), whole=False)
            break

    async def astream_waited(self, question):
        """As a gateway waits for the next chunk."""
        pieces, stream = [], self.client.astream(question)
        while True:
            try:
                one = await asyncio.wait_for(stream.__anext__(), self.chance.uniform(0.001, 0.02))
            except StopAsyncIteration:
                break
            pieces.append(content(one))
        self._take(question, " ".join(pieces).strip())


def content(piece):
    return piece.choices[0].delta.content


def interrupted(asker):
    """Have signals interrupt an asker in the main thread."""

    def handler(*_):
        raise Interrupt

    def around(ask, question):
        try:
            signal.setitimer(signal.ITIMER_REAL, asker.chance.uniform(0.0001, 0.1))
            try:
                ask(question)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except (Interrupt, RuntimeError) as error:
            if not isinstance(error, Interrupt) and not isinstance(error.__context__, Interrupt):
                raise  # else Thread.start() was interrupted in a Condition of Python's, which cannot stand that
            asker._fail(question, error)

    earlier = signal.signal(signal.SIGALRM, handler)
    try:
        asker.run(around)
    finally:
        signal.signal(signal.SIGALRM, earlier)


@pytest.fixture
def restless():
    """Have threads take turns 5 times as often as they do."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 5)
    yield
    sys.setswitchinterval(interval)


def test_no_answer_goes_astray(monkeypatch, restless):
    """Threads, tasks and interrupts on one client: each gets the answer to its own question, or an error."""
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)  # interrupts in destructors
    share = CALLS // (THREADS + TASKS + 1) + 1

    async def tasks(askers):
        await asyncio.gather(*[asker.arun() for asker in askers])

    with BadServer() as server, raw_client(server, max_connections=CONNECTIONS, timeout=0.5) as client:
        askers = [Asker(client, f"asker {number}", share) for number in range(THREADS + TASKS + 1)]
        with concurrent.futures.ThreadPoolExecutor(THREADS + 1) as pool:
            jobs = [pool.submit(asker.run) for asker in askers[1 : THREADS + 1]]
            jobs.append(pool.submit(asyncio.run, tasks(askers[THREADS + 1 :])))
            if hasattr(signal, "setitimer"):
                interrupted(askers[0])
            for job in jobs:
                job.result()
        assert [wrong for asker in askers for wrong in asker.wrong] == []
        assert sum(asker.answered for asker in askers) > CALLS / 4
        # Each place can be taken still, all at once, and no worker is stuck.
        server.good, client._settings.timeout = True, 20
        streams = [client.stream(f"place {number}") for number in range(CONNECTIONS)]
        assert [content(next(stream)) for stream in streams] == ["place"] * CONNECTIONS
        for stream in streams:
            stream.close()
    server.wait(lambda: server.closed == server.connections)


# ---------- forks

FORK_IN_THE_MIDDLE = """
    import ctypes, os, signal, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and newer warn of any fork beside threads
    fork = {"python": os.fork, "c": ctypes.PyDLL(None).fork}[sys.argv[1]]

    def said(answer):
        return answer.choices[0].message.content

    def serve(name, depth):
        assert said(client.chat(name)) == name
        assert said(asyncio.run(client.achat(name))) == name
        assert said(cold.chat(name)) == name
        try:
            next(stream)
        except APIConnectionError:
            pass
        else:
            raise AssertionError("the stream of the parent")
        stream.close()
        if depth:
            run_child(name + " of a child", depth - 1)
            assert said(client.chat(name)) == name

    def run_child(name, depth):
        child = fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0, name
            return
        signal.alarm(20)  # a child that hangs dies of it
        try:
            serve(name, depth)
            client.close()
        except BaseException as error:
            print(f"{name}: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)

    client = GigaChat(base_url=base_url, access_token="token", max_connections=3, timeout=20)
    cold = GigaChat(base_url=base_url, auth_url=base_url + "/oauth", credentials="Y2xpZW50OnNlY3JldA==", timeout=20)
    assert said(asyncio.run(client.achat("parent"))) == "parent"  # leaves a worker, which waits for more
    stream = client.stream("stream")
    next(stream)
    login = threading.Thread(target=cold.get_token)
    login.start()
    client.chat("wait for the login")
    for number in range(3):
        run_child(f"child {number}", 1)
    assert said(client.chat("parent")) == "parent"
    client.chat("let the stream go on")
    assert [one.choices[0].delta.content for one in stream] == ["end"]
    login.join()
    assert said(asyncio.run(client.achat("parent"))) == "parent"
    client.close(), cold.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("kind", ["python", "c"])
def test_fork_in_the_middle(kind):
    """A child opens connections of its own, whatever is under way; the parent goes on over those that it has.

    uWSGI and other programs fork in C, where no hook of Python runs.
    """
    logins = []
    go_on = threading.Event()

    def handler(wire):
        for request in wire:
            if request.path.endswith("/oauth"):
                logins.append(request)
                if len(logins) == 1:  # the parent's
                    assert go_on.wait(20)
                wire.send(answer({"access_token": "token", "expires_at": 4_000_000_000_000}))
                continue
            words = request.json["messages"][0]["content"]
            if words == "stream":
                wire.send(STREAM_HEAD, chunk(delta("begin")))
                assert go_on.wait(20)
                wire.send(chunk(delta("end", "stop")) + chunk(DONE) + LAST_CHUNK)
                continue
            if words == "wait for the login":
                server.wait(lambda: logins)
            elif words == "let the stream go on":
                go_on.set()
            wire.send(completion(words))

    with RawServer(handler) as server:
        script = "import asyncio, sys, threading\nfrom gigachat_lite import *\n" + f"base_url = {server.base_url!r}\n"
        output_of("-c", script + textwrap.dedent(FORK_IN_THE_MIDDLE), kind)
        owners = {}
        for request in server.requests:
            if not request.path.endswith("/oauth"):
                words = request.json["messages"][0]["content"]
                owner = words if words.startswith("child") else "parent"
                assert owners.setdefault(request.connection, owner) == owner
        assert list(owners.values()).count("parent") == 2  # one for the stream, one for all else


# ---------- what is left behind


def fails_in(name, client, payload):
    """Fail in a call; nothing of it is kept here."""
    try:
        for _ in getattr(client, name)(payload) if name == "stream" else [getattr(client, name)(payload)]:
            pass
    except GigaChatException:
        return
    raise AssertionError("it did not fail")


def afails_in(name, client, payload):
    async def call():
        try:
            if name != "stream":
                return await getattr(client, "a" + name)(payload)
            async for _ in client.astream(payload):
                pass
        except GigaChatException:
            return None

    asyncio.run(call())
    workers = client._workers
    wait_until(lambda: len(workers._idle) == len(workers._threads))  # none holds its last job any more


FAILURES = {
    "refused": None,
    "status": always(answer(b"{}", "500 Internal Server Error")),
    "token": always(answer(b"{}", "401 Unauthorized")),
    "page": always(answer(b"<html>", "502 Bad Gateway")),
    "not JSON": always(answer(b"{")),
    "not a model": always(answer(b'{"choices": [{"message": 3}]}')),
    "not HTTP": closing(b"hello\r\n\r\n"),
    "no head": closing(),
    "reset": resetting(),
    "cut": closing(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"),
    "cut stream": resetting(STREAM_HEAD, chunk(delta("x"))),
    "error in a stream": closing(STREAM_HEAD + chunk(event({"status": 500, "message": "no"}))),
    "timeout": silent_after(),
    "timeout in the answer": silent_after(STREAM_HEAD, chunk(delta("x"))),
}


@pytest.mark.parametrize("name", ["chat", "stream", "upload_file"])
@pytest.mark.parametrize("fail", [fails_in, afails_in], ids=["sync", "async"])
@pytest.mark.parametrize("failure", FAILURES)
def test_failures_leave_nothing_to_the_collector(failure, fail, name, monkeypatch):
    """A failed call is gone at once, with its body and its Authorization, though the collector never runs."""
    monkeypatch.setattr(gigachat_lite, "_JITTER", 0)
    with RawServer(FAILURES[failure] or closing()) as server:
        address = "http://127.0.0.1:1" if failure == "refused" else server.base_url
        timeout = SHORT / 10 if "timeout" in failure else 20
        with raw_client(server, base_url=address, timeout=timeout, max_retries=1, retry_backoff_factor=0) as client:
            payload = ("f.txt", io.BytesIO(b"x")) if name == "upload_file" else "x"
            gc.collect()
            gc.disable()
            try:
                fail(name, client, payload)
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
            finally:
                gc.set_debug(0)
                gc.enable()
                ours = {type(one).__name__ for one in gc.garbage if type(one).__module__ == "gigachat_lite"}
                gc.garbage.clear()
    assert ours == set()


# ---------- few threads


def own_threads():
    """List the client's threads that run; one whose start was interrupted may stay in Python's own list for ever."""
    running = sys._current_frames()
    return [thread for thread in threading.enumerate() if thread.name == "gigachat_lite" and thread.ident in running]


@pytest.fixture
def few_threads(monkeypatch):
    """Let no more than five threads of the client live, as a container may."""
    start, others = threading.Thread.start, set(own_threads())  # of other tests

    def limited(thread):
        if thread.name == "gigachat_lite" and len(set(own_threads()) - others) >= 5:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)


def test_few_threads(few_threads):
    """Calls and streams serve themselves from the same threads, one after another, in any order."""

    async def read(client, words):
        async with client.astream(words) as stream:
            return [content(chunk) async for chunk in stream]

    async def chat(client, words):
        return (await client.achat(words)).choices[0].message.content

    async def run(client):
        numbers = range(30)
        assert await asyncio.gather(*[chat(client, f"c{n}") for n in numbers]) == [f"c{n}" for n in numbers]
        assert await asyncio.gather(*[read(client, f"s{n}") for n in numbers]) == [[f"s{n}", ""] for n in numbers]
        mixed = await asyncio.gather(*[(chat, read)[n % 2](client, f"m{n}") for n in numbers])
        assert mixed == [[f"m{n}", ""] if n % 2 else f"m{n}" for n in numbers]

    with BadServer() as server, raw_client(server) as client:
        server.good = True
        asyncio.run(run(client))


def test_calls_beside_streams_that_wait(few_threads):
    """Streams that are read but bring nothing hold the threads; a call has its turn when one of them ends."""

    async def run(client, server):
        streams = [client.astream("x") for _ in range(5)]
        readers = [asyncio.ensure_future(stream.__anext__()) for stream in streams]
        await asyncio.gather(*readers)
        waiting = [asyncio.ensure_future(stream.__anext__()) for stream in streams]
        call = asyncio.ensure_future(client.achat("y"))
        await asyncio.sleep(0.02)
        assert not call.done()
        waiting[0].cancel()
        assert (await call).choices
        for task in waiting[1:]:
            task.cancel()
        await asyncio.wait(waiting)

    with RawServer(hold_streams) as server, raw_client(server) as client:
        asyncio.run(run(client, server))


def test_threads_and_connections_go_when_their_time_is_over(monkeypatch):
    monkeypatch.setattr(gigachat_lite, "_IDLE_SECONDS", 0.05)
    monkeypatch.setattr(gigachat_lite._Workers, "_patience", 0.01)

    async def run(client):
        await asyncio.gather(*[client.achat(f"c{n}") for n in range(120)])

    others = set(own_threads())  # of other tests
    with BadServer() as server, raw_client(server) as client:
        server.good = True
        asyncio.run(run(client))
        wait_until(lambda: others.issuperset(own_threads()))
        wait_until(lambda: server.connections - server.closed <= 10)
        assert client.chat("x").choices


# ---------- coroutines that are closed


@pytest.mark.parametrize("name", ["achat", "astream"])
def test_closed_with_its_loop(name, caplog, recwarn):
    """A coroutine is closed after its loop, with its call under way: that is cut off and nobody complains."""

    async def wait(client):
        if name == "achat":
            await client.achat("x")
        else:
            async for _ in client.astream("x"):
                pass

    with RawServer(silent_after()) as server, raw_client(server, max_connections=1) as client:
        loop = asyncio.new_event_loop()
        coroutine = wait(client)
        task = loop.create_task(coroutine)

        loop.run_until_complete(loop.run_in_executor(None, server.wait, lambda: server.requests))
        task._log_destroy_pending = False  # the loop's own words about what the test does to it
        loop.close()
        coroutine.close()
        del task, coroutine
        gc.collect()
        server.wait(lambda: server.closed == 1)
        workers = client._workers
        wait_until(lambda: len(workers._idle) == len(workers._threads))
        server.handler = always(answer())
        assert client.chat("x").choices  # the place is free
    assert [record for record in caplog.records if record.name != "gigachat_lite"] == []
    assert not list(recwarn)
