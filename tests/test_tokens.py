"""Tokens under load: as few token requests as can be, whoever asks, and no waiting for ever."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from faults import WAIT_SECONDS, RawServer, always, answer, closing, silent_after

from gigachat_lite import APIConnectionError, APITimeoutError, AuthenticationError, GigaChat, GigaChatException

SHORT = 0.2


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


def test_renewal(call):
    """A token that is about to expire is replaced before a server refuses it."""
    with TokenServer(expires_at=int((time.time() + 0.4) * 1000)) as server, token_client(server) as client:
        call(client, "chat", "x")
        deadline = time.monotonic() + WAIT_SECONDS
        while server.logins < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
            call(client, "chat", "x")
        assert server.logins >= 2 and server.requests[-1].headers["authorization"] != "Bearer t1"


@pytest.mark.parametrize("odd", ["soon", None, -5, 1e300, True, [], {}, "1e5", 10**400])
def test_odd_expiry(call, odd):
    """An expiry that is none counts as unknown."""
    with TokenServer(expires_at=odd) as server, token_client(server) as client:
        for _ in range(3):
            assert call(client, "chat", "x").choices
        assert server.logins == 1


RUBBISH = [
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


@pytest.mark.parametrize("body", RUBBISH)
def test_rubbish(call, body):
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
def test_hanging_login(reply):
    """50 threads, and 50 tasks, before a token endpoint that hangs: all fail within a few timeouts, not 50."""
    with RawServer(silent_after(reply)) as server, token_client(server, timeout=SHORT) as client:
        started = time.monotonic()
        with ThreadPoolExecutor(50) as threads:
            errors = [future.result() for future in [threads.submit(fails, client) for _ in range(50)]]
        errors += asyncio.run(afails(client, 50))
        assert all(type(error) is APITimeoutError for error in errors)
        assert time.monotonic() - started < SHORT * 20
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
