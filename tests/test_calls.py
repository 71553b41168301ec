"""The way of a call: tokens (where from, how many, how long) and retries (for what, how often, what ends a pause)."""

import asyncio
import base64
import email.utils
import logging
import re
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import CA, CERTS, patient, raw_client
from faults import (
    COMPLETION,
    DONE,
    LAST_CHUNK,
    SERVER_TLS,
    SHORT,
    SOON,
    STREAM_HEAD,
    WAIT_SECONDS,
    RawServer,
    always,
    answer,
    chunk,
    closing,
    delta,
    good_answer,
    silent_after,
)
from local_server import LocalServer

from gigachat_lite import (
    AccessToken,
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    GigaChat,
    GigaChatException,
    RateLimitError,
    ResponseError,
    ServerError,
    StreamInterruptedError,
    authorization_cvar,
    custom_headers_cvar,
)

pytestmark = pytest.mark.usefixtures("no_jitter")

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
    ("sources", "endpoint"), [({"credentials": True}, OAUTH), ({"user": "user", "password": "password"}, TOKEN)]
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
    """Half a login, or none, sends the request as it is: a gateway may add one; a 401 says what to set."""
    for method in ("chat", "stream", "get_models"):
        arguments = () if method == "get_models" else ("Привет",)
        with pytest.raises(AuthenticationError, match=r"credentials \(GIGACHAT_CREDENTIALS\).*access_token"):
            call(connect(**sources), method, *arguments)
    assert [request.headers.get("authorization") for request in server.requests] == [None] * 3


@pytest.mark.parametrize("credentials", [False, True])
def test_client_certificate(call, credentials):
    """With a client certificate alone no token is asked for, and no Authorization sent; with credentials both are."""
    with LocalServer(tls=SERVER_TLS, client_ca=CA) as server:
        settings = {"base_url": server.base_url, "auth_url": server.auth_url, "ca_bundle_file": CA}
        files = {"cert_file": str(CERTS / "client.pem"), "key_file": str(CERTS / "client.key")}
        source = server.credentials if credentials else None
        with GigaChat(**settings, **files, credentials=source) as client:
            assert call(client, "chat", "Привет").choices
            if credentials:
                assert authorizations(server) == [f"Bearer {client.token}"]
            else:
                assert call(client, "get_token") is None
                assert authorizations(server) == [None]
                assert paths(server) == [CHAT]


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

OAUTH_ANSWERS = [("expires_at", 1000), ("expires_at", 1), ("exp", 1000), ("exp", 1)]


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


@pytest.mark.parametrize(
    "expires_at",
    [None, 0, -1, -5, True, False, "", "soon", "1e5", "1800000000000", [], [1], {}, 1e400, 1e300, 10**30, 10**400]
    + [1e16 + 0.5],
)
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
        for request in wire:
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

    def handler(wire):
        while wire.receive():
            time.sleep(0.05)  # who comes later makes a request of his own
            wire.send(answer({"status": 429, "message": "Too many requests"}, "429 Too Many", Retry_After="7"))

    with RawServer(handler) as server:
        with GigaChat(base_url=server.base_url, auth_url=server.auth_url, credentials="a2V5OmtleQ==") as client:
            failures = chats_at_once(client, 20, how)
        assert {type(failure) for failure in failures} == {RateLimitError}
        assert {failure.retry_after for failure in failures} == {7.0}
        assert len({id(failure) for failure in failures}) == 20  # each has a traceback of its own
        assert len(server.requests) < 20


def test_a_login_that_timed_out_is_the_failure_of_its_caller():
    """Who waits for the token request of somebody with a shorter timeout makes one of his own."""

    def handler(wire):
        request = wire.receive()
        if len(server.requests) == 1:
            wire.wait_for_close()  # the first login gets no answer
        while request is not None:
            token = {"access_token": "t", "expires_at": 9e12}
            wire.send(answer(token) if request.path == "/oauth" else good_answer(request))
            request = wire.receive()

    with RawServer(handler) as server:
        auth_url = server.base_url.partition("/api")[0] + "/oauth"
        with GigaChat(base_url=server.base_url, auth_url=auth_url, credentials="a2V5OmtleQ==") as client:
            failures = []

            def hurried():
                try:
                    client.with_options(timeout=1).chat("a")
                except APITimeoutError as error:
                    failures.append(error)

            thread = threading.Thread(target=hurried)
            thread.start()
            server.wait(lambda: server.requests)
            assert client.chat("b").choices
            thread.join()
        assert len(failures) == 1
        assert [request.path for request in server.requests].count("/oauth") == 2


def test_slow_login_does_not_hold_back_calls(connect, server):
    """While one client logs in, calls that bring their own Authorization go through: no lock is held."""
    token = server.issue_token()
    with RawServer(lambda wire: wire.receive() and wire.wait_for_close()) as silent, ThreadPoolExecutor(1) as threads:
        client = connect(credentials=server.credentials, auth_url=silent.auth_url)
        blocked = threads.submit(client.chat, "Привет")
        silent.wait(lambda: len(silent.requests) == 1)
        authorization_cvar.set(f"Bearer {token}")
        assert client.chat("Привет").choices
        client.close()
        assert isinstance(blocked.exception(WAIT_SECONDS), APIConnectionError)


# ---------- tokens under load


class TokenServer(RawServer):
    """Gives the tokens t1, t2 and so on; the API takes those in ``valid``. ``expires_at`` is of each new one."""

    def __init__(self, expires_at=0, delay=0.0):
        super().__init__(always(self._reply))
        self.expires_at = expires_at
        self.delay = delay
        self.valid = {f"t{number}" for number in range(1, 1000)}
        self._lock = threading.Lock()
        self.given = 0

    def _reply(self, request):
        if request.path.endswith("/oauth"):
            time.sleep(self.delay)
            with self._lock:
                self.given += 1
                return answer({"access_token": f"t{self.given}", "expires_at": self.expires_at})
        if request.path.endswith("/token"):
            with self._lock:
                self.given += 1
                return answer({"tok": f"t{self.given}", "exp": self.expires_at})
        if request.headers["authorization"].split()[-1] in self.valid:
            return answer()
        return answer({"status": 401, "message": "Token has expired"}, "401 Unauthorized")

    @property
    def logins(self):
        return sum(request.path.endswith(("/oauth", "/token")) for request in self.requests)

    @property
    def calls(self):
        return len(self.requests) - self.logins


def token_client(server, **settings):
    return GigaChat(
        **{"base_url": server.base_url, "auth_url": server.auth_url, "credentials": "YTpi", "timeout": 20, **settings}
    )


def in_threads(client, count):
    with ThreadPoolExecutor(count) as threads:
        return [future.result() for future in [threads.submit(client.chat, "x") for _ in range(count)]]


def in_tasks(client, count):
    async def run():
        return await asyncio.gather(*(client.achat("x") for _ in range(count)))

    return asyncio.run(run())


def in_both(client, count):
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(in_tasks, client, count)
        return in_threads(client, count) + other.result()


crowds = pytest.mark.parametrize("crowd", [in_threads, in_tasks, in_both])


@crowds
def test_cold(crowd):
    """50 callers of a cold client make one token request."""
    with TokenServer(delay=0.05) as server, token_client(server) as client:
        assert all(completion.choices for completion in crowd(client, 50))
        assert server.logins == 1


@crowds
def test_revoked(crowd):
    """50 callers who all hold a revoked token make one more, each time."""
    with TokenServer(delay=0.05) as server, token_client(server) as client:
        client.chat("x")
        for logins in (2, 3):
            server.valid = {f"t{logins}"}
            assert all(completion.choices for completion in crowd(client, 50))
            assert server.logins == logins


def test_late_401(call):
    """A 401 that comes late does not throw away the newer token."""
    release, seen = threading.Event(), threading.Event()

    def reply(request):
        if request.path.endswith("/oauth"):
            given.append(f"t{len(given) + 1}")
            return answer({"access_token": given[-1], "expires_at": 0})
        if request.headers["authorization"] != "Bearer t1":
            return answer()
        if request.json["messages"][0]["content"] == "slow":
            seen.set()
            assert release.wait(WAIT_SECONDS)
        return answer({"status": 401}, "401 No")

    given = []
    with RawServer(always(reply)) as server, token_client(server) as client, ThreadPoolExecutor(1) as threads:
        client.get_token()
        slow = threads.submit(call, client, "chat", "slow")
        assert seen.wait(WAIT_SECONDS)
        call(client, "chat", "quick")
        assert given == ["t1", "t2"]
        release.set()
        assert slow.result(WAIT_SECONDS).choices
        call(client, "chat", "again")
        assert given == ["t1", "t2"]


@pytest.mark.parametrize("method", ["chat", "stream"])
def test_401_for_ever(call, method):
    """At most two API requests, then AuthenticationError; the lock is free afterwards."""
    with TokenServer() as server, token_client(server, max_retries=3) as client:
        server.valid = set()
        for number in (1, 2):
            with pytest.raises(AuthenticationError, match="expired"):
                call(client, method, "x")
            assert server.calls == 2 * number
        server.valid = {f"t{server.given + 1}"}
        assert call(client, "chat", "x").choices


@pytest.mark.parametrize(
    "life",
    [1800, 30, 3, -3600, -10, 0],
    ids=["30 minutes", "shorter than the buffer", "three seconds", "clock ahead", "just over", "unknown"],
)
@pytest.mark.parametrize("unit", [1000, 1], ids=["milliseconds", "seconds"])
def test_expiry(call, unit, life):
    """No life of a token, and no clock, makes a token request for each call."""
    expires_at = int((time.time() + life) * unit) if life else 0
    with TokenServer(expires_at=expires_at) as server, token_client(server) as client:
        for _ in range(5):
            call(client, "chat", "x")
        assert server.logins == 1


def test_expiry_of_password_tokens(call):
    """/token speaks of seconds."""
    with TokenServer(expires_at=int(time.time()) + 1800) as server:
        with token_client(server, credentials=None, user="user", password="password") as client:
            for _ in range(5):
                call(client, "chat", "x")
            assert server.logins == 1


def test_renewal(monkeypatch, call):
    """A token that is about to expire is replaced before a server refuses it."""
    now = time.time
    with TokenServer(expires_at=int((now() + 1800) * 1000)) as server, token_client(server) as client:
        call(client, "chat", "x")
        monkeypatch.setattr(time, "time", lambda: now() + 1795)
        call(client, "chat", "x")
        assert server.logins == 2 and server.requests[-1].headers["authorization"] == "Bearer t2"


NO_TOKENS = [
    b"",
    b"null",
    b"[]",
    b"<html>",
    b"{}",
    b'{"access_token":""}',
    b'{"access_token":5}',
    b'{"access_token":null}',
    b'{"access_token":"a b"}',
    b'{"access_token":"a\\r\\nX: y"}',
    b'{"access_token":"\\u044f"}',
    b"\xff",
]


@pytest.mark.parametrize("body", NO_TOKENS)
def test_rubbish_for_a_token(call, body):
    """An answer without a usable token is an error; the API gets no request."""
    with RawServer(always(answer(body))) as server, token_client(server) as client:
        for number in (1, 2):
            with pytest.raises(GigaChatException):
                call(client, "chat", "x")
            assert len(server.requests) == number
        assert all(request.path.endswith("/oauth") for request in server.requests)


def fails(client):
    try:
        client.chat("x")
    except GigaChatException as error:
        return error


async def afails(client, count):
    return await asyncio.gather(*(client.achat("x") for _ in range(count)), return_exceptions=True)


@pytest.mark.parametrize("handler", [closing(), always(answer(b"", "500 No")), always(answer(b"", "401 No"))])
def test_failing_login(handler):
    """A failing token endpoint fails all who wait, without a request for each of them; the lock is free afterwards."""
    with RawServer(handler) as server, token_client(server) as client, ThreadPoolExecutor(50) as threads:
        errors = [future.result() for future in [threads.submit(fails, client) for _ in range(50)]]
        errors += asyncio.run(afails(client, 50))
        assert all(isinstance(error, GigaChatException) for error in errors)
        assert client.token is None
        assert len(server.requests) <= 100


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"], ids=["nothing", "half"])
@patient
def test_hanging_login(reply, timeout=SHORT):
    """50 threads, and 50 tasks, before a token endpoint that hangs: all fail within a few timeouts, not 50."""
    with RawServer(silent_after(reply)) as server, token_client(server, timeout=timeout) as client:
        started = time.monotonic()
        with ThreadPoolExecutor(50) as threads:
            errors = [future.result() for future in [threads.submit(fails, client) for _ in range(50)]]
        errors += asyncio.run(afails(client, 50))
        assert all(type(error) is APITimeoutError for error in errors)
        assert time.monotonic() - started < timeout * 20
        assert len(server.requests) <= 6


def test_cancelled_login():
    """Who is cancelled in the token request takes nobody with him: the next one makes another."""
    first, release = threading.Event(), threading.Event()

    def reply(request):
        if request.path.endswith("/oauth") and not first.is_set():
            first.set()
            assert release.wait(WAIT_SECONDS)
        return answer({"access_token": "new", "expires_at": 0}) if request.path.endswith("/oauth") else answer()

    async def run(client):
        loop = asyncio.get_running_loop()
        leader = asyncio.ensure_future(client.achat("x"))
        assert await loop.run_in_executor(None, first.wait, WAIT_SECONDS)
        followers = [asyncio.ensure_future(client.achat("x")) for _ in range(10)]
        await asyncio.sleep(0.02)
        leader.cancel()
        followers[3].cancel()
        ended = await asyncio.wait_for(asyncio.gather(leader, *followers, return_exceptions=True), WAIT_SECONDS / 2)
        assert [isinstance(one, asyncio.CancelledError) for one in ended] == [True] + [False] * 3 + [True] + [False] * 6
        assert all(one.choices for one in ended if not isinstance(one, asyncio.CancelledError))

    with RawServer(always(reply)) as server, token_client(server) as client:
        asyncio.run(run(client))
        release.set()
        assert sum(request.path.endswith("/oauth") for request in server.requests) == 2


def test_login_is_not_held_during_calls():
    """A call that hangs keeps nobody from a new token."""
    release = threading.Event()

    def reply(request):
        if request.path.endswith("/oauth"):
            return answer({"access_token": "new", "expires_at": 0})
        if b"slow" in request.body:
            assert release.wait(WAIT_SECONDS)
        return answer()

    with RawServer(always(reply)) as server, token_client(server) as client, ThreadPoolExecutor(1) as threads:
        slow = threads.submit(client.chat, "slow")
        server.wait(lambda: len(server.requests) == 2)
        assert client.chat("quick").choices and client.get_token().access_token == "new"
        release.set()
        assert slow.result(WAIT_SECONDS).choices


def test_close_during_login(call):
    """Closing the client ends a token request that hangs, and everyone who waits for it."""
    with RawServer(silent_after()) as server, token_client(server) as client, ThreadPoolExecutor(5) as threads:
        calls = [threads.submit(call, client, "chat", "x") for _ in range(5)]
        server.wait(lambda: server.requests)
        client.close()
        for future in calls:
            assert isinstance(future.exception(WAIT_SECONDS / 2), GigaChatException)
        assert APIConnectionError in [type(future.exception()) for future in calls]


# ---------- retries: how often, for what

FAST = {"retry_backoff_factor": 0}


def fault(times, reply):
    """Make a handler that answers with *reply*, bytes or what to do with the wire, *times* times; then it behaves."""
    left = [times]

    def handler(wire):
        for request in wire:
            if request.path.endswith("/oauth"):
                wire.send(answer({"access_token": "token", "expires_at": 0}))
                continue
            left[0] -= 1
            if left[0] >= 0 and callable(reply):
                reply(wire)
                return
            if left[0] >= 0:
                wire.send(reply)
            elif request.json.get("stream"):
                wire.send(STREAM_HEAD, chunk(delta("да", "stop") + DONE), LAST_CHUNK)
            else:
                wire.send(answer())

    return handler


def fast_client(server, **settings):
    """Make a client of a RawServer that does not wait between its tries."""
    return raw_client(server, **{**FAST, **settings})


def refusal(status, **headers):
    return answer({"status": status, "message": "Нет"}, f"{status} No", **headers)


METHODS = pytest.mark.parametrize("method", ["chat", "stream"])


@METHODS
@pytest.mark.parametrize("status", [429, 500, 503])
def test_off_by_default(client, server, call, method, status):
    """Without max_retries an error is the caller's at once."""
    server.answer_next("/chat", status, b"{}", times=None)
    with pytest.raises(ResponseError):
        call(client, method, "Привет")
    assert len(server.requests) == 2


def test_connection_errors_are_not_retried_by_default(call):
    """Nor is a connection that breaks repeated."""
    with RawServer(fault(1, lambda wire: wire.reset())) as server, fast_client(server) as client:
        with pytest.raises(APIConnectionError):
            call(client, "chat", "Привет")
        assert len(server.requests) == 1


@METHODS
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_statuses_that_are_tried_again(call, method, status):
    """These are tried again, until the answer comes; each time it is the same request."""
    with RawServer(fault(2, refusal(status))) as server, fast_client(server, max_retries=2) as client:
        assert call(client, method, "Привет")
        assert len(server.requests) == 3
        assert len({request.body for request in server.requests}) == 1
        assert {request.connection for request in server.requests} == {1}


@METHODS
@pytest.mark.parametrize(("retries", "tries"), [(0, 1), (1, 2), (3, 4)])
def test_counts_of_tries(call, method, retries, tries):
    """max_retries bounds the repetitions; the last error is the caller's."""
    with RawServer(fault(99, refusal(503))) as server, fast_client(server, max_retries=retries) as client:
        with pytest.raises(ServerError, match="Нет"):
            call(client, method, "Привет")
        assert len(server.requests) == tries


@METHODS
@pytest.mark.parametrize("status", [301, 400, 402, 403, 404, 413, 418, 422, 501])
def test_statuses_that_are_not(call, method, status):
    """These are the caller's at once, however many retries there are."""
    with RawServer(fault(1, refusal(status))) as server, fast_client(server, max_retries=3) as client:
        with pytest.raises(ResponseError, match=f"^{status} "):
            call(client, method, "Привет")
        assert len(server.requests) == 1


@pytest.mark.parametrize(("codes", "status", "tries"), [((418,), 418, 2), ((418,), 503, 1), ((), 503, 1)])
def test_retry_on_status_codes(call, codes, status, tries):
    """retry_on_status_codes says which: instead of the default ones, not besides them."""
    settings = {"max_retries": 1, "retry_on_status_codes": codes}
    with RawServer(fault(99, refusal(status))) as server, fast_client(server, **settings) as client:
        with pytest.raises(ResponseError):
            call(client, "chat", "Привет")
        assert len(server.requests) == tries


def test_each_call_has_its_own_count(call):
    """The retries of one call are not taken from the next."""
    with RawServer(fault(99, refusal(503))) as server, fast_client(server, max_retries=1) as client:
        for _ in range(3):
            with pytest.raises(ServerError):
                call(client, "chat", "Привет")
        assert len(server.requests) == 6


@METHODS
@pytest.mark.parametrize(
    "reply",
    [lambda wire: wire.reset(), lambda wire: None, lambda wire: wire.send(b"HTTP/1.1 200"), b"HTTP/1.1 ???\r\n\r\n"],
    ids=["reset", "closed", "half a head", "no HTTP"],
)
def test_connection_errors(call, method, reply):
    """A connection that fails before its answer is here is tried again."""
    fault_once = reply if callable(reply) else lambda wire: wire.send(reply)
    with RawServer(fault(2, fault_once)) as server, fast_client(server, max_retries=2) as client:
        assert call(client, method, "Привет")
        assert len(server.requests) == 3


def test_answer_that_breaks_off(call):
    """So is a plain answer that breaks off: nothing of it has been given out."""
    half = answer()[:-10]
    with RawServer(fault(1, lambda wire: wire.send(half))) as server, fast_client(server, max_retries=1) as client:
        assert call(client, "chat", "Привет").choices
        assert len(server.requests) == 2


def test_download_whose_head_breaks_off(call, tmp_path):
    """A head that breaks off is no empty file: the download fails, and is tried again where retries are on."""
    half = b"HTTP/1.1 200 OK\r\nContent-Type: application/jpg\r\n"
    with RawServer(lambda wire: wire.receive() and wire.send(half)) as server:
        with fast_client(server, max_retries=1) as client, pytest.raises(APIConnectionError):
            call(client, "download_file", "1", tmp_path / "file")
        assert len(server.requests) == 2
    assert not (tmp_path / "file").exists()


def test_timeouts(call):
    """And a server that keeps silent."""
    silent = fault(1, lambda wire: wire.wait_for_close())
    with RawServer(silent) as server, fast_client(server, max_retries=1, timeout=SHORT) as client:
        try:
            assert call(client, "chat", "Привет").choices
        except APITimeoutError:  # a slow machine
            pass
        server.wait(lambda: len(server.requests) == 2)


def test_nobody_listens_again(call, monkeypatch):
    """A refused connection is tried again, and is the caller's in the end."""
    with RawServer(fault(0, b"")) as server:
        pass
    pauses = watch_pauses(monkeypatch)
    with fast_client(server, max_retries=3) as client, pytest.raises(APIConnectionError):
        call(client, "chat", "Привет")
    assert len(pauses) == 3


@METHODS
def test_certificates_do_not_heal(settings, server, call, method):
    """A certificate that is not trusted will not be next time either: one attempt."""
    settings = {**settings, "ca_bundle_file": None, "max_retries": 3, **FAST}
    with GigaChat(**settings) as client, pytest.raises(APIConnectionError, match="certificate"):
        call(client, method, "Привет")
    assert server.connections == 1


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"choices":null}'])
def test_unreadable_answers_are_not_retried(call, body):
    """What came back whole, and is no answer, would come back again."""
    with RawServer(fault(1, answer(body))) as server, fast_client(server, max_retries=3) as client:
        with pytest.raises(GigaChatException):
            call(client, "chat", "Привет")
        assert len(server.requests) == 1


def test_started_streams_are_not_retried(call):
    """Once a stream has begun no chunk is ever repeated: it breaks off for good."""

    def break_off(wire):
        wire.send(STREAM_HEAD, chunk(delta("раз")))

    with RawServer(fault(1, break_off)) as server, fast_client(server, max_retries=3) as client:
        with pytest.raises(StreamInterruptedError):
            call(client, "stream", "Привет")
        assert len(server.requests) == 1


@METHODS
@pytest.mark.parametrize("status", [429, 503])
def test_oauth_failures(settings, server, call, method, status):
    """Failures of the token endpoint are tried again like others, with a fresh RqUID; the call is sent once."""
    for _ in range(2):
        server.answer_next("/oauth", status, b"")
    with GigaChat(**settings, max_retries=2, **FAST) as client:
        assert call(client, method, "Привет")
    assert [request.path.rpartition("/")[2] for request in server.requests] == ["oauth"] * 3 + ["completions"]
    assert len({request.headers["RqUID"] for request in server.requests[:3]}) == 3


def test_get_token_is_retried(settings, server, call):
    """get_token() is tried again too."""
    server.answer_next("/oauth", 503, b"")
    with GigaChat(**settings, max_retries=1, **FAST) as client:
        assert call(client, "get_token").access_token
    assert len(server.requests) == 2


def test_oauth_refusals(settings, server, call):
    """A key that is refused is not tried again."""
    server.answer_next("/oauth", 400, {"code": 7, "message": "scope"}, times=None)
    with GigaChat(**settings, max_retries=3, **FAST) as client, pytest.raises(BadRequestError):
        call(client, "chat", "Привет")
    assert len(server.requests) == 1


def test_refusal_of_a_token_between_retries(settings, server, call):
    """A 401 in the midst of retries renews the token, once for each attempt, and does not count as a retry."""
    server.answer_next("/chat", 503, b"{}")
    server.answer_next("/chat", 401, b"{}")
    with GigaChat(**settings, max_retries=1, **FAST) as client:
        assert call(client, "chat", "Привет").choices
    names = [request.path.rpartition("/")[2] for request in server.requests]
    assert names == ["oauth", "completions", "completions", "oauth", "completions"]


# ---------- retries: after how long


def watch_pauses(monkeypatch):
    """Note how long a client would pause, and pause for nothing. Waiting itself is tested below."""
    pauses = []
    monkeypatch.setattr("gigachat_lite.KeepAlive.pause", lambda self, seconds: pauses.append(seconds))
    return pauses


def test_backoff(monkeypatch, call):
    """The pauses double from retry_backoff_factor on, up to a minute."""
    pauses = watch_pauses(monkeypatch)
    settings = {"max_retries": 10, "retry_backoff_factor": 0.5}
    with RawServer(fault(10, refusal(503))) as server, fast_client(server, **settings) as client:
        assert call(client, "chat", "Привет").choices
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_jitter(monkeypatch, call):
    """Up to half a second is added, each time another, so that many clients do not come back together."""
    monkeypatch.undo()
    pauses = watch_pauses(monkeypatch)
    with RawServer(fault(20, refusal(503))) as server, fast_client(server, max_retries=20) as client:
        call(client, "chat", "Привет")
    assert len(set(pauses)) == 20
    assert 0 <= min(pauses) < max(pauses) <= 0.5


def test_backoff_that_overflows(monkeypatch, call):
    """Very many retries are no overflow."""
    pauses = watch_pauses(monkeypatch)
    settings = {"max_retries": 1100, "retry_backoff_factor": 1e300, "retry_on_status_codes": [418]}
    with RawServer(fault(99_999, refusal(418))) as server, fast_client(server, **settings) as client:
        with pytest.raises(ResponseError):
            call(client, "chat", "Привет")
    assert len(pauses) == 1100
    assert set(pauses) == {60}


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("retry_after", "pause"),
    [
        ("0.01", 0.01),
        ("7", 7),
        ("120", 120),
        ("0", 0.5),
        ("-1", 0.5),
        ("soon", 0.5),
        ("nan", 0.5),
        ("inf", 0.5),
        ("Wed, 21 Oct 1999 07:28:00 GMT", 0.5),
    ],
)
def test_pause_that_the_server_asks_for(monkeypatch, call, status, retry_after, pause):
    """The pause is the one that the server asks for, else the backoff."""
    pauses = watch_pauses(monkeypatch)
    settings = {"max_retries": 1, "retry_backoff_factor": 0.5}
    reply = refusal(status, Retry_After=retry_after)
    with RawServer(fault(1, reply)) as server, fast_client(server, **settings) as client:
        assert call(client, "chat", "Привет").choices
    assert pauses == [pause]


def test_retry_after_a_date(monkeypatch, call):
    """The server may name a time, which counts by its own clock."""
    pauses = watch_pauses(monkeypatch)
    date, then = (email.utils.formatdate(1_000_000_000 + seconds, usegmt=True) for seconds in (0, 90))
    reply = refusal(429, Retry_After=then, Date=date)
    with RawServer(fault(1, reply)) as server, fast_client(server, max_retries=1) as client:
        assert call(client, "chat", "Привет").choices
    assert pauses == [90]


@METHODS
@pytest.mark.parametrize("retry_after", ["121", "604800", "1e9"])
def test_long_retry_after(monkeypatch, call, method, retry_after):
    """A server that asks for more than two minutes gets no wait but the caller's attention."""
    pauses = watch_pauses(monkeypatch)
    reply = refusal(429, Retry_After=retry_after)
    with RawServer(fault(1, reply)) as server, fast_client(server, max_retries=3) as client:
        with pytest.raises(RateLimitError) as caught:
            call(client, method, "Привет")
        assert caught.value.retry_after == float(retry_after)
        assert len(server.requests) == 1
    assert pauses == []


def test_pauses_are_kept(call):
    """The client does wait: the second request comes no sooner than the server asked."""
    times = []
    behave = fault(1, refusal(429, Retry_After="0.05"))

    class Clocked(RawServer):
        def note_request(self, request):
            times.append(time.monotonic())
            super().note_request(request)

    with Clocked(behave) as server, fast_client(server, max_retries=1) as client:
        call(client, "chat", "Привет")
    assert times[1] - times[0] >= 0.05


def test_retries_are_logged(caplog, call):
    """Each retry is a line at DEBUG, and at no higher level."""
    caplog.set_level(logging.DEBUG, "gigachat_lite")
    with RawServer(fault(2, refusal(503))) as server, fast_client(server, max_retries=2) as client:
        call(client, "chat", "Привет")
    assert [record.getMessage() for record in caplog.records].count("ServerError: trying again in 0.0 s") == 2
    assert {record.levelname for record in caplog.records} == {"DEBUG"}


# ---------- retries: what ends a pause

LONG = {"max_retries": 3, "retry_backoff_factor": 60}


@pytest.fixture
def pausing():
    """An event that is set when a client begins to pause: it says so in the log."""
    event = threading.Event()

    class Watcher(logging.Handler):
        def emit(self, record):
            if "trying again" in record.getMessage():
                event.set()

    logger, watcher = logging.getLogger("gigachat_lite"), Watcher()
    level = logger.level
    logger.addHandler(watcher)
    logger.setLevel(logging.DEBUG)
    yield event
    logger.setLevel(level)
    logger.removeHandler(watcher)


@pytest.mark.parametrize("method", ["achat", "astream"])
def test_cancelling_ends_a_pause(pausing, method):
    """A task that is cancelled in the midst of a pause ends at once, and leaves nothing behind."""
    with RawServer(fault(99, refusal(503))) as server, fast_client(server, **LONG) as client:

        async def ask():
            if method == "achat":
                return await client.achat("Привет")
            return [chunk async for chunk in client.astream("Привет")]

        async def run():
            loop = asyncio.get_running_loop()
            task = loop.create_task(ask())
            assert await loop.run_in_executor(None, pausing.wait, WAIT_SECONDS)
            started = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while client._shared.here.pool._pauses and time.monotonic() - started < SOON:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            assert time.monotonic() - started < SOON

        asyncio.run(run())
        assert len(server.requests) == 1


def test_wait_for_ends_a_pause():
    """So does one whose time is over."""
    with RawServer(fault(99, refusal(503))) as server, fast_client(server, **LONG) as client:

        async def run():
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.achat("Привет"), 0.05)

        started = time.monotonic()
        asyncio.run(run())
        assert time.monotonic() - started < SOON


@METHODS
def test_closing_ends_a_pause(pausing, call, method):
    """A client that is closed in the midst of a pause raises at once."""
    with RawServer(fault(99, refusal(503))) as server, ThreadPoolExecutor(1) as threads:
        client = fast_client(server, **LONG)
        asked = threads.submit(call, client, method, "Привет")
        assert pausing.wait(WAIT_SECONDS)
        client.close()
        ended = asked.exception(SOON)
        assert isinstance(ended, GigaChatException) and "closed" in str(ended)
        assert len(server.requests) == 1


def test_closing_a_stream_ends_its_pause(pausing):
    """close() of a stream, from another thread, ends the pause before its retry."""
    with RawServer(fault(99, refusal(503))) as server, fast_client(server, **LONG) as client:
        with ThreadPoolExecutor(1) as threads:
            stream = client.stream("Привет")
            reader = threads.submit(list, stream)
            assert pausing.wait(WAIT_SECONDS)
            stream.close()
            ended = reader.exception(SOON)
            assert isinstance(ended, GigaChatException) and "the stream was closed" in str(ended)


# ---------- options for some calls


def serving(wire):
    """Log in, refuse chats of the model "busy", answer others."""
    for request in wire:
        if request.path == OAUTH:
            wire.send(answer({"access_token": "token", "expires_at": 0}))
        else:
            wire.send(refusal(503) if request.json["model"] == "busy" else answer(COMPLETION))


def test_options_for_some_calls(call):
    """They hold for the client that they give; login and connection are those of the client that it came from."""
    with RawServer(serving) as server:
        client = GigaChat(base_url=server.base_url, auth_url=server.auth_url, credentials="key")
        fast = client.with_options(
            model="busy", max_retries=2, retry_backoff_factor=0.0, session_id="s-1", profanity_check=False, flags=["a"]
        )
        with pytest.raises(ServerError):
            call(fast, "chat", "Привет")
        call(client, "chat", "Привет")
        call(fast.with_options(model="free"), "chat", "Привет")
        assert paths(server) == [OAUTH] + [CHAT] * 5
        assert server.connections == 1
        changed = {"model": "busy", "profanity_check": False, "flags": ["a"]}
        sent = [(request.json, request.headers.get("x-session-id")) for request in server.requests[1:]]
        plain = {"messages": [{"role": "user", "content": "Привет"}], "model": "GigaChat"}
        assert sent == [({**plain, **changed}, "s-1")] * 3 + [
            (plain, None),
            ({**plain, **changed, "model": "free"}, "s-1"),
        ]
        client.close()


def test_options_keep_the_class_and_the_token():
    class Mine(GigaChat):
        pass

    with RawServer(serving) as server:
        client = Mine(base_url=server.base_url, auth_url=server.auth_url, credentials="key")
        other = client.with_options(timeout=1)
        assert type(other) is Mine
        other.chat("Привет")
        assert client.token == "token"
        with RawServer(silent_after()) as silent, raw_client(silent) as patient:
            with pytest.raises(APITimeoutError, match=r"0\.01 s"):
                patient.with_options(timeout=0.01).chat("Привет")


@pytest.mark.parametrize("method", ["close", "aclose"])
def test_closing_a_client_with_options_closes_nothing_else(method):
    with RawServer(serving) as server, raw_client(server) as client:
        client.chat("Привет")
        other = client.with_options(timeout=10)
        result = getattr(other, method)()
        if method == "aclose":
            asyncio.run(result)
        with pytest.raises(GigaChatException, match="closed"):
            other.chat("Привет")
        client.chat("Привет")
        assert server.connections == 1
        still = client.with_options(timeout=10)
    with pytest.raises(GigaChatException, match="closed"):
        still.chat("Привет")


@pytest.mark.parametrize("name", ["base_url", "credentials", "access_token", "verify_ssl_certs", "proxy", "modell"])
def test_options_that_belong_to_connections_or_credentials(client, name):
    with pytest.raises(TypeError, match=name):
        client.with_options(**{name: "x"})


def test_options_that_cannot_work(client):
    with pytest.raises(ConfigurationError, match="timeout"):
        client.with_options(timeout=-1)
    with pytest.raises(ConfigurationError, match="session_id"):
        client.with_options(session_id="а\r\n")
