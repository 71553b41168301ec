"""Context variables: each becomes its header, for the caller who set it and for nobody else."""

import asyncio
import contextvars
import re
import threading
import time

import pytest
from conftest import raw_client
from faults import BREAKS, RawServer, well_behaved

import gigachat_lite
from gigachat_lite import (
    GigaChat,
    agent_id_cvar,
    authorization_cvar,
    client_id_cvar,
    custom_headers_cvar,
    operation_id_cvar,
    request_id_cvar,
    service_id_cvar,
    session_id_cvar,
    trace_id_cvar,
)

VARIABLES = [
    (authorization_cvar, "Authorization"),
    (client_id_cvar, "X-Client-ID"),
    (session_id_cvar, "X-Session-ID"),
    (request_id_cvar, "X-Request-ID"),
    (service_id_cvar, "X-Service-ID"),
    (operation_id_cvar, "X-Operation-ID"),
    (trace_id_cvar, "X-Trace-ID"),
    (agent_id_cvar, "X-Agent-ID"),
]
NAMES = [name for _, name in VARIABLES]
IDS = VARIABLES[1:]
# One method for each way that a request goes out: JSON, events, without a body, as a form.
CALLS = [
    ("chat", ("Привет",)),
    ("stream", ("Привет",)),
    ("get_models", ()),
    ("upload_file", (("a.txt", b"text"),)),
    ("threads.list", ()),
]


def headers_sent(server, name):
    """Give the values of a header, of the last request, as they were spelt."""
    return [value for sent, value in server.requests[-1].headers.raw if sent.lower() == name.lower()]


@pytest.mark.parametrize(("method", "arguments"), CALLS)
def test_every_variable(client, server, call, method, arguments):
    """Each variable reaches the request of every call as its header, once, spelt so."""
    token = client.get_token().access_token
    values = {name: f"value of {name} é" for _, name in IDS}
    values["Authorization"] = f"Bearer {token}"
    for variable, name in VARIABLES:
        variable.set(values[name])
    call(client, method, *arguments)
    sent = [(name, value) for name, value in server.requests[-1].headers.raw if name in NAMES]
    assert sorted(sent) == sorted(values.items())


@pytest.mark.parametrize("value", [None, ""])
def test_empty_values(client, server, call, value):
    """None and an empty string send nothing, nor do they take anything away."""
    for variable, _ in VARIABLES:
        variable.set(value)
    custom_headers_cvar.set({"X-Custom": value, "User-Agent": value})
    call(client, "chat", "Привет")
    assert not any(headers_sent(server, name) for name in [*NAMES[1:], "X-Custom"])
    assert headers_sent(server, "Authorization") == [f"Bearer {client.token}"]
    assert headers_sent(server, "User-Agent")[0].startswith("gigachat_lite/")


@pytest.mark.parametrize("value", [None, {}])
def test_empty_custom_headers(client, server, call, value):
    """custom_headers_cvar may be None or empty."""
    custom_headers_cvar.set(value)
    assert call(client, "chat", "Привет").choices


@pytest.mark.parametrize("method", ["chat", "stream"])
@pytest.mark.parametrize("name", ["X-Session-ID", "x-session-id", "Accept", "user-agent", "CACHE-control"])
def test_custom_headers_win(client, server, call, name, method):
    """custom_headers_cvar is applied last: it replaces any other header, whatever the case of its name."""
    session_id_cvar.set("theirs")
    stream = {"Accept": "text/event-stream"} if method == "stream" and name != "Accept" else {}
    custom_headers_cvar.set({name: "mine", **stream, "X-Custom": "1"})
    call(client, method, "Привет")
    assert headers_sent(server, name) == ["mine"]
    assert headers_sent(server, "X-Custom") == ["1"]


def test_many_custom_headers(client, server, call):
    """Hundreds of headers are put together in linear time, each once, the later spelling in place of the earlier."""
    from gigachat_lite import _context_headers

    headers = {f"X-{number}": str(number) for number in range(50)}
    custom_headers_cvar.set({**headers, **{name.lower(): value for name, value in headers.items()}})
    call(client, "chat", "Привет")
    assert sorted(
        int(value) for name, value in server.requests[-1].headers.raw if name.startswith("x-") and name[2:].isdigit()
    ) == list(range(50))
    custom_headers_cvar.set({f"X-{number}": str(number) for number in range(100_000)})
    started = time.process_time()
    assert len(_context_headers()) == 100_000
    assert time.process_time() - started < 10


def test_custom_headers_are_not_changed(client, call):
    """The caller's dict stays as it was, and setting it does not outlive it."""
    headers = {"X-Custom": "1"}
    custom_headers_cvar.set(headers)
    call(client, "chat", "Привет")
    assert headers == {"X-Custom": "1"}


def test_values_do_not_stick(client, server, call):
    """A variable that is reset is gone from the next request of the same connection."""
    token = session_id_cvar.set("mine")
    call(client, "chat", "Привет")
    assert headers_sent(server, "X-Session-ID") == ["mine"]
    session_id_cvar.reset(token)
    call(client, "chat", "Привет")
    assert headers_sent(server, "X-Session-ID") == []
    assert server.connections == 1


def test_echo_in_x_headers(client, call):
    """The ids that were set come back with the answer and its chunks, where the service echoes them."""
    session_id_cvar.set("my session")
    request_id_cvar.set("7")
    completion = call(client, "chat", "Привет")
    assert completion.x_headers == {"x-request-id": "7", "x-session-id": "my session", "x-client-id": None}
    assert call(client, "stream", "Привет")[-1].x_headers == completion.x_headers


# ---------- token requests


def test_not_sent_to_oauth(client, server, call):
    """The OAuth request is made for all callers: it carries no header of the one who happened to be first."""
    for variable, _ in IDS:
        variable.set("mine")
    custom_headers_cvar.set({"X-Custom": "1", "RqUID": "not a uuid"})
    call(client, "chat", "Привет")
    request = server.requests[0]
    assert request.path == "/api/v2/oauth"
    assert not {name.lower() for name in [*NAMES[1:], "X-Custom"]} & set(request.headers)
    assert request.headers["RqUID"] != "not a uuid"


def test_sent_to_token(settings, server, call):
    """``POST /token`` carries them, with its own Authorization."""
    for variable, _ in IDS:
        variable.set("mine")
    custom_headers_cvar.set({"X-Custom": "1"})
    with GigaChat(**{**settings, "credentials": None, "user": "user", "password": "password"}) as client:
        call(client, "chat", "Привет")
    request = server.requests[0]
    assert request.path == "/api/v1/token"
    assert {request.headers[name] for name in NAMES[1:]} == {"mine"}
    assert request.headers["X-Custom"] == "1"
    assert request.headers["Authorization"] == "Basic dXNlcjpwYXNzd29yZA=="


def test_own_authorization_at_token(settings, server, call):
    """An Authorization in custom_headers_cvar does not replace the login of ``POST /token``."""
    custom_headers_cvar.set({"authorization": "Bearer mine"})
    with GigaChat(**{**settings, "credentials": None, "user": "user", "password": "password"}) as client:
        assert call(client, "get_token").access_token
    assert headers_sent(server, "Authorization") == ["Basic dXNlcjpwYXNzd29yZA=="]


# ---------- values that cannot be sent


@pytest.fixture
def untouched():
    """A server that nobody may talk to."""

    def handler(wire):
        raise AssertionError("something was sent")

    with RawServer(handler) as server:
        yield server
        assert server.connections == 0


BAD_VALUES = ["S3CR3T\r\nX-Evil: 1", "S3CR3T\n", "S3CR3T\r", "Привет S3CR3T", "S3CR3T\0", "S3CR3T\x1b", "S3CR3T\x7f",
              "S3CR3T\u2028", "S3CR3T\ud83d"]  # fmt: skip


@pytest.mark.parametrize("value", BAD_VALUES, ids=ascii)
@pytest.mark.parametrize("number", range(len(VARIABLES) + 1))
def test_bad_values(untouched, call, number, value):
    """What would break the request apart is a ValueError that names the header, not the value; nothing is sent."""
    if number < len(VARIABLES):
        variable, name = VARIABLES[number]
        variable.set(value)
    else:
        name = "X-Custom"
        custom_headers_cvar.set({name: value})
    with GigaChat(base_url=untouched.base_url, auth_url=untouched.auth_url, credentials="a2V5OmtleQ==") as client:
        with pytest.raises(ValueError, match=rf"header {name} ") as caught:
            call(client, "stream" if "\n" in value else "chat", "Привет")
    assert "S3CR3T" not in str(caught.value)


@pytest.mark.parametrize("value", [7, b"bytes", ["x"], object()], ids=lambda value: type(value).__name__)
def test_values_of_a_wrong_type(untouched, call, value):
    """A value that is no text is a TypeError that names the header."""
    session_id_cvar.set(value)
    with GigaChat(base_url=untouched.base_url, access_token="token") as client:
        with pytest.raises(TypeError, match="header X-Session-ID must be str"):
            call(client, "chat", "Привет")


@pytest.mark.parametrize("name", ["", "X Y", "X:Y", "X\r\nY", "Имя", "X\0", 7, None, "X-Y "])
def test_bad_names(untouched, call, name):
    """A name that cannot be a header's is a ValueError that shows it."""
    custom_headers_cvar.set({name: "value"})
    with GigaChat(base_url=untouched.base_url, access_token="token") as client:
        with pytest.raises(ValueError, match=re.escape(repr(name))):
            call(client, "chat", "Привет")


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "Host", "CONNECTION"])
def test_framing_headers(untouched, call, name):
    """Headers that say where the request ends, and where it goes, cannot be set."""
    custom_headers_cvar.set({name: "0"})
    with GigaChat(base_url=untouched.base_url, access_token="token") as client:
        with pytest.raises(ValueError, match=name):
            call(client, "chat", "Привет")


# ---------- whose context


def test_tasks_each_their_own(client, server):
    """50 tasks at once: the question that went out with a session id is the one of the task that set it."""

    async def ask(number):
        session_id_cvar.set(f"session {number}")
        custom_headers_cvar.set({"X-Number": str(number)})
        await asyncio.sleep(0)
        if number % 2:
            return await client.achat(f"Вопрос {number}.")
        return [chunk async for chunk in client.astream(f"Вопрос {number}.")]

    async def run():
        await asyncio.gather(*map(ask, range(50)))

    asyncio.run(run())
    assert session_id_cvar.get() is None
    chats = [request for request in server.requests if request.path.endswith("/chat/completions")]
    assert len(chats) == 50
    for request in chats:
        (number,) = re.findall("Вопрос ([0-9]+)", request.body.decode())
        assert request.headers["X-Session-ID"] == f"session {number}"
        assert request.headers["X-Number"] == number


def test_threads_each_their_own(client, server):
    """Threads have contexts of their own: what one sets another does not send."""
    start = threading.Barrier(10)

    def ask(number):
        if number % 2:
            session_id_cvar.set(f"session {number}")
        start.wait(20)
        client.chat(f"Вопрос {number}.")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chats = [request for request in server.requests if request.path.endswith("/chat/completions")]
    assert len(chats) == 10
    for request in chats:
        (number,) = re.findall("Вопрос ([0-9]+)", request.body.decode())
        assert request.headers.get("X-Session-ID") == (f"session {number}" if int(number) % 2 else None)


def test_context_of_the_caller(client, server):
    """A call in a copied context sends what that context holds, and leaves the caller's alone."""
    context = contextvars.copy_context()
    context.run(session_id_cvar.set, "theirs")
    context.run(client.chat, "Привет")
    assert headers_sent(server, "X-Session-ID") == ["theirs"]
    client.chat("Привет")
    assert headers_sent(server, "X-Session-ID") == []


@pytest.mark.parametrize("changed", ["value of the time of sending"])
def test_streams_send_what_is_set_when_they_are_read(client, server, call, changed):
    """A stream's request is made when it is iterated, with what the context holds then."""
    stream = client.stream("Привет")
    session_id_cvar.set(changed)
    assert list(stream)
    assert headers_sent(server, "X-Session-ID") == [changed]

    async def run():
        stream = client.astream("Привет")
        request_id_cvar.set(changed)
        return [chunk async for chunk in stream]

    assert asyncio.run(run())
    assert headers_sent(server, "X-Request-ID") == [changed]


# ---------- values that would break out of their place


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
                    method = "chat.create" if variable is gigachat_lite.chat_completions_url_cvar else "chat"
                    with pytest.raises(ValueError) as caught:
                        call(client, method, "x")
                    assert not isinstance(caught.value, UnicodeError) or text not in str(caught.value)
                finally:
                    variable.reset(earlier)
        assert server.requests == []


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


def test_module_defaults():
    """The path of chats is a context variable with the API's path as its default."""
    import contextvars

    assert contextvars.Context().run(gigachat_lite.chat_url_cvar.get) == "/chat/completions"
