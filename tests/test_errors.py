"""Errors: the tree, what each holds and says, what to do about it, and what none of them shows."""

import base64
import copy
import email.utils
import html
import json
import logging
import pickle
import re
import socket
import sys
import threading
import time
import traceback
import warnings
from http.client import HTTPMessage
from urllib.parse import quote, quote_plus

import pytest
from conftest import CERTS, raw_client
from faults import (
    COMPLETION,
    RawServer,
    always,
    answer,
    chunk,
    closing,
    delta,
    event,
    resetting,
    silent_after,
    well_behaved,
)

import gigachat_lite
from gigachat_lite import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ForbiddenError,
    GigaChat,
    GigaChatException,
    InvalidResponseError,
    LengthFinishReasonError,
    ModelNotSpecifiedError,
    NotFoundError,
    PaymentRequiredError,
    RateLimitError,
    RequestEntityTooLargeError,
    ResponseError,
    ServerError,
    StreamInterruptedError,
    UnprocessableEntityError,
)

URL = "https://localhost/api/v1/chat/completions"
STATUSES = [
    (400, BadRequestError),
    (401, AuthenticationError),
    (402, PaymentRequiredError),
    (403, ForbiddenError),
    (404, NotFoundError),
    (413, RequestEntityTooLargeError),
    (422, UnprocessableEntityError),
    (429, RateLimitError),
    (500, ServerError),
    (501, ServerError),
    (502, ServerError),
    (503, ServerError),
    (504, ServerError),
    (599, ServerError),
    (405, ResponseError),
    (409, ResponseError),
    (418, ResponseError),
]
RESPONSE_ERRORS = sorted({kind for _, kind in STATUSES}, key=lambda kind: kind.__name__)
OTHER_ERRORS = [
    GigaChatException,
    ConfigurationError,
    APIConnectionError,
    APITimeoutError,
    StreamInterruptedError,
    InvalidResponseError,
    LengthFinishReasonError,
    ModelNotSpecifiedError,
]


def header_fields(**fields):
    headers = HTTPMessage()
    for name, value in fields.items():
        headers[name.replace("_", "-")] = value
    return headers


def failure_of(call, client, name="chat", *args):
    """Give the ResponseError that a call ends in."""
    with pytest.raises(ResponseError) as caught:
        call(client, name, *(args or ("Привет",)))
    return caught.value


def everything_of(error):
    """All that a log, a debugger or a crash report shows of an exception and of what hangs on it."""
    shown = ["".join(traceback.format_exception(type(error), error, error.__traceback__))]
    seen = set()
    chain = [error]
    while chain:
        one = chain.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        shown += [str(one), repr(one), repr(one.args)]
        shown += [f"{name}={value!r}" for name, value in vars(one).items()]
        if isinstance(one, ResponseError):
            shown += [repr(one.content), one.content.decode("utf-8", "replace"), one.message, str(one.request_id)]
            shown += [str(one.headers), repr(one.headers.items() if one.headers else "")]
            try:
                shown.append(repr(json.loads(one.content)))
            except (ValueError, RecursionError):
                pass
        chain += [one.__cause__, one.__context__]
    shown.append(repr(pickle.loads(pickle.dumps(error))))
    return "\n".join(shown)


# ---------- the tree


@pytest.mark.parametrize(
    ("kind", "bases"),
    [
        (ConfigurationError, (GigaChatException, ValueError)),
        (APIConnectionError, (GigaChatException, ConnectionError)),
        (APITimeoutError, (APIConnectionError, TimeoutError)),
        (StreamInterruptedError, (APIConnectionError,)),
        (InvalidResponseError, (GigaChatException,)),
        (ResponseError, (GigaChatException,)),
        *[(kind, (ResponseError,)) for kind in RESPONSE_ERRORS if kind is not ResponseError],
    ],
)
def test_tree(kind, bases):
    """Each class is also what people catch it as."""
    assert kind.__bases__ == bases


def test_every_exception_is_in_the_tree():
    """What the module exports as an exception is a GigaChatException, and none is missing in the tables above."""
    exported = [getattr(gigachat_lite, name) for name in gigachat_lite.__all__]
    exceptions = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, BaseException)}
    assert exceptions == {*OTHER_ERRORS, *RESPONSE_ERRORS}
    assert all(issubclass(kind, GigaChatException) for kind in exceptions)


def full_error(kind):
    body = '{"status":429,"message":"Слишком часто"}\n'.encode()
    headers = header_fields(X_Request_ID="7", Retry_After="5")
    return kind(URL, 429, body, headers, request="POST /chat/completions", hint="Wait")


@pytest.mark.parametrize("copied", [0, 2, pickle.HIGHEST_PROTOCOL, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("kind", RESPONSE_ERRORS)
def test_response_errors_pickle(kind, copied):
    """An error that has been to another process, or was copied, says and holds the same."""
    error = full_error(kind)
    back = copied(error) if callable(copied) else pickle.loads(pickle.dumps(error, copied))
    assert type(back) is kind
    assert str(back) == str(error) == "429 POST /chat/completions: Слишком часто (request id 7). Wait"
    assert (back.url, back.status_code, back.content) == (URL, 429, error.content)
    assert back.headers["x-request-id"] == back.request_id == "7"
    assert getattr(back, "retry_after", 5.0) == 5.0


@pytest.mark.parametrize("copied", [0, 2, pickle.HIGHEST_PROTOCOL, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("kind", OTHER_ERRORS)
def test_other_errors_pickle(kind, copied):
    """The same for the errors without an answer."""
    error = kind("localhost:443: timed out")
    back = copied(error) if callable(copied) else pickle.loads(pickle.dumps(error, copied))
    assert type(back) is kind
    assert str(back) == str(error)
    assert (getattr(back, "completion", None) or str(back)) == "localhost:443: timed out"


def test_errors_of_calls_pickle(client, server, call):
    """Errors that calls end in pickle too: nothing of the connection hangs on them."""
    error = failure_of(call, client, "get_model", "нет такой")
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), dict(back.headers)) == (NotFoundError, str(error), dict(error.headers))
    server.answer_next("/models", 200, b"not JSON")
    with pytest.raises(InvalidResponseError) as caught:
        call(client, "get_models")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# ---------- what a ResponseError holds and says


@pytest.mark.parametrize("method", ["chat", "stream"])
@pytest.mark.parametrize(("status", "kind"), STATUSES)
def test_status_to_class(client, server, call, method, status, kind):
    """Each status has its class, for plain calls and streams; attributes are as documented."""
    server.answer_next(
        "/chat/completions", status, {"status": status, "message": "Так нельзя"}, {"X-Request-Id": "7"}, times=None
    )
    error = failure_of(call, client, method)
    assert type(error) is kind
    assert error.status_code == status
    assert error.url == server.base_url + "/chat/completions"
    assert isinstance(error.url, str)
    assert error.content == f'{{"status":{status},"message":"Так нельзя"}}\n'.encode()
    assert error.message == "Так нельзя"
    assert error.request_id == "7"
    assert error.code is None
    assert str(error).startswith(f"{status} POST /chat/completions: Так нельзя (request id 7)")
    assert "\n" not in str(error)


def test_headers_in_any_case(client, call):
    """Headers of an error are found whatever their case."""
    headers = failure_of(call, client, "get_model", "none").headers
    assert headers["content-type"] == headers["Content-Type"] == headers["CONTENT-TYPE"]
    assert "x-request-id" in headers
    assert headers.get("x-none") is None


def test_positional_arguments():
    """ResponseError is made as the official SDK makes it; headers may be None."""
    error = ResponseError(URL, 409, b"", None)
    assert error.headers is None
    assert error.request_id is None
    assert error.message == "Conflict"
    assert str(error) == "409 /api/v1/chat/completions: Conflict"
    assert RateLimitError(URL, 429, b"", None).retry_after == 0.0


@pytest.mark.parametrize("content", ["текст", '{"message": "текст"}', "текст\ud83d", "", b"", None])
def test_made_by_hand(content):
    """One that somebody makes with text for content, as tests of applications do, prints and travels like any other."""
    error = BadRequestError(URL, 400, content, None)
    assert isinstance(error.content, bytes)
    assert str(error).startswith("400 /api/v1/chat/completions: " + ("текст" if content else "Bad Request"))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"status":404,"message":"Нет такой модели"}\n'.encode(), "Нет такой модели"),
        (b'{"status":404,"message":"\\u041d\\u0435\\u0442"}', "Нет"),
        (b'{"message":"two\\r\\nlines\\u0000\\u001b[31m"}', "two lines [31m"),
        (b"<html>\r\n<head><title>502 Bad Gateway</title></head><body>SOWA</body></html>", "502 Bad Gateway SOWA"),
        ("Просто текст".encode(), "Просто текст"),
        (b"", "Not Found"),
        (b" \r\n", "Not Found"),
        (b"<html></html>", "Not Found"),
        (b'{"message":""}', '{"message":""}'),
        (b'{"message":{"a":1}}', '{"message":{"a":1}}'),
        (b'{"error":"odd"}', '{"error":"odd"}'),
        (b"[1]", "[1]"),
        (b"null", "null"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"[" * 100_000, "[" * 300),
        (b"x" * 1_000, "x" * 300),
    ],
    ids=lambda value: str(value[:24]),
)
def test_message(content, message):
    """The message is the server's own words in one line of at most 300 characters, whatever the body is."""
    error = NotFoundError(URL, 404, content)
    assert error.message == message
    assert str(error) == f"404 /api/v1/chat/completions: {message}"


def test_message_of_a_page_is_quick():
    """Stripping the tags of a megabyte of "<" takes no time."""
    started = time.process_time()
    assert NotFoundError(URL, 404, b"<" * 1_000_000).message
    assert time.process_time() - started < 5


def test_unknown_status_without_body():
    """A status without a meaning, and without a body, still gives a text."""
    assert str(ResponseError(URL, 499, b"")) == "499 /api/v1/chat/completions: no message"


def test_request_id_in_one_line():
    """A request id with a line end or control characters does not break the text apart."""
    error = ServerError(URL, 500, b"{}", header_fields(X_Request_ID="a\r\n b\x1b[31m"))
    assert "\n" not in str(error)
    assert "\x1b" not in str(error)


@pytest.mark.parametrize(
    ("body", "status", "kind", "code"),
    [
        (b'{"code":7,"message":"scope from db not fully includes consumed scope"}', 400, BadRequestError, 7),
        (b'{"code":6,"message":"credentials doesn\'t match db data"}', 401, AuthenticationError, 6),
        (b'{"code":"7","message":"text"}', 400, BadRequestError, None),
        (b"", 429, RateLimitError, None),
        (b"<html>502</html>", 502, ServerError, None),
    ],
)
def test_oauth_errors(client, server, call, body, status, kind, code):
    """The token endpoint's errors are the same exceptions; ``code`` is its number; the call itself is not sent."""
    server.answer_next("/oauth", status, body)
    error = failure_of(call, client)
    assert type(error) is kind
    assert error.code == code
    assert error.url == server.auth_url
    assert str(error).startswith(f"{status} POST /api/v2/oauth: ")
    assert [request.path for request in server.requests] == ["/api/v2/oauth"]


ADVICE = [
    ("/oauth", 400, {"code": 7, "message": "scope from db not fully includes consumed scope"}, "GIGACHAT_API_PERS"),
    ("/oauth", 400, {"code": 4, "message": "Can't decode 'Authorization' header"}, "authorization key"),
    ("/oauth", 401, {"code": 6, "message": "credentials doesn't match db data"}, "GIGACHAT_CREDENTIALS"),
    ("/oauth", 429, {"message": "Too many requests"}, "share one client"),
    ("/oauth", 302, b"", "GIGACHAT_AUTH_URL"),
    ("/oauth", 403, b"<html></html>", "GIGACHAT_AUTH_URL"),
    ("/oauth", 404, {"status": 404, "message": "Not Found"}, "GIGACHAT_AUTH_URL"),
    ("/chat", 401, {"status": 401, "message": "Unauthorized"}, "wrong or has expired"),
    ("/chat", 401, {"status": 401, "message": "Token has expired"}, "lives 30 minutes"),
    ("/chat", 400, b"<h1>The plain HTTP request was sent to HTTPS port</h1>", "write https://"),
    ("/oauth", 400, {"code": 5, "message": "scope is empty"}, "must be one of GIGACHAT_API_PERS"),
    ("/chat", 402, {"status": 402, "message": "Payment Required"}, "get_balance()"),
    ("/chat", 404, {"status": 404, "message": "No such model"}, "get_models()"),
    ("/chat", 404, b"<html>nginx</html>", "base_url"),
    ("/chat", 413, {"status": 413, "message": "Payload too large"}, "tokens_count()"),
    ("/chat", 422, {"status": 422, "message": "Invalid params: system message must be the first message"}, "first"),
    ("/chat", 429, {"status": 429, "message": "Too many requests"}, "max_connections"),
    ("/chat", 302, b"", "Redirects are not followed"),
    ("/chat", 502, b"<html></html>", "try again later"),
]


@pytest.mark.parametrize(("path", "status", "body", "hint"), ADVICE)
def test_hints(client, server, call, path, status, body, hint):
    """Where we know what to do about an error, its text says so."""
    server.answer_next(path, status, body, times=None)
    assert hint in str(failure_of(call, client))


def test_hint_names_the_model(client, call):
    """The hint for an unknown model names the model that was sent, in Cyrillic too."""
    error = failure_of(call, client, "chat", {"messages": ["Привет"], "model": "Гига"})
    assert "'Гига'" in str(error)


def test_hint_for_a_refused_token_of_tokens_count(client, server, call):
    """The path /tokens/count is not /token: the advice speaks of the access token."""
    server.answer_next("/tokens/count", 401, {"message": "no"}, times=None)
    assert "access token is wrong" in str(failure_of(call, client, "tokens_count", ["x"]))


def test_files_of_another_client(client, call):
    """The hint for a file that is denied names the variable to set."""
    token = gigachat_lite.client_id_cvar.set("me")
    file = call(client, "upload_file", ("a.txt", b"text"))
    gigachat_lite.client_id_cvar.reset(token)
    error = failure_of(call, client, "get_image", file.id)
    assert isinstance(error, ForbiddenError)
    assert "client_id_cvar" in str(error)


@pytest.mark.parametrize("status", [101, 300, 301, 302, 303, 304, 307, 308])
def test_other_statuses_are_errors(call, status):
    """Redirects, and what else is no success, are plain ResponseErrors; nothing is followed."""

    def handler(wire):
        wire.receive()
        wire.send(answer(b"", f"{status} Odd", Location="http://localhost:1/api/v1/chat/completions"))

    with RawServer(handler) as server, raw_client(server) as client:
        error = failure_of(call, client)
        assert type(error) is ResponseError
        assert error.status_code == status
        assert len(server.requests) == 1


# ---------- Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("1.5", 1.5),
        (" 3 ", 3.0),
        ("0", 0.0),
        ("604800", 604_800.0),
        ("-5", 0.0),
        ("-inf", 0.0),
        ("inf", 0.0),
        ("nan", 0.0),
        ("1e999", 0.0),
        ("", 0.0),
        ("soon", 0.0),
        ("завтра", 0.0),
        ("Mon, 99 Foo 2026 99:99:99 GMT", 0.0),
        ("Wed, 21 Oct 1999 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 99999 07:28:00 GMT", 0.0),
    ],
)
def test_retry_after(value, seconds):
    """``retry_after`` is a float of seconds; 0.0 for what is unreadable, past or endless."""
    headers = header_fields(Retry_After=value)
    for error in (RateLimitError(URL, 429, b"", headers), ServerError(URL, 503, b"", headers)):
        assert isinstance(error.retry_after, float)
        assert error.retry_after == seconds


@pytest.mark.parametrize("ahead", [60, 604_800])
def test_retry_after_date(ahead):
    """A date counts by the server's clock where it told it, and by ours where not."""
    ours = RateLimitError(URL, 429, b"", header_fields(Retry_After=email.utils.formatdate(time.time() + ahead)))
    assert ahead - 30 < ours.retry_after <= ahead
    server_now = 1_000_000_000
    headers = header_fields(
        Date=email.utils.formatdate(server_now, usegmt=True),
        Retry_After=email.utils.formatdate(server_now + ahead, usegmt=True),
    )
    assert RateLimitError(URL, 429, b"", headers).retry_after == ahead


@pytest.mark.parametrize("headers", [None, HTTPMessage()])
def test_no_retry_after(headers):
    """Without the header, or without headers at all, it is 0.0."""
    assert RateLimitError(URL, 429, b"", headers).retry_after == 0.0


def test_retry_after_of_a_call(client, server, call):
    """The header reaches the caller."""
    server.answer_next("/chat", 429, {"status": 429, "message": "Too many requests"}, {"Retry-After": "2.5"})
    assert failure_of(call, client).retry_after == 2.5


# ---------- secrets

SECRET = "S3CR3T+t/k="


def echo_of(secret):
    """Give bodies in which servers were seen to echo a header, or might."""
    escaped = "".join(f"\\u{ord(character):04x}" for character in secret)
    return [
        json.dumps({"status": 400, "message": f"bad header Bearer {secret}"}).encode(),
        b'{"message":"bad header %b"}' % secret.replace("/", "\\/").encode(),
        b'{"message":"bad header %b"}' % escaped.encode(),
        b'{"error":{"header":["%b"]}}' % escaped.encode(),
        b"<html><body>Authorization: Bearer %b</body></html>" % secret.encode(),
        secret.encode(),
    ]


@pytest.mark.parametrize("status", [400, 401, 500])
@pytest.mark.parametrize("number", range(len(echo_of(SECRET))))
def test_echoed_token(settings, server, call, number, status):
    """A server that echoes our token, plain or in JSON's escapes, does not get it into the exception."""
    body = echo_of(SECRET)[number]
    server.answer_next("/chat", status, body, {"X-Echo": SECRET, "x-again": f"Bearer {SECRET}"}, times=None)
    with GigaChat(**{**settings, "credentials": None, "access_token": SECRET}) as client:
        error = failure_of(call, client)
    shown = everything_of(error)
    assert SECRET not in shown
    assert "S3CR3T" not in shown
    assert SECRET not in error.message
    assert SECRET not in str(error.headers)
    assert SECRET.encode() not in error.content
    assert SECRET.encode() not in pickle.dumps(error)


@pytest.mark.parametrize("body", echo_of(SECRET), ids=range(len(echo_of(SECRET))))
def test_echoed_token_in_a_success(settings, server, call, body):
    """Nor does one that answers 200 with a page that echoes it."""
    server.answer_next("/chat", 200, body + b"<", {"Content-Type": "text/html"})
    with GigaChat(**{**settings, "credentials": None, "access_token": SECRET}) as client:
        with pytest.raises(InvalidResponseError) as caught:
            call(client, "chat", "Привет")
    assert SECRET not in everything_of(caught.value)


def test_echoed_credentials(settings, server, call):
    """The same for the authorization key at the token endpoint, and for a password at /token."""
    server.answer_next("/oauth", 400, {"code": 4, "message": f"bad {settings['credentials']}"})
    with GigaChat(**settings) as client:
        assert settings["credentials"] not in everything_of(failure_of(call, client))
    server.answer_next("/token", 403, b"no user with the password p@ssw0rd / dXNlcjpwQHNzdzByZA==")
    with GigaChat(**{**settings, "credentials": None, "user": "user", "password": "p@ssw0rd"}) as client:
        shown = everything_of(failure_of(call, client))
    assert "p@ssw0rd" not in shown
    assert "dXNlcjpwQHNzdzByZA==" not in shown


def test_new_token_in_a_broken_answer(client, server, call):
    """A token that comes in an answer that cannot be read, or with an error status, is not shown either."""
    for status, kind in ((200, InvalidResponseError), (500, ServerError)):
        for body in (b'{"access_token":"S3CR3T","expires_at":17', b'{"tok": "S3CR3T", "exp": 1, }'):
            server.answer_next("/oauth", status, body)
            with pytest.raises(kind) as caught:
                call(client, "chat", "Привет")
            assert "S3CR3T" not in everything_of(caught.value)


def test_request_headers_are_not_shown(client, call):
    """No error holds what we sent in headers: the token of the call is nowhere in it."""
    token = call(client, "get_token").access_token
    error = failure_of(call, client, "get_model", "none")
    assert token not in everything_of(error)
    assert "Bearer" not in everything_of(error)


# ---------- nothing else comes out


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"1",
        b'"text"',
        b"{}",
        b'{"choices":null}',
        b'{"choices":1}',
        b'{"choices":{}}',
        b'{"choices":[1]}',
        b'{"choices":[{}]}',
        b'{"choices":[{"message":null}]}',
        b'{"choices":[{"message":"text"}]}',
        b'{"choices":[],"usage":NaN}',
        b'{"choices":[{"message":{"content":"\xff"}}]',
        b"<html></html>",
        b'{"choices":',
        b"[" * 100_000,
    ],
    ids=lambda body: str(body[:40]),
)
def test_answers_that_are_none(client, server, call, body):
    """A success that is not what the API documents is an InvalidResponseError, in one line that names the request."""
    server.answer_next("/chat", 200, body)
    with pytest.raises(InvalidResponseError, match=r"\APOST /chat/completions: ") as caught:
        call(client, "chat", "Привет")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{}", b'{"access_token":null}', b'{"access_token":1}', b'{"access_token":""}',
     b'{"access_token":"a\\r\\nX-Evil: 1"}', '{"access_token":"ы"}'.encode(), b'{"expires_at":1}', b"<html>"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/oauth", "/token"])
def test_token_answers_that_are_none(settings, server, call, path, body):
    """An answer without a usable token is an InvalidResponseError; the call is not sent."""
    server.answer_next(path, 200, body)
    arguments = {"credentials": None, "user": "user", "password": "password"} if path == "/token" else {}
    with GigaChat(**{**settings, **arguments}) as client:
        with pytest.raises(InvalidResponseError):
            call(client, "chat", "Привет")
    assert len(server.requests) == 1


def test_token_answer_with_odd_keys(client, server, call):
    """Keys of a token's answer that are named like methods do no harm."""
    token = server.issue_token()
    server.answer_next("/oauth", 200, {"access_token": token, "to_dict": 1, "_adopt": 2, "x_headers": 3})
    assert call(client, "chat", "Привет").choices


def test_hint_for_a_page(client, server, call):
    """A page in place of JSON points to base_url."""
    server.answer_next("/chat", 200, b"<html>welcome</html>")
    with pytest.raises(InvalidResponseError, match="GIGACHAT_BASE_URL"):
        call(client, "chat", "Привет")


def test_hint_for_a_page_in_place_of_a_stream(client, server, call):
    """The same of a stream."""
    server.answer_next("/chat", 200, b"<html>welcome</html>", {"Content-Type": "text/html"})
    with pytest.raises(InvalidResponseError, match="GIGACHAT_BASE_URL"):
        call(client, "stream", "Привет")


def test_hint_for_a_page_in_place_of_a_token(client, server, call):
    """A page that the token endpoint answers points to auth_url, and to it alone."""
    server.answer_next("/oauth", 200, b"<html>welcome</html>")
    with pytest.raises(InvalidResponseError, match="GIGACHAT_AUTH_URL") as caught:
        call(client, "chat", "Привет")
    assert "BASE_URL" not in str(caught.value)


@pytest.mark.parametrize("path", ["", "/api", "/api/v1/chat/completions"])
@pytest.mark.parametrize("method", ["chat", "stream", "get_models"])
def test_hint_for_a_base_url_with_another_path(settings, server, call, path, method):
    """Where base_url does not end in /v1, a 404 points to it."""
    with GigaChat(**{**settings, "base_url": server.base_url.replace("/api/v1", path)}) as client:
        with pytest.raises(NotFoundError, match="GIGACHAT_BASE_URL"):
            call(client, method, *([] if method == "get_models" else ["Привет"]))


def test_no_hint_where_base_url_is_right(client, call):
    """A file that is not there is no fault of base_url."""
    with pytest.raises(NotFoundError) as caught:
        call(client, "get_file", "nosuch")
    assert "BASE_URL" not in str(caught.value)


# ---------- errors travel

ERRORS = [
    GigaChatException("текст"),
    ConfigurationError("текст"),
    APIConnectionError("текст"),
    APITimeoutError("текст"),
    StreamInterruptedError("текст"),
    InvalidResponseError("текст"),
    BadRequestError("https://host/x", 400, b'{"message":"\xd0\xb4\xd0\xb0"}', None, request="POST /x", hint="do"),
    RateLimitError("https://host/x", 429, b"", None),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_exceptions_travel(error):
    """Exceptions are copied and pickled as they are."""
    for other in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is type(error) and str(other) == str(error) and vars(other).keys() == vars(error).keys()


def test_exceptions_of_a_server_travel(call):
    """So does one with the headers of an answer."""
    reply = answer({"status": 429, "message": "нет"}, "429 No", Retry_After="7", X_Request_Id="один".encode().hex())
    with RawServer(always(reply)) as server, raw_client(server) as client:
        with pytest.raises(RateLimitError) as caught:
            call(client, "chat", "x")
    other = pickle.loads(pickle.dumps(caught.value))
    assert str(other) == str(caught.value) and other.retry_after == 7 and other.request_id == caught.value.request_id


# ---------- error statuses

KINDS_OF_STATUSES = {
    400: BadRequestError,
    401: AuthenticationError,
    402: PaymentRequiredError,
    403: ForbiddenError,
    404: NotFoundError,
    413: RequestEntityTooLargeError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}
ODD_STATUSES = [101, *range(300, 309), *range(400, 432), 451, 499, *range(500, 512), 599, 600, 999]


@pytest.mark.parametrize("method", ["chat", "stream", "download_file"])
def test_statuses_with_any_body(call, method):
    """Each status that is no success is its own exception, whatever the body is: JSON, a page, nothing."""
    shown = {}
    bodies = [b'{"status":1,"message":"\xd0\x9d\xd0\xb5\xd1\x82"}\n', b"<html><h1>No</h1></html>", b"", b"\xff\xfe"]

    def reply(_):
        return answer(shown["body"], f"{shown['status']} Reason")

    with RawServer(always(reply)) as server, raw_client(server) as client:
        for number, status in enumerate(ODD_STATUSES):
            for body in bodies if method == "chat" else [bodies[number % 4]]:
                shown.update(status=status, body=body)
                with pytest.raises(ResponseError) as caught:
                    call(client, method, "x")
                error = caught.value
                kind = KINDS_OF_STATUSES.get(status) or (ServerError if status >= 500 else ResponseError)
                assert type(error) is kind
                assert error.status_code == status
                if status not in (101, 304):  # they have no body, RFC 9112, section 6.3
                    assert error.content == body
                    assert {0: "Нет", 1: "No"}.get(bodies.index(body), "") in str(error)
                assert str(error).startswith(f"{status} ") and "\n" not in str(error)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 305, 307, 308])
def test_redirects_reach_nobody(call, status):
    """Location, Refresh and Set-Cookie move nothing: the other host gets no byte, the next request no cookie."""
    with RawServer(well_behaved) as other:
        bait = {"Location": other.base_url + "/x", "Refresh": f"0; url={other.base_url}", "Set_Cookie": "a=b; Path=/"}
        with RawServer(always(answer(b"", f"{status} Moved", **bait))) as server, raw_client(server) as client:
            for _ in range(2):
                with pytest.raises(ResponseError) as caught:
                    call(client, "chat", "Привет")
                assert caught.value.status_code == status
            assert all("cookie" not in request.headers for request in server.requests)
        assert other.connections == 0


def test_headers_of_a_success_move_nothing(call):
    """The same headers on a 200."""
    with RawServer(well_behaved) as other:
        bait = {"Location": other.base_url, "Refresh": f"0; url={other.base_url}", "Set_Cookie": "a=b", "Alt_Svc": "h2"}
        with RawServer(always(answer(**bait))) as server, raw_client(server) as client:
            call(client, "chat", "Привет")
            call(client, "chat", "Привет")
            assert "cookie" not in server.requests[1].headers
        assert other.connections == 0


def test_errors_of_the_token_endpoint(call):
    """OAuth's own shape of an error: code and message."""
    body = {"code": 7, "message": "scope from db not fully includes consumed scope"}
    with RawServer(always(answer(body, "400 Bad Request"))) as server:
        with raw_client(server, access_token=None, credentials="YTpi", auth_url=server.auth_url) as client:
            with pytest.raises(BadRequestError, match="scope from db") as caught:
                call(client, "chat", "Привет")
    assert caught.value.code == 7 and "GIGACHAT_SCOPE" in str(caught.value)


@pytest.mark.parametrize(
    "body", [b"<" * 1_000_000, b"<a " * 300_000, b"> <" * 300_000, b" " * 1_000_000, b"[" * 500_000]
)
def test_error_page_made_to_stall(body):
    """No page of a megabyte makes the text of an exception slow."""
    with RawServer(closing(answer(body, "500 No"))) as server, raw_client(server) as client:
        started = time.monotonic()
        with pytest.raises(ServerError) as caught:
            client.chat("Привет")
        assert len(str(caught.value)) < 1000
        assert time.monotonic() - started < 2


def test_error_page_without_end(call):
    """An error page that never ends is cut off; the status is what counts."""

    def handler(wire):
        wire.receive()
        wire.send(b"HTTP/1.1 502 No\r\n\r\n")
        for _ in range(10_000):
            wire.send(b"x" * 65_536)

    with RawServer(handler) as server, raw_client(server) as client:
        with pytest.raises(ServerError) as caught:
            call(client, "chat", "Привет")
        assert caught.value.status_code == 502 and len(caught.value.content) <= 2_000_000


def test_text_of_errors_is_one_plain_line(call):
    """Line ends and terminal escapes of a server do not reach the text of an exception."""
    body = json.dumps({"message": "a\r\n\x1b[31mb\x00\u2028c"}).encode()
    reply = answer(body, "400 Bad", X_Request_Id="one\r\n two\x1b[31m")
    with RawServer(always(reply)) as server, raw_client(server) as client:
        with pytest.raises(BadRequestError) as caught:
            call(client, "chat", "Привет")
    assert str(caught.value).isprintable()


def test_answers_are_not_mixed_up_by_errors():
    """Error answers between right ones, from many threads: everyone gets what his request asked for."""

    def reply(request):
        words = request.json["messages"][-1]["content"]
        if int(words) % 3 == 0:
            return answer({"status": 400, "message": words}, "400 Bad")
        return answer({**COMPLETION, "model": words})

    wrong = []

    def run(first):
        for number in range(first, first + 60):
            try:
                if client.chat(str(number)).model != str(number):
                    wrong.append(number)
            except GigaChatException as error:
                if error.message != str(number):
                    wrong.append(number)

    with RawServer(always(reply)) as server, raw_client(server, max_connections=3) as client:
        threads = [threading.Thread(target=run, args=(first * 100,)) for first in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(client, server, call, status):
    """A redirect is an error: the token must not reach another host."""
    with RawServer(well_behaved) as other:
        server.answer_next("chat/completions", status, b"", {"Location": other.base_url})
        with pytest.raises(ResponseError, match="not followed") as caught:
            call(client, "chat", "Привет")
        assert caught.value.status_code == status
        assert other.connections == 0
    assert len(server.requests) == 2


TOKEN = "tok3n/SECRET+of=mine"
NEW_TOKEN = "eyJjdHkiOiJqd3QiLCJlbmMi.n3w/SECRET+token.of-some-length=="
CREDENTIALS = base64.b64encode(b"SECRET-id?>:SECRET-k3y?>~\xff").decode()  # with "/" and "+" in it
PASSWORD = "pa55/SECRET+word"
KEY_PASSWORD = "SECRET-key-passphrase"
PROXY_PASSWORD = "pr0xy-SECRET-word"
USER_PASSWORD = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
PROXY_USER_PASSWORD = base64.b64encode(f"user:{PROXY_PASSWORD}".encode()).decode()
SECRETS = [TOKEN, NEW_TOKEN, CREDENTIALS, PASSWORD, KEY_PASSWORD, PROXY_PASSWORD, USER_PASSWORD, PROXY_USER_PASSWORD]


def secret_client(server, **settings):
    """Make a client of a RawServer whose token must not show."""
    return raw_client(server, **{"access_token": TOKEN, **settings})


def assert_no_secret(text, also=()):
    for secret in [*SECRETS, *also]:
        assert secret not in text, text


# ---------- secrets, in whatever a server says


def echoes(secret):
    """Ways in which a server may show us what we sent."""
    escaped = json.dumps({"message": f"bad {secret}"})
    unicode = "".join(f"\\u{ord(character):04x}" for character in secret)
    return {
        "json": answer(escaped.encode(), "400 Bad"),
        "json, slashes escaped": answer(escaped.replace("/", "\\/").encode(), "400 Bad"),
        "json, all escaped": answer(f'{{"message":"bad {unicode}"}}'.encode(), "400 Bad"),
        "page": answer(f"<html>Authorization: Bearer {secret}</html>".encode(), "401 No"),
        "page, bad utf-8": answer(b"\xff\xfe " + secret.encode(), "502 No"),
        "header": answer(b"", "400 Bad", X_Request_Id=secret, X_Echo=f"Bearer {secret}"),
        "header twice": answer(b"", "400 Bad").replace(
            b"\r\n\r\n", f"\r\nX-A: {secret}\r\nX-A: {secret}\r\n\r\n".encode()
        ),
        "location": answer(b"", "302 Found", Location=f"http://localhost/{secret}"),
        "content type": answer(secret.encode(), Content_Type=secret),
        "encoding": answer(secret.encode(), Content_Encoding=secret),
        "status line": b"HTTP/1.1 " + secret.encode() + b"\r\n\r\n",
        "no status line": secret.encode() + b"\r\n\r\n",
        "no json": answer(secret.encode()),
        "no json, bad utf-8": answer(b"\xff" + secret.encode()),
        "wrong types": answer({"choices": secret}),
        "wrong key": answer({secret: 1}),
        "in a stream": answer(delta("x") + event({"status": 400, "message": secret}), Content_Type="text/event-stream"),
        "in a broken stream": answer(b"data: " + secret.encode() + b"\n\n", Content_Type="text/event-stream"),
        "bad chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + secret.encode() + b"\r\n",
        "cut": answer(secret.encode() * 5)[:-3],
    }


ECHOES = list(echoes(""))


def provoke(client, call, caplog, also=()):
    for method in ("chat", "stream", "get_token", "download_file"):
        try:
            call(client, method, *(["x"] if method != "get_token" else []))
        except GigaChatException as error:
            assert_no_secret(everything_of(error), also)
    assert_no_secret(caplog.text + repr([record.args for record in caplog.records]), also)


@pytest.mark.parametrize("case", ECHOES)
def test_token_echoed_in_any_way(call, caplog, case):
    """A server that shows us our own token does not bring it into any exception or log."""
    caplog.set_level(logging.DEBUG)
    with RawServer(closing(echoes(TOKEN)[case])) as server, secret_client(server) as client:
        provoke(client, call, caplog)


@pytest.mark.parametrize("case", ECHOES)
def test_credentials_echoed_in_any_way(call, caplog, case):
    """The same of the token endpoints and what they are sent."""
    caplog.set_level(logging.DEBUG)
    with RawServer(closing(echoes(CREDENTIALS)[case])) as server:
        with secret_client(server, access_token=None, auth_url=server.auth_url, credentials=CREDENTIALS) as client:
            provoke(client, call, caplog)
    for secret in (PASSWORD, USER_PASSWORD):
        with RawServer(closing(echoes(secret)[case])) as server:
            with secret_client(server, access_token=None, user="user", password=PASSWORD) as client:
                provoke(client, call, caplog)


ODD_PASSWORD = "пар+оль /\\\"%41&<>='😀"
LAYERS = {
    "percent": lambda text: quote(text, safe=""),
    "percent, small": lambda text: re.sub("%..", lambda found: found.group().lower(), quote(text, safe="")),
    "percent, every character": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "form": lambda text: quote_plus(text),
    "form, read": lambda text: text.replace("+", " "),
    "HTML": lambda text: html.escape(text),
    "HTML, decimal": lambda text: "".join(f"&#{ord(character)};" for character in text),
    "HTML, hexadecimal": lambda text: "".join(f"&#x{ord(character):04X};" for character in text),
    "HTML, names": lambda text: html.escape(text).replace("+", "&plus;").replace("/", "&sol;").replace("=", "&equals;"),
    "JSON": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "JSON, unescaped": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON in JSON": lambda text: json.dumps(json.dumps(text))[1:-1],
    "percent in JSON": lambda text: json.dumps(quote(quote(text)))[1:-1],
    "HTML in JSON": lambda text: json.dumps(html.escape(text))[1:-1],
    **{
        f"base64 of it behind {before}": lambda text, before=before: base64.b64encode(
            b"x" * before + text.encode() + b"y"
        ).decode()
        for before in range(4)
    },
}


@pytest.mark.parametrize("layer", list(LAYERS))
@pytest.mark.parametrize("secret", [CREDENTIALS, ODD_PASSWORD], ids=["key", "password"])
def test_secrets_in_every_spelling(call, layer, secret):
    """However a server writes a secret that it was sent, the error shows it in no spelling, and still says the rest."""
    echo = LAYERS[layer](secret)
    body = f'{{"status": 400, "message": "before {echo} behind"}}'.encode("utf-8", "surrogatepass")
    own = {"credentials": secret} if secret is CREDENTIALS else {"user": "user", "password": secret}
    with RawServer(closing(answer(body, "400 Bad"))) as server:
        with secret_client(server, access_token=None, auth_url=server.auth_url, **own) as client:
            with pytest.raises(BadRequestError) as caught:
                call(client, "chat", "x")
    shown = everything_of(caught.value)
    core = base64.b64encode(b"x" * int(layer[-1]) + secret.encode())[4:-4].decode() if "base64" in layer else echo
    assert core not in shown
    assert secret not in shown
    assert "before" in str(caught.value) and "behind" in str(caught.value)


@pytest.mark.parametrize("status", ["401 No", "503 No", "400 No"])
def test_hiding_never_replaces_the_error(call, status):
    """A body that echoes a secret and holds what is no text gives the error of its status, whatever else is in it."""
    for rest in (b"\\ud83d", b"\xff\xfe", b"&#xd800;&#1114112;", b"%ff%ed%a0%80", b"\\u12", b"%", b"\\"):
        body = b'{"message": "' + rest + quote(TOKEN).encode() + rest + b'"}'
        with RawServer(always(answer(body, status))) as server, secret_client(server) as client:
            with pytest.raises(ResponseError) as caught:
                call(client, "chat", "x")
        assert caught.value.status_code == int(status[:3])
        assert quote(TOKEN) not in everything_of(caught.value)
        assert str(caught.value)


@pytest.mark.parametrize(
    "piece", [b"%25", b"&amp;", b"\\\\", b"\\u0025", b"&", b"%41\xd0\xb0", b"tok3n/SECRET+of=min", b"\\"]
)
def test_hiding_takes_linear_time(piece):
    """A quarter of a megabyte of escapes, or of the beginning of a secret, is no work."""
    body = piece * (250_000 // len(piece)) + quote(TOKEN).encode()
    with RawServer(closing(answer(body, "400 Bad"))) as server, secret_client(server) as client:
        started = time.process_time()
        with pytest.raises(BadRequestError) as caught:
            client.chat("x")
        assert time.process_time() - started < 2.5
    assert TOKEN.encode() not in caught.value.content and quote(TOKEN).encode() not in caught.value.content


@pytest.mark.parametrize(
    "proxy", ["http://user:{}", "http://user:{}@", "user:{}", "http://user:{}@host:port", "http://user:{}℀@host:1"]
)
@pytest.mark.parametrize("source", ["argument", "GIGACHAT_PROXY", "HTTPS_PROXY"])
def test_unusable_proxy_hides_its_password(monkeypatch, call, proxy, source):
    """A proxy whose host was forgotten, or is none, shows its password in no exception of the chain."""
    proxy = proxy.format(PROXY_PASSWORD)
    if source != "argument":
        monkeypatch.setenv(source, proxy)
    with pytest.raises(ConfigurationError) as caught:
        with GigaChat(access_token=TOKEN, **({"proxy": proxy} if source == "argument" else {})) as client:
            call(client, "chat", "x")
    assert_no_secret(everything_of(caught.value))


def test_proxy_in_another_encoding(monkeypatch, call):
    """A variable of the environment whose bytes are no UTF-8 does not disturb errors of calls that do not use it."""
    monkeypatch.setenv("HTTPS_PROXY", "http://user:pass\udcffword@proxy:1")
    with RawServer(closing(answer(b"{}", "400 Bad"))) as server, secret_client(server) as client:
        with pytest.raises(BadRequestError):
            call(client, "chat", "x")


def test_echoed_client_secret(call):
    """The same of what the credentials are the base64 of."""
    pair = "client-id:t0p-client-SECRET"
    said = json.dumps({"code": 4, "message": f"cannot read {pair}"}).encode()
    with RawServer(closing(b"HTTP/1.1 400 No\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))) as server:
        credentials = base64.b64encode(pair.encode()).decode()
        with secret_client(server, access_token=None, auth_url=server.auth_url, credentials=credentials) as client:
            with pytest.raises(GigaChatException) as caught:
                call(client, "chat", "x")
    assert "cannot read client-id:***" in str(caught.value)
    assert "t0p-client-SECRET" not in everything_of(caught.value)


@pytest.mark.parametrize(
    "case", ["json", "page", "header", "header twice", "no json", "no json, bad utf-8", "status line"]
)
def test_echoed_proxy_credentials(call, caplog, case):
    """The same of a proxy, in a tunnel and without."""
    caplog.set_level(logging.DEBUG)
    for base_url in ("http://name.invalid/v1", "https://name.invalid/v1"):
        with RawServer(closing(echoes(PROXY_USER_PASSWORD)[case])) as server:
            proxy = f"http://user:{PROXY_PASSWORD}@127.0.0.1:{server.port}"
            with secret_client(server, base_url=base_url, proxy=proxy) as client:
                provoke(client, call, caplog)


@pytest.mark.parametrize(
    "reply",
    [
        answer(b'{"access_token":"' + NEW_TOKEN.encode() + b'","expires_at":17'),
        answer(b'{"tok":"' + NEW_TOKEN.encode() + b'"'),
        answer(b"\xff" + NEW_TOKEN.encode()),
        answer(b"<token>" + NEW_TOKEN.encode() + b"</token>"),
        answer([NEW_TOKEN]),
        answer({"token": NEW_TOKEN}),
        answer({"access_token": [NEW_TOKEN]}),
        answer({"access_token": NEW_TOKEN + " \n"}),
        answer({"access_token": NEW_TOKEN}, "500 No"),
        answer({"access_token": NEW_TOKEN}, "302 Found"),
        answer({"access_token": NEW_TOKEN})[:-2],
        answer({"access_token": NEW_TOKEN}, Content_Encoding="gzip"),
        b"HTTP/1.1 " + NEW_TOKEN.encode() + b"\r\n\r\n",
    ],
)
def test_token_in_an_unusable_answer(call, caplog, reply):
    """An answer of the token endpoint may hold a token even where it cannot be used."""
    caplog.set_level(logging.DEBUG)
    with RawServer(closing(reply)) as server:
        for settings in ({"credentials": CREDENTIALS}, {"user": "user", "password": PASSWORD}):
            with secret_client(server, access_token=None, auth_url=server.auth_url, **settings) as client:
                with pytest.raises(GigaChatException) as caught:
                    call(client, "chat", "x")
                assert_no_secret(everything_of(caught.value))
    assert_no_secret(caplog.text)


@pytest.mark.parametrize("handler", [closing(), resetting(), resetting(b"HTTP/1.1 200 OK\r\n"), silent_after()])
def test_secrets_of_failed_calls(call, caplog, handler):
    """Connections that fail, whatever is configured."""
    caplog.set_level(logging.DEBUG)
    with RawServer(handler) as server, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        proxy = f"http://user:{PROXY_PASSWORD}@127.0.0.1:{server.port}"
        for settings in (
            {},
            {"access_token": None, "auth_url": server.auth_url, "credentials": CREDENTIALS},
            {"access_token": None, "user": "user", "password": PASSWORD},
            {"proxy": proxy},
            {"proxy": proxy, "base_url": "https://name.invalid/v1"},
        ):
            with secret_client(server, **{"timeout": 0.1, **settings}) as client:
                with pytest.raises(GigaChatException) as caught:
                    call(client, "chat", "x")
                assert_no_secret(everything_of(caught.value))
                shown = [client, *vars(client).values(), copy.copy(client), client.threads]
                assert_no_secret(repr(shown) + str(shown))
    assert_no_secret(caplog.text + repr([str(one.message) for one in warned]))


def test_secrets_of_a_working_client(call, caplog):
    """Neither the log at DEBUG nor the repr of anything that a client hands out shows a secret."""
    caplog.set_level(logging.DEBUG)

    def reply(request):
        if request.path.endswith("/oauth"):
            return answer({"access_token": NEW_TOKEN, "expires_at": 0})
        return answer()

    with RawServer(always(reply)) as server:
        settings = {
            "auth_url": server.auth_url,
            "credentials": CREDENTIALS,
            "user": "user",
            "password": PASSWORD,
            "cert_file": CERTS / "client.pem",
            "key_file": CERTS / "client.key",
            "key_file_password": KEY_PASSWORD,
        }
        with secret_client(server, access_token=None, **settings) as client:
            shown = [call(client, "chat", "x"), call(client, "get_token"), client, client.assistants]
            stream = client.stream("x")
            shown += [stream, client.astream("x"), *vars(client).values()]
            assert_no_secret(repr(shown) + str(shown) + caplog.text)
            assert server.requests[1].headers["authorization"] == f"Bearer {NEW_TOKEN}"


def test_settings_that_cannot_be_encoded(call):
    """Halves of characters in a setting (an environment variable in another encoding) are refused without showing."""
    with RawServer(always(answer({"access_token": "new"}))) as server:
        for settings in (
            {"user": "u", "password": PASSWORD + "\udcff"},
            {"credentials": CREDENTIALS, "scope": "\udcff"},
        ):
            with pytest.raises(GigaChatException) as caught:
                client = secret_client(server, access_token=None, auth_url=server.auth_url, **settings)
                with client:
                    call(client, "chat", "x")
            assert_no_secret(everything_of(caught.value))
        assert server.requests == []


def test_wrong_key_password(capfd):
    """The password of a key does not show where it is wrong."""
    settings = {"cert_file": CERTS / "client.pem", "key_file": CERTS / "client-encrypted.key"}
    client = GigaChat(base_url="https://localhost:1/v1", access_token=TOKEN, key_file_password=KEY_PASSWORD, **settings)
    with RawServer(well_behaved) as server:
        client = copy.copy(client)
        client = GigaChat(
            base_url=f"https://localhost:{server.port}/v1",
            access_token=TOKEN,
            key_file_password=KEY_PASSWORD,
            **settings,
        )
        with client, pytest.raises(ConfigurationError) as caught:
            client.chat("x")
    assert_no_secret(everything_of(caught.value))
    assert_no_secret("".join(capfd.readouterr()))


def test_unhandled_exceptions_of_threads(capsys):
    """What the interpreter prints of an exception that nobody caught."""
    with RawServer(closing(echoes(TOKEN)["no json, bad utf-8"])) as server, secret_client(server) as client:
        try:
            client.chat("x")
        except GigaChatException:
            sys.excepthook(*sys.exc_info())
    shown = capsys.readouterr().err
    assert "InvalidResponseError" in shown
    assert_no_secret(shown)


def test_token_is_forgotten_with_the_stream(call):
    """A stream that ends badly holds nothing secret in what it raises."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    with RawServer(resetting(head, chunk(delta("x")))) as server, secret_client(server) as client:
        with pytest.raises(GigaChatException) as caught:
            call(client, "stream", "x")
    assert_no_secret(everything_of(caught.value))


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (401, {"status": 401, "message": "Unauthorized"}, True),
        (403, {"status": 403, "message": "Forbidden"}, True),
        (403, "<html>blocked</html>", True),
        (404, {"status": 404, "message": "No such model"}, True),
        (404, {"status": 404, "message": "No such file"}, False),
        (500, {"status": 500, "message": "Internal"}, False),
    ],
)
def test_default_address(monkeypatch, call, status, body, told):
    """Where the default address is in use, a failure that keys of today meet there names the address of today."""
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    with RawServer(always(answer(data, f"{status} X"))) as server:
        monkeypatch.setattr(socket, "getaddrinfo", addresses_of(server))
        default = f"http://gigachat.devices.sberbank.ru:{server.port}/api/v1"
        for base_url in (default, server.base_url):
            with GigaChat(base_url=base_url, access_token="token", timeout=20) as client:
                with pytest.raises(GigaChatException) as caught:
                    call(client, "chat", "Привет")
            assert ("https://api.giga.chat/v1" in str(caught.value)) == (told and base_url == default)


def test_default_address_that_cannot_be_reached(monkeypatch, call):
    """The same where the connection fails."""

    def unknown(host, *args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with GigaChat(access_token="token") as client, pytest.raises(APIConnectionError, match=r"api\.giga\.chat/v1"):
        call(client, "get_models")


def addresses_of(server):
    """Give a getaddrinfo() that leads every name to a server."""
    return lambda host, port, *args, **kwargs: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]
