#!/usr/bin/env python3
"""A GigaChat look-alike in memory: for trying out clients and for testing them, without a key and without the Internet.

Run it (Ctrl-C ends it) and paste what it prints into the shell of the client::

    python examples/local_server.py --port 8443 --tls tests/certs/server.pem tests/certs/server.key

or use it in a test::

    with LocalServer(tls=("server.pem", "server.key")) as server:
        os.environ.update(server.environment())
        ...
        assert server.requests[-1].headers["X-Request-ID"] == "7"

One port serves OAuth, the API under ``/api/v1`` and the API under ``/v1``. Chat v2 and HTTP/2 are not served. What is
known of the real service is kept byte for byte; what nobody has recorded is marked ``INVENTION`` in this file.

How an answer depends on the question (chat, threads and batches alike): the first rule that fits.

1. A message contains a banned word (``запрещёнка`` or ``forbidden-topic``): a refusal, finish reason ``blacklist``.
2. The last message is a function result: a sentence with the function's name, the result and the question.
3. The last message is the user's and ``function_call`` is not ``"none"`` (absent: ``auto`` if functions are given):
   the forced function, else the custom function whose name the message contains, else the first custom function is
   called. Arguments follow its JSON Schema: ``const``, ``default``, the first of ``enum`` or ``examples``, else strings
   are the user's text (formats date, date-time, time, email, uuid and uri have a fixed value), numbers 1 or the nearest
   allowed, booleans true, arrays one element, objects all properties. ``partial_arguments`` win. Keys come sorted.
4. As 3, but the function is the built-in ``text2image``: forced, or listed (or mode ``auto`` without functions) and
   the message asks for a picture (``нарисуй``, ``изобрази``, ``draw``, ``paint``): ``<img src="ID" fuse="true"/> ...``;
   the file ID is a small grey JPEG with the question in its comment. Other built-in functions are never called.
5. ``response_format``: ``json_schema`` gives JSON that fits the schema as in 3, indented by 4; ``regex`` gives the
   first alternative of the expression, so only expressions made of plain words work.
6. Everything else, in Russian if the question has Cyrillic letters, else in English: quotes the question (its first
   1,000 characters), says how many messages came before it (a system message is not counted), quotes the system message
   and the first question of the conversation, and describes the attachments of the last message: name, type, size, the
   first words of a text.

``reasoning_effort`` adds ``reasoning_content``; ``max_tokens`` cuts the text: finish reason ``length``; ``n`` repeats
the answer. A token is a run of up to 6 letters or digits, or one other character that is no white space.
``/tokens/count`` counts that way, and so does ``usage``: the ``content`` of all messages and the JSON of ``functions``,
the answer and its function call. With ``X-Session-ID``, the messages that the session's last request began with, too,
are the ``precached_prompt_tokens``.

Embeddings are hashed words and three-letter pieces: texts that share words are near each other. ``/ai/check`` takes
sentences that mention a ``языковая модель`` or ``language model`` for machine-made. A batch moves on with each look at
it: created, in_progress, completed. ``/functions/convert`` reads OpenAPI in JSON or in the YAML that class YAML reads.
"""
import argparse
import base64
import binascii
import json
import math
import os
import re
import secrets
import socket
import ssl
import sys
import threading
import time
import traceback
import uuid
import zlib
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from itertools import takewhile
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, NoReturn, Optional, Sequence
from typing import Set, Tuple, Type, Union
from urllib.parse import parse_qs, unquote

JSON = Any
Object = Dict[str, JSON]
Pairs = Sequence[Tuple[str, str]]
Types = Dict[str, Tuple[Type[object], ...]]

SCOPES = ("GIGACHAT_API_PERS", "GIGACHAT_API_B2B", "GIGACHAT_API_CORP")
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

JSON_TYPE = "application/json; charset=utf-8"
EVENTS_TYPE = "text/event-stream"
BYTES_TYPE = "application/octet-stream"


# ---------- requests and answers

class Headers(Mapping[str, str]):
    """Header fields by name, whatever the case; ``raw`` has them as they were sent, repeated ones too."""

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
    content_type: str = JSON_TYPE
    chunked: bool = False
    interval: float = 0
    headers: Pairs = ()


class Failure(Exception):
    """An error answer of the API."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.body: Object = {"status": status, "message": message}

    def reply(self) -> Reply:
        return Reply(dump(self.body) + b"\n", self.status)


class NotHTTP(Exception):
    """What came in is no HTTP request."""


def dump(value: JSON) -> bytes:
    """Write JSON as the service does: compact, UTF-8, nothing escaped that need not be."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def answer(value: JSON) -> Reply:
    return Reply(dump(value))


def reject_constant(name: str) -> NoReturn:
    raise ValueError(name)


def load(data: Union[str, bytes]) -> JSON:
    try:
        return json.loads(data, parse_constant=reject_constant)
    except (ValueError, RecursionError) as error:
        raise bad_request() from error


def bad_request() -> Failure:
    return Failure(400, "Your request contains invalid JSON syntax.")


def invalid(detail: str) -> Failure:
    return Failure(422, "Invalid params: " + detail)


class Call:
    """A request that passed authentication, with what its endpoint asks of it."""

    def __init__(self, request: Received, scope: str, id: str) -> None:
        self.request = request
        self.scope = scope
        self.id = id
        self.client_id = request.headers.get("X-Client-ID")

    def json(self) -> Object:
        body = load(self.request.body)
        if not isinstance(body, dict):
            raise bad_request()
        return body

    def query(self, name: str) -> List[str]:
        return parse_qs(self.request.query).get(name, [])

    def number(self, name: str) -> int:
        """Give an integer of the query, 0 if it is absent."""
        try:
            return int((self.query(name) or ["0"])[0])
        except ValueError as error:
            raise bad_request() from error


# ---------- the "model"

TOKEN = re.compile(r"\w{1,6}|[^\w\s]")
PHRASE = re.compile(r".{1,24}\S{0,16}\s*", re.DOTALL)
CYRILLIC = re.compile("[а-яё]", re.IGNORECASE)
DRAWING = re.compile("нарису|изобраз|draw|paint", re.IGNORECASE)
QUOTED_CHARACTERS = 1000
FORMATS = {"date": "2026-01-21", "date-time": "2026-01-21T12:00:00Z", "time": "12:00:00", "email": "user@example.com",
           "uuid": "00000000-0000-4000-8000-000000000000", "uri": "https://example.com/"}
RUSSIAN = {
    "refusal": "Как и любая языковая модель, GigaChat не обладает собственным мнением. Эта тема ограничена.",
    "result": "Функция {name} вернула {result}. Это и есть ответ на вопрос «{text}».",
    "image": " Вот мой рисунок: {text}",
    "echo": "Вы написали: «{text}». До этого сообщений в разговоре: {earlier}. ",
    "system": "Моя роль: «{system}». ",
    "first": "Разговор начался с вопроса «{first}». ",
    "file": "Приложен файл {name} ({mime}, {size} байт). ",
    "start": "Он начинается так: «{start}». ",
    "end": "Это ответ локального сервера: он лишь повторяет услышанное, а настоящая модель ответила бы по существу.",
    "reasoning": "Пользователь спрашивает: «{text}». Повторю вопрос.",
}
ENGLISH = {
    "refusal": "Like any language model, GigaChat has no opinion of its own. Talk about this topic is restricted.",
    "result": "The function {name} returned {result}. That answers the question \"{text}\".",
    "image": " Here is my picture: {text}",
    "echo": "You wrote: \"{text}\". Earlier messages in this conversation: {earlier}. ",
    "system": "My role: \"{system}\". ",
    "first": "We began with the question \"{first}\". ",
    "file": "Attached file {name} ({mime}, {size} bytes). ",
    "start": "It begins: \"{start}\". ",
    "end": "This is the local server: it only repeats what it hears, where the real model would answer to the point.",
    "reasoning": "The user asks: \"{text}\". I shall repeat the question.",
}


class Answer(NamedTuple):
    """What the model said."""

    content: str
    finish_reason: str = "stop"
    function_call: Optional[Object] = None
    state_id: str = ""
    reasoning: str = ""

    def message(self) -> Object:
        message: Object = {"content": self.content, "role": "assistant"}
        if self.function_call is not None:
            message["function_call"] = self.function_call
        if self.state_id:
            message["functions_state_id"] = self.state_id
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        return message

    def cut(self, max_tokens: int) -> "Answer":
        """Keep the first *max_tokens* tokens of the text."""
        ends = [piece.end() for piece in TOKEN.finditer(self.content)]
        if self.finish_reason != "stop" or len(ends) <= max_tokens:
            return self
        return self._replace(content=self.content[:ends[max_tokens - 1]], finish_reason="length")


class StoredFile(NamedTuple):
    id: str
    data: bytes
    name: str
    mime: str
    created_at: int
    client_id: Optional[str]

    def describe(self) -> Object:
        description: Object = {"id": self.id, "object": "file", "bytes": len(self.data), "created_at": self.created_at,
                               "filename": self.name, "purpose": "general", "access_policy": "private"}
        if self.mime.startswith("image/"):
            description["modalities"] = ["image"]
        return description


def count_tokens(text: str) -> int:
    return len(TOKEN.findall(text))


def phrases(text: str) -> List[str]:
    return PHRASE.findall(text)


def uuid7() -> str:
    """Make an id that begins with the time, as state ids do since Oct 2025 (``uuid.uuid7`` needs Python 3.14)."""
    random = uuid.uuid4().hex
    stamp = "%012x" % int(time.time() * 1000)
    return str(uuid.UUID(stamp + "7" + random[13:]))


def echo(messages: List[Object], files: List[StoredFile]) -> str:
    """Say back what *messages* say."""
    talk = [message for message in messages if message["role"] != "system"]
    asked = [message["content"] for message in talk if message["role"] == "user"] or [""]
    system = [message["content"] for message in messages if message["role"] == "system"]
    speech = RUSSIAN if CYRILLIC.search(asked[-1]) else ENGLISH
    text = speech["echo"].format(text=asked[-1][:QUOTED_CHARACTERS], earlier=max(len(talk) - 1, 0))
    if system:
        text += speech["system"].format(system=system[0][:QUOTED_CHARACTERS])
    if len(asked) > 1:
        text += speech["first"].format(first=asked[0][:QUOTED_CHARACTERS])
    for file in files:
        text += speech["file"].format(name=file.name, mime=file.mime, size=len(file.data))
        if file.mime.startswith("text/"):
            text += speech["start"].format(start=" ".join(file.data[:400].decode("utf-8", "ignore").split()[:12]))
    return text + speech["end"]


def pick_function(body: Object, text: str) -> Optional[str]:
    """Choose the function that an answer to *text* calls, None for a plain answer."""
    mode = body.get("function_call") or ("auto" if body.get("functions") else "none")
    if mode == "none":
        return None
    if isinstance(mode, dict):
        return str(mode["name"])
    names = [function["name"] for function in body.get("functions") or []]
    custom = [name for name in names if name not in BUILT_IN_FUNCTIONS]
    if custom:
        return next((name for name in custom if name in text), custom[0])
    return "text2image" if DRAWING.search(text) and (not names or "text2image" in names) else None


def function_arguments(body: Object, name: str, text: str) -> Object:
    function = next(function for function in body["functions"] if function["name"] == name)
    schema = function.get("parameters") or {}
    filled = fill(schema, text, schema)
    mode = body.get("function_call")
    known = mode.get("partial_arguments") or {} if isinstance(mode, dict) else {}
    arguments = {**(filled if isinstance(filled, dict) else {}), **known}
    return {key: arguments[key] for key in sorted(arguments)}


def fill(schema: JSON, text: str, root: Object, depth: int = 0) -> JSON:
    """Make a value that fits a JSON Schema; strings are *text*. *depth* ends schemas that contain themselves."""
    if not isinstance(schema, dict):
        return text
    schema = resolve(schema, root)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("enum", "examples"):
        if schema.get(key):
            return schema[key][0]
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return fill(schema[key][0], text, root, depth + 1)
    for part in schema.get("allOf") or []:
        schema = {**resolve(part, root), **schema}
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind == "object":
        wanted = schema.get("required") or [] if depth > 6 else schema.get("properties") or {}
        return {name: fill(schema["properties"][name], text, root, depth + 1) for name in wanted if depth <= 20}
    if kind == "array":
        size = 0 if depth > 6 else max(schema.get("minItems", 1), 1)
        return [fill(schema.get("items", {}), text, root, depth + 1)] * size
    return fill_scalar(kind, schema, text)


def fill_scalar(kind: str, schema: Object, text: str) -> JSON:
    if kind in ("integer", "number"):
        number = max(1, schema.get("minimum", 1), schema.get("exclusiveMinimum", 0) + 1)
        return min(number, schema.get("maximum", number), schema.get("exclusiveMaximum", number + 1) - 1)
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    if schema.get("format") in FORMATS:
        return FORMATS[schema["format"]]
    return text[:schema.get("maxLength", QUOTED_CHARACTERS)].ljust(schema.get("minLength", 0), "-")


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
    length = math.sqrt(sum(value * value for value in vector))
    if not length:
        return [1.0] + vector[1:]
    return [value / length for value in vector]


def jpeg(comment: str) -> bytes:
    """Draw 8 by 8 grey pixels: the smallest honest baseline JPEG, *comment* inside."""
    remark = comment.encode("utf-8", "replace")[:60000]  # the length of a segment has 16 bits
    table = b"\x01" + bytes(16)  # one Huffman code, "0", for the value 0
    return (b"\xff\xd8" b"\xff\xfe" + (len(remark) + 2).to_bytes(2, "big") + remark
            + b"\xff\xdb\x00\x43\x00" + b"\x01" * 64
            + b"\xff\xc0\x00\x0b\x08\x00\x08\x00\x08\x01\x01\x11\x00"
            + b"\xff\xc4\x00\x14\x00" + table + b"\xff\xc4\x00\x14\x10" + table
            + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" b"\x3f" b"\xff\xd9")


# ---------- what a chat request may look like

NUMBER = (int, float)
ROLES = {"system", "user", "assistant", "function", "search_result", "function_in_progress"}
OPTION_TYPES: Types = {
    "model": (str,), "temperature": NUMBER, "top_p": NUMBER, "max_tokens": (int,), "repetition_penalty": NUMBER,
    "stream": (bool,), "update_interval": NUMBER, "functions": (list,), "function_call": (str, dict),
    "response_format": (dict,), "n": (int,), "profanity_check": (bool,), "flags": (list,), "storage": (dict,),
    "reasoning_effort": (str,), "limit": (int,),
}
MESSAGE_TYPES: Types = {
    "role": (str,), "content": (str,), "attachments": (list,), "function_call": (dict,), "functions_state_id": (str,),
    "name": (str,), "reasoning_content": (str,),
}
FUNCTION_TYPES: Types = {
    "name": (str,), "description": (str,), "parameters": (dict,), "few_shot_examples": (list,),
    "return_parameters": (dict,),
}
FUNCTION_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


def check_types(value: JSON, types: Types) -> None:
    if not isinstance(value, dict):
        raise bad_request()
    for key, wanted in types.items():
        given = value.get(key)
        if given is not None and (not isinstance(given, wanted) or isinstance(given, bool) and bool not in wanted):
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
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_request()
    for message in messages:
        check_types(message, MESSAGE_TYPES)
        if message.get("role") not in ROLES or message.get("content") is None:
            raise bad_request()
        if not all(isinstance(file_id, str) for file_id in message.get("attachments") or []):
            raise bad_request()
    for function in body.get("functions") or []:
        check_types(function, FUNCTION_TYPES)
        if "name" not in function:
            raise bad_request()
    mode = body.get("function_call")
    if mode not in (None, "none", "auto") and not (isinstance(mode, dict) and isinstance(mode.get("name"), str)):
        raise bad_request()


def check_model(name: JSON, kind: str) -> str:
    """Give the model's name without a version, such as ``GigaChat:latest``."""
    if not isinstance(name, str):
        raise bad_request()
    bare = name.split(":")[0]
    if MODELS.get(bare) != kind:
        raise Failure(404, "No such model")
    return bare


def check_messages(messages: List[Object]) -> None:
    if any(message["role"] == "system" for message in messages[1:]):
        raise invalid("system message must be the first message")
    called = False
    for message in messages:
        if called and message["role"] != "function":
            raise invalid("every assistant function call must have a result in history")
        if not called and message["role"] == "function":
            raise invalid("every assistant function result must have an assistant function call in history")
        called = message["role"] == "assistant" and bool(message.get("function_call"))
        if message["role"] == "function":
            check_result(message)
    if called:
        raise invalid("every assistant function call must have a result in history")


def check_result(message: Object) -> None:
    try:
        load(message["content"])
    except Failure as failure:
        raise Failure(400, "invalid function result for function %s json string %s, error: JSON parse error at line 1 "
                           "column 1" % (message.get("name", ""), message["content"])) from failure


def check_values(body: Object) -> None:
    for key in ("repetition_penalty", "temperature", "max_tokens", "n"):  # INVENTION: the texts of all but the first
        if body.get(key) is not None and body[key] <= 0:
            raise invalid(key + " must be in range (0, +inf)")
    if body.get("top_p") is not None and not 0 <= body["top_p"] <= 1:
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
    if not wanted:
        return
    if wanted.get("type") not in ("text", "json_schema", "regex"):
        raise Failure(400, "Unknown type %s in response_format" % dump(wanted.get("type")).decode())
    if wanted["type"] == "json_schema" and not isinstance(wanted.get("schema"), dict):
        raise Failure(400, "Empty schema with json format type is not supported")


# ---------- readers: multipart, YAML, OpenAPI

def read_multipart(content_type: str, body: bytes) -> Dict[str, Tuple[Headers, bytes]]:
    """Take a form apart (RFC 2046, RFC 7578): name to headers and exact bytes."""
    found = re.search(r'multipart/form-data\s*;.*?boundary=(?:"([^"]+)"|([^\s;]+))', content_type, re.IGNORECASE)
    if not found:
        raise bad_request()
    boundary = re.escape((found.group(1) or found.group(2)).encode("latin-1"))
    body = b"\r\n" + body
    marks = list(re.finditer(b"\r\n--" + boundary + b"(--)?[ \t]*(?=\r\n|$)", body))
    parts = {}
    for mark, following in zip(marks, marks[1:]):
        head, _, content = body[mark.end():following.start()].partition(b"\r\n\r\n")
        headers = Headers([split_field(line) for line in head.decode("utf-8", "replace").split("\r\n") if line])
        parts[parameter(headers, "name")] = (headers, content)
    if not marks or not marks[-1].group(1):
        raise bad_request()
    return parts


def split_field(line: str) -> Tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or name != name.strip():
        raise NotHTTP(line)
    return name, value.strip()


def parameter(headers: Headers, name: str) -> str:
    """Give a parameter of Content-Disposition, with the escapes that browsers and httpx use."""
    disposition = headers.get("Content-Disposition", "")
    extended = re.search(r";\s*%s\*=(?:utf-8)''([^;]+)" % name, disposition, re.IGNORECASE)
    if extended:
        return unquote(extended.group(1))
    plain = re.search(r';\s*%s=(?:"((?:[^"\\]|\\.)*)"|([^\s;]+))' % name, disposition)
    if not plain:
        return ""
    text = re.sub(r"\\(.)", r"\1", plain.group(1)) if plain.group(1) is not None else plain.group(2)
    return text.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")


class YAML:
    """Read the YAML of small API descriptions: block mappings and lists, ``{flow: [values]}`` on one line, quoted and
    plain scalars on one line, ``|`` and ``>`` texts. No anchors, tags, several documents or ``? complex keys``."""

    KEY = re.compile(r"""("[^"]*"|'[^']*'|[^\s"'{\[].*?)\s*:(?:\s+(.*))?$""")
    FLOW = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'[^']*'|[{}\[\],]|:(?=\s)"""
                      r"""|(?:[^\s{}\[\],:]|:(?=\S)|[ ](?=[^\s{}\[\],:#]))+)""")
    WORDS: Dict[str, JSON] = {"true": True, "false": False, "null": None, "~": None, "": None}

    def __init__(self, text: str) -> None:
        lines = [line.rstrip() for line in text.splitlines()]
        self._lines = [line for line in lines if line and not re.match(r"\s*#|---|\.\.\.", line)]
        self._next = 0

    def read(self) -> JSON:
        value = self._block(0)
        if self._next < len(self._lines):
            raise ValueError(self._lines[self._next])
        return value

    def _indent(self) -> int:
        if self._next >= len(self._lines):
            return -1
        line = self._lines[self._next]
        return len(line) - len(line.lstrip())

    def _block(self, least: int) -> JSON:
        indent = self._indent()
        if indent < least:
            return None
        if self._lines[self._next].lstrip().startswith("- ") or self._lines[self._next].strip() == "-":
            return self._items(indent)
        return self._mapping(indent)

    def _items(self, indent: int) -> List[JSON]:
        items = []
        while self._indent() == indent and re.match(r"\s*-(\s|$)", self._lines[self._next]):
            rest = self._lines[self._next][indent + 1:].strip()
            if rest and self.KEY.match(rest):  # "- key: value" is a mapping whose first line begins after the dash
                self._lines[self._next] = " " * (indent + 2) + rest
                items.append(self._mapping(indent + 2))
                continue
            self._next += 1
            items.append(self._value(rest, indent + 1))
        return items

    def _mapping(self, indent: int) -> Object:
        mapping: Object = {}
        while self._indent() == indent:
            found = self.KEY.match(self._lines[self._next].strip())
            if not found:
                break
            self._next += 1
            key = str(self._scalar(found.group(1))) if found.group(1)[0] in "\"'" else found.group(1)
            # A list may stand below its key without more indentation.
            is_list = self._indent() == indent and re.match(r"\s*-(\s|$)", self._lines[self._next])
            mapping[key] = self._value(found.group(2) or "", indent if is_list else indent + 1)
        return mapping

    def _value(self, text: str, least: int) -> JSON:
        if text.startswith("#"):
            text = ""
        if not text:
            return self._block(least)
        if text[0] in "|>":
            lines = []
            while self._indent() >= least:
                lines.append(self._lines[self._next].strip())
                self._next += 1
            return ("\n" if text[0] == "|" else " ").join(lines)
        if text[0] in "{[":
            return self._flow(text)
        return self._scalar(text)

    def _flow(self, text: str) -> JSON:
        """Read flow style by way of JSON: its brackets, commas and colons are the same."""
        pieces = self.FLOW.findall(text)
        for place, piece in enumerate(pieces):
            if piece not in "{}[],:":
                is_key = pieces[place + 1:place + 2] == [":"]
                pieces[place] = json.dumps(str(self._scalar(piece)) if is_key else self._scalar(piece))
        return json.loads("".join(pieces))

    def _scalar(self, text: str) -> JSON:
        if text[0] == '"':
            return json.JSONDecoder().raw_decode(text)[0]
        if text[0] == "'":
            return re.sub("''", "'", text[1:text.rindex("'")])
        text = text.split(" #")[0].strip()
        if text.lower() in self.WORDS:
            return self.WORDS[text.lower()]
        if re.fullmatch(r"-?\d+(\.\d+)?", text):
            return json.loads(text)
        return text


def convert_openapi(document: Object) -> List[Object]:
    """Make a function of each operation. Understands: path, query and header parameters, JSON bodies, ``$ref``."""
    functions = []
    for path, methods in (document.get("paths") or {}).items():
        for method, operation in (methods or {}).items():
            if method in ("get", "post", "put", "patch", "delete") and isinstance(operation, dict):
                functions.append(convert_operation(document, operation, method + re.sub(r"\W+", "_", path).rstrip("_")))
    return functions


def convert_operation(document: Object, operation: Object, fallback_name: str) -> Object:
    properties: Object = {}
    required: List[str] = []
    for parameter_ in operation.get("parameters") or []:
        described = resolve(parameter_, document)
        schema = expand(described.get("schema") or {"type": "string"}, document)
        remark = {"description": described["description"]} if "description" in described else {}
        properties[described["name"]] = {**schema, **remark}
        required += [described["name"]] if described.get("required") else []
    body = media_schema(resolve(operation.get("requestBody") or {}, document), document)
    properties.update(body.get("properties") or {})
    required += body.get("required") or []
    responses = operation.get("responses") or {}
    success: Object = next((responses[code] for code in sorted(responses, key=str) if str(code)[0] in "2d"), {})
    function: Object = {
        "name": operation.get("operationId", fallback_name),
        "description": operation.get("description") or operation.get("summary") or "",
        "parameters": {"type": "object", "properties": properties, **({"required": required} if required else {})},
        "return_parameters": media_schema(resolve(success, document), document) or {"type": "object", "properties": {}},
    }
    if operation.get("x-few-shot-examples"):
        function["few_shot_examples"] = operation["x-few-shot-examples"]
    return function


def media_schema(holder: Object, document: Object) -> Object:
    content = holder.get("content") or {}
    media = content.get("application/json") or next(iter(content.values()), None) or {}
    schema = expand(media.get("schema") or {}, document)
    return schema if isinstance(schema, dict) else {}


def expand(value: JSON, document: Object, depth: int = 0) -> JSON:
    """Replace each ``$ref`` by what it means; *depth* ends schemas that contain themselves."""
    if isinstance(value, list):
        return [expand(item, document, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if depth > 20:
        return {}
    return {key: expand(item, document, depth + 1) for key, item in resolve(value, document).items()}


# ---------- endpoints

class Thread:
    """A conversation that the server remembers."""

    def __init__(self, model: str, assistant_id: str = "") -> None:
        self.id = str(uuid.uuid4())
        self.model = model
        self.assistant_id = assistant_id
        self.created_at = self.updated_at = int(time.time())
        self.messages: List[Object] = []

    def describe(self) -> Object:
        owner = {"assistant_id": self.assistant_id} if self.assistant_id else {}
        return {"id": self.id, **owner, "model": self.model, "created_at": self.created_at,
                "updated_at": self.updated_at, "status": "ready", "run_lock": False}

    def add(self, message: Object) -> Object:
        """Remember *message*; the result is what ``GET /threads/messages`` tells of it."""
        self.updated_at = int(time.time())
        self.messages.append({"message_id": str(uuid.uuid4()), **message, "created_at": self.updated_at})
        return self.messages[-1]


class Batch(NamedTuple):
    id: str
    method: str
    lines: List[Object]
    description: Object


class Api:
    """The endpoints, each a method, and what they remember between calls. ``ROUTES`` says which is which."""

    def __init__(self) -> None:
        self.files: Dict[str, StoredFile] = {}
        self.assistants: Dict[str, Object] = {}
        self.threads: Dict[str, Thread] = {}
        self.batches: Dict[str, Batch] = {}
        self.sessions: Dict[str, List[str]] = {}

    # models, chat, embeddings, tokens

    def list_models(self, call: Call) -> Reply:
        return answer({"object": "list", "data": [self._model(name) for name in MODELS]})

    def get_model(self, call: Call) -> Reply:
        if call.id not in MODELS:
            raise Failure(404, "No such model")
        return answer(self._model(call.id))

    def _model(self, name: str) -> Object:
        return {"id": name, "object": "model", "owned_by": "salutedevices", "type": MODELS[name]}

    def chat(self, call: Call) -> Reply:
        body = call.json()
        thread = self._stored_conversation(body)
        said, usage = self._complete(call, body)
        ids = {"thread_id": thread.id, "message_id": self._remember(thread, said)} if thread else {}
        frame = {"created": int(time.time()), "model": body["model"].split(":")[0] + ":" + VERSION,
                 "object": "chat.completion"}
        if body.get("stream"):
            return self._events(self._deltas(said, usage, frame, ids), body)
        choices = [{"message": said.message(), "index": index, "finish_reason": said.finish_reason}
                   for index in range(body.get("n") or 1)]
        return answer({"choices": choices, **frame, "usage": usage, **ids})

    def _stored_conversation(self, body: Object) -> Optional[Thread]:
        """Put the history of a stateful chat in front of its new messages."""
        check_types(body, OPTION_TYPES)
        storage = body.get("storage") or {}
        if not storage.get("is_stateful") and not storage.get("thread_id"):
            return None
        thread = self._thread(storage, body.get("model"))
        check_shape(body)
        for message in body["messages"]:
            thread.add(self._stored(message))
        body["model"] = thread.model
        body["messages"] = self._history(thread, storage.get("limit"))
        return thread

    def _complete(self, call: Call, body: Object) -> Tuple[Answer, Object]:
        """Answer a chat request; the second result is its ``usage``."""
        check_chat(body)
        messages = body["messages"]
        said = self._say(call, body)
        if body.get("reasoning_effort"):
            said = said._replace(reasoning=self._speech(messages)["reasoning"].format(text=self._question(messages)))
        if body.get("max_tokens"):
            said = said.cut(body["max_tokens"])
        return said, self._usage(call, body, said)

    def _say(self, call: Call, body: Object) -> Answer:
        messages = body["messages"]
        text, speech = self._question(messages), self._speech(messages)
        files = [self._file(file_id) for message in messages[-1:] for file_id in message.get("attachments") or []]
        if any(word in message["content"].lower() for message in messages for word in BANNED_WORDS):
            return Answer(speech["refusal"], "blacklist")
        if messages[-1]["role"] == "function":
            name = messages[-1].get("name") or messages[-2]["function_call"].get("name", "")
            said = speech["result"].format(name=name, result=messages[-1]["content"], text=text)
            return Answer(said, state_id=uuid7())
        function = pick_function(body, text) if messages[-1]["role"] == "user" else None
        if function == "text2image":
            picture = self._keep(jpeg(text), "image.jpg", "image/jpeg", call.client_id)
            said = '<img src="%s" fuse="true"/>' % picture.id + speech["image"].format(text=text)
            return Answer(said, state_id=uuid7())
        if function and function not in BUILT_IN_FUNCTIONS:
            called = {"name": function, "arguments": function_arguments(body, function, text)}
            return Answer("", "function_call", called, uuid7())
        wanted = body.get("response_format") or {}
        if wanted.get("type") == "json_schema":
            value = fill(wanted["schema"], text, wanted["schema"])
            return Answer(json.dumps(value, ensure_ascii=False, indent=4))
        if wanted.get("type") == "regex":
            return Answer(str(wanted.get("regex", "")).strip("^$").strip("()").split("|")[0])
        return Answer(echo(messages, files))

    def _question(self, messages: List[Object]) -> str:
        asked = [message["content"] for message in messages if message["role"] == "user"] or [""]
        return str(asked[-1][:QUOTED_CHARACTERS])

    def _speech(self, messages: List[Object]) -> Dict[str, str]:
        return RUSSIAN if CYRILLIC.search(self._question(messages)) else ENGLISH

    def _usage(self, call: Call, body: Object, said: Answer) -> Object:
        texts = [message["content"] for message in body["messages"]]
        session = call.request.headers.get("X-Session-ID", "")
        known = self.sessions.get(session, [])
        cached = [text for text, _ in takewhile(lambda pair: pair[0] == pair[1], zip(texts, known))]
        if session:
            self.sessions[session] = texts
        functions = body.get("functions")
        prompt = sum(map(count_tokens, texts)) + (count_tokens(dump(functions).decode()) if functions else 0)
        spoken = said.content if said.function_call is None else dump(said.function_call).decode()
        completion = count_tokens(spoken) + count_tokens(said.reasoning)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
                "precached_prompt_tokens": sum(map(count_tokens, cached))}

    def _events(self, events: Iterable[Object], body: Object) -> Reply:
        def lines() -> Iterator[bytes]:
            for event in events:
                yield b"data: " + dump(event) + b"\n\n"
            yield b"data: [DONE]\n\n"
        return Reply(lines(), content_type=EVENTS_TYPE, interval=body.get("update_interval") or 0)

    def _deltas(self, said: Answer, usage: Object, frame: Object, ids: Object) -> Iterator[Object]:
        texts = phrases(said.content) or [""]
        # INVENTION: a function call comes whole, in the first event; no recording of a streamed one exists.
        yield {"choices": [{"delta": {**said.message(), "content": texts[0]}, "index": 0}], **frame, **ids}
        for text in texts[1:]:
            yield {"choices": [{"delta": {"content": text}, "index": 0}], **frame, **ids}
        yield {"choices": [{"delta": {"content": ""}, "index": 0, "finish_reason": said.finish_reason}], **frame,
               "usage": usage, **ids}

    def embeddings(self, call: Call) -> Reply:
        body = call.json()
        return Reply(dump(self._embed(body)), chunked=True)

    def _embed(self, body: Object) -> Object:
        name = check_model(body.get("model"), "embedder")
        data = [{"object": "embedding", "index": index, "embedding": embed(text, VECTOR_SIZES[name]),
                 "usage": {"prompt_tokens": count_tokens(text)}} for index, text in enumerate(self._inputs(body))]
        return {"object": "list", "model": name, "data": data}

    def _inputs(self, body: Object) -> List[str]:
        given = body.get("input")
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise bad_request()
        return texts

    def tokens(self, call: Call) -> Reply:
        body = call.json()
        if not isinstance(body.get("model"), str):
            raise bad_request()
        if body["model"].split(":")[0] not in MODELS:
            raise Failure(404, "No such model")
        return answer([{"object": "tokens", "tokens": count_tokens(text), "characters": len(text)}
                       for text in self._inputs(body)])

    # files

    def list_files(self, call: Call) -> Reply:
        return answer({"data": [file.describe() for file in list(self.files.values())]})

    def upload(self, call: Call) -> Reply:
        parts = read_multipart(call.request.headers.get("Content-Type", ""), call.request.body)
        if "file" not in parts:
            raise bad_request()
        headers, data = parts["file"]
        purpose = parts["purpose"][1] if "purpose" in parts else b"general"
        if purpose not in (b"general", b"assistant"):
            raise bad_request()  # INVENTION
        mime = headers.get("Content-Type", BYTES_TYPE)
        megabytes = {"image": 15, "audio": 35}.get(mime.split("/")[0], 40)
        if len(data) > megabytes << 20:
            raise Failure(413, "Payload too large")  # INVENTION: the text
        return answer(self._keep(data, parameter(headers, "filename"), mime, call.client_id).describe())

    def _keep(self, data: bytes, name: str, mime: str, client_id: Optional[str]) -> StoredFile:
        file = StoredFile(str(uuid.uuid4()), data, name, mime, int(time.time()), client_id)
        self.files[file.id] = file
        return file

    def _file(self, file_id: str) -> StoredFile:
        try:
            return self.files[file_id]
        except KeyError as error:
            raise Failure(404, "No such file") from error  # INVENTION

    def get_file(self, call: Call) -> Reply:
        return answer(self._file(call.id).describe())

    def content(self, call: Call) -> Reply:
        file = self._file(call.id)
        if file.client_id is not None and file.client_id != call.client_id:
            raise Failure(403, "Access to file '%s' is denied" % file.id)
        return Reply(file.data, content_type=BYTES_TYPE)

    def delete_file(self, call: Call) -> Reply:
        self.files.pop(self._file(call.id).id, None)
        return answer({"id": call.id, "deleted": True, "access_policy": "private"})

    # functions, checks, balance

    def convert(self, call: Call) -> Reply:
        text = call.request.body.decode("utf-8", "replace")
        try:
            document = json.loads(text) if text.lstrip().startswith("{") else YAML(text).read()
            return answer({"functions": convert_openapi(document)})
        except (ValueError, LookupError, AttributeError, TypeError) as error:  # nothing that looks like OpenAPI
            raise bad_request() from error

    def validate(self, call: Call) -> Reply:
        function = call.json()
        errors = function_faults(function)
        remarks = [finding("Value is null but should be " + kind, key)
                   for key, kind in (("return_parameters", "object"), ("few_shot_examples", "array"))
                   if function.get(key) is None]
        verdict = {"status": 200, "message": "Incorrect function syntax" if errors else "Function is valid",
                   "json_ai_rules_version": "1.0.5"}
        findings = {"errors": errors} if errors else {"warnings": remarks} if remarks else {}
        return answer({**verdict, **findings})

    def ai_check(self, call: Call) -> Reply:
        if call.scope != "GIGACHAT_API_CORP":
            raise Failure(403, "Permission denied")
        body = call.json()
        name, text = check_model(body.get("model"), "aicheck"), body.get("input")
        if not isinstance(text, str):
            raise bad_request()
        sentences = list(re.finditer(r"[^.!?\s][^.!?]*[.!?]*", text))
        made = [one for one in sentences if re.search("языков(ая|ой|ую) модель?|language model", one.group(), re.I)]
        mixed = name == "GigaCheckDetection" and len(made) < len(sentences)
        return answer({"category": "human" if not made else "mixed" if mixed else "ai", "characters": len(text),
                       "tokens": count_tokens(text), "ai_intervals": [list(one.span()) for one in made if mixed]})

    def filter_check(self, call: Call) -> Reply:
        body = call.json()
        check_model(body.get("model") or "GigaFilter", "filter")
        check_shape(body)
        texts = [message["content"] for message in body["messages"]]
        return answer({"is_profane": any(word in text.lower() for text in texts for word in BANNED_WORDS),
                       "usage": {"filter_tokens": sum(map(count_tokens, texts))}})

    def balance(self, call: Call) -> Reply:
        if call.scope == "GIGACHAT_API_CORP":
            raise Failure(403, "Permission denied")
        left = {"GigaChat": 900000, "GigaChat-Pro": 450000, "GigaChat-Max": 50000, "embeddings": 10000000}
        return answer({"balance": [{"usage": name, "value": value} for name, value in left.items()]})

    # batches

    def create_batch(self, call: Call) -> Reply:
        self._check_batches(call)
        method = (call.query("method") or [""])[0]
        lines = [load(line) for line in call.request.body.splitlines() if line.strip()]
        if method not in ("chat_completions", "embedder") or not lines:
            raise bad_request()
        if not all(isinstance(line, dict) and isinstance(line.get("id"), str) for line in lines):
            raise bad_request()
        now = int(time.time())
        id = str(uuid.uuid4())
        description: Object = {"id": id, "method": method, "request_counts": {"total": len(lines)},
                       "status": "created", "created_at": now, "updated_at": now}
        self.batches[id] = Batch(id, method, lines, description)
        return answer(description)

    def list_batches(self, call: Call) -> Reply:
        self._check_batches(call)
        wanted = call.query("batch_id")
        if wanted and wanted[0] not in self.batches:
            raise Failure(404, "Batch task not found")
        found = [self.batches[wanted[0]]] if wanted else list(self.batches.values())
        for batch in found:
            self._advance(call, batch)
        return answer({"batches": [batch.description for batch in found]})

    def _check_batches(self, call: Call) -> None:
        if call.scope != "GIGACHAT_API_CORP":
            raise Failure(403, "Permission denied")

    def _advance(self, call: Call, batch: Batch) -> None:
        """Work as much as the service does between two looks of an impatient client."""
        task = batch.description
        task["updated_at"] = int(time.time())
        if task["status"] == "created":
            task["status"] = "in_progress"
            task["request_counts"] = {"total": len(batch.lines), "completed": 0, "failed": 0}
        elif task["status"] == "in_progress":
            results = [self._batch_line(call, batch.method, line) for line in batch.lines]
            failed = sum("error" in result for result in results)
            output = self._keep(b"\n".join(map(dump, results)), batch.id + ".jsonl", BYTES_TYPE, call.client_id)
            task["request_counts"] = {"total": len(results), "completed": len(results) - failed, "failed": failed}
            task["status"] = "completed"
            task["output_file_id"] = output.id

    def _batch_line(self, call: Call, method: str, line: Object) -> Object:
        """Answer one line as its endpoint would."""
        endpoint = Api.chat if method == "chat_completions" else Api.embeddings
        body = {**line["request"], "stream": False} if isinstance(line.get("request"), dict) else None
        try:
            reply = endpoint(self, Call(call.request._replace(body=dump(body)), call.scope, ""))
        except Failure as failure:
            return {"id": line["id"], "error": failure.body}
        return {"id": line["id"], "result": load(reply.body) if isinstance(reply.body, bytes) else None}

    # assistants

    def list_assistants(self, call: Call) -> Reply:
        wanted = call.query("assistant_id")
        return answer({"data": [one for one in list(self.assistants.values())
                                if not wanted or one["assistant_id"] in wanted]})

    def create_assistant(self, call: Call) -> Reply:
        body = call.json()
        check_model(body.get("model"), "chat")
        if not isinstance(body.get("name"), str):
            raise bad_request()
        now = int(time.time())
        assistant = {"assistant_id": str(uuid.uuid4()), "created_at": now, "name": body["name"], "instructions": "",
                     "model": body["model"], "updated_at": now, "metadata": {}, "file_ids": []}
        self._update(assistant, body)
        self.assistants[assistant["assistant_id"]] = assistant
        return answer({"assistant_id": assistant["assistant_id"], "created_at": now})

    def _update(self, assistant: Object, body: Object) -> None:
        for key in ("name", "description", "instructions", "file_ids", "metadata", "functions"):
            if body.get(key) is not None:
                assistant[key] = body[key]
        assistant["files"] = [{"file_id": id, "name": self._file(id).name} for id in assistant["file_ids"]]
        assistant["updated_at"] = int(time.time())

    def _assistant(self, body: Object) -> Object:
        found = self.assistants.get(str(body.get("assistant_id")))
        if found is None:
            raise Failure(404, "No such assistant")  # INVENTION
        return found

    def modify_assistant(self, call: Call) -> Reply:
        body = call.json()
        assistant = self._assistant(body)
        self._update(assistant, body)
        return answer(assistant)

    def delete_assistant(self, call: Call) -> Reply:
        assistant = self._assistant(call.json())
        self.assistants.pop(assistant["assistant_id"], None)
        return answer({"assistant_id": assistant["assistant_id"], "deleted": True})

    def delete_assistant_file(self, call: Call) -> Reply:
        body = call.json()
        assistant = self._assistant(body)
        if body.get("file_id") not in assistant["file_ids"]:
            raise Failure(404, "No such file")  # INVENTION
        self._update(assistant, {"file_ids": [one for one in assistant["file_ids"] if one != body["file_id"]]})
        return answer({"file_id": body["file_id"], "deleted": True})

    # threads

    def list_threads(self, call: Call) -> Reply:
        owners, before = call.query("assistants_ids"), call.number("before")
        found = [thread for thread in reversed(list(self.threads.values()))
                 if (not owners or thread.assistant_id in owners) and (not before or thread.created_at < before)]
        return answer({"threads": [thread.describe() for thread in found[:call.number("limit") or None]]})

    def create_thread(self, call: Call) -> Reply:
        return answer(self._thread({}, None).describe())

    def _thread(self, body: Object, model: Optional[str]) -> Thread:
        """Find the thread that *body* names, or open one."""
        if body.get("thread_id"):
            thread = self.threads.get(body["thread_id"])
            if thread is None:
                raise Failure(404, "No such thread")  # INVENTION
        else:
            thread = Thread(model or "GigaChat")
            self.threads[thread.id] = thread
        if body.get("assistant_id"):
            assistant = self._assistant(body)
            thread.assistant_id, thread.model = assistant["assistant_id"], assistant["model"]
        return thread

    def retrieve_threads(self, call: Call) -> Reply:
        wanted = call.json().get("threads_ids") or []
        return answer({"threads": [self.threads[id].describe() for id in wanted if id in self.threads]})

    def delete_thread(self, call: Call) -> Reply:
        self.threads.pop(self._known_thread(call.json().get("thread_id")).id, None)
        return Reply(b"")

    def _known_thread(self, id: JSON) -> Thread:
        return self._thread({"thread_id": id or "none"}, None)

    def thread_messages(self, call: Call) -> Reply:
        thread, before = self._known_thread((call.query("thread_id") or [""])[0]), call.number("before")
        found = [one for one in thread.messages if not before or one["created_at"] < before]
        return answer({"thread_id": thread.id, "messages": found[-call.number("limit"):]})

    def add_messages(self, call: Call) -> Reply:
        thread, added = self._add_messages(call.json())
        ids = [{"created_at": one["created_at"], "message_id": one["message_id"]} for one in added]
        return answer({"thread_id": thread.id, "messages": ids})

    def _add_messages(self, body: Object) -> Tuple[Thread, List[Object]]:
        check_shape(body)
        thread = self._thread(body, body.get("model"))
        return thread, [thread.add(self._stored(message)) for message in body["messages"]]

    def _stored(self, message: Object) -> Object:
        kept = {key: value for key, value in message.items() if value is not None}
        if kept.get("attachments"):
            kept["attachments"] = [{"file_id": id, "name": self._file(id).name} for id in kept["attachments"]]
        return kept

    def _history(self, thread: Thread, limit: Optional[int]) -> List[Object]:
        """Give what the model is to see of *thread*: instructions, then the last *limit* messages."""
        instructions = self.assistants.get(thread.assistant_id, {}).get("instructions")
        first: List[Object] = [{"role": "system", "content": instructions}] if instructions else []
        chosen = thread.messages[-(limit or 0):]
        return first + [{**one, "attachments": [file["file_id"] for file in one.get("attachments", [])]}
                        for one in chosen]

    def _remember(self, thread: Thread, said: Answer) -> str:
        """Add an answer to *thread*, give its message id."""
        spoken = {"model": thread.model, **said.message(), "finish_reason": said.finish_reason}
        return str(thread.add(spoken)["message_id"])

    def _run(self, call: Call, thread: Thread, options: Object) -> Tuple[Answer, Object, Object]:
        """Let the model answer *thread*: what it said, the usage, the common fields of the reply."""
        functions = self.assistants.get(thread.assistant_id, {}).get("functions")
        settings = {"functions": functions, **{key: value for key, value in options.items() if value is not None}}
        body = {**settings, "model": thread.model, "messages": self._history(thread, options.get("limit"))}
        said, usage = self._complete(call, body)
        usage.pop("precached_prompt_tokens")
        frame = {"model": thread.model.split(":")[0] + ":" + VERSION, "thread_id": thread.id,
                 "message_id": self._remember(thread, said), "created": thread.updated_at}
        return said, usage, frame

    def thread_run(self, call: Call) -> Reply:
        thread = self._known_thread((call.query("thread_id") or [""])[0])
        return answer({"status": "ready", "thread_id": thread.id, "updated_at": thread.updated_at,
                       "model": thread.model, "messages": thread.messages[-1:]})

    def run_thread(self, call: Call) -> Reply:
        body = call.json()
        thread = self._thread(body, None)
        reply = self._run_reply(call, thread, body)
        if body.get("stream"):
            return reply
        return answer({"status": "in_progress", "thread_id": thread.id, "created_at": thread.updated_at})

    def run_messages(self, call: Call) -> Reply:
        body = call.json()
        return self._run_reply(call, self._add_messages(body)[0], body)

    def rerun_messages(self, call: Call) -> Reply:
        body = call.json()
        thread = self._known_thread(body.get("thread_id"))
        while thread.messages and thread.messages[-1]["role"] == "assistant":
            thread.messages.pop()
        return self._run_reply(call, thread, body)

    def _run_reply(self, call: Call, thread: Thread, body: Object) -> Reply:
        said, usage, frame = self._run(call, thread, body)
        if body.get("stream"):
            return self._events(self._run_deltas(said, usage, frame), body)
        return answer({"object": "threads.messages.run", **frame, "usage": usage, "message": said.message(),
                       "finish_reason": said.finish_reason})

    def _run_deltas(self, said: Answer, usage: Object, frame: Object) -> Iterator[Object]:
        texts = phrases(said.content) or [""]
        for number, text in enumerate(texts):
            prompt, completion = usage["prompt_tokens"] if number == 0 else 0, count_tokens(text)
            delta = {**said.message(), "content": text} if number == 0 else {"content": text}
            end = {"finish_reason": said.finish_reason} if number == len(texts) - 1 else {}
            yield {"choices": [{"delta": delta, "index": 0, **end}], "created": frame["created"],
                   "model": frame["model"], "object": "threads.messages.run",
                   "usage": {"prompt_tokens": prompt, "completion_tokens": completion,
                             "total_tokens": prompt + completion},
                   "thread_id": frame["thread_id"], "message_id": frame["message_id"]}


def finding(description: str, key: str) -> Object:
    return {"description": description, "schema_location": "#/properties/" + key}


def function_faults(function: Object) -> List[Object]:
    """List what is wrong with a function description, in the words of the service's rules 1.0.5."""
    faults = []
    if not isinstance(function.get("name"), str) or not FUNCTION_NAME.fullmatch(function["name"]):
        faults.append(finding("Value is null but should be string", "name"))  # INVENTION
    parameters = function.get("parameters")
    if not isinstance(parameters, dict):
        return faults + [finding("Value is null but should be object", "parameters")]  # INVENTION
    wrong = {"type": parameters.get("type") != "object",
             "properties": not isinstance(parameters.get("properties"), dict)}
    missing = ["'%s'" % key for key in ("properties", "type") if key not in parameters]
    if missing:
        faults.append(finding("Required properties %s are missing" % ", ".join(missing), "parameters"))
    if any(wrong.values()):
        listed = ", ".join("'%s'" % key for key in wrong if wrong[key])
        faults.append(finding("Properties %s do not match their schemas" % listed, "parameters"))
    if "type" not in parameters:
        faults.append(finding("Value is null but should be string", "type"))
    if wrong["type"]:
        faults.append(finding("Value should match one of the values specified by the enum", "type"))
    if wrong["properties"]:
        faults.append(finding("Value is null but should be object", "properties"))
    return faults


Endpoint = Callable[[Api, Call], Reply]
# Paths below /api/v1 and /v1; * stands for an id.
ROUTES: Dict[str, Dict[str, Endpoint]] = {
    "/models": {"GET": Api.list_models},
    "/models/*": {"GET": Api.get_model},
    "/chat/completions": {"POST": Api.chat},
    "/embeddings": {"POST": Api.embeddings},
    "/tokens/count": {"POST": Api.tokens},
    "/files": {"GET": Api.list_files, "POST": Api.upload},
    "/files/*": {"GET": Api.get_file},
    "/files/*/content": {"GET": Api.content},
    "/files/*/delete": {"POST": Api.delete_file},
    "/functions/convert": {"POST": Api.convert},
    "/functions/validate": {"POST": Api.validate},
    "/ai/check": {"POST": Api.ai_check},
    "/filter/check": {"POST": Api.filter_check},
    "/balance": {"GET": Api.balance},
    "/batches": {"GET": Api.list_batches, "POST": Api.create_batch},
    "/assistants": {"GET": Api.list_assistants, "POST": Api.create_assistant},
    "/assistants/modify": {"POST": Api.modify_assistant},
    "/assistants/delete": {"POST": Api.delete_assistant},
    "/assistants/files/delete": {"POST": Api.delete_assistant_file},
    "/threads": {"GET": Api.list_threads, "POST": Api.create_thread},
    "/threads/retrieve": {"POST": Api.retrieve_threads},
    "/threads/delete": {"POST": Api.delete_thread},
    "/threads/run": {"GET": Api.thread_run, "POST": Api.run_thread},
    "/threads/messages": {"GET": Api.thread_messages, "POST": Api.add_messages},
    "/threads/messages/run": {"POST": Api.run_messages},
    "/threads/messages/rerun": {"POST": Api.rerun_messages},
}


def find_endpoint(method: str, path: str) -> Tuple[Endpoint, str]:
    """Look up who answers *path* (without the version prefix), and the id in it."""
    parts = path.split("/")
    id = ""
    if path not in ROUTES and len(parts) > 2 and parts[2]:
        id, parts[2] = unquote(parts[2]), "*"
    methods = ROUTES.get("/".join(parts))
    if methods is None:
        raise Failure(404, "Not Found")  # INVENTION
    if method not in methods:
        raise Failure(405, "Method Not Allowed")  # INVENTION
    return methods[method], id


# ---------- the wire

API_HEADERS_BEFORE_IDS = (
    ("Access-Control-Allow-Credentials", "true"),
    ("Access-Control-Allow-Headers", "Origin, X-Requested-With, Content-Type, Accept, Authorization"),
    ("Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS"),
    ("Access-Control-Allow-Origin", "https://beta.saluteai.sberdevices.ru"),
)
NOT_ON_404 = (("X-Frame-Options", "SAMEORIGIN"), ("X-XSS-Protection", "1; mode=block"),
              ("X-Content-Type-Options", "nosniff"))
STRICT_TRANSPORT = ("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
OAUTH_HEADERS = (
    ("Allow", "GET, POST"), ("Cache-Control", "no-cache, no-store, max-age=0, must-revalidate"), ("Expires", "0"),
    ("Pragma", "no-cache"), ("Referrer-Policy", "no-referrer"),
    ("Strict-Transport-Security", "max-age=31536000 ; includeSubDomains"), ("Vary", "Origin"),
    ("Vary", "Access-Control-Request-Method"), ("Vary", "Access-Control-Request-Headers"),
    ("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "DENY"), ("X-XSS-Protection", "0"),
) + NOT_ON_404 + (STRICT_TRANSPORT,)


UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@lru_cache(maxsize=2)
def http_date(unix_second: int) -> str:
    return formatdate(unix_second, usegmt=True)


def api_headers(request: Received, status: int) -> Pairs:
    return (*API_HEADERS_BEFORE_IDS,
            ("X-Request-Id", request.headers.get("X-Request-ID") or str(uuid.uuid4())),
            ("X-Session-Id", request.headers.get("X-Session-ID") or str(uuid.uuid4())),
            ("Allow", "GET, POST"), *(NOT_ON_404 if status != 404 else ()), STRICT_TRANSPORT)


def frame_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Connection:
    """One TCP connection: requests in, replies out."""

    def __init__(self, wire: socket.socket, serial: int) -> None:
        self.wire = wire
        self.serial = serial
        self.peer_certificate: Optional[Object] = None
        self._pending = bytearray()

    def receive(self) -> Optional[Received]:
        """Read the next request, None if the client has closed the connection."""
        head = self._through(b"\r\n\r\n")
        if head is None:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            raise NotHTTP(first)
        headers = Headers([split_field(line) for line in lines if line])
        if headers.get("Expect", "").lower() == "100-continue":
            self.wire.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        target = re.sub("^https?://[^/]*", "", words[1])  # RFC 9112, 3.2.2: a proxy may send the whole URL
        path, _, query = target.partition("?")
        body = self._body(headers)
        return Received(words[0], path, query, headers, body, self.serial, self.peer_certificate, words[2])

    def _through(self, mark: bytes) -> Optional[bytes]:
        """Read up to *mark* and drop it; None at the end of the connection."""
        start = 0
        while True:
            found = self._pending.find(mark, start)
            if found >= 0:
                break
            start = max(len(self._pending) - len(mark), 0)
            if not self._more():
                return None
        head = bytes(self._pending[:found])
        del self._pending[:found + len(mark)]
        return head

    def _more(self) -> bool:
        data = self.wire.recv(1 << 18)
        self._pending += data
        return bool(data)

    def _exactly(self, size: int) -> bytes:
        while len(self._pending) < size:
            if not self._more():
                raise ConnectionError("the client left in the middle of a body")
        data = bytes(self._pending[:size])
        del self._pending[:size]
        return data

    def _body(self, headers: Headers) -> bytes:
        if headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(self._chunks())
        length = headers.get("Content-Length", "0")
        if not length.isdigit():
            raise NotHTTP("Content-Length: " + length)
        return self._exactly(int(length))

    def _chunks(self) -> Iterator[bytes]:
        while True:
            try:
                size = int(self._through(b"\r\n") or b"", 16)
            except ValueError as error:
                raise NotHTTP("chunk size") from error
            data = self._exactly(size + 2)[:-2] if size else b""
            if not size:
                while self._through(b"\r\n"):  # trailers
                    pass
                return
            yield data

    def send(self, reply: Reply, headers: Pairs, keep: bool, pause: Callable[[float], object]) -> None:
        body, chunked, length = reply.body, True, ("Transfer-Encoding", "chunked")
        if isinstance(body, bytes) and not reply.chunked:
            chunked, length = False, ("Content-Length", str(len(body)))
        fields = [("Server", "SynGX"), ("Date", http_date(int(time.time()))), ("Content-Type", reply.content_type),
                  length, ("Connection", "keep-alive" if keep else "close"), *headers]
        given = {name.lower() for name, _ in reply.headers}
        fields = [field for field in fields if field[0].lower() not in given] + list(reply.headers)
        try:
            phrase = HTTPStatus(reply.status).phrase
        except ValueError:  # a scripted status that Python does not know
            phrase = "Unknown"
        lines = ["HTTP/1.1 %d %s" % (reply.status, phrase)] + ["%s: %s" % field for field in fields]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        if isinstance(body, bytes):
            self.wire.sendall(head + (frame_chunk(body) + b"0\r\n\r\n" if chunked else body))
            return
        for number, event in enumerate(body):
            if number and reply.interval:
                pause(reply.interval)
            self.wire.sendall((b"" if number else head) + frame_chunk(event))
        self.wire.sendall(b"0\r\n\r\n")


class Token(NamedTuple):
    scope: str
    expires_at: float


class Script(NamedTuple):
    path_part: str
    reply: Reply
    times: Optional[int]


class LocalServer:
    """A GigaChat service on one port of this machine, for as long as the ``with`` block runs.

    ``tls``: certificate chain and key, PEM files; plain http without. ``client_ca``: a client with a certificate of
    this CA needs no token for the API. ``scope`` is the one of ``credentials`` and of tokens that no OAuth call asked
    for. ``exp_in_ms``: ``POST /token`` answers ``exp`` in milliseconds instead of seconds. ``require_user_agent``: 403
    without one. ``streams_at_once``: further simultaneous streams get 429. ``buffer_streams``: send the events of a
    stream all at once, as the service's gateway was seen to do over HTTP/1.1. ``log``: one line a request to stderr.

    To read: ``base_url``, ``auth_url``, ``credentials``, ``port``, ``requests``, ``connections`` (accepted so far),
    ``open_connections``, ``most_in_flight`` (simultaneous requests, OAuth not counted). To set at any time: ``delay``
    (seconds before every answer of the API), ``user`` and ``password``, and the arguments from ``scope`` on.
    """

    def __init__(self, tls: Optional[Tuple[str, str]] = None, client_ca: Optional[str] = None, host: str = "127.0.0.1",
                 port: int = 0, token_life_seconds: float = 1800, scope: str = SCOPES[0], exp_in_ms: bool = False,
                 require_user_agent: bool = False, streams_at_once: Optional[int] = None, buffer_streams: bool = False,
                 log: bool = False) -> None:
        self.scope = scope
        self.token_life_seconds = token_life_seconds
        self.exp_in_ms = exp_in_ms
        self.require_user_agent = require_user_agent
        self.streams_at_once = streams_at_once
        self.buffer_streams = buffer_streams
        self.log = log
        self.user, self.password = "user", "password"
        self.delay = 0.0
        self.requests: List[Received] = []
        self.connections = 0
        self.most_in_flight = 0
        self._in_flight = self._streams = 0
        self._api = Api()
        self._scripts: List[Script] = []
        self._tokens: Dict[str, Token] = {}
        self._lock = threading.Lock()  # guards the counters above, the scripts and the open sockets
        self._open: Set[socket.socket] = set()
        self._stopping = threading.Event()
        self._tls = tls
        self._context = None if tls is None else self._make_context(tls, client_ca)
        self._listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((host, port))
        self._listener.listen(1024)
        self.port: int = self._listener.getsockname()[1]
        local = host in ("127.0.0.1", "::1", "0.0.0.0", "::", "localhost")
        origin = "%s://%s:%d" % ("https" if tls else "http", "localhost" if local else host, self.port)
        self.base_url = origin + "/api/v1"
        self.auth_url = origin + "/api/v2/oauth"
        self.credentials = self.key_for(scope)
        self._acceptor = threading.Thread(target=self._accept, name="local GigaChat", daemon=True)

    def _make_context(self, tls: Tuple[str, str], client_ca: Optional[str]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def __enter__(self) -> "LocalServer":
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        self._acceptor.start()

    def stop(self) -> None:
        """End the server; connections are cut, whatever they are doing."""
        self._stopping.set()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # on Linux this wakes accept()
        except OSError:  # elsewhere a listening socket has no shutdown(), but a caller wakes it as well
            with suppress(OSError):
                socket.create_connection(self._listener.getsockname()[:2], timeout=1).close()
        self._listener.close()
        with self._lock:
            for wire in self._open:
                cut(wire)
        if self._acceptor.is_alive():
            self._acceptor.join(1)

    # what a test asks and arranges

    def key_for(self, scope: str) -> str:
        """Give the authorization key for *scope*: always the same, so that it can stay in an environment."""
        pair = [str(uuid.uuid5(uuid.NAMESPACE_URL, "local-gigachat/" + scope + part)) for part in ("/id", "/secret")]
        return base64.b64encode(":".join(pair).encode()).decode()

    def environment(self) -> Dict[str, str]:
        """Give the variables that point a GigaChat client to this server."""
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
        self._tokens[token] = Token(scope, time.time() + self.token_life_seconds)
        return token

    def revoke_tokens(self) -> None:
        """Let every token issued so far be answered with 401 Token has expired."""
        for token, known in list(self._tokens.items()):
            self._tokens[token] = known._replace(expires_at=0)

    def answer_next(self, path_part: str, status: int, body: Union[bytes, Object, List[JSON]],
                    headers: Optional[Mapping[str, str]] = None, times: Optional[int] = 1) -> None:
        """Answer the next *times* requests (None: all) whose path contains *path_part* with this, before any check.

        Scripts are used up in the order of their making. *headers* replace the usual ones of the same name; with
        ``Transfer-Encoding: chunked`` the body goes as one chunk. An error body that is no bytes gets its newline.
        """
        given = dict(headers or {})
        data = body if isinstance(body, bytes) else dump(body) + (b"\n" if status >= 400 else b"")
        chunked = any(name.lower() == "transfer-encoding" for name in given)
        with self._lock:
            reply = Reply(data, status, chunked=chunked, headers=tuple(given.items()))
            self._scripts.append(Script(path_part, reply, times))

    def reset(self) -> None:
        """Forget requests, scripted answers, the delay, files, threads and the like; tokens and connections live on."""
        with self._lock:
            del self.requests[:]
            del self._scripts[:]
            self.most_in_flight = self._in_flight
            self.delay = 0.0
            self._api = Api()

    @property
    def open_connections(self) -> int:
        return len(self._open)

    # connections

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                wire, _ = self._listener.accept()
            except OSError:  # stop(), or the client went away while it was waiting
                continue
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                self._open.add(wire)
                serial = self.connections
            threading.Thread(target=self._serve, args=(wire, serial), daemon=True).start()

    def _serve(self, wire: socket.socket, serial: int) -> None:
        connection = Connection(wire, serial)
        try:
            if self._context is not None:
                self._secure(connection, self._context)
            while self._converse(connection):
                pass
        except NotHTTP:
            self._refuse(connection)
        except OSError:  # the client went away or failed the handshake, or stop() cut the connection
            pass
        finally:
            with self._lock:
                self._open.discard(connection.wire)
            connection.wire.close()

    def _secure(self, connection: Connection, context: ssl.SSLContext) -> None:
        plain = connection.wire
        with self._lock:  # so that stop() always meets the socket that is alive
            secured = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            self._open.discard(plain)
            self._open.add(secured)
            connection.wire = secured
        if self._stopping.is_set():
            cut(secured)
        secured.do_handshake()
        connection.peer_certificate = secured.getpeercert() or None

    def _refuse(self, connection: Connection) -> None:
        with suppress(OSError):
            connection.wire.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def _converse(self, connection: Connection) -> bool:
        """Take one request and answer it; False ends the connection."""
        request = connection.receive()
        if request is None or self._stopping.is_set():
            return False
        started = time.perf_counter()
        oauth = request.path.endswith("/oauth")
        with self._lock:
            self.requests.append(request)
            self._in_flight += not oauth
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
        reply = self._reply(request, oauth)
        keep = self._keeps(request, reply)
        try:
            self._send(connection, reply, OAUTH_HEADERS if oauth else api_headers(request, reply.status), keep)
        finally:
            with self._lock:
                self._in_flight -= not oauth
            if self.log:
                milliseconds = (time.perf_counter() - started) * 1000
                line = "%s %s %d %.1f ms" % (request.method, request.path, reply.status, milliseconds)
                print(line, file=sys.stderr, flush=True)  # before 3.9 stderr is buffered where it is no terminal
        return keep

    def _keeps(self, request: Received, reply: Reply) -> bool:
        wishes = [value for name, value in reply.headers if name.lower() == "connection"]
        wishes.append(request.headers.get("Connection", ""))
        return request.version != "HTTP/1.0" and not any("close" in wish.lower() for wish in wishes)

    def _send(self, connection: Connection, reply: Reply, headers: Pairs, keep: bool) -> None:
        events = reply.body
        if isinstance(events, bytes):
            connection.send(reply, headers, keep, self._stopping.wait)
            return
        with self._lock:
            crowded = self.streams_at_once is not None and self._streams >= self.streams_at_once
            self._streams += 1
        try:
            if crowded:
                reply = Failure(429, "Too many requests").reply()
            elif self.buffer_streams:
                reply = reply._replace(body=b"".join(events), chunked=True)
            connection.send(reply, headers, keep, self._stopping.wait)
        finally:
            with self._lock:
                self._streams -= 1

    # requests

    def _reply(self, request: Received, oauth: bool) -> Reply:
        if self.delay and not oauth:
            self._stopping.wait(self.delay)
        try:
            return self._scripted(request.path) or (self._oauth(request) if oauth else self._api_reply(request))
        except Failure as failure:
            return failure.reply()
        except Exception:  # a fault of this file: show it, and tell the client what the service would
            traceback.print_exc()
            return Failure(500, "Internal Server Error").reply()

    def _scripted(self, path: str) -> Optional[Reply]:
        with self._lock:
            for place, script in enumerate(self._scripts):
                if script.path_part in path:
                    if script.times is not None:
                        left = script._replace(times=script.times - 1)
                        self._scripts[place:place + 1] = [left] if script.times > 1 else []
                    return script.reply
        return None

    def _oauth(self, request: Received) -> Reply:
        """``POST /api/v2/oauth``. Error bodies have their own shape; whether they end with a newline is not known."""
        if request.method != "POST":
            return Failure(405, "Method Not Allowed").reply()  # INVENTION
        if not UUID.fullmatch(request.headers.get("RqUID", "")):
            return oauth_error(400, 2, "RqUID header is missing or invalid")  # INVENTION: code and text
        key = decode_basic(request.headers.get("Authorization", ""), ("basic", "bearer"))
        if key is None:
            return oauth_error(400, 4, "Can't decode 'Authorization' header")
        owned = next((scope for scope in SCOPES if base64.b64decode(self.key_for(scope)).decode() == key), None)
        if owned is None:
            return oauth_error(401, 6, "credentials doesn't match db data")
        wanted = parse_qs(request.body.decode("latin-1")).get("scope", [""])[0]
        if not wanted:
            return oauth_error(400, 5, "scope is empty")
        if not re.fullmatch(r"\w+( \w+)*", wanted):
            return oauth_error(400, 1, "scope data format invalid")
        if wanted != owned:
            return oauth_error(400, 7, "scope from db not fully includes consumed scope")
        token = self.issue_token(owned)
        expires_at = int(self._tokens[token].expires_at * 1000)
        return Reply(dump({"access_token": token, "expires_at": expires_at}), content_type="application/json")

    def _api_reply(self, request: Received) -> Reply:
        if self.require_user_agent and not request.headers.get("User-Agent"):
            return Reply(dump({"message": "Unauthorized"}) + b"\n", 403)  # INVENTION: the exact body
        found = re.match("(?:/api)?/v1(/.*)", request.path)
        if not found:
            raise Failure(404, "Not Found")  # INVENTION
        if found.group(1) == "/token":
            return self._password(request)
        endpoint, id = find_endpoint(request.method, found.group(1))
        return endpoint(self._api, Call(request, self._authorized(request), id))

    def _password(self, request: Received) -> Reply:
        """``POST /token``."""
        if request.method != "POST":
            raise Failure(405, "Method Not Allowed")  # INVENTION
        if decode_basic(request.headers.get("Authorization", ""), ("basic",)) != "%s:%s" % (self.user, self.password):
            raise Failure(401, "Unauthorized")
        token = self._valid(secrets.token_urlsafe(127), self.scope)
        expires_at = self._tokens[token].expires_at
        return answer({"tok": token, "exp": int(expires_at * 1000 if self.exp_in_ms else expires_at)})

    def _authorized(self, request: Received) -> str:
        """Give the scope of the caller."""
        if request.peer_certificate is not None:
            return self.scope
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        known = self._tokens.get(token.strip())
        if known is None or scheme.lower() != "bearer":
            raise Failure(401, "Unauthorized")
        if known.expires_at <= time.time():
            raise Failure(401, "Token has expired")
        return known.scope


def cut(wire: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(wire, socket.SHUT_RDWR)  # SSLSocket's own would take the TLS object away from its thread


def oauth_error(status: int, code: int, message: str) -> Reply:
    return Reply(dump({"code": code, "message": message}), status, content_type="application/json")


def decode_basic(header: str, schemes: Tuple[str, ...]) -> Optional[str]:
    """Give ``name:secret`` of an Authorization header."""
    scheme, _, key = header.partition(" ")
    try:
        pair = base64.b64decode(key.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
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
    tls = tuple(options.tls) if options.tls else None
    try:
        with LocalServer(tls, options.client_ca, options.host, options.port, scope=options.scope, log=True) as server:
            for name, value in server.environment().items():
                print("export %s=%s" % (name, value), flush=True)
            while True:
                time.sleep(3600)  # KeyboardInterrupt ends it
    except KeyboardInterrupt:
        pass
    except (OSError, OverflowError) as error:  # a port that is taken or is none, a certificate that is not there
        sys.exit("local_server: %s" % error)


if __name__ == "__main__":
    main()
