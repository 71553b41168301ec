#!/usr/bin/env python3
"""A GigaChat look-alike in memory: for trying out clients and for testing them, without a key and without the Internet.

Run it (Ctrl-C ends it) and paste what it prints into the shell of the client::

    python examples/local_server.py --port 8443 --tls tests/certs/server.pem tests/certs/server.key

or use it in a test::

    with LocalServer(tls=("server.pem", "server.key")) as server:
        os.environ.update(server.environment())
        ...
        assert server.requests[-1].headers["X-Request-ID"] == "7"

One port serves OAuth, the API under ``/api/v1`` and ``/v1``, and chat v2 under ``/api/v2`` and ``/v2``. HTTP/2 is not
served. What is known of the real service is kept byte for byte; what nobody has recorded is marked ``INVENTION`` here.

The first rule that fits the question decides the answer, in chat, threads and batches alike:

1. A message contains a banned word (``запрещёнка`` or ``forbidden-topic``) and the filter is on: a refusal, finish
   reason ``blacklist``. The question contains ``model-error``: no answer, finish reason ``error``.
2. The last message is a function result: a sentence with the function's name, the result and the question.
3. The last message is the user's and ``function_call`` is not ``"none"`` (absent: ``auto`` if functions are given):
   a call of the forced function, else of the custom function that the message names (in chat v2, of all that it names),
   else of the first custom one. Arguments fit its JSON Schema: ``const``, ``default``, the first of ``enum`` or
   ``examples``, else strings are the user's text (dates, times, email, uuid and uri have a fixed value, ``pattern`` is
   not heeded), numbers 1 or another that is allowed, booleans true, arrays one element, objects all properties.
   ``partial_arguments`` win. Keys are sorted.
4. As 3, but the function is built in: forced, or listed where the message fits ``OCCASIONS``. ``text2image``, also in
   mode ``auto`` without functions, gives ``<img src="ID" fuse="true"/> ...``: a small grey JPEG with the question in
   its comment. In chat v2 ``image_generate`` gives that JPEG and ``web_search`` sources, even where nothing else fits.
   Other built-in tools are only named in the stream. ``code_interpreter`` is unavailable, as in the service.
5. ``response_format``: ``json_schema`` gives JSON that fits the schema as in 3, indented by 4; ``regex`` gives the
   first alternative of the expression, so only expressions made of plain words work.
6. Else the answer, in Russian if the question has Cyrillic letters and in English otherwise, quotes the question (its
   first 1,000 characters), the system message and the first question, counts the messages before it without the system
   message, and describes the attachments of the last message: name, type, size, the first words of a text.

Reasoning is added where it is asked for; ``max_tokens`` cuts it and the text: finish reason ``length``; ``n`` repeats
the answer. A token is a run of up to 6 letters or digits, or one other character that is no white space.
``/tokens/count`` and ``usage`` count them in the ``content`` of all messages, the JSON of ``functions``, the answer and
its function call. ``precached_prompt_tokens``: messages with which the last request of the ``X-Session-ID`` began, too.

Embeddings are hashed words and three-letter pieces: texts that share words are near each other. ``/ai/check`` takes
sentences that mention a ``языковая модель`` or ``language model`` for machine-made. A batch moves on each time someone
looks at it: created, in_progress, completed. ``/functions/convert`` reads OpenAPI documents in JSON.
"""
import argparse
import base64
import errno
import json
import math
import os
import re
import secrets
import shlex
import socket
import ssl
import sys
import threading
import time
import traceback
import uuid
import zlib
from contextlib import contextmanager, suppress
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, takewhile
from socketserver import TCPServer
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence
from typing import Set, Tuple, Type, TypeVar, Union
from urllib.parse import parse_qs, unquote

JSON = Any
Kind = TypeVar("Kind")
Object = Dict[str, JSON]
Pairs = Sequence[Tuple[str, str]]
Types = Dict[str, Tuple[Type[object], ...]]

SCOPES = ("GIGACHAT_API_PERS", "GIGACHAT_API_B2B", "GIGACHAT_API_CORP")
CORP = SCOPES[-1]
VERSION = "2.0.30.01"
MODELS = {name: kind for kind, names in {
    "chat": "GigaChat GigaChat-2 GigaChat-2-Max GigaChat-2-Max-preview GigaChat-2-Pro GigaChat-2-Pro-preview "
            "GigaChat-2-preview GigaChat-Max GigaChat-Max-preview GigaChat-Plus GigaChat-Pro GigaChat-Pro-preview "
            "GigaChat-preview",
    "filter": "GigaFilter",
    "aicheck": "GigaCheckClassification GigaCheckDetection",
    "embedder": "Embeddings Embeddings-2 EmbeddingsGigaR GigaEmbeddings-3B-2025-09",
}.items() for name in names.split()}
VECTOR_SIZES = {"Embeddings": 1024, "Embeddings-2": 1024, "EmbeddingsGigaR": 2560, "GigaEmbeddings-3B-2025-09": 2048}
BUILT_IN_FUNCTIONS = {"text2image", "get_file_content", "text2model3d"}
BANNED_WORDS = ("запрещёнка", "forbidden-topic")
BYTES_TYPE = "application/octet-stream"
DONE = b"data: [DONE]\n\n"


# ---------- requests and answers
class Headers(Mapping[str, str]):
    """Header fields by name, in upper or lower case; ``raw`` has them as they were sent, repeated ones too."""
    def __init__(self, raw: Pairs) -> None:
        self.raw = list(raw)
        self._values = {name.lower(): value for name, value in raw}

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self.raw)

class Received(NamedTuple):
    """One request as it came in: path and query still percent-encoded, body without chunk framing."""
    method: str
    path: str
    query: str
    headers: Headers
    body: bytes
    connection: int
    peer_certificate: Optional[Object]
    version: str

class Reply(NamedTuple):
    """One answer. An iterator as body is sent chunk by chunk, at least ``interval`` seconds apart."""
    body: Union[bytes, Iterator[bytes]]
    status: int = 200
    content_type: str = "application/json; charset=utf-8"
    chunked: bool = False
    interval: float = 0
    headers: Pairs = ()

class Failure(Exception):
    """An error answer of the API, or with a *code* one of OAuth, which has a shape of its own."""
    def __init__(self, status: int, message: str, code: Optional[int] = None) -> None:
        super().__init__(status, message)
        self.status = status
        self.body: Object = {**({"status": status} if code is None else {"code": code}), "message": message}

    def reply(self) -> Reply:
        if "code" in self.body:  # whether this one ends with a newline is not known
            return Reply(dump(self.body), self.status, "application/json")
        return Reply(dump(self.body) + b"\n", self.status)

def bad_request() -> Failure:
    return Failure(400, "Your request contains invalid JSON syntax.")

def invalid(detail: str) -> Failure:
    return Failure(422, "Invalid params: " + detail)

def dump(value: JSON) -> bytes:
    """Write JSON as the service does: compact, UTF-8, nothing escaped that need not be."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")

def load(data: Union[str, bytes]) -> JSON:
    try:
        return json.loads(data, parse_constant=int)  # int("NaN") is a ValueError
    except (ValueError, RecursionError) as error:
        raise bad_request() from error

def event(data: JSON, name: str = "") -> bytes:
    return (b"event: %b\n" % name.encode() if name else b"") + b"data: " + dump(data) + b"\n\n"

def event_stream(events: Iterable[bytes], interval: Optional[float], *end: bytes) -> Reply:
    return Reply(chain(events, end), content_type="text/event-stream", interval=interval or 0)

def find(table: Mapping[str, Kind], id: JSON, what: str) -> Kind:
    """Look *id* up in *table*."""
    if not isinstance(id, str) or id not in table:
        raise Failure(404, "No such " + what)  # INVENTION: the text of all but models
    return table[id]

def with_version(model: str) -> str:
    return model.split(":")[0] + ":" + VERSION

def now() -> int:
    return int(time.time())

def new_id() -> str:
    return str(uuid.uuid4())

def uuid7() -> str:
    """Make an id that begins with the time, as state ids do since Oct 2025 (``uuid.uuid7`` needs Python 3.14)."""
    return str(uuid.UUID("%012x7%s" % (int(time.time() * 1000), uuid.uuid4().hex[13:])))

class Call:
    """A request that passed authentication, with what its endpoint asks of it."""
    def __init__(self, request: Received, scope: str, id: str = "") -> None:
        self.request, self.scope, self.id = request, scope, id
        self.client_id = request.headers.get("X-Client-ID")

    @cached_property
    def body(self) -> Object:
        """The JSON object that came."""
        body = load(self.request.body)
        if not isinstance(body, dict):
            raise bad_request()
        return body

    def values(self, name: str) -> List[str]:
        """Return what the query says about *name*, which may come several times."""
        return parse_qs(self.request.query).get(name, [])

    def value(self, name: str) -> str:
        return (self.values(name) or [""])[0]

    def number(self, name: str) -> int:
        """Return an integer of the query, 0 if it is absent."""
        try:
            return int(self.value(name) or 0)
        except ValueError as error:
            raise bad_request() from error


# ---------- the "model"
TOKEN = re.compile(r"\w{1,6}|[^\w\s]")
PHRASE = re.compile(r".{1,24}\S{0,16}\s*", re.DOTALL)
CYRILLIC = re.compile("[а-яё]", re.IGNORECASE)
DRAWING = "нарису|изобраз|draw|paint"
OCCASIONS = {  # the questions for which built-in tools are used
    "text2image": DRAWING, "image_generate": DRAWING, "model_3d_generate": "3d|3д", "url_content_extraction": "https?://",
    "code_interpreter": "код|вычисли|code|compute", "get_datetime": "который час|сегодня|time|today",
    "web_search": "найди|поищи|новост|search|news", "memory": "запомни|remember"}
SOURCES = {str(number): {"url": "https://example.com/%d" % number, "title": "Example %d" % number} for number in (1, 2)}
QUOTED_CHARACTERS = 1000
FORMATS = {"date": "2026-01-21", "date-time": "2026-01-21T12:00:00Z", "time": "12:00:00", "email": "user@example.com",
           "uuid": "00000000-0000-4000-8000-000000000000", "uri": "https://example.com/"}
RUSSIAN = {
    "refusal": "Как и любая языковая модель, GigaChat не обладает собственным мнением. Эта тема ограничена.",
    "result": "Функция {name} вернула {result}. Это и есть ответ на вопрос «{text}».",
    "echo": "Вы написали: «{text}». До этого сообщений в разговоре: {earlier}. ",
    "system": "Моя роль: «{system}». ", "first": "Разговор начался с вопроса «{first}». ",
    "file": "Приложен файл {name} ({mime}, {size} байт). ", "start": "Он начинается так: «{start}». ",
    "end": "Это ответ локального сервера: он лишь повторяет услышанное, а настоящая модель ответила бы по существу.",
    "image": " Вот мой рисунок: {text}", "reasoning": "Пользователь спрашивает: «{text}». Повторю вопрос.",
}
ENGLISH = {
    "refusal": "Like any language model, GigaChat has no opinion of its own. Talk about this topic is restricted.",
    "result": "The function {name} returned {result}. That answers the question \"{text}\".",
    "echo": "You wrote: \"{text}\". Earlier messages in this conversation: {earlier}. ",
    "system": "My role: \"{system}\". ", "first": "We began with the question \"{first}\". ",
    "file": "Attached file {name} ({mime}, {size} bytes). ", "start": "It begins: \"{start}\". ",
    "end": "This is the local server: it only repeats what it hears, where the real model would answer to the point.",
    "image": " Here is my picture: {text}", "reasoning": "The user asks: \"{text}\". I shall repeat the question.",
}


class Answer(NamedTuple):
    """What the model said, and the built-in tool of chat v2 that it used."""
    content: str
    finish_reason: str = "stop"
    calls: Sequence[Object] = ()
    state_id: str = ""
    reasoning: str = ""
    tool: str = ""

    def message(self) -> Object:
        optional = {"function_call": self.calls[0] if self.calls else None, "functions_state_id": self.state_id,
                    "reasoning_content": self.reasoning, "function_calls": self.calls if len(self.calls) > 1 else None}
        return {"content": self.content, "role": "assistant", **{key: one for key, one in optional.items() if one}}

    def deltas(self) -> List[Object]:
        """Return the pieces in which a stream brings the message."""
        first, *others = PHRASE.findall(self.content) or [""]
        return [{**self.message(), "content": first}] + [{"content": text} for text in others]

    def parts(self) -> List[Object]:
        """Return the content of the message as chat v2 has it."""
        picture = re.match('<img src="([^"]*)" fuse="true"/> ?', self.content)
        text = self.content[picture.end():] if picture else self.content
        parts: List[Object] = [{"inline_data": {"images": [], "sources": SOURCES}}] if self.tool == "web_search" else []
        if picture:
            parts.append({"files": [{"id": picture.group(1), "mime": "image/jpeg", "target": "image"}]})
        return parts + ([{"text": text}] if text else []) + [{"function_call": one} for one in self.calls]

    def cut(self, max_tokens: int) -> "Answer":
        """Keep the first *max_tokens* tokens of the text."""
        ends = [piece.end() for piece in TOKEN.finditer(self.content)]
        if self.finish_reason != "stop" or len(ends) <= max_tokens:
            return self
        return self._replace(content=self.content[:([0] + ends)[max_tokens]], finish_reason="length")

class StoredFile(NamedTuple):
    id: str
    data: bytes
    name: str
    mime: str
    created_at: int
    client_id: Optional[str]

    def describe(self) -> Object:
        seen = {"modalities": ["image"]} if self.mime.startswith("image/") else {}
        return {"id": self.id, "object": "file", "bytes": len(self.data), "created_at": self.created_at,
                "filename": self.name, "purpose": "general", "access_policy": "private", **seen}

def count_tokens(text: str) -> int:
    return len(TOKEN.findall(text))

def last_question(messages: List[Object]) -> str:
    asked = [message["content"] for message in messages if message["role"] == "user"] or [""]
    return str(asked[-1][:QUOTED_CHARACTERS])

def speech(text: str) -> Dict[str, str]:
    """Return the sentences in the language of *text*."""
    return RUSSIAN if CYRILLIC.search(text) else ENGLISH

def echo(messages: List[Object], files: List[StoredFile]) -> str:
    """Repeat what *messages* say."""
    talk = [message for message in messages if message["role"] != "system"]
    system = [message["content"] for message in messages if message["role"] == "system"]
    asked = [message["content"] for message in talk if message["role"] == "user"]
    sentences = speech(last_question(talk))
    text = sentences["echo"].format(text=last_question(talk), earlier=max(len(talk) - 1, 0))
    if system:
        text += sentences["system"].format(system=system[0][:QUOTED_CHARACTERS])
    if len(asked) > 1:
        text += sentences["first"].format(first=asked[0][:QUOTED_CHARACTERS])
    for file in files:
        text += sentences["file"].format(name=file.name, mime=file.mime, size=len(file.data))
        if file.mime.startswith("text/"):
            text += sentences["start"].format(start=" ".join(file.data[:400].decode("utf-8", "ignore").split()[:12]))
    return text + sentences["end"]

def pick_functions(body: Object, built_in: Set[str], text: str) -> List[str]:
    """Choose what an answer to *text* calls: functions of the client's, or one that is built in."""
    mode = body.get("function_call") or ("auto" if body.get("functions") else "none")
    if isinstance(mode, dict):
        return [str(mode["name"])]
    names = [function["name"] for function in body.get("functions") or [{"name": "text2image"}]]
    custom = [name for name in names if name not in built_in]
    fitting = [name for name in names if name in built_in and re.search(OCCASIONS.get(name, "$^"), text, re.I)]
    named, searching = [name for name in custom if name in text], [name for name in names if name == "web_search"]
    return [] if mode == "none" else named or fitting[:1] or custom[:1] or searching

def function_arguments(body: Object, name: str, text: str) -> Object:
    schema = next(function for function in body["functions"] if function["name"] == name).get("parameters") or {}
    filled, mode = fill(schema, text, schema), body.get("function_call")
    known = mode.get("partial_arguments") or {} if isinstance(mode, dict) else {}
    return dict(sorted({**(filled if isinstance(filled, dict) else {}), **known}.items()))

def fill(schema: JSON, text: str, root: Object, depth: int = 0) -> JSON:
    """Make a value that fits a JSON Schema; strings are *text*. *depth* ends schemas that contain themselves."""
    if not isinstance(schema, dict):
        return text
    schema = resolve(schema, root)
    given = [schema[key] for key in ("const", "default") if key in schema]
    given += [schema[key][0] for key in ("enum", "examples") if schema.get(key)]
    if given:
        return given[0]
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return fill(choices[0], text, root, depth + 1)
    for part in schema.get("allOf") or []:
        schema = {**resolve(part, root), **schema}
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind == "object":
        known, required = schema.get("properties") or {}, schema.get("required") or []
        wanted = [] if depth > 20 else required if depth > 6 else dict.fromkeys([*known, *required])
        return {name: fill(known.get(name, {}), text, root, depth + 1) for name in wanted}
    if kind == "array":
        items = [fill(one, text, root, depth + 1) for one in schema.get("prefixItems") or []]
        size = max(schema.get("minItems", 0), 0 if depth > 6 or items else 1) if depth <= 20 else 0
        items += [fill(schema.get("items", {}), text, root, depth + 1) for _ in range(len(items), size)]
        return items[:schema.get("maxItems")]
    if kind in ("integer", "number"):
        return fill_number(kind, schema)
    if kind in ("boolean", "null"):
        return True if kind == "boolean" else None
    if schema.get("format") in FORMATS:
        return FORMATS[schema["format"]]
    return text[:schema.get("maxLength", QUOTED_CHARACTERS)].ljust(schema.get("minLength", 0), "-")

def fill_number(kind: str, schema: Object) -> float:
    """Return 1, or another number that the schema allows."""
    low: Any = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high: Any = schema.get("maximum", schema.get("exclusiveMaximum", low + 1))
    step: Any = schema.get("multipleOf", 1)
    tries = [1, 0, math.ceil(low / step) * step, (low // step + 1) * step, high // step * step, (low + high) / 2]
    found = next((number for number in tries
                  if schema.get("minimum", number) <= number <= schema.get("maximum", number)
                  and schema.get("exclusiveMinimum", number - 1) < number < schema.get("exclusiveMaximum", number + 1)
                  and (number % step == 0 or kind == "number" and "multipleOf" not in schema)), 1)
    return int(found) if kind == "integer" else found

def resolve(schema: Object, root: Object) -> Object:
    """Follow a local ``$ref`` such as ``#/$defs/Address``."""
    for _ in range(8):  # a chain of references that is longer is a circle
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return schema
        target: JSON = root
        for step in reference[2:].split("/"):
            target = target.get(step, {}) if isinstance(target, dict) else {}
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    return {}

def embed(text: str, size: int) -> List[float]:
    """Hash the words of *text*, and their three-letter pieces, into a vector of length 1."""
    vector = [0.0] * size
    for word in re.findall(r"\w+", text.lower()) or [text]:
        padded = "<%s>" % word
        for piece in [word] + [padded[start:start + 3] for start in range(len(padded) - 2)]:
            code = zlib.crc32(piece.encode("utf-8", "replace"))
            vector[code % size] += (1.0 if code & 0x80000000 else -1.0) * (2.0 if piece == word else 0.7)
    length = sum(value * value for value in vector) ** 0.5
    return [value / length for value in vector] if length else [1.0] + vector[1:]

def jpeg(comment: str) -> bytes:
    """Draw 8 by 8 grey pixels: the smallest honest baseline JPEG, *comment* inside."""
    remark = comment.encode("utf-8", "replace")[:60000]  # the length of a segment has 16 bits
    table = b"\x01" + bytes(16)  # one Huffman code, "0", for the value 0
    return (b"\xff\xd8\xff\xfe" + (len(remark) + 2).to_bytes(2, "big") + remark + b"\xff\xdb\x00\x43\x00" + b"\x01" * 64
            + b"\xff\xc0\x00\x0b\x08\x00\x08\x00\x08\x01\x01\x11\x00"
            + b"\xff\xc4\x00\x14\x00" + table + b"\xff\xc4\x00\x14\x10" + table
            + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" b"\x3f" b"\xff\xd9")


# ---------- what a chat request may look like
FUNCTION_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")

def types(**keys: str) -> Types:
    """Make a table of types, key by key, from lists of keys, kind by kind."""
    kinds: Types = {"text": (str,), "number": (int, float), "integer": (int,), "flag": (bool,), "list": (list,),
                    "object": (dict,)}
    return {key: kinds[kind] for kind, listed in keys.items() for key in listed.split()}

ROLES = {"system", "user", "assistant", "function", "search_result", "function_in_progress"}
OPTION_TYPES = types(
    text="model reasoning_effort assistant_id", number="temperature top_p repetition_penalty update_interval",
    integer="max_tokens reasoning_max_tokens n limit", flag="stream profanity_check", list="functions flags",
    object="response_format storage")
MESSAGE_TYPES = types(
    text="role content functions_state_id name reasoning_content", list="attachments", object="function_call")
STORAGE_TYPES = types(text="thread_id assistant_id", integer="limit", flag="is_stateful", object="metadata")
FUNCTION_TYPES = types(text="name description", list="few_shot_examples", object="parameters return_parameters")

def check_types(value: JSON, wanted: Types, *required: str) -> None:
    """Refuse *value* unless it is an object with the *required* keys, whose values have their types or are null."""
    if not isinstance(value, dict) or any(value.get(key) is None for key in required):
        raise bad_request()
    for key, kinds in wanted.items():
        given = value.get(key)
        if given is not None and (not isinstance(given, kinds) or isinstance(given, bool) and bool not in kinds):
            raise bad_request()

def check_chat(body: Object) -> None:
    """Refuse what the service refuses: shape (400), model (404), values and relations (422)."""
    check_types(body, OPTION_TYPES)
    check_shape(body)
    check_model(body.get("model"), "chat")
    check_messages(body["messages"])
    check_values(body)
    check_functions(body)
    check_format(body.get("response_format"))

def check_shape(body: Object) -> None:
    messages, mode = body.get("messages"), body.get("function_call")
    if not isinstance(messages, list) or not messages:
        raise bad_request()
    for message in messages:
        check_types(message, MESSAGE_TYPES, "role", "content")
        if message["role"] not in ROLES or any(not isinstance(id, str) for id in message.get("attachments") or []):
            raise bad_request()
    for function in body.get("functions") or []:
        check_types(function, FUNCTION_TYPES, "name")
    if mode not in (None, "none", "auto") and not (isinstance(mode, dict) and isinstance(mode.get("name"), str)):
        raise bad_request()

def check_model(name: JSON, kind: str) -> str:
    """Return the model's name without a version, such as ``GigaChat:latest``."""
    if not isinstance(name, str):
        raise bad_request()
    bare = name.split(":")[0]
    if MODELS.get(bare) != kind:
        raise Failure(404, "No such model")
    return bare

def check_messages(messages: List[Object]) -> None:
    if any(message["role"] == "system" for message in messages[1:]):
        raise invalid("system message must be the first message")
    calls: List[Object] = []
    results: List[Object] = []
    for message in [*messages, {"role": "end"}]:
        if message["role"] == "function":
            check_result(message.get("name", ""), message["content"])
            results.append(message)
            continue
        if calls or results:
            pair(calls, results)
        calls, results = calls_of(message), []

def calls_of(message: Object) -> List[Object]:
    """Return the function calls of an assistant's message: of chat v2 there may be several."""
    call = message.get("function_call")
    return message.get("function_calls") or [call] if call and message["role"] == "assistant" else []

def pair(calls: List[Object], results: List[Object]) -> List[Tuple[Object, Object]]:
    """Put each call beside its result: by their ids, and by position where there are none."""
    if len(calls) <= 1 and len(results) < len(calls):
        raise invalid("every assistant function call must have a result in history")
    if len(calls) <= 1 and len(results) > len(calls):
        raise invalid("every assistant function result must have an assistant function call in history")
    ids = [[one["id"] for one in listed if one.get("id")] for listed in (calls, results)]
    mixed = len(calls) > 1 and (len(ids[0]) not in (0, len(calls)) or sorted(ids[0]) != sorted(ids[1]))
    if len(calls) != len(results) or mixed:
        raise Failure(422, "Function calls count does not match function results count")
    if len(calls) > 1 and ids[0]:
        results = sorted(results, key=lambda result: ids[0].index(result["id"]))
    return list(zip(calls, results))

def check_result(name: str, result: str) -> None:
    try:
        load(result)
    except Failure as failure:
        raise Failure(400, "invalid function result for function %s json string %s, error: JSON parse error at line 1 "
                           "column 1" % (name, result)) from failure

def check_values(body: Object) -> None:
    for key in ("repetition_penalty", "temperature", "max_tokens", "n"):  # INVENTION: the texts of all but the first
        if body.get(key) is not None and body[key] <= 0:
            raise invalid(key + " must be in range (0, +inf)")
    if not 0 <= (body.get("top_p") or 0) <= 1:
        raise invalid("top_p must be in range [0, 1]")  # INVENTION

def check_functions(body: Object) -> None:
    names = [function["name"] for function in body.get("functions") or []]
    wrong = [name for name in names if not FUNCTION_NAME.fullmatch(name)]
    if wrong:
        raise invalid("Invalid function names. Only Latin letters (A-Z or a-z), underscore (_), hyphen (-), dot (.) "
                      "and digits (not leading) are allowed.: [%s]" % " ".join(wrong))
    mode = body.get("function_call")
    if isinstance(mode, dict) and mode["name"] not in names and mode["name"] not in BUILT_IN_FUNCTIONS:
        raise invalid("function %s is not in functions" % mode["name"])  # INVENTION

def check_format(wanted: Optional[Object]) -> None:
    if wanted and wanted.get("type") not in ("text", "json_schema", "regex"):
        raise Failure(400, "Unknown type %s in response_format" % dump(wanted.get("type")).decode())
    if wanted and wanted["type"] == "json_schema" and not isinstance(wanted.get("schema"), dict):
        raise Failure(400, "Empty schema with json format type is not supported")


# ---------- chat v2, in the words of v1
V2_TYPES = types(
    text="model assistant_id tools_state_id memory_id", list="messages tools flags", flag="stream disable_filter",
    object="model_options tool_config ranker_options user_info filter_config storage")
V2_OPTION_TYPES = types(
    text="preset", number="temperature top_p repetition_penalty update_interval", integer="max_tokens top_logprobs",
    flag="unnormalized_history parallel_tool_calls", object="reasoning response_format")
V2_MESSAGE_TYPES = types(text="role message_id tool_state_id tools_state_id functions_state_id", list="content")
V2_TOOLS = {"functions", *OCCASIONS} - BUILT_IN_FUNCTIONS
V2_PART_TYPES = types(text="text", list="files", object="function_call function_result inline_data")
CALL_TYPES = types(text="id name", object="arguments")
RESULT_TYPES: Types = {**types(text="id name"), "result": (str, dict)}

def from_v2(body: Object, unavailable: Set[str]) -> Tuple[Object, Set[str]]:
    """Check a request of chat v2; the results are the same request of v1, and the built-in tools."""
    check_types(body, V2_TYPES)
    options = {**{key: body[key] for key in V2_OPTION_TYPES if key in body}, **(body.get("model_options") or {})}
    check_types(options, V2_OPTION_TYPES)
    reasoning = options.pop("reasoning", None) or {}
    check_types(reasoning, types(text="effort", integer="max_tokens"))
    messages = [one for message in body.get("messages") or [] for one in from_v2_message(message)]
    if [message["role"] for message in messages] == ["system"]:
        messages[0]["role"] = "user"  # the service does so, too
    functions, tools = read_tools(body.get("tools") or [], unavailable)
    return {**options, **{key: body.get(key) for key in ("model", "assistant_id", "stream")}, "messages": messages,
            "functions": functions, "profanity_check": not body.get("disable_filter"),
            "function_call": read_tool_config(body.get("tool_config") or {"mode": "auto"}, functions),
            "reasoning_effort": reasoning.get("effort"), "reasoning_max_tokens": reasoning.get("max_tokens")}, tools

def from_v2_message(message: JSON) -> List[Object]:
    """Check a message; the result has one message for each function result in it, and none for reasoning."""
    check_types(message, V2_MESSAGE_TYPES, "role", "content")
    role, parts = message["role"], message["content"]
    for part in parts:
        check_types(part, V2_PART_TYPES)
        for key, wanted in (("function_call", CALL_TYPES), ("function_result", RESULT_TYPES)):
            if part.get(key) is not None:
                check_types(part[key], wanted, *(key for key in wanted if key != "id"))
        for file in part.get("files") or []:
            check_types(file, types(text="id"), "id")
    calls = [part["function_call"] for part in parts if part.get("function_call")]
    results = [part["function_result"] for part in parts if part.get("function_result")]
    known = role in ("system", "user", "assistant", "tool", "function", "reasoning")
    if not known or bool(results) != (role in ("tool", "function")) or calls and role != "assistant":
        raise bad_request()
    if results or role == "reasoning":
        return [{"role": "function", **one, "content": one["result"] if isinstance(one["result"], str)
                 else dump(one["result"]).decode()} for one in results]
    called = {"function_call": calls[0], "function_calls": calls} if calls else {}
    return [{"role": role, "content": "".join(part.get("text") or "" for part in parts),
             "attachments": [file["id"] for part in parts for file in part.get("files") or []], **called}]

def read_tools(tools: List[JSON], unavailable: Set[str]) -> Tuple[List[Object], Set[str]]:
    """Return the tools as functions of v1, and the names of those that are built in."""
    functions: List[Object] = []
    built_in: Set[str] = set()
    for tool in tools:
        if not isinstance(tool, dict) or len(tool) != 1 or "type" in tool:  # as OpenAI has them
            raise bad_request()
        (name, settings), = tool.items()
        if name not in V2_TOOLS:
            raise Failure(404, "Unknown tool " + name)
        if name in unavailable:
            raise Failure(422, "Tool %s is unavailable" % name)
        check_types(settings, types(list="specifications"))
        functions += [{"name": name}] if name != "functions" else settings.get("specifications") or []
        built_in.update({name} - {"functions"})
    if not all(isinstance(one, dict) and ("parameters" in one or one.get("name") in built_in) for one in functions):
        raise bad_request()
    return functions, built_in

def read_tool_config(config: Object, functions: List[Object]) -> JSON:
    """Return the mode in which functions are used, as ``function_call`` has it."""
    check_types(config, types(text="mode tool_name function_name", list="functions_names_any"), "mode")
    mode, names = config["mode"], [function.get("name") for function in functions]
    wanted = config.get("function_name") or config.get("tool_name")
    if mode not in ("auto", "none", "forced", "any"):
        raise bad_request()
    if mode == "any":
        wanted = (config.get("functions_names_any") or [*names, None])[0]
    if mode == "none" or mode == "auto" and not wanted:
        return mode if names else "none"
    if wanted not in names:
        raise invalid("tool_config names no tool of the request")  # INVENTION
    return {"name": wanted}


# ---------- readers: multipart and OpenAPI
def read_multipart(content_type: str, body: bytes) -> Dict[str, Tuple[Headers, bytes]]:
    """Split a form (RFC 2046, RFC 7578) into its parts: name to headers and exact bytes."""
    found = re.search(r'multipart/form-data\s*;.*?boundary=(?:"([^"]+)"|([^\s;]+))', content_type, re.IGNORECASE)
    if not found:
        raise bad_request()
    boundary = re.escape((found.group(1) or found.group(2)).encode("latin-1"))
    body = b"\r\n" + body
    marks = list(re.finditer(b"\r\n--" + boundary + b"(--)?[ \t]*(?=\r\n|$)", body))
    if not marks or not marks[-1].group(1):
        raise bad_request()
    parts = {}
    for mark, following in zip(marks, marks[1:]):
        head, _, content = body[mark.end():following.start()].partition(b"\r\n\r\n")
        headers = Headers([split_field(line) for line in head.decode("utf-8", "replace").split("\r\n") if line])
        parts[parameter(headers, "name")] = (headers, content)
    return parts

def split_field(line: str) -> Tuple[str, str]:
    """Split a header line into name and value (RFC 9112, section 5: no blank before the colon, no folded lines)."""
    name, colon, value = line.partition(":")
    if not colon or name != name.strip():
        raise bad_request()
    return name, value.strip()

def parameter(headers: Headers, name: str) -> str:
    """Return a parameter of Content-Disposition, with the escapes that browsers and httpx use."""
    disposition = headers.get("Content-Disposition", "")
    extended = re.search(r";\s*%s\*=(?:utf-8)''([^;]+)" % name, disposition, re.IGNORECASE)
    if extended:
        return unquote(extended.group(1))
    plain = re.search(r';\s*%s=(?:"((?:[^"\\]|\\.)*)"|([^\s;]+))' % name, disposition)
    if not plain:
        return ""
    text = re.sub(r"\\(.)", r"\1", plain.group(1)) if plain.group(1) is not None else plain.group(2)
    return text.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")

def convert_openapi(document: Object) -> List[Object]:
    """Make a function of each operation. Understands: path, query and header parameters, JSON bodies, ``$ref``."""
    paths = expand(document.get("paths") or {}, document)
    return [convert_operation(operation, method + re.sub(r"\W+", "_", path).rstrip("_"))
            for path, methods in paths.items() for method, operation in (methods or {}).items()
            if method in ("get", "post", "put", "patch", "delete") and isinstance(operation, dict)]

def convert_operation(operation: Object, fallback_name: str) -> Object:
    body, responses = json_schema(operation.get("requestBody")), operation.get("responses") or {}
    properties: Object = {}
    required: List[str] = []
    for described in operation.get("parameters") or []:
        remark = {"description": described["description"]} if "description" in described else {}
        properties[described["name"]] = {**(described.get("schema") or {"type": "string"}), **remark}
        required += [described["name"]] if described.get("required") else []
    properties.update(body.get("properties") or {})
    required += body.get("required") or []
    success = next((responses[code] for code in sorted(responses, key=str) if str(code)[0] in "2d"), None)
    examples = {"few_shot_examples": operation["x-few-shot-examples"]} if "x-few-shot-examples" in operation else {}
    return {
        "name": operation.get("operationId", fallback_name),
        "description": operation.get("description") or operation.get("summary") or "",
        "parameters": {"type": "object", "properties": properties, **({"required": required} if required else {})},
        "return_parameters": json_schema(success) or {"type": "object", "properties": {}},
        **examples}

def json_schema(holder: Optional[Object]) -> Object:
    """Return the schema of a request body or a response."""
    content = (holder or {}).get("content") or {}
    media = content.get("application/json") or next(iter(content.values()), None) or {}
    return media.get("schema") or {}

def expand(value: JSON, document: Object, depth: int = 0) -> JSON:
    """Replace each ``$ref`` by what it means; *depth* ends schemas that contain themselves."""
    if isinstance(value, list):
        return [expand(item, document, depth + 1) for item in value]
    if not isinstance(value, dict) or depth > 28:
        return {} if isinstance(value, dict) else value
    return {key: expand(item, document, depth + 1) for key, item in resolve(value, document).items()}

def finding(description: str, key: str) -> Object:
    return {"description": description, "schema_location": "#/properties/" + key}

def function_faults(function: Object) -> List[Object]:
    """List what is wrong with a function description, in the words of the service's rules 1.0.5."""
    named = isinstance(function.get("name"), str) and FUNCTION_NAME.fullmatch(function["name"])
    faults = [] if named else [finding("Value is null but should be string", "name")]  # INVENTION
    parameters = function.get("parameters")
    if not isinstance(parameters, dict):
        return faults + [finding("Value is null but should be object", "parameters")]  # INVENTION
    missing = ", ".join("'%s'" % key for key in ("properties", "type") if key not in parameters)
    untyped, shapeless = parameters.get("type") != "object", not isinstance(parameters.get("properties"), dict)
    wrong = ", ".join(["'type'"] * untyped + ["'properties'"] * shapeless)
    return faults + [finding(description, key) for found, description, key in (
        (missing, "Required properties %s are missing" % missing, "parameters"),
        (wrong, "Properties %s do not match their schemas" % wrong, "parameters"),
        ("type" not in parameters, "Value is null but should be string", "type"),
        (untyped, "Value should match one of the values specified by the enum", "type"),
        (shapeless, "Value is null but should be object", "properties")) if found]


# ---------- endpoints
class Thread:
    """A conversation that the server remembers."""
    def __init__(self, model: str) -> None:
        self.id, self.model, self.assistant_id = new_id(), model, ""
        self.created_at = self.updated_at = now()
        self.messages: List[Object] = []

    def describe(self) -> Object:
        owner = {"assistant_id": self.assistant_id} if self.assistant_id else {}
        return {"id": self.id, **owner, "model": self.model, "created_at": self.created_at,
                "updated_at": self.updated_at, "status": "ready", "run_lock": False}

    def add(self, message: Object) -> Object:
        """Remember *message*; the result is how ``GET /threads/messages`` shows it."""
        self.updated_at = now()
        self.messages.append({"message_id": new_id(), **message, "created_at": self.updated_at})
        return self.messages[-1]


class Api:
    """The endpoints, each a method that returns a Reply or a JSON value, and what they remember between calls."""
    def __init__(self, unavailable_tools: Set[str]) -> None:
        self.unavailable_tools = unavailable_tools
        self.files: Dict[str, StoredFile] = {}
        self.assistants: Dict[str, Object] = {}
        self.threads: Dict[str, Thread] = {}
        self.batches: Dict[str, Object] = {}
        self.batch_lines: Dict[str, List[Object]] = {}
        self.sessions: Dict[str, List[str]] = {}

    # models, chat, embeddings, tokens
    def models(self, call: Call) -> JSON:
        known: Dict[str, Object] = {
            name: {"id": name, "object": "model", "owned_by": "salutedevices", "type": kind}
            for name, kind in MODELS.items()}
        return find(known, call.id, "model") if call.id else {"object": "list", "data": list(known.values())}

    def chat(self, call: Call) -> JSON:
        body = call.body
        check_types(body, OPTION_TYPES)
        check_shape(body)
        new, storage = body["messages"], body.get("storage") or {}
        thread = self._join(body, storage, bool(storage.get("is_stateful") or storage.get("thread_id")))
        said, usage = self._complete(call, body)
        frame = {"created": now(), "model": with_version(body["model"]), "object": "chat.completion",
                 **self._remember(thread, new, said)}
        if body.get("stream"):
            return event_stream(map(event, self._chunks(said, usage, frame)), body.get("update_interval"), DONE)
        choices = [{"message": said.message(), "index": index, "finish_reason": said.finish_reason}
                   for index in range(body.get("n") or 1)]
        return {"choices": choices, **frame, "usage": usage}

    def chat_v2(self, call: Call) -> JSON:
        body, tools = from_v2(call.body, self.unavailable_tools)
        new, storage = body["messages"], call.body.get("storage")
        thread = self._join(body, storage or {}, storage is not None)
        said, counted = self._complete(call, body, tools)
        failed = said.finish_reason == "error"
        counted = {name: 0 if failed else count for name, count in counted.items()}
        prompt = {"prompt_tokens": counted["prompt_tokens"], "cached_tokens": counted["precached_prompt_tokens"]}
        usage = {"input_tokens": counted["prompt_tokens"], "input_tokens_details": prompt,
                 "output_tokens": counted["completion_tokens"], "total_tokens": counted["total_tokens"]}
        ids = self._remember(thread, new, said)
        head = {"role": "assistant", **({"message_id": ids.pop("message_id")} if ids else {})}
        frame = {"model": with_version(body["model"]), "created_at": str(now()) if failed else now(), **ids}
        if body.get("stream"):
            named = self._v2_events(said, usage, frame, head)
            return event_stream((event(data, name) for name, data in named), body.get("update_interval"))
        state = {"tool_state_id": said.state_id} if said.state_id else {}
        messages = [{"role": "reasoning", "content": [{"text": said.reasoning}]}] if said.reasoning else []
        messages += [{**head, **state, "content": said.parts()}] if said.parts() else []
        return {**frame, "messages": messages, "finish_reason": said.finish_reason, "usage": usage}

    def _v2_events(self, said: Answer, usage: Object, frame: Object, head: Object) -> Iterator[Tuple[str, Object]]:
        def fragment(part: Object, **changes: str) -> Object:
            return {**frame, "messages": [{**head, **changes, "content": [part]}]}
        execution = {"id": "", "name": said.tool}
        if said.tool:
            yield "response.tool.in_progress", fragment({"tool_execution": execution})
            yield "response.tool.completed", fragment({"tool_execution": {**execution, "status": "success"}})
        for text in PHRASE.findall(said.reasoning):
            yield "response.message.delta", fragment({"text": text}, role="reasoning")
        calls = [part for part in said.parts() if "function_call" in part]
        for part in said.parts():
            for piece in [{"text": text} for text in PHRASE.findall(part.get("text", ""))] or [part]:
                if part not in calls:
                    yield "response.message.delta", fragment(piece)
        used = {**head, "tool_state_id": said.state_id, **({"content": calls} if calls else {})}
        yield "response.message.done", {**frame, **({"messages": [used]} if said.state_id else {}),
                                        "finish_reason": said.finish_reason, "usage": usage}

    def _join(self, body: Object, storage: Object, stored: bool) -> Optional[Thread]:
        """Put what is known in front of the new messages; the result is the thread that is to remember them, if any."""
        check_types(storage, STORAGE_TYPES)
        if body.get("assistant_id") and (body.get("model") or storage.get("thread_id")):
            raise invalid("assistant_id excludes model and thread_id")  # INVENTION
        owner = {"assistant_id": body["assistant_id"]} if body.get("assistant_id") else {}
        if not (body.get("model") or storage.get("thread_id") or owner or storage.get("assistant_id")):
            raise bad_request()
        thread = self._thread({**storage, **owner}, body.get("model"), stored)
        body.update(model=thread.model, messages=self._history(thread, storage.get("limit"), body["messages"]))
        body["functions"] = body.get("functions") or self.assistants.get(thread.assistant_id, {}).get("functions")
        return thread if stored else None

    def _complete(self, call: Call, body: Object, tools: Optional[Set[str]] = None) -> Tuple[Answer, Object]:
        """Answer a chat request, of v2 if it has *tools*, be it none; the second result is its ``usage``."""
        check_chat(body)
        text = last_question(body["messages"])
        said = self._say(call, body, text, tools)
        if body.get("reasoning_effort"):
            thought = Answer(speech(text)["reasoning"].format(text=text)).cut(body.get("reasoning_max_tokens") or 1000)
            said = said._replace(reasoning=thought.content)
        if body.get("max_tokens"):
            said = said.cut(max(body["max_tokens"] - count_tokens(said.reasoning), 0))
        return said, self._usage(call, body, said)

    def _say(self, call: Call, body: Object, text: str, tools: Optional[Set[str]]) -> Answer:
        messages, last, sentences = body["messages"], body["messages"][-1], speech(text)
        files = [find(self.files, file_id, "file") for file_id in last.get("attachments") or []]
        banned = any(word in message["content"].lower() for message in messages for word in BANNED_WORDS)
        if banned and body.get("profanity_check") is not False:
            return Answer(sentences["refusal"], "blacklist")
        if "model-error" in text:
            return Answer("", "error")
        if last["role"] == "function":
            results = list(takewhile(lambda message: message["role"] == "function", messages[::-1]))[::-1]
            said = [sentences["result"].format(name=called.get("name", ""), result=result["content"], text=text)
                    for called, result in pair(calls_of(messages[-len(results) - 1]), results)]
            return Answer(" ".join(said), state_id=uuid7())
        built_in = BUILT_IN_FUNCTIONS if tools is None else tools
        functions = pick_functions(body, built_in, text) if last["role"] == "user" else []
        tool = functions[0] if functions and functions[0] in built_in else ""
        if tool in ("text2image", "image_generate"):
            picture = self._keep(jpeg(text), "image.jpg", "image/jpeg", call.client_id)
            said_of_it = '<img src="%s" fuse="true"/>' % picture.id + sentences["image"].format(text=text)
            return Answer(said_of_it, state_id=uuid7(), tool=tool)
        if functions and not tool:
            calls = [{"name": name, "arguments": function_arguments(body, name, text)} for name in functions]
            calls = calls[:1] if tools is None else [{"id": new_id(), **one} for one in calls]
            return Answer("", "function_call", calls, uuid7())
        content, wanted = echo(messages, files), body.get("response_format") or {}
        if tool == "web_search":
            content += " [sources=[1, 2]]"
        if wanted.get("type") == "json_schema":
            content = json.dumps(fill(wanted["schema"], text, wanted["schema"]), ensure_ascii=False, indent=4)
        if wanted.get("type") == "regex":
            content = str(wanted.get("regex", "")).strip("^$").strip("()").split("|")[0]
        return Answer(content, state_id=uuid7(), tool=tool) if tools is not None and tool else Answer(content)

    def _usage(self, call: Call, body: Object, said: Answer) -> Object:
        texts = [message["content"] for message in body["messages"]]
        session = call.request.headers.get("X-Session-ID", "")
        known = zip(texts, self.sessions.get(session, []))
        cached = sum(count_tokens(text) for text, _ in takewhile(lambda pair: pair[0] == pair[1], known))
        if session:
            self.sessions[session] = texts
        functions = [dump(body["functions"]).decode()] if body.get("functions") else []
        prompt = sum(map(count_tokens, texts + functions))
        spoken = said.content + "".join(dump(one).decode() for one in said.calls)
        completion = count_tokens(spoken) + count_tokens(said.reasoning)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
                "precached_prompt_tokens": cached}

    def _chunks(self, said: Answer, usage: Object, frame: Object) -> Iterator[Object]:
        for delta in said.deltas() if not said.calls else []:
            yield {"choices": [{"delta": delta, "index": 0}], **frame}
        last = said.message() if said.calls else {"content": ""}
        end = {"delta": last, "index": 0, "finish_reason": said.finish_reason}
        yield {"choices": [end], **frame, "usage": usage}

    def embeddings(self, call: Call) -> JSON:
        name = check_model(call.body.get("model"), "embedder")
        data = [{"object": "embedding", "index": index, "embedding": embed(text, VECTOR_SIZES[name]),
                 "usage": {"prompt_tokens": count_tokens(text)}} for index, text in enumerate(self._inputs(call.body))]
        return {"object": "list", "model": name, "data": data}

    def _inputs(self, body: Object) -> List[str]:
        texts = [body["input"]] if isinstance(body.get("input"), str) else body.get("input")
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise bad_request()
        return texts

    def tokens(self, call: Call) -> JSON:
        if not isinstance(call.body.get("model"), str):
            raise bad_request()
        find(MODELS, call.body["model"].split(":")[0], "model")
        return [{"object": "tokens", "tokens": count_tokens(text), "characters": len(text)}
                for text in self._inputs(call.body)]

    # files
    def described_files(self, call: Call) -> JSON:
        files = {id: file.describe() for id, file in list(self.files.items())}
        return find(files, call.id, "file") if call.id else {"data": list(files.values())}

    def upload(self, call: Call) -> JSON:
        parts = read_multipart(call.request.headers.get("Content-Type", ""), call.request.body)
        purpose = parts["purpose"][1] if "purpose" in parts else b"general"
        if "file" not in parts or purpose not in (b"general", b"assistant"):
            raise bad_request()  # INVENTION, as far as the purpose goes
        headers, data = parts["file"]
        mime = headers.get("Content-Type", BYTES_TYPE)
        if len(data) > {"image": 15, "audio": 35}.get(mime.split("/")[0], 40) << 20:
            raise Failure(413, "Payload too large")  # INVENTION: the text
        return self._keep(data, parameter(headers, "filename"), mime, call.client_id).describe()

    def _keep(self, data: bytes, name: str, mime: str, client_id: Optional[str]) -> StoredFile:
        file = StoredFile(new_id(), data, name, mime, now(), client_id)
        self.files[file.id] = file
        return file

    def content(self, call: Call) -> JSON:
        file = find(self.files, call.id, "file")
        if file.client_id is not None and file.client_id != call.client_id:
            raise Failure(403, "Access to file '%s' is denied" % file.id)
        return Reply(file.data, content_type=BYTES_TYPE)

    def delete_file(self, call: Call) -> JSON:
        self.files.pop(find(self.files, call.id, "file").id, None)
        return {"id": call.id, "deleted": True, "access_policy": "private"}

    # functions, checks, balance
    def convert(self, call: Call) -> JSON:
        if not call.request.body.lstrip().startswith(b"{"):
            raise Failure(415, "This local server reads OpenAPI documents in JSON only: convert the YAML to JSON")
        try:
            return {"functions": convert_openapi(call.body)}
        except (ValueError, LookupError, AttributeError, TypeError) as error:  # nothing that looks like OpenAPI
            raise bad_request() from error

    def validate(self, call: Call) -> JSON:
        errors = function_faults(call.body)
        remarks = [finding("Value is null but should be " + kind, key)
                   for key, kind in (("return_parameters", "object"), ("few_shot_examples", "array"))
                   if call.body.get(key) is None]
        return {"status": 200, "message": "Incorrect function syntax" if errors else "Function is valid",
                "json_ai_rules_version": "1.0.5",
                **({"errors": errors} if errors else {"warnings": remarks} if remarks else {})}

    def ai_check(self, call: Call) -> JSON:
        name, text = check_model(call.body.get("model"), "aicheck"), call.body.get("input")
        if not isinstance(text, str):
            raise bad_request()
        sentences = list(re.finditer(r"[^.!?\s][^.!?]*[.!?]*", text))
        made = [one for one in sentences if re.search("языков(ая|ой|ую) модель?|language model", one.group(), re.I)]
        mixed = name == "GigaCheckDetection" and len(made) < len(sentences)
        return {"category": "human" if not made else "mixed" if mixed else "ai", "characters": len(text),
                "tokens": count_tokens(text), "ai_intervals": [list(one.span()) for one in made if mixed]}

    def filter_check(self, call: Call) -> JSON:
        check_model(call.body.get("model") or "GigaFilter", "filter")
        check_shape(call.body)
        texts = [message["content"] for message in call.body["messages"]]
        return {"is_profane": any(word in text.lower() for text in texts for word in BANNED_WORDS),
                "usage": {"filter_tokens": sum(map(count_tokens, texts))}}

    def balance(self, call: Call) -> JSON:
        left = {"GigaChat": 900000, "GigaChat-Pro": 450000, "GigaChat-Max": 50000, "embeddings": 10000000}
        return {"balance": [{"usage": name, "value": value} for name, value in left.items()]}

    # batches
    def create_batch(self, call: Call) -> JSON:
        method, id = call.value("method"), new_id()
        lines = [load(line) for line in call.request.body.splitlines() if line.strip()]
        sound = all(isinstance(line, dict) and isinstance(line.get("id"), str) for line in lines)
        if method not in ("chat_completions", "embedder") or not lines or not sound:
            raise bad_request()
        self.batch_lines[id] = lines
        self.batches[id] = {"id": id, "method": method, "request_counts": {"total": len(lines)}, "status": "created",
                            "created_at": now(), "updated_at": now()}
        return self.batches[id]

    def list_batches(self, call: Call) -> JSON:
        wanted = call.values("batch_id")
        if wanted and wanted[0] not in self.batches:
            raise Failure(404, "Batch task not found")
        found = [self.batches[wanted[0]]] if wanted else list(self.batches.values())
        for task in found:
            self._advance(call, task, self.batch_lines[task["id"]])
        return {"batches": found}

    def _advance(self, call: Call, task: Object, lines: List[Object]) -> None:
        """Work as much as the service does between two looks of an impatient client."""
        if task["status"] == "created":
            task.update(status="in_progress", request_counts={"total": len(lines), "completed": 0, "failed": 0})
        elif task["status"] == "in_progress":
            results = [self._batch_line(call, task["method"], line) for line in lines]
            failed = sum("error" in result for result in results)
            output = self._keep(b"\n".join(map(dump, results)), task["id"] + ".jsonl", BYTES_TYPE, call.client_id)
            counts = {"total": len(results), "completed": len(results) - failed, "failed": failed}
            task.update(request_counts=counts, status="completed", output_file_id=output.id)
        task["updated_at"] = now()

    def _batch_line(self, call: Call, method: str, line: Object) -> Object:
        """Answer one line as its endpoint would."""
        one = Call(call.request._replace(body=dump(line.get("request"))), call.scope)
        try:
            one.body["stream"] = False
            return {"id": line["id"], "result": self.embeddings(one) if method == "embedder" else self.chat(one)}
        except Failure as failure:
            return {"id": line["id"], "error": failure.body}

    # assistants
    def list_assistants(self, call: Call) -> JSON:
        wanted = call.values("assistant_id")
        return {"data": [one for id, one in list(self.assistants.items()) if not wanted or id in wanted]}

    def create_assistant(self, call: Call) -> JSON:
        body = call.body
        check_model(body.get("model"), "chat")
        if not isinstance(body.get("name"), str):
            raise bad_request()
        assistant = {"assistant_id": new_id(), "created_at": now(), "name": body["name"], "instructions": "",
                     "model": body["model"], "updated_at": now(), "metadata": {}, "file_ids": []}
        self._update(assistant, body)
        self.assistants[assistant["assistant_id"]] = assistant
        return {key: assistant[key] for key in ("assistant_id", "created_at")}

    def _update(self, assistant: Object, body: Object) -> None:
        for key in ("name", "description", "instructions", "file_ids", "metadata", "functions"):
            if body.get(key) is not None:
                assistant[key] = body[key]
        files = [find(self.files, id, "file") for id in assistant["file_ids"]]
        assistant["files"] = [{"file_id": file.id, "name": file.name} for file in files]
        assistant["updated_at"] = now()

    def modify_assistant(self, call: Call) -> JSON:
        assistant = find(self.assistants, call.body.get("assistant_id"), "assistant")
        self._update(assistant, call.body)
        return assistant

    def delete_assistant(self, call: Call) -> JSON:
        id = find(self.assistants, call.body.get("assistant_id"), "assistant")["assistant_id"]
        self.assistants.pop(id, None)
        return {"assistant_id": id, "deleted": True}

    def delete_assistant_file(self, call: Call) -> JSON:
        assistant = find(self.assistants, call.body.get("assistant_id"), "assistant")
        gone = call.body.get("file_id")
        if gone not in assistant["file_ids"]:
            raise Failure(404, "No such file")  # INVENTION
        self._update(assistant, {"file_ids": [id for id in assistant["file_ids"] if id != gone]})
        return {"file_id": gone, "deleted": True}

    # threads
    def list_threads(self, call: Call) -> JSON:
        owners, before = call.values("assistants_ids"), call.number("before")
        found = [thread for thread in reversed(list(self.threads.values()))
                 if (not owners or thread.assistant_id in owners) and (not before or thread.created_at < before)]
        return {"threads": [thread.describe() for thread in found[:call.number("limit") or None]]}

    def create_thread(self, call: Call) -> JSON:
        return self._thread({}, None).describe()

    def _thread(self, body: Object, model: Optional[str], stored: bool = True) -> Thread:
        """Find the thread that *body* names, or open one, which is *stored*."""
        if body.get("thread_id"):
            thread = find(self.threads, body["thread_id"], "thread")
        else:
            thread = Thread(model or "GigaChat")
            self.threads.update({thread.id: thread} if stored else {})
        if body.get("assistant_id"):
            assistant = find(self.assistants, body["assistant_id"], "assistant")
            thread.assistant_id, thread.model = assistant["assistant_id"], assistant["model"]
        return thread

    def retrieve_threads(self, call: Call) -> JSON:
        wanted = call.body.get("threads_ids") or []
        return {"threads": [self.threads[id].describe() for id in wanted if id in self.threads]}

    def delete_thread(self, call: Call) -> JSON:
        self.threads.pop(find(self.threads, call.body.get("thread_id"), "thread").id, None)
        return Reply(b"")

    def thread_messages(self, call: Call) -> JSON:
        thread, before = find(self.threads, call.value("thread_id"), "thread"), call.number("before")
        found = [one for one in thread.messages if not before or one["created_at"] < before]
        return {"thread_id": thread.id, "messages": found[-call.number("limit"):]}

    def add_messages(self, call: Call) -> JSON:
        thread, added = self._add_messages(call.body)
        ids = [{"created_at": one["created_at"], "message_id": one["message_id"]} for one in added]
        return {"thread_id": thread.id, "messages": ids}

    def _add_messages(self, body: Object) -> Tuple[Thread, List[Object]]:
        check_shape(body)
        thread = self._thread(body, body.get("model"))
        return thread, [thread.add(self._stored(message)) for message in body["messages"]]

    def _stored(self, message: Object) -> Object:
        kept = {key: value for key, value in message.items() if value is not None}
        if kept.get("attachments"):
            files = [find(self.files, id, "file") for id in kept["attachments"]]
            kept["attachments"] = [{"file_id": file.id, "name": file.name} for file in files]
        return kept

    def _history(self, thread: Thread, limit: Optional[int], new: List[Object]) -> List[Object]:
        """Return what the model sees: instructions, then the last *limit* messages of *thread* with the *new* ones."""
        instructions = self.assistants.get(thread.assistant_id, {}).get("instructions")
        first: List[Object] = [{"role": "system", "content": instructions}] if instructions else []
        known = [{**one, "attachments": [file["file_id"] for file in one.get("attachments", [])]}
                 for one in thread.messages]
        return first + (known + new)[-(limit or 0):]

    def _remember(self, thread: Optional[Thread], new: List[Object], said: Answer) -> Dict[str, str]:
        """Add what was asked and answered to *thread*, return its id and the answer's."""
        if thread is None:
            return {}
        for message in new:
            thread.add(self._stored(message))
        spoken = {"model": thread.model, **said.message(), "finish_reason": said.finish_reason}
        return {"thread_id": thread.id, "message_id": thread.add(spoken)["message_id"]}

    def thread_run(self, call: Call) -> JSON:
        thread = find(self.threads, call.value("thread_id"), "thread")
        return {"status": "ready", "thread_id": thread.id, "updated_at": thread.updated_at,
                "model": thread.model, "messages": thread.messages[-1:]}

    def run_thread(self, call: Call) -> JSON:
        thread = self._thread(call.body, None)
        reply = self._run(call, thread)
        return reply if call.body.get("stream") else {
            "status": "in_progress", "thread_id": thread.id, "created_at": thread.updated_at}

    def run_messages(self, call: Call) -> JSON:
        return self._run(call, self._add_messages(call.body)[0])

    def rerun_messages(self, call: Call) -> JSON:
        thread = find(self.threads, call.body.get("thread_id"), "thread")
        while thread.messages and thread.messages[-1]["role"] == "assistant":
            thread.messages.pop()
        return self._run(call, thread)

    def _run(self, call: Call, thread: Thread) -> JSON:
        """Let the model answer *thread*."""
        options, functions = call.body, self.assistants.get(thread.assistant_id, {}).get("functions")
        settings = {"functions": functions, **{key: value for key, value in options.items() if value is not None}}
        body = {**settings, "model": thread.model, "messages": self._history(thread, options.get("limit"), [])}
        said, usage = self._complete(call, body)
        usage.pop("precached_prompt_tokens")
        frame = {"object": "threads.messages.run", "model": with_version(thread.model),
                 **self._remember(thread, [], said), "created": thread.updated_at}
        if options.get("stream"):
            chunks = self._run_chunks(said, usage["prompt_tokens"], frame)
            return event_stream(map(event, chunks), options.get("update_interval"), DONE)
        return {**frame, "usage": usage, "message": said.message(), "finish_reason": said.finish_reason}

    def _run_chunks(self, said: Answer, prompt: int, frame: Object) -> Iterator[Object]:
        deltas = said.deltas()
        for number, delta in enumerate(deltas, 1):
            end = {"finish_reason": said.finish_reason} if number == len(deltas) else {}
            asked, spoken = prompt if number == 1 else 0, count_tokens(delta["content"])
            yield {"choices": [{"delta": delta, "index": 0, **end}], **frame,
                   "usage": {"prompt_tokens": asked, "completion_tokens": spoken, "total_tokens": asked + spoken}}


Endpoint = Callable[[Api, Call], JSON]
# Paths below /api/v1 and /v1, and the one below /api/v2 and /v2; * stands for an id.
ROUTES: Dict[str, Dict[str, Endpoint]] = {
    "/models": {"GET": Api.models}, "/models/*": {"GET": Api.models},
    "/chat/completions": {"POST": Api.chat}, "v2/chat/completions": {"POST": Api.chat_v2},
    "/embeddings": {"POST": Api.embeddings}, "/tokens/count": {"POST": Api.tokens},
    "/files": {"GET": Api.described_files, "POST": Api.upload}, "/files/*": {"GET": Api.described_files},
    "/files/*/content": {"GET": Api.content}, "/files/*/delete": {"POST": Api.delete_file},
    "/functions/convert": {"POST": Api.convert}, "/functions/validate": {"POST": Api.validate},
    "/ai/check": {"POST": Api.ai_check}, "/filter/check": {"POST": Api.filter_check},
    "/balance": {"GET": Api.balance}, "/batches": {"GET": Api.list_batches, "POST": Api.create_batch},
    "/assistants": {"GET": Api.list_assistants, "POST": Api.create_assistant},
    "/assistants/modify": {"POST": Api.modify_assistant}, "/assistants/delete": {"POST": Api.delete_assistant},
    "/assistants/files/delete": {"POST": Api.delete_assistant_file},
    "/threads": {"GET": Api.list_threads, "POST": Api.create_thread},
    "/threads/retrieve": {"POST": Api.retrieve_threads}, "/threads/delete": {"POST": Api.delete_thread},
    "/threads/run": {"GET": Api.thread_run, "POST": Api.run_thread},
    "/threads/messages": {"GET": Api.thread_messages, "POST": Api.add_messages},
    "/threads/messages/run": {"POST": Api.run_messages}, "/threads/messages/rerun": {"POST": Api.rerun_messages},
}
# Whether a caller must be a pay-as-you-go legal entity, or must not.
CORPORATE = {"/ai/check": True, "/batches": True, "/balance": False}

def find_endpoint(method: str, path: str) -> Tuple[Endpoint, str]:
    """Look up who answers *path* (without the version prefix), and the id in it."""
    parts, id = path.split("/"), ""
    if path not in ROUTES and len(parts) > 2 and parts[2]:
        id, parts[2] = unquote(parts[2]), "*"
    methods = ROUTES.get("/".join(parts))
    if methods is None:
        raise Failure(404, "Not Found")  # INVENTION
    if method not in methods:
        raise Failure(405, "Method Not Allowed")  # INVENTION
    return methods[method], id


# ---------- the wire
NOT_ON_404 = (("X-Frame-Options", "SAMEORIGIN"), ("X-XSS-Protection", "1; mode=block"),
              ("X-Content-Type-Options", "nosniff"))
STRICT_TRANSPORT = ("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
OAUTH_HEADERS = (
    ("Allow", "GET, POST"), ("Cache-Control", "no-cache, no-store, max-age=0, must-revalidate"), ("Expires", "0"),
    ("Pragma", "no-cache"), ("Referrer-Policy", "no-referrer"),
    ("Strict-Transport-Security", "max-age=31536000 ; includeSubDomains"), ("Vary", "Origin"),
    ("Vary", "Access-Control-Request-Method"), ("Vary", "Access-Control-Request-Headers"),
    ("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "DENY"), ("X-XSS-Protection", "0"),
    *NOT_ON_404, STRICT_TRANSPORT)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

def api_headers(request: Received, status: int) -> Pairs:
    return (("Access-Control-Allow-Credentials", "true"),
            ("Access-Control-Allow-Headers", "Origin, X-Requested-With, Content-Type, Accept, Authorization"),
            ("Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS"),
            ("Access-Control-Allow-Origin", "https://beta.saluteai.sberdevices.ru"),
            ("X-Request-Id", request.headers.get("X-Request-ID") or new_id()),
            ("X-Session-Id", request.headers.get("X-Session-ID") or new_id()),
            ("Allow", "GET, POST"), *(NOT_ON_404 if status != 404 else ()), STRICT_TRANSPORT)

def frame_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""  # an empty chunk would end the body


class Conversation(BaseHTTPRequestHandler):
    """One connection: requests in, answers out."""
    server: "LocalServer"
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    command = request_version = ""
    raw_requestline: bytes
    peer_certificate: Optional[Object] = None

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
            self.peer_certificate = self.request.getpeercert() or None
        super().setup()

    def parse_request(self) -> bool:
        """Read a whole request, strictly: http.server takes a head for a mail, of 100 fields at most."""
        self.requestline = self.raw_requestline.decode("latin-1").rstrip("\r\n")
        try:
            words, minor_version = self.requestline.split(" HTTP/1.")
            (self.command, target), self.request_version = words.split(" "), "HTTP/1." + minor_version
            headers = Headers([split_field(line.decode("latin-1")) for line in iter(self.rfile.readline, b"\r\n")])
            if headers.get("Expect", "").lower() == "100-continue":
                self.handle_expect_100()
            body = self.read_body(headers)
        except (ValueError, Failure):
            self.send_error(400)
            return False
        self.close_connection = (self.request_version == "HTTP/1.0" or "close" in headers.get("Connection", "").lower())
        path, _, query = re.sub("^https?://[^/]*", "", target).partition("?")  # RFC 9112, 3.2.2: it may be a whole URL
        self.received = Received(self.command, path, query, headers, body, self.server.open[self.request],
                                 self.peer_certificate, self.request_version)
        return True

    def read_body(self, headers: Headers) -> bytes:
        if headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(iter(self.read_chunk, b""))
        return self.read_exactly(headers.get("Content-Length", "0"), 10)

    def read_chunk(self) -> bytes:
        data = self.read_exactly(self.rfile.readline().decode().rstrip("\r\n"), 16)
        if data and self.rfile.readline() != b"\r\n":
            raise ValueError("more data than the chunk's size")
        while not data and self.rfile.readline().strip():  # trailers
            pass
        return data

    def read_exactly(self, length: str, base: int) -> bytes:
        if not length.isalnum():  # int() takes signs and blanks
            raise ValueError(length)
        data = self.rfile.read(int(length, base))
        if len(data) < int(length, base):
            raise ConnectionError("the client left in the middle of a body")
        return data

    def answer(self) -> None:
        server, request, started = self.server, self.received, time.perf_counter()
        oauth = request.path.endswith("/oauth")
        server.requests.append(request)
        with server.busy("oauth" if oauth else "api"):
            reply = server.reply(request, oauth)
            headers = OAUTH_HEADERS if oauth else api_headers(request, reply.status)
            try:
                if isinstance(reply.body, bytes):
                    self.send(reply, headers)
                else:
                    with server.busy("streams") as streams:
                        self.send(server.stream(reply, reply.body, streams), headers)
            finally:
                if server.log:
                    line = request.method, request.path, reply.status, (time.perf_counter() - started) * 1000
                    print("%s %s %d %.1f ms" % line, file=sys.stderr, flush=True)  # 3.8 may buffer stderr

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer  # noqa: N815

    def send(self, reply: Reply, headers: Pairs) -> None:
        body, length = reply.body, ("Transfer-Encoding", "chunked")
        if isinstance(body, bytes) and not reply.chunked:
            length = ("Content-Length", str(len(body)))
        given = {name.lower(): value.lower() for name, value in reply.headers}
        self.close_connection = self.close_connection or "close" in given.get("connection", "")
        fields = [("Server", "SynGX"), ("Date", self.date_time_string()), ("Content-Type", reply.content_type), length,
                  ("Connection", "close" if self.close_connection else "keep-alive"), *headers]
        fields = [field for field in fields if field[0].lower() not in given] + list(reply.headers)
        lines = ["HTTP/1.1 %d %s" % (reply.status, self.responses.get(reply.status, ["Unknown"])[0])]
        lines += ["%s: %s" % field for field in fields]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        if isinstance(body, bytes):
            self.wfile.write(head + (frame_chunk(body) + b"0\r\n\r\n" if reply.chunked else body))
            return
        for number, event in enumerate(body):
            if number and reply.interval:
                self.server.stopping.wait(reply.interval)
            self.wfile.write((b"" if number else head) + frame_chunk(event))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the server's own log has a line for each request."""


class LocalServer(ThreadingHTTPServer):
    """A GigaChat service on one port of this machine, for as long as the ``with`` block runs.

    ``tls``: certificate chain and key, PEM files; plain http without. ``client_ca``: a client with a certificate of
    this CA needs no token for the API. ``scope`` is the one of ``credentials`` and of tokens that no OAuth call asked
    for. ``exp_in_ms``: ``POST /token`` answers ``exp`` in milliseconds instead of seconds. ``require_user_agent``: 403
    without one. ``streams_at_once``: further simultaneous streams get 429. ``buffer_streams``: send the events of a
    stream all at once, as the service's gateway was seen to do over HTTP/1.1. ``log``: one line a request to stderr.

    To read: ``base_url``, ``auth_url``, ``credentials``, ``port``, ``requests``, ``connections`` (accepted so far),
    ``open_connections``, ``most_in_flight`` (simultaneous requests, OAuth not counted). To set at any time: ``delay``
    (seconds before every answer of the API), ``user`` and ``password``, ``unavailable_tools`` (names of built-in tools
    of chat v2 that are answered with 422), and the arguments from ``scope`` on.
    """

    request_queue_size = 1024
    allow_reuse_port = False  # True in some Pythons: nobody would hear that the port is taken

    def __init__(self, tls: Optional[Tuple[str, str]] = None, client_ca: Optional[str] = None, host: str = "127.0.0.1",
                 port: int = 0, token_life_seconds: float = 1800, scope: str = SCOPES[0], exp_in_ms: bool = False,
                 require_user_agent: bool = False, streams_at_once: Optional[int] = None, buffer_streams: bool = False,
                 log: bool = False) -> None:
        self.scope, self.token_life_seconds, self.exp_in_ms = scope, token_life_seconds, exp_in_ms
        self.require_user_agent, self.log = require_user_agent, log
        self.streams_at_once, self.buffer_streams = streams_at_once, buffer_streams
        self.user, self.password, self.delay = "user", "password", 0.0
        self.requests: List[Received] = []
        self.connections = self.most_in_flight = 0
        self.stopping = threading.Event()
        self.open: Dict[socket.socket, int] = {}  # by connection its number
        self.unavailable_tools = {"code_interpreter"}
        self._busy = {"oauth": 0, "api": 0, "streams": 0}
        self._api = Api(self.unavailable_tools)
        self._scripts: List[Tuple[str, Reply, bool]] = []  # part of a path, answer, whether it stays
        self._tokens: Dict[str, Tuple[str, float]] = {}  # scope, Unix time of expiry
        self._lock = threading.Lock()  # guards the counters, the scripts and the open connections
        self._tls = tls
        self._context: Optional[ssl.SSLContext] = None
        if tls is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*tls)
        if self._context is not None and client_ca is not None:
            self._context.load_verify_locations(client_ca)
            self._context.verify_mode = ssl.CERT_OPTIONAL
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Conversation)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise OSError("port %d of %s is taken: end the program that listens there, or choose another port (0 picks "
                          "a free one)" % (port, host)) from error
        self.port: int = self.server_address[1]
        origin = "%s://%s:%d" % ("https" if tls else "http", name_in_url(host), self.port)
        self.base_url, self.auth_url = origin + "/api/v1", origin + "/api/v2/oauth"
        self.credentials = self.key_for(scope)
        self._acceptor = threading.Thread(target=self.serve_forever, name="local GigaChat", daemon=True)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own asks the name service what this machine is called

    def start(self) -> "LocalServer":
        self._acceptor.start()
        return self

    __enter__ = start

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server; connections are cut, whatever they are doing."""
        self.stopping.set()
        if self._acceptor.is_alive():
            with suppress(OSError):  # on Linux this wakes the acceptor; elsewhere it looks up twice a second
                self.socket.shutdown(socket.SHUT_RDWR)
            self.shutdown()
        self.server_close()
        with self._lock:
            for wire in self.open:
                with suppress(OSError):  # SSLSocket's own shutdown() would take the TLS object away from its thread
                    socket.socket.shutdown(wire, socket.SHUT_RDWR)

    # what a test asks and arranges
    def key_for(self, scope: str) -> str:
        """Return the authorization key for *scope*: always the same, so that it can stay in an environment."""
        pair = [str(uuid.uuid5(uuid.NAMESPACE_URL, "local-gigachat/" + scope + part)) for part in ("/id", "/secret")]
        return base64.b64encode(":".join(pair).encode()).decode()

    def environment(self) -> Dict[str, str]:
        """Return the variables that lead a GigaChat client to this server."""
        variables = {"GIGACHAT_BASE_URL": self.base_url, "GIGACHAT_AUTH_URL": self.auth_url,
                     "GIGACHAT_CREDENTIALS": self.credentials, "GIGACHAT_SCOPE": self.scope}
        bundle = os.path.join(os.path.dirname(os.path.abspath(self._tls[0])), "ca.pem") if self._tls else ""
        if os.path.exists(bundle):
            variables["GIGACHAT_CA_BUNDLE_FILE"] = bundle
        return variables

    def issue_token(self, scope: Optional[str] = None) -> str:
        """Make a token that is valid at once, about as long as the service's (a JWE without its second part)."""
        header = base64.urlsafe_b64encode(b'{"cty":"jwt","enc":"A256CBC-HS512","alg":"dir"}').decode().rstrip("=")
        token = ".".join([header, "", secrets.token_urlsafe(17), secrets.token_urlsafe(825), secrets.token_urlsafe(32)])
        return self._valid(token, scope or self.scope)

    def _valid(self, token: str, scope: str) -> str:
        self._tokens[token] = scope, time.time() + self.token_life_seconds
        return token

    def revoke_tokens(self) -> None:
        """Let every token issued so far be answered with 401 Token has expired."""
        self._tokens.update({token: (scope, 0) for token, (scope, _) in list(self._tokens.items())})

    def answer_next(self, path_part: str, status: int, body: Union[bytes, Object, List[JSON]],
                    headers: Optional[Mapping[str, str]] = None, times: Optional[int] = 1) -> None:
        """Answer the next *times* requests (None: all) whose path contains *path_part* with this, before any check.

        Scripts are used up in the order of their making. *headers* replace the usual ones of the same name; with
        ``Transfer-Encoding: chunked`` the body goes as one chunk. An error body that is no bytes gets its newline.
        """
        given = tuple((headers or {}).items())
        data = body if isinstance(body, bytes) else dump(body) + (b"\n" if status >= 400 else b"")
        chunked = any(name.lower() == "transfer-encoding" for name, _ in given)
        with self._lock:
            reply = Reply(data, status, chunked=chunked, headers=given)
            self._scripts += [(path_part, reply, times is None)] * (1 if times is None else times)

    def reset(self) -> None:
        """Forget requests, scripted answers, the delay, files, threads and the like; tokens and connections live on."""
        with self._lock:
            del self.requests[:]
            del self._scripts[:]
            self.most_in_flight = self._busy["api"]
            self.delay = 0.0
            self._api = Api(self.unavailable_tools)

    @property
    def open_connections(self) -> int:
        return len(self.open)

    # connections: http.server calls the first three
    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection its number and its thread, which makes the handshake: nobody else waits for it."""
        if self._context is not None:
            request = self._context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self.connections += 1
            self.open[request] = self.connections
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self.open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Show a fault of this file: that the client went away, or failed the handshake, is none."""
        if not isinstance(sys.exc_info()[1], OSError):
            traceback.print_exc()

    @contextmanager
    def busy(self, kind: str) -> Iterator[int]:
        """Count what is going on, this one included."""
        with self._lock:
            self._busy[kind] += 1
            count = self._busy[kind]
            self.most_in_flight = max(self.most_in_flight, self._busy["api"])
        try:
            yield count
        finally:
            with self._lock:
                self._busy[kind] -= 1

    # requests
    def reply(self, request: Received, oauth: bool) -> Reply:
        if self.delay and not oauth:
            self.stopping.wait(self.delay)
        try:
            return self._scripted(request.path) or (self._oauth(request) if oauth else self._api_reply(request))
        except Failure as failure:
            return failure.reply()
        except Exception:  # a fault of this file: show it, and tell the client what the service would
            traceback.print_exc()
            return Failure(500, "Internal Server Error").reply()

    def stream(self, reply: Reply, events: Iterator[bytes], streams: int) -> Reply:
        """Let one of so many *streams* go, or refuse it."""
        if self.streams_at_once is not None and streams > self.streams_at_once:
            return Failure(429, "Too many requests").reply()
        return reply._replace(body=b"".join(events), chunked=True) if self.buffer_streams else reply

    def _scripted(self, path: str) -> Optional[Reply]:
        with self._lock:
            for place, (path_part, reply, stays) in enumerate(self._scripts):
                if path_part in path:
                    del self._scripts[place:place + (not stays)]
                    return reply
        return None

    def _oauth(self, request: Received) -> Reply:
        """``POST /api/v2/oauth``."""
        if request.method != "POST":
            raise Failure(405, "Method Not Allowed")  # INVENTION
        if not UUID.fullmatch(request.headers.get("RqUID", "")):
            raise Failure(400, "RqUID header is missing or invalid", 2)  # INVENTION: code and text
        key = decode_basic(request.headers.get("Authorization", ""), ("basic", "bearer"))
        if key is None:
            raise Failure(400, "Can't decode 'Authorization' header", 4)
        owned = next((scope for scope in SCOPES if base64.b64decode(self.key_for(scope)).decode() == key), None)
        if owned is None:
            raise Failure(401, "credentials doesn't match db data", 6)
        wanted = parse_qs(request.body.decode("latin-1")).get("scope", [""])[0]
        if not wanted:
            raise Failure(400, "scope is empty", 5)
        if not re.fullmatch(r"\w+( \w+)*", wanted):
            raise Failure(400, "scope data format invalid", 1)
        if wanted != owned:
            raise Failure(400, "scope from db not fully includes consumed scope", 7)
        token = self.issue_token(owned)
        body = {"access_token": token, "expires_at": int(self._tokens[token][1] * 1000)}
        return Reply(dump(body), content_type="application/json")

    def _api_reply(self, request: Received) -> Reply:
        version, _, path = re.sub("^/api", "", request.path)[1:].partition("/")
        path = {"v1": "/", "v2": "v2/"}.get(version, "?") + path
        foreign = version == "v2" and path not in ROUTES
        if self.require_user_agent and not request.headers.get("User-Agent") or foreign:
            return Reply(dump({"message": "Unauthorized"}) + b"\n", 403)  # INVENTION: the exact body
        if path == "/token":
            return self._password(request)
        endpoint, id = find_endpoint(request.method, path)
        scope = self._authorized(request)
        if CORPORATE.get(path, scope == CORP) != (scope == CORP):
            raise Failure(403, "Permission denied")
        result = endpoint(self._api, Call(request, scope, id))
        return result if isinstance(result, Reply) else Reply(dump(result), chunked=endpoint is Api.embeddings)

    def _password(self, request: Received) -> Reply:
        """``POST /token``."""
        if request.method != "POST":
            raise Failure(405, "Method Not Allowed")  # INVENTION
        if decode_basic(request.headers.get("Authorization", ""), ("basic",)) != "%s:%s" % (self.user, self.password):
            raise Failure(401, "Unauthorized")
        token = self._valid(secrets.token_urlsafe(127), self.scope)
        return Reply(dump({"tok": token, "exp": int(self._tokens[token][1] * (1000 if self.exp_in_ms else 1))}))

    def _authorized(self, request: Received) -> str:
        """Return the scope of the caller."""
        if request.peer_certificate is not None:
            return self.scope
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        scope, expires_at = self._tokens.get(token.strip(), ("", 0.0))
        if not scope or scheme.lower() != "bearer":
            raise Failure(401, "Unauthorized")
        if expires_at <= time.time():
            raise Failure(401, "Token has expired")
        return scope

def name_in_url(host: str) -> str:
    """Call this machine localhost, as certificates do, unless a name server would have to be asked where that is."""
    if host in ("127.0.0.1", "::1", "0.0.0.0", "::", "localhost"):
        host = "::1" if ":" in host else "127.0.0.1"
        with suppress(OSError), open("/etc/hosts", "rb") as hosts:
            if re.search(rb"^[^#\n]*\slocalhost\b", hosts.read(), re.MULTILINE):
                return "localhost"
    return "[%s]" % host if ":" in host else host

def decode_basic(header: str, schemes: Tuple[str, ...]) -> Optional[str]:
    """Return ``name:secret`` of an Authorization header."""
    scheme, _, key = header.partition(" ")
    try:
        pair = base64.b64decode(key.strip(), validate=True).decode()
    except ValueError:
        return None
    return pair if scheme.lower() in schemes and ":" in pair else None


# ---------- command line
def main() -> None:
    parser = argparse.ArgumentParser(description="Run a GigaChat look-alike in memory.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8443, help="0 picks a free one")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), help="PEM files; plain http without")
    parser.add_argument("--client-ca", metavar="FILE", help="accept client certificates of this CA instead of tokens")
    parser.add_argument("--scope", default=SCOPES[0], choices=SCOPES)
    options = parser.parse_args()
    try:
        with LocalServer(log=True, **vars(options)) as server:
            for name, value in server.environment().items():
                print("export %s=%s" % (name, shlex.quote(value)), flush=True)
            while True:
                time.sleep(3600)  # KeyboardInterrupt ends it
    except KeyboardInterrupt:
        pass
    except (OSError, OverflowError) as error:  # a port that is taken or is none, a certificate that is not there
        sys.exit("local_server: %s" % error)


if __name__ == "__main__":
    main()
