"""The command line: commands against the local server, and the process around them: pipes, signals, terminals.

``run`` calls ``main()`` in this process with streams of its own; ``start`` starts a process; ``Terminal`` one on a pty.
"""

import email.utils
import inspect
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
import time
from contextlib import ExitStack
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
    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]


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
    """Model, system message and attached files reach the server; the files are gone afterwards."""
    paths = [tmp_path / name for name in ("один.txt", "two.txt")]
    for path in paths:
        path.write_text(path.name, encoding="utf-8")
    options = ("--system", "Be brief", "--model", "GigaChat-2", f"--file={paths[0]}", "--file", paths[1])
    result = run("chat", *options, "read", "these")
    assert (result.code, result.err) == (0, "")
    assert "Attached file two.txt (text/plain, 7 bytes)" in result.out
    body = chat_body(server)
    assert body["model"] == "GigaChat-2"
    assert body["messages"][0] == {"role": "system", "content": "Be brief"}
    assert body["messages"][1]["content"] == "read these"
    assert len(body["messages"][1]["attachments"]) == 2
    assert 'filename="один.txt"'.encode() in requests_to(server, "/files")[0].body
    assert run("get_files").json == {"data": []}


def test_files_that_stay(run, server, tmp_path):
    """A file that cannot be deleted is named; one that was stored before a failure is deleted all the same."""
    path = tmp_path / "a.txt"
    path.write_text("a")
    server.answer_next("/delete", 500, {"status": 500, "message": "Internal Server Error"})
    result = run("chat", "--file", path, "hi")
    (stored,) = run("get_files").json["data"]
    assert result.code == 0
    assert f"the attached file {stored['id']} stays in the storage" in result.err
    assert run("chat", "--file", path, "--file", tmp_path / "missing", "hi").code == 1
    assert len(run("get_files").json["data"]) == 1


@pytest.mark.parametrize(
    ("words", "stdin", "prompt"),
    [
        ([], "вопрос\n", "вопрос"),
        (["-"], "вопрос\r\n", "вопрос"),
        (["sum", "up"], "the text\n\n", "sum up\n\nthe text"),
        (["sum", "-", "up"], "the text", "sum up\n\nthe text"),
        (["sum", "up"], "", "sum up"),
        ([], "\ufeffBOM", "BOM"),
        (["--", "--model", "x=1"], "", "--model x=1"),
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


@pytest.mark.parametrize("words", [["chat"], ["chat", "what is this?"], ["tokens_count", "-"]])
@pytest.mark.parametrize("stdin", ["привет".encode("cp1251"), b"\x89PNG\r\n"], ids=["cp1251", "binary"])
def test_input_that_is_not_utf_8(run, server, words, stdin):
    """What is piped in and is no UTF-8 would be garbage that costs money: it is refused."""
    result = run(*words, stdin=stdin)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "UTF-8" in result.err
    assert server.connections == 0


def test_finish_reason(run, server):
    """An answer that was cut off says so on stderr."""
    cut = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "length"}]}
    server.answer_next("/completions", 200, events(cut), {"Content-Type": "text/event-stream"})
    assert run("chat", "hi") == (0, "a\n", "gigachat-lite: finish reason length\n")


def events(*values):
    """Write the events of a stream."""
    return "".join(f"data: {data}\n\n" for data in (*map(json.dumps, values), "[DONE]")).encode()


def pieces(*texts):
    """Write a stream whose deltas are *texts*."""
    deltas = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    return events(*deltas, {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}]})


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        (["a \ud83d", "\ude42 b"], "a 🙂 b\n"),
        (["\ud83d", "", "\ude42"], "🙂\n"),
        (["a\ud83d"], "a\ufffd\n"),
        (["\ude42b"], "\ufffdb\n"),
    ],
)
def test_halves_of_an_emoji(run, server, texts, shown):
    """An emoji whose halves come apart is printed whole; a half that stays alone is U+FFFD."""
    server.answer_next("/completions", 200, pieces(*texts), {"Content-Type": "text/event-stream"})
    assert run("chat", "hi") == (0, shown, "")


# ---------- methods


def test_every_method_is_a_command():
    """Each public method of the blocking client is a command that text can call; so are those of its groups."""
    groups = {
        "": gigachat_lite.GigaChatSyncClient,
        "chat.": gigachat_lite.ChatNamespace,
        "assistants.": gigachat_lite.AssistantsSyncClient,
        "threads.": gigachat_lite.ThreadsSyncClient,
    }
    methods = {group + name: getattr(kind, name) for group, kind in groups.items() for name in vars(kind)}
    public = {
        name for name, method in methods.items() if callable(method) and "_" not in (name[0], name.split(".")[-1][0])
    }
    commands = gigachat_lite._commands()
    apart = {"close", "chat_parse", "chat.parse", "run_tools", "chat.run_tools"}  # what takes types and functions
    assert set(commands) == public - apart | {"doctor"}
    for name in set(commands) - {"chat", "doctor"}:
        assert not re.search(r"Callable|Type\[|type\[", str(inspect.signature(commands[name]))), name


def test_results_are_json(run, server):
    """Results are JSON, models as the API wrote them; hyphens do for underscores."""
    assert "GigaChat" in {model["id"] for model in run("get_models").json["data"]}
    assert run("get-balance").json["balance"][0] == {"usage": "GigaChat", "value": 900000}
    assert run("get_model", "GigaChat").json["id"] == "GigaChat"
    assert run("assistants.get").json == {"data": []}
    assert run("threads.list", "limit=5").json["threads"] == []
    assert isinstance(run("threads.create_thread").json, str)
    assert {len(item["embedding"]) for item in run("embeddings", 'texts=["a", "b"]').json["data"]} == {1024}
    assert run("get_files").out == '{\n  "data": []\n}\n'


def test_stream_is_json_lines(run):
    """A stream is one JSON object a line."""
    chunks = run("stream", "Привет").lines
    assert len(chunks) > 2
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert "Привет" in "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    payload = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    assert run("stream", "payload=" + json.dumps(payload)).lines[-1]["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("words", "stdin", "sent"),
    [
        (["5"], "", ["5"]),
        (["true"], "", ["true"]),
        (['{"a": 1}'], "", ['{"a": 1}']),
        (["a=b"], "", ["a=b"]),
        (["self=b"], "", ["self=b"]),
        (["=b"], "", ["=b"]),
        (["-"], " text \n\n", [" text "]),
        (['input_=["a", "5"]'], "", ["a", "5"]),
        (["input_=plain {text"], "", ["plain {text"]),
        (["--", "-5"], "", ["-5"]),
    ],
)
def test_texts_are_not_mangled(run, server, words, stdin, sent):
    """An argument is text, whatever it looks like; only a value behind the name of a parameter is JSON."""
    assert run("tokens_count", *words, stdin=stdin.encode()).code == 0
    assert json.loads(only_request(server, "/tokens/count").body) == {"model": "GigaChat", "input": sent}


def test_value_of_a_text_parameter(run, server):
    """What can be nothing but text is text behind its name too; other parameters take numbers, lists, objects."""
    run("assistants.create", "model=GigaChat", "name=5", 'instructions={"a": 1}', 'metadata={"a": "1"}')
    body = json.loads(only_request(server, "/assistants").body)
    sent = {name: value for name, value in body.items() if value is not None}
    assert sent == {"model": "GigaChat", "name": "5", "instructions": '{"a": 1}', "metadata": {"a": "1"}}


def test_files(run, tmp_path):
    """A file goes up, is listed, comes down byte for byte, to a path or stdout, and is deleted."""
    source, target = tmp_path / "a.txt", tmp_path / "b=.txt"
    source.write_bytes(b"one\ntwo\n" * 50_000)
    file = run("upload_file", source).json
    assert (file["filename"], file["bytes"]) == ("a.txt", 400_000)
    assert run("get_files").json["data"][0]["id"] == run("get_file", file["id"]).json["id"] == file["id"]
    assert run("download_file", file["id"], f"to={target}") == (0, "", "")
    assert target.read_bytes() == source.read_bytes()
    assert run("download_file", file["id"]).out.encode() == source.read_bytes()
    assert run("get_image", file["id"]).json.keys() == {"content"}
    assert run("delete_file", file["id"]).json["deleted"] is True
    assert run("download_file", file["id"], f"to={tmp_path / 'c'}").code == 1
    assert sorted(os.listdir(str(tmp_path))) == ["a.txt", "b=.txt"]


def test_batch_results_by_id(run, server, monkeypatch, tmp_path):
    """batch_results takes the id of a batch; the results are JSON lines."""
    server.scope = "GIGACHAT_API_CORP"
    monkeypatch.setenv("GIGACHAT_CREDENTIALS", server.key_for(server.scope))
    monkeypatch.setenv("GIGACHAT_SCOPE", server.scope)
    (tmp_path / "requests.jsonl").write_text(
        '{"id": "a", "request": {"messages": [{"role": "user", "content": "hi"}]}}\n'
    )
    batch = run("create_batch", tmp_path / "requests.jsonl").json
    for _ in range(5):
        result = run("batch_results", batch["id"])
        if result.code == 0:
            break
    assert [line["id"] for line in result.lines] == ["a"]


def test_get_token(run, server):
    """The token is printed, and that it is a secret."""
    result = run("get_token")
    assert result.json["access_token"] and result.json["expires_at"]
    assert "secret" in result.err
    assert result.json["access_token"] not in result.err


# ---------- settings, errors, exit codes


def test_options_beat_variables(run, server, monkeypatch):
    """Settings are options before and after the command, and beat the variables."""
    monkeypatch.setenv("GIGACHAT_BASE_URL", "https://localhost:1/api/v1")
    monkeypatch.setenv("GIGACHAT_CA_BUNDLE_FILE", "/nonexistent")
    options = ["--ca-bundle-file", CERTS / "ca.pem", "--max-retries=1"]
    server.answer_next("/models", 500, {"status": 500, "message": "Internal Server Error"})
    result = run("--base-url", server.base_url, "get_models", *options, "--retry-backoff-factor", "0")
    assert result.code == 0, result.err
    assert len(requests_to(server, "/models")) == 2


def test_help(run, server):
    """--help lists the commands with what they do, and each setting, secrets as variables; so does -h."""
    result = run("--help")
    assert result == run("-h")
    assert (result.code, result.err, server.connections) == (0, "", 0)
    assert re.search(r"^  get_balance +Tell|^  get_balance +Return", result.out, re.MULTILINE)
    assert re.search(r"^  chat  +\w", result.out, re.MULTILINE)
    settings = set(inspect.signature(gigachat_lite.GigaChat).parameters) - {"unnamed", "unknown", "ssl_context"}
    secret = {"credentials", "access_token", "user", "password", "key_file_password"}
    expected = {f"GIGACHAT_{name.upper()}" if name in secret else f"--{name.replace('_', '-')}" for name in settings}
    assert set(re.findall(r"^  (--[a-z-]+|GIGACHAT_[A-Z_]+)  +\w", result.out, re.MULTILINE)) == expected


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("chat", ["gigachat-lite", "--system", "--file", "question"]),
        ("doctor", ["gigachat-lite", "clock"]),
        ("tokens-count", ["tokens_count(input_", "model: Optional[str] = None", "POST /tokens/count"]),
        ("threads.run_stream", ["threads.run_stream(thread_id", "StreamInterruptedError"]),
    ],
)
def test_help_of_a_command(run, server, command, shown):
    """COMMAND --help shows what it takes, without self, and its docstring."""
    result = run(command, "--help")
    assert (result.code, result.err, server.connections) == (0, "", 0)
    assert all(part in result.out for part in shown)
    assert "self" not in result.out


def test_no_verify(run):
    """--no-verify trusts any certificate and warns of it in one line."""
    assert run("get_models", "--ca-bundle-file", CERTS / "other-ca.pem").code == 1
    result = run("get_models", "--no-verify")
    assert result.code == 0
    assert result.err.startswith("gigachat-lite: verify_ssl_certs is off")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        *(["get_models", f"--{name}", "S3CR3T"] for name in ("credentials", "access-token", "user", "password")),
        ["get_models", "--key-file-password=S3CR3T"],
        ["get_models", "--access_token=S3CR3T"],
        ["--proxy", "http://me:S3CR3T@localhost:1", "get_models"],
        ["get_models", "--proxy=http://me:S3CR3T@localhost:1"],
    ],
)
def test_secrets_are_no_options(run, server, words):
    """A secret on the command line is refused, not shown, and the variable is named as the way."""
    result = run(*words)
    assert (result.code, result.out) == (2, "")
    assert "variable GIGACHAT_" in result.err
    assert "S3CR3T" not in result.err
    assert result.err.count("\n") == 1
    assert server.connections == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "COMMAND"),
        (["nosuch"], 2, "no command nosuch"),
        (["balance"], 2, "did you mean get_balance?"),
        (["assistant.get"], 2, "assistants.get"),
        (["close"], 2, "no command close"),
        (["token"], 2, "no command token"),
        (["--model"], 2, "--model needs a value"),
        (["chat", "--mod", "GigaChat", "hi"], 2, "no option --mod"),  # an abbreviation may mean another tomorrow
        (["chat", "-x", "hi"], 2, "no option -x"),
        (["get_models", "--file", "x"], 2, "get_models --help"),
        (["doctor", "chat"], 2, "doctor --help"),
        (["get_models", "--timeout", "soon"], 2, "GIGACHAT_TIMEOUT"),
        (["get_models", "--ca-bundle-file", "/nonexistent"], 2, "/nonexistent"),
        (["chat", "half a pair: \ud800"], 2, "surrogate"),
        (["get_models", "nosuch"], 2, "too many"),
        (["get_model"], 2, "missing a required argument: 'model'"),
        (["check_ai", "a text"], 2, "model"),
        (["tokens_count", "input_=5"], 2, "text"),
        (["validate_function", "text"], 2, "dict"),
        (["get_models", "--base-url", "https://[::1/v1"], 2, "brackets"),
        (["chat", "--model", "nosuch", "hi"], 1, "There is no model 'nosuch'"),
        (["get_models", "--base-url", "https://localhost:1/api/v1"], 1, "localhost:1"),
        (["get_models", "--ca-bundle-file", str(CERTS / "other-ca.pem")], 1, "gosuslugi"),
        (["download_file", "nosuch"], 1, "No such file"),
        (["chat", "--file", "/nonexistent/x", "hi"], 1, "/nonexistent/x: No such file"),
        (["upload_file", "/nonexistent/x"], 1, "/nonexistent/x: No such file"),
        (["get_balance", "--scope", "GIGACHAT_API_CORP"], 1, "scope"),
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
    for words in (["--access-tokn", "S3CR3T"], ["--access-tokn=S3CR3T"]):
        result = run("get_models", *words)
        assert (result.code, "--access-tokn" in result.err, "S3CR3T" in result.err) == (2, True, False)


def test_no_credentials(run, server, monkeypatch):
    """Missing credentials are told, with what to set."""
    monkeypatch.delenv("GIGACHAT_CREDENTIALS")
    result = run("chat", "hi")
    assert result.code in (1, 2)
    assert "GIGACHAT_CREDENTIALS" in result.err


def test_main_leaves_no_trace(run):
    """main() called by a program leaves its logging as it was and does not exit."""
    before = list(logging.getLogger("gigachat_lite").handlers)
    assert [run(word).code for word in ("--version", "--help", "nosuch")] == [0, 0, 2]
    assert logging.getLogger("gigachat_lite").handlers == before


# ---------- the process


def test_ways_to_start(environment, server, tmp_path):
    """It runs as script, module, vendored module and installed script, and calls itself by the name it has there."""
    vendored = tmp_path / "mypkg" / "_vendor"
    vendored.mkdir(parents=True)
    (vendored / "giga.py").write_bytes(Path(FILE).read_bytes())
    env = {"PYTHONPATH": os.pathsep.join([str(Path(FILE).parent), str(tmp_path)])}
    script = "import sys; from gigachat_lite import main; sys.exit(main())"
    ways = {
        "gigachat_lite.py": [FILE],
        "giga.py": [vendored / "giga.py"],
        "python -m gigachat_lite": ["-m", "gigachat_lite"],
        "python -m mypkg._vendor.giga": ["-m", "mypkg._vendor.giga"],
        "gigachat-lite": ["-c", script],
    }
    warned = [start("tokens_count", "--no-verify", "a b", way=way, env=env) for way in ways.values()]
    helped = [start("--help", way=way, env=env) for way in ways.values()]
    for name, process in zip(ways, warned):
        result = finish(process)
        assert (result.code, result.json[0]["tokens"], result.err.partition(": verify")[0]) == (0, 2, name)
    assert [finish(process).out.partition(" [")[0] for process in helped] == [f"usage: {name}" for name in ways]


@pytest.mark.parametrize("encoding", ["cp1251", "ascii"])
def test_encodings(environment, encoding):
    """What a narrow encoding lacks is not lost: an answer is UTF-8, JSON and errors have escapes."""
    env = {"PYTHONIOENCODING": encoding}
    runs = [["chat", "Привет 🙂"], ["chat", "--model", "Привет 🙂", "x"], ["stream", "Привет 🙂"]]
    processes = [start(*words, env=env, stdin=subprocess.DEVNULL) for words in runs]
    outputs = [process.communicate(timeout=SECONDS) for process in processes]
    text, error, chunks = outputs[0][0], outputs[1][1], outputs[2][0]
    assert "Привет 🙂" in text.decode("utf-8")
    assert r"\U0001f642" in error.decode(encoding)
    said = [json.loads(line)["choices"][0]["delta"]["content"] for line in chunks.decode(encoding).splitlines()]
    assert "Привет 🙂" in "".join(said)
    assert b"?" not in text + chunks
    assert [process.returncode for process in processes] == [0, 1, 0]
    assert b"Traceback" not in b"".join(err for _, err in outputs)


@pytest.mark.parametrize("words", [["embeddings", "a text"], ["--help"], ["stream", "hi"], ["download_file", "FILE"]])
def test_closed_pipe(environment, server, words):
    """A reader who has seen enough, as in `| head -1`, gets no complaint."""
    if "FILE" in words:
        with gigachat_lite.GigaChat() as client:
            words = [words[0], client.upload_file(("a.txt", b"a" * 1_000_000)).id]
    with start(*words, stdin=subprocess.DEVNULL) as process:
        if "--help" not in words:
            assert process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(SECONDS) == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["get_models"], ["chat", "hi"], ["--help"], ["doctor"]])
def test_full_disk(environment, words):
    """Output that cannot be written is an error of one line."""
    with open("/dev/full", "wb") as full:
        result = finish(start(*words, stdout=full))
    assert result.code == 1
    assert result.err == "python -m gigachat_lite: [Errno 28] No space left on device\n"


@pytest.mark.skipif(sys.platform == "win32", reason="closing descriptors in the child")
def test_closed_streams(environment):
    """Without stdout a file has nowhere to go; without stderr nothing meant for people gets into the answer."""
    processes = [
        start("download_file", "id", preexec_fn=lambda: os.close(1), stdout=None),
        start("get_token", preexec_fn=lambda: os.close(2), stderr=None),
        start("chat", "--model", "nosuch", "hi", preexec_fn=lambda: os.close(2), stderr=None),
        start("chat", preexec_fn=lambda: os.close(0), stdin=None),
    ]
    download, token, chat, nothing = map(finish, processes)
    assert (download.code, "to=FILE" in download.err) == (2, True)
    assert (token.code, "secret" in token.out) == (0, False)
    assert (chat.code, chat.out) == (1, "")
    assert nothing.code == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_errors_that_cannot_be_told(environment):
    """The exit code is right also where stderr takes nothing."""
    with open("/dev/full", "wb") as full:
        fails = start("chat", "--model", "nosuch", "hi", stderr=full)
        warns = start("get_models", env={"GIGACHAT_VERIFY_SSL_CERTS": "off"}, stderr=full)
        assert [finish(process).code for process in (fails, warns)] == [1, 0]


ASCII_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="arguments are Unicode there")
def test_words_that_the_locale_has_no_characters_for(environment, server, tmp_path):
    """In an ASCII locale arguments are taken for UTF-8, as what is piped in is."""
    result = finish(start("chat", "--system", "Кратко", "привет", env=ASCII_LOCALE))
    assert result.code == 0, result.err
    assert [message["content"] for message in chat_body(server)["messages"]] == ["Кратко", "привет"]
    assert "привет" in result.out


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
@pytest.mark.parametrize(
    "env", [{}, {"LC_ALL": "C"}, {**ASCII_LOCALE, "PYTHONIOENCODING": "ascii"}], ids=["", "C", "ascii"]
)
def test_typed_question(environment, server, env):
    """Without a prompt it asks for one, naming the keys, and sends what is typed, all of it, in any locale."""
    with Terminal("chat", env=env) as terminal:
        terminal.wait_for("Ctrl-D")
        terminal.wait_for("Ctrl-Z")
        terminal.type("привет,\nмир\n\x04")
        assert terminal.finish() == 0
    assert chat_body(server)["messages"] == [{"role": "user", "content": "привет,\nмир"}]


@needs_pty
@pytest.mark.parametrize("key", ["", "eDpTM0NSM1Q="], ids=["none", "wrong"])
def test_nobody_types_in_vain(environment, server, key):
    """A missing or wrong key is told before the question is typed."""
    with Terminal("chat", env={"GIGACHAT_CREDENTIALS": key}) as terminal:
        assert terminal.finish() in (1, 2)
    assert "GIGACHAT_CREDENTIALS" in terminal.seen
    assert "Ctrl-D" not in terminal.seen
    assert not requests_to(server, "/completions")


@needs_pty
def test_interrupted_typing(environment):
    """Ctrl-C while typing ends with 130 and no traceback."""
    with Terminal("chat") as terminal:
        terminal.wait_for("Ctrl-D")
        terminal.interrupt()
        assert terminal.finish() == 130
    assert "Traceback" not in terminal.seen


EVIL = "\x1b[31mred\x07 \x9b2J \u202edesrever \u2066x \rover \x08"


@needs_pty
def test_terminal_is_safe(environment, server):
    """Nothing of the server moves the cursor: neither an answer, a finish reason, JSON, nor an error."""
    evil = {"choices": [{"index": 0, "delta": {"content": EVIL}, "finish_reason": EVIL}]}
    runs = [
        ("chat", "/completions", 200, events(evil), "[31mred 2J desrever x over"),
        ("stream", "/completions", 200, events(evil), r"\u001b[31mred\u0007 \u009b2J \u202edesrever \u2066x \rover"),
        ("get_model", "/models/hi", 404, {"status": 404, "message": EVIL}, "[31mred"),
        ("doctor", "/models", 404, {"status": 404, "message": EVIL}, "[31mred"),
    ]
    with ExitStack() as stack:
        for _, path, status, body, _ in runs:
            kind = "text/event-stream" if isinstance(body, bytes) else "application/json"
            server.answer_next(path, status, body, {"Content-Type": kind})
        words = [[command] if command == "doctor" else [command, "hi"] for command, *_ in runs]
        terminals = [stack.enter_context(Terminal(*line)) for line in words]
        for terminal, (command, *_, shown) in zip(terminals, runs):
            terminal.finish()
            assert shown in terminal.seen, command
            assert not re.search("[\x07\x08\x1b\x9b\u202e\u2066]|\r(?!\n)", terminal.seen), command


@needs_pty
def test_bytes_are_not_for_a_terminal(environment, server):
    """A file's content does not reach the terminal unasked; nothing is fetched."""
    with Terminal("download_file", "id") as terminal:
        assert terminal.finish() == 2
    assert "to=FILE" in terminal.seen
    assert server.connections == 0


@needs_pty
def test_narrow_terminal(environment, server):
    """What the terminal's encoding lacks is spelt out."""
    with Terminal("chat", "привет", env={"PYTHONIOENCODING": "ascii"}) as terminal:
        assert terminal.finish() == 0
    assert r"\u043f\u0440\u0438\u0432\u0435\u0442" in terminal.seen


# ---------- doctor


class Finding(NamedTuple):
    mark: str
    step: str
    detail: str


def findings(result):
    """Read what doctor printed; lines that begin with blanks go on with the one before."""
    lines = re.sub(r"\n {6}", " ", result.out).splitlines()
    return [Finding(*re.match(r"(\S+) +(\w+) +[0-9.]+ ms  (.*)", line).groups()) for line in lines]


def steps(result):
    return {found.step: found.mark for found in findings(result)}


def failure(result):
    (found,) = [found for found in findings(result) if found.mark == "FAIL"]
    return found


STEPS = ["settings", "credentials", "proxy", "dns", "tcp", "tls", "clock", "token", "models", "chat"]


def test_doctor(run, server):
    """All is well with the local server: a line for each step, with what the server's certificate says; no secret."""
    result = run("doctor")
    assert (result.code, result.err) == (0, "")
    assert [found[:2] for found in findings(result)] == [("ok", step) for step in STEPS]
    tls = findings(result)[5].detail
    assert "subject CN=localhost, issuer CN=gigachat_lite TEST CA, expires 2124-01-01" in tls
    assert str(CERTS / "ca.pem") in tls
    assert "valid for 30 min" in result.out
    assert max(map(len, result.out.replace(str(CERTS), "").splitlines())) < 80
    assert not any(secret in result.out for secret in secrets_of(server))


def secrets_of(server):
    """Collect the credentials and every token that the server saw."""
    values = {request.headers.get("Authorization", "") for request in server.requests}
    return {value.split()[-1] for value in values if value}


def test_doctor_system_roots(run, monkeypatch):
    """Without a file of roots the system's are in use, here by SSL_CERT_FILE, and it says where they are."""
    monkeypatch.delenv("GIGACHAT_CA_BUNDLE_FILE")
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTS / "ca.pem"))
    result = run("doctor")
    assert result.code == 0
    assert f"system's roots in {CERTS / 'ca.pem'}" in findings(result)[5].detail


def test_doctor_untrusted(run):
    """A certificate that is not trusted: what the server sent, what we trust, and what to do."""
    result = run("doctor", "--ca-bundle-file", CERTS / "other-ca.pem")
    assert result.code == 1
    found = failure(result)
    assert found.step == "tls"
    assert "issuer CN=gigachat_lite TEST CA, expires 2124-01-01" in found.detail
    assert "other-ca.pem" in found.detail
    assert "gosuslugi.ru/crt" in found.detail
    assert [steps(result)[step] for step in ("token", "models", "chat")] == ["-"] * 3


@pytest.mark.parametrize(
    ("certificate", "reason", "sent", "advice"),
    [
        ("expired", "expired", "expires 2021-01-01", "Check the clock of this machine"),
        ("wronghost", "mismatch", "subject CN=", "Another server answers"),
    ],
)
def test_doctor_wrong_certificate(run, certificate, reason, sent, advice):
    """An expired certificate, and one of another host: what the server sent, and the advice for just that."""
    with LocalServer(tls=(str(CERTS / f"{certificate}.pem"), str(CERTS / f"{certificate}.key"))) as server:
        result = run("doctor", "--base-url", server.base_url, "--auth-url", server.auth_url)
    assert (result.code, failure(result).step) == (1, "tls")
    assert all(words in failure(result).detail for words in (reason, sent, advice))


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_doctor_trust_store_that_is_not_there(run, monkeypatch, name):
    """A variable that names no trust store is told of, where the system's is in use."""
    monkeypatch.setenv(name, "/nonexistent/x")
    assert name not in run("doctor").out
    monkeypatch.delenv("GIGACHAT_CA_BUNDLE_FILE")
    assert f"{name} names '/nonexistent/x', which is not there" in failure(run("doctor")).detail


def test_doctor_refused(run):
    """A port that nobody listens on fails at TCP; the token, which comes from another host, is still tried."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = run("doctor", "--base-url", f"https://localhost:{port}/api/v1")
    assert result.code == 1
    assert failure(result).step == "tcp"
    assert "firewall" in failure(result).detail
    assert (steps(result)["token"], steps(result)["models"]) == ("ok", "-")


def test_doctor_unknown_host(run, server):
    """A name that nobody knows fails at DNS, and nothing that needs the host is tried."""
    result = run("doctor", "--auth-url", "https://nosuch.invalid/api/v2/oauth")
    assert result.code == 1
    assert failure(result).step == "dns"
    assert "GIGACHAT_PROXY" in failure(result).detail
    assert steps(result)["token"] == "-"
    assert secrets_of(server) == set()


def test_doctor_wrong_credentials(run, monkeypatch, server):
    """A refused key fails at the token, with the advice of the client's own errors, and is not shown."""
    monkeypatch.setenv("GIGACHAT_CREDENTIALS", "eDpTM0NSM1Q=")
    result = run("doctor")
    assert result.code == 1
    assert failure(result).step == "token"
    assert "copy it anew" in failure(result).detail
    assert "eDpTM0NSM1Q=" not in result.out + result.err


def test_doctor_wrong_token(run, monkeypatch):
    """A refused access token is told of as such, not as a wrong base_url."""
    monkeypatch.delenv("GIGACHAT_CREDENTIALS")
    monkeypatch.setenv("GIGACHAT_ACCESS_TOKEN", "nonsense")
    result = run("doctor")
    assert (result.code, failure(result).step) == (1, "models")
    assert "token is wrong or has expired" in failure(result).detail


@pytest.mark.parametrize("status", [200, 403])
def test_doctor_page_at_the_token_endpoint(run, server, status):
    """A page in the place of a token is the fault of auth_url, not of base_url."""
    server.answer_next("/oauth", status, b"<html>Welcome</html>", {"Content-Type": "text/html"})
    result = run("doctor")
    assert failure(result).step == "token"
    assert "auth_url (GIGACHAT_AUTH_URL)" in failure(result).detail
    assert "base_url" not in failure(result).detail + failure(result).detail


def test_doctor_configuration(run, monkeypatch, server):
    """Missing credentials are told, and what the server says to that; with an unreadable file nothing is tried."""
    monkeypatch.delenv("GIGACHAT_CREDENTIALS")
    result = run("doctor")
    assert (result.code, failure(result).step, steps(result)["credentials"]) == (1, "models", "ok")
    assert "set credentials (GIGACHAT_CREDENTIALS)" in failure(result).detail
    assert "developers.sber.ru/studio" in findings(result)[1].detail
    result = run("doctor", "--ca-bundle-file", "/nonexistent")
    assert (result.code, steps(result)) == (1, {"settings": "FAIL"})
    assert "/nonexistent" in failure(result).detail


def test_doctor_chat(run):
    """A model that does not exist: the list says so, the chat fails with what to do."""
    result = run("doctor", "--model", "nosuch")
    assert result.code == 1
    assert "nosuch is not among them" in findings(result)[-2].detail
    assert failure(result).step == "chat"
    assert "There is no model 'nosuch'" in failure(result).detail


def date_server(minutes):
    """Make a handler of an API whose clock differs."""

    def handler(wire):
        date = email.utils.formatdate(time.time() + minutes * 60, usegmt=True)
        while wire.receive() is not None:
            wire.send(f"HTTP/1.1 404 Not Found\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode())

    return handler


@pytest.mark.parametrize(
    ("minutes", "mark", "said"),
    [(-1440, "FAIL", "1440 min ahead"), (60, "FAIL", "60 min behind"), (2, "ok", "agrees"), (-2, "ok", "agrees")],
)
def test_doctor_clock(run, monkeypatch, minutes, mark, said):
    """A clock that is off by more than some minutes fails, by the server's Date, whatever it answers."""
    monkeypatch.setenv("GIGACHAT_ACCESS_TOKEN", "token")
    monkeypatch.delenv("GIGACHAT_CREDENTIALS")
    with RawServer(date_server(minutes)) as server:
        result = run("doctor", "--base-url", server.base_url)
    assert steps(result)["clock"] == mark
    assert said in next(found.detail for found in findings(result) if found.step == "clock")


def test_doctor_no_clock(run, monkeypatch):
    """A server that tells no time, or does not answer to strangers, is no fault of the clock."""
    monkeypatch.setenv("GIGACHAT_ACCESS_TOKEN", "token")
    monkeypatch.delenv("GIGACHAT_CREDENTIALS")
    for handler in (lambda wire: wire.receive(), lambda wire: wire.receive() and wire.send(answer({}))):
        with RawServer(handler) as server:
            result = run("doctor", "--base-url", server.base_url)
        assert steps(result)["clock"] == "ok"
        assert "does not tell" in result.out


def refuse(status, *fields):
    """Make a handler of a proxy that opens no tunnel."""

    def handler(wire):
        if wire.receive() is not None:
            wire.send("\r\n".join([f"HTTP/1.1 {status}", *fields, "Content-Length: 0", "", ""]).encode())

    return handler


def test_doctor_proxy(run, monkeypatch):
    """A proxy that wants another password: what it asked for and how to write one; nobody else sees the password."""
    asked = ("Proxy-Authenticate: Negotiate", 'Proxy-Authenticate: Basic realm="corp"')
    with RawServer(refuse("407 Proxy Authentication Required", *asked)) as proxy:
        monkeypatch.setenv("GIGACHAT_PROXY", f"http://me:S3CR3T@localhost:{proxy.port}")
        result = run("doctor")
    assert result.code == 1
    assert failure(result).step == "proxy"
    for words in ("407", 'Negotiate, Basic realm="corp"', "GIGACHAT_PROXY", "http://user:password@host:port", "%40"):
        assert words in failure(result).detail
    assert {request.headers["proxy-authorization"] for request in proxy.requests} == {"Basic bWU6UzNDUjNU"}
    assert "S3CR3T" not in result.out + result.err


def test_doctor_proxy_that_forbids(run, monkeypatch):
    """A proxy that refuses for another reason fails as the proxy, without words about passwords."""
    with RawServer(refuse("403 Forbidden")) as proxy:
        monkeypatch.setenv("GIGACHAT_PROXY", f"http://localhost:{proxy.port}")
        result = run("doctor")
    assert (failure(result).step, "403" in failure(result).detail, "Basic" in result.out) == ("proxy", True, False)


@pytest.mark.parametrize(
    ("variable", "words", "source"),
    [
        ("GIGACHAT_PROXY", [], "GIGACHAT_PROXY"),
        ("HTTPS_PROXY", [], "HTTPS_PROXY"),
        ("https_proxy", [], "https_proxy"),
        ("ALL_PROXY", [], "ALL_PROXY"),
        ("GIGACHAT_PROXY", ["--proxy", "http://localhost:1"], "--proxy"),
    ],
)
def test_doctor_tells_where_a_proxy_comes_from(run, monkeypatch, variable, words, source):
    """The variable or option that a proxy comes from is named."""
    monkeypatch.setenv(variable, "http://localhost:1")
    result = run("doctor", *words)
    assert findings(result)[2].detail.endswith(f": localhost:1, from {source}")
    assert failure(result).detail.endswith("Check the proxy localhost:1")


def test_doctor_proxy_of_another_kind(run, monkeypatch, server):
    """A proxy that cannot be used fails at the proxy, with its variable and without its password; nothing is sent."""
    monkeypatch.setenv("ALL_PROXY", "socks5://me:S3CR3T@localhost:1")
    result = run("doctor")
    assert (result.code, {found.step for found in findings(result) if found.mark == "FAIL"}) == (1, {"proxy"})
    assert "ALL_PROXY" in result.out and "SOCKS" in result.out and "S3CR3T" not in result.out
    assert steps(result)["token"] == "-" and server.connections == 0


@pytest.mark.parametrize(
    ("answers", "code", "said"),
    [
        ("old", 0, "keep base_url: {today} does not work"),
        ("today", 1, "{today} works: set GIGACHAT_BASE_URL to it"),
        ("both", 0, "{today} works: set GIGACHAT_BASE_URL to it"),
        ("none", 1, "no help: {today} does not work"),
    ],
)
def test_doctor_address(run, monkeypatch, server, answers, code, said):
    """Where base_url is the default, today's address is tried too, and the right one of the two is named."""
    today = server.base_url if answers in ("today", "both") else "https://localhost:1/v1"
    default = server.base_url if answers in ("old", "both") else "https://localhost:1/api/v1"
    monkeypatch.delenv("GIGACHAT_BASE_URL")
    monkeypatch.setattr(gigachat_lite, "_TODAYS_URL", today)
    setting = gigachat_lite._SETTINGS["base_url"]._replace(default=default)
    monkeypatch.setitem(gigachat_lite._SETTINGS, "base_url", setting)
    result = run("doctor")
    assert (result.code, steps(result)["address"]) == (code, "ok")
    assert said.format(today=today) in next(found.detail for found in findings(result) if found.step == "address")


def test_doctor_no_proxy(run, monkeypatch):
    """A proxy that is not used for the host is not told of."""
    monkeypatch.setenv("HTTPS_PROXY", "http://localhost:1")
    monkeypatch.setenv("NO_PROXY", "localhost")
    result = run("doctor")
    assert result.code == 0
    assert findings(result)[2].detail.endswith(": none")


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("proxy", "step"), [("http://localhost:1", "tcp"), ("http://nosuch.invalid:3128", "dns")])
def test_doctor_proxy_out_of_reach(run, monkeypatch, proxy, step, scheme):
    """Where it is the proxy that cannot be reached, the advice is about the proxy."""
    monkeypatch.setenv("GIGACHAT_PROXY", proxy)
    monkeypatch.setenv("GIGACHAT_ACCESS_TOKEN", "token")
    monkeypatch.delenv("GIGACHAT_CREDENTIALS")
    result = run("doctor", "--base-url", f"{scheme}://api.invalid/v1")
    assert failure(result).step == step
    assert "Check the proxy" in failure(result).detail


def test_doctor_without_tls(run, monkeypatch):
    """Plain http works and is said to be not encrypted; an access token needs no other host."""
    with LocalServer() as server:
        monkeypatch.setenv("GIGACHAT_ACCESS_TOKEN", server.issue_token())
        monkeypatch.delenv("GIGACHAT_CREDENTIALS")
        result = run("doctor", "--base-url", server.base_url)
        assert result.code == 0
        assert "tls" not in steps(result)
        assert "not encrypted" in findings(result)[0].detail
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
