#!/usr/bin/env python3
"""Write layer.zip, an AWS Lambda layer with gigachat_lite and, if you like, the certificates to trust.

    python3 examples/lambda_layer.py [--ca Russian_Trusted_Root_CA.cer] [--python python3.12]... [layer.zip]

Lambda unpacks it below /opt and has /opt/python on the path of every Python: set GIGACHAT_CA_BUNDLE_FILE to
/opt/python/ca.pem. The same files give the same bytes, whenever the layer is made.

``--python`` adds the bytecode of that Python, which must be the version of the function's runtime. It saves 50 to 90 ms
of every cold start, as /opt is read-only: the import alone takes 70 ms on 3.8 and 105 on 3.13, with bytecode 17 and 16.
"""

import argparse
import os
import ssl
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "python/gigachat_lite.py"

# Prints where the bytecode belongs, a line feed, and the bytecode. Unchecked: its zip entry's time says nothing.
COMPILE = """
import importlib.util, os, py_compile, sys, tempfile
with tempfile.TemporaryDirectory() as directory:
    target = os.path.join(directory, "compiled")
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(sys.argv[1], target, "/opt/" + sys.argv[2], doraise=True, invalidation_mode=mode)
    with open(target, "rb") as file:
        place = importlib.util.cache_from_source(sys.argv[2])
        sys.stdout.buffer.write(place.replace(os.sep, "/").encode() + b"\\n" + file.read())
"""


def compiled(python, module):
    """Give name and content of the bytecode: made in a new process with a fixed hash seed, it is always the same."""
    surroundings = {**os.environ, "PYTHONHASHSEED": "0"}
    for name in ("PYTHONPYCACHEPREFIX", "PYTHONOPTIMIZE"):
        surroundings.pop(name, None)
    command = [python, "-S", "-c", COMPILE, module, NAME]
    done = subprocess.run(command, env=surroundings, capture_output=True, check=True)
    name, _, content = done.stdout.partition(b"\n")
    return name.decode(), content


def certificates(path):
    """Read certificates; DER becomes PEM."""
    content = Path(path).read_bytes()
    try:
        if content.startswith(b"\x30\x82"):
            content = ssl.DER_cert_to_PEM_cert(content).encode()
        ssl.create_default_context(cadata=content.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        raise ValueError(f"{path} holds no certificates that OpenSSL can read, neither PEM nor DER") from None
    return content


def write_layer(layer, files):
    """Write *files*, contents by name."""
    with zipfile.ZipFile(str(layer), "w") as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name)  # of 1980, whatever the clock says
            entry.compress_type = zipfile.ZIP_STORED  # zlib differs from machine to machine
            entry.create_system = 3  # Unix, so that the permissions count
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("layer", nargs="?", default="layer.zip")
    parser.add_argument("--ca", help="file with the certificates to trust, PEM or DER")
    parser.add_argument("--python", action="append", default=[], help="add the bytecode of this Python; repeatable")
    parser.add_argument("--module", default=str(ROOT / "gigachat_lite.py"), help="default: that of this repository")
    options = parser.parse_args()
    try:
        files = {NAME: Path(options.module).read_bytes()}
        files.update(compiled(python, options.module) for python in options.python)
        if options.ca:
            files["python/ca.pem"] = certificates(options.ca)
        write_layer(options.layer, files)
    except (OSError, ValueError) as error:
        sys.exit(f"lambda_layer: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"lambda_layer: {error.cmd[0]} cannot make bytecode: {error.stderr.decode(errors='replace').strip()}")
    print(f"{options.layer}: {', '.join(sorted(files))}")


if __name__ == "__main__":
    main()
