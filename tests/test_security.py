"""Secrets stay inside, and nothing that a caller or a server writes breaks out of its place."""

import base64
import copy
import gc
import io
import json
import logging
import pickle
import re
import sys
import traceback
import urllib.parse
import warnings

import pytest
from conftest import CERTS
from faults import RawServer, always, answer, chunk, closing, delta, event, resetting, silent_after, well_behaved

import gigachat_lite
from gigachat_lite import (
    APIConnectionError,
    ConfigurationError,
    GigaChat,
    GigaChatException,
    ResponseError,
)

TOKEN = "tok3n/SECRET+of=mine"
NEW_TOKEN = "eyJjdHkiOiJqd3QiLCJlbmMi.n3w/SECRET+token.of-some-length=="
CREDENTIALS = base64.b64encode(b"SECRET-id?>:SECRET-k3y?>~\xff").decode()  # with "/" and "+" in it
PASSWORD = "pa55/SECRET+word"
KEY_PASSWORD = "SECRET-key-passphrase"
PROXY_PASSWORD = "pr0xy-SECRET-word"
USER_PASSWORD = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
PROXY_USER_PASSWORD = base64.b64encode(f"user:{PROXY_PASSWORD}".encode()).decode()
SECRETS = [
    TOKEN,
    NEW_TOKEN,
    CREDENTIALS,
    PASSWORD,
    KEY_PASSWORD,
    PROXY_PASSWORD,
    USER_PASSWORD,
    PROXY_USER_PASSWORD,
]


def raw_client(server, **settings):
    """Make a client of a RawServer; it needs no token request."""
    return GigaChat(**{"base_url": server.base_url, "access_token": TOKEN, "timeout": 20, **settings})


def assert_no_secret(text, also=()):
    for secret in [*SECRETS, *also]:
        assert secret not in text, text


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
        chain += [one.__cause__, one.__context__ if not one.__suppress_context__ else None]
    shown.append(repr(pickle.loads(pickle.dumps(error))))
    return "\n".join(shown)


# ---------- secrets


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


CASES = list(echoes(""))


def provoke(client, call, caplog, also=()):
    for method in ("chat", "stream", "get_token", "download_file"):
        try:
            call(client, method, *(["x"] if method != "get_token" else []))
        except GigaChatException as error:
            assert_no_secret(everything_of(error), also)
    assert_no_secret(caplog.text + repr([record.args for record in caplog.records]), also)


@pytest.mark.parametrize("case", CASES)
def test_echoed_token(call, caplog, case):
    """A server that shows us our own token does not bring it into any exception or log."""
    caplog.set_level(logging.DEBUG)
    with RawServer(closing(echoes(TOKEN)[case])) as server, raw_client(server) as client:
        provoke(client, call, caplog)


@pytest.mark.parametrize("case", CASES)
def test_echoed_credentials(call, caplog, case):
    """The same of the token endpoints and what they are sent."""
    caplog.set_level(logging.DEBUG)
    with RawServer(closing(echoes(CREDENTIALS)[case])) as server:
        with raw_client(server, access_token=None, auth_url=server.auth_url, credentials=CREDENTIALS) as client:
            provoke(client, call, caplog)
    for secret in (PASSWORD, USER_PASSWORD):
        with RawServer(closing(echoes(secret)[case])) as server:
            with raw_client(server, access_token=None, user="user", password=PASSWORD) as client:
                provoke(client, call, caplog)


def test_echoed_client_secret(call):
    """The same of what the credentials are the base64 of."""
    pair = "client-id:t0p-client-SECRET"
    said = json.dumps({"code": 4, "message": f"cannot read {pair}"}).encode()
    with RawServer(closing(b"HTTP/1.1 400 No\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))) as server:
        credentials = base64.b64encode(pair.encode()).decode()
        with raw_client(server, access_token=None, auth_url=server.auth_url, credentials=credentials) as client:
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
            with raw_client(server, base_url=base_url, proxy=proxy) as client:
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
            with raw_client(server, access_token=None, auth_url=server.auth_url, **settings) as client:
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
            with raw_client(server, **{"timeout": 0.1, **settings}) as client:
                with pytest.raises(GigaChatException) as caught:
                    call(client, "chat", "x")
                assert_no_secret(everything_of(caught.value))
                shown = [client, client._settings, client._pool, client._opener, copy.copy(client), client.threads]
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
        with raw_client(server, access_token=None, **settings) as client:
            shown = [call(client, "chat", "x"), call(client, "get_token"), client, client.assistants]
            stream = client.stream("x")
            shown += [stream, client.astream("x"), stream._batches, client._workers, client._settings]
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
                client = raw_client(server, access_token=None, auth_url=server.auth_url, **settings)
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
    with RawServer(closing(echoes(TOKEN)["no json, bad utf-8"])) as server, raw_client(server) as client:
        try:
            client.chat("x")
        except GigaChatException:
            sys.excepthook(*sys.exc_info())
    shown = capsys.readouterr().err
    assert "InvalidResponseError" in shown
    assert_no_secret(shown)


# ---------- nothing breaks out of its place

BREAKS = [
    "a\r\nX-Evil: 1",
    "a\nX-Evil: 1",
    "a\rX-Evil: 1",
    "a\0b",
    "a\x0bb",
    "a\x85b\u2028c",
    "\r\n\r\nGET /evil HTTP/1.1\r\n\r\n",
]


def evil_in(server):
    return [one for one in server.requests if re.search(rb"[\r\n]X-Evil", one.head) or one.path.startswith("/evil")]


@pytest.mark.parametrize("text", BREAKS)
def test_context_variables(call, text):
    """No context variable ends a header: such a value is refused before anything is sent."""
    variables = [value for name, value in vars(gigachat_lite).items() if name.endswith("_cvar") and name[0] != "_"]
    with RawServer(well_behaved) as server, raw_client(server) as client:
        for variable in variables:
            values = [{"X-A": text}, {text: "a"}, {"Content-Length": "0"}, {"Host": "evil"}, {"Transfer-Encoding": "a"}]
            for value in values if variable is gigachat_lite.custom_headers_cvar else [text]:
                earlier = variable.set(value)
                try:
                    with pytest.raises(ValueError) as caught:
                        call(client, "chat", "x")
                    assert not isinstance(caught.value, UnicodeError) or text not in str(caught.value)
                finally:
                    variable.reset(earlier)
        assert server.requests == []


@pytest.mark.parametrize("text", BREAKS)
def test_names_and_ids(call, text):
    """Ids, names, models and file names stay where they belong: in one segment, one parameter, one field."""
    file = {"id": "f", "object": "file"}
    everything = answer({**file, "data": [], "threads": [], "batches": [{"id": text}], "messages": [], "choices": []})
    with RawServer(always(everything)) as server, raw_client(server) as client:
        for name in (
            "get_model",
            "get_file",
            "delete_file",
            "download_file",
            "get_image",
            "threads.get_messages",
            "threads.get_run",
            "assistants.get",
            "get_batch",
        ):
            try:
                call(client, name, text)
            except (GigaChatException, ValueError):
                pass
        try:
            call(client, "upload_file", (text, b"x"), text)
            call(client, "upload_file", (text, b"x", text))
        except ValueError:
            pass
        assert len(server.requests) >= 9 and evil_in(server) == []
        for request in server.requests:
            assert re.match(r"/api/v1/[A-Za-z0-9/._~%-]*\Z", request.path)
            if request.path.endswith("/files"):
                head = request.body.partition(b"\r\n\r\nx\r\n--")[0]
                assert b"\nX-Evil" not in head.partition(b'name="file"')[2]


SEGMENTS = [
    "..",
    ".",
    "../../admin",
    "a/b",
    "a?b=c",
    "a#b",
    "a%2fb",
    "%2e%2e",
    "a\\b",
    "//evil.invalid/",
    "http://evil.invalid/",
    " ",
    "ы",
]


@pytest.mark.parametrize("segment", SEGMENTS)
def test_path_arguments(call, segment):
    """An argument in a path is one segment of it and nothing else, whoever normalises it on the way."""
    with RawServer(always(answer({"id": "x", "object": "model"}))) as server, raw_client(server) as client:
        call(client, "get_model", segment)
        (request,) = server.requests
        head, _, last = request.target.rpartition("/")
        assert head == "/api/v1/models"
        assert urllib.parse.unquote(last) == segment
        assert last not in (".", "..") and not set("/?#\\ ") & set(last)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://host/x",
        "data:text/plain,x",
        "javascript:1",
        "//host/v1",
        "",
        "http:///x",
        "https://",
        "unix:/x",
        "FILE:///etc/passwd",
        "jar:http://x",
        "http://a b/",
    ],
)
@pytest.mark.parametrize("name", ["base_url", "auth_url"])
def test_other_addresses(name, url):
    """Only http:// and https:// addresses are taken, with a host."""
    if url:
        with pytest.raises(ConfigurationError, match=name):
            GigaChat(**{name: url})


def test_chat_path_stays_below_base_url(call):
    """chat_url_cvar is a path: it changes neither host nor scheme."""
    with RawServer(well_behaved) as server, raw_client(server) as client:
        for path in (
            "http://evil.invalid/x",
            "evil",
            "@evil.invalid/",
            ".evil.invalid/",
            "",
            " /x",
            "/a b",
            "/a\r\nX: y",
        ):
            earlier = gigachat_lite.chat_url_cvar.set(path)
            try:
                call(client, "chat", "x")
            except ValueError:
                pass
            finally:
                gigachat_lite.chat_url_cvar.reset(earlier)
        assert all(request.path.startswith("/api/v1/") for request in server.requests)


def test_refused_certificate_gets_nothing(call):
    """Before a server whose certificate is not trusted, not a byte of the request leaves."""
    received = []

    def handler(wire):
        try:
            received.append(wire.sock.recv(1000))
        except OSError:
            pass

    for name in ("selfsigned", "expired", "wronghost"):
        with RawServer(handler, (str(CERTS / f"{name}.pem"), str(CERTS / f"{name}.key"))) as server:
            with raw_client(server, ca_bundle_file=CERTS / "ca.pem", max_retries=3) as client:
                with pytest.raises(APIConnectionError, match="certificate is not trusted"):
                    call(client, "chat", "x")
            server.wait(lambda server=server: server.closed == 1)
            assert server.connections == 1  # and it is not tried again
    assert not any(received)


def test_download_goes_where_it_is_told(call, tmp_path):
    """A server does not choose the name of a downloaded file; a failed download leaves none."""
    reply = answer(b"content", Content_Disposition='attachment; filename="../../evil"')
    with RawServer(always(reply)) as server, raw_client(server) as client:
        call(client, "download_file", "x", tmp_path / "wanted")
    assert [path.name for path in tmp_path.iterdir()] == ["wanted"]
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
    with RawServer(closing(cut)) as server, raw_client(server) as client:
        with pytest.raises(APIConnectionError):
            call(client, "download_file", "x", tmp_path / "other")
        with pytest.raises(APIConnectionError):
            call(client, "download_file", "x", io.BytesIO())
    assert [path.name for path in tmp_path.iterdir()] == ["wanted"]
    gc.collect()


def test_token_is_forgotten_with_the_stream(call):
    """A stream that ends badly holds nothing secret in what it raises."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    with RawServer(resetting(head, chunk(delta("x")))) as server, raw_client(server) as client:
        with pytest.raises(GigaChatException) as caught:
            call(client, "stream", "x")
    assert_no_secret(everything_of(caught.value))
