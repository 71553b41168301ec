"""Build hook: type checkers take a lone module for untyped (PEP 561), so the wheel carries it once more, as a stub.

The stub ends before the command line, which nobody imports.
"""

import tempfile
from pathlib import Path
from typing import Any, Dict


def pdm_build_update_files(context: Any, files: Dict[str, Path]) -> None:
    if context.target == "wheel":
        module = (context.root / "gigachat_lite.py").read_text(encoding="utf-8")
        stub = Path(tempfile.mkdtemp()) / "__init__.pyi"
        stub.write_text(module.partition("\n\n# ---------- command line")[0], encoding="utf-8")
        files["gigachat_lite-stubs/__init__.pyi"] = stub
