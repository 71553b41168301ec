"""Fixtures for all tests.

Every test starts without GIGACHAT_*, proxy and SSL_CERT_* variables and with empty context variables, wherever it runs.

``server``: a fresh local server over TLS; ``server.requests`` is what it received, byte for byte.
``settings``: the keyword arguments that lead a client to ``server``; to change one: ``{**settings, "timeout": 1}``.
``client``: a ``GigaChat(**settings)``, closed after the test.
``call``: runs a method of a client, once sync and once async; the test that asks for it runs twice::

    def test_chat(client, call):
        assert call(client, "chat", "Привет").choices           # client.chat(...), then await client.achat(...)
        assert call(client, "stream", "Привет")[-1].choices     # streams come as lists of chunks
        assert call(client, "assistants.get")                   # client.assistants.get(), client.a_assistants.get()

``CERTS`` is the directory of the test certificates: ``from conftest import CERTS``.
"""

import asyncio
import os
from pathlib import Path

import pytest
from local_server import LocalServer

import gigachat_lite
from gigachat_lite import AsyncStream, GigaChat, Stream

CERTS = Path(__file__).resolve().parent / "certs"
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy", "request_method")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """Hide what the machine has set."""
    for name in list(os.environ):
        if name.upper().startswith(("GIGACHAT_", "SSL_CERT_", "SSLKEYLOGFILE")) or name.lower() in PROXY_VARIABLES:
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def clean_context():
    """Give every context variable its default, and take back what the test sets."""
    variables = [getattr(gigachat_lite, name) for name in gigachat_lite.__all__ if name.endswith("_cvar")]
    tokens = [(v, v.set("/chat/completions" if v is gigachat_lite.chat_url_cvar else None)) for v in variables]
    yield
    for variable, token in tokens:
        variable.reset(token)


@pytest.fixture
def server():
    with LocalServer(tls=(str(CERTS / "server.pem"), str(CERTS / "server.key"))) as server:
        yield server


@pytest.fixture
def settings(server):
    return {
        "base_url": server.base_url,
        "auth_url": server.auth_url,
        "credentials": server.credentials,
        "ca_bundle_file": str(CERTS / "ca.pem"),
        "timeout": 20,  # a test that hangs fails instead
    }


@pytest.fixture
def client(settings):
    with GigaChat(**settings) as client:
        yield client


def call_sync(client, name, /, *args, **kwargs):
    """Call a method; a stream is read to its end, into a list."""
    *parts, method = name.split(".")
    for part in parts:
        client = getattr(client, part)
    result = getattr(client, method)(*args, **kwargs)
    if isinstance(result, Stream):
        with result:
            return list(result)
    return result


def call_async(client, name, /, *args, **kwargs):
    """Call the async twin of a method in an event loop of its own."""
    first, _, rest = name.partition(".")
    owner, method = (getattr(client, "a_" + first), rest) if rest else (client, "a" + first)

    async def run():
        result = getattr(owner, method)(*args, **kwargs)
        if isinstance(result, AsyncStream):
            async with result:
                return [chunk async for chunk in result]
        return await result

    return asyncio.run(run())


@pytest.fixture(params=[call_sync, call_async], ids=["sync", "async"])
def call(request):
    return request.param
