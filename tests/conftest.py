"""Fixtures for all tests.

Every test starts without GIGACHAT_*, proxy and SSL_CERT_* variables and with empty context variables, wherever it runs.

``server``: a fresh local server over TLS; ``server.requests`` is what it received, byte for byte.
``settings``: the keyword arguments that lead a client to ``server``; to change one: ``{**settings, "timeout": 1}``.
``client``: a ``GigaChat(**settings)``, closed after the test.
``call``: runs a method of a client, once sync and once async; the test that asks for it runs twice::

    def test_chat(client, call):
        assert call(client, "chat", "Привет").choices           # client.chat(...), then await client.achat(...)
        assert call(client, "stream", "Привет")[-1].choices     # streams come as lists of chunks
        assert call(client, "assistants.get")                   # client.assistants.get(), client.a_assistants.get()

``plain_server``: a local server without TLS that serves all tests, ``reset()`` before each.
``raw_server``: a RawServer that answers chats and streams well.
``holding``: a RawServer whose streams bring one chunk and then nothing.

To import from here: ``CERTS``, the directory of the test certificates; ``CA``, the root of them; ``ROOT``, the tree;
``MODULE``, the file under test; ``copy_module``, a copy of it; ``raw_client``, a client of a RawServer; ``run_python``
and ``output_of``, for processes of their own; ``sockets_to``, to look at what is connected; ``wait_until``, for what
others do in their own time; ``patient`` and ``hurried``, for short timeouts on a busy machine.
"""

import asyncio
import contextlib
import functools
import gc
import importlib.util
import os
import py_compile
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from faults import CERTS, SERVER_TLS, SHORT, SOON, WAIT_SECONDS, RawServer, hold_streams, server_context, well_behaved
from local_server import LocalServer

import gigachat_lite
from gigachat_lite import AsyncStream, GigaChat, Stream

ROOT = Path(__file__).resolve().parent.parent
MODULE = Path(gigachat_lite.__file__).resolve()  # somewhere else where an installed one is tested
CA = str(CERTS / "ca.pem")
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy", "request_method")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's "&" has it ignored, in every child process too
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def clean_environment():
    """Hide what the machine has set, and give a server on a busy one the time it needs for what it does at once."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.upper().startswith(("GIGACHAT_", "SSL_CERT_", "SSLKEYLOGFILE")) or name.lower() in PROXY_VARIABLES:
                patch.delenv(name)
        patch.setattr(gigachat_lite, "_AT_ONCE_SECONDS", SOON)
        patch.setattr(gigachat_lite, "_DRAIN_SECONDS", SOON)
        yield


CONTEXT = {getattr(gigachat_lite, name): None for name in gigachat_lite.__all__ if name.endswith("_cvar")}
CONTEXT[gigachat_lite.chat_url_cvar] = "/chat/completions"


@pytest.fixture(autouse=True)
def clean_context():
    """Give every context variable its default, and take back what the test sets."""
    tokens = [(variable, variable.set(default)) for variable, default in CONTEXT.items()]
    yield
    for variable, token in tokens:
        variable.reset(token)


@pytest.fixture
def no_jitter(monkeypatch):
    """Take the random part of the pauses between retries away, for which tests would only wait."""
    monkeypatch.setattr(gigachat_lite, "_JITTER", 0.0)


@pytest.fixture(scope="module", autouse=True)
def small_heap():
    """Have the collector pass over what is there before the tests of a file: modules, pytest's items and reports."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """Run no destructor in a test that recurses to the limit: it would fail there, which pytest takes for an error."""
    deep = any(word in item.name for word in ("itself", "deep", "nested"))
    if deep:
        gc.collect()
        gc.disable()
    yield
    if deep:
        gc.enable()


class TLSServer(LocalServer):
    """A local server over TLS, with a context that all of them share: reading a certificate takes its time."""

    context = server_context(*SERVER_TLS)

    def __init__(self):
        super().__init__()
        self._tls, self._context = SERVER_TLS, self.context
        self.base_url, self.auth_url = (f"https{url[4:]}" for url in (self.base_url, self.auth_url))


@pytest.fixture
def server():
    with TLSServer() as server:
        yield server


@pytest.fixture(scope="session")
def shared_plain_server():
    with LocalServer() as server:
        yield server


@pytest.fixture
def plain_server(shared_plain_server):
    shared_plain_server.reset()
    return shared_plain_server


@pytest.fixture
def raw_server():
    with RawServer(well_behaved) as server:
        yield server


@pytest.fixture
def holding():
    with RawServer(hold_streams) as server:
        yield server


@pytest.fixture
def settings(server):
    return {
        "base_url": server.base_url,
        "auth_url": server.auth_url,
        "credentials": server.credentials,
        "ca_bundle_file": CA,
        "timeout": 20,  # a test that hangs fails instead
    }


@pytest.fixture
def client(settings):
    with GigaChat(**settings) as client:
        yield client


def call_sync(client, name, /, *args, **kwargs):
    """Call a method; a stream is read to its end, into a list."""
    *parts, method = name.split(".")
    for part in parts:
        client = getattr(client, part)
    result = getattr(client, method)(*args, **kwargs)
    if isinstance(result, Stream):
        with result:
            return list(result)
    return result


def call_async(client, name, /, *args, **kwargs):
    """Call the async twin of a method in an event loop of its own."""
    first, _, rest = name.partition(".")
    prefix = "a_" if rest and first != "chat" else "a"
    owner, method = (getattr(client, prefix + first), rest) if rest else (client, prefix + first)

    async def run():
        result = getattr(owner, method)(*args, **kwargs)
        if isinstance(result, AsyncStream):
            async with result:
                return [chunk async for chunk in result]
        return await result

    return asyncio.run(run())


@pytest.fixture(params=[call_sync, call_async], ids=["sync", "async"])
def call(request):
    return request.param


def raw_client(server, **settings):
    """Make a client of a RawServer; it needs no token request."""
    return GigaChat(**{"base_url": server.base_url, "access_token": "token", "timeout": 20, **settings})


def wait_until(fulfilled):
    """Wait for what another thread or process does in its own time."""
    end = time.monotonic() + WAIT_SECONDS
    while not fulfilled():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


def patient(test):
    """Have *test*, whose ``timeout`` is SHORT, succeed with a longer one where the machine is busy."""

    @functools.wraps(test)
    def run(**fixtures):
        for timeout in (SHORT, 5 * SHORT):
            try:
                return test(**fixtures, timeout=timeout)
            except (Exception, pytest.fail.Exception):
                pass
        return test(**fixtures, timeout=25 * SHORT)

    return run


@contextlib.contextmanager
def hurried(client):
    """Shorten the timeout of a client for what is to wait in vain."""
    timeout, client._settings.timeout = client._settings.timeout, SHORT
    yield
    client._settings.timeout = timeout


def sockets_to(server):
    """Give the sockets of this process that are connected to a server, as the garbage collector knows them."""
    found = []
    for one in gc.get_objects():
        if isinstance(one, socket.socket) and one.family in (socket.AF_INET, socket.AF_INET6):
            try:
                port = one.getpeername()[1]
            except OSError:  # closed, or connected to nobody
                continue
            if port == server.port:
                found.append(one)
    return found


@functools.lru_cache(maxsize=None)
def bytecode():
    """Compile the file under test, once for all copies."""
    with tempfile.TemporaryDirectory() as directory:
        compiled = Path(directory) / "compiled"
        py_compile.compile(str(MODULE), str(compiled), doraise=True)
        return compiled.read_bytes()


def copy_module(target):
    """Copy the file under test, and its bytecode, without which each process would take half a second to compile it."""
    cached = Path(importlib.util.cache_from_source(str(target)))
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_bytes(bytecode())
    shutil.copy2(str(MODULE), str(target))  # with its time, which the bytecode names
    return target


def run_python(*arguments, cwd=None, seconds=120, **environment):
    """Run Python in a process of its own, with this module on its path and no other variables than *environment*.

    An empty variable is taken away; Windows needs SYSTEMROOT to open a socket.
    """
    kept = {name: os.environ[name] for name in ("SYSTEMROOT", "TMPDIR") if name in os.environ}
    variables = {**kept, "PYTHONPATH": str(MODULE.parent), "PYTHONIOENCODING": "utf-8", **environment}
    return subprocess.run(
        [sys.executable, "-B", "-W", "error", *map(str, arguments)],
        cwd=cwd,
        env={name: value for name, value in variables.items() if value},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=seconds,
    )


def output_of(*arguments, **options):
    """Give what a Python process prints that is to end well, without a word on stderr."""
    done = run_python(*arguments, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
