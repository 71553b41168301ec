#!/usr/bin/env python3
"""Embed each line of a text file: many requests at once, in constant memory, and a kill loses nothing.

    python3 examples/embed_corpus.py corpus.txt vectors.jsonl [--at-once 64] [--dask tcp://scheduler:8786]

The text is UTF-8; blank lines are skipped. Each line of the result is {"line": 1, "embedding": [...]}, in the order of
the text, or {"line": 2, "error": "..."} for one that is not UTF-8 or too long for the model.

After a kill, run the same command again: it goes on after the last whole line of the result. vectors.jsonl.source
beside it names the model and holds a fingerprint of each line: a result of another text or model is left alone.

Requests run in threads, or on a Dask cluster (https://distributed.dask.org): `pip install distributed` on each
machine, `dask scheduler` on one, `dask worker tcp://scheduler:8786` on all. The client travels to the workers by
pickle, with its secrets: use a cluster that you trust, or TLS. Files that settings name, such as ca_bundle_file, must
be on each machine under the same path. From Python, embed_corpus() takes any concurrent.futures.Executor.
"""

import argparse
import collections
import datetime as dt
import hashlib
import itertools
import json
import mmap
import os
import pickle
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

import gigachat_lite
from gigachat_lite import GigaChat, GigaChatException, RequestEntityTooLargeError

LINE_START = b'{"line": '

clients = {}  # by what they are pickled to: settings, no connections


def kept_client(pickled):
    """Unpickle the client: once in a worker, for all its threads."""
    return clients.get(pickled) or clients.setdefault(pickled, pickle.loads(pickled))


def embed(pickled, model, batch):
    """Embed the (number, line) pairs of a batch, in a worker; give the lines of the result."""
    try:
        texts = [line.decode("utf-8-sig").strip() for _, line in batch]
        answer = kept_client(pickled).embeddings(texts, model)
        found = {item.index: {"embedding": item.embedding} for item in answer.data}
    except (UnicodeDecodeError, RequestEntityTooLargeError) as error:
        if len(batch) > 1:  # find the one that it is about
            half = len(batch) // 2
            return embed(pickled, model, batch[:half]) + embed(pickled, model, batch[half:])
        found = {0: {"error": str(error)}}
    lines = [json.dumps({"line": number, **found[index]}) + "\n" for index, (number, _) in enumerate(batch)]
    return "".join(lines).encode("ascii")


def lock(result):
    """Keep other runs from the result until it is closed, or this process has ended."""
    if fcntl is not None:
        try:
            fcntl.flock(result, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{result.name} is being written by another run") from None


def resume(result):
    """Cut off a last line that is not whole; give the number of the last one that is."""
    if not os.fstat(result.fileno()).st_size:
        return 0
    with mmap.mmap(result.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = content.rfind(b"\n") + 1
        last = content[content.rfind(b"\n", 0, max(0, end - 1)) + 1 : end] or LINE_START + b"0,"
        torn = content[end : end + len(LINE_START)]
    found = re.match(re.escape(LINE_START) + rb"(\d+),", last)
    if not (found and LINE_START.startswith(torn)):
        raise ValueError(f"{result.name} holds something else already")
    result.truncate(end)
    return int(found.group(1))


def fingerprint(number, line):
    return f"{number} {hashlib.blake2b(line.strip(), digest_size=8).hexdigest()}\n".encode("ascii")


def skip(done, text, source, model):
    """Read past the first *done* lines of the text; ValueError unless the result is of these and of this model."""
    header = f"model {model}\n".encode()
    if not done:
        source.write(header)
    else:
        found = source.readline()
        if found != header:
            raise ValueError(f"the result is of {found.decode().strip()}, not of {header.decode().strip()}")
    for number in range(1, done + 1):
        line = text.readline()
        if not line:
            raise ValueError(f"{text.name} ends at line {number - 1}, the result at {done}: it is of another text")
        if line.strip() and source.readline() != fingerprint(number, line):
            raise ValueError(f"line {number} of {text.name} is not what it was: the result is of another text")
    source.truncate()


def embed_corpus(client, text_path, result_path, executor, at_once=8, batch_size=32, model="Embeddings"):
    """Embed the text on *executor*; give how many lines could not be embedded.

    Twice *at_once* batches are in work or waiting, so that no worker runs idle.
    """
    failures = 0
    if batch_size < 1:
        raise ValueError("a request takes one line or more")
    pickled = pickle.dumps(client)
    clients[pickled] = client  # for workers that are threads here
    with ExitStack() as opened:
        text = opened.enter_context(open(text_path, "rb"))
        result = opened.enter_context(open(result_path, "a+b"))
        lock(result)
        done = resume(result)
        source_path = f"{result_path}.source"
        if done and not os.path.exists(source_path):
            raise ValueError(f"{result_path} has lines already, and {source_path}, which says of what, is missing")
        source = opened.enter_context(open(source_path, "r+b" if done else "w+b"))
        skip(done, text, source, model)
        if done:
            print(f"{result_path} goes up to line {done:,} already: going on from there", file=sys.stderr)
        progress = Progress(done, text)
        lines = ((number, line) for number, line in enumerate(text, done + 1) if line.strip())
        waiting = collections.deque()
        try:
            for batch in iter(lambda: list(itertools.islice(lines, batch_size)), []):
                waiting.append((executor.submit(embed, pickled, model, batch), batch, text.tell()))
                if len(waiting) >= 2 * at_once:
                    failures += write_first(waiting, result, source, progress)
            while waiting:
                failures += write_first(waiting, result, source, progress)
        finally:
            for future, *_ in waiting:
                future.cancel()
    return failures


def write_first(waiting, result, source, progress):
    """Wait for the first of the batches and append what it gave; give the number of lines that failed."""
    future, batch, end = waiting.popleft()
    lines = future.result()
    for file, content in ((source, b"".join(itertools.starmap(fingerprint, batch))), (result, lines)):  # in this order
        file.write(content)
        file.flush()
    progress.show(batch[-1][0], end)
    return lines.count(b', "error": ')


class Progress:
    """A line on the terminal: how far, how fast, how much longer."""

    def __init__(self, number, text):
        self.first, self.begin, self.size = number, text.tell(), os.fstat(text.fileno()).st_size
        self.started = time.monotonic()

    def show(self, number, end):
        if not sys.stderr.isatty():
            return
        seconds = max(time.monotonic() - self.started, 0.001)
        rate = (number - self.first) / seconds
        left = dt.timedelta(seconds=round(seconds * (self.size - end) / (end - self.begin)))
        done = end / self.size
        shown = f"[{'#' * int(40 * done):40}] {done:4.0%}, line {number:,}, {rate:,.0f} a second, {left} left"
        print(f"\r{shown:<100}", end="", file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text", help="what to embed: one text a line, UTF-8")
    parser.add_argument("result", help="where to put the vectors: JSON lines, appended")
    parser.add_argument("--model", default="Embeddings")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="lines in a request: %(default)s")
    parser.add_argument("--at-once", type=int, default=8, metavar="N", help="requests at a time: %(default)s")
    parser.add_argument("--dask", metavar="tcp://HOST:PORT", help="the scheduler of the cluster to run on")
    options = parser.parse_args()
    with ExitStack() as opened:
        try:
            if options.dask:
                from distributed import Client

                cluster = opened.enter_context(Client(options.dask))
                cluster.upload_file(gigachat_lite.__file__)  # so that workers need nothing but Dask
                cluster.upload_file(__file__)
                executor = cluster.get_executor(pure=False)
            else:
                executor = opened.enter_context(ThreadPoolExecutor(options.at_once))
            client = opened.enter_context(GigaChat(max_retries=8))  # the first to be closed: that ends what runs
            failures = embed_corpus(
                client, options.text, options.result, executor, options.at_once, options.batch_size, options.model
            )
            return failures and f"embed_corpus: {failures} line{'s'[: failures > 1]} failed: {options.result} tells why"
        except (GigaChatException, OSError, ValueError, ImportError) as error:
            return f"embed_corpus: {error}"
        except KeyboardInterrupt:
            return 130
        finally:
            if sys.stderr.isatty():
                print(file=sys.stderr)


if __name__ == "__main__":
    import embed_corpus as imported  # workers find functions by the module's name, and __main__ is another there

    sys.exit(imported.main())
