"""Build hook: type checkers take a lone module for untyped (PEP 561), so the wheel carries it once more, as a stub."""

from pathlib import Path
from typing import Any, Dict


def pdm_build_update_files(context: Any, files: Dict[str, Path]) -> None:
    if context.target == "wheel":
        files["gigachat_lite-stubs/__init__.pyi"] = context.root / "gigachat_lite.py"
