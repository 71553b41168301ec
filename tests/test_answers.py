"""Answers that are not what the API documents: a right value or a GigaChatException, never anything else."""

import gzip
import json
import threading
import time

import pytest
from faults import COMPLETION, RawServer, always, answer, closing, well_behaved

from gigachat_lite import (
    AuthenticationError,
    BadRequestError,
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
    UnprocessableEntityError,
)


def raw_client(server, **settings):
    """Make a client of a RawServer; it needs no token request."""
    return GigaChat(**{"base_url": server.base_url, "access_token": "token", "timeout": 20, **settings})


# Every shape of result that the endpoints have.
CALLS = {
    "chat": ("x",),
    "get_models": (),
    "get_model": ("x",),
    "embeddings": ("x",),
    "tokens_count": ("x",),
    "upload_file": (b"x",),
    "get_file": ("x",),
    "get_files": (),
    "delete_file": ("x",),
    "get_balance": (),
    "check_ai": ("x", "y"),
    "openapi_function_convert": ("x",),
    "validate_function": ({"name": "x"},),
    "check_filter": ("x",),
    "create_batch": (["x"],),
    "get_batches": (),
    "get_batch": ("x",),
    "assistants.get": (),
    "assistants.create": ("GigaChat", "x"),
    "threads.list": (),
    "threads.create_thread": (),
    "threads.add_messages": (["x"],),
    "threads.get_messages": ("x",),
    "threads.get_run": ("x",),
    "threads.run_messages": (["x"],),
}

NO_ANSWERS = {
    "empty": b"",
    "blank": b" \r\n",
    "html": b"<html><body>hello</body></html>",
    "null": b"null",
    "number": b"1",
    "text": b'"text"',
    "true": b"true",
    "array of numbers": b"[1]",
    "nothing in it": b"{}",
    "wrong types": b'{"choices":5,"data":5,"id":[],"messages":5,"threads":5,"access_token":[],"message":5,"id_":1}',
    "items of wrong types": b'{"choices":[5],"data":[5],"messages":[5],"threads":[null],"batches":[5]}',
    "nulls": b'{"choices":null,"data":null,"id":null,"messages":null,"message":null,"balance":null}',
    "invalid utf-8": b'{"choices":[],"data":[],"model":"\xff"}',
    "utf-16": '{"choices":[]}'.encode("utf-16"),
    "truncated": b'{"choices":[{"message":{"content":"a"',
    "two objects": b'{"choices":[]}{"choices":[]}',
    "deep array": b"[" * 100_000,
    "deep object": b'{"data":' * 100_000,
    "deep and closed": b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "long number": b'{"choices":' + b"9" * 10_000 + b',"data":1}',
    "nan": b'{"choices":NaN,"data":NaN}',
    "nan inside": b'{"choices":[],"data":[],"created":NaN}',
    "infinity": b'{"choices":[],"data":[],"created":-Infinity}',
}


@pytest.mark.parametrize("body", NO_ANSWERS.values(), ids=list(NO_ANSWERS))
def test_no_answer(body):
    """Each endpoint makes an InvalidResponseError, or a value, of any rubbish; a chat never makes a value of it."""
    with RawServer(always(answer(body))) as server, raw_client(server) as client:
        for name, arguments in CALLS.items():
            method = client
            for part in name.split("."):
                method = getattr(method, part)
            try:
                method(*arguments)
            except InvalidResponseError as error:
                assert len(str(error)) < 500 and "\n" not in str(error)
            else:
                assert name != "chat"
        assert server.connections == 1  # the answers were read to the end


@pytest.mark.parametrize("body", [NO_ANSWERS["html"], NO_ANSWERS["deep array"]], ids=["html", "deep array"])
def test_no_answer_in_a_task(call, body):
    """The same from an event loop, whose threads have stacks of their own."""
    with RawServer(always(answer(body))) as server, raw_client(server) as client:
        with pytest.raises(InvalidResponseError):
            call(client, "chat", "Привет")


def test_odd_values_are_kept(call):
    """Unknown keys, names of our own attributes, surrogates and long numbers do not break a model."""
    odd = {"to_dict": 1, "_adopt": 2, "__class__": 3, "__dict__": 4, "x_headers": 5, "choices_": 6, "": 7}
    choice = {
        "message": {"content": "\ud800", "role": "новая", "to_dict": 1, "_essential": 2},
        "finish_reason": "новая",
    }
    body = json.dumps({**odd, "choices": [{**choice, **odd}], "created": 10**400}).encode()
    with RawServer(always(answer(body))) as server, raw_client(server) as client:
        completion = call(client, "chat", "Привет")
    assert completion.choices[0].message.content == "\ud800"
    assert completion.created == 10**400
    assert type(completion).to_dict(completion)["__class__"] == 3
    assert completion == completion and "новая" in repr(completion)


def test_odd_token(call):
    """An answer of the token endpoint with keys that are our own names."""

    def reply(request):
        if request.path.endswith("/oauth"):
            return answer({"access_token": "new", "expires_at": 0, "to_dict": 1, "x_headers": 2, "_adopt": 3})
        return answer()

    with RawServer(always(reply)) as server:
        with raw_client(server, access_token=None, credentials="YTpi", auth_url=server.auth_url) as client:
            assert call(client, "chat", "Привет").choices
        assert server.requests[-1].headers["authorization"] == "Bearer new"


def test_unexpected_gzip(call):
    """A body that is compressed although we did not ask for that is refused by name."""
    body = gzip.compress(json.dumps(COMPLETION).encode())
    with RawServer(always(answer(body, Content_Encoding="gzip"))) as server, raw_client(server) as client:
        with pytest.raises(InvalidResponseError, match="gzip"):
            call(client, "chat", "Привет")
        assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", ["204 No Content", "205 Reset Content", "200 OK"])
def test_no_content(call, status):
    """A success without a body is no completion."""
    reply = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()
    with RawServer(always(reply)) as server, raw_client(server) as client:
        with pytest.raises(InvalidResponseError, match="empty body"):
            call(client, "chat", "Привет")


# ---------- error statuses

KINDS = {
    400: BadRequestError,
    401: AuthenticationError,
    402: PaymentRequiredError,
    403: ForbiddenError,
    404: NotFoundError,
    413: RequestEntityTooLargeError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}
STATUSES = [101, *range(300, 309), *range(400, 432), 451, 499, *range(500, 512), 599, 600, 999]


@pytest.mark.parametrize("method", ["chat", "stream", "download_file"])
def test_statuses(call, method):
    """Each status that is no success is its own exception, whatever the body is: JSON, a page, nothing."""
    shown = {}
    bodies = [b'{"status":1,"message":"\xd0\x9d\xd0\xb5\xd1\x82"}\n', b"<html><h1>No</h1></html>", b"", b"\xff\xfe"]

    def reply(_):
        return answer(shown["body"], f"{shown['status']} Reason")

    with RawServer(always(reply)) as server, raw_client(server) as client:
        for number, status in enumerate(STATUSES):
            for body in bodies if method == "chat" else [bodies[number % 4]]:
                shown.update(status=status, body=body)
                with pytest.raises(ResponseError) as caught:
                    call(client, method, "x")
                error = caught.value
                kind = KINDS.get(status) or (ServerError if status >= 500 else ResponseError)
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
