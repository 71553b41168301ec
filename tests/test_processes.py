"""Processes: forks, copies, other processes, and the interpreter's end."""

import asyncio
import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import CERTS
from faults import STREAM_HEAD, RawServer, always, answer, chunk, delta, echo

import gigachat_lite
from gigachat_lite import (
    APIConnectionError,
    APITimeoutError,
    BadRequestError,
    Chat,
    ChatCompletion,
    ConfigurationError,
    Function,
    GigaChat,
    GigaChatException,
    InvalidResponseError,
    Messages,
    RateLimitError,
    StreamInterruptedError,
)

ROOT = Path(gigachat_lite.__file__).resolve().parent
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def raw_client(server, **settings):
    """Make a client of a RawServer; it needs no token request."""
    return GigaChat(**{"base_url": server.base_url, "access_token": "token", "timeout": 20, **settings})


def run_python(script, server, *options, seconds=60, **environment):
    """Run a script in a process of its own, with nothing in its environment; a client called ``client`` is there."""
    head = "import asyncio, sys, threading, time\nfrom gigachat_lite import *\n"
    head += f"client = GigaChat(base_url={server.base_url!r}, access_token='token', timeout=30)\n"
    variables = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", head + textwrap.dedent(script)],
        env={name: value for name, value in variables.items() if value},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def moods(wire):
    """Answer as the words of the request ask: "hang", "fail", "stream", or an echo."""
    while True:
        request = wire.receive()
        if request is None:
            return
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
        done = run_python(FORK_IN_CALLS, server)
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
        base_url = client._settings.base_url
        client = GigaChat(base_url=base_url, auth_url=base_url + "/oauth", credentials="YTpi", timeout=30)
        thread = threading.Thread(target=client.get_token, daemon=True)
        thread.start()
        while not any(connection.doing == "waiting for the answer" for connection in list(client._pool._busy)):
            time.sleep(0.001)
        child = os.fork()
        if not child:
            signal.alarm(20)
            print(client.chat("child").choices[0].message.content, flush=True)
            os._exit(0)
        sys.exit(os.waitpid(child, 0)[1])
    """
    logins = []

    def handler(wire):
        while True:
            request = wire.receive()
            if request is None:
                return
            if not request.path.endswith("/oauth"):
                wire.send(echo(request))
                continue
            logins.append(request)
            if len(logins) == 1:
                wire.wait_for_close()
                return
            wire.send(answer({"access_token": "new", "expires_at": 0}))

    with RawServer(handler) as server:
        done = run_python(script, server)
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
        done = run_python(script, server, PYTHONIOENCODING="utf-8")
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
            assert type(other) is GigaChat and other._settings == client._settings
            assert other._pool is not client._pool
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


def ask(client, words):
    with client:
        return client.chat(words).choices[0].message.content


@pytest.mark.parametrize("method", sorted({"spawn", "fork"} & set(multiprocessing.get_all_start_methods())))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_worker_processes(method):
    """A client reaches the workers of an engine."""
    with RawServer(always(echo)) as server, raw_client(server) as client:
        client.chat("x")
        with multiprocessing.get_context(method).Pool(2) as pool:
            calls = [pool.apply_async(ask, (client, str(number))) for number in range(6)]
            assert [call.get(60) for call in calls] == [str(number) for number in range(6)]


ERRORS = [
    GigaChatException("текст"),
    ConfigurationError("текст"),
    APIConnectionError("текст"),
    APITimeoutError("текст"),
    StreamInterruptedError("текст"),
    InvalidResponseError("текст"),
    BadRequestError("https://host/x", 400, b'{"message":"\xd0\xb4\xd0\xb0"}', None, request="POST /x", hint="do"),
    RateLimitError("https://host/x", 429, b"", None),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_exceptions_travel(error):
    """Exceptions are copied and pickled as they are."""
    for other in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is type(error) and str(other) == str(error) and vars(other).keys() == vars(error).keys()


def test_exceptions_of_a_server_travel(call):
    """So does one with the headers of an answer."""
    reply = answer({"status": 429, "message": "нет"}, "429 No", Retry_After="7", X_Request_Id="один".encode().hex())
    with RawServer(always(reply)) as server, raw_client(server) as client:
        with pytest.raises(RateLimitError) as caught:
            call(client, "chat", "x")
    other = pickle.loads(pickle.dumps(caught.value))
    assert str(other) == str(caught.value) and other.retry_after == 7 and other.request_id == caught.value.request_id


@pytest.mark.parametrize(
    "model",
    [
        Chat(messages=[Messages(role="user", content="да")]),
        Function(name="f", parameters={"type": "object", "properties": {"a": {"type": "string", "default": None}}}),
        ChatCompletion.from_dict({"choices": [{"message": {"content": "да"}, "new": [1]}], "newer": {"a": None}}),
    ],
    ids=lambda model: type(model).__name__,
)
def test_models_travel(model):
    """Models are copied and pickled with all that they hold."""
    for other in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other == model and repr(other) == repr(model)


def test_answers_travel(call):
    """So do answers with the headers that came with them."""
    with RawServer(always(answer(X_Request_Id="id"))) as server, raw_client(server) as client:
        completion = call(client, "chat", "x")
    assert pickle.loads(pickle.dumps(completion)).x_headers == completion.x_headers


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
        client = GigaChat(base_url=client._settings.base_url, access_token="token", max_retries=5)
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
        done = run_python(script, server)
        return done.returncode, done.stdout, done.stderr, time.monotonic() - started < 15  # timeout is 30

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
        run_python(script, server, "-S", HOME="", PATH="")
        assert (tmp_path / "report").read_text() == "fine"
        assert len(server.requests) == 2


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no user ids here")
def test_read_only_files(tmp_path):
    """Nothing is written: not beside the module, not in the working directory, not in the temporary one."""
    module = tmp_path / "lib"
    module.mkdir()
    (module / "gigachat_lite.py").write_bytes((ROOT / "gigachat_lite.py").read_bytes())
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
        done = run_python(script, server, **surroundings)
        assert done.returncode == 0, done.stderr
    assert [path.name for path in module.iterdir()] == ["gigachat_lite.py"]


def test_client_certificate_in_a_worker_process():
    """Settings with files survive the way through pickle."""
    client = GigaChat(base_url="https://host/v1", cert_file=CERTS / "client.pem", key_file=CERTS / "client.key")
    assert pickle.loads(pickle.dumps(client))._settings == client._settings
    asyncio.run(client.aclose())
