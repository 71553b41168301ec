"""The command line: each command against the local server, and the process around it: pipes, signals, terminals.

``run`` calls ``main()`` in this process with streams of its own; ``start`` starts a process; ``Terminal`` one on a pty.
"""

import io
import json
import logging
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import CERTS
from faults import SERVER_TLS, RawServer, answer, chunk, delta
from local_server import LocalServer

import gigachat_lite

FILE = gigachat_lite.__file__
SECONDS = 20  # a test that waits in vain fails
needs_pty = pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def rows(self):
        return [line.split("\t") for line in self.out.splitlines()]


@pytest.fixture
def environment(server, monkeypatch):
    """Point GIGACHAT_ variables at the local server."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GIGACHAT_TIMEOUT", str(SECONDS))


@pytest.fixture
def run(monkeypatch, environment):
    """Call main(); give exit code, stdout and stderr."""

    def run(*argv, stdin=b"", encoding="utf-8"):
        out, err = io.BytesIO(), io.BytesIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
            patch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding, newline="\n"))
            patch.setattr(sys, "stderr", io.TextIOWrapper(err, encoding, newline="\n"))
            code = gigachat_lite.main([str(word) for word in argv])
            sys.stdout.flush()
            sys.stderr.flush()
            return Result(code, out.getvalue().decode(encoding), err.getvalue().decode(encoding))

    return run


def start(*argv, way=("-m", "gigachat_lite"), env=(), **options):
    """Start a process; its streams are pipes unless told otherwise. As a module: a script is compiled each time."""
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    words = [sys.executable, *way, *map(str, argv)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    given = {"PYTHONUTF8": "1", "PYTHONPATH": str(Path(FILE).parent), **dict(env)}
    return subprocess.Popen(words, env={**inherited, **given}, **{**streams, **options})


def finish(process, stdin=b""):
    """Wait for the end of a process; give exit code, stdout and stderr."""
    with process:
        out, err = process.communicate(stdin, timeout=SECONDS)
    return Result(process.returncode, *((data or b"").decode("utf-8") for data in (out, err)))


def requests_to(server, path):
    return [request for request in server.requests if request.path.endswith(path)]


def only_request(server, path):
    (request,) = requests_to(server, path)
    return request


def chat_body(server):
    return json.loads(only_request(server, "/chat/completions").body)


# ---------- chat


def test_chat_streams(run, server):
    """The answer is streamed and ends with a line end; nothing else is printed."""
    result = run("chat", "Привет,", "мир")
    assert chat_body(server) == {
        "model": "GigaChat",
        "messages": [{"role": "user", "content": "Привет, мир"}],
        "stream": True,
    }
    assert result.code == 0
    assert result.out.startswith("Вы написали: «Привет, мир»")
    assert result.out.endswith("\n")
    assert result.err == ""


def test_chat_options(run, server, tmp_path):
    """Model, system message, temperature, length and attached files reach the server."""
    paths = [tmp_path / name for name in ("один.txt", "two.txt")]
    for path in paths:
        path.write_text(path.name, encoding="utf-8")
    result = run(
        *("chat", "--system", "Be brief", "--model", "GigaChat-2", "--temperature", "0.5", "--max-tokens", "500"),
        *("--file", paths[0], "--file", paths[1], "read", "these"),
    )
    assert result.code == 0, result.err
    assert "Attached file two.txt (text/plain, 7 bytes)" in result.out
    body = chat_body(server)
    assert body["messages"][0] == {"role": "system", "content": "Be brief"}
    assert body["messages"][1]["content"] == "read these"
    assert len(body["messages"][1]["attachments"]) == 2
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("GigaChat-2", 0.5, 500)
    assert 'filename="один.txt"'.encode() in requests_to(server, "/files")[0].body


def test_chat_whole(run, server):
    """--no-stream prints the same text of one JSON answer; --json prints that answer."""
    streamed = run("chat", "hi").out
    assert run("chat", "--no-stream", "hi").out == streamed
    result = run("chat", "--json", "hi")
    assert result.json["choices"][0]["message"]["content"] == streamed.rstrip("\n")
    assert result.json["usage"]["total_tokens"] > 0
    assert [b"stream" in request.body for request in requests_to(server, "/completions")] == [True, False, False]


@pytest.mark.parametrize(
    ("words", "stdin", "prompt"),
    [
        ([], "вопрос\n", "вопрос"),
        (["-"], "вопрос\n", "вопрос"),
        (["sum", "up"], "the text\n\n", "sum up\n\nthe text"),
        (["sum", "-", "up"], "the text", "sum up\n\nthe text"),
        (["sum", "up"], "", "sum up"),
        ([], "\ufeffBOM", "BOM"),
    ],
)
def test_prompt(run, server, words, stdin, prompt):
    """The prompt comes from the arguments, from standard input, or from both: what is piped in comes last."""
    assert run("chat", *words, stdin=stdin.encode("utf-8")).code == 0
    assert chat_body(server)["messages"][0]["content"] == prompt


def test_no_prompt(run, server):
    """Without any text nothing is sent."""
    result = run("chat", "--system", "x", stdin=b" \n")
    assert (result.code, result.out) == (2, "")
    assert "no text" in result.err
    assert server.connections == 0


def test_piped_in_another_encoding(server, environment):
    """What is piped in and is no UTF-8 is read in the encoding of standard input."""
    process = start("chat", "--max-tokens", "9", env={"PYTHONIOENCODING": "cp1251"})
    with process:
        process.communicate("привет".encode("cp1251"), timeout=SECONDS)
    assert chat_body(server)["messages"][0]["content"] == "привет"


@pytest.mark.parametrize("options", [[], ["--no-stream"]])
def test_finish_reason(run, options):
    """An answer that was cut off says so on stderr."""
    result = run("chat", "hi", "--max-tokens", "2", *options)
    assert result.code == 0
    assert result.err == "gigachat-lite: finish reason length\n"


# ---------- the other commands


def test_tables(run, server):
    """Without a terminal the rows have tabs between fields and no header; --json gives the API's answer."""
    assert ["GigaChat", "chat", "salutedevices"] in run("models").rows
    assert {model["id"] for model in run("models", "--json").json["data"]} == {row[0] for row in run("models").rows}
    assert run("tokens", "два слова", "one\ttwo").rows == [["2", "9", "два слова"], ["2", "7", "one two"]]
    assert run("tokens", "--json", stdin="два слова\n".encode()).json[0]["tokens"] == 2
    assert ["GigaChat-Max", "50000"] in run("balance").rows
    assert run("balance", "--json").json["balance"][0] == {"usage": "GigaChat", "value": 900000}
    assert run("files", "list").out == ""


def test_embed(run, server):
    """Vectors are JSON lines, numbered through, however many requests they take; --model is that of embeddings."""
    lines = [f"line {number}" for number in range(120)]
    result = run("embed", "--model", "EmbeddingsGigaR", stdin="\r\n".join(lines).encode())
    vectors = [json.loads(line) for line in result.out.splitlines()]
    assert [vector["index"] for vector in vectors] == list(range(120))
    assert {len(vector["embedding"]) for vector in vectors} == {2560}
    bodies = [json.loads(request.body) for request in requests_to(server, "/embeddings")]
    assert [text for body in bodies for text in body["input"]] == lines
    server.reset()
    assert len(run("embed", "one", "two").out.splitlines()) == 2
    assert json.loads(only_request(server, "/embeddings").body)["model"] == "Embeddings"


def test_check_ai(monkeypatch, server, environment, run):
    """The verdict of the chosen detector is printed."""
    server.scope = "GIGACHAT_API_CORP"
    monkeypatch.setenv("GIGACHAT_CREDENTIALS", server.key_for(server.scope))
    text = "I am a language model. The cat sat on the mat."
    assert run("check-ai", text, "--scope", server.scope).rows[0][0] == "ai"
    result = run("check-ai", "--json", "--scope", server.scope, "--model", "GigaCheckDetection", stdin=text.encode())
    assert result.json["category"] == "mixed"


def test_files(run, tmp_path):
    """A file goes up, is listed, comes down byte for byte, to a path or stdout, and is deleted."""
    source, target = tmp_path / "a.txt", tmp_path / "b.txt"
    source.write_bytes(b"one\ntwo\n" * 50_000)
    uploaded = run("files", "upload", source, source)
    assert [row[1] for row in uploaded.rows] == ["a.txt", "a.txt"]
    first, second = (row[0] for row in uploaded.rows)
    assert [first, "400000", "general", "a.txt"] in run("files", "list").rows
    assert run("files", "get", first, "-o", target).out == ""
    assert target.read_bytes() == source.read_bytes()
    assert run("files", "get", second).out.encode() == source.read_bytes()
    assert run("files", "delete", first, second) == (0, "", "")
    assert run("files", "list", "--json").json == {"data": []}
    assert run("files", "get", first, "-o", tmp_path / "c").code == 1
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="names cannot hold these")
def test_upload_of_an_odd_name(run, tmp_path):
    """Whatever the name of a file holds, its line stays one line of two fields."""
    (tmp_path / "a\tb\nc.txt").write_bytes(b"a")
    ((_, name),) = run("files", "upload", tmp_path / "a\tb\nc.txt").rows
    assert "a" in name and "c.txt" in name


def test_upload_reports_at_once(run, tmp_path):
    """The id of a stored file is printed although the next file cannot be read."""
    (tmp_path / "a.txt").write_bytes(b"a")
    result = run("files", "upload", "--json", tmp_path / "a.txt", tmp_path / "missing")
    assert result.code == 1
    assert result.json["filename"] == "a.txt"
    assert result.err == f"gigachat-lite: {tmp_path / 'missing'}: No such file or directory\n"


# ---------- settings, errors, exit codes


def test_options_beat_variables(run, server, monkeypatch):
    """Settings are options before and after the command, and beat the variables."""
    monkeypatch.setenv("GIGACHAT_BASE_URL", "https://localhost:1/api/v1")
    monkeypatch.setenv("GIGACHAT_CA_BUNDLE_FILE", "/nonexistent")
    options = ["--ca-bundle-file", CERTS / "ca.pem", "--max-retries", "1"]
    server.answer_next("/models", 500, {"status": 500, "message": "Internal Server Error"})
    result = run("--base-url", server.base_url, "models", *options, "--retry-backoff-factor", "0")
    assert result.code == 0, result.err
    assert len(requests_to(server, "/models")) == 2


def test_every_open_setting_is_an_option(run):
    """Each setting of the client is an option of each command, unless it is secret or no text."""
    secret = {"credentials", "access-token", "user", "password", "key-file-password", "ssl-context"}
    named = set(re.findall(r"^  --([a-z-]+)", run("files", "get", "--help").out, re.MULTILINE))
    settings = {name.replace("_", "-") for name in gigachat_lite._SETTINGS}
    assert settings - secret <= named
    assert not secret & named


def test_no_verify(run):
    """--no-verify trusts any certificate and warns of it in one line."""
    assert run("models", "--ca-bundle-file", CERTS / "other-ca.pem").code == 1
    result = run("models", "--no-verify")
    assert result.code == 0
    assert result.err.startswith("gigachat-lite: verify_ssl_certs is off")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        *(["models", f"--{name}", "S3CR3T"] for name in ("credentials", "access-token", "user", "password")),
        ["models", "--key-file-password=S3CR3T"],
        ["models", "--proxy", "http://me:S3CR3T@localhost:1"],
    ],
)
def test_secrets_are_no_options(run, server, words):
    """A secret on the command line is refused, not shown, and the variable is named as the way."""
    result = run(*words)
    assert (result.code, result.out) == (2, "")
    assert "GIGACHAT_ variable" in result.err
    assert "S3CR3T" not in result.err
    assert result.err.count("\n") == 1
    assert server.connections == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "COMMAND"),
        (["files"], 2, "(see gigachat-lite files --help)"),
        (["files", "get"], 2, "(see gigachat-lite files get --help)"),
        (["nosuch"], 2, "nosuch"),
        (["chat", "--temperature", "warm", "hi"], 2, "--temperature"),
        (["chat", "--temp", "1", "hi"], 2, "--temp"),  # an abbreviation may mean another option tomorrow
        (["models", "--timeout", "soon"], 2, "GIGACHAT_TIMEOUT"),
        (["models", "--ca-bundle-file", "/nonexistent"], 2, "/nonexistent"),
        (["chat", "half a pair: \ud800"], 2, "surrogate"),
        (["chat", "--temperature", "nan", "hi"], 2, "NaN"),
        (["models", "nosuch"], 2, "unrecognized argument nosuch"),
        (["models", "--base-url", "https://[::1/v1"], 2, "brackets"),
        (["chat", "--model", "nosuch", "hi"], 1, "There is no model 'nosuch'"),
        (["models", "--base-url", "https://localhost:1/api/v1"], 1, "localhost:1"),
        (["models", "--ca-bundle-file", str(CERTS / "other-ca.pem")], 1, "gosuslugi"),
        (["files", "get", "nosuch"], 1, "No such file"),
        (["chat", "--file", "/nonexistent/x", "hi"], 1, "/nonexistent/x: No such file"),
        (["balance", "--scope", "GIGACHAT_API_CORP"], 1, "scope"),
    ],
)
def test_errors(run, words, code, said):
    """Every failure is one line on stderr: exit code 2 for usage and settings, 1 for the API and files."""
    result = run(*words)
    assert (result.code, result.out) == (code, "")
    assert said in result.err
    assert result.err.startswith("gigachat-lite: ")
    assert result.err.count("\n") == 1


def test_unknown_option_is_not_repeated_with_its_value(run):
    """Of an option that does not exist only the name is shown: what follows a mistyped one may be a secret."""
    for words in (["--access_token", "S3CR3T"], ["--access_token=S3CR3T"]):
        result = run("models", *words)
        assert (result.code, "--access_token" in result.err, "S3CR3T" in result.err) == (2, True, False)


@pytest.mark.parametrize("words", ["--json models", "models --json", "files --json list", "--json doctor"])
def test_json_anywhere(run, words):
    """--json counts before and behind the command."""
    assert run(*words.split()).json


@pytest.mark.parametrize(
    ("command", "usage"),
    [("chat", "[PROMPT...]"), ("models", ""), ("files upload", "PATH..."), ("files get", "ID")],
)
def test_usage(run, command, usage):
    """The help of a command begins with how to write it: what may be left out stands in brackets."""
    first = run(*command.split(), "--help").out.partition("\n")[0]
    assert first == f"usage: gigachat-lite {command} [options] {usage}".rstrip()


def test_no_credentials(run, server, monkeypatch):
    """Missing credentials are told before any network."""
    monkeypatch.delenv("GIGACHAT_CREDENTIALS")
    result = run("chat", "hi")
    assert result.code == 2
    assert "GIGACHAT_CREDENTIALS" in result.err
    assert server.connections == 0


def test_main_leaves_no_trace(run):
    """main() called by a program leaves its logging as it was and does not exit."""
    before = list(logging.getLogger("gigachat_lite").handlers)
    assert [run(word).code for word in ("--version", "--help", "nosuch")] == [0, 0, 2]
    assert logging.getLogger("gigachat_lite").handlers == before


# ---------- the process


def test_ways_to_start(environment, server, tmp_path):
    """It runs as a script, as a module, as a vendored module under another name, and as a console script."""
    vendored = tmp_path / "mypkg" / "_vendor"
    vendored.mkdir(parents=True)
    (vendored / "giga.py").write_bytes(Path(FILE).read_bytes())
    env = {"PYTHONPATH": os.pathsep.join([str(Path(FILE).parent), str(tmp_path)])}
    script = "import sys; from gigachat_lite import main; sys.exit(main())"
    ways = [[FILE], ["-m", "gigachat_lite"], ["-m", "mypkg._vendor.giga"], ["-c", script]]
    processes = [start("tokens", "a b", way=way, env=env) for way in ways]
    assert [finish(process) for process in processes] == [Result(0, "2\t3\ta b\n", "")] * 4


@pytest.mark.parametrize(("encoding", "shown"), [("cp1251", "Привет ?"), ("ascii", "?????? ?")])
def test_encodings(environment, encoding, shown):
    """What the terminal's encoding lacks is replaced, on stdout and stderr; JSON stays whole."""
    env = {"PYTHONIOENCODING": encoding}
    runs = [["chat", "Привет 🙂"], ["chat", "--model", "Привет 🙂", "x"], ["chat", "--json", "Привет 🙂"]]
    processes = [start(*words, env=env) for words in runs]
    outputs = [process.communicate(timeout=SECONDS) for process in processes]
    text, error, answer = outputs[0][0], outputs[1][1], outputs[2][0]
    assert f"{shown}".encode(encoding) in text
    assert shown.encode(encoding) in error
    assert "Привет 🙂" in json.loads(answer.decode(encoding))["choices"][0]["message"]["content"]
    assert [process.returncode for process in processes] == [0, 1, 0]
    assert b"Traceback" not in b"".join(err for _, err in outputs)


@pytest.mark.parametrize("words", [["embed", *"abcdefghijklmnopqrstuvwxyz"], ["embed", "--help"]])
def test_closed_pipe(environment, words):
    """A reader who has seen enough, as in `| head -1`, gets no complaint."""
    with start(*words, stdin=subprocess.DEVNULL) as process:
        if "--help" not in words:
            assert process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(SECONDS) == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk(environment):
    """Output that cannot be written is an error of one line."""
    with open("/dev/full", "wb") as full:
        result = finish(start("models", stdout=full))
    assert result.code == 1
    assert result.err == "gigachat-lite: [Errno 28] No space left on device\n"


@pytest.mark.skipif(sys.platform == "win32", reason="closing descriptors in the child")
def test_closed_streams(environment):
    """Without stdout a file has nowhere to go; without stderr nothing meant for people gets into the answer."""
    result = finish(start("files", "get", "id", preexec_fn=lambda: os.close(1), stdout=None))
    assert result.code == 2
    assert "name a file with -o" in result.err
    result = finish(start("chat", "--max-tokens", "1", "hello there", preexec_fn=lambda: os.close(2), stderr=None))
    assert (result.code, "finish reason" in result.out) == (0, False)
    result = finish(start("chat", "--model", "nosuch", "hi", preexec_fn=lambda: os.close(2), stderr=None))
    assert (result.code, result.out) == (1, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_errors_that_cannot_be_told(environment):
    """The exit code is right also where stderr takes nothing."""
    with open("/dev/full", "wb") as full:
        assert finish(start("chat", "--model", "nosuch", "hi", stderr=full)).code == 1
        assert finish(start("models", env={"GIGACHAT_VERIFY_SSL_CERTS": "off"}, stderr=full)).code == 0  # it warns


ASCII_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="arguments are Unicode there")
def test_words_that_the_locale_has_no_characters_for(environment, server):
    """In an ASCII locale arguments are taken for UTF-8, as what is piped in is."""
    result = finish(start("chat", "--json", "--system", "Кратко", "привет", env=ASCII_LOCALE))
    assert result.code == 0, result.err
    assert [message["content"] for message in chat_body(server)["messages"]] == ["Кратко", "привет"]


def talk_on(said, hold):
    """Make a handler that says the first bits of an answer and then holds the line."""

    def handler(wire):
        wire.receive()
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        wire.send(chunk(delta(said)))
        hold(wire)

    return handler


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupt():
    """The first words are out while the answer is still on its way; Ctrl-C then ends with 130, without a traceback."""
    with RawServer(talk_on("Первые слова", lambda wire: wire.wait_for_close())) as server:
        env = {"GIGACHAT_BASE_URL": server.base_url, "GIGACHAT_ACCESS_TOKEN": "token", "PYTHONIOENCODING": "utf-8"}
        with start("chat", "hi", stdin=subprocess.DEVNULL, env=env) as process:
            words = "Первые слова".encode()
            assert process.stdout.read(len(words)) == words
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out, err) == (130, b"\n", b"")


def test_cut_off_stream(run):
    """A stream that breaks off leaves what came, and is an error."""
    with RawServer(talk_on("half", lambda wire: None)) as server:
        result = run("chat", "hi", "--base-url", server.base_url)
    assert (result.code, result.out) == (1, "half\n")
    assert "broke off" in result.err or "ended" in result.err


def test_lazy():
    """Importing the module does not import what only the command line needs."""
    script = "import sys; before = set(sys.modules); import gigachat_lite; print(*set(sys.modules) - before)"
    result = finish(start(way=("-S", "-c", script)))
    assert result.code == 0
    assert not {"argparse", "readline", "getpass", "shutil"} & set(result.out.split())


# ---------- on a terminal


class Terminal:
    """A process on a pseudo-terminal; ``seen`` is what it wrote so far."""

    def __init__(self, *argv, env=()):
        import pty

        self._master, slave = pty.openpty()
        environment = {"TERM": "dumb", "PYTHONIOENCODING": "utf-8", **dict(env)}
        self.process = start(*argv, env=environment, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.seen = ""
        self._waited_for = 0
        self._deadline = time.monotonic() + SECONDS

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def type(self, text):
        os.write(self._master, text.encode())

    def interrupt(self):
        """Press Ctrl-C; once more where it hit the moment between prompt and input, when Python's input() loses it."""
        while self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(1)
            except subprocess.TimeoutExpired:
                assert time.monotonic() < self._deadline, "Ctrl-C has no effect"

    def wait_for(self, text):
        """Read until *text* has been written, behind what was waited for before."""
        while text not in self.seen[self._waited_for :]:
            assert self._read(), f"the process ended: {self.seen[-1000:]!r}"
        self._waited_for = self.seen.index(text, self._waited_for) + len(text)

    def finish(self):
        """Read to the end; give the exit code."""
        while self._read():
            pass
        return self.process.wait(SECONDS)

    def _read(self):
        left = self._deadline - time.monotonic()
        assert left > 0 and select.select([self._master], [], [], left)[0], f"waited in vain: {self.seen[-1000:]!r}"
        try:
            data = os.read(self._master, 65_536)
        except OSError:  # Linux says EIO at the end, others give nothing
            return False
        self.seen += data.decode("utf-8", "replace")
        return bool(data)


@needs_pty
def test_conversation(environment, server):
    """Without a prompt it converses: remembers what was said, survives an error, and ends at Ctrl-D with 0."""
    with Terminal("chat", "--system", "Be brief") as terminal:
        terminal.wait_for("> ")
        terminal.type("first question\n")
        terminal.wait_for("to the point.")
        terminal.wait_for("> ")
        server.answer_next("/chat/completions", 500, {"status": 500, "message": "Internal Server Error"})
        terminal.type("lost question\n")
        terminal.wait_for("Internal Server Error")
        terminal.wait_for("> ")
        terminal.type("second question\n")
        terminal.wait_for("to the point.")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.finish() == 0
    messages = json.loads(requests_to(server, "/chat/completions")[-1].body)["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[1]["content"] == "first question"
    assert "first question" in messages[2]["content"]
    assert messages[3]["content"] == "second question"


@needs_pty
@pytest.mark.parametrize("env", [{"LC_ALL": "C"}, {**ASCII_LOCALE, "PYTHONIOENCODING": "ascii"}], ids=["C", "ascii"])
def test_conversation_in_a_poor_locale(environment, server, env):
    """What is typed in Russian reaches the server, though the locale knows nothing of it."""
    with Terminal("chat", env=env) as terminal:
        terminal.wait_for("> ")
        terminal.type("привет, мир\n")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.finish() == 0
    assert chat_body(server)["messages"] == [{"role": "user", "content": "привет, мир"}]


@needs_pty
def test_interrupted_conversation(environment):
    """Ctrl-C at the prompt ends with 130 and no traceback."""
    with Terminal("chat") as terminal:
        terminal.wait_for("> ")
        terminal.interrupt()
        assert terminal.finish() == 130
    assert "Traceback" not in terminal.seen


@needs_pty
def test_table_on_a_terminal(environment):
    """On a terminal a table has a header and aligned columns."""
    with Terminal("balance") as terminal:
        assert terminal.finish() == 0
    lines = terminal.seen.splitlines()
    assert lines[:2] == ["USAGE         VALUE", "GigaChat      900000"]


@needs_pty
def test_terminal_is_safe(environment):
    """The server's control characters do not reach the terminal, nor does a file's content unasked."""
    with Terminal("chat", "\x1b[31mred\x07") as terminal:
        assert terminal.finish() == 0
    assert "[31mred" in terminal.seen
    assert not re.search("[\x07\x1b]", terminal.seen)
    with Terminal("files", "get", "id") as terminal:
        assert terminal.finish() == 2
    assert "-o" in terminal.seen


@needs_pty
def test_bar_of_a_download(tmp_path):
    """A download of more than a moment shows a bar, which is gone at the end."""
    seen = threading.Event()

    def handler(wire):
        wire.receive()
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        left = 100_000_000
        while not seen.wait(0.02):
            wire.send(bytes(200_000))
            left -= 200_000
        wire.send(bytes(left))

    with RawServer(handler) as server:
        env = {"GIGACHAT_BASE_URL": server.base_url, "GIGACHAT_ACCESS_TOKEN": "token"}
        with Terminal("files", "get", "id", "-o", tmp_path / "file", env=env) as terminal:
            terminal.wait_for("MB of 100.0 MB [#")
            seen.set()
            assert terminal.finish() == 0
    assert os.path.getsize(tmp_path / "file") == 100_000_000
    assert terminal.seen.endswith("\r\x1b[K")


@needs_pty
def test_bar_of_an_upload(tmp_path):
    """An upload of more than a moment shows a bar with the file's name."""
    seen = threading.Event()
    with open(tmp_path / "видео.mp4", "wb") as file:
        file.truncate(100_000_000)

    def handler(wire):
        while not seen.wait(0.01):
            wire.sock.recv(65_536)
        wire.sock.settimeout(SECONDS)
        tail = b""
        while not tail.endswith(b"--\r\n"):
            tail = (tail + wire.sock.recv(1_000_000))[-100:]
        wire.send(answer({"id": "file-id", "filename": "x"}))

    with RawServer(handler) as server:
        env = {"GIGACHAT_BASE_URL": server.base_url, "GIGACHAT_ACCESS_TOKEN": "token"}
        with Terminal("files", "upload", tmp_path / "видео.mp4", env=env) as terminal:
            terminal.wait_for("видео.mp4")
            terminal.wait_for("MB of 100.0 MB [#")
            seen.set()
            assert terminal.finish() == 0
    assert "file-id" in terminal.seen


# ---------- doctor


def steps(result):
    return {finding["step"]: finding["ok"] for finding in result.json}


def failure(result):
    (found,) = [finding for finding in result.json if finding["ok"] is False]
    return found


STEPS = ["configuration", "credentials", "proxy", "dns", "tcp", "tls", "token", "models", "chat"]


def test_doctor(run, server):
    """All is well with the local server: a line for each step, with what the server's certificate says; no secret."""
    result = run("doctor")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", step] for step in STEPS]
    assert all(re.search(r" \d+\.\d ms  ", line) for line in lines)
    assert "subject CN=localhost, issuer CN=gigachat_lite TEST CA, expires 2124-01-01" in lines[5]
    assert str(CERTS / "ca.pem") in lines[5]
    assert not any(secret in result.out for secret in secrets_of(server))
    assert [finding["step"] for finding in run("doctor", "--json").json] == STEPS


def secrets_of(server):
    """Collect the credentials and every token that the server saw."""
    return {request.headers["Authorization"].split()[-1] for request in server.requests}


def test_doctor_system_roots(run, monkeypatch):
    """Without a file of roots the system's are in use, here by SSL_CERT_FILE, and it says where they are."""
    monkeypatch.delenv("GIGACHAT_CA_BUNDLE_FILE")
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTS / "ca.pem"))
    result = run("doctor")
    assert result.code == 0
    assert f"system's roots in {CERTS / 'ca.pem'}" in result.out


def test_doctor_untrusted(run):
    """A certificate that is not trusted: what the server sent, what we trust, and what to do."""
    result = run("doctor", "--json", "--ca-bundle-file", CERTS / "other-ca.pem")
    assert result.code == 1
    found = failure(result)
    assert found["step"] == "tls"
    assert "issuer CN=gigachat_lite TEST CA, expires 2124-01-01" in found["detail"]
    assert "other-ca.pem" in found["detail"]
    assert found["advice"] == gigachat_lite.TLS_HINT
    assert [steps(result)[step] for step in ("token", "models", "chat")] == [None] * 3


@pytest.mark.parametrize(
    ("certificate", "detail", "advice"),
    [
        ("expired", "expires 2021-01-01", "Check the clock of this machine"),
        ("wronghost", "mismatch", "Another server answers"),
    ],
)
def test_doctor_wrong_certificate(run, certificate, detail, advice):
    """An expired certificate, and one of another host: what the server sent, and the advice for just that."""
    with LocalServer(tls=(str(CERTS / f"{certificate}.pem"), str(CERTS / f"{certificate}.key"))) as server:
        result = run("doctor", "--json", "--base-url", server.base_url, "--auth-url", server.auth_url)
    assert result.code == 1
    assert detail in failure(result)["detail"]
    assert failure(result)["advice"].startswith(advice)
    assert advice not in failure(result)["detail"]


def test_doctor_refused(run):
    """A port that nobody listens on fails at TCP; the token, which comes from another host, is still tried."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = run("doctor", "--json", "--base-url", f"https://localhost:{port}/api/v1")
    assert result.code == 1
    assert failure(result)["step"] == "tcp"
    assert "firewall" in failure(result)["advice"]
    assert (steps(result)["token"], steps(result)["models"]) == (True, None)


def test_doctor_unknown_host(run, server):
    """A name that nobody knows fails at DNS, and nothing that needs the host is tried."""
    result = run("doctor", "--json", "--auth-url", "https://nosuch.invalid/api/v2/oauth")
    assert result.code == 1
    assert failure(result)["step"] == "dns"
    assert "GIGACHAT_PROXY" in failure(result)["advice"]
    assert steps(result)["token"] is None
    assert server.requests == []


def test_doctor_wrong_credentials(run, monkeypatch, server):
    """A refused key fails at the token, with the advice of the client's own errors, and is not shown."""
    monkeypatch.setenv("GIGACHAT_CREDENTIALS", "eDpTM0NSM1Q=")
    result = run("doctor", "--json")
    assert result.code == 1
    assert failure(result)["step"] == "token"
    assert "copy it anew" in failure(result)["advice"]
    assert "copy it anew" not in failure(result)["detail"]
    assert "eDpTM0NSM1Q=" not in result.out + result.err


def test_doctor_wrong_token(run, monkeypatch):
    """A refused access token is told of as such, not as a wrong base_url."""
    monkeypatch.delenv("GIGACHAT_CREDENTIALS")
    monkeypatch.setenv("GIGACHAT_ACCESS_TOKEN", "nonsense")
    result = run("doctor", "--json")
    assert (result.code, failure(result)["step"]) == (1, "models")
    assert "token is wrong or has expired" in failure(result)["advice"]


@pytest.mark.parametrize("status", [200, 403])
def test_doctor_page_at_the_token_endpoint(run, server, status):
    """A page in the place of a token is the fault of auth_url, not of base_url."""
    server.answer_next("/oauth", status, b"<html>Welcome</html>", {"Content-Type": "text/html"})
    result = run("doctor", "--json")
    assert failure(result)["step"] == "token"
    assert "auth_url (GIGACHAT_AUTH_URL)" in failure(result)["advice"]
    assert "base_url" not in failure(result)["detail"] + failure(result)["advice"]


def test_doctor_configuration(run, monkeypatch, server):
    """Without credentials the network is looked at all the same; with an unreadable file nothing is."""
    monkeypatch.delenv("GIGACHAT_CREDENTIALS")
    result = run("doctor", "--json")
    assert (result.code, failure(result)["step"], steps(result)["tls"]) == (1, "credentials", True)
    assert "authorization key" in failure(result)["advice"]
    result = run("doctor", "--json", "--ca-bundle-file", "/nonexistent")
    assert (result.code, list(steps(result))) == (1, ["configuration"])
    assert failure(result)["advice"]


def test_doctor_chat(run):
    """A model that does not exist: the list says so, the chat fails with what to do."""
    result = run("doctor", "--json", "--model", "nosuch")
    assert result.code == 1
    assert "nosuch is not among them" in result.json[-2]["detail"]
    assert failure(result)["step"] == "chat"
    assert "nosuch" in failure(result)["advice"]


def test_doctor_proxy(run, monkeypatch):
    """A proxy that refuses the tunnel fails as the proxy; it gets its password, and nobody else sees it."""

    def refuse(wire):
        wire.receive()
        wire.send(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    with RawServer(refuse) as proxy:
        monkeypatch.setenv("GIGACHAT_PROXY", f"http://me:S3CR3T@localhost:{proxy.port}")
        result = run("doctor", "--json")
    assert result.code == 1
    assert failure(result)["step"] == "proxy"
    assert "407" in failure(result)["detail"]
    assert "GIGACHAT_PROXY" in failure(result)["advice"]
    assert proxy.requests[0].headers["proxy-authorization"] == "Basic bWU6UzNDUjNU"
    assert "S3CR3T" not in result.out + result.err


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("proxy", "step"), [("http://localhost:1", "tcp"), ("http://nosuch.invalid:3128", "dns")])
def test_doctor_proxy_out_of_reach(run, monkeypatch, proxy, step, scheme):
    """Where it is the proxy that cannot be reached, the advice is about the proxy."""
    monkeypatch.setenv("GIGACHAT_PROXY", proxy)
    monkeypatch.setenv("GIGACHAT_ACCESS_TOKEN", "token")
    monkeypatch.delenv("GIGACHAT_CREDENTIALS")
    result = run("doctor", "--json", "--base-url", f"{scheme}://api.invalid/v1")
    assert [(found["step"], found["ok"]) for found in result.json if found["ok"] is False] == [(step, False)]
    assert failure(result)["advice"].startswith("Check the proxy")


def test_doctor_without_tls(run, monkeypatch):
    """Plain http works and is said to be not encrypted; an access token needs no other host."""
    with LocalServer() as server:
        monkeypatch.setenv("GIGACHAT_ACCESS_TOKEN", server.issue_token())
        monkeypatch.delenv("GIGACHAT_CREDENTIALS")
        result = run("doctor", "--json", "--base-url", server.base_url)
        assert result.code == 0
        assert steps(result)["tls"] is None
        assert "not encrypted" in result.out
        assert os.environ["GIGACHAT_ACCESS_TOKEN"] not in result.out
        assert requests_to(server, "/oauth") == []


def test_doctor_certificate(run, monkeypatch):
    """A client certificate is enough where the server takes it."""
    with LocalServer(tls=SERVER_TLS, client_ca=str(CERTS / "ca.pem")) as server:
        monkeypatch.delenv("GIGACHAT_CREDENTIALS")
        result = run("doctor", "--base-url", server.base_url, "--cert-file", CERTS / "client-both.pem")
    assert result.code == 0, result.out
    assert "client-both.pem" in result.out
    assert "none is needed" in result.out
