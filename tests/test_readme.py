"""README.md: every Python block runs as it stands, and what its tables say is what the code says."""

import codeop
import contextvars
import inspect
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import CA, ROOT, raw_client
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
    (tmp_path / "cat.jpg").write_bytes(b"some bytes")
    monkeypatch.chdir(tmp_path)

    def execute(block, server):
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        block = block.replace("sleep(60)", "sleep(0.01)")
        code = compile(block, "README.md", "exec")
        variables = {"__name__": "__main__"}
        contextvars.copy_context().run(exec, code, variables)
        return variables

    return execute


@pytest.fixture
def serve():
    """Start the local server that a block needs."""
    opened = []

    def start(block):
        scope = "GIGACHAT_API_CORP" if "GIGACHAT_API_CORP" in block else "GIGACHAT_API_PERS"
        opened.append(LocalServer(tls=SERVER_TLS, scope=scope).start())
        return opened[-1]

    yield start
    for server in opened:
        server.stop()


@pytest.mark.parametrize("block", [pytest.param(block, id=name_of(block)) for block in blocks("python")])
def test_block(block, run, serve, capsys):
    """A Python block of the README runs alone, reaches the server, and prints something."""
    server = serve(block)
    run(block, server)
    assert server.requests
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("block", [pytest.param(block, id=name_of(block)) for block in blocks("python")])
def test_block_can_be_pasted(block):
    """A Python block can be pasted into an interactive Python, which ends a statement at a blank line."""
    waiting = []
    for line in [*block.splitlines(), ""]:
        waiting.append(line)
        if codeop.compile_command("\n".join(waiting)):
            waiting = []
    assert not waiting


def test_blocks_are_found():
    """The search for blocks finds all of them."""
    assert len(blocks("python")) == README.count("```python") > 8


def test_length():
    """The README is for people in a hurry."""
    assert len(README.splitlines()) <= 520


def test_download_of_a_drawn_picture(run, serve, tmp_path):
    """The block about pictures that the model draws leaves one in a file."""
    (block,) = [block for block in blocks("python") if "file_ids" in block]
    run(block, serve(block))
    (picture,) = tmp_path.glob("*-*.jpg")
    assert picture.read_bytes().startswith(b"\xff\xd8")


def test_files_come_back(run, serve, tmp_path):
    """The block about files downloads what it uploaded."""
    (block,) = [block for block in blocks("python") if "copy.jpg" in block]
    run(block, serve(block))
    assert (tmp_path / "copy.jpg").read_bytes() == (tmp_path / "cat.jpg").read_bytes()


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
    """Every link inside the README leads to one of its headings; those at its top are in order."""
    headings = [
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
        for title in re.findall(r"^## (.+)$", README, re.MULTILINE)
    ]
    top = re.findall(r"\]\(#([^)]+)\)", README.split("Jump to:")[1].split("\n\n")[0])
    assert top == [heading for heading in headings if heading in top]
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= set(headings)


def test_table_of_settings():
    """The table lists every parameter in the order of the settings, with its variable and its default."""
    shown = [row[:3] for row in rows("Settings") if "GIGACHAT_" + row[0].upper() == row[1] or row[0] == "ssl_context"]
    expected = []
    for name, default in DEFAULTS.items():
        expected.append([name, "" if name == "ssl_context" else "GIGACHAT_" + name.upper(), str(default)])
    assert shown == expected
    assert {row[0] for row in shown} == set(inspect.signature(GigaChat).parameters) - {"unnamed", "unknown"}


def test_context_variables():
    """Every context variable is named with its header."""
    shown = dict(re.findall(r"`(\w+_cvar)`(?: \(`([\w-]+)`\))?", section("In a server").replace("\n", " ")))
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
    """The table names every method with its arguments."""
    shown = dict(re.findall(r"`(\w+)\(([^`]*)\)`", section("All methods")))
    kind = gigachat_lite.GigaChatSyncClient
    public = {name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))}
    assert shown.keys() == public - {"close"}
    assert shown.pop("chat") == "payload"  # what has it is a function or a namespace
    for name, arguments in shown.items():
        parameters = [p for p in inspect.signature(getattr(GigaChat, name)).parameters.values() if p.name != "self"]
        assert arguments == ", ".join(
            p.name if p.default is p.empty else f'{p.name}="{p.default}"'.replace('"None"', "None")
            for p in parameters
            if p.kind is p.POSITIONAL_OR_KEYWORD
        )


@pytest.mark.parametrize(
    ("group", "kind"),
    [("assistants", gigachat_lite.AssistantsSyncClient), ("threads", gigachat_lite.ThreadsSyncClient)],
)
def test_table_of_groups(group, kind):
    """The table lists every method of assistants and threads, but for the old names of some."""
    (cell,) = [row[1] for row in rows("All methods") if row[0] == group]
    old = {"get_threads", "create_thread"}
    assert set(re.findall(r"\.(\w+)", cell)) == {name for name in vars(kind) if not name.startswith("_")} - old


# Blocks for a shell that this file does not run, by a part of them, and who does.
RUN_ELSEWHERE = {
    "pip ": ".ci/run: they need a package index",
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
    shutil.copy(gigachat_lite.__file__, str(tmp_path / "gigachat_lite.py"))
    shutil.copy(CA, str(tmp_path / "Russian_Trusted_Root_CA.crt"))
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, words in {
        "python3": f'exec "{sys.executable}" -B "$@"',
        "gigachat-lite": f'exec "{sys.executable}" -B gigachat_lite.py "$@"',
        "git": "echo a change",
    }.items():
        (commands / name).write_text(f"#!/bin/sh\n{words}\n", encoding="utf-8")
        (commands / name).chmod(0o755)
    path = os.pathsep.join([str(commands), *os.environ.get("PATH", "/usr/bin:/bin").split(os.pathsep)])
    environment = {**server.environment(), "PATH": path, "PYTHONIOENCODING": "utf-8"}

    def start(command):
        command = command.replace("<authorization key>", server.credentials).replace("8443", "0")
        command = command.replace("https://api.giga.chat/v1", server.base_url)
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
    for line in (line for block in blocks("sh") for line in block.splitlines() if "pip " in line):
        assert f'="{line}"' in checks
    assert len(SHELL_BLOCKS) >= 4


@needs_shell
def test_imports_of_the_official_sdk_are_changed(shell, tmp_path):
    """The sed line changes every form of an import of the official SDK, below directories too, and nothing else."""
    old = """\
import gigachat
from gigachat import GigaChat, session_id_cvar
from gigachat.models import Chat, Messages
from gigachat.models.chat_completions import ChatMessage
import gigachat_lite, os  # from gigachat import nothing
if True:
    from gigachat.exceptions import (
        ResponseError,
    )
"""
    path = tmp_path / "package" / "module.py"
    path.parent.mkdir()
    path.write_text(old, encoding="utf-8")
    (block,) = [block for block in blocks("sh") if "sed" in block]
    process = shell(block)
    assert process.communicate(timeout=60) == (b"", b"")
    new = path.read_text(encoding="utf-8")
    assert new.splitlines()[:4] == [
        "import gigachat_lite as gigachat",
        "from gigachat_lite import GigaChat, session_id_cvar",
        "from gigachat_lite import Chat, Messages",
        "from gigachat_lite import ChatMessage",
    ]
    assert new.splitlines()[4:6] == old.splitlines()[4:6]
    assert new.splitlines()[6] == "    from gigachat_lite import ("
    assert (path.parent / "module.py.bak").read_text(encoding="utf-8") == old
