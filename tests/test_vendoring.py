"""The one file, carried elsewhere: copied, renamed, inside a package, twice, zipped, optimized, loaded by hand."""

import ast
import hashlib
import importlib.util
import sys
import zipapp
import zipfile

import pytest
from conftest import MODULE, copy_module, output_of

import gigachat_lite

VERSION = f"gigachat-lite {gigachat_lite.__version__}\n"


@pytest.fixture
def python(server, tmp_path):
    """Run this Python in an empty directory, without any installed package, with the variables of the local server."""

    def run(*arguments, **environment):
        variables = {**server.environment(), "PYTHONPATH": "", **environment}
        return output_of("-S", *arguments, cwd=tmp_path, **variables)

    return run


def copy(target):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(MODULE.read_bytes())
    return target


def ask(module):
    return f"import {module} as giga\nwith giga.GigaChat() as c: print(c.chat('yes').choices[0].message.content)"


def test_copy(python, tmp_path):
    """A copy has the SHA-256 of the original, and works alone."""
    target = copy(tmp_path / "gigachat_lite.py")
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (MODULE, target)}
    assert len(digests) == 1
    assert python(target, "--version") == VERSION
    assert '"yes"' in python("-c", ask("gigachat_lite"))


def test_header():
    """The head of the file tells version, source, how to update, and license: a copy may be all that is at hand."""
    head = gigachat_lite.__doc__
    assert f"Version: {gigachat_lite.__version__}." in head
    assert all(word in head for word in ("Source:", "To update:", "License: MIT. Copyright (c)"))


def test_inside_a_package_under_another_name(python, tmp_path):
    """As mypkg/_vendor/giga.py it is imported and run; so it does with a relative import."""
    copy_module(tmp_path / "mypkg" / "_vendor" / "giga.py")
    (tmp_path / "mypkg" / "_vendor" / "__init__.py").touch()
    (tmp_path / "mypkg" / "__init__.py").write_text("from ._vendor.giga import GigaChat\n", encoding="utf-8")
    # -W error: runpy warns of modules that are imported before they are run; this one is, by the package.
    copy_module(tmp_path / "plain" / "_vendor" / "giga.py")
    assert python("-m", "plain._vendor.giga", "--version") == VERSION
    assert '"yes"' in python("-m", "plain._vendor.giga", "chat", "yes")
    assert python("-W", "ignore", "-m", "mypkg._vendor.giga", "--version") == VERSION
    assert '"yes"' in python("-c", ask("mypkg"))
    assert '"yes"' in python("-c", ask("mypkg._vendor.giga"))


def test_two_copies_in_one_process(python, tmp_path):
    """Two copies work side by side and share neither classes nor context variables."""
    for name in ("one", "two"):
        copy_module(tmp_path / name / "giga.py")
    program = """
import one.giga, two.giga
one.giga.session_id_cvar.set("session")
assert two.giga.session_id_cvar.get() is None
with one.giga.GigaChat() as first, two.giga.GigaChat() as second:
    answers = first.chat("yes"), second.chat("yes")
assert isinstance(answers[0], one.giga.ChatCompletion) and not isinstance(answers[0], two.giga.ChatCompletion)
print([answer.choices[0].message.content for answer in answers])
"""
    assert python("-c", program).count('"yes"') == 2


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_import_from_a_zip(compression, python, tmp_path):
    """The file is imported from a zip on the path."""
    with zipfile.ZipFile(str(tmp_path / "lib.zip"), "w", compression) as archive:
        archive.write(str(MODULE), "gigachat_lite.py")
    assert '"yes"' in python("-c", ask("gigachat_lite"), PYTHONPATH="lib.zip")
    assert python("-m", "gigachat_lite", "--version", PYTHONPATH="lib.zip") == VERSION


def test_zipapp(python, tmp_path):
    """A program with the file beside it becomes one .pyz; so does the command line by itself."""
    copy(tmp_path / "app" / "gigachat_lite.py")
    zipapp.create_archive(str(tmp_path / "app"), str(tmp_path / "cli.pyz"), main="gigachat_lite:main")
    (tmp_path / "app" / "__main__.py").write_text(ask("gigachat_lite"), encoding="utf-8")
    zipapp.create_archive(str(tmp_path / "app"), str(tmp_path / "app.pyz"))
    assert '"yes"' in python("app.pyz")
    assert '"yes"' in python("cli.pyz", "chat", "yes")


def test_optimized(python, tmp_path):
    """Without docstrings and asserts it chats, and its command line explains itself."""
    copy(tmp_path / "gigachat_lite.py")
    assert '"yes"' in python("-c", ask("gigachat_lite"), PYTHONOPTIMIZE="2")
    assert python("gigachat_lite.py", "--version", PYTHONOPTIMIZE="2") == VERSION
    assert "chat" in python("gigachat_lite.py", "--help", PYTHONOPTIMIZE="2")


def test_loaded_by_hand(tmp_path, settings):
    """A plugin loader that does not register the module in sys.modules gets a client that chats and streams."""
    target = copy(tmp_path / "giga_by_hand.py")
    spec = importlib.util.spec_from_file_location("giga_by_hand", str(target))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "giga_by_hand" not in sys.modules
    with module.GigaChat(**settings) as client:
        assert (
            '"yes"'
            in client.chat(module.Chat(messages=[module.Messages(role="user", content="yes")]))
            .choices[0]
            .message.content
        )
        assert [chunk.choices[0].finish_reason for chunk in client.stream("yes")][-1] == "stop"
        assert client.get_models().data[0].id


def test_python_3_7_is_told():
    """The file compiles on Python 3.7, so that its own sentence can be read there, and that sentence says 3.8."""
    source = MODULE.read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 7))
    assert 'raise ImportError("gigachat_lite needs Python 3.8 or newer' in source
    assert "Python 3.6 and older stop here" in source.split("import annotations")[1].partition("\n")[0]
