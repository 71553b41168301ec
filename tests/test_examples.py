"""Every program of examples/ does what it says, in a process of its own, against the local server."""

import base64
import concurrent.futures
import importlib.util
import json
import multiprocessing
import os
import re
import signal
import ssl
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import embed_corpus
import pytest
from conftest import CA, CERTS, MODULE, ROOT, output_of, run_python
from faults import SERVER_TLS
from local_server import LocalServer

from gigachat_lite import PaymentRequiredError

EXAMPLES = ROOT / "examples"
CORP = "GIGACHAT_API_CORP"
# Program: the scope that it needs, and what its output must hold.
TELLING = {
    "chat.py": (
        "",
        [r"Вы написали: «Привет! Кто ты\?»", r'began with the question "Who wrote', r"took \d+ tokens.*'stop'"],
    ),
    "streaming.py": (
        "",
        [r"poem about programming[^\n]*to the point\.\n\(\d+ tokens\)", r"one hundred.*\.\.\. enough\."],
    ),
    "async_chat.py": ("", [r'> What is a thread\?\nYou wrote: "What is a thread\?"', r"Tell me a joke.*to the point"]),
    "functions.py": ("", [r'called get_weather\(\{.*\nit gives \{"city"', r'returned \{"city": .*Tokyo\?']),
    "typed_answer.py": ("", [r"How do I make pancakes\? \(easy\), \d+ minutes\n1\. "]),
    "context_variables.py": (
        "",
        [f"{user}: the server calls this request request-of-{user}" for user in ("ann", "vera")],
    ),
    "ai_detection.py": (CORP, [r"mixed: \d+ characters", r"to \d+: As a language model.*well-being\.\n\Z"]),
    "chat_v2.py": (
        "",
        [r"response\.message\.done: stop", r"\[1\] .* https?://", r"sources=\[1, 2\]", r"picture \S+ has \d+ bytes"],
    ),
    "vision.py": ("", [r"cat\.jpg: \d+ bytes, stored as", r"Attached file cat\.jpg \(image/jpeg"]),
    "files.py": ("", [r"\d+ bytes  story\.txt", r'It begins: "In a hole', r"copy is the same: True\nDeleted: True"]),
    "embeddings.py": ("", [r"1024 dimensions\)\n0\.\d\d  What to do when you have lost your library card"]),
    "tokens.py": (
        "",
        [r"9 tokens, 41 characters: Explain", r"The request took 9 tokens", r"GigaChat: \d+ tokens left"],
    ),
    "assistants_and_threads.py": (
        "",
        [r'My role: "You are a librarian', r"began with.*Dead Souls", r"user: When\?\nassistant: "],
    ),
    "batches.py": (CORP, [r"3 requests handed in\. Look later: .*batches\.py \S+\n\Z"]),
}
SECONDS = 60  # after which something is taken to hang
needs_signals = pytest.mark.skipif(os.name == "nt", reason="there are no signals")
NOT_RUN_HERE = {"embed_corpus.py", "lambda_handler.py", "lambda_layer.py", "local_server.py", "quickstart.py"}


def run(program, *arguments, **environment):
    """Run a program of examples/ with these variables and no others; give its output."""
    return output_of(EXAMPLES / program, *arguments, **{"PYTHONPATH": "", **environment})


@pytest.fixture
def served(request):
    """Give the environment that leads a program to a local server of the scope that the test was given."""
    scope = getattr(request, "param", "") or "GIGACHAT_API_PERS"
    with LocalServer(tls=SERVER_TLS, scope=scope) as server:
        yield {**server.environment(), "PYTHONPATH": str(MODULE.parent), "PYTHONIOENCODING": "utf-8"}


def test_every_example_is_run():
    """No program of examples/ is left out here."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(TELLING) | NOT_RUN_HERE


@pytest.mark.parametrize("program", list(TELLING))
def test_example_is_short_and_needs_nothing(program):
    """An example has 10 to 30 lines and imports nothing but the standard library and gigachat_lite."""
    text = (EXAMPLES / program).read_text(encoding="utf-8")
    imported = re.findall(r"^\s*(?:import|from) (\w+)", text, re.MULTILINE)
    assert 10 <= len(text.splitlines()) <= 30
    assert set(imported) <= {"gigachat_lite", "asyncio", "dataclasses", "json", "pathlib", "sys", "tempfile", "typing"}


@pytest.mark.parametrize(
    ("program", "served", "telling"),
    [(name, *rest) for name, rest in TELLING.items()],
    indirect=["served"],
    ids=list(TELLING),
)
def test_example(program, served, telling):
    """An example, unchanged, runs with the variables that the local server names, and prints what it is about."""
    output = run(program, **served)
    for pattern in telling:
        assert re.search(pattern, output), output


@pytest.mark.parametrize("served", [CORP], indirect=True)
def test_batch_is_looked_at_until_it_is_completed(served):
    """batches.py, given the id that it printed, tells the state of the batch, and at the end the answers."""
    batch_id = run("batches.py", **served).split()[-1]
    assert run("batches.py", batch_id, **served) == f"{batch_id} is in_progress\n"
    output = run("batches.py", batch_id, **served)
    assert output.startswith(f"{batch_id} is completed\n")
    assert 'What is a verb? You wrote: "What is a verb?"' in output


def test_vision_of_a_given_picture(served, tmp_path):
    """vision.py uploads the picture whose path it is given."""
    picture = tmp_path / "кот.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    assert "Attached file кот.png (image/png, 8 bytes)" in run("vision.py", str(picture), **served)


def test_quickstart_on_a_fresh_machine():
    """Without any variable the quick start says that it uses the local server, and shows its three conversations."""
    output = run("quickstart.py", "Как дела?", PYTHONIOENCODING="utf-8")
    assert "This talks to a local server, since none of GIGACHAT_CREDENTIALS, " in output
    assert re.search(r" is set: GigaChat\(base_url='https://localhost:\d+/api/v1'", output)
    for call in ("client.chat(", "client.stream(", "await client.achat("):
        assert re.search(
            rf"--- {re.escape(call)}'Как дела\?'\)\nВы написали: «Как дела\?»[^\n]*по существу\.\n", output
        )


@pytest.mark.parametrize(
    "locale", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}], ids=["ascii", "C"]
)
def test_quickstart_on_a_terminal_without_cyrillic(locale):
    """Where the terminal knows no Cyrillic the quick start prints replacements instead of failing."""
    output = run("quickstart.py", "Как дела?", PYTHONIOENCODING="ascii", **locale)
    assert re.search(r"--- await client.achat\('\?{3} \?{4}\?'\)\n\?", output)


def test_quickstart_ignores_the_proxy_for_the_local_server():
    """A proxy of the machine does not come between the quick start and its own server."""
    assert "to the point." in run("quickstart.py", HTTPS_PROXY="http://127.0.0.1:1", PYTHONIOENCODING="utf-8")


def test_quickstart_is_short():
    """The first program that a newcomer opens has at most 40 lines."""
    assert len((EXAMPLES / "quickstart.py").read_text(encoding="utf-8").splitlines()) <= 40


@needs_signals
def test_quickstart_is_interrupted():
    """Ctrl-C ends the quick start without a word."""
    with LocalServer(tls=SERVER_TLS) as server:
        server.delay = 10 * SECONDS
        process = start(server, program="quickstart.py", stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        process.stdout.readline()  # what it talks to
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=SECONDS)[1] == b""
    assert process.returncode == 130


def test_quickstart_with_user_and_password(server):
    """A user name counts as a way to log in."""
    variables = {**server.environment(), "GIGACHAT_USER": server.user, "GIGACHAT_PASSWORD": server.password}
    del variables["GIGACHAT_CREDENTIALS"]
    output = run("quickstart.py", PYTHONIOENCODING="utf-8", **variables)
    assert server.base_url in output
    assert "This talks to GigaChat: " in output


def test_quickstart_with_credentials(served):
    """With credentials the quick start talks to the service that the variables name."""
    output = run("quickstart.py", **{**served, "GIGACHAT_MODEL": "GigaChat-2-Max"})
    assert f"This talks to GigaChat: GigaChat(base_url='{served['GIGACHAT_BASE_URL']}'" in output
    assert "GigaChat-2-Max:" in output


def test_quickstart_shows_an_error_in_one_line(served):
    """What goes wrong is one line on stderr and exit code 1."""
    done = run_python(EXAMPLES / "quickstart.py", **{**served, "GIGACHAT_SCOPE": "GIGACHAT_API_B2B"})
    assert done.returncode == 1
    assert re.match(r"BadRequestError: 400 POST /api/v2/oauth: .*GIGACHAT_API_CORP[^\n]*\n\Z", done.stderr)


# ---------- embed_corpus.py


@pytest.fixture(autouse=True)
def forget_clients():
    """Leave no client for the next test."""
    yield
    embed_corpus.clients.clear()


@pytest.fixture
def text(tmp_path):
    """Give the path of a text of 100 lines; every seventh is empty."""
    lines = [f"line {number}, строка" if number % 7 else " " for number in range(1, 101)]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def result(tmp_path):
    return tmp_path / "result.jsonl"


def embed(client, text, result, **options):
    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        embed_corpus.embed_corpus(client, str(text), str(result), executor, **{"batch_size": 4, **options})


def start(server, *arguments, program="embed_corpus.py", **streams):
    """Start a program with the variables of the local server and no others."""
    kept = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-u", "-B", "-W", "error", str(EXAMPLES / program), *map(str, arguments)],
        env={**kept, **server.environment(), "PYTHONPATH": str(MODULE.parent)},
        **streams,
    )


def wait_for_growth(result, size):
    deadline = time.monotonic() + SECONDS
    while not result.exists() or result.stat().st_size <= size:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read(result):
    return [json.loads(line) for line in result.read_text(encoding="utf-8").splitlines()]


def test_every_line_has_its_vector(client, text, result):
    """Lines come in the order of the text, numbered as there, each with its own vector; empty ones have none."""
    embed(client, text, result)
    wanted = [number for number in range(1, 101) if number % 7]
    assert [line["line"] for line in read(result)] == wanted
    for line in read(result)[::20]:
        assert line["embedding"] == client.embeddings(f"line {line['line']}, строка").data[0].embedding


def test_requests_hold_as_many_lines_as_told(client, server, text, result):
    """86 lines in batches of 10 are 9 requests, on one client: one token for all threads."""
    embed(client, text, result, batch_size=10)
    sent = [
        len(json.loads(request.body)["input"]) for request in server.requests if request.path.endswith("/embeddings")
    ]
    assert sorted(sent) == [6] + [10] * 8
    assert len(server.requests) == 10


def test_line_ends_and_byte_order_mark(client, server, tmp_path, result):
    """What ends a line in Windows, and the mark that its editors begin a file with, are no text."""
    (tmp_path / "text.txt").write_bytes("\ufeffодин\r\nдва\u2028дваже\r\n".encode())
    embed(client, tmp_path / "text.txt", result)
    assert json.loads(server.requests[-1].body)["input"] == ["один", "два\u2028дваже"]


def test_empty_text(client, server, tmp_path, result):
    """A text without lines has a result without lines, and costs nothing."""
    (tmp_path / "text.txt").write_bytes(b"\n\n")
    embed(client, tmp_path / "text.txt", result)
    assert result.read_bytes() == b""
    assert not server.requests


def test_cut_anywhere_and_resumed(client, text, result):
    """A result that was cut at any byte becomes, byte for byte, what it would have been."""
    text.write_text("one\n\ntwo\nthree\n", encoding="utf-8")
    embed(client, text, result)
    whole = result.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    cuts = {0, 1, 5, 9, 10, 100, len(whole)} | {end + step for end in ends[:-1] for step in (-1, 0, 1, 20)}
    for cut in sorted(cuts):
        result.write_bytes(whole[:cut])
        embed(client, text, result)
        assert result.read_bytes() == whole, cut


def test_finished_result_costs_nothing(client, server, text, result):
    """Run again after the end, it sends nothing; when the text has grown, the new lines only."""
    embed(client, text, result)
    sent = len(server.requests)
    embed(client, text, result)
    assert len(server.requests) == sent
    with open(text, "a", encoding="utf-8") as file:
        file.write("\none more")
    embed(client, text, result)
    assert json.loads(server.requests[-1].body)["input"] == ["one more"]
    assert len(server.requests) == sent + 1
    assert read(result)[-1]["line"] == 101


@needs_signals
def test_killed_and_started_again(client, server, text, result, tmp_path):
    """Killed with SIGKILL several times while it works, it ends with the result of an undisturbed run."""
    embed(client, text, tmp_path / "undisturbed")
    server.delay = 0.05
    for _ in range(3):
        size = result.stat().st_size if result.exists() else 0
        process = start(server, text, result, "--batch-size", 4, "--at-once", 1)
        wait_for_growth(result, size)
        process.kill()
        assert process.wait(SECONDS) == -signal.SIGKILL
    assert 0 < result.stat().st_size < (tmp_path / "undisturbed").stat().st_size
    server.delay = 0
    assert start(server, text, result).wait(SECONDS) == 0
    assert result.read_bytes() == (tmp_path / "undisturbed").read_bytes()


@needs_signals
def test_interrupted(server, text, result):
    """Ctrl-C ends it at once, with 130 and no word, though requests are under way."""
    process = start(server, text, result, "--batch-size", 4, "--at-once", 2, stderr=subprocess.PIPE)
    wait_for_growth(result, 0)
    server.delay = 10 * SECONDS
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=SECONDS)[1] == b""
    assert process.returncode == 130


def test_line_that_is_too_long(client, server, tmp_path, result):
    """A line that the model does not take is noted with the reason; the others of its batch are embedded."""
    (tmp_path / "text.txt").write_text("one\ntwo\nthree\nfour\n", encoding="utf-8")
    # Of all four, of the first two, of the first.
    server.answer_next("/embeddings", 413, {"status": 413, "message": "Tokens limit exceeded"}, times=3)
    embed(client, tmp_path / "text.txt", result)
    first, *others = read(result)
    assert first["line"] == 1
    assert "Tokens limit exceeded" in first["error"]
    assert [(line["line"], len(line["embedding"])) for line in others] == [(2, 1024), (3, 1024), (4, 1024)]


@pytest.mark.parametrize(
    ("content", "telling"),
    [
        (b'{"line": 3, "embedding": []}\n', "result.jsonl.source, which says of what, is missing"),
        (b"something\n", "holds something else"),
        (b'{"line": "3", "embedding": []}\n', "holds something else"),
        (b'{"line": null}\n', "holds something else"),
        (b"something", "holds something else"),
        (b'{"line": 1, "embedding": []}\nsomething', "holds something else"),
    ],
)
def test_result_of_something_else(client, server, text, result, content, telling):
    """A result that is not of this text, or no result, is refused and stays as it is."""
    result.write_bytes(content)
    with pytest.raises(ValueError, match=telling):
        embed(client, text, result)
    assert result.read_bytes() == content
    assert not server.requests


@pytest.mark.parametrize(
    ("edit", "telling"),
    [
        (lambda lines: ["another"] + lines[1:], "line 1 of .* is not what it was"),
        (lambda lines: lines[:8] + lines[9:], "line 9 of .* is not what it was"),  # deleted
        (lambda lines: ["", *lines], "line 2 of .* is not what it was"),  # moved
        (lambda lines: lines[:10], "ends at line 10, the result at 13"),
    ],
    ids=["edited", "deleted", "moved", "cut"],
)
def test_result_of_another_text(client, server, text, result, edit, telling):
    """A text that was changed where it is embedded already is refused, and the result stays as it is."""
    lines = text.read_text(encoding="utf-8").split("\n")
    text.write_text("\n".join(lines[:13]), encoding="utf-8")
    embed(client, text, result)
    before, sent = result.read_bytes(), len(server.requests)
    text.write_text("\n".join(edit(lines[:13])), encoding="utf-8")
    with pytest.raises(ValueError, match=telling):
        embed(client, text, result)
    assert (result.read_bytes(), len(server.requests)) == (before, sent)
    text.write_text("\n".join(lines[:13] + ["what comes behind may change"]), encoding="utf-8")
    embed(client, text, result)
    assert [line["line"] for line in read(result)[-2:]] == [13, 14]


def test_result_of_another_model(client, server, text, result):
    """Vectors of two models do not mix."""
    embed(client, text, result)
    before, sent = result.read_bytes(), len(server.requests)
    with pytest.raises(ValueError, match="is of model Embeddings, not of model EmbeddingsGigaR"):
        embed(client, text, result, model="EmbeddingsGigaR")
    assert (result.read_bytes(), len(server.requests)) == (before, sent)


def test_says_where_it_goes_on(client, text, result, capsys):
    """A run that goes on says behind which line."""
    embed(client, text, result)
    assert capsys.readouterr().err == ""
    embed(client, text, result)
    assert capsys.readouterr().err == f"{result} goes up to line 100 already: going on from there\n"


def test_line_that_is_no_utf8(server, tmp_path, result):
    """A line that is no UTF-8 is noted with the reason; the others are embedded, and the end tells how many failed."""
    (tmp_path / "text.txt").write_bytes(b"one\n\xff\nthree\n\xfe\n")
    process = start(server, tmp_path / "text.txt", result, stderr=subprocess.PIPE)
    errors = process.communicate(timeout=SECONDS)[1].decode()
    assert process.returncode == 1
    assert errors.splitlines() == [f"embed_corpus: 2 lines failed: {result} tells why"]
    (tmp_path / "text.txt").write_bytes(b"\xff")
    errors = start(server, tmp_path / "text.txt", f"{result}2", stderr=subprocess.PIPE).communicate(timeout=SECONDS)[1]
    assert errors.startswith(b"embed_corpus: 1 line failed: ")
    one, two, three, four = read(result)
    assert "0xff" in two["error"] and "0xfe" in four["error"]
    assert (one["line"], len(one["embedding"]), three["line"], len(three["embedding"])) == (1, 1024, 3, 1024)


@needs_signals
def test_two_runs_at_once(client, text, result):
    """A result that another run is writing is left to it."""
    import fcntl

    with open(result, "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another run"):
            embed(client, text, result)
    embed(client, text, result)
    assert len(read(result)) == 86


@pytest.mark.skipif(importlib.util.find_spec("distributed") is not None, reason="Dask distributed is installed")
def test_dask_that_is_not_installed(server, text, result):
    """Where Dask is missing, one line says so."""
    process = start(server, text, result, "--dask", "tcp://localhost:1", stderr=subprocess.PIPE)
    assert process.communicate(timeout=SECONDS)[1] == b"embed_corpus: No module named 'distributed'\n"
    assert process.returncode == 1


def test_batch_of_nothing(client, text, result):
    """A batch size of 0 does not pass for a text without lines."""
    with pytest.raises(ValueError, match="one line or more"):
        embed(client, text, result, batch_size=0)


def test_error_of_the_service(server, text, result):
    """What the service refuses is one line on stderr and exit code 1; what was written before is whole."""
    server.answer_next("/embeddings", 402, {"status": 402, "message": "Payment Required"}, times=None)
    process = start(server, text, result, stderr=subprocess.PIPE)
    errors = process.communicate(timeout=SECONDS)[1].decode()
    assert process.returncode == 1
    assert errors.startswith("embed_corpus: 402 ")
    assert errors.count("\n") == 1


def test_what_waits_is_given_up_after_an_error(client, server, text, result):
    """When a batch fails, those that no worker has begun are not sent."""
    server.answer_next("/embeddings", 402, {"status": 402, "message": "Payment Required"})
    server.delay = 0.05
    with concurrent.futures.ThreadPoolExecutor(1) as executor, pytest.raises(PaymentRequiredError):
        embed_corpus.embed_corpus(client, str(text), str(result), executor, batch_size=4)
    assert len(server.requests) < 10  # of 17: the token and twice at_once


@needs_signals
def test_progress_on_a_terminal(server, text, result):
    """A terminal sees a bar, which ends full, with the rate and the time left."""
    import pty

    master, slave = pty.openpty()
    process = start(server, text, result, stderr=slave)
    os.close(slave)
    seen = b""
    try:
        while not seen.endswith(b"\n"):
            seen += os.read(master, 1000)
    finally:
        os.close(master)
    assert process.wait(SECONDS) == 0
    assert re.search(rb"\r\[#{40}\] 100%, line 100, [\d,]+ a second, 0:00:00 left *\r\n\Z", seen)


def test_memory_does_not_grow_with_the_text(client, text, result):
    """While the first batch is not answered, no more than twice as many as asked for are handed in."""

    class Executor(concurrent.futures.Executor):
        def __init__(self):
            self.waiting = self.most = 0

        def submit(self, work, *arguments):
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            return Answer(self, work(*arguments))

    class Answer:
        def __init__(self, executor, value):
            self.executor, self.value = executor, value

        def result(self):
            self.executor.waiting -= 1
            return self.value

    executor = Executor()
    embed_corpus.embed_corpus(client, str(text), str(result), executor, at_once=3, batch_size=4)
    assert (executor.most, executor.waiting) == (6, 0)
    assert read(result)[-1]["line"] == 100


def test_processes(client, server, text, result):
    """On processes the client travels by pickle, and each process keeps one: one token for each."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        embed_corpus.embed_corpus(client, str(text), str(result), executor, batch_size=4)
    assert len(read(result)) == 86
    assert 1 <= len([request for request in server.requests if request.path.endswith("/oauth")]) <= 2


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="Dask distributed is not installed")
def test_dask(client, server, text, result, tmp_path):
    """On Dask workers that know nothing of gigachat_lite, killed and started again, the result is the same."""
    embed(client, text, tmp_path / "undisturbed")
    server.reset()
    server.delay = 0.05
    address_file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    bare = {"PATH": os.environ.get("PATH", "")}
    options = {"cwd": str(tmp_path), "env": bare, "stderr": subprocess.DEVNULL}
    cluster = [
        [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", address_file],
        [*dask, "worker", "--scheduler-file", address_file, "--nworkers", "2", "--nthreads", "2", "--no-dashboard"],
    ]
    processes = [subprocess.Popen([str(part) for part in command], **options) for command in cluster]
    try:
        wait_for_growth(address_file, 0)
        address = json.loads(address_file.read_text(encoding="utf-8"))["address"]
        arguments = (text, result, "--batch-size", 4, "--at-once", 1, "--dask", address)
        process = start(server, *arguments)
        wait_for_growth(result, 0)
        process.kill()
        process.wait(SECONDS)
        assert result.stat().st_size < (tmp_path / "undisturbed").stat().st_size
        assert start(server, *arguments).wait(SECONDS) == 0
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(SECONDS)
    assert result.read_bytes() == (tmp_path / "undisturbed").read_bytes()
    assert {request.headers["User-Agent"].split("/")[0] for request in server.requests} == {"gigachat_lite"}
    assert len([request for request in server.requests if request.path.endswith("/oauth")]) <= 2 * 2


# ---------- lambda_layer.py and lambda_handler.py

# What the runtime does: imports the handler, then calls it for one event after another.
RUNTIME = """
import json, sys, time
started = time.perf_counter()
import lambda_handler
imported = time.perf_counter()
times, answers = [], []
for event in ({"question": "one"}, {"question": "two"}, {"question": "three", "stream": True}):
    before = time.perf_counter()
    answers.append(lambda_handler.handler(event, None))
    times.append((time.perf_counter() - before) * 1000)
print(json.dumps({
    "answers": answers,
    "file": sys.modules["gigachat_lite"].__file__,
    "import": (imported - started) * 1000, "times": times,
    "cached": sys.modules["gigachat_lite"].__cached__,
}))
"""


MAKE = (EXAMPLES / "lambda_layer.py", "--module", MODULE)


def make(layer, *options):
    output_of(*MAKE, *options, layer)
    return layer.read_bytes()


@pytest.fixture
def opt(tmp_path):
    """Give the directory that layers are unpacked to; at the end it can be written to, and deleted, again."""
    yield tmp_path / "opt"
    for path in [tmp_path / "opt", *(tmp_path / "opt").rglob("*")]:
        path.chmod(0o755)


@pytest.mark.parametrize("bytecode", [False, True], ids=["source", "bytecode"])
def test_layer_is_reproducible(bytecode, tmp_path):
    """Made twice, in processes with different hash seeds from files of different age, the layer has the same bytes."""
    options = ["--ca", CA, *(["--python", sys.executable] if bytecode else [])]
    first = make(tmp_path / "first.zip", *options)
    copy = tmp_path / "gigachat_lite.py"
    copy.write_bytes(MODULE.read_bytes())
    os.utime(str(copy), (0, 1_000_000_000))
    assert make(tmp_path / "second.zip", *options, "--module", str(copy)) == first


def test_layer_holds_the_file_as_it_is(tmp_path):
    """The layer holds the module, the certificates, and nothing else; everybody may read them."""
    make(tmp_path / "layer.zip", "--ca", CA)
    with zipfile.ZipFile(str(tmp_path / "layer.zip")) as layer:
        assert layer.namelist() == ["python/ca.pem", "python/gigachat_lite.py"]
        assert layer.read("python/gigachat_lite.py") == MODULE.read_bytes()
        assert layer.read("python/ca.pem") == (CERTS / "ca.pem").read_bytes()
        assert {stat.filemode(entry.external_attr >> 16) for entry in layer.infolist()} == {"-rw-r--r--"}


@pytest.mark.parametrize("bytecode", [False, True], ids=["source", "bytecode"])
def test_handler_runs_from_the_layer(bytecode, opt, tmp_path):
    """The handler, with the read-only layer on its path and four variables, chats and streams over one connection."""
    make(tmp_path / "layer.zip", "--ca", CA, *(["--python", sys.executable] if bytecode else []))
    with zipfile.ZipFile(str(tmp_path / "layer.zip")) as layer:
        layer.extractall(str(opt))
    for path in sorted(opt.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted(opt.rglob("*"))
    task = tmp_path / "task"
    task.mkdir()
    (task / "lambda_handler.py").write_bytes((EXAMPLES / "lambda_handler.py").read_bytes())
    with LocalServer(tls=SERVER_TLS) as server:
        variables = {**server.environment(), "GIGACHAT_CA_BUNDLE_FILE": str(opt / "python" / "ca.pem")}
        variables["PYTHONPATH"] = os.pathsep.join([str(task), str(opt / "python")])
        output = output_of("-S", "-c", RUNTIME, cwd=task, **variables)
        requests = [request.path for request in server.requests]
    told = json.loads(output)
    print(
        "{}: import {:.0f} ms, cold call {:.1f} ms, warm call {:.1f} ms, stream {:.1f} ms".format(
            "bytecode" if bytecode else "source", told["import"], *told["times"]
        )
    )
    assert [sorted(answer) for answer in told["answers"]] == [["answer", "tokens"]] * 3
    assert [word in answer["answer"] for word, answer in zip(("one", "two", "three"), told["answers"])] == [True] * 3
    assert requests == ["/api/v2/oauth"] + ["/api/v1/chat/completions"] * 3
    assert Path(told["file"]) == opt / "python" / "gigachat_lite.py"
    assert sorted(opt.rglob("*")) == before
    assert (Path(told["cached"]) in before) == bytecode


def test_handler_gives_errors_back(monkeypatch, server):
    """What goes wrong at the service is the handler's result: one line of text."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GIGACHAT_SCOPE", "GIGACHAT_API_CORP")
    monkeypatch.delitem(sys.modules, "lambda_handler", raising=False)
    import lambda_handler

    with lambda_handler.client:
        assert "GIGACHAT_API_CORP" in lambda_handler.handler({"question": "one"}, None)["error"]
        reply = lambda_handler.handler({"body": '{"question": "one"}'}, None)
        assert (reply["statusCode"], "GIGACHAT_API_CORP" in reply["body"]) == (502, True)
    del sys.modules["lambda_handler"]


@pytest.mark.parametrize(
    ("event", "status", "telling"),
    [
        ({"body": '{"question": "один"}'}, 200, "«один»"),
        ({"body": base64.b64encode(b'{"question": "two"}').decode(), "isBase64Encoded": True}, 200, '"two"'),
        ({"body": '{"question": "three", "stream": true}', "isBase64Encoded": False}, 200, '"three"'),
        ({"body": "{}"}, 400, '"question" is missing'),
        ({"body": "[]"}, 400, '"question" is missing'),
        ({"body": None}, 400, "not JSON"),
        ({"body": "{"}, 400, "not JSON"),
        ({"body": "%", "isBase64Encoded": True}, 400, "not JSON"),
        ({}, None, '"question" is missing'),
    ],
    ids=str,
)
def test_handler_behind_api_gateway(event, status, telling, monkeypatch, server):
    """The question may come as the body of an HTTP request, and the answer goes back as one; nothing raises."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "lambda_handler", raising=False)
    import lambda_handler

    with lambda_handler.client:
        reply = lambda_handler.handler(event, None)
    del sys.modules["lambda_handler"]
    result = json.loads(reply["body"]) if status else reply
    assert reply.get("statusCode") == status
    assert telling in result.get("answer", result.get("error"))


def test_layer_with_a_certificate_in_der(tmp_path):
    """A certificate in DER, as Windows saves it, is in the layer as PEM."""
    make(tmp_path / "layer.zip", "--ca", CERTS / "ca.der")
    with zipfile.ZipFile(str(tmp_path / "layer.zip")) as layer:
        pem = layer.read("python/ca.pem").decode()
    assert ssl.PEM_cert_to_DER_cert(pem) == (CERTS / "ca.der").read_bytes()


@pytest.mark.parametrize(
    "options",
    [["--ca", "nosuch"], ["--ca", "nosuch.pem"], ["--python", "nosuch"], ["--module", "nosuch"]],
    ids=lambda options: " ".join(options),
)
def test_layer_that_cannot_be_made(options, tmp_path):
    """What is missing or holds no certificate is one line that names it, and no half layer is left."""
    (tmp_path / "nosuch.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\n")
    done = run_python(*MAKE, *options, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("lambda_layer: ") and "nosuch" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "layer.zip").exists()
