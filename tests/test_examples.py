"""Every program of examples/ does what it says, in a process of its own, against the local server."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CERTS
from local_server import LocalServer

ROOT = Path(__file__).resolve().parent.parent
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
    "functions.py": ("", [r"get_weather\(\{.*gives \{'city'", r'returned \{"city": .*the weather in Tokyo\?']),
    "context_variables.py": (
        "",
        [f"{user}: the server calls this request request-of-{user}" for user in ("ann", "vera")],
    ),
    "ai_detection.py": (CORP, [r"mixed: \d+ characters", r"to \d+: As a language model.*well-being\.\n\Z"]),
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
NOT_RUN_HERE = {"embed_corpus.py", "lambda_handler.py", "lambda_layer.py", "local_server.py", "quickstart.py"}


def run(program, *arguments, **environment):
    """Run a program of examples/ with these variables and no others; give its output."""
    # An inherited PATH says nothing to Python, but Windows needs SYSTEMROOT to open a socket.
    kept = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-B", "-W", "error", str(EXAMPLES / program), *arguments],
        env={**kept, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr.decode("utf-8", "replace")) == (0, "")
    return done.stdout.decode("utf-8").replace("\r\n", "\n")


@pytest.fixture
def served(request):
    """Give the environment that leads a program to a local server of the scope that the test was given."""
    scope = getattr(request, "param", "") or "GIGACHAT_API_PERS"
    with LocalServer(tls=(str(CERTS / "server.pem"), str(CERTS / "server.key")), scope=scope) as server:
        yield {**server.environment(), "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}


def test_every_example_is_run():
    """No program of examples/ is left out here."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(TELLING) | NOT_RUN_HERE


@pytest.mark.parametrize("program", list(TELLING))
def test_example_is_short_and_needs_nothing(program):
    """An example has 10 to 30 lines and imports nothing but the standard library and gigachat_lite."""
    text = (EXAMPLES / program).read_text(encoding="utf-8")
    imported = re.findall(r"^\s*(?:import|from) (\w+)", text, re.MULTILINE)
    assert 10 <= len(text.splitlines()) <= 30
    assert set(imported) <= {"gigachat_lite", "asyncio", "json", "pathlib", "sys", "tempfile"}


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
    assert "Neither GIGACHAT_CREDENTIALS nor GIGACHAT_ACCESS_TOKEN is set." in output
    assert re.search(r"local server, https://localhost:\d+/api/v1", output)
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


def test_quickstart_with_credentials(served):
    """With credentials the quick start talks to the service that the variables name."""
    output = run("quickstart.py", **{**served, "GIGACHAT_MODEL": "GigaChat-2-Max"})
    assert f"This talks to GigaChat: GigaChat(base_url='{served['GIGACHAT_BASE_URL']}'" in output
    assert "GigaChat-2-Max:" in output


def test_quickstart_shows_an_error_in_one_line(served):
    """What goes wrong is one line on stderr and exit code 1."""
    done = subprocess.run(
        [sys.executable, "-B", str(EXAMPLES / "quickstart.py")],
        env={**served, "GIGACHAT_SCOPE": "GIGACHAT_API_B2B"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert re.match(
        rb"BadRequestError: 400 POST /api/v2/oauth: .*GIGACHAT_API_CORP[^\n]*\n\Z", done.stderr.replace(b"\r", b"")
    )
