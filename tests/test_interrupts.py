"""Interrupts: what a signal handler raises anywhere in a call loses no place, no lock and no socket.

A signal handler runs between two instructions of the main thread, whatever it is doing: Ctrl-C, Celery's soft time
limit, a test's timeout. Here an exception is raised at each call and each return in the module and in ``threading``,
one after another; and by real signals, at random.
"""

import asyncio
import functools
import gc
import io
import itertools
import os
import queue
import random
import re
import signal
import sys
import threading
import time

import pytest
from faults import DONE, LAST_CHUNK, STREAM_HEAD, RawServer, answer, chunk, delta, echo

import gigachat_lite
from gigachat_lite import GigaChat, GigaChatException

OWN_FILES = (gigachat_lite.__file__, threading.__file__)
SIGNAL_SECONDS = float(os.environ.get("GIGACHAT_LITE_SIGNAL_SECONDS", "2"))
SLOW = 15  # seconds: far more than a call takes, less than what it would wait for if something were lost


class Interrupt(Exception):
    """What the signal handler raises."""


class StopInterrupt(KeyboardInterrupt):
    """What it raises in an event loop, where nothing else leaves a callback."""


class Raiser:
    """Raises *kind* at one event of the profiler, once; tells how many there were."""

    def __init__(self, at, kind):
        self.at, self.kind, self.events = at, kind, 0

    def __call__(self, frame, event, _):
        if event in ("call", "return") and frame.f_code.co_filename in OWN_FILES:
            self.events += 1
            if self.events == self.at:
                raise self.kind

    def __enter__(self):
        sys.setprofile(self)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)


class Other:
    """Another thread, which sees the locks that the interrupted one holds; a daemon, should it wait for ever."""

    def __init__(self):
        self._jobs, self._results = queue.SimpleQueue(), queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self):
        for client, question in iter(self._jobs.get, None):
            try:
                self._results.put(client.chat(question).choices[0].message.content)
            except GigaChatException as error:
                self._results.put(f"{type(error).__name__}: {error}")
            del client

    def answer(self, client, question):
        self._jobs.put((client, question))
        try:
            return self._results.get(timeout=SLOW)
        except queue.Empty:
            return f"nothing within {SLOW} s"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._jobs.put(None)


class Server(RawServer):
    """Answers each question with itself, and does once for the next request what ``fault`` says."""

    def __init__(self):
        super().__init__(self._answer)
        self.fault = None

    def _answer(self, wire):
        for request in wire:
            fault, self.fault = (None, self.fault) if request.path.endswith("/oauth") else (self.fault, None)
            if request.path.endswith("/oauth"):
                wire.send(answer({"access_token": "token", "expires_at": 4_000_000_000_000}))
            elif fault is not None:
                wire.send(fault)
            elif request.path.endswith("/files"):
                wire.send(answer(FILE))
            elif request.method == "GET":
                wire.send(answer(b"0" * 70_000, Content_Type="application/octet-stream"))
            elif b'"stream": true' in request.body:
                words = request.json["messages"][-1]["content"]
                wire.send(STREAM_HEAD, chunk(delta(words)) + chunk(delta("", "stop")) + chunk(DONE) + LAST_CHUNK)
            else:
                wire.send(echo(request))
            if fault is not None and b"close" in fault:
                return


FILE = {"id": "f", "object": "file", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "general"}


def left_early(client):
    for _ in client.stream("stream"):
        break


def left_by_close(client):
    with client.stream("stream") as stream:
        next(stream)


FAULTS = {
    "401": answer(b"{}", "401 Unauthorized"),
    "503": answer(b"{}", "503 Service Unavailable", Retry_After="0"),
    "closed": answer(b"{}", Connection="close"),
    "cut": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{",
    "not HTTP": b"close",
    "cut stream": STREAM_HEAD + chunk(delta("close")),
    "late": b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n",
}

# What is interrupted, and what the server does wrong in it.
CALLS = {
    "chat": (lambda client: client.chat("one"), None),
    "token": (lambda client: client.get_token(), None),
    "stream": (lambda client: list(client.stream("one")), None),
    "stream left": (left_early, None),
    "stream closed": (left_by_close, None),
    "upload": (lambda client: client.upload_file(("f.txt", b"x")), None),
    "upload of a file": (lambda client: client.upload_file(("f.txt", io.BytesIO(b"x" * 300_000))), None),
    "download": (lambda client: client.download_file("f", to=io.BytesIO()), None),
    **{f"chat, {name}": (lambda client: client.chat("one"), fault) for name, fault in FAULTS.items()},
    "stream, cut": (lambda client: list(client.stream("one")), FAULTS["cut stream"]),
}


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    """Nothing is left to the collector, nor to the look after what was lost."""
    monkeypatch.setattr(gigachat_lite, "_LOOK_SECONDS", 60)
    monkeypatch.setattr(gigachat_lite, "_JITTER", 0)
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Unseen:
    """What is raised in destructors, which nobody sees: the interrupt itself may be, and nothing else."""

    def __init__(self, expected=r"\w*Interrupt\("):
        self._expected = expected

    def __enter__(self):
        self._errors, self._hook = [], sys.unraisablehook
        sys.unraisablehook = lambda found: self._errors.append(repr(found.exc_value))
        return self

    def __exit__(self, *_):
        sys.unraisablehook = self._hook
        assert [error for error in self._errors if not re.match(self._expected, error)] == []


def new_client(server):
    return GigaChat(
        base_url=server.base_url,
        auth_url=server.auth_url,
        credentials="Y2xpZW50OnNlY3JldA==",
        max_connections=1,
        timeout=20,
        max_retries=1,
        retry_backoff_factor=0,
    )


def interrupt_each(job, fault=None, cold=False, kind=Interrupt):
    """Interrupt *job* at each event in turn; after each, the next call of its client gets its own answer."""
    with Server() as server, Other() as other, Unseen():
        client = new_client(server)
        client.chat("zero")
        for at in itertools.count(1):
            if cold:
                client.close()
                client = new_client(server)
            server.fault = fault
            raiser = Raiser(at, kind)
            try:
                with raiser:
                    job(client)
            except (kind, GigaChatException):
                pass  # gone before the next call
            server.fault = None
            question = f"question {at}"
            assert other.answer(client, question) == question, f"after event {at}"
            if raiser.events < at:
                break
        client.close()
        server.wait(lambda: server.closed == server.connections)
    assert at > 8


@pytest.mark.parametrize("name", CALLS)
def test_warm(name):
    interrupt_each(*CALLS[name])


@pytest.mark.parametrize("name", ["chat", "stream", "upload"])
def test_cold(name):
    """A token is fetched, a connection opened."""
    interrupt_each(CALLS[name][0], cold=True)


def test_an_interrupt_that_is_an_os_error():
    """``signal.alarm`` is often used to raise a TimeoutError: it is taken for the network's, or comes out."""

    class TimeIsUpInterrupt(TimeoutError):
        pass

    interrupt_each(CALLS["chat"][0], kind=TimeIsUpInterrupt)


def waits_for_its_turn(client):
    """Wait for the only connection, which a stream of the same thread has, in vain."""
    with client.stream("stream") as stream:
        next(stream)
        client._settings.timeout = 0.01
        try:
            client.chat("one")
        finally:
            client._settings.timeout = 20


def test_waiting_for_a_connection():
    interrupt_each(waits_for_its_turn)


def run_in_a_loop(job):
    """Run a coroutine in a loop of its own; what a handler raises there ends the loop."""
    loop = asyncio.new_event_loop()
    try:
        loop.set_exception_handler(lambda *_: None)
        loop.run_until_complete(job)
    finally:
        try:
            for task in asyncio.all_tasks(loop):
                task.cancel()
                loop.run_until_complete(asyncio.wait([task]))
        finally:
            loop.close()


async def astream(client, stop=None):
    async with client.astream("one") as stream:
        async for _ in stream:
            if stop:
                break


ASYNC_CALLS = {
    "achat": lambda client: client.achat("one"),
    "astream": astream,
    "astream left": functools.partial(astream, stop=True),
}


@pytest.mark.parametrize("name", ASYNC_CALLS)
def test_async(name):
    """Signals come to the main thread, where the event loop runs; the worker ends its call or is cut off."""
    interrupt_each(lambda client: run_in_a_loop(ASYNC_CALLS[name](client)), kind=StopInterrupt)


@pytest.mark.skipif(sys.version_info < (3, 10), reason="`with` itself may lose a lock there: bpo-29988")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_signals_at_random():
    """Whatever instruction a signal comes at, the next call works and gets its own answer."""

    def handler(*_):
        raise Interrupt

    calls = ["chat", "stream", "stream left", "upload of a file"]
    chance, cut = random.Random(1), 0
    # A socket that Python has opened and not handed over yet closes itself, with a warning.
    unseen = Unseen(r"Interrupt\(|ResourceWarning\(.unclosed <(socket.socket|ssl.SSLSocket)")
    earlier = signal.signal(signal.SIGALRM, handler)
    try:
        with Server() as server, Other() as other, unseen:
            client = new_client(server)
            end = time.monotonic() + SIGNAL_SECONDS
            for number in itertools.count():
                if time.monotonic() > end:
                    break
                if number % 7 == 0:
                    client.close()
                    client = new_client(server)
                try:
                    signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00005, 0.003))
                    try:
                        CALLS[chance.choice(calls)][0](client)
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                except Interrupt:
                    cut += 1
                question = f"question {number}"
                assert other.answer(client, question) == question
            client.close()
            server.wait(lambda: server.closed == server.connections)
    finally:
        signal.signal(signal.SIGALRM, earlier)
    assert cut > number / 5
