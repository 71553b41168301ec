"""Build hook: type checkers take a lone module for untyped (PEP 561), so the wheel carries it once more, as a stub.

The stub is the module without the bodies of its functions, which type checkers do not read and which would make the
wheel half as large again. __init__ keeps its body: it is where attributes get their types. It ends with main(): what
stands behind it serves the command line alone.
"""

import ast
import tempfile
from pathlib import Path
from typing import Any, Dict, List


def without_bodies(source: str) -> str:
    """Put an ellipsis in the place of every function's body, behind its docstring; leave out what follows main()."""
    lines = source.split("\n")
    module = ast.parse(source)
    (main,) = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    module.body = module.body[: module.body.index(main) + 1]
    kept: List[str] = []
    at = 0
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(module) if isinstance(node, functions) and node.name != "__init__"]
    for node in sorted(found, key=lambda node: node.lineno):
        body = node.body[1:] if ast.get_docstring(node) else node.body
        if not body or body[0].lineno == node.lineno:  # nothing but a docstring, or an ellipsis already
            continue
        start = min([body[0].lineno, *(decorator.lineno for decorator in getattr(body[0], "decorator_list", ()))]) - 1
        if start < at:  # inside a body that is gone
            continue
        kept += [*lines[at:start], " " * body[0].col_offset + "..."]
        at = body[-1].end_lineno or body[-1].lineno
    return "\n".join([*kept, *lines[at : main.end_lineno], ""])


def pdm_build_update_files(context: Any, files: Dict[str, Path]) -> None:
    if context.target == "wheel":
        module = (context.root / "gigachat_lite.py").read_text(encoding="utf-8")
        stub = Path(tempfile.mkdtemp()) / "__init__.pyi"
        stub.write_text(without_bodies(module), encoding="utf-8")
        files["gigachat_lite-stubs/__init__.pyi"] = stub
