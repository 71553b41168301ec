"""Server-sent events, the parser alone: bytes in, events out, however the network cuts them.

The examples are those of https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation and
what GigaChat sends.
"""

import time

import pytest

from gigachat_lite import InvalidResponseError, _EventParser


def parse(pieces):
    """Give the events of a stream that came in *pieces*, and ended."""
    parser = _EventParser()
    events = [event for piece in pieces for event in parser.feed(piece)]
    return [tuple(event) for event in events + parser.end()]


def cuts(stream):
    """Give every way to cut *stream* in two, and byte by byte."""
    yield [stream]
    for at in range(len(stream) + 1):
        yield [stream[:at], stream[at:]]
    yield [stream[at : at + 1] for at in range(len(stream))]


CASES = {
    "nothing": (b"", []),
    "one": (b"data: 1\n\n", [("", b"1")]),
    "several": (b"data: 1\n\ndata: 2\n\ndata: [DONE]\n\n", [("", b"1"), ("", b"2"), ("", b"[DONE]")]),
    "CRLF": (b"data: 1\r\n\r\ndata: 2\r\n\r\n", [("", b"1"), ("", b"2")]),
    "CR": (b"data: 1\r\rdata: 2\r\r", [("", b"1"), ("", b"2")]),
    "mixed line ends": (b"data: 1\r\n\ndata: 2\n\r\ndata: 3\r\r\ndata: 4\n\r", [("", b"%d" % n) for n in (1, 2, 3, 4)]),
    "CR then LF of the same line": (b"data: 1\r\ndata: 2\r\n\r\n", [("", b"1\n2")]),
    "LF then CR are two": (b"data: 1\n\rdata: 2\n\r", [("", b"1"), ("", b"2")]),
    "no space": (b"data:1\n\ndata:  2 \n\n", [("", b"1"), ("", b" 2 ")]),
    "multi-line data": (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("", b"YHOO\n+2\n10")]),
    "empty data": (b"data\n\ndata\ndata\n\ndata:\n\n", [("", b""), ("", b"\n"), ("", b"")]),
    "BOM": (b"\xef\xbb\xbfdata: 1\n\n", [("", b"1")]),
    "BOM only once": (b"data: 1\n\n\xef\xbb\xbfdata: 2\n\n", [("", b"1")]),
    "BOM in front of a blank line": (b"\xef\xbb\xbf\ndata: 1\n\n", [("", b"1")]),
    "two BOMs": (b"\xef\xbb\xbf\xef\xbb\xbfdata: 1\n\n", []),
    "comments": (b": ping\n\n:\ndata: 1\n: inside\ndata: 2\n\n: last\n\n", [("", b"1\n2")]),
    "names": (b"event: error\ndata: 1\n\ndata: 2\n\nevent:x\ndata: 3\n\n", [("error", b"1"), ("", b"2"), ("x", b"3")]),
    "last name counts": (b"event: a\nevent: b\ndata: 1\n\n", [("b", b"1")]),
    "name without data": (b"event: a\n\ndata: 1\n\n", [("", b"1")]),
    "id and retry": (b"id: 7\nretry: 10\ndata: 1\n\nid\n\n", [("", b"1")]),
    "unknown fields": (b"datum: 1\nDATA: 2\n data: 3\ndata : 4\ndata: 5\n\n", [("", b"5")]),
    "colons in the data": (b"data: a: b:\n\ndata::\n\n", [("", b"a: b:"), ("", b":")]),
    "blank lines": (b"\n\n\r\n\rdata: 1\n\n\n\n\n", [("", b"1")]),
    "no last blank line": (b"data: 1\n\ndata: 2\n", [("", b"1"), ("", b"2")]),
    "no last line end": (b"data: 1\n\ndata: 2", [("", b"1"), ("", b"2")]),
    "ends in CR": (b"data: 1\r", [("", b"1")]),
    "Unicode line ends": (
        "data: а\u2028б\u2029в\u0085г\x0bд\x0cе\x1cж\n\n".encode(),
        [("", "а\u2028б\u2029в\u0085г\x0bд\x0cе\x1cж".encode())],
    ),
    "emoji": ("data: 👨‍👩‍👧 😀\n\nevent: имя\ndata: 1\n\n".encode(), [("", "👨‍👩‍👧 😀".encode()), ("имя", b"1")]),
    "no UTF-8": (b"event: \xff\ndata: \xff\xfe\n\n", [("\ufffd", b"\xff\xfe")]),
    "NUL": (b"data: \x00\n\n", [("", b"\x00")]),
}


@pytest.mark.parametrize(("stream", "events"), CASES.values(), ids=CASES)
def test_cut_anywhere(stream, events):
    """The events are the same wherever the stream is cut: at every byte, and byte by byte."""
    for pieces in cuts(stream):
        assert parse(pieces) == events, pieces


def test_everything_in_one_stream():
    """All cases but those about a beginning or an end give their events one after another, cut anywhere."""
    inside = [
        case for name, case in CASES.items() if "BOM" not in name and not name.startswith(("no last", "ends", "blank"))
    ]
    stream = b"".join(stream + b"\n\n" for stream, _ in inside)
    events = [event for _, events in inside for event in events]
    for pieces in cuts(stream):
        assert parse(pieces) == events, pieces


def test_events_come_at_once():
    """An event is given by the feed that brings its blank line, not later; after CR nothing waits for an LF."""
    parser = _EventParser()
    assert parser.feed(b"data: 1\n") == []
    assert [event.data for event in parser.feed(b"\nda")] == [b"1"]
    assert parser.feed(b"ta: 2\r") == []
    assert [event.data for event in parser.feed(b"\r")] == [b"2"]
    assert parser.feed(b"\n") == []
    assert parser.end() == []


def seconds_for(size, piece_size):
    """Measure an event of *size* bytes; the better of three."""
    stream = b"data: " + b"x" * size + b"\n\n"
    pieces = [stream[at : at + piece_size] for at in range(0, len(stream), piece_size)]
    spent = []
    for _ in range(3):
        started = time.process_time()
        events = parse(pieces)
        spent.append(time.process_time() - started)
        assert [len(data) for _, data in events] == [size]
    return min(spent)


@pytest.mark.parametrize("piece_size", [100, 16_384])
def test_large_event_is_linear(piece_size):
    """An event of 5 MB in small pieces takes about five times as long as one of 1 MB, not 25 times."""
    ratio = seconds_for(5_000_000, piece_size) / max(seconds_for(1_000_000, piece_size), 0.000_5)
    assert ratio < 15


def test_many_lines_in_an_event_are_linear():
    """So does an event of many lines."""

    def seconds(count):
        stream = b"data: x\n" * count + b"\n"
        started = time.process_time()
        assert len(parse([stream[at : at + 1_000] for at in range(0, len(stream), 1_000)])) == 1
        return time.process_time() - started

    assert min(seconds(100_000) for _ in range(3)) / max(min(seconds(20_000) for _ in range(3)), 0.000_5) < 15


@pytest.mark.parametrize(
    "piece",
    [b"x" * 100, b"data: " + b"x" * 93 + b"\n", b"data: x\r\n", b": comment\n", b"event: " + b"x" * 50 + b"\n"],
    ids=["one line", "many lines", "short lines", "comments", "names"],
)
def test_too_large_event(monkeypatch, piece):
    """An event without an end is refused when it exceeds the bound, however it is made up."""
    monkeypatch.setattr(_EventParser, "_MOST_EVENT_BYTES", 10_000)
    parser = _EventParser()
    with pytest.raises(InvalidResponseError, match="an event of more than 10000 bytes"):
        for _ in range(10_000 // len(piece) + 2):
            parser.feed(piece)


def test_bound_is_for_one_event(monkeypatch):
    """Streams of any length pass: only what has come since the last blank line counts."""
    monkeypatch.setattr(_EventParser, "_MOST_EVENT_BYTES", 10_000)
    event = b"data: " + b"x" * 5_000 + b"\n\n"
    assert len(parse([event] * 100)) == 100
    assert len(parse([event * 100])) == 100
    whole = event * 20
    assert len(parse([whole[at : at + 7_000] for at in range(0, len(whole), 7_000)])) == 20
