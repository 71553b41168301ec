"""README.md: every Python block runs as it stands, and what its tables say is what the code says."""

import contextvars
import inspect
import logging
import os
import re
import shutil
import ssl
import subprocess
import sys

import pytest
from conftest import CA, CERTS, ROOT, raw_client
from faults import SERVER_TLS, RawServer, always, answer
from local_server import LocalServer
from test_context import VARIABLES
from test_settings import DEFAULTS

import gigachat_lite
from gigachat_lite import GigaChat, GigaChatException, ResponseError

README = (ROOT / "README.md").read_text(encoding="utf-8")
TEST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest --cov"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def section(title):
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title):
    """Give the rows of a section's tables, as lists of cells without backquotes."""
    lines = re.findall(r"^\| *(.*?) *\|$", section(title), re.MULTILINE)
    return [[cell.replace("`", "").strip() for cell in line.split("|")] for line in lines]


def name_of(block):
    """Name a block by its place among all, and by the section that it is in."""
    before = README[: README.index(block)]
    heading = (re.findall(r"^## (.*)$", before, re.MULTILINE) or ["top"])[-1]
    return f"{before.count('```python')}-{heading.replace(' ', '_')}"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a block alone, in a directory that holds the files that the README speaks of; give its variables."""
    shutil.copytree(str(CERTS), str(tmp_path / "tests" / "certs"))
    for name, source in (
        ("Russian_Trusted_Root_CA.crt", "ca.pem"),
        ("Russian_Trusted_Root_CA.cer", "ca.der"),
        ("client.pem", "client.pem"),
        ("client.key", "client-encrypted.key"),
    ):
        shutil.copy(str(CERTS / source), str(tmp_path / name))
    for name in ("cat.jpg", "document.pdf"):
        (tmp_path / name).write_bytes(b"some bytes")
    monkeypatch.chdir(tmp_path)

    def execute(block, server):
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        # What a block shows must work by itself, not thanks to the environment.
        if "ca_bundle_file=" in block or "ssl_context=" in block:
            monkeypatch.delenv("GIGACHAT_CA_BUNDLE_FILE")
        if any(setting in block for setting in ("credentials=", "access_token=", "user=", "cert_file=")):
            monkeypatch.delenv("GIGACHAT_CREDENTIALS")
        for placeholder, value in {
            "<authorization key>": server.credentials,
            "<access token>": server.issue_token(),
            "<user>": server.user,
            "<password>": server.password,
            "<key password>": "test-passphrase",
            "sleep(60)": "sleep(0.01)",
        }.items():
            block = block.replace(placeholder, value)
        code = compile(block, "README.md", "exec")
        variables = {"__name__": "__main__"}
        contextvars.copy_context().run(exec, code, variables)
        return variables

    yield execute
    gigachat_lite.logger.setLevel(logging.NOTSET)


@pytest.fixture
def serve():
    """Start the local server that a block needs."""
    opened = []

    def start(block):
        scope = "GIGACHAT_API_CORP" if "GIGACHAT_API_CORP" in block else "GIGACHAT_API_PERS"
        tls = SERVER_TLS
        opened.append(LocalServer(tls=tls, client_ca=CA, scope=scope))
        opened[-1].start()
        return opened[-1]

    yield start
    for server in opened:
        server.stop()


@pytest.mark.parametrize("block", [pytest.param(block, id=name_of(block)) for block in blocks("python")])
def test_block(block, run, serve, capsys):
    """A Python block of the README runs alone, reaches the server where it uses it, and prints nothing odd."""
    server = serve(block)
    run(block, server)
    assert server.requests or "LocalServer(" in block
    # All of them print something, but for those that show a download and the log.
    assert capsys.readouterr().out.strip() or "download_file" in block or "logging" in block


def test_blocks_are_found():
    """The search for blocks finds all of them."""
    assert len(blocks("python")) == README.count("```python") > 20


def test_download_of_a_drawn_picture(run, serve, tmp_path):
    """The block about pictures that the model draws leaves one in a file."""
    (block,) = [block for block in blocks("python") if "file_ids" in block]
    run(block, serve(block))
    (picture,) = tmp_path.glob("*-*.jpg")
    assert picture.read_bytes().startswith(b"\xff\xd8")


def test_files_come_back(run, serve, tmp_path):
    """The block about files downloads what it uploaded."""
    (block,) = [block for block in blocks("python") if "copy.pdf" in block]
    run(block, serve(block))
    assert (tmp_path / "copy.pdf").read_bytes() == (tmp_path / "document.pdf").read_bytes()


@pytest.mark.parametrize(
    ("status", "headers", "printed"),
    [
        (429, {"Retry-After": "7"}, r"Too many requests\. Wait 7\.0 s\."),
        (404, {}, r"Status 404: No such model \(request id \S+\)"),
        (200, {}, r"POST /chat/completions: .*choices"),
    ],
)
def test_errors_are_handled(status, headers, printed, run, serve, capsys):
    """The block about errors handles each kind where it says so."""
    (block,) = [block for block in blocks("python") if "except RateLimitError" in block]
    server = serve(block)
    server.answer_next("/chat/completions", status, {"status": status, "message": "No such model"}, headers)
    run(block, server)
    assert re.match(printed, capsys.readouterr().out)


def test_no_connection_is_handled(run, serve, capsys):
    """The block about errors handles a server that is not there."""
    (block,) = [block for block in blocks("python") if "except RateLimitError" in block]
    server = serve(block)
    server.stop()
    run(block, server)
    assert capsys.readouterr().out.startswith("No answer. localhost:")


def test_batch_block_prints_the_answers(run, serve, capsys):
    """The block about batches waits for the answers and prints them."""
    (block,) = [block for block in blocks("python") if "create_batch" in block]
    run(block, serve(block))
    assert re.search(r"^1 \{.*What is a verb", capsys.readouterr().out, re.MULTILINE)


def test_function_block_uses_the_result(run, serve, capsys):
    """The block about functions ends with an answer made of the function's result."""
    (block,) = [block for block in blocks("python") if "def get_weather" in block]
    run(block, serve(block))
    assert '"temperature": 21' in capsys.readouterr().out


def test_strict_block_relaxes_the_check(run, serve):
    """The context that the README makes is less strict than Python's own, and still checks certificates."""
    (block,) = [block for block in blocks("python") if "VERIFY_X509_STRICT" in block]
    context = run(block, serve(block))["context"]
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT


def test_logging_block_shows_requests_without_secrets(run, serve, caplog):
    """The block about logging shows each request with its status, and neither text nor token nor key."""
    (block,) = [block for block in blocks("python") if "import logging" in block]
    server = serve(block)
    run(block, server)
    assert re.search(r"POST https://localhost:\d+/api/v1/chat/completions: 200, \d+ ms", caplog.text)
    token = server.requests[-1].headers["Authorization"].split()[1]
    assert not any(secret in caplog.text for secret in (server.credentials, token, "Hello!"))


# What the README says, and the code.


def test_commands_of_a_fresh_machine_come_first():
    """The first shell blocks are the quick start and the test command, each in a line of its own."""
    assert [block.strip() for block in blocks("sh")[:2]] == ["python3 examples/quickstart.py", TEST_COMMAND]


def test_continuous_integration_runs_the_same_command():
    """.ci/run runs the test command of the README."""
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("an sdist has no dot files")
    assert f'TEST_COMMAND="{TEST_COMMAND}"\n' in script.read_text(encoding="utf-8")


def test_files_that_are_named_exist():
    """Every path below examples/ and tests/, and every example that is named, is there."""
    for path in set(re.findall(r"\b(?:examples|tests)/[\w./-]*\w", README)):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"`(\w+\.py)`", README):
        assert (ROOT / name).exists() or (ROOT / "examples" / name).exists(), name


def test_links_lead_somewhere():
    """Every link inside the README leads to one of its headings, and the contents list all of them in order."""
    headings = [
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
        for title in re.findall(r"^## (.+)$", README, re.MULTILINE)
    ]
    contents = re.findall(r"\]\(#([^)]+)\)", README.split("Contents:")[1].split("\n\n")[0])
    assert contents == headings
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= set(headings)


def test_table_of_settings():
    """The table lists every parameter in the order of the settings, with its variable and its default."""
    shown = [
        row[:3] for row in rows("Configuration") if "GIGACHAT_" + row[0].upper() == row[1] or row[0] == "ssl_context"
    ]
    expected = []
    for name, default in DEFAULTS.items():
        expected.append([name, "" if name == "ssl_context" else "GIGACHAT_" + name.upper(), str(default)])
    assert shown == expected
    assert {row[0] for row in shown} == set(inspect.signature(GigaChat.__init__).parameters) - {"self", "unknown"}


def test_table_of_context_variables():
    """The table lists every context variable with its header."""
    shown = {row[0]: row[1] for row in rows("Context variables") if row[0].endswith("_cvar")}
    assert shown.keys() == {name for name in gigachat_lite.__all__ if name.endswith("_cvar")}
    for variable, header in VARIABLES:
        assert shown[variable.name] == header


def test_tree_of_errors():
    """The tree shows every exception under its base class, with its status."""
    tree = re.findall(r"^( *)(\w+) *(\d\d\d|5xx)?", section("Errors").split("```")[1], re.MULTILINE)
    shown, path = {}, []
    for indent, name, status in tree:
        path[len(indent) // 2 :] = [name]
        shown[name] = (path[-2] if len(path) > 1 else None, status)
    classes = [getattr(gigachat_lite, name) for name in gigachat_lite.__all__]
    errors = {kind.__name__ for kind in classes if isinstance(kind, type) and issubclass(kind, GigaChatException)}
    assert shown.keys() == errors
    for name, (base, _) in shown.items():
        kind = getattr(gigachat_lite, name)
        assert kind.__bases__[0].__name__ == (base or "Exception")
    named = {int(status): name for name, (_, status) in shown.items() if status.isdigit()}
    statuses = iter(range(400, 600))
    with RawServer(always(lambda _: answer(b"", f"{next(statuses)} No"))) as server, raw_client(server) as client:
        for status in range(400, 600):
            with pytest.raises(ResponseError) as caught:
                client.chat("Привет")
            assert type(caught.value).__name__ == named.get(status, "ServerError" if status >= 500 else "ResponseError")


def test_table_of_methods():
    """The table lists every method, with its arguments, and what its docstring calls its endpoint."""
    shown = {row[0].partition("(")[0]: row for row in rows("Everything else") if "(" in row[0]}
    own = [name for name, value in vars(gigachat_lite.GigaChatSyncClient).items() if inspect.isfunction(value)]
    assert shown.keys() == {name for name in own if not name.startswith("_") and name != "close"}
    for name, (call, _, endpoint) in shown.items():
        method = getattr(GigaChat, name)
        parameters = [p for p in inspect.signature(method).parameters.values() if p.name != "self"]
        arguments = ", ".join(
            p.name if p.default is p.empty else f"{p.name}={p.default!r}"
            for p in parameters
            if p.kind is not p.KEYWORD_ONLY
        )
        assert call == f"{name}({arguments})".replace("'", '"')
        path = re.sub(r"\{\w+\}", "{}", endpoint.split()[-1])
        assert path in re.sub(r"\{\w+\}", "{}", method.__doc__), name


@pytest.mark.parametrize(
    ("group", "kind"),
    [("assistants", gigachat_lite.AssistantsSyncClient), ("threads", gigachat_lite.ThreadsSyncClient)],
)
def test_table_of_groups(group, kind):
    """The table lists every method of assistants and threads, but for the old names of some."""
    (cell,) = [row[0] for row in rows("Everything else") if row[0].startswith(group + ".")]
    old = {"get_threads", "create_thread"}
    assert set(re.findall(r"\.(\w+)", cell)) == {name for name in vars(kind) if not name.startswith("_")} - old


# Blocks for a shell that this file does not run, by a part of them, and who does.
RUN_ELSEWHERE = {
    "pip ": ".ci/run: they need a package index",
    "--dask": "test_examples.py, where Dask is installed",
    "local_server.py": "the next test: it runs until it is stopped",
    "benchmarks": "nobody: it needs the official SDK",
}
SHELL_BLOCKS = [block for block in blocks("sh") if not any(part in block for part in RUN_ELSEWHERE)]
needs_shell = pytest.mark.skipif(shutil.which("bash") is None or os.name == "nt", reason="there is no shell")


@pytest.fixture
def shell(server, tmp_path):
    """Run commands in a copy of the project, with what a newcomer has, the local server's variables and no others."""
    for name in ("examples", "tests/certs"):
        shutil.copytree(str(ROOT / name), str(tmp_path / name))
    (tmp_path / "app").mkdir()
    for name in ("gigachat_lite.py", "app/gigachat_lite.py"):
        shutil.copy(gigachat_lite.__file__, str(tmp_path / name))
    (tmp_path / "app" / "__main__.py").write_text("import gigachat_lite\n", encoding="utf-8")
    (tmp_path / "corpus.txt").write_text("one\ntwo\n", encoding="utf-8")
    shutil.copy(CA, str(tmp_path / "Russian_Trusted_Root_CA.crt"))
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, words in {
        "python3": f'exec "{sys.executable}" -B "$@"',
        "gigachat-lite": f'exec "{sys.executable}" -B gigachat_lite.py "$@"',
        "ssh": 'shift; exec "$@"',
        "git": "echo a change",
    }.items():
        (commands / name).write_text(f"#!/bin/sh\n{words}\n", encoding="utf-8")
        (commands / name).chmod(0o755)
    path = os.pathsep.join([str(commands), *os.environ.get("PATH", "/usr/bin:/bin").split(os.pathsep)])
    environment = {**server.environment(), "PATH": path, "PYTHONIOENCODING": "utf-8"}

    def start(command):
        command = command.replace("<authorization key>", server.credentials).replace("8443", "0")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(["bash", "-e", "-c", command], cwd=str(tmp_path), env=environment, **pipes)

    return start


@needs_shell
@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=lambda block: block.splitlines()[0][:50])
def test_shell_block(shell, block):
    """Every block for the shell works as it stands."""
    for command in [block] if "export" in block else block.splitlines():
        process = shell(command)
        _, errors = process.communicate(b"a question\n", timeout=60)
        assert (process.returncode, errors.decode()) == (0, ""), command


@needs_shell
def test_shell_block_of_the_local_server(shell):
    """The local server prints the variables that the README speaks of."""
    (block,) = [block for block in blocks("sh") if "local_server.py" in block]
    with shell("exec " + block) as process:
        assert process.stdout.readline().startswith(b"export GIGACHAT_BASE_URL=https://localhost:")
        process.terminate()
        process.communicate(timeout=60)


def test_shell_blocks_that_are_run_elsewhere():
    """No block is left out that .ci/run does not name."""
    checks = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for block in blocks("sh"):
        if "pip " in block:
            assert f'="{block.strip()}"' in checks
    assert len(SHELL_BLOCKS) >= 10
