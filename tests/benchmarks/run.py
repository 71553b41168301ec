"""Compare gigachat_lite with the official SDK and with the floor, http.client and json without anything around them.

    python tests/benchmarks/run.py [--sdk PYTHON] [--only CASE] [--quick]

PYTHON is an interpreter that can import gigachat: all three run under it, turn by turn in one run, against a TLS server
in another process. Without it, and where this Python has no gigachat, only the floor is compared.

Figures are medians. A ratio is the median of the ratios within each round, since both share what the machine does
meanwhile; the range behind it is that of the middle half of the rounds. "cpu" is the ratio of processor time.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CERTIFICATES = HERE.parent / "certs"
OURS, THEIRS, FLOOR = "gigachat_lite", "gigachat", "floor"

IMPORT = """
import os, sys, time
wall, cpu = time.perf_counter(), time.process_time()
import {modules}
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
"""
FIRST = """
import os, sys, time
from {modules} import GigaChat
base_url, auth_url, roots, started = sys.argv[1:]
settings = dict(base_url=base_url, auth_url=auth_url, ca_bundle_file=roots, model="GigaChat")
client = GigaChat(credentials="Y2xpZW50OnNlY3JldA==", **settings)
client.chat("Привет!").choices[0].message.content
wall, cpu = time.monotonic() - float(started), time.process_time()
"""
FIRST_FLOOR = """
import os, sys, time
import http.client, json, ssl, urllib.parse
base_url, auth_url, roots, started = sys.argv[1:]
at = urllib.parse.urlsplit(base_url)
http = http.client.HTTPSConnection(at.hostname, at.port, context=ssl.create_default_context(cafile=roots))
http.request("POST", urllib.parse.urlsplit(auth_url).path, b"scope=GIGACHAT_API_PERS")
token = json.loads(http.getresponse().read())["access_token"]
body = json.dumps({"messages": [{"role": "user", "content": "Привет!"}]}).encode()
http.request("POST", at.path + "/chat/completions", body, {"Authorization": "Bearer " + token})
json.loads(http.getresponse().read())["choices"][0]["message"]["content"]
wall, cpu = time.monotonic() - float(started), time.process_time()
"""
REPORT = """
import json
try:
    peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
except OSError:
    peak = 0.0
print(json.dumps({"wall": wall, "cpu": cpu, "memory": peak}), flush=True)
os._exit(0)
"""


class Target(NamedTuple):
    """What has to hold: *what* is a ratio to "theirs" or "floor", or an "amount" of ours."""

    what: str
    most: float


class Case(NamedTuple):
    name: str
    worker: str  # what worker.py calls it; "" where each round is a fresh process
    rounds: int
    unit: str  # of the figures: s, ms, µs or MB
    per: int = 1  # how many units of work are in a round
    measure: str = "wall"
    targets: Tuple[Target, ...] = ()
    alone: bool = False  # the official SDK would take minutes, or opens no more than 100 connections


def ratio(most: float) -> Tuple[Target, ...]:
    return (Target("theirs", most),)


CASES = (
    Case("import", "", 21, "ms", targets=ratio(0.30)),
    Case("start to first answer", "", 21, "ms", targets=ratio(0.40)),
    Case("start to first answer: peak memory", "", 21, "MB", measure="memory", targets=ratio(0.60)),
    Case("chats, one after another", "chats", 31, "ms", 100, targets=(*ratio(0.50), Target("floor", 1.8))),
    # No target: json.loads() alone takes more than half of what the official SDK's compiled parser needs here. Its time
    # for a stream as the service frames it, which the target is about, goes into the chunks.
    Case("stream, events in large chunks", "stream@burst-4000", 15, "µs", 4000),
    Case("stream, a chunk for each event", "stream@framed-4000", 15, "µs", 4000, targets=ratio(0.50)),
    Case("stream, a TLS record for each event", "stream@records-4000", 15, "µs", 4000, targets=ratio(0.50)),
    Case("async stream, events in large chunks", "stream-async@burst-4000", 15, "µs", 4000),
    Case("async stream, a chunk for each event", "stream-async@framed-4000", 15, "µs", 4000, targets=ratio(0.60)),
    Case("async stream, a TLS record for each event", "stream-async@records-4000", 15, "µs", 4000, targets=ratio(0.60)),
    Case("paced stream: delay", "paced", 9, "µs", measure="value", targets=ratio(1.0)),
    Case("async paced stream: delay", "paced-async", 9, "µs", measure="value", targets=ratio(1.0)),
    Case("256 x 1,024 embeddings", "embeddings", 15, "ms", targets=ratio(0.95)),
    Case("96 achat, 200 ms each", "calls-slow", 9, "ms", targets=(*ratio(0.60), Target("amount", 260))),
    Case("96 achat, 200 ms each, cold", "calls-cold", 9, "ms", targets=ratio(1.0)),
    Case("upload of 256 MB", "upload", 7, "ms", targets=ratio(1.0)),
    Case("upload of 256 MB: memory added", "upload", 3, "MB", measure="memory", targets=(Target("amount", 4),)),
    Case("download of 256 MB (theirs: get_image)", "download", 5, "ms"),
    Case("download of 256 MB: memory added", "download", 3, "MB", measure="memory", targets=(Target("amount", 4),)),
    Case("10,000 messages in a request, dicts", "messages@10000", 9, "ms", targets=ratio(1.0)),
    Case("10,000 messages in a request, models", "messages-models@10000", 9, "ms", targets=ratio(1.0)),
)
SIZES = (10, 100, 1_000, 10_000)
WORST = (
    *("short lines", "blank lines", "lines that end with CR", "one long line"),
    *("chunks of a byte", "long chunk extensions", "a long trailer", "provisional answers", "a head that does not end"),
    *("short JSON lines", "one long JSON line", "images without an end", "escapes to look for secrets in"),
)
GROWTH = (
    *(Case(f"growth: an event of {n:,}", f"events@{n}", 7, "µs", measure="value") for n in SIZES),
    *(Case(f"growth: a message of {n:,}", f"messages@{n}", 7, "µs", n) for n in SIZES),
    *(Case(f"growth: an achat of {n:,}", f"calls@{n}", 5, "µs", n, alone=n > 1_000) for n in SIZES),
    *(
        Case(f"growth: memory of a stream of {n:,}", f"stream-memory@{n}", 3, "MB", measure="memory")
        for n in (1_000, 10_000, 100_000)
    ),
    # How many times the time for a megabyte each of 8 takes, at most; the floor is what is linear.
    *(
        Case(
            f"worst input: {name}", f"worst@{name}", 3, "x", measure="value", targets=(Target("floor", 2),), alone=True
        )
        for name in WORST
    ),
    *(
        Case(f"growth: a call beside {n:,} idle connections", f"idle@{n}", 7, "µs", 100, alone=n > 50)
        for n in (1, 10, 100, 500)
    ),
)
SCALE = {"x": 1, "s": 1, "ms": 1e3, "µs": 1e6, "MB": 1}


class Bench:
    """The server, the interpreter, and a place with our module and its bytecode."""

    def __init__(self, python: str, has_sdk: bool, module: pathlib.Path, place: str) -> None:
        self.python = python
        self.clients = [OURS, THEIRS, FLOOR] if has_sdk else [OURS, FLOOR]
        copied = shutil.copy(module, place)
        subprocess.run([python, "-m", "py_compile", copied], check=True)
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.upper().startswith(("GIGACHAT_", "PYTHON", "SSL_CERT_")) and not name.upper().endswith("_PROXY")
        }
        self.environment.update(PYTHONPATH=place, PYTHONIOENCODING="utf-8", NO_PROXY="localhost")
        self.server = subprocess.Popen(
            [
                sys.executable,
                str(HERE / "server.py"),
                str(CERTIFICATES / "server.pem"),
                str(CERTIFICATES / "server.key"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.server.stdout is not None
        self.port = int(self.server.stdout.readline())

    def close(self) -> None:
        self.server.communicate(b"")

    def measure(self, case: Case, rounds: int) -> Dict[str, List[Dict[str, Any]]]:
        """Run the clients turn by turn: what each round of each measured."""
        clients = [client for client in self.clients if client != THEIRS or not case.alone]
        found: Dict[str, List[Dict[str, Any]]] = {client: [] for client in clients}
        workers = {client: self._worker(case, client) for client in clients} if case.worker else {}
        for number in range(rounds + 1):
            turn = number % len(clients)  # another one goes first each time
            for client in clients[turn:] + clients[:turn]:
                measured = _ask(workers[client]) if case.worker else self._fresh(case, client)
                if number > 0:  # the first round warms up
                    found[client].append(measured)
        for worker in workers.values():
            worker.communicate()
        return found

    def _worker(self, case: Case, client: str) -> "subprocess.Popen[str]":
        command = [
            self.python,
            str(HERE / "worker.py"),
            case.worker,
            client,
            str(self.port),
            str(CERTIFICATES / "ca.pem"),
        ]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self.environment, universal_newlines=True
        )

    def _fresh(self, case: Case, client: str) -> Dict[str, Any]:
        if case.name == "import":
            script = IMPORT.format(modules="http.client, json, ssl" if client == FLOOR else client)
        else:
            script = FIRST_FLOOR if client == FLOOR else FIRST.format(modules=client)
        at = f"https://localhost:{self.port}/chat"
        arguments = [at + "/v1", at + "/oauth", str(CERTIFICATES / "ca.pem")]
        command = [self.python, "-c", script + REPORT, *arguments, str(time.monotonic())]
        done = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, check=True)
        measured: Dict[str, Any] = json.loads(done.stdout)
        return measured


def _ask(worker: "subprocess.Popen[str]") -> Dict[str, Any]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    measured: Dict[str, Any] = json.loads(worker.stdout.readline())
    return measured


def _amounts(case: Case, rounds: Sequence[Dict[str, Any]], measure: str) -> List[float]:
    per = case.per if measure in ("wall", "cpu") else 1
    return [measured[measure] / per * SCALE[case.unit] for measured in rounds if "failure" not in measured]


def _ratios(case: Case, found: Dict[str, List[Dict[str, Any]]], other: str, measure: str) -> List[float]:
    """Divide ours by the other's, round by round."""
    pairs = zip(_amounts(case, found[OURS], measure), _amounts(case, found.get(other, []), measure))
    return [ours / theirs for ours, theirs in pairs if theirs > 0]


def _quartiles(amounts: List[float]) -> Optional[Tuple[float, float, float]]:
    if len(amounts) < 2:
        return (amounts[0],) * 3 if amounts else None  # type: ignore[return-value]
    low, middle, high = statistics.quantiles(amounts, n=4, method="inclusive")
    return low, middle, high


def report(case: Case, found: Dict[str, List[Dict[str, Any]]]) -> str:
    """Write one row of the table."""
    medians = {}
    for client, rounds in found.items():
        failures = [measured["failure"] for measured in rounds if "failure" in measured]
        amounts = _amounts(case, rounds, case.measure)
        medians[client] = failures[0].partition(":")[0] if failures else f"{statistics.median(amounts):.4g}"
    compared = case.measure != "memory" or any(target.what == "theirs" for target in case.targets)
    theirs = _quartiles(_ratios(case, found, THEIRS, case.measure)) if compared else None
    floor = _quartiles(_ratios(case, found, FLOOR, case.measure))
    cpu = _quartiles(_ratios(case, found, THEIRS, "cpu"))
    verdicts = []
    for target in case.targets:
        reached = {"theirs": theirs and theirs[1], "floor": floor and floor[1]}.get(target.what)
        if target.what == "amount":
            reached = statistics.median(_amounts(case, found[OURS], case.measure))
        name = {"theirs": "", "floor": " x floor", "amount": f" {case.unit}"}[target.what]
        verdict = "?" if reached is None else "yes" if reached <= target.most else "NO"
        verdicts.append(f"<= {target.most:g}{name}: {verdict}")
    timed = case.measure == "wall"
    return " | ".join([
        f"| {case.name}, {case.unit}",
        medians[OURS],
        medians.get(THEIRS, "-"),
        f"{theirs[1]:.2f} ({theirs[0]:.2f}-{theirs[2]:.2f})" if theirs else "-",
        f"{cpu[1]:.2f}" if cpu and timed else "-",
        medians[FLOOR],
        f"{floor[1]:.2f}" if floor and case.measure != "memory" else "-",
        "; ".join(verdicts) or "-",
    ]) + " |"  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdk", metavar="PYTHON", default=sys.executable, help="a Python that can import gigachat")
    parser.add_argument("--only", metavar="CASE", default="", help="run the cases whose name contains this")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for a first look only")
    parser.add_argument(
        "--module", type=pathlib.Path, default=ROOT / "gigachat_lite.py", help="another gigachat_lite.py"
    )
    arguments = parser.parse_args()
    asked = "import sys, importlib.metadata as m; print(sys.version.split()[0], m.version('gigachat'))"
    answer = subprocess.run(
        [arguments.sdk, "-c", asked], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
    )
    has_sdk = answer.returncode == 0
    version, sdk = answer.stdout.decode().split() if has_sdk else (platform.python_version(), "-")
    print(f"Python {version}, official SDK {sdk}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores\n")
    print("| case | ours | SDK | ours/SDK (middle half) | cpu | floor | ours/floor | target |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    python = arguments.sdk if has_sdk else sys.executable
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(python, has_sdk, arguments.module, place)
        try:
            for case in (*CASES, *GROWTH):
                if arguments.only in case.name:
                    rounds = max(3, case.rounds // 3) if arguments.quick else case.rounds
                    print(report(case, bench.measure(case, rounds)), flush=True)
        finally:
            bench.close()


if __name__ == "__main__":
    main()
