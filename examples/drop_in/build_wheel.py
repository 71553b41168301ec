"""Build gigachat-0.2.3+lite-py3-none-any.whl here: the stand-in for the official SDK, for your own machines only.

    python build_wheel.py                 # for what depends on gigachat 0.2, such as langchain-gigachat 0.5
    python build_wheel.py 0.1.43+lite     # for what asks for an older one
    pip install gigachat-0.2.3+lite-py3-none-any.whl

It holds both files, so gigachat-lite need not be installed; an installed SDK is replaced. Never upload it.
"""

import base64
import hashlib
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
VERSION = sys.argv[1] if len(sys.argv) > 1 else "0.2.3+lite"
INFO = f"gigachat-{VERSION}.dist-info"

core = next(file for file in (HERE / "gigachat_lite.py", HERE.parents[1] / "gigachat_lite.py") if file.exists())
files = {"gigachat.py": (HERE / "gigachat.py").read_bytes(), "gigachat_lite.py": core.read_bytes()}
summary = "gigachat_lite under the name of the official SDK; do not upload"
files[f"{INFO}/METADATA"] = f"Metadata-Version: 2.1\nName: gigachat\nVersion: {VERSION}\nSummary: {summary}\n".encode()
files[f"{INFO}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: build_wheel\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
record = ""
for name, content in files.items():
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    record += f"{name},sha256={digest},{len(content)}\n"
files[f"{INFO}/RECORD"] = f"{record}{INFO}/RECORD,,\n".encode()
with zipfile.ZipFile(f"gigachat-{VERSION}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
    for name, content in files.items():
        wheel.writestr(name, content)
