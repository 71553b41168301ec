"""Auth: every source of a token, who wins over whom, and when a token is asked for, kept, dropped and renewed."""

import asyncio
import base64
import re
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import CERTS
from faults import SERVER_TLS, WAIT_SECONDS, RawServer, answer
from local_server import LocalServer

from gigachat_lite import (
    AccessToken,
    APIConnectionError,
    AuthenticationError,
    ConfigurationError,
    GigaChat,
    RateLimitError,
    ServerError,
    authorization_cvar,
    custom_headers_cvar,
)

OAUTH, TOKEN, CHAT = "/api/v2/oauth", "/api/v1/token", "/api/v1/chat/completions"
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def paths(server):
    return [request.path for request in server.requests]


def authorizations(server):
    """Give the Authorization of each API call."""
    return [request.headers.get("Authorization") for request in server.requests if request.path == CHAT]


def basic(pair):
    return "Basic " + base64.b64encode(pair.encode()).decode()


@pytest.fixture
def connect(settings):
    """Make clients that know the server, with the sources of a token that the test names and no others."""
    clients = []

    def make(**sources):
        clients.append(GigaChat(**{**settings, "credentials": None, **sources}))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


# ---------- the token requests


@pytest.mark.parametrize("scope", ["GIGACHAT_API_PERS", "GIGACHAT_API_B2B", "GIGACHAT_API_CORP"])
def test_oauth_request(connect, server, call, scope):
    """The OAuth request, header for header, and the call behind it with the token that it gave."""
    client = connect(credentials=server.key_for(scope), scope=scope)
    call(client, "chat", "Привет")
    assert paths(server) == [OAUTH, CHAT]
    request = server.requests[0]
    headers = dict(request.headers.raw)
    assert request.method == "POST"
    assert request.body == b"scope=" + scope.encode()
    assert UUID4.fullmatch(headers.pop("RqUID"))
    assert headers.pop("User-Agent").startswith("gigachat_lite/")
    assert headers == {
        "Host": f"localhost:{server.port}",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Authorization": "Basic " + server.key_for(scope),
        "Content-Type": "application/x-www-form-urlencoded",
        "Content-Length": str(len(request.body)),
    }
    assert authorizations(server) == [f"Bearer {client.token}"]


def test_scope_is_quoted(connect, server):
    """A scope with odd characters is written as a form, so that it stays one field."""
    with pytest.raises(Exception, match="scope data format invalid"):
        connect(credentials=server.credentials, scope="A&B=c д").chat("Привет")
    assert server.requests[0].body == b"scope=A%26B%3Dc+%D0%B4"


def test_rquid_is_fresh(client, server, call):
    """Each token request has an RqUID of its own."""
    for _ in range(20):
        server.revoke_tokens()
        call(client, "chat", "Привет")
    ids = [request.headers["RqUID"] for request in server.requests if request.path == OAUTH]
    assert len(ids) == len(set(ids)) == 20
    assert all(uuid.UUID(one).version == 4 and uuid.UUID(one).variant == uuid.RFC_4122 for one in ids)


def test_token_request(connect, server, call):
    """``POST /token``: user and password in UTF-8, no body; its token serves the call."""
    server.user, server.password = "маша", "пароль: 1"
    client = connect(user="маша", password="пароль: 1")
    call(client, "chat", "Привет")
    assert paths(server) == [TOKEN, CHAT]
    request = server.requests[0]
    assert (request.method, request.body) == ("POST", b"")
    assert request.headers["Content-Length"] == "0"
    assert request.headers["Authorization"] == basic("маша:пароль: 1")
    assert "RqUID" not in request.headers
    assert "Content-Type" not in request.headers
    assert authorizations(server) == [f"Bearer {client.token}"]


@pytest.mark.parametrize("method", ["chat", "stream"])
def test_one_token_for_many_calls(client, server, call, method):
    """A token serves until it runs out: one token request for all calls, plain or streamed."""
    for _ in range(5):
        call(client, method, "Привет")
    assert paths(server) == [OAUTH] + [CHAT] * 5


def test_two_loops(client, server):
    """A token fetched in one event loop, or without any, serves in all others."""
    for _ in range(3):
        asyncio.run(client.achat("Привет"))
    client.chat("Привет")
    assert paths(server).count(OAUTH) == 1


# ---------- sources and their priority


def test_access_token_alone(connect, server, call):
    """A given token is used as it is; nothing is asked for."""
    token = server.issue_token()
    call(connect(access_token=token), "chat", "Привет")
    assert paths(server) == [CHAT]
    assert authorizations(server) == [f"Bearer {token}"]


def test_access_token_alone_refused(connect, server, call):
    """A given token that is refused raises, is not repeated, and stays."""
    client = connect(access_token="stale")
    for _ in range(2):
        with pytest.raises(AuthenticationError):
            call(client, "chat", "Привет")
    assert authorizations(server) == ["Bearer stale"] * 2
    assert client.token == "stale"


@pytest.mark.parametrize("method", ["chat", "stream"])
@pytest.mark.parametrize(
    ("sources", "endpoint"),
    [({"credentials": True}, OAUTH), ({"user": "user", "password": "password"}, TOKEN)],
)
def test_access_token_with_a_fall_back(connect, server, call, sources, endpoint, method):
    """A given token comes first; when it is refused, credentials or password get another, for good."""
    sources = {name: server.credentials if value is True else value for name, value in sources.items()}
    client = connect(access_token="stale", **sources)
    assert call(client, method, "Привет")
    assert call(client, method, "Привет")
    assert paths(server) == [CHAT, endpoint, CHAT, CHAT]
    assert authorizations(server) == ["Bearer stale"] + [f"Bearer {client.token}"] * 2


def test_credentials_beat_password(connect, server, call):
    """With both, credentials are used."""
    call(connect(credentials=server.credentials, user="user", password="password"), "chat", "Привет")
    assert paths(server) == [OAUTH, CHAT]


@pytest.mark.parametrize("sources", [{"user": "user"}, {"password": "password"}, {}])
def test_nothing_to_authenticate_with(connect, server, call, sources):
    """Half a login, or none, is a ConfigurationError that names the settings, before anything is sent."""
    for method in ("chat", "stream", "get_models"):
        arguments = () if method == "get_models" else ("Привет",)
        with pytest.raises(ConfigurationError, match=r"credentials \(GIGACHAT_CREDENTIALS\).*access_token"):
            call(connect(**sources), method, *arguments)
    assert server.connections == 0


def test_client_certificate_alone(call):
    """With a client certificate no token is asked for, and no Authorization sent, nor with an ssl_context."""
    with LocalServer(tls=SERVER_TLS, client_ca=str(CERTS / "ca.pem")) as server:
        with GigaChat(
            base_url=server.base_url,
            auth_url=server.auth_url,
            ca_bundle_file=str(CERTS / "ca.pem"),
            cert_file=str(CERTS / "client.pem"),
            key_file=str(CERTS / "client.key"),
        ) as client:
            assert call(client, "chat", "Привет").choices
            assert call(client, "get_token") is None
        assert authorizations(server) == [None]
        assert paths(server) == [CHAT]


def test_client_certificate_and_credentials(call):
    """With both, the token is asked for and sent."""
    with LocalServer(tls=SERVER_TLS, client_ca=str(CERTS / "ca.pem")) as server:
        with GigaChat(
            base_url=server.base_url,
            auth_url=server.auth_url,
            ca_bundle_file=str(CERTS / "ca.pem"),
            cert_file=str(CERTS / "client.pem"),
            key_file=str(CERTS / "client.key"),
            credentials=server.credentials,
        ) as client:
            call(client, "chat", "Привет")
            assert authorizations(server) == [f"Bearer {client.token}"]


@pytest.mark.parametrize("method", ["chat", "stream"])
@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
def test_custom_header_beats_all(connect, server, call, name, method):
    """custom_headers_cvar's Authorization is the one that is sent, whatever else there is; nothing is fetched."""
    token = server.issue_token()
    custom_headers_cvar.set({name: f"Bearer {token}"})
    authorization_cvar.set("Bearer of nothing")
    call(connect(access_token="stale", credentials=server.credentials), method, "Привет")
    assert paths(server) == [CHAT]
    assert authorizations(server) == [f"Bearer {token}"]
    assert sum(name.lower() == "authorization" for name, _ in server.requests[0].headers.raw) == 1


@pytest.mark.parametrize("method", ["chat", "stream"])
@pytest.mark.parametrize("sources", ["credentials", "access_token", "user", "none"])
def test_authorization_cvar(connect, server, call, sources, method):
    """authorization_cvar replaces every source, whole as it is, and no token is fetched."""
    all_sources = {
        "credentials": {"credentials": server.credentials},
        "access_token": {"access_token": "stale"},
        "user": {"user": "user", "password": "password"},
        "none": {},
    }
    token = server.issue_token()
    authorization_cvar.set(f"Bearer {token}")
    call(connect(**all_sources[sources]), method, "Привет")
    assert paths(server) == [CHAT]
    assert authorizations(server) == [f"Bearer {token}"]


def test_authorization_cvar_refused(connect, server, call):
    """When its token is refused that is the caller's business: no renewal, no second try, the cache stays."""
    client = connect(credentials=server.credentials)
    mine = client.get_token().access_token
    server.reset()
    authorization_cvar.set("Bearer of nothing")
    with pytest.raises(AuthenticationError):
        call(client, "chat", "Привет")
    assert paths(server) == [CHAT]
    assert client.token == mine


# ---------- what get_token() gives


def test_get_token(client, server, call):
    """get_token() gives the AccessToken, asks for one only when there is none, and ``token`` is its text."""
    assert client.token is None
    token = call(client, "get_token")
    assert type(token) is AccessToken
    assert client.token == token.access_token
    assert abs(token.expires_at / 1000 - time.time() - 1800) < 60
    assert set(token.x_headers) == {"x-request-id", "x-session-id", "x-client-id"}
    assert call(client, "get_token") == token
    call(client, "chat", "Привет")
    assert paths(server) == [OAUTH, CHAT]


def test_get_token_with_password(connect, server, call):
    """The same for a password: ``exp`` becomes ``expires_at``, in milliseconds."""
    token = call(connect(user="user", password="password"), "get_token")
    assert abs(token.expires_at / 1000 - time.time() - 1800) < 60


def test_get_token_of_access_token(connect, server, call):
    """A given token comes back with an expiry of 0: not known."""
    client = connect(access_token="mine")
    assert client.token == "mine"
    assert call(client, "get_token") == AccessToken(access_token="mine", expires_at=0)
    assert server.connections == 0


def test_get_token_of_nothing(connect, server, call):
    """Without a source there is None, and no error."""
    client = connect()
    assert call(client, "get_token") is None
    assert client.token is None
    assert server.connections == 0


def test_get_token_under_authorization_cvar(client, server, call):
    """Under authorization_cvar nothing is fetched: None."""
    authorization_cvar.set("Bearer x")
    assert call(client, "get_token") is None
    assert server.connections == 0


# ---------- expiry

OAUTH_ANSWERS = [
    ("expires_at", 1000),
    ("expires_at", 1),
    ("exp", 1000),
    ("exp", 1),
]


def token_answer(name, unit, seconds):
    field = "access_token" if name == "expires_at" else "tok"
    return {field: "fresh", name: int((time.time() + seconds) * unit)}


@pytest.mark.parametrize("path", [OAUTH, TOKEN])
@pytest.mark.parametrize(("name", "unit"), OAUTH_ANSWERS)
def test_units_of_expiry(connect, server, call, path, name, unit):
    """Either endpoint may answer in either shape, in seconds or milliseconds; none logs in before each call."""
    sources = {"credentials": server.credentials} if path == OAUTH else {"user": "user", "password": "password"}
    client = connect(**sources)
    server.answer_next(path, 200, token_answer(name, unit, 1800))
    server.answer_next("/chat", 200, {"choices": []}, times=None)
    for _ in range(3):
        call(client, "chat", "Привет")
    assert paths(server) == [path, CHAT, CHAT, CHAT]
    assert authorizations(server) == ["Bearer fresh"] * 3
    assert abs(client.get_token().expires_at - (time.time() + 1800) * 1000) < 60_000


@pytest.mark.parametrize("unit", [1, 1000])
@pytest.mark.parametrize(
    ("life", "buffer_ms", "logins"),
    [
        (1800, 60_000, 1),
        (100, 60_000, 1),
        (30, 60_000, 1),  # half of a short life is used
        (40, 1_000_000_000, 1),
        (1800, 0, 1),
        (-5, 60_000, 1),  # clocks that differ
        (-1_000_000, 60_000, 1),
    ],
)
def test_short_lives(connect, server, call, unit, life, buffer_ms, logins):
    """A token that lives shorter than the buffer does not mean a login for every call."""
    client = connect(credentials=server.credentials, token_expiry_buffer_ms=buffer_ms)
    server.answer_next("/oauth", 200, token_answer("expires_at", unit, life), times=None)
    server.answer_next("/chat", 200, {"choices": []}, times=None)
    for _ in range(4):
        call(client, "chat", "Привет")
    assert paths(server).count(OAUTH) == logins


@pytest.mark.parametrize("expires_at", [None, 0, -1, True, "soon", "1800000000000", 1e400, 10**30, 1e16 + 0.5])
def test_odd_expiry(connect, server, call, expires_at):
    """An expiry that is missing or senseless is not known: the token is used until it is refused."""
    client = connect(credentials=server.credentials)
    if expires_at == float("inf"):
        server.answer_next("/oauth", 200, b'{"access_token":"fresh","expires_at":1e400}')
    else:
        server.answer_next("/oauth", 200, {"access_token": "fresh", "expires_at": expires_at})
    server.answer_next("/chat", 200, {"choices": []}, times=None)
    for _ in range(3):
        call(client, "chat", "Привет")
    assert paths(server) == [OAUTH, CHAT, CHAT, CHAT]


def test_renewal_ahead_of_expiry(settings, call):
    """When a token's time is over it is renewed before the call, which so never sees a 401."""
    with LocalServer(tls=SERVER_TLS, token_life_seconds=0.08) as server:
        addresses = {"base_url": server.base_url, "auth_url": server.auth_url, "credentials": server.credentials}
        with GigaChat(**{**settings, **addresses}) as client:
            first = client.get_token()
            while time.time() < first.expires_at / 1000:
                time.sleep(0.01)
            server.token_life_seconds = 1800
            assert call(client, "chat", "Привет").choices
            assert paths(server) == [OAUTH, OAUTH, CHAT]
            assert client.token != first.access_token


@pytest.mark.parametrize(("buffer_ms", "logins"), [(60_000, 1), (900_000, 2)])
def test_buffer(monkeypatch, client, server, settings, buffer_ms, logins):
    """token_expiry_buffer_ms says how long ahead a token is renewed, by the wall clock."""
    with GigaChat(**settings, token_expiry_buffer_ms=buffer_ms) as client:
        client.chat("Привет")
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 1200)  # of its 1800 seconds
        client.chat("Привет")
        monkeypatch.undo()
    assert paths(server).count(OAUTH) == logins


# ---------- 401


@pytest.mark.parametrize("method", ["chat", "stream"])
def test_revoked_token(client, server, call, method):
    """A token that is refused is dropped; the call is repeated with a fresh one, and the caller sees an answer."""
    call(client, method, "Привет")
    old = client.token
    server.revoke_tokens()
    assert call(client, method, "Привет")
    assert paths(server) == [OAUTH, CHAT, CHAT, OAUTH, CHAT]
    assert authorizations(server) == [f"Bearer {old}"] * 2 + [f"Bearer {client.token}"]
    assert client.token != old


def test_refused_upload_is_sent_again(client, server, call):
    """An upload is repeated whole after a 401."""
    client.get_token()
    server.revoke_tokens()
    assert call(client, "upload_file", ("a.txt", b"0123456789")).bytes == 10
    bodies = [request.body for request in server.requests if request.path == "/api/v1/files"]
    assert len(bodies) == 2
    assert all(b"0123456789" in body for body in bodies)
    assert len(bodies[0]) == len(bodies[1])


@pytest.mark.parametrize("method", ["chat", "stream"])
@pytest.mark.parametrize("retries", [0, 3])
def test_refused_again(settings, server, call, method, retries):
    """A 401 with a fresh token raises: two tries, whatever the number of retries."""
    server.answer_next("/chat", 401, {"status": 401, "message": "Unauthorized"}, times=None)
    with GigaChat(**settings, max_retries=retries) as client:
        with pytest.raises(AuthenticationError, match="Unauthorized"):
            call(client, method, "Привет")
    assert paths(server) == [OAUTH, CHAT, OAUTH, CHAT]
    assert len(set(authorizations(server))) == 2


@pytest.mark.parametrize("status", [400, 401, 403])
def test_refused_credentials(client, server, call, status):
    """An error of the token endpoint is the call's, asked for once; the next call asks anew."""
    server.answer_next("/oauth", status, {"code": 6, "message": "credentials doesn't match db data"})
    with pytest.raises(Exception, match=f"^{status} POST /api/v2/oauth"):
        call(client, "chat", "Привет")
    assert paths(server) == [OAUTH]
    assert call(client, "chat", "Привет").choices


def test_renewal_that_fails(client, server, call):
    """When the renewal after a 401 fails, its error is the call's."""
    call(client, "chat", "Привет")
    server.revoke_tokens()
    server.answer_next("/oauth", 503, b"")
    with pytest.raises(ServerError, match="POST /api/v2/oauth"):
        call(client, "chat", "Привет")
    assert call(client, "chat", "Привет").choices


def test_other_statuses_keep_the_token(client, server, call):
    """Only a 401 drops a token."""
    call(client, "chat", "Привет")
    for status in (400, 403, 404, 429, 500):
        server.answer_next("/chat", status, b"{}")
        with pytest.raises(Exception, match=f"^{status} "):
            call(client, "chat", "Привет")
    call(client, "chat", "Привет")
    assert paths(server).count(OAUTH) == 1


def test_late_refusal_keeps_the_newer_token(call):
    """A 401 for an old token that arrives late throws no newer token away.

    Two calls go out with token 1. One is refused at once, gets token 2 and its answer; only then the other is refused.
    """
    both_are_here, renewed = threading.Event(), threading.Event()
    tokens = iter(["one", "two", "three"])
    stale = []

    def handler(wire):
        while True:
            request = wire.receive()
            if request is None:
                return
            if request.path.endswith("/oauth"):
                wire.send(answer({"access_token": next(tokens), "expires_at": 0}))
            elif request.headers["authorization"] == "Bearer one":
                stale.append(request)
                if request is stale[0]:
                    assert both_are_here.wait(WAIT_SECONDS)
                else:
                    both_are_here.set()
                    assert renewed.wait(WAIT_SECONDS)
                wire.send(answer({"status": 401, "message": "Token has expired"}, "401 Unauthorized"))
            else:
                wire.send(answer())
                renewed.set()

    with RawServer(handler) as server:
        with GigaChat(base_url=server.base_url, auth_url=server.auth_url, credentials="a2V5OmtleQ==") as client:
            client.get_token()
            with ThreadPoolExecutor(2) as pool:
                results = [pool.submit(call, client, "chat", "Привет") for _ in range(2)]
            assert all(result.result().choices for result in results)
            assert client.token == "two"
        sent = [request.headers.get("authorization") for request in server.requests if request.path == CHAT]
        assert sorted(sent) == ["Bearer one"] * 2 + ["Bearer two"] * 2
        assert [request.path for request in server.requests].count(OAUTH) == 2


# ---------- many callers at once


def chats_at_once(client, count, how):
    """Let *count* threads or tasks chat at the same time; give results and errors."""
    if how == "tasks":

        async def run():
            calls = [client.achat(f"Вопрос {number}") for number in range(count)]
            return await asyncio.gather(*calls, return_exceptions=True)

        return asyncio.run(run())
    start = threading.Barrier(count)

    def chat(number):
        start.wait(WAIT_SECONDS)
        try:
            return client.chat(f"Вопрос {number}")
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(chat, range(count)))


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_one_token_request_for_all(client, server, how):
    """50 callers of a cold client make one token request; so do 50 whose token has been revoked."""
    assert all(answer.choices for answer in chats_at_once(client, 50, how))
    assert paths(server).count(OAUTH) == 1
    assert len(set(authorizations(server))) == 1
    server.revoke_tokens()
    assert all(answer.choices for answer in chats_at_once(client, 50, how))
    assert paths(server).count(OAUTH) == 2


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_one_failed_token_request_for_all(how):
    """Those who wait for a token request that fails get its error; they do not each make another one."""
    all_wait = threading.Event()

    def handler(wire):
        while wire.receive():
            assert all_wait.wait(WAIT_SECONDS)
            wire.send(answer({"status": 429, "message": "Too many requests"}, "429 Too Many", Retry_After="7"))

    with RawServer(handler) as server:
        with GigaChat(base_url=server.base_url, auth_url=server.auth_url, credentials="a2V5OmtleQ==") as client:
            release = threading.Timer(0.05, all_wait.set)  # who comes later makes a request of his own
            release.start()
            failures = chats_at_once(client, 20, how)
            release.join()
        assert {type(failure) for failure in failures} == {RateLimitError}
        assert {failure.retry_after for failure in failures} == {7.0}
        assert len({id(failure) for failure in failures}) == 20  # each has a traceback of its own
        assert len(server.requests) < 20


def test_slow_login_does_not_hold_back_calls(connect, server):
    """While one client logs in, calls that bring their own Authorization go through: no lock is held."""
    token = server.issue_token()
    with RawServer(lambda wire: wire.receive() and wire.wait_for_close()) as silent:
        client = connect(credentials=server.credentials, auth_url=silent.auth_url)
        failures = []

        def log_in():
            try:
                client.chat("Привет")
            except APIConnectionError as error:
                failures.append(error)

        blocked = threading.Thread(target=log_in)
        blocked.start()
        silent.wait(lambda: len(silent.requests) == 1)
        authorization_cvar.set(f"Bearer {token}")
        assert client.chat("Привет").choices
        client.close()
        blocked.join(WAIT_SECONDS)
        assert len(failures) == 1
