#!/usr/bin/env python3
"""GigaChat in one file: a client of Sber's GigaChat REST API that needs nothing but Python 3.8 or newer.

    from gigachat_lite import GigaChat

    with GigaChat(credentials="<authorization key>") as client:
        print(client.chat("Привет!").choices[0].message.content)

What the official SDK has, gigachat 0.2.0 and what 0.2.3 adds, has the same names and results here. Read the file
from top to bottom and you follow a call; the parts of its way, in which each step uses the one below it:

    client.chat("Привет!")         endpoint: what to send, what comes back
      _call                        decode the answer
        _send                      retries: the outermost loop, with a pause before each
          _authorized              token: get one; on a 401 drop it and get another, once
            _exchange              one request, one answer; any status but 2xx becomes an exception
              KeepAlive            one socket: take an idle one or connect, send, give back

Version: 0.2.0. Source: gigachat_lite.py of the gigachat_lite repository, whose README.md is the manual.
To update: copy the newer file over this one; no other file belongs to it.
License: MIT. Copyright (c) 2026 the gigachat_lite authors.
"""

# Set by hand, for more on a page: one blank line between definitions, none behind a docstring, a guard on one line.
# fmt: off
from __future__ import annotations  # Python 3.6 and older stop here: this needs 3.8 or newer

import atexit, base64, collections, contextvars, copy, dataclasses, email.utils, enum, functools, http.client, inspect
import io, itertools, json, logging, math, os, random, re, select, socket, ssl, stat, sys, threading, time, types
import urllib.parse, weakref
from contextvars import ContextVar
from dataclasses import dataclass

if sys.version_info < (3, 8):  # noqa: UP036
    raise ImportError("gigachat_lite needs Python 3.8 or newer; this is " + sys.version.split()[0])

from typing import (  # isort: skip
    TYPE_CHECKING, Any, AsyncIterator, BinaryIO, Callable, ClassVar, Coroutine, Deque, Dict, FrozenSet, Generic,
    Iterable, Iterator, List, Mapping, NamedTuple, NoReturn, Optional, Protocol, Sequence, Set, Tuple, Type, TypeVar,
    Union, cast, get_type_hints, overload,
)

if TYPE_CHECKING:
    import asyncio
    from urllib.request import OpenerDirector, Request

    from typing_extensions import Concatenate, ParamSpec, dataclass_transform

    P = ParamSpec("P")
else:

    def dataclass_transform(**_: Any) -> Callable[[T], T]: return lambda kind: kind

__version__ = "0.2.0"
__all__ = [
    "AICheckResult", "APIConnectionError", "APIResponse", "APITimeoutError", "AccessToken", "Assistant",
    "AssistantAttachment", "AssistantDelete", "AssistantFileDelete", "Assistants", "AssistantsAsyncClient",
    "AssistantsSyncClient", "AsyncChatNamespace", "AsyncStream", "AuthenticationError", "BadRequestError", "Balance",
    "BalanceValue", "Batch", "BatchRequestCounts", "BatchResult", "Chat", "ChatCompletion", "ChatCompletionChunk",
    "ChatCompletionRequest", "ChatCompletionResponse", "ChatContentFile", "ChatContentPart", "ChatFilterConfig",
    "ChatFilterContentConfig", "ChatFilterResponseContentConfig", "ChatFunctionCall", "ChatFunctionExample",
    "ChatFunctionResult", "ChatFunctionSpecification", "ChatFunctionsTool", "ChatInlineData", "ChatLogprob",
    "ChatLogprobToken", "ChatMessage", "ChatMessageChunk", "ChatModelOptions", "ChatNamespace", "ChatRankerOptions",
    "ChatReasoning", "ChatResponseFormat", "ChatSource", "ChatStorage", "ChatTool", "ChatToolConfig",
    "ChatToolExecution", "ChatUsage", "ChatUsageInputTokensDetails", "ChatUserInfo", "ChatWebSearchTool", "Choices",
    "ChoicesChunk", "ConfigurationError", "CreateAssistant", "DeletedFile", "Embedding", "Embeddings",
    "EmbeddingsUsage", "FewShotExample", "FilterCheck", "FilterUsage", "ForbiddenError", "Function", "FunctionCall",
    "FunctionParameters", "FunctionParametersProperty", "FunctionRanker", "FunctionRemark", "FunctionValidation",
    "GigaChat", "GigaChatAsyncClient", "GigaChatException", "GigaChatSyncClient", "Image", "InvalidResponseError",
    "JSONObject", "JsonSchemaResponseFormat", "LengthFinishReasonError", "Messages", "MessagesChunk", "MessagesRole",
    "Model", "ModelNotSpecifiedError", "Models", "NotFoundError", "OpenApiFunctions", "PaymentRequiredError",
    "PrimaryChatCompletionChunk", "PrimaryChatFunctionCall", "RateLimitError", "RequestEntityTooLargeError",
    "ResponseError", "ResponseFormat", "ServerError", "Storage", "Stream", "StreamInterruptedError", "Thread",
    "ThreadCompletion", "ThreadCompletionChunk", "ThreadMessage", "ThreadMessageAttachment", "ThreadMessageResponse",
    "ThreadMessages", "ThreadMessagesResponse", "ThreadRunOptions", "ThreadRunResponse", "ThreadRunResult",
    "ThreadStatus", "Threads", "ThreadsAsyncClient", "ThreadsSyncClient", "Token", "TokensCount",
    "UnprocessableEntityError", "UploadedFile", "UploadedFiles", "Usage", "agent_id_cvar", "authorization_cvar",
    "chat_completions_url_cvar", "chat_url_cvar", "client_id_cvar", "custom_headers_cvar", "file_ids",
    "operation_id_cvar", "request_id_cvar", "schema_of", "service_id_cvar", "session_id_cvar", "trace_id_cvar",
]

T = TypeVar("T")
J = TypeVar("J", bound="JSONObject")
K = TypeVar("K", bound="_Client")
V = TypeVar("V", "ChatCompletionChunk", "ThreadCompletionChunk")

logger = logging.getLogger("gigachat_lite")
logger.addHandler(logging.NullHandler())


# ---------- errors, and what to do about them

class GigaChatException(Exception):
    """Base of every error that talking to GigaChat can end in."""
class ConfigurationError(GigaChatException, ValueError):
    """Settings that cannot work; the text names the parameter and its GIGACHAT_ variable."""
class APIConnectionError(GigaChatException, ConnectionError):
    """No HTTP answer: name resolution, TCP, TLS or a proxy failed, or the connection was cut."""
    _lasting = False  # whether it will be there next time too: certificates and TLS versions do not heal

class APITimeoutError(APIConnectionError, TimeoutError):
    """The server kept silent for longer than ``timeout`` seconds, or no connection became free."""
class StreamInterruptedError(APIConnectionError):
    """A stream that broke off before its end: what has been delivered is not the whole answer."""
class ModelNotSpecifiedError(GigaChatException):
    """What the official SDK raises where nothing names a model; here ``model`` has a default, so it is never raised."""
class InvalidResponseError(GigaChatException):
    """A successful answer whose body is not what the API documents, or whose text is not what parsing asked for."""
    completion: Any = None  # the answer, where it is its text that does not fit

class LengthFinishReasonError(GigaChatException):
    """An answer that was cut off where a whole value was asked for; ``completion`` is what came of it."""
    def __init__(self, completion: Any) -> None:
        super().__init__("the answer was cut off at its greatest length: raise max_tokens, or ask for less")
        self.completion = completion

class ResponseError(GigaChatException):
    """An answer with an error status.

    Attributes: ``url``, ``status_code``, ``content`` (the body, bytes), ``headers`` (case-insensitive, or None),
    ``message`` (the server's words), ``code`` (OAuth's error number), ``request_id``, ``retry_after``."""
    def __init__(self, url: str, status_code: int, content: Union[bytes, str],
                 headers: Optional[http.client.HTTPMessage] = None, *, request: str = "", hint: str = "") -> None:
        super().__init__(url, status_code, content, headers)
        self.url, self.status_code, self.headers, self.request, self.hint = url, status_code, headers, request, hint
        self.content: bytes = content.encode("utf-8", "replace") if isinstance(content, str) else content or b""

    @property
    def message(self) -> str:
        """What the server said, in one line; of a page, its first 300 characters."""
        said = self._field("message", str) or ""
        if not said.strip():
            said = re.sub(r"<[^<>]*>", " ", self.content[:65_536].decode("utf-8", "replace"))
        return _one_line(said, 300) or http.client.responses.get(self.status_code, "no message")

    @property
    def code(self) -> Optional[int]:
        """The ``code`` of an OAuth error, as in ``{"code": 7, "message": "scope ..."}``."""
        return self._field("code", int)

    @property
    def request_id(self) -> Optional[str]: return self.headers.get("x-request-id") if self.headers is not None else None

    @property
    def retry_after(self) -> float:
        """Seconds to wait, from the header Retry-After (RFC 9110, section 10.2.3); 0.0 where there is no such time."""
        value, date = (self.headers.get(name) or "" if self.headers else "" for name in ("retry-after", "date"))
        try:
            seconds = float(value)
        except ValueError:
            now = _unix_time(date, time.time())  # by the server's own clock, where it told it
            seconds = _unix_time(value, now) - now
        return seconds if math.isfinite(seconds) and seconds > 0 else 0.0

    def _field(self, name: str, kind: Type[T]) -> Optional[T]:
        try:
            value = json.loads(self.content)[name]
        except (ValueError, RecursionError, TypeError, LookupError):
            return None
        return value if isinstance(value, kind) else None

    def __str__(self) -> str:
        request = self.request or urllib.parse.urlsplit(str(self.url)).path
        request_id = f" (request id {_one_line(self.request_id, 100)})" if self.request_id else ""
        return f"{self.status_code} {request}: {self.message}{request_id}" + (f". {self.hint}" if self.hint else "")

class BadRequestError(ResponseError):
    """400: malformed request or parameters."""
class AuthenticationError(ResponseError):
    """401: credentials or token are wrong or expired."""
class PaymentRequiredError(ResponseError):
    """402: the package of tokens for this model is used up."""
class ForbiddenError(ResponseError):
    """403: no right to do this."""
class NotFoundError(ResponseError):
    """404: no such model, file, batch, assistant or thread."""
class RequestEntityTooLargeError(ResponseError):
    """413: the request is too large."""
class UnprocessableEntityError(ResponseError):
    """422: values, or relations between them, are wrong."""
class RateLimitError(ResponseError):
    """429: too many requests, or too many streams at once."""
class ServerError(ResponseError):
    """5xx: the server failed."""

_ERRORS_BY_STATUS: Dict[int, Type[ResponseError]] = {
    400: BadRequestError, 401: AuthenticationError, 402: PaymentRequiredError, 403: ForbiddenError, 404: NotFoundError,
    413: RequestEntityTooLargeError, 422: UnprocessableEntityError, 429: RateLimitError,
}

# What to do about a failure, written as "kind or status, where: what was said"; the first that matches is shown. A
# setting in braces is shown with its variable.
_NO_ROOT = "(local issuer|self.signed|first certificate|not trusted)"
_RUSSIAN_ROOT = (
    "GigaChat's certificates are issued by the Russian Trusted Root CA: get it at https://www.gosuslugi.ru/crt and"
    " install it in the system, or name its file in {ca_bundle_file}"
)
_ADVICE = {
    "certificate strict": "The certificate, or its CA's, breaks RFC 5280, which Python 3.13 and newer do not take: set"
    " {strict_certs} to false, or take ssl.VERIFY_X509_STRICT out of the verify_flags of your ssl_context",
    "certificate .*(mismatch|doesn't match)": "Another server answers: check {base_url}, {auth_url} and the proxy",
    "certificate .*expired": "Check the clock of this machine; if it is right, the certificate is too old",
    "certificate .*not yet valid": "Check the clock of this machine",
    "certificate bundle.*" + _NO_ROOT: "{ca_bundle_file}, which is {bundle}, does not hold the root of its issuer. "
    + _RUSSIAN_ROOT,
    "certificate store.*" + _NO_ROOT: "{store}. " + _RUSSIAN_ROOT,
    "certificate .*" + _NO_ROOT: _RUSSIAN_ROOT + "; if it is somebody else who signs what you receive (`doctor` shows"
    " the issuer), your network takes TLS apart: name the root of that issuer there",
    "connection http: waiting": "The port may speak TLS: write https://",
    "400 .*(plain http request|http request to an https|plain http to an ssl)": "The port speaks TLS: write https://",
    "connection .*(wrong_version_num|record layer fail|http_request)": "The port may speak plain HTTP: write http://",
    "connection https: agreeing.*(eof|reset|closed)": "The port may speak plain HTTP: write http://; or something on"
    " the way lets no TLS through to this address",
    "connection .*certificate_required": "The server asks for a client certificate: set {cert_file}",
    "connection .*alert .*(certificate|unknown ca|access denied)": "The server refuses the client certificate, or"
    " wants one: check {cert_file}",
    "407": "It asks for {asked}; only Basic is supported: set {proxy} to http://user:password@host:port, with %40, %3A,"
    " %2F for @, :, / in the password. For NTLM or Negotiate put a local proxy in between that speaks it",
    "page oauth": "Check {auth_url}, the address of the token endpoint",
    "page": "Check {base_url}, which ends in /api/v1 or /v1",
    "4.*scope from db|4.. oauth.*scope": "The key may belong to another scope: {scope} must be one of GIGACHAT_API_PERS"
    " (individuals), GIGACHAT_API_B2B (prepaid) or GIGACHAT_API_CORP (pay-as-you-go), and {sent} was sent",
    "4.. oauth.*decode": "{credentials} is the authorization key, base64 of client_id:client_secret, not one of them",
    "401 oauth": "The authorization key is wrong or was replaced: copy it anew into {credentials}",
    "401 /token:": "user or password (GIGACHAT_USER, GIGACHAT_PASSWORD) is wrong",
    r"401 \S+ anonymous:": "There was nothing to authenticate with: set {credentials}, {access_token}, user and"
    " password, or cert_file",
    r"401 \S+ certificate:": "The server did not take the client certificate (cert_file, GIGACHAT_CERT_FILE)",
    "401": "The access token is wrong or has expired: it lives 30 minutes; with {credentials} the client renews it",
    "402": "The tokens for this model are used up: get_balance() tells what is left",
    "403.*technical reasons|423": "The model is switched off for now: choose another, get_models() lists them",
    "4.*/chat/completions.*(json parse error|function json string)": "The result of a function must be an object, or a"
    " text that is JSON: json.dumps() writes one",
    "403 /balance": "Pay-as-you-go accounts have no balance",
    "403 /(ai/check|batches)": "Pay-as-you-go accounts only: their scope is GIGACHAT_API_CORP",
    "403 /files": "A file can be read only under the X-Client-ID that stored it: set client_id_cvar",
    "404.*no such model": "There is no model {model}: get_models() lists the available models",
    "413": "The request is too large: tokens_count() measures texts; a long text fits into a file",
    "422.*system message": "Send one system message at most, and send it first",
    "422.*support functions": "The model {model} takes no functions: choose another",
    "422.*propert": "validate_function() tells what is wrong with a function's description",
    "429 oauth": "The token endpoint takes 10 requests a second: share one client",
    "429": "Individuals have one stream at a time, legal entities ten: set {max_connections}, or {max_retries}",
    "3.. oauth": "Redirects are not followed: check {auth_url} and the proxy",
    "3": "Redirects are not followed: check {base_url} and the proxy",
    "5": "The server failed: try again later, or give its support the request id",
}

_TODAYS_URL = "https://api.giga.chat/v1"  # base_url for keys made since July 2026; the default is the official SDK's

def _todays(advice: str, address: str) -> str:
    """Add, where the default address is in use, that new keys work at another one."""
    if "gigachat.devices.sberbank.ru" not in address: return advice
    today = f"New keys work at {_TODAYS_URL} only: set base_url (GIGACHAT_BASE_URL) to it"
    return f"{advice}. {today} and model (GIGACHAT_MODEL) to GigaChat-2".lstrip(". ")

def _advice(what: Union[int, str], where: str, said: str = "", **names: str) -> str:
    """Say what to do about a failure, if we know."""
    for failure, advice in _ADVICE.items():
        if re.match(failure, f"{what} {where}: {said}", re.IGNORECASE | re.DOTALL):
            settings = {name: f"{name} (GIGACHAT_{name.upper()})" for name in _SETTINGS}
            return advice.format(**{**settings, **{name: _one_line(value, 500) for name, value in names.items()}})
    return ""

def _response_error(call: _Call, status: int, content: bytes, fields: Iterable[Tuple[str, str]],
                    sent: Mapping[str, str], settings: _Settings) -> ResponseError:
    """Make the exception for an answer with an error status; *sent* are the headers of the request."""
    secrets = _Secrets(settings, sent)
    headers = http.client.HTTPMessage()
    for name, value in fields:
        headers[name] = secrets.hide(value)
    kind = _ERRORS_BY_STATUS.get(status) or (ServerError if status >= 500 else ResponseError)
    shown = secrets.hide(content.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
    error = kind(call.url, status, shown, headers, request=f"{call.method} {call.path}")
    what: Union[int, str] = "page" if content.lstrip().startswith(b"<") and status in (403, 404, 405) else status
    where = call.place
    if not any(name.lower() == "authorization" for name in sent):
        where += " certificate" if settings.cert_file or settings.ssl_context else " anonymous"
    try:
        model = repr(_decode(call.body if isinstance(call.body, bytes) else b"")["model"])
    except (ValueError, KeyError, TypeError):
        model = call.path.rpartition("/")[2]
    asked = headers.get("proxy-authenticate") or "credentials"
    error.hint = "A page came back instead of JSON. " if what == "page" else ""
    error.hint += _advice(what, where, error.message, sent=settings.scope, model=model, asked=asked)
    if what in ("page", 401, 403) or "no such model" in error.message.lower():
        error.hint = _todays(error.hint, call.url)
    above = call.url.partition("?")[0][: -len(call.path)]
    known = above.endswith("/v1") or re.match(r"/(.*/)?v\d+/chat/completions\Z", call.place)
    if not error.hint and status == 404 and not known:
        error.hint = _advice("page", call.place)
    return error

def _connection_error(error: Exception, connection: _Connection, settings: Optional[_Settings] = None) -> Exception:
    """Name, for people, what went wrong on a connection."""
    if connection.flight is not None and connection.flight.cut_off: return _Cut()
    where, doing = connection.where, connection.doing
    if connection.is_cut: return APIConnectionError(f"{where}: the client was closed while {doing}")
    kind: Type[APIConnectionError] = APIConnectionError
    advice = _advice("connection", f"{connection.origin[0]}: {doing}", str(error))
    problem = f"failed while {doing}: {error}"
    if isinstance(error, (socket.timeout, TimeoutError)):
        kind, advice = APITimeoutError, ""
        problem = f"timed out after {connection.timeout:g} s while {doing}: see timeout (GIGACHAT_TIMEOUT)"
    elif isinstance(error, ssl.SSLCertVerificationError):
        problem, advice = _distrust(error, settings)
    elif isinstance(error, socket.gaierror):
        problem, advice = f"the name cannot be resolved: {error.strerror or error}", ""
    elif isinstance(error, _NotHTTP):
        problem = f"what came back is not HTTP ({error})"
    elif isinstance(error, _Closed):
        problem = f"{error} while {doing}"
    elif isinstance(error, _TunnelRefused):
        said = f"{error.status} {http.client.responses.get(error.status, 'unknown status')}"
        problem = f"the proxy {error.proxy} refused a tunnel to {error.target}: {said}"
        advice = _advice(error.status, "proxy", asked=error.asked_for or "credentials") if error.status == 407 else ""
    if kind is APIConnectionError or doing == "connecting":
        advice = _todays(advice, where.partition(" ")[0])
    failure = kind(f"{where}: {problem.rstrip('.')}. {advice}".rstrip(". "))
    passing = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
    failure._lasting = isinstance(error, ssl.SSLError) and not isinstance(error, passing)
    return failure

def _distrust(error: Exception, settings: Optional[_Settings]) -> Tuple[str, str]:
    """Say why a certificate is not trusted, and what to do."""
    # Only OpenSSL's own errors have a verify_message; those of Python code (pinning, truststore) print as a tuple.
    reason = str(getattr(error, "verify_message", "") or (*error.args, error)[0]).rstrip(".")
    bundle = settings.ca_bundle_file if settings is not None else None
    # OpenSSL says nothing of a store that is not there, and trusts nobody.
    named = {name: os.environ.get(name, "") for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
    lost = [name for name, paths in named.items() if paths and not any(map(os.path.exists, paths.split(os.pathsep)))]
    lost = [] if settings is not None and settings.ssl_context is not None else lost
    store = " and ".join(f"{name} names {named[name]!r}, which is not there" for name in lost)
    strict = 80 <= getattr(error, "verify_code", 0) <= 93  # what OpenSSL's X509_V_FLAG_X509_STRICT finds
    where = "strict" if strict else "bundle" if bundle else "store" if store else ""
    advice = _advice("certificate", where, reason, bundle=repr(bundle), store=store)
    return f"the server's certificate is not trusted: {reason}", advice

class _Secrets:
    """Hides what must not show in an error when the server echoes it, in every spelling in which servers do."""
    def __init__(self, settings: _Settings, sent: Mapping[str, str]) -> None:
        known = [settings.credentials, settings.password, settings.access_token]
        known += [value.strip().rpartition(" ")[2] for name, value in sent.items() if name.lower() == "authorization"]
        known.append(_decoded_key(settings.credentials).partition(":")[2])
        for proxy in settings.proxies.values():
            login = proxy.rpartition("@")[0].rpartition("://")[2]
            known += [login.partition(":")[2], urllib.parse.unquote(login)]
        self._secrets = sorted({form for secret in known if secret for form in _forms(secret)}, key=len, reverse=True)

    def hide(self, text: str) -> str:
        """Put stars over the secrets; if one came escaped, the text comes back without the escapes."""
        text = plain = re.sub(r'("(?:access_token|tok)"\s*:\s*")[^"]*', r"\1***", text)
        for _ in range(5):  # as it came, then without one layer of escapes after the other
            starred = plain
            for secret in self._secrets:
                starred = starred.replace(secret, "***")
            if starred != plain:
                text = starred
            plain = _unescaped(starred)
        return text

def _forms(secret: str) -> Set[str]:
    """Give what servers make of a secret: unescaped, read as a form, without padding, in base64 of a longer text."""
    forms = [secret, secret.rstrip("="), _unescaped(secret)]
    forms += [form.replace(*pair) for form in forms for pair in (("+", " "), (" ", "+"))]
    data = secret.encode("utf-8", "surrogatepass")
    for before in range(3):  # bytes that stand before it in its first group of three, and change what that becomes
        core = base64.b64encode(bytes(before) + data)[-(before * -4 // 3) : (before + len(data)) * 4 // 3].decode()
        forms.append(core if len(core) > 7 else "")
    return {form for form in forms if len(form) > 3}

def _unescaped(text: str) -> str:
    """Take back one layer of the escapes of URLs, HTML and JSON."""
    import html
    text = html.unescape(urllib.parse.unquote(text))
    text = re.sub(r"\\(u([0-9a-fA-F]{4})|.)", lambda found: chr(int(found[2], 16)) if found[2] else found[1], text)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

def _decompressed(content: bytes, coding: str) -> bytes:
    """Read an error page that is compressed although we did not ask for that, or name its coding."""
    if not content or coding.lower() in ("", "identity"): return content
    import zlib
    try:
        return zlib.decompressobj(47).decompress(content, _MOST_ERROR_BYTES)  # 47: gzip or zlib, whichever it is
    except zlib.error:
        return b"an answer that is encoded as " + _one_line(coding, 100).encode("utf-8", "replace")

def _one_line(text: str, most: int) -> str:
    """Make what a stranger wrote fit to be shown: one line, no control characters, *most* characters."""
    printable = "".join(character if character.isprintable() else " " for character in text[: most * 20])
    return " ".join(printable.split())[:most]

def _unix_time(date: str, otherwise: float) -> float:
    """Read an HTTP date; *otherwise* where it is none."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError, OverflowError):
        return otherwise


# ---------- context variables

authorization_cvar: ContextVar[Optional[str]] = ContextVar("authorization_cvar", default=None)
session_id_cvar: ContextVar[Optional[str]] = ContextVar("session_id_cvar", default=None)
request_id_cvar: ContextVar[Optional[str]] = ContextVar("request_id_cvar", default=None)
client_id_cvar: ContextVar[Optional[str]] = ContextVar("client_id_cvar", default=None)
service_id_cvar: ContextVar[Optional[str]] = ContextVar("service_id_cvar", default=None)
operation_id_cvar: ContextVar[Optional[str]] = ContextVar("operation_id_cvar", default=None)
trace_id_cvar: ContextVar[Optional[str]] = ContextVar("trace_id_cvar", default=None)
agent_id_cvar: ContextVar[Optional[str]] = ContextVar("agent_id_cvar", default=None)
custom_headers_cvar: ContextVar[Optional[Dict[str, str]]] = ContextVar("custom_headers_cvar", default=None)
# Addresses of chats, as _chat_path() reads them.
chat_url_cvar: ContextVar[str] = ContextVar("chat_url_cvar", default="/chat/completions")
chat_completions_url_cvar: ContextVar[Optional[str]] = ContextVar("chat_completions_url_cvar", default=None)

_HEADER_CVARS = {"Authorization": authorization_cvar, "X-Client-ID": client_id_cvar, "X-Session-ID": session_id_cvar,
                 "X-Request-ID": request_id_cvar, "X-Service-ID": service_id_cvar, "X-Operation-ID": operation_id_cvar,
                 "X-Trace-ID": trace_id_cvar, "X-Agent-ID": agent_id_cvar}

def _context_headers() -> Dict[str, str]:
    """Collect the headers that the caller's context variables ask for; custom_headers_cvar beats the others."""
    asked = [(name, variable.get()) for name, variable in _HEADER_CVARS.items()]
    asked.extend((custom_headers_cvar.get() or {}).items())
    return _merged_headers(*({name: _checked_header(name, value)} for name, value in asked if value))

def _merged_headers(*sources: Mapping[str, str]) -> Dict[str, str]:
    """Put headers together; of two whose names differ in upper and lower case only, the later takes the place."""
    merged = {name.lower(): (name, value) for source in sources for name, value in source.items()}
    return dict(merged.values())

def _checked_header(name: str, value: str) -> str:
    """Refuse what would break the request apart (RFC 9110, 5.5 and 5.6.2), without the value: it may be a secret."""
    if not isinstance(name, str) or not re.match(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z", name):
        raise ValueError(f"{name!r} cannot be the name of a header")
    if name.lower() in ("content-length", "transfer-encoding", "connection", "host"):
        raise ValueError(f"header {name} belongs to the connection and cannot be set")
    if not isinstance(value, str): raise TypeError(f"header {name} must be str, not {type(value).__name__}")
    if not re.match(r"[\t\x20-\x7e\x80-\xff]*\Z", value):
        raise ValueError(f"header {name} may hold only printable Latin-1 characters: no line ends, no Cyrillic")
    return value


# ---------- settings

_AROUND = " \t\r\n\u00a0\u200b\ufeff\"'"  # what copying, editors and files of variables leave around a value

def _refuse_if(wrong: object, problem: str) -> None:
    if wrong: raise ValueError(problem)

def _read_text(value: Any) -> Any:
    _refuse_if(not isinstance(value, str), "must be str")
    _refuse_if(re.search("[\ud800-\udfff]", value), "holds bytes that are not UTF-8")
    return value

def _read_token(value: Any) -> str:
    """Read what goes into a header, a token or an id; the word before it, copied with it, is left out."""
    text = re.sub(r"(?i)\A(authorization:\s*)?(basic|bearer)\s+", "", _read_text(value))
    placeholder = re.search(r"(?is)\A(<.*>|\{.*\}|\$.*|%.*%|\W+)\Z|[а-яё]", text)
    _refuse_if(placeholder, "is a placeholder: put there what it stands for")
    _refuse_if(re.search(r"[\r\n]", text), "holds a line end: copy it in one piece")
    _refuse_if(re.search(r"\s", text), "holds a blank")
    _refuse_if(re.search(r"[^\x21-\x7e]", text), "holds characters other than ASCII")
    return text

def _read_credentials(value: Any) -> str:
    """Read an authorization key, base64 of ``client_id:client_secret``; a "Basic " copied with it is left out."""
    key = _read_token(value)
    if not _decoded_key(key):
        logger.warning("credentials do not look like an authorization key, base64 of client_id:client_secret")
    return key

def _decoded_key(key: Optional[str]) -> str:
    """Give the ``client_id:client_secret`` of an authorization key; nothing where it holds none."""
    try:
        pair = base64.b64decode(key or "", validate=True).decode("utf-8", "replace")
    except ValueError:
        return ""
    return pair if ":" in pair else ""

def _read_url(value: Any) -> str:
    """Read the address of a server, in the one form in which it is used; a name in Cyrillic becomes its ASCII form."""
    text = _read_text(value)
    parts = _split_url(text)
    _refuse_if(parts.scheme not in ("http", "https"), "must begin with https:// or http://")
    more = "@" in parts.netloc or parts.query or parts.fragment
    _refuse_if(more, "may hold neither user and password nor a query nor a fragment")
    odd = re.search(r"[\x00-\x20\x7f\\]", text) or "%" in parts.netloc or not parts.path.isascii()
    _refuse_if(odd, "holds blanks or characters that an address cannot have")
    host = parts.hostname or ""
    try:
        host = f"[{host}]" if ":" in host else host.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError("has an invalid host name: a part of it is empty, too long or not for names") from None
    return f"{parts.scheme}://{host}{'' if parts.port is None else f':{parts.port}'}{parts.path.rstrip('/')}"

def _read_base_url(value: Any) -> str:
    url = _read_url(value)
    gives_tokens = url.endswith("/oauth") or urllib.parse.urlsplit(url).hostname == "ngw.devices.sberbank.ru"
    _refuse_if(gives_tokens, "is the token endpoint (auth_url); base_url ends in /api/v1 or /v1")
    return url

def _read_proxy(value: Any) -> str:
    """Read ``[http://][user:password@]host:port``; the empty string means no proxy."""
    text: str = _read_text(value)
    if not text: return ""
    url = text if "://" in text else "http://" + text.lstrip("/")
    parts = _split_url(url)
    _refuse_if(parts.scheme != "http", "must be an http:// proxy; neither TLS to the proxy nor SOCKS is supported")
    more = parts.path.lstrip("/") or parts.query or parts.fragment
    _refuse_if(more, "may end in nothing but host and port; in a password write %40, %2F, %3F, %23 for @, /, ?, #")
    _refuse_if(re.search(r"[\x00-\x20\x7f]", url), "holds blanks or line ends")
    return url

def _split_url(url: str) -> urllib.parse.SplitResult:
    """Take an address apart, and make sure that it has a host and no odd port; errors do not quote it."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        raise ValueError("is not an address: it has unpaired or misplaced brackets") from None
    try:
        port = parts.port
    except ValueError:
        raise ValueError("has a port that is no number from 1 to 65535") from None
    _refuse_if(parts.scheme in ("http", "https") and (not parts.hostname or port == 0), "names no host, or port 0")
    return parts

def _read_path(value: Any) -> Any:
    path = os.fspath(value)
    _refuse_if(not isinstance(path, str) or not path or "\0" in path, "must be the path of a file")
    return path

_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}

def _read_boolean(value: Any, advice: str = "") -> bool:
    word = str(value).lower() if isinstance(value, (str, int)) else ""
    _refuse_if(word not in _BOOLEANS, f"must be one of true, false, 1, 0, yes, no, on, off{advice}")
    return _BOOLEANS[word]

_read_trust = functools.partial(_read_boolean, advice="; a CA goes into ca_bundle_file, a context into ssl_context")

def _number(kind: Callable[[Any], Any], least: float, most: float = math.inf) -> Callable[[Any], Any]:
    """Make a reader of numbers, also as text; int() and float() alone would take True, and int() cut off 1.5."""
    def read(value: Any) -> Any:
        try:
            number = math.nan if isinstance(value, bool) else kind(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        fits = least <= number <= most and number != math.inf and (number == value or isinstance(value, str))
        limits = f"{least:g} or more" + ("" if most == math.inf else f", and {most:g} at most")
        _refuse_if(not fits, f"must be a {'whole ' if kind is int else ''}number, {limits}")
        return number
    return read

def _list(kind: Callable[[Any], Any], read_item: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Make a reader of lists, also as text, JSON or separated by commas."""
    def read(value: Any) -> Any:
        if isinstance(value, str):
            parts = filter(None, (item.strip(_AROUND) for item in value.split(",")))
            value = json.loads(value) if value.startswith("[") else list(parts)
        _refuse_if(not isinstance(value, (list, tuple, set, frozenset)), "must be a list: JSON or separated by commas")
        return kind(map(read_item, value))
    return read

def _read_ssl_context(value: Any) -> Any:
    _refuse_if(not isinstance(value, ssl.SSLContext), "must be an ssl.SSLContext")
    return value

class _Setting(NamedTuple):
    default: Any
    read: Callable[[Any], Any]
    meaning: str
    secret: bool = False

_setting: Any = _Setting  # for type checkers: an object of the class below has the value itself under each name

class _Settings(types.SimpleNamespace):
    """What a client was told: an argument beats GIGACHAT_<NAME> in the environment, which beats the default here."""
    credentials: Optional[str] = _setting(None, _read_credentials, "the authorization key", secret=True)
    scope: str = _setting("GIGACHAT_API_PERS", _read_text, "whom the key belongs to: ..._PERS, ..._B2B or ..._CORP")
    model: str = _setting("GigaChat", _read_text, "model of chats, where the request names none")
    base_url: str = _setting("https://gigachat.devices.sberbank.ru/api/v1", _read_base_url, "address of the API")
    auth_url: str = _setting("https://ngw.devices.sberbank.ru:9443/api/v2/oauth", _read_url, "the token endpoint")
    access_token: Optional[str] = _setting(None, _read_token, "a token that is there already", secret=True)
    user: Optional[str] = _setting(None, _read_text, "user, for services that give tokens at /token", secret=True)
    password: Optional[str] = _setting(None, _read_text, "the user's password", secret=True)
    verify_ssl_certs: bool = _setting(True, _read_trust, "off: anyone in between can read your key")
    strict_certs: bool = _setting(True, _read_boolean, "off: take CAs that break RFC 5280, as before Python 3.13")
    ca_bundle_file: Optional[str] = _setting(None, _read_path, "root certificates, PEM or DER: a file or a directory")
    cert_file: Optional[str] = _setting(None, _read_path, "client certificate, PEM")
    key_file: Optional[str] = _setting(None, _read_path, "its private key, where cert_file does not hold it")
    key_file_password: Optional[str] = _setting(None, _read_text, "password of the private key", secret=True)
    ssl_context: Optional[ssl.SSLContext] = _setting(None, _read_ssl_context, "a TLS context of your own")
    proxy: Optional[str] = _setting(None, _read_proxy, "http://[user:password@]host:port; empty: none", secret=True)
    timeout: float = _setting(30.0, _number(float, 0.001, threading.TIMEOUT_MAX), "seconds of each wait for the server")
    max_connections: Optional[int] = _setting(None, _number(int, 1), "most connections at once")
    max_retries: int = _setting(0, _number(int, 0), "retries of a failed call, which may have been carried out")
    retry_backoff_factor: float = _setting(0.5, _number(float, 0), "seconds before the first retry; doubles each time")
    retry_on_status_codes: Tuple[int, ...] = _setting((429, 500, 502, 503, 504), _list(tuple, _number(int, 100, 599)),
                                                      "statuses that are tried again")
    token_expiry_buffer_ms: int = _setting(60_000, _number(int, 0), "how long before its end a token is renewed")
    profanity_check: Optional[bool] = _setting(None, _read_boolean, "whether the service filters profanity")
    flags: Optional[List[str]] = _setting(None, _list(list, _read_text), "flags of chats, JSON or separated by commas")
    session_id: Optional[str] = _setting(None, _read_token, "session of all requests: its prompts are cached")

    proxies: Dict[str, str]  # by scheme, from proxy or the environment; under "no" what they are not for

    def __repr__(self) -> str: return f"(base_url={self.base_url!r}, model={self.model!r}, scope={self.scope!r})"

_SETTINGS: Dict[str, _Setting] = {name: it for name, it in vars(_Settings).items() if isinstance(it, _Setting)}

def _trimmed(name: str, value: Any) -> Any:
    """Take off what is around a text and not meant; of a password, line ends alone."""
    return value.strip("\r\n" if name.endswith("password") else _AROUND) if isinstance(value, str) else value

def _read_settings(given: Mapping[str, Any], environ: Mapping[str, str], known: Mapping[str, Any] = {}) -> _Settings:
    """Put the settings together; ConfigurationError, naming parameter and variable, for what cannot work."""
    found = {**{name: setting.default for name, setting in _SETTINGS.items()}, **known}
    for name, setting in _SETTINGS.items():
        variable = "GIGACHAT_" + name.upper()
        value, source, other = _trimmed(name, given.get(name)), name, variable
        if value is None or (value == "" and name != "proxy"):  # an empty proxy means none; other settings are not set
            value, source, other = _trimmed(name, environ.get(variable)) or None, variable, name
        if value is None: continue
        try:
            found[name] = setting.read(value)
            continue
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            problem = str(error)  # without what led to it, which may quote a secret
        shown = "the value" if setting.secret or name.endswith("_url") else repr(value)
        raise ConfigurationError(f"{source} (also {other}): {shown} {problem}")
    settings = _Settings(**{"proxies": _proxies(found["proxy"]), **found})
    _check_together(settings)
    return settings

def _check_together(settings: _Settings) -> None:
    """Refuse settings that contradict each other."""
    if settings.key_file and not settings.cert_file:
        raise ConfigurationError("key_file (GIGACHAT_KEY_FILE) needs cert_file (GIGACHAT_CERT_FILE), its certificate")
    for name in ("ca_bundle_file", "cert_file", "key_file", "key_file_password", "verify_ssl_certs", "strict_certs"):
        if settings.ssl_context is not None and getattr(settings, name) not in (None, True):
            raise ConfigurationError(f"ssl_context is used as it is: put {name} (GIGACHAT_{name.upper()}) into it")

def _proxies(setting: Optional[str]) -> Dict[str, str]:
    """Say which proxies there are, by scheme: the setting, else the environment's, read once for a client; and "no"."""
    import urllib.request
    proxies = {name: value.strip(_AROUND) for name, value in urllib.request.getproxies_environment().items()}
    if setting is not None: return {"http": setting, "https": setting, "no": proxies.get("no", "")} if setting else {}
    for scheme in ("http", "https"):  # set and empty: off, whatever all_proxy says
        if os.environ.get(f"{scheme}_proxy", os.environ.get(f"{scheme.upper()}_PROXY")) == "":
            proxies[scheme] = ""
    return proxies

def _proxy_for(proxies: Dict[str, str], scheme: str, host: str) -> Optional[str]:
    """Say through which proxy a request goes: none if no_proxy names its host."""
    from urllib.request import proxy_bypass_environment as bypassed  # type: ignore[attr-defined]
    proxy = proxies.get(scheme, proxies.get("all"))
    name = (urllib.parse.urlsplit(f"//{host}").hostname or "").rstrip(".")
    if not proxy or bypassed(host, proxies) or bypassed(name, proxies): return None
    try:
        return _read_proxy(proxy)
    except ValueError as error:
        problem = str(error)
    raise ConfigurationError(f"proxy (from {_proxy_variable(proxy)}): the value {problem}")

def _proxy_variable(value: str) -> str:
    """Name the environment variable that a proxy comes from."""
    names = ("GIGACHAT_PROXY", "https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
    values = {name: os.environ.get(name, "").strip(_AROUND) for name in names}
    return next((name for name in names if values[name] and value.endswith(values[name])), "proxy")

# What settings are called in requests, httpx, openai and langchain, where difflib would not find it.
_HABITS = {"api_key": "credentials", "auth_key": "credentials", "authorization_key": "credentials",
           "key": "credentials", "client_secret": "credentials", "token": "access_token", "verify": "verify_ssl_certs",
           "ca_file": "ca_bundle_file", "cafile": "ca_bundle_file", "cert": "cert_file", "retries": "max_retries",
           "url": "base_url", "host": "base_url", "endpoint": "base_url", "api_base": "base_url",
           "max_workers": "max_connections"}

def _warn_unknown(kind: str, names: Iterable[str]) -> None:
    """Warn of arguments that the constructor of *kind* does not know, where it was called; values may be secrets."""
    for name in names:
        import difflib
        import warnings
        known = [*_SETTINGS, *Chat.__dataclass_fields__]
        near = _HABITS.get(name) or "".join(difflib.get_close_matches(name, known, 1))
        advice = f"; did you mean {near}?" if near else ""
        if near and near not in _SETTINGS:
            advice = f"; {_put_into_payload(near)}"
        warnings.warn(f"{kind}() does not know {name!r}{advice}", stacklevel=3)

def _put_into_payload(option: str) -> str:
    return f"{option} belongs in the payload: {{'messages': [...], '{option}': ...}}"


# ---------- the way of a call

_LONGEST_RETRY_AFTER = 120.0  # seconds; a server that asks for more gets the caller's attention instead
_LONGEST_BACKOFF = 60.0
_JITTER = 0.5

class _Client:
    """Settings, connections and token: what every endpoint goes through."""
    _borrows = False  # whether connections and token are another client's

    def __init__(self, *unnamed: NoReturn, base_url: Optional[str] = None, auth_url: Optional[str] = None,
                 credentials: Optional[str] = None, scope: Optional[str] = None, access_token: Optional[str] = None,
                 model: Optional[str] = None, profanity_check: Optional[bool] = None, user: Optional[str] = None,
                 password: Optional[str] = None, timeout: Optional[float] = None,
                 verify_ssl_certs: Optional[bool] = None, strict_certs: Optional[bool] = None,
                 ca_bundle_file: Optional[str] = None, cert_file: Optional[str] = None, key_file: Optional[str] = None,
                 key_file_password: Optional[str] = None, ssl_context: Optional[ssl.SSLContext] = None,
                 flags: Optional[List[str]] = None, max_connections: Optional[int] = None,
                 max_retries: Optional[int] = None, retry_backoff_factor: Optional[float] = None,
                 retry_on_status_codes: Optional[Tuple[int, ...]] = None, token_expiry_buffer_ms: Optional[int] = None,
                 proxy: Optional[str] = None, session_id: Optional[str] = None, **unknown: Any) -> None:
        """Make a client; nothing is opened before the first call. Raises ConfigurationError.

        What is not given comes from the environment, ``GIGACHAT_<NAME>``, or has the default of the official SDK."""
        if unnamed: raise TypeError(f"{type(self).__name__}() takes its settings by name: credentials=..., model=...")
        _warn_unknown(type(self).__name__, unknown)
        self._settings = _read_settings(locals(), os.environ)
        self._shared = _Shared(self._settings)

    def with_options(self: K, *, timeout: Optional[float] = None, max_retries: Optional[int] = None,
                     retry_backoff_factor: Optional[float] = None,
                     retry_on_status_codes: Optional[Tuple[int, ...]] = None, model: Optional[str] = None,
                     profanity_check: Optional[bool] = None, flags: Optional[List[str]] = None,
                     session_id: Optional[str] = None) -> K:
        """Make a client for some calls, with other settings, over the same connections and the same token.

        Closing it closes nothing but itself. *session_id* is the X-Session-ID where the context variable is not set."""
        settings = _read_settings(locals(), {}, vars(self._settings))
        other = self.__class__.__new__(self.__class__)
        vars(other).update(vars(self), _settings=settings, _borrows=True)
        return other

    def _close(self) -> None:
        if self._borrows:  # the connections are another client's
            self._shared = _Shared(self._settings)
        self._shared.close()

    def __getstate__(self) -> Dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_shared", "_borrows")}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        vars(self).update(state)
        self._shared = _Shared(self._settings)

    def __deepcopy__(self: T, memo: Dict[int, Any]) -> T: return copy.copy(self)

    def __repr__(self) -> str: return f"{type(self).__name__}{self._settings}"

    @property
    def _workers(self) -> _Workers: return self._shared.here.workers

    # The data path.

    def _call(self, method: str, path: str, result: Type[J], body: Any = None, **options: Any) -> J:
        """Send one request and decode its answer into *result*."""
        reply: _Reply = self._send(self._request(method, path, body, **options))
        return reply.decode(result)

    def _stream(self, path: str, result: Type[J], body: Dict[str, Any], headers: Mapping[str, str]) -> Stream[J]:
        """Prepare a request whose answer comes as events; it is sent when the stream is iterated."""
        call = self._request("POST", path, {**body, "stream": True}, headers=headers)
        return Stream(functools.partial(self._send, call), _read_events, result)

    def _request(self, method: str, path: str, body: Any = None, *, query: Sequence[Tuple[str, Any]] = (),
                 headers: Optional[Mapping[str, str]] = None) -> _Call:
        """Write a request: *body* is JSON unless it is bytes or an upload. Bad input raises here, before sending."""
        url = self._settings.base_url + path
        if path[0] != "/":  # a whole address
            url, path = path, urllib.parse.urlsplit(path).path
        for name, value in query:
            if value is None or value == "": raise ValueError(f"{name} must not be empty")
        if query:
            url += "?" + urllib.parse.urlencode(query)
        headers = dict(headers or {})
        if isinstance(body, _Upload):
            headers["Content-Type"] = body.content_type
        elif body is not None and not isinstance(body, bytes):
            body, headers["Content-Type"] = _encode(body), "application/json"
        return _Call(method, url, path, body, headers)

    def _send(self, call: _Call, begin: Optional[Callable[[_Reply], Any]] = None) -> Any:
        """Send a request, with the retries that the settings ask for; give the reply, read whole, or what *begin* does.

        A stream begins with its first chunk: until that is there nothing was delivered, and nothing can come twice."""
        def attempt() -> Any: return self._authorized(call).begun(begin or _Reply.read_whole)
        return self._retrying(attempt, call.body)

    def _retrying(self, attempt: Callable[[], T], body: _Body = None) -> T:
        """Repeat *attempt* while that is worth it and *body* can be sent again."""
        failures = 0
        while True:
            try:
                return attempt()
            except (ResponseError, APIConnectionError) as error:
                delay = self._retry_delay(error, failures)
                if delay is None or not _rewound(body): raise
                logger.debug("%s: trying again in %.1f s", type(error).__name__, delay)
            failures += 1
            self._shared.here.pool.pause(delay)

    def _retry_delay(self, error: Union[ResponseError, APIConnectionError], failures: int) -> Optional[float]:
        """Decide whether another attempt is worth it after *failures* earlier ones, and in how many seconds."""
        settings, asked = self._settings, 0.0
        if isinstance(error, ResponseError):
            passing, asked = error.status_code in settings.retry_on_status_codes, error.retry_after
        else:
            passing = not error._lasting
        if failures >= settings.max_retries or not passing or asked > _LONGEST_RETRY_AFTER: return None
        backoff = settings.retry_backoff_factor * 2 ** min(failures, 30) + random.uniform(0, _JITTER)
        return asked or min(backoff, _LONGEST_BACKOFF)

    def _authorized(self, call: _Call) -> _Reply:
        """Send a request with a token; on a 401 drop the token and try once more with another.

        Where there is nothing to get a token with, whoever stands in between may add one: the request is sent without.
        """
        context_headers = _context_headers()
        if any(name.lower() == "authorization" for name in context_headers):
            return self._exchange(call, context_headers)
        token = self._current_token()
        try:
            return self._exchange(call, context_headers, token)
        except AuthenticationError:
            if token is None or not self._can_log_in(): raise
            with self._shared.here.login_lock:
                if self._shared.token is token:  # not a newer one
                    self._shared.token = None
            if not _rewound(call.body): raise
        return self._exchange(call, context_headers, self._current_token())

    def _exchange(self, call: _Call, context_headers: Mapping[str, str], token: Optional[AccessToken] = None) -> _Reply:
        """Send one request, once, and take the head of its answer; raise the ResponseError of one that is not 2xx."""
        import urllib.request
        settings = self._settings
        request = urllib.request.Request(call.url, data=call.body, method=call.method)
        request.timeout = settings.timeout
        headers = {"Host": request.host, "User-Agent": f"gigachat_lite/{__version__}", "Accept": "*/*"}
        headers["Accept-Encoding"] = "identity"
        headers.update(call.headers)
        if token is not None:
            headers["Authorization"] = f"Bearer {token.access_token}"
        if settings.session_id is not None and call.url != settings.auth_url:
            headers["X-Session-ID"] = settings.session_id
        request.headers = _merged_headers(headers, context_headers) if context_headers else headers
        started = time.monotonic()
        answer = self._shared.here.open(request)
        logger.debug("%s %s: %d, %.0f ms", call.method, call.url, answer.status, (time.monotonic() - started) * 1000)
        reply = _Reply(call, answer, request.headers, settings)
        if not 200 <= reply.status < 300: raise reply.error()
        return reply

    def _chat_body(self, chat: Union[Chat, ChatCompletionRequest], options: Iterable[str] = ()) -> Dict[str, Any]:
        """Write the body of a chat request; the client's settings fill in what it leaves open."""
        for option in options:  # which the endpoint does not take
            raise TypeError(_put_into_payload(option))
        explicit = dict(_sent_fields(chat))
        if callable(explicit.get("response_format")):
            raise TypeError("response_format is a type: chat_parse() takes it, and gives a value of it")
        additional = {**(explicit.pop("additional_fields", None) or {})}
        additional.pop("stream", None)
        body = {"model": None, **additional, **explicit, "stream": None}  # which _stream() sets
        for name in ("profanity_check", "flags"):
            if body.get(name) is None:
                body[name] = getattr(self._settings, name)
        if isinstance(chat, ChatCompletionRequest):
            wanted = body.pop("profanity_check")
            if wanted is not None and body.get("disable_filter") is None:
                body["disable_filter"] = not wanted
        storage = _plain(body.get("storage"))
        stored = storage if isinstance(storage, dict) else {}
        owner = body.get("assistant_id") or stored.get("assistant_id") or stored.get("thread_id")
        if body["model"] is None and not owner:  # an assistant and a thread have a model of their own
            body["model"] = self._settings.model
        return {name: value for name, value in body.items() if value is not None or name in additional}

    # Auth.

    def _can_log_in(self) -> bool:
        return bool(self._settings.credentials or (self._settings.user and self._settings.password))

    def _current_token(self) -> Optional[AccessToken]:
        """Give a token that is good for a call: one token request, whatever the number of callers."""
        shared, here = self._shared, self._shared.here
        logins_before = here.logins
        with here.login_lock:
            if shared.token is not None and (shared.renew_at is None or time.time() < shared.renew_at):
                return shared.token
            if not self._can_log_in(): return None
            if here.logins > logins_before and here.login_failure is not None:
                # A request that began while we waited failed; another one for each who waited would multiply it.
                raise copy.copy(here.login_failure)
            here.logins, here.login_failure = here.logins + 1, None
            try:
                token = self._log_in()
            except GigaChatException as error:
                here.login_failure = copy.copy(error)  # without the traceback, which holds all of this call
                raise
            shared.token, shared.renew_at = token, self._renewal_time(token)
            return token

    def _log_in(self) -> AccessToken:
        import uuid
        settings = self._settings
        if settings.credentials:
            key = settings.credentials
            path = urllib.parse.urlsplit(settings.auth_url).path or "/"
            body = urllib.parse.urlencode({"scope": settings.scope}).encode("ascii")
            call = _Call("POST", settings.auth_url, path, body, private=True)
            headers = {"Content-Type": "application/x-www-form-urlencoded", "RqUID": str(uuid.uuid4())}
        else:
            key = base64.b64encode(f"{settings.user}:{settings.password}".encode()).decode("ascii")
            call = _Call("POST", settings.base_url + "/token", "/token", b"", private=True)
            headers = _context_headers()
        headers = _merged_headers(headers, {"Authorization": f"Basic {key}"})
        return _as_access_token(self._exchange(call, headers).begun(_Reply.read_whole))

    def _renewal_time(self, token: AccessToken) -> Optional[float]:
        """Say when to ask for another token: ahead of the expiry, but not before half of the token's life is over.

        A token that expires in the past shows that the clocks differ: it is good until the server refuses it."""
        expiry = token.expires_at / 1000
        life = expiry - time.time()
        return expiry - min(self._settings.token_expiry_buffer_ms / 1000, life / 2) if life > 0 else None

    @property
    def token(self) -> Optional[str]:
        """The access token that the client holds, if any."""
        return getattr(self._shared.token, "access_token", None)

class _Call(NamedTuple):
    """What an endpoint sends."""
    method: str
    url: str
    path: str  # the url without its base, for people
    body: _Body = None
    headers: Mapping[str, str] = {}
    private: bool = False  # the answer is a secret

    @property
    def place(self) -> str:
        """What it is about, for the advice."""
        return f"oauth {self.path}" if self.private and self.path != "/token" else self.path

_Body = Union[bytes, "_Upload", None]

def _rewound(body: _Body) -> bool:
    """Tell whether a body can be sent again: what cannot seek is read only once."""
    return body.rewindable if isinstance(body, _Upload) else True

def _as_access_token(reply: _Reply) -> AccessToken:
    """Read ``{"access_token", "expires_at"}`` (OAuth, milliseconds) or ``{"tok", "exp"}`` (/token, seconds)."""
    fields = vars(reply.decode(JSONObject))
    text = fields.get("access_token") or fields.get("tok")
    if not isinstance(text, str) or not re.match(r"[\x21-\x7e]+\Z", text):
        raise InvalidResponseError(f"{reply.what}: the answer holds no token")
    expires_at = fields.get("expires_at") or fields.get("exp")
    if isinstance(expires_at, bool) or not isinstance(expires_at, (int, float)) or not 0 < expires_at < 1e17:
        expires_at = 0
    if expires_at < 1e11:  # 1973 in milliseconds, the year 5138 in seconds
        expires_at *= 1000
    return reply.as_model(AccessToken, {"access_token": text, "expires_at": int(expires_at)})

class _Shared:
    """What the threads and tasks of a client share: the token, and in each process connections, logins and workers."""
    def __init__(self, settings: _Settings) -> None:
        self.token = AccessToken(access_token=settings.access_token) if settings.access_token is not None else None
        self.renew_at: Optional[float] = None  # Unix time, seconds; None: when the server refuses the token
        self.closed = False
        self._settings = settings
        self._by_pid = {os.getpid(): _Process(settings)}
        _all_shared.add(self)

    @property
    def here(self) -> _Process:
        """What belongs to this process. A child, forked by Python or in C, would talk over its parent's connections and
        wait for locks that threads of its parent held: it starts afresh, with nothing but the token."""
        pid = os.getpid()
        here = self._by_pid.get(pid)
        if here is None:
            inherited = [item for item in list(self._by_pid.items()) if item[0] != pid]
            here = self._by_pid.setdefault(pid, _Process(self._settings))  # one, however many threads come here
            for parent, process in inherited:
                process.pool.forget()
                self._by_pid.pop(parent, None)
            if self.closed:
                here.pool.close()
        return here

    def close(self) -> None:
        self.closed = True
        self.here.pool.close()
        self.here.workers.stop()

    def __del__(self) -> None:
        if os.getpid() in vars(self).get("_by_pid", ()):  # which is not there where __init__ failed
            self.close()

class _Process:
    """What a client has in one process."""
    def __init__(self, settings: _Settings) -> None:
        import urllib.request
        self.pool = KeepAlive(settings)
        # Only this handler: no redirects, which would carry the token to another host, no file: and ftp:, no cookies.
        opener = urllib.request.OpenerDirector()
        opener.add_handler(self.pool)  # type: ignore[arg-type]  # all that is asked of a handler
        self._opener = opener if settings.proxies else None
        self.workers = _Workers(max(100, settings.max_connections or 0))
        # Guards the token and all about it; never held during an API call. Reentrant: a signal handler, or a destructor
        # that the collector runs, may make a call while its own thread logs in.
        self.login_lock = threading.RLock()
        self.logins, self.login_failure = 0, cast(Optional[GigaChatException], None)

    def open(self, request: Request) -> Any:
        """Send a request and wait for the head of its answer."""
        if self._opener is None:  # no proxy comes in between: 12 µs less
            return self.pool.https_open(request)
        return self._opener.open(request, timeout=request.timeout)

_all_shared: weakref.WeakSet[_Shared] = weakref.WeakSet()

@atexit.register
def _end() -> None:
    """Close the sockets, so that none warns of being collected open."""
    for shared in list(_all_shared):
        shared.here.pool.forget()


# ---------- endpoints

class _Resource:
    """A group of endpoints of a client: made at each access, and a test may replace it."""
    def __init__(self, client: Any = None) -> None:
        self._client: _Client = client

    def __get__(self: T, client: Any, owner: object = None) -> T:
        return cast(Any, type(self))(client) if client is not None else self

    @property
    def _workers(self) -> _Workers: return self._client._workers

class ChatNamespace(_Resource):
    """Chat: ``client.chat(...)`` is the first version, ``client.chat.create(...)`` and ``.stream(...)`` the second."""
    def __call__(self, payload: Payload, **options: NoReturn) -> ChatCompletion:
        """Answer a conversation: a question, messages, a dict or a Chat. ``POST /chat/completions``."""
        body = self._client._chat_body(_as_chat(payload), options)
        return self._client._call("POST", _chat_path(self._client, chat_url_cvar), ChatCompletion, body)

    def create(self, payload: CompletionPayload, **options: NoReturn) -> ChatCompletionResponse:
        """Answer: a question, messages, a dict or a ChatCompletionRequest. ``POST /v2/chat/completions``."""
        body = self._client._chat_body(_as_request(payload), options)
        path = _chat_path(self._client, chat_completions_url_cvar)
        return self._client._call("POST", path, ChatCompletionResponse, body)

    def stream(self, payload: CompletionPayload, **options: NoReturn) -> Stream[PrimaryChatCompletionChunk]:
        """Answer bit by bit. ``POST /v2/chat/completions``. Raises StreamInterruptedError when cut off."""
        body = self._client._chat_body(_as_request(payload), options)
        path = _chat_path(self._client, chat_completions_url_cvar)
        return self._client._stream(path, PrimaryChatCompletionChunk, body, _STREAM_HEADERS)

    @overload
    def parse(self, payload: CompletionPayload, *, response_format: Type[T], strict: bool = ...) -> _ParsedV2[T]: ...
    @overload
    def parse(self, payload: CompletionPayload, *, response_format: Any, strict: bool = ...) -> _ParsedV2[Any]: ...
    def parse(self, payload: CompletionPayload, *, response_format: Any, strict: bool = True) -> _ParsedV2[Any]:
        """Answer with a value of a type, as ``chat_parse()`` does. ``POST /v2/chat/completions``."""
        return _parse(ChatNamespace(self._client).create, _as_request(payload), response_format, strict)

    def run_tools(self, payload: CompletionPayload, functions: _Tools, *, max_rounds: int = 10) -> _RanV2:
        """Answer with the help of Python functions and of the server's tools. ``POST /v2/chat/completions``."""
        return _at_once(_run_tools(ChatNamespace(self._client).create, _as_request(payload), functions, max_rounds))

class AssistantsSyncClient(_Resource):
    """Assistants: a model with instructions, files and functions, kept by the server."""
    def get(self, assistant_id: Optional[str] = None) -> Assistants:
        """List the assistants, or the one with this id. ``GET /assistants``."""
        query = [("assistant_id", assistant_id)] if assistant_id else []
        return self._client._call("GET", "/assistants", Assistants, query=query)

    def create(self, model: str, name: str, instructions: Optional[str] = None, description: Optional[str] = None,
               file_ids: Optional[List[str]] = None, functions: Optional[List[Function]] = None,
               metadata: Optional[Dict[str, Any]] = None) -> CreateAssistant:
        """Make an assistant; ``metadata`` takes up to 16 pairs. ``POST /assistants``."""
        return self._client._call("POST", "/assistants", CreateAssistant, _assistant_body(**locals()))

    def update(self, assistant_id: str, name: Optional[str] = None, description: Optional[str] = None,
               instructions: Optional[str] = None, file_ids: Optional[List[str]] = None,
               functions: Optional[List[Function]] = None, metadata: Optional[Dict[str, Any]] = None) -> Assistant:
        """Change an assistant. ``POST /assistants/modify``."""
        return self._client._call("POST", "/assistants/modify", Assistant, _assistant_body(**locals()))

    def delete(self, assistant_id: str) -> AssistantDelete:
        """Delete an assistant. ``POST /assistants/delete``."""
        return self._client._call("POST", "/assistants/delete", AssistantDelete, {"assistant_id": assistant_id})

    def delete_file(self, assistant_id: str, file_id: str) -> AssistantFileDelete:
        """Take a file from an assistant. ``POST /assistants/files/delete``."""
        body = {"assistant_id": assistant_id, "file_id": file_id}
        return self._client._call("POST", "/assistants/files/delete", AssistantFileDelete, body)

class ThreadsSyncClient(_Resource):
    """Threads: conversations kept by the server."""
    def list(self, assistants_ids: Optional[List[str]] = None, limit: Optional[int] = None,
             before: Optional[int] = None) -> Threads:
        """List threads; ``before``: Unix time, seconds. ``GET /threads``."""
        query = [("assistants_ids", assistant_id) for assistant_id in assistants_ids or ()]
        return self._client._call("GET", "/threads", Threads, query=query + _page(limit, before))

    get_threads = list

    def create(self) -> Thread:
        """Begin a thread. ``POST /threads``."""
        return self._client._call("POST", "/threads", Thread, {})

    def create_thread(self) -> str:
        """Begin a thread; give its id. ``POST /threads``."""
        return ThreadsSyncClient.create(self).id

    def retrieve(self, threads_ids: List[str]) -> Threads:
        """Give the threads with these ids. ``POST /threads/retrieve``."""
        return self._client._call("POST", "/threads/retrieve", Threads, {"threads_ids": threads_ids})

    def delete(self, thread_id: str) -> bool:
        """Delete a thread. ``POST /threads/delete``, whose answer is empty. Raises NotFoundError."""
        self._client._send(self._client._request("POST", "/threads/delete", {"thread_id": thread_id}))
        return True

    def get_messages(self, thread_id: str, limit: Optional[int] = None, before: Optional[int] = None) -> ThreadMessages:
        """Give a thread's messages; ``before``: Unix time, seconds. ``GET /threads/messages``."""
        query: List[Tuple[str, Any]] = [("thread_id", thread_id)]
        return self._client._call("GET", "/threads/messages", ThreadMessages, query=query + _page(limit, before))

    def add_message(self, thread_id: str, message: Message) -> ThreadMessagesResponse:
        """Add a message to a thread without an answer to it. ``POST /threads/messages``."""
        return ThreadsSyncClient.add_messages(self, thread_id, [message])

    def add_messages(self, thread_id: Optional[str] = None,
                     messages: Optional[Sequence[Message]] = None) -> ThreadMessagesResponse:
        """Add messages to a thread, a new one without *thread_id*, without an answer. ``POST /threads/messages``."""
        whole = [_with_nulls(message) for message in _as_messages(messages or [])]
        body = _thread_body(thread_id, None, None, whole)
        return self._client._call("POST", "/threads/messages", ThreadMessagesResponse, body)

    def run(self, thread_id: str, assistant_id: Optional[str] = None, thread_options: Optional[ThreadRunOptions] = None,
            options: Optional[ThreadRunOptions] = None) -> ThreadRunResponse:
        """Begin to answer a thread; :meth:`get_run` tells how it goes. ``POST /threads/run``."""
        body = _run_body(thread_id, assistant_id, thread_options, options)
        return self._client._call("POST", "/threads/run", ThreadRunResponse, body)

    def run_stream(self, thread_id: str, assistant_id: Optional[str] = None,
                   thread_options: Optional[ThreadRunOptions] = None,
                   options: Optional[ThreadRunOptions] = None) -> Stream[ThreadCompletionChunk]:
        """Answer a thread bit by bit. ``POST /threads/run``. Raises StreamInterruptedError when cut off."""
        body = _run_body(thread_id, assistant_id, thread_options, options)
        return self._client._stream("/threads/run", ThreadCompletionChunk, body, {})

    def get_run(self, thread_id: str) -> ThreadRunResult:
        """Tell how a thread's run goes. ``GET /threads/run``."""
        return self._client._call("GET", "/threads/run", ThreadRunResult, query=[("thread_id", thread_id)])

    def run_messages(self, messages: Sequence[Message], thread_id: Optional[str] = None,
                     assistant_id: Optional[str] = None, model: Optional[str] = None,
                     thread_options: Optional[ThreadRunOptions] = None) -> ThreadCompletion:
        """Add messages to a thread and answer. ``POST /threads/messages/run``."""
        body = {**_thread_body(thread_id, assistant_id, model, _as_messages(messages)), **_run_options(thread_options)}
        return self._client._call("POST", "/threads/messages/run", ThreadCompletion, body)

    def run_messages_stream(self, messages: Sequence[Message], thread_id: Optional[str] = None,
                            assistant_id: Optional[str] = None, model: Optional[str] = None,
                            thread_options: Optional[ThreadRunOptions] = None,
                            update_interval: Optional[int] = None) -> Stream[ThreadCompletionChunk]:
        """Add messages and answer bit by bit; ``update_interval``: seconds. ``POST /threads/messages/run``."""
        body = _thread_body(thread_id, assistant_id, model, _as_messages(messages))
        body.update(_run_options(thread_options), update_interval=update_interval)
        return self._client._stream("/threads/messages/run", ThreadCompletionChunk, body, {})

    def rerun_messages(self, thread_id: str, thread_options: Optional[ThreadRunOptions] = None) -> ThreadCompletion:
        """Answer a thread's last message anew. ``POST /threads/messages/rerun``."""
        body = {"thread_id": thread_id, **_run_options(thread_options)}
        return self._client._call("POST", "/threads/messages/rerun", ThreadCompletion, body)

    def rerun_messages_stream(self, thread_id: str, thread_options: Optional[ThreadRunOptions] = None,
                              update_interval: Optional[int] = None) -> Stream[ThreadCompletionChunk]:
        """Answer anew, bit by bit; ``update_interval``: seconds. ``POST /threads/messages/rerun``."""
        body = {"thread_id": thread_id, **_run_options(thread_options), "update_interval": update_interval}
        return self._client._stream("/threads/messages/rerun", ThreadCompletionChunk, body, {})

class GigaChatSyncClient(_Client):
    """The blocking half of the client. Close it, or use it in a ``with`` block."""
    def __enter__(self: T) -> T: return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; calls under way in other threads end with an APIConnectionError."""
        self._close()

    def get_token(self) -> Optional[AccessToken]:
        """Give the access token, asking for one if need be: OAuth, or ``POST /token`` for user and password.

        None where nothing is configured to get a token with. ``authorization_cvar`` keeps it from asking for one."""
        return self._shared.token if authorization_cvar.get() else self._retrying(self._current_token)

    chat = ChatNamespace()
    assistants = AssistantsSyncClient()
    threads = ThreadsSyncClient()

    def stream(self, payload: Payload, **options: NoReturn) -> Stream[ChatCompletionChunk]:
        """Answer a conversation bit by bit. ``POST /chat/completions``. Raises StreamInterruptedError when cut off."""
        body = self._chat_body(_as_chat(payload), options)
        return self._stream(_chat_path(self, chat_url_cvar), ChatCompletionChunk, body, _STREAM_HEADERS)

    @overload
    def chat_parse(self, payload: Payload, *, response_format: Type[T], strict: bool = ...) -> _Parsed[T]: ...
    @overload
    def chat_parse(self, payload: Payload, *, response_format: Any, strict: bool = ...) -> _Parsed[Any]: ...
    def chat_parse(self, payload: Payload, *, response_format: Any, strict: bool = True) -> _Parsed[Any]:
        """Answer with a value of a type that ``schema_of()`` knows. ``POST /chat/completions``.

        Gives the completion and the value. Raises InvalidResponseError where the answer does not fit, and
        LengthFinishReasonError where it was cut; both have it as ``completion``."""
        return _parse(ChatNamespace(self), copy.copy(_as_chat(payload)), response_format, strict)

    def run_tools(self, payload: Payload, functions: _Functions, *, max_rounds: int = 10) -> _Ran:
        """Answer with the help of Python functions, called as the model asks; give the answer and the whole history.

        ``POST /chat/completions``, *max_rounds* times at most. What a function raises is told to the model and logged.
        """
        return _at_once(_run_tools(ChatNamespace(self), _as_chat(payload), functions, max_rounds))

    def get_models(self) -> Models:
        """List the models. ``GET /models``."""
        return self._call("GET", "/models", Models)

    def get_model(self, model: str) -> Model:
        """Describe one model. ``GET /models/{model}``. Raises NotFoundError."""
        return self._call("GET", f"/models/{_quote(model)}", Model)

    def embeddings(self, texts: Union[str, Sequence[str]], model: str = "Embeddings") -> Embeddings:
        """Turn texts into vectors; ``index`` is the text's place in *texts*. ``POST /embeddings``."""
        return self._call("POST", "/embeddings", Embeddings, {"input": _texts(texts), "model": model})

    def tokens_count(self, input_: Union[str, Sequence[str]], model: Optional[str] = None) -> List[TokensCount]:
        """Count the tokens of each text, for the client's model unless told otherwise. ``POST /tokens/count``."""
        body = {"model": model or self._settings.model, "input": _texts(input_)}
        return self._call("POST", "/tokens/count", _TokensCounts, body).data

    def upload_file(self, file: FileSource, purpose: str = "general") -> UploadedFile:
        """Store a file. ``POST /files``. Text up to 40 MB, images up to 15 MB, audio up to 35 MB.

        *file* is a path, bytes, a file open in binary mode, or a tuple ``(name, content[, type[, headers]])``."""
        return self._call("POST", "/files", UploadedFile, _Upload(file, purpose))

    def get_file(self, file: Union[str, UploadedFile]) -> UploadedFile:
        """Describe a stored file. ``GET /files/{id}``. Raises NotFoundError."""
        return self._call("GET", f"/files/{_quote(file)}", UploadedFile)

    def get_files(self) -> UploadedFiles:
        """List the stored files. ``GET /files``."""
        return self._call("GET", "/files", UploadedFiles)

    def delete_file(self, file: Union[str, UploadedFile]) -> DeletedFile:
        """Delete a stored file. ``POST /files/{id}/delete``. Raises NotFoundError."""
        file_id = file.id if isinstance(file, UploadedFile) else file
        # The API takes any body or none; the official SDK sends the id as a file.
        return self._call("POST", f"/files/{_quote(file_id)}/delete", DeletedFile, _Upload(_utf8(file_id)))

    def get_image(self, file_id: Union[str, UploadedFile]) -> Image:
        """Give a file's content in base64. ``GET /files/{id}/content``. Raises NotFoundError."""
        reply: _Reply = self._send(self._request("GET", _content_path(file_id), headers={"Accept": "application/jpg"}))
        return reply.as_model(Image, {"content": base64.b64encode(reply.content).decode("ascii")})

    def download_file(self, file_id: Union[str, UploadedFile],
                      to: Union[str, os.PathLike[str], BinaryIO, None] = None) -> bytes:
        """Give a file's content; or write it to a path or a binary file, and give nothing. ``GET /files/{id}/content``.

        The file at a path appears when it is whole. Raises NotFoundError; ForbiddenError under another X-Client-ID."""
        call = self._request("GET", _content_path(file_id))
        open_reply = functools.partial(self._send, call, _Reply.as_it_comes)
        if to is None: return _Reply.begun(open_reply(), lambda reply: b"".join(iter(reply.receive, b"")))
        if isinstance(to, (str, os.PathLike)):
            _save(open_reply, to)
        else:
            _copy(open_reply, to)
        return b""

    def get_balance(self) -> Balance:
        """Tell how many tokens are left. ``GET /balance``. Raises ForbiddenError for pay-as-you-go accounts."""
        return self._call("GET", "/balance", Balance)

    def check_ai(self, text: str, model: str) -> AICheckResult:
        """Tell whether a person or a model wrote a text of at least 20 words. ``POST /ai/check``.

        *model* is GigaCheckClassification or GigaCheckDetection; the latter finds passages too."""
        return self._call("POST", "/ai/check", AICheckResult, {"input": text, "model": model})

    def openapi_function_convert(self, openapi_function: str) -> OpenApiFunctions:
        """Turn the text of an OpenAPI document into functions. ``POST /functions/convert``."""
        return self._call("POST", "/functions/convert", OpenApiFunctions, _utf8(openapi_function))

    def validate_function(self, function: Union[Function, Dict[str, Any]]) -> FunctionValidation:
        """Have a function's description checked. ``POST /functions/validate``."""
        if not isinstance(function, (Function, dict)):
            raise TypeError(f"a function is Function or a dict, not {type(function).__name__}")
        return self._call("POST", "/functions/validate", FunctionValidation, function)

    def check_filter(self, messages: Union[str, Sequence[Message]], model: str = "GigaFilter", *,
                     functions: Optional[Sequence[Union[Function, Dict[str, Any]]]] = None,
                     neuro: Optional[bool] = None, blacklist: Optional[bool] = None, whitelist: Optional[bool] = None,
                     unnormalized_history: Optional[bool] = None) -> FilterCheck:
        """Have texts and images checked by the content filter, all of it by default. ``POST /filter/check``."""
        choices = {"neuro": neuro, "blacklist": blacklist, "whitelist": whitelist}
        choices["unnormalized_history"] = unnormalized_history
        settings = {name: value for name, value in choices.items() if value is not None} or None
        body = {"model": model, "messages": _as_messages(messages), "functions": functions, "settings": settings}
        return self._call("POST", "/filter/check", FilterCheck, JSONObject.from_dict(body))

    def create_batch(self, requests: BatchSource, method: str = "chat_completions") -> Batch:
        """Hand in requests to be answered later. ``POST /batches``. Pay-as-you-go accounts only.

        *requests* is a list of payloads (for ``method="embedder"``, of bodies of /embeddings), whose ids become "0",
        "1" and so on; or JSON Lines, as bytes or the path of a file: ``{"id": ..., "request": {...}}`` a line."""
        lines = _batch_lines(requests, self._chat_body, method)
        headers = {"Content-Type": "application/octet-stream"}
        return self._call("POST", "/batches", Batch, lines, query=[("method", method)], headers=headers)

    def get_batches(self) -> List[Batch]:
        """List the batches. ``GET /batches``."""
        return self._call("GET", "/batches", _Batches).batches

    def get_batch(self, batch_id: str) -> Batch:
        """Tell how far a batch is. ``GET /batches?batch_id=``. Raises NotFoundError."""
        return self._call("GET", "/batches", _Batches, query=[("batch_id", batch_id)]).only(batch_id)

    def batch_results(self, batch: Batch) -> Stream[BatchResult]:
        """Read the results of a completed batch, by ``id`` and in no order. ``GET /files/{output_file_id}/content``."""
        if not batch.output_file_id: raise ValueError(f"batch {batch.id} has no results yet: it is {batch.status}")
        call = self._request("GET", _content_path(batch.output_file_id))
        return Stream(functools.partial(self._send, call), _read_lines, BatchResult)


# ---------- async twins

def _twin(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Give the async form of a blocking *method*: same arguments, run in a worker thread."""
    @functools.wraps(method)
    async def call(__self: Any, *args: P.args, **kwargs: P.kwargs) -> T:
        return await _in_worker(__self._workers, functools.partial(method, __self, *args, **kwargs), _Flight())

    return call

def _stream_twin(method: Callable[Concatenate[Any, P], Stream[T]]) -> Callable[Concatenate[Any, P], AsyncStream[T]]:
    """Give the async form of a *method* that streams: same arguments, read in worker threads."""
    @functools.wraps(method)
    def call(__self: Any, *args: P.args, **kwargs: P.kwargs) -> AsyncStream[T]:
        return AsyncStream(method(__self, *args, **kwargs), __self._workers)

    annotation = f"Async{method.__annotations__['return']}"
    call.__signature__ = inspect.signature(method).replace(return_annotation=annotation)  # type: ignore[attr-defined]
    return call

def _named(kind: Type[T]) -> Type[T]:
    """Give the twins of a class their own names, which stand in "coroutine ... was never awaited"."""
    for name, twin in vars(kind).items():
        if hasattr(twin, "__wrapped__") and not twin.__qualname__.startswith(kind.__name__):
            twin.__name__, twin.__qualname__ = name, f"{kind.__name__}.{name}"
    return kind

@_named
class AsyncChatNamespace(_Resource):
    """Async form of :class:`ChatNamespace`."""
    # "coroutine ... was never awaited" shows the first name. For mypy an option may be called self.
    achat = __call__ = _twin(ChatNamespace.__call__)  # type: ignore[arg-type]
    create = _twin(ChatNamespace.create)  # type: ignore[arg-type]
    stream = _stream_twin(ChatNamespace.stream)  # type: ignore[arg-type]
    parse = _twin(ChatNamespace.parse)

    async def run_tools(self, payload: CompletionPayload, functions: _Tools, *, max_rounds: int = 10) -> _RanV2:
        """Do as the blocking form does; coroutine functions are awaited in the caller's event loop."""
        ask = ChatNamespace(self._client).create
        return await _run_tools(ask, _as_request(payload), functions, max_rounds, self._workers)

@_named
class AssistantsAsyncClient(_Resource):
    """Async form of :class:`AssistantsSyncClient`."""
    get = _twin(AssistantsSyncClient.get)
    create = _twin(AssistantsSyncClient.create)
    update = _twin(AssistantsSyncClient.update)
    delete = _twin(AssistantsSyncClient.delete)
    delete_file = _twin(AssistantsSyncClient.delete_file)

@_named
class ThreadsAsyncClient(_Resource):
    """Async form of :class:`ThreadsSyncClient`."""
    list = _twin(ThreadsSyncClient.list)
    get_threads = list
    create = _twin(ThreadsSyncClient.create)
    create_thread = _twin(ThreadsSyncClient.create_thread)
    retrieve = _twin(ThreadsSyncClient.retrieve)
    delete = _twin(ThreadsSyncClient.delete)
    get_messages = _twin(ThreadsSyncClient.get_messages)
    add_message = _twin(ThreadsSyncClient.add_message)
    add_messages = _twin(ThreadsSyncClient.add_messages)
    run = _twin(ThreadsSyncClient.run)
    run_stream = _stream_twin(ThreadsSyncClient.run_stream)
    get_run = _twin(ThreadsSyncClient.get_run)
    run_messages = _twin(ThreadsSyncClient.run_messages)
    run_messages_stream = _stream_twin(ThreadsSyncClient.run_messages_stream)
    rerun_messages = _twin(ThreadsSyncClient.rerun_messages)
    rerun_messages_stream = _stream_twin(ThreadsSyncClient.rerun_messages_stream)

@_named
class GigaChatAsyncClient(_Client):
    """The async half of the client: the same calls, in worker threads. Close it, or use it in ``async with``."""
    async def __aenter__(self: T) -> T: return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections; calls under way end with an APIConnectionError."""
        self._close()

    aget_token = _twin(GigaChatSyncClient.get_token)
    achat = AsyncChatNamespace()
    a_assistants = AssistantsAsyncClient()
    a_threads = ThreadsAsyncClient()
    astream = _stream_twin(GigaChatSyncClient.stream)  # type: ignore[arg-type]  # for mypy an option may be called self
    achat_parse = _twin(GigaChatSyncClient.chat_parse)

    async def arun_tools(self, payload: Payload, functions: _Functions, *, max_rounds: int = 10) -> _Ran:
        """Do as run_tools() does; coroutine functions are awaited in the caller's event loop, others run in workers."""
        return await _run_tools(ChatNamespace(self), _as_chat(payload), functions, max_rounds, self._workers)

    aget_models = _twin(GigaChatSyncClient.get_models)
    aget_model = _twin(GigaChatSyncClient.get_model)
    aembeddings = _twin(GigaChatSyncClient.embeddings)
    atokens_count = _twin(GigaChatSyncClient.tokens_count)
    aupload_file = _twin(GigaChatSyncClient.upload_file)
    aget_file = _twin(GigaChatSyncClient.get_file)
    aget_files = _twin(GigaChatSyncClient.get_files)
    adelete_file = _twin(GigaChatSyncClient.delete_file)
    aget_image = _twin(GigaChatSyncClient.get_image)
    adownload_file = _twin(GigaChatSyncClient.download_file)
    aget_balance = _twin(GigaChatSyncClient.get_balance)
    acheck_ai = _twin(GigaChatSyncClient.check_ai)
    aopenapi_function_convert = _twin(GigaChatSyncClient.openapi_function_convert)
    avalidate_function = _twin(GigaChatSyncClient.validate_function)
    acheck_filter = _twin(GigaChatSyncClient.check_filter)
    acreate_batch = _twin(GigaChatSyncClient.create_batch)
    aget_batches = _twin(GigaChatSyncClient.get_batches)
    aget_batch = _twin(GigaChatSyncClient.get_batch)
    abatch_results = _stream_twin(GigaChatSyncClient.batch_results)

class GigaChat(GigaChatSyncClient, GigaChatAsyncClient):
    """A client of GigaChat, blocking and async. Safe to share between threads, event loops and forked processes."""

class AsyncStream(Generic[T]):
    """An answer as it arrives, for ``async for``; leave it early with ``aclose()`` or ``async with``."""
    def __init__(self, stream: Stream[T], workers: _Workers) -> None:
        self._stream, self._workers, self._waiting = stream, workers, False

    def __aiter__(self) -> AsyncStream[T]: return self

    async def __anext__(self) -> T:
        if self._waiting: raise RuntimeError("another task is waiting for the next chunk of this stream")
        stream = self._stream
        self._waiting = True
        try:
            chunk = stream._arrived()
            if chunk is None:  # one hop to a worker brings all that one read brought: a hop takes 100 µs, an event 5
                chunk = await _in_worker(self._workers, functools.partial(next, stream, None), stream._flight, True)
        except BaseException:
            stream.close()
            raise
        finally:
            self._waiting = False
        if chunk is None: raise StopAsyncIteration
        return chunk

    @property
    async def text_stream(self) -> AsyncIterator[str]:
        """The text alone, without reasoning and calls, as it arrives."""
        async for chunk in self:
            text = _text_of(chunk)
            if text:
                yield text

    @overload
    async def get_final_completion(self: AsyncStream[PrimaryChatCompletionChunk]) -> ChatCompletionResponse: ...
    @overload
    async def get_final_completion(self: AsyncStream[V]) -> ChatCompletion: ...
    async def get_final_completion(self: Any) -> Any:
        """Read the rest; give the whole answer, put together of all chunks."""
        return await _in_worker(self._workers, self._stream.get_final_completion, self._stream._flight, True)

    async def __aenter__(self) -> AsyncStream[T]: return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop reading and free the connection."""
        self._stream.close()

async def _in_worker(workers: _Workers, job: Callable[[], T], flight: _Flight, urgent: bool = False) -> T:
    """Run *job* in a worker, with the caller's context variables; cancelling cuts it off and waits for nothing."""
    import asyncio
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()
    context.run(_flight_cvar.set, flight)
    error: Optional[BaseException] = None
    try:
        workers.submit(functools.partial(_work_for, loop, done, functools.partial(context.run, job)), urgent)
        result, error = await done
        if error is not None: raise error
        return cast(T, result)
    except BaseException:
        if not done.done() or done.cancelled():  # cancelled, or closed together with its loop
            flight.cut()
        raise
    finally:
        del done, error  # the traceback of an error holds this frame: no cycle is left behind

def _work_for(loop: asyncio.AbstractEventLoop, done: asyncio.Future[Any], job: Callable[[], Any]) -> None:
    """Do the *job* of a coroutine, and tell its loop what came of it: a result or an error."""
    outcome: Tuple[Any, Optional[BaseException]]
    try:
        outcome = job(), None
    except BaseException as error:
        outcome = None, error
    try:
        loop.call_soon_threadsafe(_settle, done, outcome)
    except RuntimeError:
        pass  # the loop is closed: nobody waits any more
    del done, outcome  # the traceback of a failure holds this frame: no cycle is left behind

def _settle(done: asyncio.Future[Any], outcome: Tuple[Any, Optional[BaseException]]) -> None:
    if not done.done():  # not cancelled
        done.set_result(outcome)

class _Workers:
    """Daemon threads that do the blocking work of coroutines; made on demand, gone after a while without work.

    Calls run at most *most* at a time; reading of streams is urgent and never waits for calls to end. Not an executor
    of concurrent.futures: the interpreter joins those at its exit and would wait for a server."""
    _patience = 10.0  # seconds that a thread waits for work

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.RLock()  # guards all of these; reentrant: a handler or destructor may close the client
        self._calls: Deque[Callable[[], None]] = collections.deque()
        self._urgent: Deque[Callable[[], None]] = collections.deque()
        self._calling = 0  # calls under way
        self._idle: List[_Turn] = []  # of threads without work
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()

    def stop(self) -> None:
        """Let the idle threads go."""
        with self._lock:
            self._patience = 0.0
            for turn in self._idle:
                turn.come()

    def submit(self, job: Callable[[], None], urgent: bool) -> None:
        """Have *job*, which raises nothing, done by an idle thread, else by a new one, else by the first to be free."""
        jobs = self._urgent if urgent else self._calls
        with self._lock:
            jobs.append(job)
            if self._idle:
                self._idle.pop().come()
            elif urgent or self._calling + len(self._calls) <= self._most:
                thread = threading.Thread(target=self._work, name="gigachat_lite", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    if not any(other.is_alive() for other in self._threads):
                        jobs.pop()
                        raise GigaChatException(f"no thread can be started for an async call: {error}") from error
                self._threads.add(thread)

    def _work(self) -> None:
        turn, is_call = _Turn(), False
        while True:
            with self._lock:
                self._calling -= is_call  # what it did last
                is_call = bool(self._calls) and not self._urgent and self._calling < self._most
                self._calling += is_call
                jobs = self._calls if is_call else self._urgent
                job: Optional[Callable[[], object]] = jobs.popleft() if jobs else None
                if turn in self._idle:  # it waited, and nobody called
                    self._idle.remove(turn)
                    if job is None:
                        self._threads.discard(threading.current_thread())
                        return
                elif job is None:
                    turn = _Turn()
                    self._idle.append(turn)
                    job = functools.partial(turn.wait, self._patience)
            job()
            del job


# ---------- answers and streams

_MOST_JSON_BYTES = 268_435_456  # an endless answer must not eat the machine's memory
_MOST_ERROR_BYTES = 1_048_576
_MOST_EVENTS = 10_000  # of a stream, that are kept apart: an answer without an end needs little more room than its text
_DRAIN_SECONDS = 0.1  # how long the end of an answer whose last event is here may take to save the connection

class Stream(Generic[T]):
    """An answer as it arrives. Iterate it; leave it early with ``close()`` or a ``with`` block.

    The request is sent when iteration begins, with the context of that moment. Retries end with the first chunk: no
    chunk is ever repeated."""
    def __init__(self, send: Callable[..., Any], read: Callable[..., Iterator[Any]], result: Type[Any]) -> None:
        self._send = send  # takes what begins to read an answer
        self._read = read  # makes *result* objects of an answer
        self._result = result
        self._flight = _Flight()
        self._reply: Optional[_Reply] = None
        self._arriving: Iterator[Optional[T]] = iter(())  # the chunks, with None before each wait for more
        self._chunks: Iterator[T] = iter(())  # the chunks alone
        self._reading = False
        self._ended = False

    def __iter__(self) -> Stream[T]: return self

    def __next__(self) -> T:
        """Wait for the next chunk; StopIteration at the end of the answer, and only there: what was cut raises."""
        if self._flight.cut_off: raise APIConnectionError("the stream was closed before its end")
        if self._reading: raise RuntimeError("another thread is waiting for the next chunk of this stream")
        self._reading = True
        try:
            chunk = next(self._chunks, None) if self._reply is not None else self._first()
        except _Cut:
            raise APIConnectionError("the stream was closed before its end") from None
        except BaseException:
            self._flight.cut()
            raise
        finally:
            self._reading = False
            if self._flight.cut_off and self._reply is not None:  # by what went wrong here, or by another thread
                self._reply.close()
        if chunk is None:
            self._ended = True
            raise StopIteration
        return chunk

    def _first(self) -> Optional[T]:
        context = contextvars.copy_context()
        context.run(_flight_cvar.set, self._flight)
        return cast(Optional[T], context.run(self._send, self._begin))

    def _begin(self, reply: _Reply) -> Optional[T]:
        self._reply = reply.as_it_comes()
        self._arriving = self._read(self._result, reply)
        self._chunks = filter(None, self._arriving)
        return next(self._chunks, None)

    def _arrived(self) -> Optional[T]:
        """Give the next chunk if it is here already."""
        return None if self._reading or self._flight.cut_off else next(self._arriving, None)

    @property
    def text_stream(self) -> Iterator[str]:
        """The text alone, without reasoning and calls, as it arrives."""
        return filter(None, map(_text_of, self))

    @overload
    def get_final_completion(self: Stream[PrimaryChatCompletionChunk]) -> ChatCompletionResponse: ...
    @overload
    def get_final_completion(self: Stream[V]) -> ChatCompletion: ...
    def get_final_completion(self: Any) -> Any:
        """Read the rest; give the whole answer, put together of all chunks."""
        for _ in self:
            pass
        return _whole(self._result, self._reply)

    def __enter__(self) -> Stream[T]: return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading and free the connection; from another thread, end what is under way."""
        if not self._ended:
            self._flight.cut()
        if self._reply is not None and not self._reading:
            self._reply.close()

def _read_lines(result: Type[J], reply: _Reply) -> Iterator[Optional[J]]:
    """Give the objects of JSON Lines as they come, and None before each wait for more."""
    parser, data = _LineParser(), b"-"
    while data:
        yield None
        data = reply.receive()
        for line in parser.feed(data or b"\n"):
            yield reply.as_model(result, reply.parse(line))

_OURS = re.compile(r"(message)?\Z"), re.compile(r"(message)?\Z|response\.")  # events with parts of answers; v1, v2
_FAILURES = ("error", "response.error")

def _read_events(result: Type[J], reply: _Reply) -> Iterator[Optional[J]]:
    """Give the chunks of an answer as its events come, and None before each wait for more.

    They end with "[DONE]", or when every choice that began has a finish reason and no more comes. Nothing here knows
    the stream: one that nobody holds any more goes at once, and its connection with it."""
    _require_events(reply)
    named = result is PrimaryChatCompletionChunk  # chat v2, where events have names and the chunk is the only choice
    sign, ours = ("messages" if named else "choices"), _OURS[named]
    finished: Dict[int, bool] = {}  # by the index of the choice
    parser, data = _EventParser(), b"-"
    while data:
        yield None
        data = _receive(reply, finished)
        for name, text in parser.feed(data or b"\n\n"):  # the last event may lack the blank line behind it
            if text[:1] != b"{":
                if text.strip() == b"[DONE]":
                    yield None  # that may wait
                    reply.answer.drain()
                    return
                if name not in _FAILURES and not (text and ours.match(name)): continue  # it keeps the connection alive
            try:
                value = reply.parse(text)
                if not isinstance(value, dict) or (sign not in value and not (named and "finish_reason" in value)):
                    _raise_for_error(reply, name, text, value)
                    if not ours.match(name): continue  # a kind of event that is none of ours, such as "ping"
                chunk: Any = reply.as_model(result, value)
            except InvalidResponseError as error:
                if data: raise
                if _complete(finished): return
                raise StreamInterruptedError("the stream ended inside an event") from error
            reply.events.append(text)
            if len(reply.events) == _MOST_EVENTS:
                reply.events[:] = [_whole(result, reply).to_dict()]
            if named:
                finished[0] = bool(chunk.finish_reason) or _complete(finished)
                if name:
                    chunk.event = name
            for choice in () if named else chunk.choices:
                if choice.delta is None:  # null is as good as absent
                    choice.delta = MessagesChunk()
                index = choice.index or 0
                finished[index] = bool(choice.finish_reason) or finished.get(index, False)
            yield chunk
    if not _complete(finished):
        raise StreamInterruptedError("the stream ended before the answer did: neither [DONE] nor a finish reason came")

def _require_events(reply: _Reply) -> None:
    kind = reply.fields.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "text/event-stream":
        found = reply.quote(kind.encode("latin-1")) if kind else "no Content-Type"
        found += f": {reply.quote(reply.receive())}"
        raise InvalidResponseError(f"{reply.what}: expected a stream of events, got {found}")

def _complete(finished: Dict[int, bool]) -> bool: return bool(finished) and all(finished.values())

def _receive(reply: _Reply, finished: Dict[int, bool]) -> bytes:
    """Wait for more of a stream; nothing at its end, or where it breaks off and is complete."""
    try:
        return reply.receive()
    except APIConnectionError as error:
        if _complete(finished): return b""
        if isinstance(error, APITimeoutError): raise
        raise StreamInterruptedError(f"the stream broke off: {error}") from error

def _raise_for_error(reply: _Reply, name: str, text: bytes, value: Any) -> None:
    """Raise what the server says went wrong after it had begun to answer with status 200."""
    outer = value if isinstance(value, dict) else {}
    error = outer["error"] if isinstance(outer.get("error"), dict) else outer
    status = error.get("status", error.get("status_code"))
    known = isinstance(status, int) and 400 <= status <= 599
    if known or name in _FAILURES or "error" in outer or {"code", "message"} <= error.keys():
        raise reply.error(status if known else None, text)

class _LineParser:
    """JSON Lines: bytes in, lines out. They end with CRLF, LF or CR; splitlines() also cuts at U+2028 and U+0085."""
    _LINE_END = re.compile(rb"\r\n|\n|\r")

    def __init__(self) -> None:
        self._pieces: List[bytes] = []  # of a line whose end has not come
        self._after_cr = False  # the last byte was CR: an LF that follows belongs to it
        self._size = 0  # bytes since the last line or event

    def feed(self, data: bytes) -> List[Any]:
        """Take the next bytes, cut anywhere; give what they complete."""
        if self._after_cr and data[:1] == b"\n":
            data, self._after_cr = data[1:], False
        if not data: return []
        self._after_cr = data[-1:] == b"\r"
        self._size += len(data)
        *lines, rest = self._LINE_END.split(data) if b"\r" in data else data.split(b"\n")
        if lines:
            lines[0] = b"".join([*self._pieces, lines[0]])
            self._pieces = []
        self._pieces.append(rest)
        items = self._take(lines)
        if self._size > _MOST_JSON_BYTES:
            raise InvalidResponseError(f"a line or an event of more than {_MOST_JSON_BYTES} bytes")
        return items

    def _take(self, lines: List[bytes]) -> List[Any]:
        self._size = 0 if lines else self._size
        return [line for line in lines if line.strip()]

class _EventParser(_LineParser):
    """Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): bytes in, events out."""
    def __init__(self) -> None:
        super().__init__()
        self._at_start = True
        self._name = ""
        self._data: List[bytes] = []

    def _take(self, lines: List[bytes]) -> List[Tuple[str, bytes]]:
        if lines and self._at_start:
            self._at_start = False
            lines[0] = re.sub(rb"\A\xef\xbb\xbf", b"", lines[0])  # a BOM
        events: List[Tuple[str, bytes]] = []  # the name, "" where the server gave none, and the data
        for line in lines:
            if not line:
                if self._data:
                    events.append((self._name, b"\n".join(self._data)))
                self._name, self._data, self._size = "", [], 0
            elif line[:6] == b"data: ":  # as most are
                self._data.append(line[6:])
            else:
                field, _, value = line.partition(b":")
                value = value[1:] if value[:1] == b" " else value
                if field == b"data":
                    self._data.append(value)
                elif field == b"event":
                    self._name = value.decode("utf-8", "replace")
        return events

class _Reply:
    """What an answer means to the call that it belongs to."""
    def __init__(self, call: _Call, answer: _Answer, sent: Mapping[str, str], settings: _Settings) -> None:
        self.call = call
        self.status: int = answer.status
        self.fields: Dict[str, str] = answer.fields
        self.x_headers = {name: self.fields.get(name) for name in ("x-request-id", "x-session-id", "x-client-id")}
        self.receive: Callable[[], bytes] = answer.receive
        self.close: Callable[[], None] = answer.close
        self.content: bytes = b""  # the body, where it was read whole
        self.events: List[Any] = []  # the bytes of a stream's, for get_final_completion(), or what was made of them
        self.answer: _Answer = answer
        self._sent = sent  # the headers of the request
        self._settings = settings

    @property
    def what(self) -> str: return f"{self.call.method} {self.call.path}"

    def begun(self, begin: Callable[[_Reply], T]) -> T:
        """Begin to read the body; drop the connection if that fails, or it comes compressed, unasked."""
        try:
            coding = self.fields.get("content-encoding", "").lower() or "identity"
            if coding != "identity":
                found = self.quote(coding.encode("latin-1"))
                raise InvalidResponseError(f"{self.what}: the answer is encoded as {found}")
            return begin(self)
        except BaseException:
            self.close()
            raise

    def as_it_comes(self) -> _Reply:
        """Have each wait for more of the body bounded by ``timeout``, not all of them together."""
        self.answer.connection.deadline = math.inf
        return self

    def read_whole(self) -> _Reply:
        """Read the body into ``content``."""
        self.content = self._read(_MOST_JSON_BYTES)
        return self

    def _read(self, most: int) -> bytes:
        """Read the body to its end; InvalidResponseError where it is larger than *most* bytes."""
        body = bytearray()
        for block in iter(self.receive, b""):
            body += block
            if len(body) > most: raise InvalidResponseError(f"{self.what}: an answer of more than {most} bytes")
        return bytes(body)

    def decode(self, result: Type[J]) -> J:
        """Make a *result* of the body; InvalidResponseError where that cannot be."""
        return self.as_model(result, self.parse(self.content))

    def parse(self, text: bytes) -> Any:
        """Read JSON that the server sent."""
        try:
            return _decode(text)
        except ValueError as error:
            raise InvalidResponseError(f"{self.what}: expected JSON, got {self.quote(text)}") from error

    def as_model(self, result: Type[J], value: Any) -> J:
        """Make *value*, fresh from the wire, into a *result* that knows the headers which identify the exchange."""
        if not isinstance(value, dict):
            if not isinstance(value, list) or result._array_field is None:
                raise InvalidResponseError(f"{self.what}: expected a JSON object, got {type(value).__name__}")
            value = {result._array_field: value}
        model = result.__new__(result)
        try:
            model._adopt(value)
        except (TypeError, ValueError) as error:
            raise InvalidResponseError(f"{self.what}: not what the API documents: {error}") from error
        model.__dict__["x_headers"] = self.x_headers
        return model

    def error(self, status: Optional[int] = None, content: Optional[bytes] = None) -> ResponseError:
        """Make the exception for this answer, or for an error that it brought in mid-stream; drop the connection."""
        try:
            content = self._read(_MOST_ERROR_BYTES) if content is None else content
        except (APIConnectionError, InvalidResponseError):
            content = b""  # cut off, or too long: the status says enough
        finally:
            self.close()
        content = _decompressed(content, self.fields.get("content-encoding", ""))
        status = status or self.status
        return _response_error(self.call, status, content, self.answer.pairs, self._sent, self._settings)

    def quote(self, content: bytes) -> str:
        """Quote the beginning of what the server sent, and say what to do where it is a page."""
        if content.lstrip().startswith(b"<"):
            return f"a page. {_todays(_advice('page', self.call.place), self.call.url)}"
        if self.call.private: return "something else"
        text = _one_line(_Secrets(self._settings, self._sent).hide(content[:4096].decode("utf-8", "replace")), 200)
        return repr(text) if text else "an empty body"


# ---------- connections

_IDLE_SECONDS = 60  # shorter than the usual idle timeouts of servers (nginx: 75 s) and of NAT gateways
_MOST_IDLE = 100  # connections that wait for the next call
_FEW_IDLE = 10  # so many wait for the next call even when their time is over; more than that are closed in time
_LOOK_SECONDS = 1.0  # how long a place in the queue for connections may be lost, should an exception lose it
_AT_ONCE_SECONDS = 0.1  # beyond a round trip: a server that had closed before it saw the request says so by then
_SEND_BYTES = 262_144  # one block of an upload: each gets the whole `timeout`
_READ_BYTES = 65_536  # a TLS record holds at most 16 KiB; more than one waits only on plain connections
_MOST_AT_ONCE = 262_144  # what one look at a body brings at most
_MOST_HEAD_BYTES = 65_536

class KeepAlive:
    """urllib's handler for http and https that keeps connections, where urllib's own opens one for each request.

    Without ``max_connections`` nobody waits for a connection; with it, callers are served in the order they came. What
    an exception out of a signal handler makes them lose is held weakly: places and turns in the queue come back."""
    def __init__(self, settings: _Settings) -> None:
        self._settings, self._pid = settings, os.getpid()
        self._tls: Optional[ssl.SSLContext] = None
        self._tls_lock = threading.RLock()  # guards it alone: to read the roots takes long
        self._closed = False
        # Guards all of these. Reentrant: garbage collection may close a stream while its thread is in here.
        self._lock = threading.RLock()
        self._busy: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._idle: List[_Connection] = []  # the newest last
        self._turns: weakref.WeakValueDictionary[int, _Turn] = weakref.WeakValueDictionary()  # in order of arrival
        self._pauses: weakref.WeakSet[_Turn] = weakref.WeakSet()
        self._next_look = 0.0  # by time.monotonic(), for what has been idle for too long

    def add_parent(self, parent: OpenerDirector) -> None:
        """Do nothing: OpenerDirector.add_handler() calls it."""

    def https_request(self, request: Request) -> Request:
        """Lead a request through its proxy, if any. urllib's own handler asks the system for exceptions each time."""
        proxy = _proxy_for(self._settings.proxies, request.type, request.host)
        if proxy is not None:
            userinfo, _, address = urllib.parse.urlsplit(proxy).netloc.rpartition("@")
            request.set_proxy(address, request.type)
            if userinfo:
                login = urllib.parse.unquote(userinfo if ":" in userinfo else f"{userinfo}:").encode()
                request.headers["Proxy-Authorization"] = "Basic " + base64.b64encode(login).decode("ascii")
        return request

    def https_open(self, request: Request) -> _Answer:
        # A request that fails on a kept connection before any byte of its answer met a server that had just closed it,
        # and is sent once more on a fresh one. That is certain only if it failed at once, or before all of it was sent:
        # else it may have been carried out, and that is a failure.
        origin = (request.type, request.host, getattr(request, "_tunnel_host", None))
        body: Any = request.data
        connection = self._claim(origin, getattr(body, "rewindable", True), request.timeout or 0)
        try:
            try:
                return self._ask(connection, request)
            except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
                if not connection.was_closed_before(): raise
            connection.close()
            return self._ask(connection, request)
        except BaseException as error:
            self._give_back(connection, False)
            if isinstance(error, (OSError, _NotHTTP, UnicodeError)) and not getattr(body, "failed", False):
                raise _connection_error(error, connection, self._settings) from error
            raise  # what the caller's own file raised, too

    http_request, http_open = https_request, https_open

    def _claim(self, origin: _Origin, reusing: bool, timeout: float) -> _Connection:
        """Take an idle connection or the right to open one; wait for it in the order of arrival."""
        deadline = time.monotonic() + timeout
        turn: Optional[_Turn] = None
        try:
            while True:
                with self._lock:
                    flight = self._flight()
                    is_next = next(iter(self._turns.values()), turn) is turn
                    connection = self._take(origin, reusing) if is_next else None
                    if connection is not None:
                        self._busy.add(connection)
                        connection.timeout, connection.flight = timeout, flight
                        return connection
                    if turn is None:
                        turn = _Turn(flight)
                        self._turns[id(turn)] = turn
                left = deadline - time.monotonic()
                if left <= 0:
                    raise APITimeoutError(f"{origin[1]}: none of max_connections became free within {timeout:g} s")
                turn.wait(min(left, _LOOK_SECONDS))
        finally:
            if turn is not None:
                with self._lock:
                    self._turns.pop(id(turn), None)
                    self._call_next()

    def _take(self, origin: _Origin, reusing: bool) -> Optional[_Connection]:
        """Take the newest idle connection that is still good, or make one, in the place of an idle one if need be."""
        if self._closed: raise GigaChatException("the client is closed: make a new one")
        for connection in self._idle[::-1] if reusing else ():
            if connection.origin == origin:
                self._idle.remove(connection)
                if connection.usable(): return connection
                connection.close()
        most = self._settings.max_connections
        if most is not None and len(self._busy) + len(self._idle) >= most:
            if not self._idle: return None
            self._idle.pop(0).close()
        return _Connection(origin)

    def _ask(self, connection: _Connection, request: Request) -> _Answer:
        """Send the request on *connection*, opening it first if it is new, and wait for the head of the answer."""
        headers, body = dict(request.headers), cast(_Body, request.data)
        to_proxy = headers.pop("Proxy-Authorization", None) if connection.origin[2] is not None else None
        if connection.sock is None:
            connection.open(self._tls_context, to_proxy)
        length = body.length if isinstance(body, _Upload) else len(body or b"")
        if length is None:
            headers["Transfer-Encoding"] = "chunked"
        elif body is not None or request.get_method() != "GET":
            headers["Content-Length"] = str(length)
        fields = "".join(f"{name}: {headers[name]}\r\n" for name in headers)
        head = f"{request.get_method()} {request.selector or '/'} HTTP/1.1\r\n{fields}\r\n"
        connection.send(head.encode("latin-1"), body)
        return _Answer(connection, connection.read_head("waiting for the answer"), self._give_back)

    def _tls_context(self) -> ssl.SSLContext:
        with self._tls_lock:
            self._tls = self._tls or _tls_context(self._settings)
            return self._tls

    def _give_back(self, connection: _Connection, reusable: bool) -> None:
        if connection.pid != os.getpid():  # a child drops what its parent had begun
            connection.close()
            return
        with self._lock:
            self._busy.discard(connection)
            if reusable and connection.reusable and not self._closed:
                connection.idle_since = time.monotonic(), time.time()
                self._idle.append(connection)
                self._tidy()
            else:
                connection.close()
            self._call_next()

    def _call_next(self) -> None:
        for turn in list(self._turns.values())[:1]:
            turn.come()

    def _look_again(self) -> None:
        with self._lock:
            self._tidy()

    def _tidy(self) -> None:
        """Close idle connections that are too many or too old; where many are left, look again later."""
        while len(self._idle) > _MOST_IDLE or (len(self._idle) > 1 and not self._idle[0].usable()):
            self._idle.pop(0).close()
        if len(self._idle) > _FEW_IDLE and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _IDLE_SECONDS / 10
            timer = threading.Timer(_IDLE_SECONDS / 10, self._look_again)
            timer.name, timer.daemon = "gigachat_lite", True
            try:
                timer.start()
            except RuntimeError:
                pass  # no thread can be started: they go with the next calls

    def _flight(self) -> Optional[_Flight]:
        """Give the task or stream that this thread works for, if it does; _Cut where that is cut off already."""
        flight = _flight_cvar.get()
        if flight is not None:
            flight.pool = self
            if flight.cut_off: raise _Cut
        return flight

    def pause(self, seconds: float) -> None:
        """Sleep, or until the client is closed or the task cancelled."""
        with self._lock:
            over = _Turn(self._flight())
            self._pauses.add(over)
        over.wait(0 if self._closed else seconds)

    def cut(self, flight: Optional[_Flight] = None) -> None:
        """Cut off what a task or a stream is blocked in, or all of them."""
        if self._pid == os.getpid():  # the lock of a parent may be locked for ever
            with self._lock:
                found: List[Union[_Connection, _Turn]] = [*self._busy, *self._turns.values(), *self._pauses]
                for blocked in found:
                    if flight is None or blocked.flight is flight:
                        blocked.cut()

    def close(self) -> None:
        """Close what is idle, cut off what is busy, wake who waits."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop().close()
            self.cut()

    def forget(self) -> None:
        """Close the sockets at exit, or a child's copies of its parent's. Takes no lock: it may be locked for ever."""
        for connection in [*self._busy, *self._idle]:
            connection.close()

class _Turn:
    """Somebody's turn, to wait for. Not threading.Event, which is Python: an exception may leave it locked."""
    def __init__(self, flight: Optional[_Flight] = None) -> None:
        self.flight = flight  # the task or stream that waits
        self._lock = threading.Lock()  # locked until the turn comes
        self._lock.acquire()

    def wait(self, seconds: float) -> bool: return self._lock.acquire(timeout=max(seconds, 0))

    def come(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:
            pass  # it has come already

    cut = come  # as of a connection

class _Answer:
    """An answer on its connection: its head, and the body as it comes. Gives the connection back at the end."""
    def __init__(self, connection: _Connection, head: _Head, give_back: Callable[[_Connection, bool], None]) -> None:
        self.status, self.fields, self.pairs = head.status, head.fields, head.pairs
        self.connection = connection
        self._give_back: Optional[Callable[[_Connection, bool], None]] = give_back
        self._payload = _Payload(head)
        if self._payload.complete:
            self.close()

    def receive(self) -> bytes:
        """Wait for more of the body and give all that has come; nothing at its end."""
        data = b""
        try:
            while not data and not self._payload.complete:
                data = self._payload.feed(self.connection.receive(gather=True))
        except (OSError, _NotHTTP) as error:
            self.close()
            raise _connection_error(error, self.connection) from error
        if self._payload.complete:
            self.close()
        return data

    def drain(self) -> None:
        """Read the end of an answer that has nothing more to say, if it is about to come, and keep the connection."""
        if self._give_back is not None:
            self.connection.deadline = time.monotonic() + _DRAIN_SECONDS
            try:
                self.receive()
            except APIConnectionError:
                pass  # its connection is closed
            self.close()

    def close(self) -> None:
        """Give the connection back, for the next call if the answer was read to its end."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back(self.connection, self._payload.complete and self._payload.keeps and not self._payload.rest)

_Origin = Tuple[str, str, Optional[str]]  # scheme, host:port to connect to, host:port to reach through a tunnel

class _Connection:
    """One socket: connected, perhaps through a proxy's tunnel, perhaps under TLS; and what came on it unread."""
    sock: Optional[socket.socket] = None

    def __init__(self, origin: _Origin) -> None:
        self.origin = _, address, tunnel = origin
        self.where = address if tunnel is None else f"{tunnel} through the proxy {address}"  # for people
        self.timeout = 0.0  # of the request that it serves
        self.deadline = math.inf  # by time.monotonic(), of all that is received
        self.doing = "connecting"  # what a failure would interrupt; _ADVICE and _connection_error() know these words
        self.idle_since: Optional[Tuple[float, float]] = None  # by both clocks; None: it has served nobody yet
        self.pid = os.getpid()
        self.is_cut = False
        self.flight: Optional[_Flight] = None  # of the task or stream that it serves
        self._sent_at = math.inf  # when all of the request had been sent; infinity until it is
        self._received = False  # whether any byte of its answer has come
        self._round_trip = 0.0  # seconds, to the server and back
        self._pending = b""  # what has come and was not received yet
        self._failure: Optional[OSError] = None  # what came behind it

    def open(self, tls: Callable[[], ssl.SSLContext], to_proxy: Optional[str]) -> None:
        """Connect and agree on TLS; *to_proxy* is the Proxy-Authorization for a tunnel."""
        scheme, address, tunnel = self.origin
        host, port = _host_and_port(address, 80 if scheme == "http" or tunnel else 443)
        self._connect(host, port)
        if tunnel is not None:
            self._open_tunnel(tunnel, to_proxy)
            host, _ = _host_and_port(tunnel, 443)
        if scheme == "https":
            self.doing, started = "agreeing on TLS", time.monotonic()
            name = host.rstrip(".")  # the dot of a complete name serves the look-up; certificates do not have it
            sock = self._open_sock(self.timeout)
            self.sock = sock = tls().wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
            self._open_sock(self.timeout)  # unless it was cut just before it was there
            sock.do_handshake()
            self._round_trip = time.monotonic() - started

    def _connect(self, host: str, port: int) -> None:
        """Connect to the first of the host's addresses that answers; each has its share of the rest of ``timeout``."""
        self.doing, deadline = "connecting", time.monotonic() + self.timeout
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for left, (family, kind, protocol, _, address) in zip(range(len(addresses), 0, -1), addresses):
            started = time.monotonic()
            try:
                self.sock = socket.socket(family, kind, protocol)
                self._open_sock(max((deadline - started) / left, 0.001)).connect(address)
                self._round_trip = time.monotonic() - started
                break
            except OSError:
                self.close()
                if left == 1: raise
        _tune(self._open_sock(self.timeout))

    def _open_tunnel(self, target: str, authorization: Optional[str]) -> None:
        """Ask the proxy for a tunnel (RFC 9110, section 9.3.6); only this request carries the proxy's credentials."""
        target = target if re.search(r":\d+\Z", target) else f"{target}:443"
        fields = "" if authorization is None else f"Proxy-Authorization: {authorization}\r\n"
        self.send(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n".encode("latin-1"), None)
        answer = self.read_head("waiting for the proxy")
        if not 200 <= answer.status < 300:
            raise _TunnelRefused(self.origin[1], target, answer.status, answer.fields.get("proxy-authenticate", ""))
        if self._pending: raise _NotHTTP("the proxy sent more than its answer")

    def send(self, head: bytes, body: _Body) -> None:
        """Send a request. What the server says before it has read all of it is its answer, not a failure."""
        self.doing, self._sent_at, self._received = "sending the request", math.inf, False
        sock = self._open_sock(self.timeout)
        try:
            for block in _blocks(head, body):
                sock.sendall(block)
            self._sent_at = time.monotonic()
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError, socket.timeout):
            if not _readable(sock): raise

    def was_closed_before(self) -> bool:
        """Whether a failure shows that the server had closed the connection before it could carry out the request."""
        unanswered = self.idle_since is not None and not self._received and not self.is_cut
        return unanswered and time.monotonic() - self._sent_at < _AT_ONCE_SECONDS + self._round_trip

    def read_head(self, doing: str) -> _Head:
        """Wait for status line and fields, within ``timeout`` in all."""
        self.doing, self.deadline = doing, time.monotonic() + self.timeout
        data = bytearray()
        for block in iter(self.receive, b""):
            data += block
            end = _HEAD_END.search(data, max(0, len(data) - len(block) - 3))
            while end is not None and end.start() <= _MOST_HEAD_BYTES:
                head = _Head(bytes(data[: end.start()]))
                del data[: end.end()]
                if head.status >= 200 or head.status == 101:  # what comes before is a provisional answer
                    self._pending, self.doing = bytes(data), "reading the answer"
                    return head
                end = _HEAD_END.search(data)
            if len(data) > _MOST_HEAD_BYTES: raise _NotHTTP("the head does not end")
        raise _Closed("the head of the answer was cut" if data else "the server closed the connection")

    def receive(self, gather: bool = False) -> bytes:
        """Wait for bytes, each time for ``timeout`` at most; nothing at the end. *gather*: give all that has come."""
        if self._pending:
            data, self._pending = self._pending, b""
            return data
        if self._failure is not None:
            raise self._failure  # close() drops it, with its traceback, which holds this frame
        left = min(self.timeout, self.deadline - time.monotonic())
        if left <= 0: raise socket.timeout("timed out")
        sock = self._open_sock(left)
        data = sock.recv(_READ_BYTES)
        self._received = self._received or bool(data)
        if not gather or not data: return data
        gathered = bytearray(data)
        sock.settimeout(0)
        try:
            while data and len(gathered) < _MOST_AT_ONCE:
                data = sock.recv(_READ_BYTES)
                gathered += data
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass  # that is all
        except OSError as error:
            self._failure = error.with_traceback(None)  # the data first
        return bytes(gathered)

    def _open_sock(self, timeout: float) -> socket.socket:
        """Give the socket, unless the call has been cut off in the meantime, or the process is a child of its owner."""
        if self.is_cut or self.sock is None or self.pid != os.getpid(): raise _Closed("the connection was closed")
        self.sock.settimeout(timeout)
        return self.sock

    @property
    def reusable(self) -> bool:
        """Whether another request may follow: all of this one was sent, and nothing is left unread."""
        return self._sent_at < math.inf and not self.is_cut and not self._pending and self._failure is None

    def usable(self) -> bool:
        """Whether an idle connection can take a request: not too old, and the server has neither closed nor spoken."""
        monotonic, wall = self.idle_since or (0.0, 0.0)
        idle = max(time.monotonic() - monotonic, time.time() - wall)  # a frozen process stops the first clock
        return idle < _IDLE_SECONDS and self.sock is not None and not _readable(self.sock)

    def cut(self) -> None:
        """End whatever another thread does with the socket. Closing it there could hit another that got its number."""
        self.is_cut = True
        sock = self.sock
        if sock is not None:
            try:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not the TLS object's, which drops its state
            except OSError:
                pass  # not connected yet, or no longer: the next step sees is_cut

    def close(self) -> None:
        sock, self.sock, self._pending, self._failure = self.sock, None, b"", None
        if sock is not None:
            sock.close()

    __del__ = close  # an answer that was dropped half read takes its connection along

class _Closed(ConnectionError):
    """The connection ended where more was to come."""

class _NotHTTP(Exception):
    """What came is not an answer of HTTP; the text does not quote it."""

class _TunnelRefused(ConnectionRefusedError):
    """A proxy did not open a tunnel."""
    def __init__(self, proxy: str, target: str, status: int, asked_for: str) -> None:
        super().__init__(proxy, target, status, asked_for)
        self.proxy, self.target, self.status, self.asked_for = proxy, target, status, asked_for

def _host_and_port(address: str, default_port: int) -> Tuple[str, int]:
    parts = urllib.parse.urlsplit("//" + address)
    return parts.hostname or "", parts.port or default_port

def _tune(sock: socket.socket) -> None:
    """Send small requests at once, and notice a peer that vanished (NAT gateways forget quiet connections)."""
    # TCP_KEEPALIVE is what macOS calls TCP_KEEPIDLE.
    tcp = {"TCP_NODELAY": 1, "TCP_KEEPIDLE": 60, "TCP_KEEPALIVE": 60, "TCP_KEEPINTVL": 60, "TCP_KEEPCNT": 5}
    known = [(socket.IPPROTO_TCP, getattr(socket, name), tcp[name]) for name in tcp if hasattr(socket, name)]
    for level, option, value in [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *known]:
        try:
            sock.setsockopt(level, option, value)
        except OSError:
            pass  # it works without

def _readable(sock: socket.socket) -> bool:
    """Whether bytes or an end wait on a socket."""
    if hasattr(select, "poll"):  # select() cannot take file numbers of 1024 and above
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([sock], [], [], 0)[0])

def _blocks(head: bytes, body: _Body) -> Iterator[bytes]:
    """Cut a request into what one send takes; a body whose length nobody knows goes out in chunks."""
    if not isinstance(body, _Upload):
        data = head + body if body else head
        yield from (data[at : at + _SEND_BYTES] for at in range(0, len(data), _SEND_BYTES))
    else:
        yield head
        for block in body:
            yield block if body.length is not None else b"%x\r\n%b\r\n" % (len(block), block)
        if body.length is None:
            yield b"0\r\n\r\n"

# The head of an answer is read strictly where it says how long the body is, for what two readers understand differently
# can hide one answer in another; the rest leniently.

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_STATUS_LINE = re.compile(r"HTTP/1\.([0-9])[ \t]+([1-9][0-9][0-9])(?![^ \t\r])")
_FIELD = re.compile(r"^([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\n]*)", re.MULTILINE)  # RFC 9112, section 5
_FRAMING_FIELD = re.compile(r"content-length|transfer-encoding", re.IGNORECASE)

class _Head:
    """Status line and fields of an answer; names in ``fields`` are in lower case."""
    def __init__(self, head: bytes) -> None:
        line, _, lines = head.decode("latin-1").partition("\n")
        found = _STATUS_LINE.match(line)
        if found is None: raise _NotHTTP("the status line is malformed")
        self.minor: int = int(found[1])  # of the version: HTTP/1.minor
        self.status: int = int(found[2])
        if "\n " in lines or "\n\t" in lines:  # a value over several lines (RFC 9112, section 5.2)
            lines = re.sub(r"\r?\n[ \t]+", " ", lines)
        parts = _FIELD.split(lines)  # names, values, and before each name what is no field: line ends, malformed lines
        self.pairs: List[Tuple[str, str]] = [(n, v.strip(" \t\r")) for n, v in zip(parts[1::3], parts[2::3])]
        if _FRAMING_FIELD.search("".join(parts[::3])): raise _NotHTTP("the length of the body is malformed")
        if len(self.pairs) > 100: raise _NotHTTP("the head has more than 100 fields")
        self.fields: Dict[str, str] = {}
        for name, value in self.pairs:  # RFC 9110, section 5.3; what only says the same again is taken once
            known = self.fields.setdefault(name.lower(), value)
            if known != value:
                self.fields[name.lower()] = f"{known}, {value}"

class _Payload:
    """Takes the payload out of the bytes of a body (RFC 9112, sections 6 and 7): chunked, with a length, or neither."""
    _SIZE = re.compile(rb"\r?\n[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")  # and the end before it

    def __init__(self, head: _Head) -> None:
        codings = head.fields.get("transfer-encoding", "identity").lower()
        length = head.fields.get("content-length")
        if codings not in ("chunked", "identity"): raise _NotHTTP("a transfer coding that is not chunked")
        if length is not None and not re.match(r"[0-9]{1,18}\Z", length):
            raise _NotHTTP("lengths that are no numbers or contradict each other")
        self._chunked = codings == "chunked"
        self._left = None if self._chunked or length is None else int(length)  # bytes, of the present chunk if chunked
        wish = head.fields.get("connection", "").lower()
        self.keeps = "close" not in wish if head.minor else "keep-alive" in wish  # the connection, for the next request
        # After two lengths, or the promise of a body that cannot be, the next bytes may belong to it.
        if self._chunked and (length is not None or not head.minor):
            self.keeps = False
        if head.status in (101, 204, 304):
            self.keeps = self.keeps and not self._chunked and not self._left and head.status != 101
            self._chunked, self._left = False, 0
        # What is no payload: part of a line, or what follows the body. The first size has an end before it as well.
        self.rest = b"\r\n" if self._chunked else b""
        self.complete = self._left == 0

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes, none at the end of the connection; give the payload among them."""
        if not data:
            if self._chunked or self._left is not None: raise _Closed("the connection was cut")
            self.complete = True
        elif self._chunked:
            data = self._feed_chunks(self.rest + data)
        elif self._left is not None:
            data, self.rest = data[: self._left], data[self._left :]
            self._left -= len(data)
            self.complete = self._left == 0
        return data

    def _feed_chunks(self, data: bytes) -> bytes:
        payload: List[bytes] = []
        at = 0
        while not self.complete:
            if self._left is None:
                ended = data.find(b"\n", at + 2) >= 0
                size = self._SIZE.match(data, at) if ended else None
                if size is None:
                    if ended or len(data) - at > _MOST_HEAD_BYTES: raise _NotHTTP("the chunks are malformed")
                    break
                at, self._left = size.end(), int(size.group(1), 16)
                if not self._left:
                    at -= 1  # the end of this line is the one before an empty line
            elif self._left:
                block = data[at : at + self._left]
                if not block: break
                payload.append(block)
                at += len(block)
                self._left = self._left - len(block) or None
            else:  # the last chunk was here: fields may follow, and then an empty line
                end = _HEAD_END.search(data, at)
                self.complete = end is not None
                at = max(at, len(data) - 2) if end is None else end.end()
                break
        self.rest = data[at:]
        return b"".join(payload)

def _tls_context(settings: _Settings) -> ssl.SSLContext:
    """Make the TLS context for the API and the token endpoint alike. Reads files; ConfigurationError names them."""
    if settings.ssl_context is not None: return settings.ssl_context
    if settings.verify_ssl_certs:
        context = _trusting(settings.ca_bundle_file)
        if ssl.HAS_NEVER_CHECK_COMMON_NAME:
            context.hostname_checks_common_name = False  # RFC 9525, section 6.3: subjectAltName alone says who it is
        if not settings.strict_certs:
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    else:
        logger.warning("verify_ssl_certs is off: whoever answers is taken for GigaChat")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.cert_file:
        context.post_handshake_auth = True  # as in http.client: some servers ask for the certificate later
        _load_client_certificate(context, settings.cert_file, settings.key_file, settings.key_file_password)
    return context

def _trusting(bundle: Optional[str]) -> ssl.SSLContext:
    """Trust the roots in a file, or in all files of a directory; else the system's, which take 18 ms to load."""
    import glob
    setting = "ca_bundle_file (GIGACHAT_CA_BUNDLE_FILE)"
    try:
        context = ssl.create_default_context(capath=bundle)  # looked up when needed, and so no error if it is a file
    except ssl.SSLError as error:
        raise ConfigurationError(f"the system's store of roots cannot be read ({error}): set {setting}") from error
    if not bundle: return context
    files = sorted(glob.glob(os.path.join(glob.escape(bundle), "*")))
    problem: Any = ""
    for file in files or [bundle]:
        try:
            content = _read_file(file) if os.path.isfile(file) else b""  # a pipe can be read only once
            data: Union[bytes, str] = b""  # what OpenSSL's own loader would refuse or pass over is read for it
            if content.startswith(b"\x30") and b"-----BEGIN" not in content:  # DER: a SEQUENCE of ASN.1
                data = content
            elif content.startswith(b"\xef\xbb\xbf") or b"----------BEGIN" in content:  # BOM, or no line end before it
                data = content.decode("ascii", "ignore").replace("-----BEGIN", "\n-----BEGIN")
            context.load_verify_locations(None if data else file, cadata=data or None)
        except OSError as error:  # in a directory anything may lie
            problem = getattr(error, "reason", None) or error.strerror or error
    if (problem and not files) or not context.cert_store_stats()["x509"]:
        raise ConfigurationError(f"{setting}: {bundle!r} holds no certificates to trust, in PEM or DER: {problem}")
    return context

# RFC 5280, section 4.1: the issuer, a SEQUENCE of two dates, the subject, and the key, which begins with two SEQUENCEs
# and an OID.
_CERTIFICATE = re.compile(
    rb"(.*?)\x30.[\x17\x18].\d+Z[\x17\x18].(\d*)(\d\d)(\d\d)(\d\d)\d{6}Z(.*?)\x30(?:.|\x81.|\x82..)\x30.\x06", re.DOTALL
)

def _certificate_names(der: bytes) -> Tuple[str, str, str]:
    """Give subject, issuer and expiry of a certificate: of one that it does not trust ssl gives nothing but bytes."""
    def names(der: bytes) -> str:  # each is an OID, 2.5.4.3 or 2.5.4.10, a type, a length and a text
        found = re.finditer(rb"\x55\x04([\x03\x0a]).\x81?(.)", der, re.DOTALL)
        texts = [("CN=" if one[1] == b"\x03" else "O=", der[one.end() :][: one[2][0]]) for one in found]
        return ", ".join(kind + text.decode("utf-8", "replace") for kind, text in texts)

    parts = _CERTIFICATE.match(der)
    if parts is None: return "", "", ""
    century, year, month, day = (part.decode() for part in parts.groups()[1:5])
    return names(parts[6]), names(parts[1]), f"{century or '20'}{year}-{month}-{day}"

def _load_client_certificate(context: ssl.SSLContext, cert: str, key: Optional[str], password: Optional[str]) -> None:
    """Load the client's certificate and key. Without a password at hand OpenSSL would ask for one on the terminal."""
    for name, kind in (("cert_file", "CERTIFICATE"), ("key_file" if key else "cert_file", "PRIVATE KEY")):
        path = key if key and name == "key_file" else cert
        place = f"{name} (GIGACHAT_{name.upper()}): {path!r}"
        try:
            text = _read_file(path)
        except OSError as error:
            raise ConfigurationError(f"{place} cannot be read: {error.strerror}") from error
        if f"{kind}-----".encode() not in text: raise ConfigurationError(f"{place} holds no {kind.lower()} in PEM")
    try:
        context.load_cert_chain(cert, key, lambda: password or "")
    except (OSError, ValueError) as error:
        problem = f"cannot be used: {error}"
        if "MISMATCH" in str(getattr(error, "reason", "")):
            problem = f"is not the key of the certificate in cert_file (GIGACHAT_CERT_FILE): {cert!r}"
        elif b"ENCRYPTED" in text:
            state = "wrong" if password else "missing"
            problem = f"is encrypted, and key_file_password (GIGACHAT_KEY_FILE_PASSWORD) is {state}"
        raise ConfigurationError(f"{place} {problem}") from error

def _read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()

class _Cut(Exception):
    """Ends the work for a task that was cancelled or a stream that was closed."""

class _Flight:
    """A task or a stream, which can be cut off, whatever part of the network it waits for."""
    pool: Optional[KeepAlive] = None  # where it is blocked, if it is
    cut_off = False

    def cut(self) -> None:
        self.cut_off = True
        if self.pool is not None:
            self.pool.cut(self)

# Set in the context that a worker or a stream runs in; a simple blocking call has none.
_flight_cvar: ContextVar[Optional[_Flight]] = ContextVar("_flight_cvar", default=None)


# ---------- payloads

Message = Union["Messages", Dict[str, Any], str]
Payload = Union[str, Dict[str, Any], Sequence[Message], Iterator[Message], "Messages", "Chat"]
FileContent = Union[str, "os.PathLike[str]", bytes, BinaryIO]
FileSource = Union[FileContent, Tuple[Optional[str], FileContent], Tuple[Optional[str], FileContent, Optional[str]],
                   Tuple[Optional[str], FileContent, Optional[str], Mapping[str, str]]]
BatchSource = Union[Sequence[Payload], bytes, str, "os.PathLike[str]"]
_STREAM_HEADERS = {"Accept": "text/event-stream", "Cache-Control": "no-store"}

def _as_chat(payload: Payload) -> Chat:
    if isinstance(payload, dict):
        if "messages" not in payload:
            raise TypeError('the dict has no "messages"; a single message goes into a list: [{"role": ...}]')
        payload = Chat.from_dict(payload)
    elif not isinstance(payload, Chat):
        payload = Chat(messages=_as_messages(payload))
    if not payload.messages and payload.storage is None:
        raise ValueError("there is nothing to answer: the list of messages is empty")
    return payload

def _as_messages(messages: Any, own: bool = False) -> List[Messages]:
    alone = isinstance(messages, (str, dict, Messages))
    made: List[Messages] = []
    for message in [messages] if alone else _listed(messages, "text, a dict, a list of messages or a Chat"):
        try:
            made.append(_as_message(message, own))
        except (TypeError, ValueError) as error:
            _add_place(error, f".messages[{len(made)}]")
            raise
    return made

def _as_message(message: Message, own: bool = False) -> Messages:
    """Make a message; a dict is copied, unless it is our *own*."""
    if isinstance(message, str): return Messages(role=MessagesRole.USER, content=message)
    if not isinstance(message, (Messages, dict)):
        raise TypeError(f"$ must be Messages, a dict or str, not {type(message).__name__}")
    make = Messages._of if own else Messages.from_dict
    fields = message if isinstance(message, dict) else vars(message)
    if fields.get("content") is None:  # the API wants one, even next to a function call
        return make({**fields, "content": ""})
    return make(message) if isinstance(message, dict) else message

def _listed(values: Any, expected: str) -> List[Any]:
    """Make a list of what is as good as one: a tuple, a generator, a vector of numpy or pandas."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(values, (str, bytes, bytearray, dict, set, frozenset)) or not hasattr(values, "__iter__"):
        raise TypeError(f"expected {expected}, not {type(values).__name__}")
    return list(values)

def _texts(texts: Union[str, Iterable[str]]) -> List[str]:
    found = [texts] if isinstance(texts, str) else _listed(texts, "a text or a list of texts")
    for at, text in enumerate(found):
        if not isinstance(text, str): raise TypeError(f"text {at} of the list must be str, not {type(text).__name__}")
    return found

def _quote(argument: Union[str, UploadedFile]) -> str:
    """Make one segment of a path of an id, whatever it holds."""
    name = argument.id if isinstance(argument, UploadedFile) else argument
    if not isinstance(name, str) or not name:
        raise ValueError(f"an id or name must be text that is not empty, not {argument!r:.80}")
    # Dots are no special characters, but a segment of nothing but dots would be followed upwards.
    return "%2E" * len(name) if name in (".", "..") else urllib.parse.quote(name, safe="")

def _content_path(file_id: Union[str, UploadedFile]) -> str: return f"/files/{_quote(file_id)}/content"

def _with_nulls(message: Messages) -> Dict[str, Any]:
    """Write all fields of a message as /threads/messages gets them from the official SDK, which calls the id id_."""
    absent = {name for name in ("inline_data", "logprobs") if vars(message).get(name) is None}
    return {name: value for name, value in message.model_dump().items() if name not in absent | {"x_headers"}}

def _assistant_body(self: Any, functions: Optional[List[Function]], **fields: Any) -> Dict[str, Any]:
    """Write what a method was given, nulls too, as the official SDK does for all but functions."""
    return fields if functions is None else {**fields, "functions": functions}

def _page(limit: Optional[int], before: Optional[int]) -> List[Tuple[str, Any]]:
    return [(name, value) for name, value in (("limit", limit), ("before", before)) if value]

def _thread_body(thread_id: Optional[str], assistant_id: Optional[str], model: Optional[str],
                 messages: Sequence[Any]) -> Dict[str, Any]:
    """Address messages to a thread or an assistant, which have a model of their own, or else to a model."""
    model = None if thread_id or assistant_id else model
    return {"thread_id": thread_id, "assistant_id": assistant_id, "model": model, "messages": messages}

def _run_options(options: Union[ThreadRunOptions, Dict[str, Any], None]) -> Dict[str, Any]:
    return dict(_sent_fields(ThreadRunOptions.model_validate(options))) if options is not None else {}

def _run_body(thread_id: str, assistant_id: Optional[str], thread_options: Any, options: Any) -> Dict[str, Any]:
    if options is not None:
        import warnings
        warnings.warn("options is deprecated: use thread_options", DeprecationWarning, stacklevel=3)
    return {**_run_options(thread_options or options), "thread_id": thread_id, "assistant_id": assistant_id}

def _batch_lines(requests: BatchSource, write: Callable[[Chat], Dict[str, Any]], method: str) -> bytes:
    """Write the JSON Lines of a batch."""
    if isinstance(requests, bytes): return requests
    if isinstance(requests, (str, os.PathLike)): return _read_file(os.fspath(requests))
    listed = _listed(requests, "a list of requests, or JSON Lines as bytes or the path of a file")
    if not listed: raise TypeError("a batch has at least one request")
    bodies = listed if method == "embedder" else [write(_as_chat(request)) for request in listed]
    return b"\n".join(_encode({"id": str(number), "request": body}) for number, body in enumerate(bodies)) + b"\n"

def _copy(open_reply: Callable[[], _Reply], file: BinaryIO) -> None:
    """Write a file's content to a file object, also to one that takes a part at a time (io.RawIOBase.write)."""
    write = getattr(file, "write", None)
    if write is None or isinstance(file, io.TextIOBase) or inspect.iscoroutinefunction(write):
        raise TypeError(f"to is a path or a file open in binary mode, not {type(file).__name__}")
    def copy_all(reply: _Reply) -> None:
        for block in iter(reply.receive, b""):
            left = block
            while left:
                written = write(left)
                if not written and isinstance(file, io.RawIOBase):
                    raise BlockingIOError("the file that is written to takes no more: it does not block")
                left = left[written:] if isinstance(written, int) and 0 < written < len(left) else b""
    open_reply().begun(copy_all)

def _save(open_reply: Callable[[], _Reply], to: Union[str, os.PathLike[str]]) -> None:
    """Write a file's content to a path, which gets it when all of it is there; in place only where it must be."""
    name = os.fsdecode(to)
    path = os.path.realpath(name)
    partial = os.path.join(os.path.dirname(path), f".{os.urandom(4).hex()}.part")
    try:
        with _beside(name, partial) as file:
            _copy(open_reply, file)
            if os.path.isfile(name):
                file.truncate()
        if os.path.exists(partial):
            os.replace(partial, path)
    except OSError as error:
        if not isinstance(error, GigaChatException) and error.filename in (None, partial, path):
            error.filename, error.filename2 = name, None  # the name that the caller knows
        raise
    finally:
        if os.path.exists(partial):
            os.unlink(partial)

def _beside(name: str, partial: str) -> BinaryIO:
    """Open a new file that may take the place of another, with its mode; where that cannot be, the other itself."""
    try:
        mode = os.stat(name).st_mode
    except FileNotFoundError:
        return open(partial, "xb")
    if stat.S_ISREG(mode):
        try:
            file = open(partial, "xb")  # noqa: SIM115  # the caller closes it
        except OSError:  # a directory in which nobody may make files, or no room for a name
            pass
        else:
            os.chmod(partial, stat.S_IMODE(mode))
            return file
    # What it holds stays until other content arrives.
    return open(name, "wb", opener=lambda path, flags: os.open(path, flags & ~os.O_TRUNC))

# What the API takes, by the ending of the name; mimetypes lacks several or says otherwise.
_FILE_TYPES = {
    ".txt": "text/plain", ".doc": "application/msword", ".pdf": "application/pdf", ".epub": "application/epub",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".ppt": "application/ppt", ".pptx": "application/pptx", ".xlsx": "application/vnd.ms-excel",
    ".jpeg": "image/jpeg", ".jpg": "image/jpeg", ".png": "image/png", ".tiff": "image/tiff", ".tif": "image/tiff",
    ".bmp": "image/bmp", ".mp4": "audio/mp4", ".mp3": "audio/mp3", ".m4a": "audio/x-m4a", ".wav": "audio/wav",
    ".weba": "audio/webm", ".ogg": "audio/x-ogg", ".opus": "audio/opus",
}

def _file_type(name: str) -> str:
    import mimetypes
    ending = os.path.splitext(name)[1].lower()
    return _FILE_TYPES.get(ending) or mimetypes.guess_type(name)[0] or "application/octet-stream"

class _Upload:
    """A multipart/form-data body (RFC 7578) with one file, read as it is sent; ``length`` is None where unknown."""
    failed = False  # whether the file could not be read
    rewindable = False  # whether it can be sent again

    def __init__(self, source: FileSource, purpose: Optional[str] = None) -> None:
        name, content, headers = _file_parts(source)
        if isinstance(content, str):
            content = open(content, "rb")  # noqa: SIM115  # open until it is sent, however often that takes
            weakref.finalize(self, content.close)
        self._file: Any = content
        self._size = self._examine()
        boundary = os.urandom(16).hex()
        self.content_type = f"multipart/form-data; boundary={boundary}"
        lines = [f"--{boundary}", 'Content-Disposition: form-data; name="purpose"', "", purpose] if purpose else []
        lines += [f"--{boundary}", f'Content-Disposition: form-data; name="file"; filename="{_escaped(name)}"']
        lines += [f"{header}: {_checked_header(header, value)}" for header, value in headers.items()]
        self._head = _utf8("\r\n".join([*lines, "", ""]))
        self._tail = f"\r\n--{boundary}--\r\n".encode("ascii")
        self.length = None if self._size is None else len(self._head) + self._size + len(self._tail)

    def _examine(self) -> Optional[int]:
        """Give the size of the file if it has one; refuse what is no binary file, as far as reading nothing shows."""
        file = self._file
        if not hasattr(file, "read"):
            raise TypeError(f"a file is a path, bytes or a file open in binary mode, not {type(file).__name__}")
        nothing = "" if isinstance(file, io.TextIOBase) else file.read(0)
        getattr(nothing, "close", bool)()  # a coroutine that nobody awaits would complain
        if nothing != b"":
            advice = 'open it with "rb"; of an asynchronous one give its .file, or what its read() gives'
            raise TypeError(f"{type(file).__name__} is not a file in binary mode, whose read(0) gives b'': {advice}")
        try:
            file.tell()
            file.seek(0, os.SEEK_END)  # which returns nothing in mmap before 3.13
        except (AttributeError, OSError, NotImplementedError, TypeError):  # OSError includes io.UnsupportedOperation
            return None
        self.rewindable = True
        size = file.tell()
        if not isinstance(size, int):
            raise TypeError(f"tell() of the file gives {type(size).__name__}, not a number of bytes")
        return None if size == 0 and file.read(1) else size  # what is in /proc has no size

    def __iter__(self) -> Iterator[bytes]:
        """Give as many bytes as the Content-Length promises, even if the file grows meanwhile."""
        yield self._head
        left = math.inf if self._size is None else self._size
        self.failed = False
        try:
            if self.rewindable:
                self._file.seek(0)
            while left:
                wanted = int(min(_SEND_BYTES, left))
                block = self._file.read(wanted)
                if not isinstance(block, (bytes, bytearray)) or len(block) > wanted:
                    raise GigaChatException(f"the file gave something else than up to {wanted} bytes")
                if not block and self._size is None: break
                if not block: raise GigaChatException("the file became shorter while it was sent")
                yield bytes(block)
                left -= len(block)
        except Exception:
            self.failed = True
            raise
        yield self._tail

def _file_parts(source: FileSource) -> Tuple[str, Union[str, BinaryIO], Mapping[str, str]]:
    """Tell name, content (a path or an open file) and headers of what is to be uploaded."""
    parts: List[Any] = list(source) if isinstance(source, tuple) else [None, source]
    if not 2 <= len(parts) <= 4:
        raise TypeError("a file is (name, content), (name, content, type) or (name, content, type, headers)")
    name, content, kind, headers = parts + [None] * (4 - len(parts))
    if isinstance(content, str) and isinstance(source, tuple):
        content = _utf8(content)
    if isinstance(content, (bytes, bytearray, memoryview)):
        content = io.BytesIO(bytes(content))
    elif isinstance(content, (str, os.PathLike)):
        content = os.fsdecode(content)
    if name is None:
        own = content if isinstance(content, str) else getattr(content, "name", None)
        name = os.path.basename(own) if isinstance(own, str) and own else "upload"
        name = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # a name on disk may be no UTF-8
    if not isinstance(name, str): raise TypeError(f"the name of a file is text, not {type(name).__name__}")
    if not any(header.lower() == "content-type" for header in headers or ()):
        headers = {**(headers or {}), "Content-Type": kind or _file_type(name)}
    return name, content, headers

def _escaped(name: str) -> str:
    """Write a file name as browsers do: UTF-8, with what would end the quotes or the line escaped."""
    name = name.replace("\\", "\\\\").replace('"', "%22")
    return re.sub(r"[\x00-\x1f\x7f]", lambda match: f"%{ord(match.group()):02X}", name)

# Each match takes all of a tag up to its source or end: no character is looked at twice.
_IMAGE_ID = re.compile(r"<(?:img|video|audio)\b[^>]*?(?:\bsrc=[\"']([^\"'>]+)[\"']|>|\Z)", re.IGNORECASE)

def file_ids(answer: Union[str, ChatCompletion, Messages, ChatCompletionResponse, ChatMessage]) -> List[str]:
    """List the ids of the files that an answer shows; ``download_file()`` takes them."""
    if isinstance(answer, ChatCompletion):
        return [found for choice in answer.choices for found in file_ids(choice.message)]
    if isinstance(answer, ChatCompletionResponse):
        return [found for message in answer.messages or () for found in file_ids(message)]
    if isinstance(answer, ChatMessage): return [file.id for part in answer.content or () for file in part.files or ()]
    text = answer if isinstance(answer, str) else answer.content
    return [found for found in _IMAGE_ID.findall(text or "") if found]

CompletionMessage = Union["ChatMessage", Dict[str, Any], str]
CompletionPayload = Union[str, Dict[str, Any], Sequence[CompletionMessage], "ChatCompletionRequest"]

def _as_request(payload: CompletionPayload) -> ChatCompletionRequest:
    if isinstance(payload, (str, list, tuple)):
        payload = {"messages": payload}
    # A request is made anew too: what was set since it was made may be anything that is right in a dict.
    fields = payload.to_dict() if isinstance(payload, ChatCompletionRequest) else payload
    try:
        return ChatCompletionRequest.from_dict(fields)  # type: ignore[arg-type]  # which refuses what is neither
    except ValueError as error:
        error.args = (re.sub(r"\A\$\.(\S+) ", r"\1: ", str(error)),)
        raise

def _chat_path(client: _Client, variable: ContextVar[Any]) -> str:
    """Say where a chat goes: below base_url, or at another address of its server.

    *variable* holds a path, one from the root of the server (/v1/..., /api/v2/...), or a whole address."""
    base_url, address = client._settings.base_url, variable.get()
    if address is None and variable is chat_completions_url_cvar:
        address = re.sub(r"/v\d+\Z", "/v2", base_url) + "/chat/completions"
    found = re.match(r"(https?://[\w.:\[\]-]+)?(/[\x21-\x7e]*)\Z", address if isinstance(address, str) else "")
    if found is None: raise ValueError(f"{variable.name} must be a path such as /chat/completions, or a whole address")
    server, path = "{0.scheme}://{0.netloc}".format(urllib.parse.urlsplit(base_url)), found.group(2)
    if found.group(1) and _origin(found.group(1)) != _origin(server):
        raise ValueError(f"{variable.name} leads to {found.group(1)}, but the token belongs to {server}")
    return server + path if found.group(1) or re.match(r"(/api)?/v\d+(/|\Z)", path) else path

def _origin(url: str) -> Tuple[str, str, int]:
    parts = _split_url(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


# ---------- schemas and tools

def schema_of(kind: Any) -> Dict[str, Any]:
    """Write the JSON schema of a type; TypeError where it has none.

    Dataclasses, TypedDicts, NamedTuples, enums (by value), Literal, Optional, Union, lists, tuples, dicts with text as
    keys, str, int, float, bool, None and Any have one; ``Annotated[T, "..."]`` describes it. A class with
    ``model_json_schema``, as pydantic's have, writes its own; a dict is a schema already."""
    return _shape_of(kind).schema

_Functions = Sequence[Union[Callable[..., Any], "Function", Dict[str, Any]]]
_Tools = Sequence[Union[Callable[..., Any], "ChatTool", Dict[str, Any], str]]
_Parsed = Tuple["ChatCompletion", T]
_ParsedV2 = Tuple["ChatCompletionResponse", T]
_Ran = Tuple["ChatCompletion", List["Messages"]]
_RanV2 = Tuple["ChatCompletionResponse", List["ChatMessage"]]

class _Shape(NamedTuple):
    """A type as JSON sees it."""
    schema: Dict[str, Any]
    parts: Any = None  # the shapes inside, by name or in a list; None where what is inside is not ours to check
    build: Callable[[Any], Any] = lambda made: made  # gives the value; may be the user's own code
    required: Optional[bool] = None  # what a TypedDict says of it by Required and NotRequired

    def value(self, value: Any, place: str = "$") -> Any:
        """Make a value of decoded JSON; ValueError, with the place, where it does not fit."""
        if self.parts is not None:
            value = self._choose(value, place) if "anyOf" in self.schema else self._make_parts(value, place)
        try:
            return self.build(value)
        except Exception as error:
            raise ValueError(f"{place}: {' '.join(str(error).split())}") from error

    def _make_parts(self, value: Any, place: str) -> Any:
        schema, wanted, found, parts = self.schema, self.schema["type"], _JSON_NAMES[type(value)], self.parts
        found = "integer" if wanted == "integer" and found == "number" and value.is_integer() else found
        if wanted != found and (wanted, found) != ("number", "integer"):
            raise ValueError(f"{place} must be {wanted}, not {value!r:.60}")
        if wanted == "array":
            if len(value) != schema.get("minItems", len(value)):
                raise ValueError(f"{place} must have {len(parts)} items, not {len(value)}")
            return [parts[i % len(parts)].value(item, f"{place}[{i}]") for i, item in enumerate(value)]
        if wanted != "object": return value
        missing = [repr(name) for name in schema["required"] if name not in value]
        if missing: raise ValueError(f"{place} lacks {', '.join(missing)}")
        known: Any = parts if isinstance(parts, dict) else dict.fromkeys(value, parts[0])
        return {name: part.value(value[name], f"{place}.{name}") for name, part in known.items() if name in value}

    def _choose(self, value: Any, place: str) -> Any:
        """Make a value of the first type that it fits; those that lose least of it come first."""
        def fit(part: _Shape) -> Tuple[bool, int]:
            keys = value.keys() & part.schema.get("properties", {}).keys() if isinstance(value, dict) else ()
            return part.schema.get("type") == _JSON_NAMES[type(value)], len(keys)

        problems = []
        for part in sorted(self.parts, key=fit, reverse=True):
            try:
                return part.value(value, place)
            except ValueError as error:
                problems.append(str(error))
        raise ValueError("; ".join(problems))

_JSON_NAMES = {
    str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null", list: "array", dict: "object"
}

def _shape_of(kind: Any) -> _Shape:
    """Read a type that stands alone: a schema of its own making may refer to itself there."""
    if hasattr(kind, "model_json_schema"): return _Shape(kind.model_json_schema(), None, kind.model_validate)
    try:
        return _shape(kind)
    except RecursionError:
        raise TypeError(f"{kind!r} holds itself, which no schema without $ref can say") from None

def _shape(kind: Any) -> _Shape:
    """Read a type, which may stand inside another one."""
    while hasattr(kind, "__value__") or hasattr(kind, "__supertype__"):  # `type X = ...` of Python 3.12; NewType
        kind = getattr(kind, "__value__", getattr(kind, "__supertype__", None))
    kind = kind.type if isinstance(kind, dataclasses.InitVar) else kind
    origin, args = getattr(kind, "__origin__", kind), list(getattr(kind, "__args__", ()))
    form = getattr(origin, "_name", None)  # typing_extensions has other objects of the same names on older Pythons
    if isinstance(kind, dict) or kind is Any or isinstance(kind, TypeVar):
        return _Shape(kind if isinstance(kind, dict) else {})
    if hasattr(kind, "__metadata__"):  # Annotated
        shape, notes = _shape(origin), [note for note in kind.__metadata__ if isinstance(note, str)]
        return shape._replace(schema={**shape.schema, "description": notes[0]}) if notes else shape
    if form == "Literal" or isinstance(kind, enum.EnumMeta): return _choice_shape(kind, args or list(kind))
    inside = [_shape(arg) for arg in args if arg is not Ellipsis] or [_Shape({})]
    schemas = [shape.schema for shape in inside]
    if form in ("Required", "NotRequired", "ReadOnly"):
        return inside[0] if form == "ReadOnly" else inside[0]._replace(required=form == "Required")
    if origin is Union or isinstance(kind, getattr(types, "UnionType", ())): return _Shape({"anyOf": schemas}, inside)
    if origin is tuple and args and args[-1] is not Ellipsis:
        count = len(args)
        return _Shape({"type": "array", "prefixItems": schemas, "minItems": count, "maxItems": count}, inside, tuple)
    if origin in (list, tuple): return _Shape({"type": "array", "items": schemas[0]}, inside, origin)
    if origin is dict and (not args or args[0] is str or isinstance(args[0], TypeVar)):
        schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": schemas[-1]}
        return _Shape(schema, inside[-1:])
    if hasattr(kind, "model_json_schema"):
        return _Shape(_without_refs(kind.model_json_schema(), {}), None, kind.model_validate)
    if kind is None or kind is type(None): return _Shape({"type": "null"}, ())
    if kind in (str, int, float, bool): return _Shape({"type": _JSON_NAMES[kind]}, (), kind)
    return _object_shape(_fields(kind), dict if hasattr(kind, "__total__") else kind)

def _choice_shape(kind: Any, members: List[Any]) -> _Shape:
    """Read an enum, by value, or a Literal, which may name members of an enum."""
    while any(hasattr(member, "__args__") for member in members):  # Literal inside Literal, before Python 3.9
        members = [inner for member in members for inner in getattr(member, "__args__", [member])]
    values = [member.value if isinstance(member, enum.Enum) else member for member in members]
    names = {_JSON_NAMES.get(type(value), "") for value in values}
    if "" in names: raise TypeError(f"{kind!r} has values that JSON does not have")

    def member_of(value: Any) -> Any:
        for known, member in zip(values, members):
            if known == value and isinstance(known, bool) is isinstance(value, bool): return member
        raise ValueError(f"must be one of {', '.join(map(repr, values))}, not {value!r:.60}")

    return _Shape({**({"type": names.pop()} if len(names) == 1 else {}), "enum": values}, None, member_of)

def _object_shape(fields: List[Tuple[str, Any, bool]], build: Callable[..., Any]) -> _Shape:
    """Describe what *build* takes by name: name, type, and whether it must be there."""
    parts = {name: _shape(kind) for name, kind, _ in fields}
    properties = {name: part.schema for name, part in parts.items()}
    needed = {name: must if parts[name].required is None else parts[name].required for name, _, must in fields}
    schema = {"type": "object", "properties": properties, "required": [name for name in needed if needed[name]]}
    return _Shape(schema, parts, lambda made: build(**made))

def _fields(kind: Any) -> List[Tuple[str, Any, bool]]:
    """List the fields of a class: name, type, and whether it must be there."""
    signs = ("__dataclass_fields__", "__total__", "_field_defaults")  # of a dataclass, TypedDict, NamedTuple
    if not hasattr(kind, "__mro__") or not any(hasattr(kind, sign) for sign in signs):
        raise TypeError(f"{kind!r} has no JSON schema")
    hints = _hints(kind, _names_for(kind))
    if hasattr(kind, "__total__"):
        required = getattr(kind, "__required_keys__", hints if kind.__total__ else ())
        return [(name, hint, name in required) for name, hint in hints.items()]
    if hasattr(kind, "_field_defaults"):
        return [(name, hints.get(name, Any), name not in kind._field_defaults) for name in kind._fields]
    initial = [f for f in kind.__dataclass_fields__.values() if isinstance(hints[f.name], dataclasses.InitVar)]
    fields = [f for f in (*dataclasses.fields(kind), *initial) if f.init]
    return [(f.name, hints[f.name], f.default is f.default_factory) for f in fields]  # both are MISSING: no default

def _hints(owner: Any, names: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
    """Give annotations as types; *names* are for those that are text."""
    extras: Dict[str, Any] = {"include_extras": True} if sys.version_info >= (3, 9) else {}
    try:
        return get_type_hints(owner, names, **extras)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise TypeError(f"the annotations of {owner.__name__} cannot be read: {error}") from error

def _names_for(kind: Any) -> Optional[Dict[str, Any]]:
    """Give what a class's annotations may name, where its loader did not put the module into sys.modules: before 3.10
    get_type_hints() fails there."""
    return None if all(base.__module__ in sys.modules for base in kind.__mro__) else globals()

def _without_refs(schema: Any, known: Mapping[str, Any]) -> Any:
    """Write out what a schema refers to: inside another one its ``$ref`` would point nowhere."""
    if not isinstance(schema, dict):
        return [_without_refs(item, known) for item in schema] if isinstance(schema, list) else schema
    known = schema.get("$defs", known)
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name not in known: raise TypeError(f"a schema refers to {schema['$ref']}, which is not among its $defs")
        schema = {**known[name], **schema}
    return {name: _without_refs(part, known) for name, part in schema.items() if name not in ("$defs", "$ref")}

def _parse(ask: Callable[[Any], T], request: Any, kind: Any, strict: bool) -> Tuple[T, Any]:
    """Ask for an answer that fits a type; give the completion and the value that it makes."""
    shape = _shape_of(kind)
    request.response_format = {"type": "json_schema", "schema": shape.schema, "strict": strict}
    completion = ask(request)
    _, text, _, cut = _answer(completion)
    if cut: raise LengthFinishReasonError(completion)
    try:
        return completion, shape.value(_json_in(text))
    except ValueError as problem:
        error = InvalidResponseError(f"the answer does not fit: {problem}")
        error.completion = completion
        raise error from problem

def _answer(completion: Any) -> Tuple[Any, str, List[Any], bool]:
    """Give the message of an answer, None where there is none, its text, the calls it wants made, and if it was cut."""
    if isinstance(completion, ChatCompletionResponse):
        message = completion.message or ChatMessage(role="assistant")
        # The text is the first one, as with the official SDK.
        said = next((one for one in completion.messages if one.role == "assistant" and one.text), message)
        cut = "length" in (completion.finish_reason, said.finish_reason)
        return completion.message, said.text, message.function_calls, cut
    for choice in completion.choices:
        answer = _as_message(choice.message)
        calls = [answer.function_call] if answer.function_call else []
        return answer, answer.content, calls, choice.finish_reason == "length"
    return None, "", [], False

def _json_in(text: str) -> Any:
    """Read the JSON of an answer: all of its text, or what a fence of three backticks in it holds."""
    try:
        return _decode(_utf8(text))
    except ValueError:
        fence = re.search(r"```[ \t]*json\s*", text, re.IGNORECASE) or re.search(r"```\w*\s*", text)
        if fence is None: raise
    try:  # where the value ends, the fence does: a text inside the value may have one of its own
        return _DECODER.raw_decode(text, fence.end())[0]
    except RecursionError:
        raise ValueError("nested too deeply") from None

def _tool(function: Any) -> Tuple[Dict[str, Any], _Shape]:
    """Describe a Python function to the model; give its arguments too. TypeError where that cannot be done."""
    name, doc = getattr(function, "__name__", repr(function)), inspect.getdoc(function) or ""
    try:
        parameters = inspect.signature(function).parameters.values()
        odd = [str(p) for p in parameters if p.kind not in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if odd or not name.isidentifier():
            raise TypeError(f"{odd[0]} cannot be given by name" if odd else "it has no name")
        hinted = {p.name: p.annotation for p in parameters if p.annotation is not p.empty}
        names = getattr(inspect.unwrap(function), "__globals__", {})
        hints = _hints(types.SimpleNamespace(__name__=name, __annotations__=hinted), names)
        shape = _object_shape([(p.name, hints.get(p.name, Any), p.default is p.empty) for p in parameters], dict)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{name} cannot be described to the model: {error}") from error
    for argument, part in shape.parts.items():
        said = _said_of(argument, doc)
        shape.schema["properties"][argument] = {"description": said, **part.schema} if said else part.schema
    summary = " ".join(re.split(r"\n\s*(?:\n|:\w|Arg(?:ument)?s:|Parameters\n)", "\n" + doc)[0].split())
    return {"name": name, **({"description": summary} if summary else {}), "parameters": shape.schema}, shape

def _said_of(argument: str, doc: str) -> str:
    """Find what a docstring says of an argument, in the style of Sphinx, Google or NumPy; "" for nothing."""
    more = r"((?:\n\1[ \t]+\S.*)*)"  # the lines that are indented deeper
    for pattern in (rf"^([ \t]*):param (?:.*[ *])?{argument}:(.*){more}",
                    rf"^Arg(?:ument)?s:\n(?:[ \t].*\n|\n)*?([ \t]+)\**{argument}(?: ?\(.*\))?:(.*){more}",
                    rf"^Parameters\n-+\n(?:(?!\w+\n-).*\n)*?([ \t]*)(?:.*, )?\**{argument}(?:,.*| ?:.*)?$(){more}"):
        found = re.search(pattern, doc, re.MULTILINE)
        if found: return " ".join((found.group(2) + found.group(3)).split())
    return ""

def _result_text(value: Any) -> str:
    """Write the result of a function as a JSON object, since not every model takes anything else."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_json_form)
    text = text if text.startswith("{") else f'{{"result": {text}}}'
    return text.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair could not be sent

def _json_form(value: Any) -> Any:
    """Give what stands in JSON for an object that has no form of its own there."""
    try:
        return _sent_fields(value)
    except TypeError:
        return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)

async def _run_tools(ask: Callable[[Any], Any], request: Any, functions: Sequence[Any], rounds: int,
                     workers: Optional[_Workers] = None) -> Tuple[Any, List[Any]]:
    """Ask, make the calls that the answer wants made, and ask again; give the last answer and the whole history.

    It ends at an answer without calls or with one of a function that is not ours, and after *rounds* requests."""
    ours: Dict[str, Any] = {}
    for one in filter(callable, functions):
        name = getattr(one, "__name__", "")  # what has none is refused when it is described
        if ours.setdefault(name, one) != one and name: raise TypeError(f"two different functions are called {name}")
        if workers is None and inspect.iscoroutinefunction(one):
            raise TypeError(f"{name} is a coroutine function: arun_tools() and achat.run_tools() await it")
    fields, key = request.to_dict(), "functions" if isinstance(request, Chat) else "tools"
    others = [one for one in fields.get(key) or () if one.get("name") not in ours]
    request = type(request).from_dict({**fields, key: [*others, *functions]})
    completion: Any = None
    for _ in range(max(rounds, 1)):
        completion = await _done(functools.partial(ask, request), workers)
        message, _, calls, _ = _answer(completion)
        request.messages += [message] if message is not None else []
        if not calls or any(call.name not in ours for call in calls): break
        results = [await _called(ours[call.name], call.arguments, workers) for call in calls]
        request.messages += _told(message, calls, results)
    return completion, request.messages

def _at_once(loop: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing, without an event loop."""
    try:
        loop.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    raise TypeError("one of the functions waits: arun_tools() and achat.run_tools() await it")

def _told(answer: Any, calls: List[Any], results: List[str]) -> List[Any]:
    """Write the messages that answer the calls of a message."""
    if isinstance(answer, Messages):
        return [Messages(role="function", name=call.name, content=text) for call, text in zip(calls, results)]
    # In the second version all of the results have an id, or none; they are objects, not text.
    ids = [call.id for call in calls] if all(call.id for call in calls) else [None] * len(calls)
    told = [ChatFunctionResult(call.name, json.loads(text), own) for call, text, own in zip(calls, results, ids)]
    content = [ChatContentPart(function_result=result) for result in told]
    return [ChatMessage(role="tool", content=content, tools_state_id=answer.tools_state_id)]

async def _called(function: Callable[..., Any], arguments: Any, workers: Optional[_Workers]) -> str:
    """Call a function as the model wants; the result, or what went wrong, is JSON for the model to read."""
    call = None
    try:
        call = functools.partial(function, **_tool(function)[1].value(arguments or {}))
        return _result_text(await _done(call, workers))
    except Exception as error:
        if call is not None:  # else the arguments do not fit, and the log is not to show them
            logger.warning("%s() failed, which the model is told", function.__name__, exc_info=True)
        cause = error.__cause__ if isinstance(error.__cause__, StopIteration) else error  # no coroutine may raise it
        try:
            return _result_text({"error": f"{type(cause).__name__}: {cause}"})
        except Exception:  # its own __str__ fails
            return _result_text({"error": type(cause).__name__})

async def _done(step: Callable[[], Any], workers: Optional[_Workers]) -> Any:
    """Do a step of the loop, in a worker if there are any; coroutine functions are awaited where the caller is."""
    if workers is None or inspect.iscoroutinefunction(step):
        result = step()
    else:
        result = await _in_worker(workers, step, _Flight())
    return await result if inspect.isawaitable(result) else result

def _as_tools(tools: Sequence[Any]) -> Sequence[Any]:
    """Make one tool of all functions, where there are Python functions among the tools of a request."""
    if not any(callable(tool) or isinstance(tool, Function) for tool in tools): return tools
    functions: Dict[Any, Any] = {}  # by name: what was described already, once
    others: List[Any] = []
    for tool in [_tool(one)[0] if callable(one) else _plain(one) for one in tools]:
        fields = tool if isinstance(tool, dict) else {}
        found = [fields] if "parameters" in fields else (fields.get("functions") or {}).get("specifications")
        for one in found or ():
            functions[one.get("name", one.get("title"))] = one
        others += [] if "parameters" in fields or "functions" in fields else [tool]
    return [*others, {"functions": {"specifications": list(functions.values())}}]

def _text_of(chunk: Any) -> str:
    """Give the text that a chunk of a stream brings, without the reasoning."""
    if isinstance(chunk, PrimaryChatCompletionChunk):
        return "".join(message.text for message in chunk.messages or () if message.role != "reasoning")
    return "".join(choice.delta.content or "" for choice in chunk.choices if not choice.index)

def _whole(result: Type[Any], reply: _Reply) -> Any:
    """Put the events of a stream together to the answer that would have come at once."""
    if not reply.events: raise InvalidResponseError(f"{reply.what}: the stream brought no part of an answer")
    second = result is PrimaryChatCompletionChunk
    parts, key, first = ("messages", "role", "assistant") if second else ("choices", "index", 0)
    whole: Dict[str, Any] = {}
    grown: Dict[Any, Dict[str, Any]] = {}  # choices by index; in the second version messages by role
    pieces: Dict[Tuple[Any, str], List[Any]] = {}  # of what goes on; of anything else the last counts
    for event in reply.events:
        chunk = _copied(event) if isinstance(event, dict) else reply.parse(event)
        if second:  # where names and content have several spellings
            chunk = reply.as_model(result, chunk).to_dict()
        for part in chunk.pop(parts, None) or ():
            known = part.get(key) or first
            one = message = grown.setdefault(known, {key: known})
            said = part if second else part.pop("delta", None) or part.pop("message", None) or {}
            if not second:
                message = one.setdefault("message", {"role": "assistant", "content": ""})
                one.update((name, value) for name, value in part.items() if value is not None)
            for name in {"content", "reasoning_content"} & said.keys():
                more = said.pop(name) or ()
                pieces.setdefault((known, name), []).extend([more] if isinstance(more, str) else more)
            message.update((name, value) for name, value in said.items() if value not in (None, "", [], {}))
        whole.update((name, value) for name, value in chunk.items() if value is not None)
    for (known, name), said in pieces.items():
        message = grown[known] if second else grown[known]["message"]
        message[name] = _joined(said) if second and name == "content" else "".join(said)
    if second: return reply.as_model(ChatCompletionResponse, {**whole, "messages": list(grown.values())})
    choices = [grown[index] for index in sorted(grown)]
    return reply.as_model(ChatCompletion, {**whole, "choices": choices, "object": "chat.completion"})

def _joined(parts: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """Join the parts of a message that are texts; of those that tell how a tool fares the last counts."""
    joined: List[Dict[str, Any]] = []
    for kind, run in itertools.groupby(parts, lambda part: next(iter(part)) if len(part) == 1 else ""):
        same = list(run)
        if kind == "text":
            same = [{"text": "".join(part["text"] or "" for part in same)}]
        joined += same[-1:] if kind == "tool_execution" else same
    return joined


# ---------- JSON objects

if TYPE_CHECKING:
    class _HasId(Protocol[T]): id: T
    class _HasObject(Protocol[T]): object: T
    class _HasType(Protocol[T]): type: T
    class _HasBytes(Protocol[T]): bytes: T
    class _HasSchema(Protocol[T]): schema: T

class _Method(property):
    """A method that no key of an answer hides: a property is looked up before the object's own attributes."""
    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self.fget.__get__(instance, owner)  # type: ignore[union-attr]  # there always is one

def _method(function: T) -> T: return cast(T, _Method(cast(Any, function)))

class _Signature:
    """What a model's constructor takes, for help() and notebooks; made when somebody looks."""
    def __get__(self, instance: object, owner: Any) -> inspect.Signature:
        more = [inspect.Parameter("more", inspect.Parameter.VAR_KEYWORD)] if owner._takes_more else []
        kind = inspect.Parameter.KEYWORD_ONLY if more else inspect.Parameter.POSITIONAL_OR_KEYWORD
        defaults = {**owner._defaults, **dict.fromkeys(owner._required, inspect.Parameter.empty)}
        fields = [inspect.Parameter(name, kind, default=default, annotation=owner.__dataclass_fields__[name].type)
                  for name, default in defaults.items()]
        return inspect.Signature(fields + more)

@dataclass_transform(eq_default=False)
class JSONObject:
    """Base of the models: a JSON object whose keys are attributes.

    Keys that a class does not know are attributes too and come back from :meth:`to_dict`. Known ones that are absent
    read as their default. ``x_headers`` of an answer holds ``x-request-id``, ``x-session-id`` and ``x-client-id``."""
    x_headers: Optional[Dict[str, Optional[str]]] = None

    _array_field: ClassVar[Optional[str]] = None  # which field takes the items where the API answers with a bare array
    _sends_nulls: ClassVar[bool] = False  # a JSON schema: a None that was given is meant, and any type may be right
    _lenient: ClassVar[bool] = False  # whether it may lack fields that have no default, once it is made
    _takes_more: ClassVar[bool] = False  # whether the constructor takes names that it does not know, and id_ for id
    _spellings: ClassVar[Sequence[Tuple[str, str]]] = ()  # other names of fields, and the fields
    _of_text: ClassVar[Any] = None  # makes fields of a text; one that stands for a list may go without the list then
    # What __init_subclass__() works out for each class: what its constructor takes, and what it must be given.
    _defaults: ClassVar[Dict[str, Any]] = {}
    _required: ClassVar[FrozenSet[str]] = frozenset()
    _needed: ClassVar[Tuple[str, ...]] = ()  # of these, what an answer must have
    _rules: ClassVar[Any] = {}  # by field: the type that a value should have, and what makes it of any other
    __signature__ = _Signature()

    def __init_subclass__(cls) -> None:
        # Where annotations are text, dataclass() looks into sys.modules[cls.__module__], which not every loader fills.
        # An __init__ compiled for each of the models would take half of the time that importing takes.
        module, cls.__module__ = cls.__module__, "typing"
        dataclass(init=False, repr=False, eq=False)(cls)
        cls.__module__ = module
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]  # which it has just become
        cls._defaults = {f.name: None if f.default is dataclasses.MISSING else f.default for f in fields}
        cls._required = frozenset(f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING)
        cls._needed, cls._rules = () if cls._lenient else tuple(cls._required), None

    # The official SDK's spellings of fields whose names Python uses; type checkers refuse them where there is no field.
    @property
    def id_(self: _HasId[T]) -> T: return self.id
    @property
    def object_(self: _HasObject[T]) -> T: return self.object
    @property
    def type_(self: _HasType[T]) -> T: return self.type
    @property
    def bytes_(self: _HasBytes[T]) -> T: return self.bytes
    @property
    def schema_(self: _HasSchema[T]) -> T: return self.schema

    if not TYPE_CHECKING:  # dataclass_transform() tells each class's own __init__, and which attributes there are
        def __init__(self, *values: Any, **named: Any) -> None:
            kind = type(self)
            defaults = kind._defaults
            given = {**dict(zip(defaults, values)), **named} if values else named
            if kind._takes_more:
                given = {name.rstrip("_"): value for name, value in given.items()}
            elif len(given) < len(values) + len(named) or not kind._required <= given.keys() <= defaults.keys():
                raise TypeError(_wrong_arguments(kind, values, named))
            fields = {name: value if type(value) is str else _copied(value)
                      for name, value in given.items() if value is not None or name not in defaults}
            for name, default in defaults.items():
                if default is not None:
                    fields.setdefault(name, default)
            self._adopt(fields)

        def __getattr__(self, name: str) -> Any:
            """Read a known field that the object lacks and that has no default, or whose default is made."""
            if name not in type(self)._defaults:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            make = type(self).__dataclass_fields__[name].default_factory
            return None if make is dataclasses.MISSING else make()

        def __getitem__(self, key: Any) -> NoReturn: raise TypeError(f"write .{key}, or to_dict()[{key!r}]")

    @classmethod
    def from_dict(cls: Type[J], fields: Mapping[str, Any]) -> J:
        """Make an object of a JSON object; unknown keys are kept. ValueError where it is not what *cls* should be."""
        if not isinstance(fields, (dict, Mapping)):  # in this order, since asking Mapping takes longer
            raise TypeError(f"{cls.__name__} needs a dict, not {type(fields).__name__}")
        return cls._of(_copied(fields if isinstance(fields, dict) else dict(fields)))

    @classmethod
    def model_validate(cls: Type[J], value: Any) -> J:
        """Do as :meth:`from_dict`; give what is a *cls* already as it is. ValueError for anything else."""
        try:
            return value if isinstance(value, cls) else cls.from_dict(value)
        except TypeError as error:
            raise ValueError(str(error)) from error

    def _adopt(self, fields: Dict[str, Any]) -> None:
        """Become *fields*: no copy, and work only for those that are not what they should be, or not yet models."""
        kind = type(self)
        for other, name in kind._spellings:
            if other in fields:
                value = fields.pop(other)
                fields[name] = value if fields.get(name) is None else fields[name]
        rules = kind._rules or _rules_of(kind)
        for name, value in fields.items():
            if name in rules:
                expected, make = rules[name]
                if type(value) is not expected and value is not None:
                    try:
                        fields[name] = make(value)
                    except (TypeError, ValueError) as error:
                        _add_place(error, "." + name)
                        raise
        for name in kind._needed:
            if fields.get(name) is None: raise ValueError(f"$ lacks {name!r}")
        self.__dict__ = fields

    @classmethod
    def _list_of(cls: Type[J], value: Any) -> List[J]:
        if type(value) is not list:
            alone = cls._of_text and isinstance(value, (str, dict, cls))
            value = [value] if alone else _fit((list, tuple), "a list", value)
        made: List[J] = []
        for item in value:
            try:
                made.append(item if type(item) is cls else cls._of(item))
            except (TypeError, ValueError) as error:
                _add_place(error, f"[{len(made)}]")
                raise
        return made

    @classmethod
    def _values_of(cls: Type[J], value: Any) -> Any:
        """Make models of those values that are objects: a JSON schema may be true or false as well."""
        items = _fit(dict, "an object", value).items()
        return {name: cls._of(item) if type(item) is dict else item for name, item in items}

    @classmethod
    def _of(cls: Type[J], value: Any) -> J:
        """Make an object of JSON that nobody else holds; what is a model already stays as it is."""
        if type(value) is not dict:
            if isinstance(value, JSONObject): return value  # type: ignore[return-value]  # whatever model it is
            value = cls._of_text(value) if cls._of_text and isinstance(value, str) else _fit(dict, "an object", value)
        self = cls.__new__(cls)
        self._adopt(value)
        return self

    @_method
    def to_dict(self) -> Dict[str, Any]:
        """Give the JSON object back, without ``x_headers``."""
        return cast(Dict[str, Any], _plain(self))

    @_method
    def model_dump(self, *, mode: str = "python", by_alias: bool = False, exclude_none: bool = False) -> Dict[str, Any]:
        """Give all fields, absent ones too, as pydantic does: "id_" for "id" unless *by_alias*; "json" writes enums."""
        def fields_of(model: JSONObject) -> Dict[str, Any]:
            kind, fields = type(model), {}
            for name, value in {**{name: getattr(model, name) for name in kind._defaults}, **vars(model)}.items():
                if value is not None or not exclude_none:
                    aliased = name in kind._defaults and not by_alias and (name != "type" or kind._sends_nulls)
                    fields[name + "_" if aliased and hasattr(kind, name + "_") else name] = value
            return fields

        dump = _copied(self, fields_of)
        return cast(Dict[str, Any], json.loads(_ENCODER.encode(dump)) if mode == "json" else dump)

    @_method
    def model_dump_json(self, *, indent: Optional[int] = None, **options: Any) -> str:
        """Write what :meth:`model_dump` gives as JSON."""
        dump = self.model_dump(**{**options, "mode": "json"})
        return json.dumps(dump, ensure_ascii=False, indent=indent, separators=(",", ":") if indent is None else None)

    def __eq__(self, other: object) -> bool: return type(self) is type(other) and _plain(self) == _plain(other)
    __hash__ = None  # type: ignore[assignment]  # mutable, so not hashable

    def __repr__(self) -> str:
        import reprlib
        short = reprlib.Repr()
        short.maxlist, short.maxdict, short.maxstring, short.maxother = 6, 30, 300, 10_000
        shown = {name: "***" if name.endswith(("_token", "tok")) else value for name, value in vars(self).items()}
        return f"{type(self).__name__}({', '.join(f'{name}={short.repr(value)}' for name, value in shown.items())})"

    @_method
    def __reduce_ex__(self, protocol: Any) -> Any: return object.__new__, (type(self),), vars(self)

    __deepcopy__ = property(lambda self: None)  # copies are made by __reduce_ex__(), whatever keys an answer has

APIResponse = JSONObject  # the official SDK's name for the base of all answers

def _wrong_arguments(kind: Type[JSONObject], values: Sequence[Any], named: Mapping[str, Any]) -> str:
    """Say what is wrong with the arguments of a model's constructor."""
    import difflib
    called, names = kind.__name__, list(kind._defaults)
    for name in named:
        if name not in names:
            return f"{called} takes no {name!r}: {', '.join(difflib.get_close_matches(name, names, 1) or names)}?"
        if name in names[: len(values)]: return f"{called} got {name!r} twice"
    missing = [name for name in names[len(values) :] if name in kind._required and name not in named]
    return f"{called} lacks {', '.join(missing)}" if missing else f"{called} takes {', '.join(names)}"

_PLAIN: Dict[Any, Tuple[Any, str]] = {  # by the type in an annotation: which types will do, and what to call them
    str: (str, "text"), list: (list, "a list"), int: ((int, float), "a number"), float: ((int, float), "a number"),
    bool: (int, "true or false"),
}

def _rules_of(kind: Type[JSONObject]) -> Dict[str, Any]:
    """Work out, once for a class, of which type each field should be, and how models are made of JSON."""
    rules: Dict[str, Any] = {}
    for name, hint in get_type_hints(kind, _names_for(kind)).items():
        choices = hint.__args__ if getattr(hint, "__origin__", None) is Union else (hint,)
        held = {getattr(one, "__origin__", one): getattr(one, "__args__", (one,))[-1] for one in choices}
        # Numbers that may be None are mostly a request's, of types that the server may know: numpy's, "0.5".
        checked = {str, list} if held.pop(type(None), None) else _PLAIN.keys()
        for holder, item in held.items():
            if isinstance(item, type) and issubclass(item, JSONObject) and Any not in held.values():
                make = {list: item._list_of, dict: item._values_of}.get(holder, item._of)
                rules[name] = (str if str in held else None, make)
            elif len(held) == 1 and holder in checked and not kind._sends_nulls:
                rules[name] = (holder, functools.partial(_fit, *_PLAIN[holder]))
    kind._rules = rules
    return rules

def _fit(types: Any, words: str, value: Any) -> Any:
    if isinstance(value, types): return value
    raise ValueError(f"$ must be {words}, not {type(value).__name__}")

def _add_place(error: Exception, step: str) -> None:
    """Say where the part is that an error is about: "$", which its text begins with, stands for the whole."""
    text = str(error)
    error.args = (f"${step}{text[1:]}" if text.startswith("$") else f"${step}: {text}",)

_TOO_DEEP = "the value is nested too deeply, or inside itself"
_LEAVES = {str, int, float, bool, type(None)}  # the types of what has nothing inside

def _copied(value: Any, fields_of: Optional[Callable[[JSONObject], Dict[str, Any]]] = None) -> Any:
    """Copy the dicts and lists of JSON; with *fields_of* make dicts of the models in it, or else leave them."""
    try:
        if isinstance(value, dict):
            return {name: item if type(item) in _LEAVES else _copied(item, fields_of) for name, item in value.items()}
        if isinstance(value, JSONObject): return value if fields_of is None else _copied(fields_of(value), fields_of)
        if isinstance(value, (list, tuple)):
            flat = _LEAVES.issuperset(map(type, value))
            return list(value if flat else map(functools.partial(_copied, fields_of=fields_of), value))
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    return value

def _fields_of(model: JSONObject, nulls: bool = True) -> Dict[str, Any]:
    return {name: item for name, item in vars(model).items() if name != "x_headers" and (nulls or item is not None)}

_plain = functools.partial(_copied, fields_of=_fields_of)  # turns models back into JSON objects, at any depth

def _encode(value: Any) -> bytes:
    """Write JSON in UTF-8; ValueError or TypeError, with the place, for what JSON cannot say."""
    try:
        return _utf8(_ENCODER.encode(value))
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except (TypeError, ValueError):
        _refuse(value)
        raise  # for a text, a key, an int of too many digits

def _refuse(value: Any) -> None:
    """Raise for the first part of a request that cannot be written."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"$ is {value}, which has no form in JSON")
    if isinstance(value, (dict, list, tuple)):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            try:
                _encode(item)
            except (TypeError, ValueError) as error:
                _add_place(error, f".{name}" if isinstance(value, dict) else f"[{name}]")
                raise
    elif not isinstance(value, (str, int)):
        _encode(_sent_fields(value))

# What a value that JSON has no form for can be turned into, by what it has.
_INSTEAD = {"tolist": "value.tolist()", "isoformat": "value.isoformat()", "decode": "value.decode()",
            "__float__": "float(value)", "__iter__": "list(value)"}

def _sent_fields(value: Any) -> Any:
    """What goes out of a value that the encoder does not know; of a model, not the fields that are None."""
    if isinstance(value, JSONObject):
        fields, nulls = vars(value), type(value)._sends_nulls
        whole = "x_headers" not in fields and (nulls or None not in fields.values())
        return fields if whole else _fields_of(value, nulls)
    if isinstance(value, enum.Enum): return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    advice = next((f": write {way}" for name, way in _INSTEAD.items() if hasattr(value, name)), "")
    raise TypeError(f"$ is {type(value).__name__}, which has no form in JSON{advice}")

# A value inside itself ends in a RecursionError: keeping track of what we are in would take a tenth of the time.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, default=_sent_fields)

def _utf8(text: str) -> bytes:
    """Write text in UTF-8; join the halves of surrogate pairs, which two pieces of an answer may have brought."""
    if not isinstance(text, str): raise TypeError(f"expected text, not {type(text).__name__}")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        halves = text.encode("utf-16-le", "surrogatepass")
    try:
        return halves.decode("utf-16-le").encode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("the text holds half of a surrogate pair, which is no character") from error

def _no_constant(name: str) -> NoReturn: raise ValueError(f"{name} is not JSON")

_DECODER = json.JSONDecoder(parse_constant=_no_constant)

def _decode(text: bytes) -> Any:
    """Read JSON, with U+FFFD for what is not UTF-8; ValueError, without the text: it may hold a secret."""
    decoded = text.decode("utf-8", "replace").strip(" \t\r\n\ufeff")
    try:
        # decode() alone would take 0.6 µs more, to look for white space with regular expressions.
        value, end = _DECODER.raw_decode(decoded)
        return value if end == len(decoded) else _DECODER.decode(decoded)
    except (ValueError, RecursionError) as error:
        problem = f"not JSON: {error}"
    raise ValueError(problem)


# ---------- models
#
# Field names are the wire's; JSONObject gives them the official SDK's spellings too: id_, object_, type_, bytes_.
# A field without a default must be there, in an answer too. Short fields share a line.

class MessagesRole(str, enum.Enum):
    """Who speaks. Answers may have roles that are not here: they are plain strings."""
    ASSISTANT = "assistant"; SYSTEM = "system"; USER = "user"; FUNCTION = "function"
    SEARCH_RESULT = "search_result"; FUNCTION_IN_PROGRESS = "function_in_progress"

class ThreadStatus(str, enum.Enum):
    """State of a thread; the status in an answer is a string that compares equal to a member."""
    IN_PROGRESS = "in_progress"; READY = "ready"; FAILED = "failed"; DELETED = "deleted"

_SENT: Any = None  # the default, typed without Optional, of what the API always sends

class _Open(JSONObject):
    """A model whose constructor takes names that it does not know, and id_ for id, as those of the official SDK do."""
    _takes_more = True

class AccessToken(JSONObject):
    """A token for API calls. ``expires_at``: Unix time, milliseconds; 0 where that is not known."""
    access_token: str; expires_at: int = 0

class Token(JSONObject):
    """What ``POST /token`` answers to user and password. ``exp``: Unix time, seconds."""
    tok: str; exp: int = 0

class FunctionParametersProperty(JSONObject):
    """JSON schema of one argument; pass a dict for keywords that are not here."""
    _sends_nulls = True; type: str = "object"; description: Optional[str] = None; items: Optional[Dict[str, Any]] = None
    enum: Optional[List[Any]] = None; properties: Optional[Dict[str, Any]] = None; required: Optional[List[str]] = None

class FunctionParameters(JSONObject):
    """JSON schema of a function's arguments; pass a dict for keywords that are not here."""
    type: str = "object"; properties: Optional[Dict[str, FunctionParametersProperty]] = None
    required: Optional[List[str]] = None; _sends_nulls = True

class FewShotExample(JSONObject):
    """An example of a request and the arguments to make of it."""
    request: str; params: Dict[str, Any]; _lenient = True

class Function(_Open):
    """A function that the model may call. A JSON schema becomes one: its ``title`` is the name, the rest parameters."""
    name: str; description: Optional[str] = None; parameters: Optional[FunctionParameters] = None
    few_shot_examples: Optional[List[FewShotExample]] = None; return_parameters: Optional[Dict[str, Any]] = None

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Function:
        """Describe a Python function by its name, docstring and annotations; TypeError where that cannot be done."""
        return cls.from_dict(_tool(function)[0])

    def _adopt(self, fields: Dict[str, Any]) -> None:
        if "title" in fields and "name" not in fields:
            fields["name"] = fields.pop("title")
        if "parameters" not in fields and ("properties" in fields or fields.get("type") == "object"):
            own = {"title", *self._defaults}
            schema = {keyword: fields.pop(keyword) for keyword in list(fields) if keyword not in own}
            fields["parameters"] = {"type": "object", **schema}
        super()._adopt(fields)

class FunctionCall(JSONObject):
    """A call that the model wants made; ``arguments`` is an object."""
    name: str; arguments: Optional[Dict[str, Any]] = None; id: Optional[str] = None; _lenient = True

class ChatFunctionCall(JSONObject):
    """Forces a call of one function; the model fills in what ``partial_arguments`` leaves open."""
    name: str; partial_arguments: Optional[Dict[str, Any]] = None

class Messages(JSONObject):
    """One message. ``attachments`` are ids of uploaded files; ``data_for_context`` is deprecated by the API."""
    role: str; content: str = ""; function_call: Optional[FunctionCall] = None; name: Optional[str] = None
    attachments: Optional[List[str]] = None; data_for_context: Optional[List[Dict[str, Any]]] = None
    functions_state_id: Optional[str] = None; reasoning_content: Optional[str] = None; id: Optional[Any] = None
    inline_data: Optional[Dict[str, Any]] = None; logprobs: Optional[List[Dict[str, Any]]] = None; _lenient = True

    def _adopt(self, fields: Dict[str, Any]) -> None:
        if fields.get("role") == "function" and not isinstance(fields.get("content", ""), (str, type(None))):
            fields["content"] = _encode(fields["content"]).decode("utf-8")
        if isinstance(fields.get("attachments"), list):
            fields["attachments"] = [getattr(file, "id", file) for file in fields["attachments"]]
        super()._adopt(fields)

class Storage(JSONObject):
    """Where the server keeps the history of a conversation."""
    is_stateful: bool; limit: Optional[int] = None; assistant_id: Optional[str] = None; thread_id: Optional[str] = None
    metadata: Optional[Dict[str, Any]] = None; _lenient = True

class FunctionRanker(_Open):
    """Whether and how many functions the service chooses for the model to choose from."""
    enabled: Optional[bool] = None; top_n: Optional[int] = None

class Chat(JSONObject):
    """A request for an answer. What is None is not sent; ``additional_fields`` go to the top, where the others win."""
    messages: List[Messages]; model: Optional[str] = None; temperature: Optional[float] = None
    top_p: Optional[float] = None; n: Optional[int] = None; stream: Optional[bool] = None
    max_tokens: Optional[int] = None; repetition_penalty: Optional[float] = None
    update_interval: Optional[float] = None; profanity_check: Optional[bool] = None
    function_call: Union[str, ChatFunctionCall, None] = None; functions: Optional[List[Function]] = None
    flags: Optional[List[str]] = None; storage: Optional[Storage] = None
    additional_fields: Optional[Dict[str, Any]] = None; reasoning_effort: Optional[str] = None
    response_format: Optional[ResponseFormat] = None; function_ranker: Optional[FunctionRanker] = None
    assistant_id: Optional[str] = None; reasoning_max_tokens: Optional[int] = None

    def _adopt(self, fields: Dict[str, Any]) -> None:
        if isinstance(fields.get("messages"), (str, dict, Messages)): raise TypeError("messages must be a list")
        messages = fields.get("messages")
        fields["messages"] = _as_messages(messages, own=type(messages) is list)  # what a generator gives was not copied
        if isinstance(fields.get("functions"), (list, tuple)):
            fields["functions"] = [Function.of(one) if callable(one) else one for one in fields["functions"]]
        super()._adopt(fields)

class Usage(JSONObject):
    """Tokens that an answer took."""
    prompt_tokens: int = 0; completion_tokens: int = 0; total_tokens: int = 0
    precached_prompt_tokens: Optional[int] = None

class Choices(JSONObject):
    """One alternative. ``finish_reason``: stop, length, function_call, blacklist, error."""
    message: Messages; index: int = 0; finish_reason: Optional[str] = None

class ChatCompletion(JSONObject):
    """A whole answer. ``created``: Unix time, seconds."""
    choices: List[Choices]; created: int = 0; model: str = ""; thread_id: Optional[str] = None
    message_id: Optional[str] = None; usage: Usage = _SENT; object: str = ""; additional_data: Optional[Any] = None
    error_details: Optional[Dict[str, Any]] = None

class MessagesChunk(JSONObject):
    """What one chunk adds to a message."""
    role: Optional[str] = None; content: Optional[str] = None; reasoning_content: Optional[str] = None
    function_call: Optional[FunctionCall] = None; functions_state_id: Optional[str] = None
    inline_data: Optional[Dict[str, Any]] = None; logprobs: Optional[List[Dict[str, Any]]] = None

class ChoicesChunk(JSONObject):
    """One alternative's share of a chunk; ``finish_reason`` comes with the last."""
    delta: MessagesChunk = dataclasses.field(default_factory=MessagesChunk); index: int = 0
    finish_reason: Optional[str] = None

class ChatCompletionChunk(JSONObject):
    """A part of an answer; the last one has ``usage``. ``created``: Unix time, seconds."""
    choices: List[ChoicesChunk]; created: int = 0; model: str = ""; object: str = ""; usage: Optional[Usage] = None
    thread_id: Optional[str] = None; message_id: Optional[str] = None; additional_data: Optional[Any] = None
    error_details: Optional[Dict[str, Any]] = None

class Model(JSONObject):
    """A model. ``type``: chat, embedder, aicheck, filter."""
    id: str; object: str = ""; owned_by: str = ""; type: Optional[str] = None

class Models(JSONObject):
    """The models that there are."""
    data: List[Model]; object: str = ""

class EmbeddingsUsage(JSONObject):
    """Tokens of one text."""
    prompt_tokens: int = 0

class Embedding(JSONObject):
    """The vector of one text; ``index`` is the text's place in the request."""
    embedding: List[float]; usage: EmbeddingsUsage = _SENT; index: int = 0; object: str = ""

class Embeddings(JSONObject):
    """Vectors of texts."""
    data: List[Embedding]; model: Optional[str] = None; object: str = ""

class TokensCount(JSONObject):
    """Size of one text in tokens and in Unicode characters."""
    tokens: int = 0; characters: int = 0; object: str = ""

class _TokensCounts(JSONObject):
    """What /tokens/count answers, a bare array."""
    data: List[TokensCount]; _array_field = "data"

class UploadedFile(JSONObject):
    """A file in the storage. ``bytes``: its size; ``created_at``: Unix time, seconds."""
    id: str; object: str = ""; bytes: int = 0; created_at: int = 0; filename: str = ""; purpose: str = ""
    access_policy: Optional[str] = None; modalities: Optional[List[str]] = None

class UploadedFiles(JSONObject):
    """The files in the storage."""
    data: List[UploadedFile]

class DeletedFile(JSONObject):
    """A file that is no more."""
    id: str; deleted: bool = False; access_policy: Optional[str] = None

class Image(JSONObject):
    """A file's content in base64."""
    content: str

class BalanceValue(JSONObject):
    """Tokens left for one model or service."""
    usage: str = ""; value: float = 0

class Balance(JSONObject):
    """Tokens left in the packages."""
    balance: List[BalanceValue]

class AICheckResult(JSONObject):
    """Who wrote a text: ``category`` is ai, human or mixed; ``ai_intervals`` are offsets in characters."""
    category: str; characters: int = 0; tokens: int = 0; ai_intervals: Optional[List[List[int]]] = None

class OpenApiFunctions(JSONObject):
    """Functions made of an OpenAPI document."""
    functions: List[Function]

class FunctionRemark(JSONObject):
    """One fault of a function's description and its place in the schema."""
    description: str = ""; schema_location: str = ""

class FunctionValidation(JSONObject):
    """Verdict on a function's description; HTTP is 200 also where there are ``errors``."""
    message: str; status: int = 0; json_ai_rules_version: Optional[str] = None
    errors: List[FunctionRemark] = dataclasses.field(default_factory=list)
    warnings: List[FunctionRemark] = dataclasses.field(default_factory=list)

    @property
    def valid(self) -> bool: return not self.errors and self.message == "Function is valid"

class FilterUsage(JSONObject):
    """Tokens that the content filter took."""
    filter_tokens: int = 0

class FilterCheck(JSONObject):
    """Verdict of the content filter."""
    is_profane: bool; usage: Optional[FilterUsage] = None

class BatchRequestCounts(JSONObject):
    """How many requests a batch has, and what became of them."""
    total: int = 0; completed: int = 0; failed: int = 0

class Batch(JSONObject):
    """A batch: created, in_progress, then completed, with an ``output_file_id``. Times are Unix times."""
    id: str; method: str = ""; request_counts: Optional[BatchRequestCounts] = None; status: str = ""
    output_file_id: Optional[str] = None; created_at: int = 0; updated_at: int = 0

class _Batches(JSONObject):
    """What GET /batches answers: an envelope in the documentation, a bare array or one batch elsewhere."""
    batches: List[Batch]; _array_field = "batches"

    def _adopt(self, fields: Dict[str, Any]) -> None:
        super()._adopt({"batches": [fields]} if "id" in fields and "batches" not in fields else fields)

    @_method
    def only(self, batch_id: str) -> Batch:
        for batch in self.batches:
            if batch.id == batch_id: return batch
        raise InvalidResponseError(f"GET /batches: the answer has no batch {batch_id!r}")

class BatchResult(JSONObject):
    """What became of the request with this ``id``: ``result`` is the body of its answer, or there is an ``error``."""
    id: str; result: Optional[Dict[str, Any]] = None; error: Optional[Dict[str, Any]] = None

class AssistantAttachment(JSONObject):
    """A file of an assistant, or of a message in a thread."""
    file_id: str; name: str = ""

ThreadMessageAttachment = AssistantAttachment

class Assistant(JSONObject):
    """An assistant. Times are Unix times, seconds."""
    assistant_id: str; model: str = ""; name: Optional[str] = None; description: Optional[str] = None
    instructions: Optional[str] = None; created_at: int = 0; updated_at: int = 0
    files: Optional[List[AssistantAttachment]] = None; file_ids: Optional[List[str]] = None
    metadata: Optional[Dict[str, Any]] = None; threads_count: Optional[int] = None
    functions: Optional[List[Function]] = None

class Assistants(JSONObject):
    """The assistants that there are."""
    data: List[Assistant]

class CreateAssistant(JSONObject):
    """A new assistant's id. ``created_at``: Unix time, seconds."""
    assistant_id: str; created_at: int = 0

class AssistantDelete(JSONObject):
    """An assistant that is no more."""
    assistant_id: str; deleted: bool = False

class AssistantFileDelete(JSONObject):
    """A file that an assistant no longer has."""
    file_id: str; deleted: bool = False

class Thread(JSONObject):
    """A conversation kept by the server. Times are Unix times, seconds."""
    id: str; assistant_id: Optional[str] = None; model: str = ""; created_at: int = 0; updated_at: int = 0
    run_lock: bool = False; status: str = ""; _spellings = (("thread_id", "id"),)

class Threads(JSONObject):
    """Conversations kept by the server."""
    threads: List[Thread]

class ThreadMessage(JSONObject):
    """A message of a thread. ``created_at``: Unix time, seconds."""
    message_id: str; role: str = ""; content: str = ""
    attachments: Optional[List[ThreadMessageAttachment]] = dataclasses.field(default_factory=list); created_at: int = 0
    function_call: Optional[FunctionCall] = None; finish_reason: Optional[str] = None; model: Optional[str] = None

class ThreadMessages(JSONObject):
    """Messages of a thread."""
    messages: List[ThreadMessage]; thread_id: str = ""

class ThreadMessageResponse(JSONObject):
    """A message that was added. ``created_at``: Unix time, seconds."""
    message_id: str; created_at: int = 0

class ThreadMessagesResponse(JSONObject):
    """Messages that were added to a thread."""
    messages: List[ThreadMessageResponse]; thread_id: str = ""

class ThreadRunOptions(JSONObject):
    """How to answer in a thread. What is None is not sent."""
    temperature: Optional[float] = None; top_p: Optional[float] = None; limit: Optional[int] = None
    max_tokens: Optional[int] = None; repetition_penalty: Optional[float] = None; profanity_check: Optional[bool] = None
    flags: Optional[List[str]] = None; function_call: Union[str, ChatFunctionCall, None] = None
    functions: Optional[List[Function]] = None

class ThreadRunResponse(JSONObject):
    """A run that has begun. ``created_at``: Unix time, seconds."""
    thread_id: str; status: str = ""; created_at: int = 0

class ThreadRunResult(JSONObject):
    """State of a thread's run, and its messages. ``updated_at``: Unix time, seconds."""
    thread_id: str; status: str = ""; updated_at: int = 0; model: str = ""
    messages: Optional[List[ThreadMessage]] = None

class ThreadCompletion(JSONObject):
    """A whole answer in a thread. ``created``: Unix time, seconds."""
    message: Messages; object: str = ""; model: str = ""; thread_id: str = ""; message_id: str = ""; created: int = 0
    usage: Usage = _SENT; finish_reason: Optional[str] = None

class ThreadCompletionChunk(ChatCompletionChunk):
    """A part of an answer in a thread; each has a ``usage`` of its own."""
    thread_id: str = ""; message_id: str = ""  # pyright: ignore[reportIncompatibleVariableOverride]  # always sent here

# Chat v2.

class ChatSource(_Open):
    """A page that an answer rests on."""
    url: Optional[str] = None; title: Optional[str] = None

class ChatInlineData(_Open):
    """What goes with a text: its ``sources`` by the numbers that they have in it, pictures, widgets."""
    images: Optional[List[Dict[str, Any]]] = None; sources: Optional[Dict[str, ChatSource]] = None
    widgets: Optional[List[Dict[str, Any]]] = None

class ChatContentFile(_Open):
    """A stored file. ``target``, in answers: image, audio, 3dmodel."""
    id: str; target: Optional[str] = None; mime: Optional[str] = None

class PrimaryChatFunctionCall(_Open):
    """A call that the model wants made; ``arguments`` is an object. Of calls and results, all have an id or none."""
    name: str; arguments: Any; id: Optional[str] = None

class ChatFunctionResult(_Open):
    """What a function returned: an object, or a text that is JSON."""
    name: str; result: Any; id: Optional[str] = None

class ChatToolExecution(_Open):
    """How a tool of the server fares. ``status``: success, fail; None while it works."""
    name: Optional[str] = None; status: Optional[str] = None; id: Optional[str] = None
    seconds_left: Optional[int] = None; censored: Optional[bool] = None

class ChatLogprobToken(_Open):
    """A token and the logarithm of its probability."""
    token: str; token_id: int; logprob: float

class ChatLogprob(_Open):
    """The token that was chosen, and the likeliest ones."""
    chosen: Optional[ChatLogprobToken] = None; top: Optional[List[ChatLogprobToken]] = None

class ChatContentPart(_Open):
    """A part of a message: one of these, or a text and what belongs to it."""
    text: Optional[str] = None; files: Optional[List[ChatContentFile]] = None
    function_call: Optional[PrimaryChatFunctionCall] = None; function_result: Optional[ChatFunctionResult] = None
    tool_execution: Optional[ChatToolExecution] = None; inline_data: Optional[ChatInlineData] = None
    logprobs: Optional[List[ChatLogprob]] = None; _of_text = staticmethod(lambda text: {"text": text})

class ChatMessage(_Open):
    """One message. ``role``: system, user, assistant, tool, reasoning. A text as its ``content`` becomes one part."""
    role: str; content: Optional[List[ChatContentPart]] = None
    message_id: Optional[str] = None; tools_state_id: Optional[str] = None; finish_reason: Optional[str] = None
    function_call: Optional[PrimaryChatFunctionCall] = None; tool_execution: Optional[ChatToolExecution] = None
    inline_data: Optional[ChatInlineData] = None; logprobs: Optional[List[ChatLogprob]] = None
    _spellings = (("tool_state_id", "tools_state_id"), ("functions_state_id", "tools_state_id"))
    _of_text = staticmethod(lambda text: {"role": "user", "content": text})

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join([part.text or "" for part in self.content or ()])

    @property
    def function_calls(self) -> List[PrimaryChatFunctionCall]:
        return [part.function_call for part in self.content or () if part.function_call is not None]

class ChatMessageChunk(ChatMessage):
    """What one chunk adds to a message."""
    role: Optional[str] = None  # type: ignore[assignment]  # a chunk may come without a role

class ChatUsageInputTokensDetails(_Open):
    """Where the tokens of a request came from; ``cached_tokens`` may be more than all ``input_tokens``."""
    prompt_tokens: Optional[int] = None; cached_tokens: Optional[int] = None

class ChatUsage(_Open):
    """Tokens that an answer took."""
    input_tokens: Optional[int] = None; input_tokens_details: Optional[ChatUsageInputTokensDetails] = None
    output_tokens: Optional[int] = None; total_tokens: Optional[int] = None

class ChatReasoning(_Open):
    """How much to think before the answer. ``effort``: low, medium, high."""
    effort: Optional[str] = None; max_tokens: Optional[int] = None

class ChatResponseFormat(_Open):
    """What form the answer has. ``type``: text, json_schema, regex."""
    type: str = "text"; schema: Any = None; strict: Optional[bool] = None; regex: Optional[str] = None

class JsonSchemaResponseFormat(ChatResponseFormat):
    """Has an answer of the first version of chat be JSON that fits a schema."""
    type: str = "json_schema"; schema: Dict[str, Any] = dataclasses.field()

ResponseFormat = Union[JsonSchemaResponseFormat, Dict[str, Any]]

class ChatModelOptions(_Open):
    """How to answer."""
    preset: Optional[str] = None; temperature: Optional[float] = None; top_p: Optional[float] = None
    max_tokens: Optional[int] = None; repetition_penalty: Optional[float] = None; top_logprobs: Optional[int] = None
    update_interval: Optional[float] = None; unnormalized_history: Optional[bool] = None
    parallel_tool_calls: Optional[bool] = None
    reasoning: Optional[ChatReasoning] = None; response_format: Optional[ChatResponseFormat] = None

class ChatFilterResponseContentConfig(_Open):
    """Which filters an answer goes through."""
    blacklist: Optional[bool] = None

class ChatFilterContentConfig(ChatFilterResponseContentConfig):
    """Which filters a request goes through."""
    neuro: Optional[bool] = None; whitelist: Optional[bool] = None

class ChatFilterConfig(_Open):
    """Which filters to use."""
    request_content: Optional[ChatFilterContentConfig] = None
    response_content: Optional[ChatFilterResponseContentConfig] = None

class ChatStorage(_Open):
    """Has the server keep the conversation; the answer's ``thread_id`` goes on with it."""
    limit: Optional[int] = None; thread_id: Optional[str] = None; metadata: Optional[Dict[str, Any]] = None

class ChatRankerOptions(FunctionRanker):
    """Whether and how many tools the service chooses for the model to choose from."""
    embeddings_model: Optional[str] = None

class ChatUserInfo(_Open):
    """Whom the answer is for. ``timezone``: an IANA name, Europe/Moscow."""
    timezone: Optional[str] = None

class ChatToolConfig(_Open):
    """Which tools may be used. ``mode``: auto, none, any (of ``functions_names_any``), forced (the one named)."""
    mode: Optional[str] = None; functions_names_any: Optional[List[str]] = None
    tool_name: Optional[str] = None; function_name: Optional[str] = None

ChatFunctionExample = FewShotExample

class ChatFunctionSpecification(Function):
    """A function of your own; takes a JSON schema too, as :class:`Function` does."""
    parameters: Dict[str, Any] = dataclasses.field()  # type: ignore[assignment]

class ChatFunctionsTool(_Open):
    """Functions of your own."""
    specifications: Optional[List[ChatFunctionSpecification]] = None

class ChatWebSearchTool(_Open):
    """Search in the web. ``type``: web_search, actual_info_web_search, safe_search."""
    type: Optional[str] = None; indexes: Optional[List[str]] = None; flags: Optional[List[str]] = None

class ChatTool(_Open):
    """A tool that the model may use: one of these, or another that the server knows. Its name as a text will do."""
    code_interpreter: Optional[Dict[str, Any]] = None; image_generate: Optional[Dict[str, Any]] = None
    model_3d_generate: Optional[Dict[str, Any]] = None; url_content_extraction: Optional[Dict[str, Any]] = None
    web_search: Optional[ChatWebSearchTool] = None; functions: Optional[ChatFunctionsTool] = None
    _of_text = staticmethod(lambda text: {text: {}})

class ChatCompletionRequest(_Open):
    """A request for an answer, of the second version as :class:`Chat` is of the first. Options may stand at the top."""
    messages: List[ChatMessage]; model: Optional[str] = None; assistant_id: Optional[str] = None
    storage: Union[ChatStorage, bool, None] = None; model_options: Optional[ChatModelOptions] = None
    user_info: Optional[ChatUserInfo] = None; tools: Optional[List[ChatTool]] = None
    tool_config: Optional[ChatToolConfig] = None; ranker_options: Optional[ChatRankerOptions] = None
    tools_state_id: Optional[str] = None; disable_filter: Optional[bool] = None; profanity_check: Optional[bool] = None
    filter_config: Optional[ChatFilterConfig] = None; flags: Optional[List[str]] = None; stream: Optional[bool] = None
    additional_fields: Optional[Dict[str, Any]] = None; _spellings = ChatMessage._spellings

    def _adopt(self, fields: Dict[str, Any]) -> None:
        if isinstance(fields.get("tools"), (list, tuple)):
            fields["tools"] = _as_tools(fields["tools"])
        if isinstance(fields.get("storage"), bool):
            fields["storage"] = {} if fields["storage"] else None
        options = {name: fields.pop(name) for name in ChatModelOptions._defaults if name in fields}
        if isinstance(options.get("response_format"), type):
            raise TypeError("response_format is a type: chat.parse() takes it, and gives a value of it")
        if options:
            fields["model_options"] = {**options, **(_plain(fields.get("model_options")) or {})}
        super()._adopt(fields)

    def _set(self, **option: Any) -> None:
        self.model_options = ChatModelOptions.from_dict({**(_plain(self.model_options) or {}), **option})

    reasoning = property(lambda self: getattr(self.model_options, "reasoning", None),
                         lambda self, value: self._set(reasoning=value))
    response_format = property(lambda self: getattr(self.model_options, "response_format", None),
                               lambda self, value: self._set(response_format=value))

class ChatCompletionResponse(_Open):
    """A whole answer. ``created_at``: Unix time, seconds. ``finish_reason``: stop, length, function_call, blacklist."""
    messages: List[ChatMessage]; model: Optional[str] = None; created_at: Optional[int] = None
    message_id: Optional[str] = None; thread_id: Optional[str] = None; finish_reason: Optional[str] = None
    usage: Optional[ChatUsage] = None; tool_execution: Optional[ChatToolExecution] = None
    logprobs: Optional[List[ChatLogprob]] = None; additional_data: Optional[Any] = None
    error_details: Optional[Dict[str, Any]] = None; _spellings = (("created", "created_at"), *ChatMessage._spellings)

    @property
    def message(self) -> Optional[ChatMessage]:
        """The assistant's last message; its reasoning does not count."""
        return next((one for one in reversed(self.messages or ()) if one.role in ("assistant", None)), None)

    @property
    def text(self) -> str: return self.message.text if self.message is not None else ""

    @property
    def sources(self) -> List[ChatSource]:
        """The pages that the answer rests on, in the order of their numbers."""
        parts: List[Any] = [part for one in self.messages or () for part in (one, *(one.content or ()))]
        found = {n: it for part in parts if part.inline_data for n, it in (part.inline_data.sources or {}).items()}
        return [found[number] for number in sorted(found, key=lambda number: (len(number), number))]

class PrimaryChatCompletionChunk(ChatCompletionResponse):
    """A part of an answer; the last has ``usage``. ``event``: its event's name, such as response.message.delta."""
    messages: Optional[List[ChatMessageChunk]] = None  # type: ignore[assignment]
    event: Optional[str] = None; tools_state_id: Optional[str] = None


# ---------- command line
#
# Three verbs: ``chat``, ``doctor``, and each public method of the blocking client, whose result is printed as JSON.

def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command line. Exit code: 0; 1: API or file; 2: usage or settings; 130: Ctrl-C."""
    outputs = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    for stream in outputs:
        stream.reconfigure(errors="backslashreplace")  # a character that the encoding lacks is spelt out, not lost
    warnings = logging.Handler(logging.WARNING)
    warnings.emit = lambda record: _say(record.getMessage())  # type: ignore[method-assign]  # one line, as errors
    logger.addHandler(warnings)
    try:
        return _run_command(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0  # whoever reads the output has seen enough
    except (GigaChatException, OSError, TypeError, ValueError) as error:
        problem = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        _say(problem + ("; COMMAND --help tells what it takes" if isinstance(error, TypeError) else ""))
        return 2 if isinstance(error, (TypeError, ValueError)) else 1  # ConfigurationError is a ValueError
    finally:
        logger.removeHandler(warnings)
        for stream in outputs:
            try:
                stream.flush()
            except OSError:  # drop what is left, or the interpreter tries again as it exits
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

def _run_command(argv: Sequence[str]) -> int:
    words, options = _split_line(argv)
    commands = _commands()
    name = words.pop(0).replace("-", "_") if words else ""
    settings: Dict[str, Any] = {option: values[-1] for option, values in options.items() if option in _SETTINGS}
    if "version" in options:
        print(f"gigachat-lite {__version__}", flush=True)
    elif "help" in options and name in ("", *commands):
        print(_help(name, commands), flush=True)
    elif name not in commands:
        import difflib
        near = " or ".join(difflib.get_close_matches(name, commands, 2))
        problem = f"there is no command {name}" if name else "a COMMAND is missing"
        raise ValueError(f"{problem}: {f'did you mean {near}?' if near else '--help lists them'}")
    elif (name != "chat" and len(settings) < len(options)) or (name == "doctor" and words):
        raise ValueError(f"{name} does not take all of that; {name} --help tells what it takes")
    elif name == "doctor":
        return _Doctor().examine(settings)
    else:
        with GigaChat(**settings) as client:
            if name == "chat":
                _chat(client, words, options)
            else:
                _call_method(client, name, words)
    return 0

_SHORT = {"-h": "--help", "-V": "--version", "--no-verify": "--verify-ssl-certs=off"}

def _split_line(argv: Sequence[str]) -> Tuple[List[str], Dict[str, List[str]]]:
    """Part a line into words and options, each with all the values that were given to it."""
    words: List[str] = []
    options: Dict[str, List[str]] = {}
    # What the locale has no characters for is read as UTF-8.
    rest = iter([os.fsencode(word).decode() if re.search("[\udc80-\udcff]", word) else word for word in argv])
    for word in rest:
        option, equals, value = _SHORT.get(word, word).partition("=")
        name = option[2:].replace("-", "_")
        if word == "--":
            words.extend(rest)
        elif word == "-" or not word.startswith("-"):
            words.append(word)
        elif name not in (*_SETTINGS, "system", "file", "help", "version"):  # its value may be a secret: not shown
            raise ValueError(f"there is no option {option}: --help lists them; behind -- everything is text")
        else:
            given = next(rest, None) if not equals and name not in ("help", "version") else value
            if given is None: raise ValueError(f"{option} needs a value")
            if name in _SETTINGS and _SETTINGS[name].secret and (name != "proxy" or "@" in given):
                raise ValueError(f"others can see a command line: set the variable GIGACHAT_{name.upper()} instead")
            options.setdefault(name, []).append(given)
    return words, options

def _commands() -> Dict[str, Callable[..., object]]:
    commands: Dict[str, Callable[..., object]] = {"chat": _chat, "doctor": _Doctor}
    groups = {"chat.": ChatNamespace, "assistants.": AssistantsSyncClient, "threads.": ThreadsSyncClient}
    for group, owner in {"": GigaChatSyncClient, **groups}.items():
        for name, method in vars(owner).items():
            apart = ("close", "parse", "chat_parse", "run_tools")  # the last three take types and functions
            if inspect.isfunction(method) and name[0] != "_" and name not in apart:
                commands[group + name] = method
    return commands

def _help(name: str, commands: Mapping[str, Callable[..., object]]) -> str:
    """Explain a command, or list them all."""
    usage = f"usage: {_PROGRAM} [--SETTING VALUE]..."
    if name:
        method = functools.partial(commands[name], None)  # None stands for self
        takes = "" if name in ("chat", "doctor") else str(inspect.signature(method))
        takes = re.sub(r"'|, \*\*options: 'NoReturn'", "", takes)
        return f"{usage} {name}{takes}\n\n{inspect.getdoc(commands[name])}"
    lines = [f"{usage} COMMAND [TEXT | NAME=VALUE]...",
             "- is the text on standard input; a VALUE is JSON or text; COMMAND --help tells more.\n\nCommands:",
             *(f"  {name:<30} {(command.__doc__ or '').partition(chr(10))[0]}" for name, command in commands.items()),
             "\nSettings, each a variable too (--model is GIGACHAT_MODEL), secrets variables only:"]
    for name, setting in _SETTINGS.items():
        shown = f"GIGACHAT_{name.upper()}" if setting.secret and name != "proxy" else "--" + name.replace("_", "-")
        lines += [f"  {shown:<30} {setting.meaning}"] if name != "ssl_context" else []
    return "\n".join([*lines, "\nExit code: 0; 1: API or file; 2: usage or settings; 130: Ctrl-C."])

def _say(text: str) -> None:
    """Tell a person something, if there is one: what a program reads from stdout must not hold it."""
    try:
        if sys.stderr is not None:
            print(f"{_PROGRAM}: {_one_line(text, 1000)}", file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody listens

def _read_input() -> str:
    """Read standard input, without the line ends behind it, as a shell's ``$(...)`` does."""
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig").rstrip("\r\n") if sys.stdin is not None else ""
    except UnicodeDecodeError:
        raise ValueError("standard input must be text in UTF-8: convert it, for example with iconv") from None

# What is not for a terminal: control characters but tab and line feed, and formats that turn a line around.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

def _print_json(value: object, indent: Optional[int] = None) -> None:
    """Print JSON; what steers a terminal, or a narrow encoding may lack, is escaped, which changes no value."""
    unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=not unicode, indent=indent, default=lambda model: model.to_dict())
    print(_STEERING.sub(lambda found: f"\\u{ord(found.group()):04x}", text), flush=True)

def _chat(client: GigaChat, words: Sequence[str], options: Mapping[str, Sequence[str]]) -> None:
    """Answer a question, bit by bit as the answer arrives.

    Takes [--system TEXT] [--file PATH]... [TEXT]... The question is the arguments and what is piped in, which comes
    last. Attached files are deleted afterwards."""
    typed = sys.stdin is not None and sys.stdin.isatty()
    if typed and not words:
        client.get_models()  # fails now, and not when the question is typed, where the server does not let us in
        _say("type the question, then Ctrl-D on a line of its own (on Windows Ctrl-Z and Enter)")
    piped = _read_input() if "-" in words or not words or not typed else ""
    question = "\n\n".join(filter(str.strip, [" ".join(word for word in words if word != "-"), piped]))
    if not question: raise ValueError("there is no text, neither in the arguments nor on standard input")
    stored: List[str] = []
    try:
        stored.extend(client.upload_file(path).id for path in options.get("file", ()))
        messages = [Messages(role=MessagesRole.SYSTEM, content=text) for text in options.get("system", ())]
        messages.append(Messages(role=MessagesRole.USER, content=question, attachments=stored or None))
        with client.stream(messages) as chunks:
            _print_answer(chunks)
    finally:
        for file_id in stored:
            try:
                client.delete_file(file_id)
            except GigaChatException as error:
                _say(f"the attached file {file_id} stays in the storage: {error}")

def _print_answer(chunks: Stream[ChatCompletionChunk]) -> None:
    import codecs
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    if isinstance(sys.stdout, io.TextIOWrapper) and not on_terminal:
        sys.stdout.reconfigure(encoding="utf-8")  # a file or pipe gets every character, whatever the locale
    pieces = (text.encode("utf-16-le", "surrogatepass") for text in chunks.text_stream)
    end = ""
    try:
        for text in codecs.iterdecode(pieces, "utf-16-le", "replace"):  # joins the halves of an emoji
            end = "\n"
            print(_STEERING.sub("", text) if on_terminal else text, end="", flush=True)
    finally:
        if end:  # else what went wrong may be that nothing can be printed
            print(flush=True)
    for choice in chunks.get_final_completion().choices:
        if choice.finish_reason not in (None, "stop"):
            _say(f"finish reason {choice.finish_reason}")  # length: cut off; blacklist: refused

def _call_method(client: GigaChat, name: str, words: Sequence[str]) -> None:
    """Call a method with the words of a line, and print what it returns."""
    method: Any = functools.reduce(getattr, name.split("."), client)
    signature = inspect.signature(method)
    texts: List[str] = []
    named: Dict[str, Any] = {}
    for word in words:
        parameter, equals, value = word.partition("=")
        if not equals or parameter not in signature.parameters:
            texts.append(_read_input() if word == "-" else word)
            continue
        named[parameter] = value
        if signature.parameters[parameter].annotation not in ("str", "Optional[str]"):
            try:
                named[parameter] = json.loads(value)
            except ValueError:
                pass  # it is text
    arguments = signature.bind(*texts, **named).arguments
    if "to" in signature.parameters and "to" not in arguments:
        if sys.stdout is None or sys.stdout.isatty():
            raise ValueError("a file's content is not for a terminal: name a file, to=FILE")
        arguments["to"] = sys.stdout.buffer
    if name == "batch_results":
        arguments["batch"] = client.get_batch(arguments["batch"])
    if name == "get_token":
        _say("the token is a secret: whoever has it can use GigaChat in your name until it expires")
    result = method(**arguments)
    if isinstance(result, Stream):
        for item in result:
            _print_json(item)
    elif "to" not in arguments:  # where a download has gone
        _print_json(result, indent=2)

class _Doctor:
    """Find what is wrong: settings, network, certificates, clock, token, models and a chat.

    Each step of a call is a line, with the time that it took. The exit code is 1 if one failed. The chat costs a few
    tokens. No secret is shown."""
    _failed = False

    def examine(self, arguments: Dict[str, Any]) -> int:
        self._arguments = arguments
        if not self._check("settings", self._make_client): return 1
        settings = self._settings
        with self._client:
            self._check("credentials", self._credentials)
            urls = [settings.auth_url, settings.base_url] if settings.credentials else [settings.base_url]
            reached = [self._reach(server) for server in dict.fromkeys(urllib.parse.urljoin(url, "/") for url in urls)]
            has_token = self._check("token", self._token, reached[0])
            ready = self._check("models", self._models, has_token and reached[-1])
            if settings.base_url == _SETTINGS["base_url"].default:
                self._check("address", lambda: self._address(ready), has_token)
            self._check("chat", self._chat, ready)
        return int(self._failed)

    def _check(self, step: str, look: Callable[[], str], ready: bool = True, advice: str = "") -> bool:
        """Take a step, unless one failed that it needs; print how it went and return whether it went well."""
        import textwrap
        mark, detail, started = "-", "skipped", time.monotonic()
        if ready:
            try:
                mark, detail = "ok", look()
            except (GigaChatException, OSError, ValueError) as error:
                mark, detail, self._failed = "FAIL", f"{error}{advice}", True
        line = f"{mark:<4}  {step:<11}  {(time.monotonic() - started) * 1000:>7.1f} ms  {_one_line(detail, 2000)}"
        lines = textwrap.wrap(line, 79, subsequent_indent=" " * 6, break_long_words=False, break_on_hyphens=False)
        print(*lines, sep="\n", flush=True)
        return mark == "ok"

    def _make_client(self) -> str:
        self._client = GigaChat(**self._arguments)
        self._settings, self._pool = settings, pool = self._client._settings, self._client._shared.here.pool
        pool._tls_context()  # reads the files of certificates
        paths = ssl.get_default_verify_paths()
        roots = settings.ca_bundle_file or f"the system's roots in {paths.cafile or paths.capath or 'its own store'}"
        self._trusted = roots if settings.verify_ssl_certs else "anybody: verify_ssl_certs is off"
        url = settings.base_url + ("" if settings.base_url.startswith("https:") else " (not encrypted)")
        return f"base_url {url}, model {settings.model}, Python {sys.version.split()[0]}"

    def _credentials(self) -> str:
        settings = self._settings
        details = {"credentials": f" of {settings.scope} at {settings.auth_url}", "cert_file": f" {settings.cert_file}"}
        names = ("access_token", "credentials", "user", "password", "cert_file")  # what comes first is used first
        found = [name + details.get(name, "") for name in names if getattr(settings, name)]
        return "; ".join(found) or "none, requests go without: keys are made at https://developers.sber.ru/studio"

    def _reach(self, server: str) -> bool:
        """Connect to a server as a call does, each step one hop further."""
        import urllib.request
        request: Any = urllib.request.Request(server, headers={"Host": server.split("/")[2]})
        host, request.timeout = request.host, self._settings.timeout
        ready = self._check("proxy", lambda: f"{host}: {self._choose_proxy(request)}")
        scheme, first, tunnel = request.type, request.host, request._tunnel_host
        name, port = _host_and_port(first, 443 if scheme == "https" and not tunnel else 80)
        address = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        advice = ". Check the name, DNS and firewall; where only a proxy knows the way out, set proxy (GIGACHAT_PROXY)"
        advice = advice if first == host else f". Check the proxy {first}"
        ready = self._check("dns", lambda: f"{name}: {_addresses(name)}", ready, advice)
        ready = self._check("tcp", lambda: self._open(request, ("http", address, None)), ready, advice)
        if tunnel:
            ready = self._check("proxy", lambda: self._open(request, ("http", address, tunnel)), ready)
        if scheme == "https":
            ready = self._check("tls", lambda: self._open(request, (scheme, first, tunnel)), ready)
        self._check("clock", lambda: self._clock(request), ready)
        return ready

    def _choose_proxy(self, request: Any) -> str:
        proxy = _proxy_for(self._settings.proxies, request.type, request.host)
        if proxy is None: return "none"
        self._pool.https_request(request)
        return f"{request.host}, from {'--proxy' if 'proxy' in self._arguments else _proxy_variable(proxy)}"

    def _open(self, request: Any, origin: _Origin, tls: Optional[Callable[[], ssl.SSLContext]] = None) -> str:
        """Open a connection, as a call does, and close it; tell what the server's certificate says, if it sent one."""
        connection = _Connection(origin)  # which closes itself when it is dropped
        connection.timeout = request.timeout
        try:
            connection.open(tls or self._pool._tls_context, request.headers.get("Proxy-Authorization"))
            sock: Any = connection.sock
            if not isinstance(sock, ssl.SSLSocket): return f"{connection.where}: connected"
            subject, issuer, expiry = (told or "?" for told in _certificate_names(sock.getpeercert(True) or b""))
            return f"{sock.version()}, subject {subject}, issuer {issuer}, expires {expiry}; trusting {self._trusted}"
        except (OSError, _NotHTTP, UnicodeError) as error:
            failure = _connection_error(error, connection, self._settings)
            if isinstance(error, ssl.SSLCertVerificationError):
                sent = self._open(request, origin, ssl._create_unverified_context)
                failure = APIConnectionError(f"{failure}. The server sent {sent}")
            raise failure from error

    def _clock(self, request: Any) -> str:
        try:
            date = self._pool.https_open(request).fields.get("date", "")
        except GigaChatException:
            date = ""  # the next steps tell why
        ahead = (time.time() - _unix_time(date, time.time())) / 60  # minutes
        if abs(ahead) < 5: return "agrees with the server's" if date else "the server does not tell the time"
        difference = f"{abs(ahead):.0f} min {'ahead of' if ahead > 0 else 'behind'} the server's"
        raise GigaChatException(f"{difference}: set it, for certificates and tokens are judged by it")

    def _token(self) -> str:
        token = self._client.get_token()
        if token is None or not token.expires_at:
            return "none is needed" if token is None else "received; how long it is valid is not known"
        return f"received; valid for {(token.expires_at / 1000 - time.time()) / 60:.0f} min"

    def _models(self) -> str:
        names = [model.id for model in self._client.get_models().data]
        absent = "" if self._settings.model in names else f"; {self._settings.model} is not among them"
        return f"{len(names)} models{absent}"

    def _address(self, default_works: bool) -> str:
        """Try today's address, too: new keys work nowhere else."""
        try:
            with GigaChat(**{**self._arguments, "base_url": _TODAYS_URL}) as client:
                client.get_models()
        except GigaChatException as error:
            return f"{'keep base_url' if default_works else 'no help'}: {_TODAYS_URL} does not work: {error}"
        return f"{_TODAYS_URL} works: set GIGACHAT_BASE_URL to it and GIGACHAT_MODEL to GigaChat-2"

    def _chat(self) -> str:
        completion = self._client.chat({"messages": [{"role": "user", "content": "2+2="}], "max_tokens": 10})
        said = completion.choices[0].message.content if completion.choices else ""
        return f"{completion.model} said {_one_line(said or '', 40)!r}"

def _addresses(name: str) -> str:
    return ", ".join(sorted({str(found[4][0]) for found in socket.getaddrinfo(name, None)}))

_PROGRAM = "gigachat-lite"  # the name by which this program was started, here the installed script

if __name__ == "__main__":
    _PROGRAM = f"python -m {__spec__.name}" if __spec__ else os.path.basename(sys.argv[0])
    sys.exit(main())
