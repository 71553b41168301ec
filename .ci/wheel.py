"""Build hook: type checkers take a lone module for untyped (PEP 561), so the wheel carries it once more, as a stub.

The stub is what a user can reach: the public names and whatever their signatures name, without docstrings, which editors
take from the module, the bodies of functions and private methods. The same bytes twice would double the wheel.
"""

import ast
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set, Tuple, Union

Lines = Tuple[int, int]  # from one line, counted from 0, to before another
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def stub_of(source: str) -> str:
    """Write the stub of a module."""
    module = ast.parse(source)
    for kind in [node for node in ast.walk(module) if isinstance(node, ast.ClassDef) and is_private(node.name)]:
        for method in kind.body:
            method.in_private = True  # type: ignore[attr-defined]
    dropped: List[Lines] = []
    for node in unreachable(module):
        dropped.append(span(node))
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef):
            private = [one for one in node.body if isinstance(one, FUNCTIONS) and is_private(one.name)]
            dropped += [span(one) for one in private if node.name != "_Client" or one.name != "_workers"]
            overloaded = {one.name for one in node.body if isinstance(one, FUNCTIONS) and is_overload(one)}
            methods = [one for one in node.body if isinstance(one, FUNCTIONS) and one.name in overloaded]
            dropped += [span(one) for one in methods if not is_overload(one)]
    lines = source.split("\n")
    for node in ast.walk(module):
        if isinstance(node, FUNCTIONS) and keeps_no_body(node) and node.body[0].lineno != node.lineno:
            start, end = span(node.body[0])[0], node.body[-1].end_lineno or node.body[-1].lineno
            if any(isinstance(one, ast.Yield) for one in ast.walk(node)):  # without its body it would be no generator
                lines[node.lineno - 1] = lines[node.lineno - 1].replace("async def", "def")
            lines[start] = " " * node.body[0].col_offset + "..."
            dropped.append((start + 1, end))
        elif isinstance(node, (ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node):
            start, end = span(node.body[0])
            lines[start] = " " * node.body[0].col_offset + "..."
            dropped.append((start + 1, end))
    gone = {number for start, end in dropped for number in range(start, end)}
    kept = (line for number, line in enumerate(lines) if number not in gone)
    return "\n".join(line for line in kept if line.strip() and not line.lstrip().startswith("#")) + "\n"


def unreachable(module: ast.Module) -> Iterator[ast.stmt]:
    """Find the statements at the top level that no public name leads to."""
    names: Dict[str, ast.stmt] = {}
    for node in module.body:
        for name in names_of(node):
            names[name] = node
    reached: Set[ast.stmt] = set()
    ahead = [node for node in module.body if not all(map(is_private, names_of(node))) or not names_of(node)]
    while ahead:
        node = ahead.pop()
        if node not in reached:
            reached.add(node)
            ahead += [names[name] for name in named_in(node) if name in names]
    return (node for node in module.body if node not in reached)


def named_in(node: ast.AST) -> Iterator[str]:
    """Give the names that a statement holds, but for those in bodies that the stub leaves out."""
    if isinstance(node, ast.Name):
        yield node.id
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
        yield node.value  # a reference forward
    for field, value in ast.iter_fields(node):
        if field == "body" and isinstance(node, FUNCTIONS) and keeps_no_body(node):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not (isinstance(child, FUNCTIONS) and is_private(child.name)):
                yield from named_in(child)


def names_of(node: ast.stmt) -> List[str]:
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def is_overload(node: Union[ast.FunctionDef, ast.AsyncFunctionDef]) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "overload" for one in node.decorator_list)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def keeps_no_body(node: Union[ast.FunctionDef, ast.AsyncFunctionDef]) -> bool:
    """Tell whether nothing in the body matters: in the __init__ of a public class public attributes get their types."""
    stores = [one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store)]
    return node.name != "__init__" or getattr(node, "in_private", False) or all(map(is_private, stores))


def span(node: Any) -> Lines:
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
    return first - 1, node.end_lineno or node.lineno


def pdm_build_update_files(context: Any, files: Dict[str, Path]) -> None:
    if context.target == "wheel":
        module = (context.root / "gigachat_lite.py").read_text(encoding="utf-8")
        stub = Path(tempfile.mkdtemp()) / "__init__.pyi"
        stub.write_text(stub_of(module), encoding="utf-8")
        files["gigachat_lite-stubs/__init__.pyi"] = stub
