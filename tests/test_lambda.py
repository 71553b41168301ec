"""The Lambda layer: made twice it is the same; unpacked read-only, the handler runs with nothing else on its path."""

import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import CERTS
from local_server import LocalServer

import gigachat_lite

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

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


def make(layer, *options):
    command = [sys.executable, "-B", str(EXAMPLES / "lambda_layer.py"), "--module", gigachat_lite.__file__]
    subprocess.run([*command, *options, str(layer)], check=True, stdout=subprocess.PIPE, timeout=60)
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
    options = ["--ca", str(CERTS / "ca.pem"), *(["--python", sys.executable] if bytecode else [])]
    first = make(tmp_path / "first.zip", *options)
    copy = tmp_path / "gigachat_lite.py"
    copy.write_bytes(Path(gigachat_lite.__file__).read_bytes())
    os.utime(str(copy), (0, 1_000_000_000))
    assert make(tmp_path / "second.zip", *options, "--module", str(copy)) == first


def test_layer_holds_the_file_as_it_is(tmp_path):
    """The layer holds the module, the certificates, and nothing else; everybody may read them."""
    make(tmp_path / "layer.zip", "--ca", str(CERTS / "ca.pem"))
    with zipfile.ZipFile(str(tmp_path / "layer.zip")) as layer:
        assert layer.namelist() == ["python/ca.pem", "python/gigachat_lite.py"]
        assert layer.read("python/gigachat_lite.py") == Path(gigachat_lite.__file__).read_bytes()
        assert layer.read("python/ca.pem") == (CERTS / "ca.pem").read_bytes()
        assert {stat.filemode(entry.external_attr >> 16) for entry in layer.infolist()} == {"-rw-r--r--"}


@pytest.mark.parametrize("bytecode", [False, True], ids=["source", "bytecode"])
def test_handler_runs_from_the_layer(bytecode, opt, tmp_path):
    """The handler, with the read-only layer on its path and four variables, chats and streams over one connection."""
    make(tmp_path / "layer.zip", "--ca", str(CERTS / "ca.pem"), *(["--python", sys.executable] if bytecode else []))
    with zipfile.ZipFile(str(tmp_path / "layer.zip")) as layer:
        layer.extractall(str(opt))
    for path in sorted(opt.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted(opt.rglob("*"))
    task = tmp_path / "task"
    task.mkdir()
    (task / "lambda_handler.py").write_bytes((EXAMPLES / "lambda_handler.py").read_bytes())
    with LocalServer(tls=(str(CERTS / "server.pem"), str(CERTS / "server.key"))) as server:
        variables = {**server.environment(), "GIGACHAT_CA_BUNDLE_FILE": str(opt / "python" / "ca.pem")}
        variables["PYTHONPATH"] = os.pathsep.join([str(task), str(opt / "python")])
        kept = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
        command = [sys.executable, "-B", "-S", "-W", "error", "-c", RUNTIME]  # -B: root may write to what is read-only
        done = subprocess.run(
            command,
            env={**kept, **variables},
            cwd=str(task),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        requests = [request.path for request in server.requests]
    told = json.loads(done.stdout.decode("utf-8"))
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
    del sys.modules["lambda_handler"]


@pytest.mark.parametrize("options", [["--ca", "nosuch"], ["--python", "nosuch"], ["--module", "nosuch"]], ids=str)
def test_layer_that_cannot_be_made(options, tmp_path):
    """What is missing is one line that names it, and no half layer is left."""
    command = [sys.executable, "-B", str(EXAMPLES / "lambda_layer.py"), "--module", gigachat_lite.__file__, *options]
    done = subprocess.run(command, cwd=str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(b"lambda_layer: ") and b"nosuch" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert not (tmp_path / "layer.zip").exists()
