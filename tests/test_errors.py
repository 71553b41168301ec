"""Errors: the tree, what each holds and says, and what none of them shows."""

import copy
import email.utils
import json
import pickle
import time
import traceback
from email.message import Message
from http.client import HTTPMessage

import pytest
from faults import RawServer, answer

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


def everything_shown(error):
    """Give all that printing, logging or pickling an exception and its causes would show."""
    shown, seen = [], set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        shown += [str(error), repr(error), repr(error.args), repr(vars(error))]
        shown += [str(value) for value in vars(error).values() if isinstance(value, Message)]
        shown += traceback.format_exception(type(error), error, error.__traceback__)
        error = error.__cause__ or error.__context__
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
    assert str(back) == str(error) == "localhost:443: timed out"


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

    with RawServer(handler) as server, GigaChat(base_url=server.base_url, access_token="token") as client:
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
    found = RateLimitError(URL, 429, b"", headers).retry_after
    assert isinstance(found, float)
    assert found == seconds


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
    shown = everything_shown(error)
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
    assert SECRET not in everything_shown(caught.value)


def test_echoed_credentials(settings, server, call):
    """The same for the authorization key at the token endpoint, and for a password at /token."""
    server.answer_next("/oauth", 400, {"code": 4, "message": f"bad {settings['credentials']}"})
    with GigaChat(**settings) as client:
        assert settings["credentials"] not in everything_shown(failure_of(call, client))
    server.answer_next("/token", 403, b"no user with the password p@ssw0rd / dXNlcjpwQHNzdzByZA==")
    with GigaChat(**{**settings, "credentials": None, "user": "user", "password": "p@ssw0rd"}) as client:
        shown = everything_shown(failure_of(call, client))
    assert "p@ssw0rd" not in shown
    assert "dXNlcjpwQHNzdzByZA==" not in shown


def test_new_token_in_a_broken_answer(client, server, call):
    """A token that comes in an answer that cannot be read, or with an error status, is not shown either."""
    for status, kind in ((200, InvalidResponseError), (500, ServerError)):
        for body in (b'{"access_token":"S3CR3T","expires_at":17', b'{"tok": "S3CR3T", "exp": 1, }'):
            server.answer_next("/oauth", status, body)
            with pytest.raises(kind) as caught:
                call(client, "chat", "Привет")
            assert "S3CR3T" not in everything_shown(caught.value)


def test_request_headers_are_not_shown(client, call):
    """No error holds what we sent in headers: the token of the call is nowhere in it."""
    token = call(client, "get_token").access_token
    error = failure_of(call, client, "get_model", "none")
    assert token not in everything_shown(error)
    assert "Bearer" not in everything_shown(error)


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
        b'{"choices":[{"message":{"content":"\xff"}}]}',
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
