"""Settings: an argument beats GIGACHAT_<NAME>, which beats the default; what cannot work is named, and nothing sent."""

import asyncio
import inspect
import json
import logging
import math
import ssl
import traceback

import pytest
from conftest import CERTS

from gigachat_lite import (
    AuthenticationError,
    ConfigurationError,
    GigaChat,
    GigaChatAsyncClient,
    GigaChatException,
    GigaChatSyncClient,
)

DEFAULTS = {
    "credentials": None,
    "scope": "GIGACHAT_API_PERS",
    "model": "GigaChat",
    "base_url": "https://gigachat.devices.sberbank.ru/api/v1",
    "auth_url": "https://ngw.devices.sberbank.ru:9443/api/v2/oauth",
    "access_token": None,
    "user": None,
    "password": None,
    "verify_ssl_certs": True,
    "strict_certs": True,
    "ca_bundle_file": None,
    "cert_file": None,
    "key_file": None,
    "key_file_password": None,
    "ssl_context": None,
    "proxy": None,
    "timeout": 30.0,
    "max_connections": None,
    "max_retries": 0,
    "retry_backoff_factor": 0.5,
    "retry_on_status_codes": (429, 500, 502, 503, 504),
    "token_expiry_buffer_ms": 60_000,
    "profanity_check": None,
    "flags": None,
    "session_id": None,
}
# name, text of the variable, what it means, an argument that beats it
FROM_ENVIRONMENT = [
    ("credentials", "aWQ6c2VjcmV0", "aWQ6c2VjcmV0", "aWQ6b3RoZXI="),
    ("scope", "GIGACHAT_API_CORP", "GIGACHAT_API_CORP", "GIGACHAT_API_B2B"),
    ("model", "GigaChat-2-Max", "GigaChat-2-Max", "GigaChat-2-Pro"),
    ("base_url", "http://localhost:1/v1", "http://localhost:1/v1", "http://localhost:2/v1"),
    ("auth_url", "http://localhost:1/oauth", "http://localhost:1/oauth", "http://localhost:2/oauth"),
    ("access_token", "token", "token", "other"),
    ("user", "Вася", "Вася", "Петя"),
    ("password", "пароль", "пароль", "другой"),
    ("verify_ssl_certs", "false", False, True),
    ("strict_certs", "off", False, True),
    ("ca_bundle_file", "/a/ca.pem", "/a/ca.pem", "/b/ca.pem"),
    ("cert_file", "/a/cert.pem", "/a/cert.pem", "/b/cert.pem"),
    ("key_file", "/a/key.pem", "/a/key.pem", "/b/key.pem"),
    ("key_file_password", "secret", "secret", "other"),
    ("proxy", "http://user:secret@proxy:3128", "http://user:secret@proxy:3128", "http://proxy:3129"),
    ("timeout", "60.5", 60.5, 5),
    ("max_connections", "10", 10, 20),
    ("max_retries", "3", 3, 0),
    ("retry_backoff_factor", "1.5", 1.5, 0),
    ("retry_on_status_codes", "429, 503", (429, 503), (500,)),
    ("token_expiry_buffer_ms", "1000", 1000, 0),
    ("profanity_check", "on", True, False),
    ("flags", "a,b", ["a", "b"], []),
    ("session_id", "s-1", "s-1", "s-2"),
]


def settings_of(**arguments):
    with GigaChat(**arguments) as client:
        return client._settings


def variable_of(name):
    return "GIGACHAT_" + name.upper()


def refusal(**arguments):
    """Give the text of the error that a client with these arguments meets, with all that a traceback would show."""
    with pytest.raises(ConfigurationError) as caught:
        GigaChat(**arguments)
    return "".join(traceback.format_exception(type(caught.value), caught.value, None))


# ---------- where values come from


def test_defaults():
    """Without arguments and variables everything is as the official SDK 0.2.0 has it."""
    settings = settings_of()
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize("kind", [GigaChat, GigaChatSyncClient, GigaChatAsyncClient])
def test_parameters_are_explicit(kind):
    """Every setting is a keyword-only parameter with a type."""
    parameters = dict(inspect.signature(kind).parameters)
    unknown = parameters.pop("unknown")
    assert unknown.kind is inspect.Parameter.VAR_KEYWORD
    assert parameters.pop("unnamed").kind is inspect.Parameter.VAR_POSITIONAL
    assert set(parameters) == set(DEFAULTS)
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters.values())
    assert all(p.annotation is not inspect.Parameter.empty for p in parameters.values())
    with pytest.raises(TypeError):
        kind("aWQ6c2VjcmV0")


def test_table_is_complete():
    """Every setting but ssl_context has a variable."""
    assert {row[0] for row in FROM_ENVIRONMENT} | {"ssl_context"} == set(DEFAULTS)


@pytest.mark.parametrize(
    ("name", "text", "value", "argument"), FROM_ENVIRONMENT, ids=[row[0] for row in FROM_ENVIRONMENT]
)
def test_environment(monkeypatch, name, text, value, argument):
    """A variable beats the default, an argument the variable; an empty variable and None are as good as absent."""
    others = {"cert_file": "/c.pem"} if name == "key_file" else {}
    monkeypatch.setenv(variable_of(name), text)
    assert getattr(settings_of(**others), name) == value
    assert getattr(settings_of(**others, **{name: None}), name) == value
    assert getattr(settings_of(**others, **{name: argument}), name) == argument
    monkeypatch.setenv(variable_of(name), "")
    assert getattr(settings_of(**others), name) == DEFAULTS[name]


def test_environment_is_read_at_construction(monkeypatch, server):
    """A client made from the variables alone reaches the server, sync and async."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    with GigaChat() as client:
        monkeypatch.setenv("GIGACHAT_BASE_URL", "http://localhost:9/v1")
        assert client.chat("Привет").choices
        assert asyncio.run(client.achat("Привет")).choices
    assert [request.path for request in server.requests] == ["/api/v2/oauth"] + ["/api/v1/chat/completions"] * 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, True) for word in ("true", "True", "TRUE", "1", "yes", "Yes", "on", "ON", " true ")),
        *((word, False) for word in ("false", "False", "FALSE", "0", "no", "No", "off", "OFF", " false ")),
    ],
)
def test_booleans(monkeypatch, text, value):
    """Booleans are words in any case, from the environment and as arguments."""
    monkeypatch.setenv("GIGACHAT_VERIFY_SSL_CERTS", text)
    monkeypatch.setenv("GIGACHAT_PROFANITY_CHECK", text)
    settings = settings_of()
    assert settings.verify_ssl_certs is value
    assert settings.profanity_check is value
    assert settings_of(verify_ssl_certs=text).verify_ssl_certs is value


@pytest.mark.parametrize(("number", "value"), [(1, True), (0, False), (True, True), (False, False)])
def test_boolean_arguments(number, value):
    """1 and 0 are booleans as arguments too, as in the official SDK."""
    settings = settings_of(verify_ssl_certs=number, profanity_check=number)
    assert settings.verify_ssl_certs is value
    assert settings.profanity_check is value


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        (" a , b ,", ["a", "b"]),
        ('["a", "b,c"]', ["a", "b,c"]),
        (' ["a"] ', ["a"]),
        ("[]", []),
        (("a", "b"), ["a", "b"]),
        (["a"], ["a"]),
    ],
)
def test_lists(text, flags):
    """Lists are JSON, or separated by commas, or lists and tuples."""
    assert settings_of(flags=text).flags == flags


@pytest.mark.parametrize(
    ("text", "codes"),
    [("429", (429,)), ("429,503", (429, 503)), ("[429, 503]", (429, 503)), ([500], (500,)), ((), ()), ("[]", ())],
)
def test_status_codes(text, codes):
    """Status codes are JSON, or separated by commas, or lists and tuples."""
    assert settings_of(retry_on_status_codes=text).retry_on_status_codes == codes


@pytest.mark.parametrize("name", ["ca_bundle_file", "cert_file"])
def test_path_objects(name, tmp_path):
    """Files may be named by pathlib paths."""
    assert getattr(settings_of(**{name: tmp_path / "x.pem"}), name) == str(tmp_path / "x.pem")


WRAPPED = ['"{}"', "'{}'", "{}\r", " {}\n", "\ufeff{}", '"{}"\r\n', "\u00a0{}\u200b"]


@pytest.mark.parametrize("wrapping", WRAPPED, ids=ascii)
def test_what_is_around_a_text(monkeypatch, wrapping):
    """Quotes, blanks, CR and BOM that files of variables and copying leave around a value are not part of it."""
    for name, text, value, _ in FROM_ENVIRONMENT:
        if name.endswith("password"):
            continue
        others = {"cert_file": "/c.pem"} if name == "key_file" else {}
        assert getattr(settings_of(**others, **{name: wrapping.format(text)}), name) == value
        monkeypatch.setenv(variable_of(name), wrapping.format(text))
        assert getattr(settings_of(**others), name) == value
        monkeypatch.delenv(variable_of(name))


@pytest.mark.parametrize("name", ["password", "key_file_password"])
def test_what_is_around_a_password(monkeypatch, name):
    """A password loses line ends and nothing else."""
    for text, password in (("p \r\n", "p "), ('"p"\n', '"p"'), (" p", " p"), ("\r\n", None)):
        assert getattr(settings_of(**{name: text}), name) == password
        monkeypatch.setenv(variable_of(name), text)
        assert getattr(settings_of(), name) == password
        monkeypatch.delenv(variable_of(name))


def test_wrapped_settings_reach_the_server(monkeypatch, server, call):
    """What ``docker --env-file`` makes of a file with quotes and Windows line ends works."""
    for name, value in {
        **server.environment(),
        "GIGACHAT_SCOPE": "GIGACHAT_API_PERS",
        "GIGACHAT_MODEL": "GigaChat-2",
    }.items():
        monkeypatch.setenv(name, f'"{value}"\r')
    with GigaChat() as client:
        assert call(client, "chat", "Привет").model.startswith("GigaChat-2")
    assert server.requests[0].body == b"scope=GIGACHAT_API_PERS"


@pytest.mark.parametrize("name", [row[0] for row in FROM_ENVIRONMENT if row[0] != "proxy"])
@pytest.mark.parametrize("empty", ["", "\r\n"])
def test_empty_arguments(monkeypatch, name, empty):
    """An empty argument is one that is not set: the variable counts, else the default."""
    others = {"cert_file": "/c.pem"} if name == "key_file" else {}
    assert getattr(settings_of(**others, **{name: empty}), name) == DEFAULTS[name]
    _, text, value, _ = next(row for row in FROM_ENVIRONMENT if row[0] == name)
    monkeypatch.setenv(variable_of(name), text)
    assert getattr(settings_of(**others, **{name: empty}), name) == value


@pytest.mark.parametrize("empty", ["", " ", '""'])
def test_empty_proxy(monkeypatch, empty):
    """An empty proxy is none, whatever the variables say."""
    monkeypatch.setenv("GIGACHAT_PROXY", "http://proxy:1")
    assert settings_of(proxy=empty).proxies == {}


def test_nothing_is_opened_by_construction(settings, server, tmp_path):
    """Files are read and connections opened on first use."""
    missing = tmp_path / "missing.pem"
    with GigaChat(**{**settings, "ca_bundle_file": missing}) as client:
        assert server.connections == 0
        with pytest.raises(ConfigurationError, match=r"missing\.pem"):
            client.chat("Привет")
        missing.write_bytes((CERTS / "ca.pem").read_bytes())
        assert client.chat("Привет").choices


# ---------- values that cannot be read

UNREADABLE = [
    ("base_url", "gigachat.devices.sberbank.ru/api/v1"),
    ("base_url", "ftp://localhost/api/v1"),
    ("base_url", "file:///etc/passwd"),
    ("base_url", "https://"),
    ("base_url", "https:///api/v1"),
    ("base_url", "https://localhost:0/api/v1"),
    ("base_url", "https://localhost:99999/api/v1"),
    ("base_url", "https://localhost:port/api/v1"),
    ("base_url", "https://local host/api/v1"),
    ("base_url", "https://localhost/api /v1"),
    ("base_url", "https://localhost/api/v1?a=1"),
    ("base_url", "https://localhost/api/v1#a"),
    ("base_url", "https://[::1/api/v1"),
    ("base_url", "https://" + "a" * 64 + "ы.ru/v1"),
    ("base_url", "https://ngw.devices.sberbank.ru:9443/api/v2/oauth"),
    ("base_url", "http://localhost:1/api/v2/oauth"),
    ("base_url", "https://evil.test%2F.sberbank.ru/v1"),
    ("base_url", "https://sberbank.ru%40evil.test/v1"),
    ("base_url", "https://localhost%0d%0aX:1/v1"),
    ("base_url", "https://[fe80::1%25eth0]/v1"),
    ("base_url", "https://local\thost/v1"),
    ("base_url", "https://localhost/пример"),
    ("base_url", "https://a..b/v1"),
    ("base_url", "https://" + "a" * 64 + "/v1"),
    ("base_url", "https://evil℀.test/v1"),
    ("auth_url", "https://evil.test%2F.sberbank.ru/oauth"),
    ("auth_url", "ngw.devices.sberbank.ru:9443/api/v2/oauth"),
    ("verify_ssl_certs", "maybe"),
    ("verify_ssl_certs", "2"),
    ("profanity_check", "None"),
    ("timeout", "30s"),
    ("timeout", "0"),
    ("timeout", "-1"),
    ("timeout", "nan"),
    ("timeout", "inf"),
    ("timeout", "1e400"),
    ("max_connections", "0"),
    ("max_connections", "-1"),
    ("max_connections", "many"),
    ("max_connections", "1.5"),
    ("max_retries", "-1"),
    ("max_retries", "x"),
    ("retry_backoff_factor", "-0.5"),
    ("retry_backoff_factor", "fast"),
    ("retry_on_status_codes", "429,5xx"),
    ("retry_on_status_codes", "99"),
    ("retry_on_status_codes", "600"),
    ("retry_on_status_codes", "[429"),
    ("retry_on_status_codes", '["a"]'),
    ("token_expiry_buffer_ms", "1m"),
    ("token_expiry_buffer_ms", "-1"),
    ("flags", '["a"'),
    ("flags", "[1]"),
    ("flags", "[" * 100_000),
]


@pytest.mark.parametrize(("name", "text"), UNREADABLE, ids=[f"{name}={text[:40]}" for name, text in UNREADABLE])
def test_unreadable(monkeypatch, name, text):
    """A value that cannot be read is a ConfigurationError with parameter, variable and value, wherever it came from."""
    shown = refusal(**{name: text})
    assert name in shown
    assert variable_of(name) in shown
    monkeypatch.setenv(variable_of(name), text)
    assert f"{variable_of(name)} (also {name})" in refusal()


WRONG_TYPES = [
    *((name, 5) for name, default in DEFAULTS.items() if type(default) not in (int, float) and name[:4] != "max_"),
    ("timeout", True),
    ("timeout", [1]),
    ("max_retries", 1.5),
    ("max_retries", True),
    ("max_connections", object()),
    ("base_url", b"https://localhost/v1"),
    ("retry_on_status_codes", 429),
    ("retry_on_status_codes", [True]),
    ("ssl_context", "context"),
]


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES, ids=[f"{name}={value!r:.20}" for name, value in WRONG_TYPES])
def test_wrong_types(name, value):
    """An argument of a wrong type is a ConfigurationError with its name."""
    assert name in refusal(**{name: value})


def test_configuration_error_is_a_value_error():
    """ConfigurationError can be caught as ValueError and as GigaChatException."""
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(ConfigurationError, GigaChatException)


SECRET = "S3CR3T"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("credentials", f"{SECRET} {SECRET}"),
        ("credentials", f"{SECRET}ы"),
        ("access_token", f"{SECRET}\r\nX-Evil: 1"),
        ("access_token", f"{SECRET}ы"),
        ("proxy", f"socks5://user:{SECRET}@proxy:1080"),
        ("proxy", f"http://user:{SECRET}@proxy:99999"),
        ("proxy", f"http://user:{SECRET}@proxy:port"),
        ("proxy", f"http://user:x@{SECRET}#y@proxy:1"),
        ("proxy", f"http://user:{SECRET}/x@proxy:1"),
        ("proxy", f"http://user:{SECRET}?x@proxy:1"),
        ("proxy", f"http://user:x@{SECRET}/y@proxy:1"),
        ("proxy", f"http://user:{SECRET}"),
        ("proxy", f"http://user:{SECRET}@"),
        ("proxy", f"http://user:{SECRET}@pro xy:1"),
        ("base_url", f"https://user:{SECRET}@localhost/api/v1"),
        ("base_url", f"https://localhost/api/v1?token={SECRET}"),
        ("auth_url", f"https://user:{SECRET}@localhost/api/v2/oauth"),
    ],
)
def test_errors_show_no_secret(monkeypatch, name, text):
    """The error for an unreadable secret, or a password inside an address, names the setting and not the value."""
    shown = refusal(**{name: text})
    assert name in shown
    assert SECRET not in shown
    monkeypatch.setenv(variable_of(name), text)
    shown = refusal()
    assert variable_of(name) in shown
    assert SECRET not in shown


@pytest.mark.parametrize("name", ["credentials", "access_token", "user", "password", "key_file_password", "proxy"])
def test_secrets_of_a_wrong_type(name):
    """Not even a secret of a wrong type is shown."""
    assert SECRET not in refusal(**{name: [SECRET]})


@pytest.mark.parametrize(
    "variable", ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]
)
def test_unreadable_proxy_of_the_environment(monkeypatch, variable):
    """A proxy variable that cannot work is named, without its password, by the request that needs it."""
    monkeypatch.setenv(variable, f"socks5://user:{SECRET}@proxy:1080")
    scheme = "http" if variable.lower() == "http_proxy" else "https"
    with GigaChat(base_url=f"{scheme}://giga.test/v1", access_token="t") as client:
        with pytest.raises(ConfigurationError) as caught:
            client.get_models()
    shown = "".join(traceback.format_exception(type(caught.value), caught.value, None))
    assert variable in shown
    assert "SOCKS" in shown
    assert SECRET not in shown
    assert settings_of(proxy="").proxy == ""


# ---------- addresses and keys as people write them


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://localhost/api/v1/", "https://localhost/api/v1"),
        ("  https://localhost/api/v1\n", "https://localhost/api/v1"),
        ("HTTPS://Localhost:8443/api/v1", "https://localhost:8443/api/v1"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("https://пример.рф/v1", "https://xn--e1afmkfd.xn--p1ai/v1"),
        ("https://ПРИМЕР。рф./v1", "https://xn--e1afmkfd.xn--p1ai./v1"),
        ("https://localhost./v1", "https://localhost./v1"),
        ("https://my_host.local:8443/v1", "https://my_host.local:8443/v1"),
        ("https://[2001:DB8::1]/v1", "https://[2001:db8::1]/v1"),
        ("https://localhost:/a%20b/v1", "https://localhost/a%20b/v1"),
    ],
)
def test_addresses(text, url):
    """Blanks around an address and a slash at its end do no harm; Cyrillic hosts and IPv6 work."""
    assert settings_of(base_url=text).base_url == url


@pytest.mark.parametrize(
    "text", ["{}", " {}\n", '"{}"', "'{}'", "\ufeff{}\r\n", "Basic {}", "basic  {}", ' "{}" ', '"Basic {}"'], ids=repr
)
def test_credentials_as_copied(settings, server, text):
    """White space, quotes and "Basic" that were copied with the key do not reach the server."""
    with GigaChat(**{**settings, "credentials": text.format(server.credentials)}) as client:
        client.chat("Привет")
    assert server.requests[0].headers["Authorization"] == "Basic " + server.credentials


@pytest.mark.parametrize("host", ["LOCALHOST", "127.0.0.1"])
def test_hosts_in_legal_forms(settings, server, call, host):
    """A host is verified whatever form its name is written in."""
    for name in ("base_url", "auth_url"):
        settings[name] = settings[name].replace("localhost", host)
    with GigaChat(**settings) as client:
        assert call(client, "chat", "Привет").choices


@pytest.mark.parametrize("path", ["", "/"])
def test_token_endpoint_without_a_path(settings, server, call, path):
    """A token endpoint without a path is asked at /."""
    address = settings["auth_url"].rpartition("/api/")[0]
    server.answer_next("/", 200, {"access_token": server.issue_token(), "expires_at": 0})
    with GigaChat(**{**settings, "auth_url": address + path}) as client:
        assert call(client, "chat", "Привет").choices
    assert server.requests[0].path == "/"


NO_KEYS = [
    ("<authorization key>", "is a placeholder"),
    ("<ключ авторизации>", "is a placeholder"),
    ("ваш_ключ", "is a placeholder"),
    ("${GIGACHAT_KEY}", "is a placeholder"),
    ("$GIGACHAT_KEY", "is a placeholder"),
    ("%GIGACHAT_KEY%", "is a placeholder"),
    ("{{ key }}", "is a placeholder"),
    ("...", "is a placeholder"),
    ("…", "is a placeholder"),
    ("********", "is a placeholder"),
    ("aWQ6c2Vj\ncmV0", "holds a line end"),
    ("aWQ6c2Vj\r\n cmV0", "holds a line end"),
    ("aWQ6c2Vj cmV0", "holds a blank"),
    ("Basic aWQ6 c2VjcmV0", "holds a blank"),
    ("aWQ6c2VjcmV0é", "other than ASCII"),
    ("aWQ6\x7fc2VjcmV0", "other than ASCII"),
]


@pytest.mark.parametrize(("text", "problem"), NO_KEYS, ids=[ascii(text) for text, _ in NO_KEYS])
@pytest.mark.parametrize("name", ["credentials", "access_token"])
def test_what_is_no_key(name, text, problem):
    """Of what cannot be a key or token the error gives the one reason, and not the value."""
    shown = refusal(**{name: text})
    assert problem in shown
    assert sum(problem in shown for problem in {problem for _, problem in NO_KEYS}) == 1
    assert text not in shown


def test_token_as_copied(settings, server, call):
    """A "Bearer" that was copied with a token does not reach the server twice."""
    token = server.issue_token()
    with GigaChat(**{**settings, "credentials": None, "access_token": f'"Authorization: Bearer {token}"'}) as client:
        assert call(client, "chat", "Привет").choices
    assert server.requests[0].headers["Authorization"] == f"Bearer {token}"


@pytest.mark.parametrize(
    "value", ["/ca.pem", CERTS / "ca.pem", ssl.create_default_context()], ids=["text", "path", "context"]
)
def test_authority_in_verify_ssl_certs(value):
    """Who is used to verify="/ca.pem" is told where a CA goes, and where a context."""
    shown = refusal(verify_ssl_certs=value)
    assert "verify_ssl_certs" in shown and "ca_bundle_file" in shown and "ssl_context" in shown


def test_credentials_that_look_wrong(caplog):
    """Credentials that are no base64 of id:secret are kept, with a warning that does not show them."""
    assert settings_of(credentials=SECRET).credentials == SECRET
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "credentials" in caplog.text
    assert SECRET not in caplog.text


# ---------- settings that contradict each other


@pytest.mark.parametrize("name", ["ca_bundle_file", "cert_file", "key_file", "key_file_password"])
def test_ssl_context_and_files(name):
    """A given TLS context is used as it is: the file settings cannot change it."""
    arguments = {"cert_file": "c.pem"} if name == "key_file" else {}
    shown = refusal(ssl_context=ssl.create_default_context(), **arguments, **{name: "x"})
    assert "ssl_context" in shown
    assert (name in shown and variable_of(name) in shown) or "cert_file" in shown


def test_ssl_context_and_verify_ssl_certs(monkeypatch):
    """verify_ssl_certs=False always means off, so a context that verifies contradicts it."""
    context = ssl.create_default_context()
    assert "GIGACHAT_VERIFY_SSL_CERTS" in refusal(ssl_context=context, verify_ssl_certs=False)
    assert settings_of(ssl_context=context, verify_ssl_certs=True).ssl_context is context
    monkeypatch.setenv("GIGACHAT_VERIFY_SSL_CERTS", "off")
    assert "verify_ssl_certs" in refusal(ssl_context=context)
    monkeypatch.delenv("GIGACHAT_VERIFY_SSL_CERTS")
    assert "GIGACHAT_STRICT_CERTS" in refusal(ssl_context=context, strict_certs=False)


def test_key_without_certificate():
    """A key alone proves nothing."""
    shown = refusal(key_file="key.pem")
    assert all(word in shown for word in ("key_file", "GIGACHAT_KEY_FILE", "cert_file", "GIGACHAT_CERT_FILE"))


@pytest.mark.parametrize("arguments", [{}, {"user": "user"}, {"password": "password"}])
def test_nothing_to_authenticate_with(settings, server, call, arguments):
    """Without any way to authenticate the request is sent as it is, and a 401 says what to set."""
    del settings["credentials"]
    with GigaChat(**settings, **arguments) as client, pytest.raises(AuthenticationError, match="GIGACHAT_CREDENTIALS"):
        call(client, "chat", "Привет")
    assert "authorization" not in server.requests[0].headers


# ---------- unknown arguments, repr, closed clients


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("verbose", ""),
        ("max_retry", "did you mean max_retries?"),
        ("verify_ssl", "did you mean verify_ssl_certs?"),
        ("verify", "did you mean verify_ssl_certs?"),
        ("api_key", "did you mean credentials?"),
        ("client_secret", "did you mean credentials?"),
        ("ca_file", "did you mean ca_bundle_file?"),
        ("proxies", "did you mean proxy?"),
        ("request_timeout", "did you mean timeout?"),
        ("temprature", "temperature belongs in the payload"),
        ("max_tokens", "max_tokens belongs in the payload"),
    ],
)
@pytest.mark.parametrize("kind", [GigaChat, GigaChatSyncClient, GigaChatAsyncClient])
def test_unknown_arguments(kind, name, advice):
    """An argument that nobody knows is a warning at the line of the caller, with the right name and never the value."""
    with pytest.warns(UserWarning) as caught:
        kind(**{name: SECRET})
    (warning,) = caught
    assert warning.filename == __file__
    assert str(warning.message).startswith(f"{kind.__name__}() does not know {name!r}")
    assert advice in str(warning.message)
    assert SECRET not in str(warning.message)


@pytest.mark.parametrize("kind", [GigaChat, GigaChatSyncClient, GigaChatAsyncClient])
def test_settings_have_names(kind):
    """A key that is given by its place is answered with the way to name it, and is not shown."""
    with pytest.raises(TypeError, match="takes its settings by name: credentials=") as caught:
        kind(SECRET)
    assert str(caught.value).startswith(kind.__name__)
    assert SECRET not in str(caught.value)


def test_habits_name_settings():
    """What other libraries' names lead to exists."""
    from gigachat_lite import _HABITS

    assert set(_HABITS.values()) <= set(DEFAULTS)
    assert not set(_HABITS) & set(DEFAULTS)


def test_known_arguments_are_quiet(caplog, settings):
    """A sound configuration logs nothing from INFO on."""
    with GigaChat(**settings):
        assert [record for record in caplog.records if record.levelno >= logging.INFO] == []


def test_repr_shows_no_secret():
    """repr() and str() of a client and of its settings tell where it goes, and no secret."""
    secrets = dict.fromkeys(("credentials", "access_token", "password", "key_file_password"), SECRET + "=")
    proxy = f"http://user:{SECRET}@proxy:3128"
    with GigaChat(**secrets, user=SECRET, cert_file="c.pem", proxy=proxy, model="GigaChat-2") as client:
        for shown in (repr(client), str(client), f"{client}", *map(repr, vars(client).values())):
            assert SECRET not in shown
        assert repr(client).startswith("GigaChat(")
        assert "GigaChat-2" in repr(client)
        assert DEFAULTS["base_url"] in repr(client)


@pytest.mark.parametrize("method", ["chat", "stream"])
@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_closed(settings, server, call, method, used):
    """A closed client says that it is closed and sends nothing; closing twice does no harm."""
    client = GigaChat(**settings)
    if used:
        client.chat("Привет")
    client.close()
    client.close()
    sent = len(server.requests)
    with pytest.raises(GigaChatException, match="closed"):
        call(client, method, "Привет")
    assert len(server.requests) == sent


def test_closed_async(settings, server):
    """aclose() and the end of ``async with`` close; both may happen."""

    async def run():
        async with GigaChat(**settings) as client:
            await client.achat("Привет")
        await client.aclose()
        with pytest.raises(GigaChatException, match="closed"):
            await client.achat("Привет")

    asyncio.run(run())
    assert len(server.requests) == 2


@pytest.mark.parametrize("method", ["get_token", "get_models"])
def test_closed_with_a_token(settings, server, call, method):
    """A closed client sends no token request either."""
    client = GigaChat(**settings)
    client.close()
    with pytest.raises(GigaChatException, match="closed"):
        call(client, method)
    assert server.connections == 0


# ---------- settings on the wire


def test_settings_fill_the_payload(settings, server, call):
    """model, profanity_check and flags of the settings go into a request that has none of its own."""
    with GigaChat(**settings, model="GigaChat-2-Max", profanity_check=False, flags=["a"]) as client:
        call(client, "chat", "Привет")
        own = {"messages": [{"role": "user", "content": "Привет"}], "model": "GigaChat-2"}
        call(client, "chat", {**own, "profanity_check": True, "flags": []})
    bodies = [json.loads(request.body) for request in server.requests[1:]]
    fields = ("model", "profanity_check", "flags")
    assert [bodies[0][name] for name in fields] == ["GigaChat-2-Max", False, ["a"]]
    assert [bodies[1][name] for name in fields] == ["GigaChat-2", True, []]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_retries", -1),
        ("max_retries", 1.5),
        ("max_retries", "many"),
        ("max_retries", True),
        ("max_retries", math.inf),
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", math.nan),
        ("timeout", math.inf),
        ("timeout", 1e300),
        ("timeout", "soon"),
        ("max_connections", 0),
        ("max_connections", -5),
        ("max_connections", 2.5),
        ("retry_backoff_factor", -1),
        ("retry_backoff_factor", math.nan),
        ("retry_on_status_codes", [99]),
        ("retry_on_status_codes", 503),
        ("token_expiry_buffer_ms", -1),
        ("token_expiry_buffer_ms", 1.5),
    ],
)
def test_numbers_that_cannot_work(monkeypatch, name, value):
    """They are refused at once, by argument and by environment variable."""
    with pytest.raises(ConfigurationError, match=name):
        GigaChat(**{name: value})
    if not isinstance(value, list) and value is not True and value != 503:
        monkeypatch.setenv(f"GIGACHAT_{name.upper()}", str(value))
        with pytest.raises(ConfigurationError, match=name.upper()):
            GigaChat()


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
