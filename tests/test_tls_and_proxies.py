"""TLS, client certificates and proxies: whom we trust, who we are, and the way there. Servers are real."""

import base64
import contextlib
import os
import re
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from urllib.parse import urlsplit

import pytest
from conftest import CA, CERTS, MODULE, raw_client, sockets_to
from faults import (
    COMPLETION,
    SERVER_TLS,
    WAIT_SECONDS,
    RawServer,
    always,
    answer,
    closing,
    one_answer_then_close,
    resetting,
    server_context,
    well_behaved,
)
from local_server import LocalServer

from gigachat_lite import APIConnectionError, AuthenticationError, ConfigurationError, GigaChat, GigaChatException

# ---------- TLS: whom we trust


def test_system_store(monkeypatch, settings, call, server):
    """Without ca_bundle_file the system's roots count, SSL_CERT_FILE included."""
    del settings["ca_bundle_file"]
    monkeypatch.setenv("SSL_CERT_FILE", CA)
    with GigaChat(**settings) as client:
        assert call(client, "chat", "Привет").choices


def pem(name="ca"):
    return (CERTS / f"{name}.pem").read_bytes()


def bare_pem(name="ca"):
    """Give the PEM block alone, without the text above it."""
    return re.search(b"-----BEGIN.*-----END CERTIFICATE-----", pem(name), re.DOTALL).group()


DER = (CERTS / "ca.der").read_bytes()
TRUSTED = pem("other-ca") + bare_pem().replace(b" CERTIFICATE-", b" TRUSTED CERTIFICATE-") + b"\n"
BUNDLES = {
    "PEM": pem(),
    "DER": DER,
    "two in DER": ssl.PEM_cert_to_DER_cert(bare_pem("other-ca").decode()) + DER,
    "trusted": TRUSTED,
    "X509": bare_pem().replace(b" CERTIFICATE-", b" X509 CERTIFICATE-"),
    "a line that begins with 0": b"0 s:CN = TEST\n" + pem(),
    "with a key": (CERTS / "client.key").read_bytes() + pem(),
    "several": pem("other-ca") + pem("lax-ca") + pem(),
    "glued": bare_pem("other-ca") + bare_pem(),
    "CRLF and BOM": b"\xef\xbb\xbf" + bare_pem().replace(b"\n", b"\r\n"),
    "no last line end": bare_pem(),
    "with remarks in Windows-1251": "Корневой сертификат\n".encode("cp1251") + pem(),
    "directory": {"b.crt": pem(), "a.cer": (CERTS / "client.pem").read_bytes(), "README": b"text", "sub": {}},
    "BOM before several": b"\xef\xbb\xbf" + bare_pem() + b"\n" + bare_pem("other-ca"),
    "directory with DER": {"Russian Trusted Root CA.cer": DER},
    "hashed directory": {"5f2c4a1b.0": pem("other-ca"), "5f2c4a1b.1": pem(), "5f2c4a1b.r0": b"text"},
    "directory with [glob]*": {"[a]": pem(), "b": {"c": {}}},
}


def write(path, content):
    """Write a file, or a directory of files."""
    if isinstance(content, bytes):
        path.write_bytes(content)
        return
    path.mkdir()
    for name, inner in content.items():
        write(path / name, inner)


@pytest.mark.parametrize("content", list(BUNDLES.values()), ids=list(BUNDLES))
def test_ca_bundle_file(settings, call, tmp_path, content):
    """ca_bundle_file takes every form that people have the certificate in, under any name."""
    write(tmp_path / "Корневой УЦ", content)
    with GigaChat(**{**settings, "ca_bundle_file": str(tmp_path / "Корневой УЦ")}) as client:
        assert call(client, "chat", "Привет").choices


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"text",
        {},
        {"README": b"text"},
        bare_pem()[:200],
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n\xff!\n-----END CERTIFICATE-----\n",
        (CERTS / "ca.der").read_bytes()[:-10],
        (CERTS / "client.key").read_bytes(),
    ],
    ids=["missing", "empty", "text", "empty directory", "directory", "cut", "broken", "no base64", "cut DER", "key"],
)
def test_unusable_ca_bundle_file(settings, server, call, tmp_path, content):
    """A bundle that cannot be used is a ConfigurationError with parameter, variable and path; nothing is sent."""
    path = tmp_path / "bundle.pem"
    if content is not None:
        write(path, content)
    with GigaChat(**{**settings, "ca_bundle_file": path}) as client:
        for _ in range(2):
            with pytest.raises(ConfigurationError) as caught:
                call(client, "chat", "Привет")
            shown = str(caught.value)
            assert "ca_bundle_file" in shown
            assert "GIGACHAT_CA_BUNDLE_FILE" in shown
            assert str(path) in shown
            assert "\n" not in shown
    assert server.requests == []


ROOT_ADVICE = [
    "does not hold the root",
    "Russian Trusted Root CA",
    "https://www.gosuslugi.ru/crt",
    "ca_bundle_file (GIGACHAT_CA_BUNDLE_FILE)",
]


@pytest.mark.parametrize(
    ("certificate", "roots", "reason", "advice"),
    [
        (
            "server",
            "other-ca",
            "unable to get local issuer certificate|self.signed certificate in certificate chain",
            ROOT_ADVICE,
        ),
        ("selfsigned", "ca", "self.signed certificate", ROOT_ADVICE),
        ("expired", "ca", "certificate has expired", ["Check the clock of this machine"]),
        ("wronghost", "ca", "[Hh]ostname mismatch", ["Another server answers", "GIGACHAT_BASE_URL"]),
    ],
)
def test_untrusted_server(call, certificate, roots, reason, advice):
    """A certificate failure tells host, reason and remedy; nothing is sent, and nothing tried again."""
    context = server_context(str(CERTS / f"{certificate}.pem"), str(CERTS / f"{certificate}.key"))
    roots = str(CERTS / f"{roots}.pem")
    with RawServer(well_behaved, context) as server, raw_client(server, ca_bundle_file=roots, max_retries=3) as client:
        with pytest.raises(APIConnectionError, match=reason) as caught:
            call(client, "chat", "Привет")
        shown = str(caught.value)
        for part in (f"localhost:{server.port}", *advice):
            assert part in shown
        assert ("Russian" in shown) == (advice is ROOT_ADVICE)
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        assert "\n" not in shown
        server.wait(lambda: server.closed == 1)
        assert server.connections == 1
        assert server.requests == []


def test_untrusted_token_endpoint(settings, server, call):
    """The token endpoint's certificate is checked in the same way, and its credentials stay here."""
    context = server_context(str(CERTS / "selfsigned.pem"), str(CERTS / "selfsigned.key"))
    with RawServer(well_behaved, context) as oauth:
        with GigaChat(**{**settings, "auth_url": oauth.auth_url}) as client:
            with pytest.raises(APIConnectionError, match=f"localhost:{oauth.port}.*Russian Trusted Root CA"):
                call(client, "chat", "Привет")
        assert oauth.requests == []
    assert server.connections == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_ca_bundle_file_from_a_pipe(settings, call, tmp_path):
    """A pipe, as the shell's <(...) makes, is read once."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(pem(),), daemon=True)
    writer.start()
    with GigaChat(**{**settings, "ca_bundle_file": tmp_path / "pipe"}) as client:
        assert call(client, "chat", "Привет").choices
    writer.join(WAIT_SECONDS)


def test_broken_system_store(monkeypatch, settings, call):
    """Where the system's store cannot be read (one bad certificate on Windows), the error says what avoids it."""

    def broken(self, purpose=None):
        raise ssl.SSLError(58, "[ASN1] nested asn1 error (_ssl.c:4174)")

    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", broken)
    with GigaChat(**settings) as client:
        assert call(client, "chat", "Привет").choices
    with GigaChat(**{**settings, "ca_bundle_file": None}) as client:
        with pytest.raises(ConfigurationError, match=r"system's store.*nested asn1.*GIGACHAT_CA_BUNDLE_FILE"):
            call(client, "chat", "Привет")


def test_ca_bundle_file_replaces_the_system_store(monkeypatch, settings, call):
    """With ca_bundle_file the system's roots do not count."""
    monkeypatch.setenv("SSL_CERT_FILE", CA)
    with GigaChat(**{**settings, "ca_bundle_file": str(CERTS / "other-ca.pem")}) as client:
        with pytest.raises(APIConnectionError, match="not trusted"):
            call(client, "chat", "Привет")


def test_self_signed_certificate_as_root(call):
    """A self-signed certificate can be trusted by itself."""
    tls = (str(CERTS / "selfsigned.pem"), str(CERTS / "selfsigned.key"))
    with RawServer(well_behaved, tls) as server, raw_client(server, ca_bundle_file=tls[0]) as client:
        assert call(client, "chat", "Привет").choices


def test_verify_off(caplog, call):
    """verify_ssl_certs=False takes any certificate, whatever ca_bundle_file says, and warns once."""
    context = server_context(str(CERTS / "wronghost.pem"), str(CERTS / "wronghost.key"))
    with RawServer(well_behaved, context) as server:
        with raw_client(server, verify_ssl_certs=False, ca_bundle_file=str(CERTS / "other-ca.pem")) as client:
            for _ in range(3):
                assert call(client, "chat", "Привет").choices
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "verify_ssl_certs" in warnings[0]


def test_ssl_context(settings, server, call):
    """A given TLS context serves API and token endpoint as it is."""
    context = ssl.create_default_context(cafile=CA)
    del settings["ca_bundle_file"]
    with GigaChat(**settings, ssl_context=context) as client:
        assert call(client, "chat", "Привет").choices
    with GigaChat(**settings, ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) as client:
        with pytest.raises(APIConnectionError, match="not trusted"):
            call(client, "chat", "Привет")
    assert len(server.requests) == 2


def test_strict_verification(call):
    """A sloppy company CA works before Python 3.13; from there on the error names the setting that lets it pass."""
    tls = (str(CERTS / "lax-server.pem"), str(CERTS / "lax-server.key"))
    roots = str(CERTS / "lax-ca.pem")
    context = ssl.create_default_context(cafile=roots)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    advice = r"breaks RFC 5280.*strict_certs \(GIGACHAT_STRICT_CERTS\) to false.*VERIFY_X509_STRICT"
    with RawServer(well_behaved, tls) as server:
        with raw_client(server, ca_bundle_file=roots) as client:
            if sys.version_info < (3, 13):
                assert call(client, "chat", "Привет").choices
            else:
                with pytest.raises(APIConnectionError, match=advice):
                    call(client, "chat", "Привет")
        with raw_client(server, ssl_context=context) as client:
            with pytest.raises(APIConnectionError, match=advice) as caught:
                call(client, "chat", "Привет")
            assert "gosuslugi" not in str(caught.value)
        with raw_client(server, ca_bundle_file=roots, strict_certs=False) as client:
            assert call(client, "chat", "Привет").choices


def test_relaxed_verification_still_verifies(call):
    """strict_certs=False drops one flag and nothing else."""
    with RawServer(well_behaved, SERVER_TLS) as server, raw_client(server, ca_bundle_file=CA) as client:
        client.chat("Привет")
        (sock,) = sockets_to(server)
        strict = sock.context
    with RawServer(well_behaved, SERVER_TLS) as server:
        with raw_client(server, ca_bundle_file=CA, strict_certs=False) as client:
            client.chat("Привет")
            (sock,) = sockets_to(server)
            assert sock.context.verify_flags == strict.verify_flags & ~ssl.VERIFY_X509_STRICT
            assert sock.context.verify_mode == ssl.CERT_REQUIRED and sock.context.check_hostname
        with raw_client(server, ca_bundle_file=str(CERTS / "other-ca.pem"), strict_certs=False) as client:
            with pytest.raises(APIConnectionError, match="not trusted"):
                call(client, "chat", "Привет")


@pytest.mark.skipif(not ssl.HAS_NEVER_CHECK_COMMON_NAME, reason="this OpenSSL cannot be told")
def test_common_name_is_no_name():
    """A certificate is matched by its subjectAltName alone."""
    with RawServer(well_behaved, SERVER_TLS) as server, raw_client(server, ca_bundle_file=CA) as client:
        client.chat("Привет")
        (sock,) = sockets_to(server)
        assert not sock.context.hostname_checks_common_name


class Pinned(ssl.SSLSocket):
    def do_handshake(self, block=False):
        super().do_handshake(block)
        raise ssl.SSLCertVerificationError("the certificate is not the pinned one")


class Matched(ssl.SSLSocket):
    def do_handshake(self, block=False):
        super().do_handshake(block)
        raise ssl.CertificateError("hostname 'a' doesn't match 'b'")


@pytest.mark.parametrize(("kind", "said"), [(Pinned, r"pinned one\Z"), (Matched, r"'b'\. Another server")])
def test_verification_in_python(call, kind, said):
    """An error that Python code raises in the handshake (pinning, truststore) counts as OpenSSL's own."""
    context = ssl.create_default_context(cafile=CA)
    context.sslsocket_class = kind
    with RawServer(well_behaved, SERVER_TLS) as server, raw_client(server, ssl_context=context) as client:
        with pytest.raises(APIConnectionError, match=f"not trusted: .*{said}") as caught:
            call(client, "chat", "Привет")
        assert "gosuslugi" not in str(caught.value)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_lost_system_store(monkeypatch, settings, call, variable):
    """A variable that leads OpenSSL to a store that is not there is named, unless ca_bundle_file is set."""
    monkeypatch.setenv(variable, "/opt/conda/ssl/nothing")
    with GigaChat(**settings) as client:
        assert call(client, "chat", "Привет").choices
    with GigaChat(**{**settings, "ca_bundle_file": None}) as client:
        with pytest.raises(APIConnectionError, match=rf"{variable} names '/opt/conda/ssl/nothing', which is not there"):
            call(client, "chat", "Привет")


def test_old_tls_is_refused():
    """Nothing below TLS 1.2 is spoken, with and without verification."""
    for verify in (True, False):
        with RawServer(well_behaved, SERVER_TLS) as server:
            with raw_client(server, ca_bundle_file=CA, verify_ssl_certs=verify) as client:
                client.chat("Привет")
                (sock,) = sockets_to(server)
                assert sock.context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_no_tls_at_all(call):
    """A plain server behind an https address is an APIConnectionError with the address."""

    def handler(wire):
        wire.sock.recv(1)
        wire.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with RawServer(handler) as server, raw_client(server, base_url=f"https://localhost:{server.port}/v1") as client:
        with pytest.raises(APIConnectionError, match=f"localhost:{server.port}"):
            call(client, "chat", "Привет")


@pytest.mark.parametrize(
    "handler",
    [closing(), resetting(), closing(b"\x15\x03\x01\0\2\2\x0a"),
     closing(answer(b"<h1>The plain HTTP request was sent to HTTPS port</h1>", "400 Bad")),
     closing(answer(b"Client sent an HTTP request to an HTTPS server.\n", "400 Bad"))],
    ids=["closed", "reset", "alert", "nginx", "Go"],
)  # fmt: skip
def test_plain_text_to_a_port_of_tls(call, handler):
    """http:// where TLS is spoken: the error says to write https://."""
    with RawServer(handler) as server, raw_client(server) as client:
        with pytest.raises(GigaChatException, match="TLS: write https://") as caught:
            call(client, "chat", "Привет")
        assert "credentials" not in str(caught.value)


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["closed", "HTTP"])
def test_tls_to_a_plain_port(call, reply):
    """https:// where plain HTTP is spoken: the error says to write http://."""

    def handler(wire):
        wire.sock.recv(10_000)
        wire.send(reply)

    with RawServer(handler) as server, raw_client(server, base_url=f"https://localhost:{server.port}/v1") as client:
        with pytest.raises(APIConnectionError, match="write http://"):
            call(client, "chat", "Привет")


# ---------- TLS: who we are


@pytest.fixture
def mutual_server():
    """A local server that takes client certificates of the test CA instead of tokens."""
    with LocalServer(tls=SERVER_TLS, client_ca=CA) as server:
        yield server


CLIENT_CERTIFICATES = {
    "plain": {"cert_file": "client.pem", "key_file": "client.key"},
    "both in one": {"cert_file": "client-both.pem"},
    "encrypted": {
        "cert_file": "client.pem",
        "key_file": "client-encrypted.key",
        "key_file_password": "test-passphrase",
    },
    "needless password": {"cert_file": "client.pem", "key_file": "client.key", "key_file_password": "x"},
}


def in_certs(arguments):
    return {name: str(CERTS / value) if name.endswith("_file") else value for name, value in arguments.items()}


@pytest.mark.parametrize("arguments", list(CLIENT_CERTIFICATES.values()), ids=list(CLIENT_CERTIFICATES))
def test_client_certificate(mutual_server, call, arguments):
    """A client certificate alone is enough: no token request, no Authorization."""
    client = GigaChat(base_url=mutual_server.base_url, ca_bundle_file=CA, timeout=20, **in_certs(arguments))
    with client:
        assert call(client, "chat", "Привет").choices
    (request,) = mutual_server.requests
    assert "TEST client" in str(request.peer_certificate)
    assert "Authorization" not in request.headers


@pytest.mark.parametrize("trust", ["ca_bundle_file", "verify_ssl_certs", "SSL_CERT_FILE"])
def test_client_certificate_goes_to_both_hosts(mutual_server, monkeypatch, call, trust):
    """API and token endpoint both get the certificate, whatever the CA settings."""
    arguments = in_certs(CLIENT_CERTIFICATES["plain"])
    if trust == "SSL_CERT_FILE":
        monkeypatch.setenv("SSL_CERT_FILE", CA)
    else:
        arguments[trust] = CA if trust == "ca_bundle_file" else False
    with LocalServer(tls=SERVER_TLS, client_ca=CA) as oauth:
        with GigaChat(
            base_url=mutual_server.base_url, auth_url=oauth.auth_url, credentials=oauth.credentials, **arguments
        ) as client:
            assert call(client, "chat", "Привет").choices
        certificates = [request.peer_certificate for request in oauth.requests + mutual_server.requests]
    assert len(certificates) == 2
    assert all("TEST client" in str(certificate) for certificate in certificates)


UNUSABLE_CERTIFICATES = {
    "missing certificate": ({"cert_file": "no.pem"}, ["cert_file", "GIGACHAT_CERT_FILE", "no.pem"]),
    "missing key": ({"cert_file": "client.pem", "key_file": "no.key"}, ["key_file", "GIGACHAT_KEY_FILE", "no.key"]),
    "directory": ({"cert_file": "."}, ["cert_file", "cannot be read"]),
    "no key": ({"cert_file": "client.pem"}, ["cert_file", "client.pem", "no private key in PEM"]),
    "key of another": (
        {"cert_file": "client.pem", "key_file": "server.key"},
        ["GIGACHAT_KEY_FILE", "server.key", "is not the key of the certificate in cert_file", "client.pem"],
    ),
    "swapped": ({"cert_file": "client.key", "key_file": "client.pem"}, ["cert_file", "client.key", "no certificate"]),
    "DER": ({"cert_file": "ca.der", "key_file": "client.key"}, ["cert_file", "ca.der", "no certificate in PEM"]),
    "key in DER": ({"cert_file": "client.pem", "key_file": "ca.der"}, ["key_file", "ca.der", "no private key in PEM"]),
    "wrong password": (
        {"cert_file": "client.pem", "key_file": "client-encrypted.key", "key_file_password": "wrong"},
        ["key_file_password", "GIGACHAT_KEY_FILE_PASSWORD", "is wrong"],
    ),
    "no password": (
        {"cert_file": "client.pem", "key_file": "client-encrypted.key"},
        ["key_file_password", "GIGACHAT_KEY_FILE_PASSWORD", "is missing"],
    ),
    "long password": (
        {"cert_file": "client.pem", "key_file": "client-encrypted.key", "key_file_password": "wrong" * 500},
        ["key_file_password", "GIGACHAT_KEY_FILE_PASSWORD"],
    ),
}


@pytest.mark.parametrize(("arguments", "parts"), list(UNUSABLE_CERTIFICATES.values()), ids=list(UNUSABLE_CERTIFICATES))
def test_unusable_client_certificate(mutual_server, call, arguments, parts):
    """A client certificate that cannot be used is a ConfigurationError that says what to look at; nothing is sent."""
    client = GigaChat(base_url=mutual_server.base_url, ca_bundle_file=CA, timeout=20, **in_certs(arguments))
    with client, pytest.raises(ConfigurationError) as caught:
        call(client, "chat", "Привет")
    assert all(part in str(caught.value) for part in parts)
    assert "wrong" * 2 not in str(caught.value)
    assert mutual_server.requests == []


@pytest.mark.skipif(sys.platform == "win32", reason="no terminals of this kind")
@pytest.mark.parametrize("key_file_password", [None, "wrong"])
def test_passwords_are_never_asked_for(mutual_server, key_file_password):
    """An encrypted key without its password does not make OpenSSL ask on the terminal, even if there is one."""
    import fcntl
    import pty
    import termios

    script = """
        from gigachat_lite import ConfigurationError, GigaChat
        try:
            GigaChat().chat("Hi")
        except ConfigurationError as error:
            print("REFUSED")
    """
    environment = {
        "PYTHONPATH": str(MODULE.parent),
        "GIGACHAT_BASE_URL": mutual_server.base_url,
        "GIGACHAT_CA_BUNDLE_FILE": CA,
        "GIGACHAT_CERT_FILE": str(CERTS / "client.pem"),
        "GIGACHAT_KEY_FILE": str(CERTS / "client-encrypted.key"),
        "GIGACHAT_KEY_FILE_PASSWORD": key_file_password or "",
    }
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script)],
            env={**os.environ, **environment},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        try:
            assert process.wait(WAIT_SECONDS) == 0
        finally:
            process.kill()
            process.wait()
        shown = os.read(ours, 10_000)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"REFUSED" in shown
    assert b"phrase" not in shown


def test_certificate_that_is_asked_for_later(call):
    """A server that asks for the client's certificate after the handshake (TLS 1.3) gets it."""
    context = server_context(*SERVER_TLS)
    context.load_verify_locations(CA)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.post_handshake_auth, context.verify_mode = True, ssl.CERT_REQUIRED

    def handler(wire):
        wire.receive()
        wire.sock.verify_client_post_handshake()
        reply = answer(COMPLETION)
        wire.send(reply[:-1])
        wire.sock.settimeout(0.02)
        while wire.sock.getpeercert() is None:
            try:
                wire.sock.recv(1)  # reads the certificate, and waits for more
            except socket.timeout:
                pass
        subjects.append(str(wire.sock.getpeercert()))
        wire.send(reply[-1:])

    subjects = []
    with RawServer(handler, context) as server:
        with raw_client(server, ca_bundle_file=CA, **in_certs(CLIENT_CERTIFICATES["plain"])) as client:
            assert call(client, "chat", "Привет").choices
    assert "TEST client" in subjects[0]


def test_server_that_demands_a_certificate(call):
    """Where the server demands a client certificate and there is none, the error names cert_file."""
    context = server_context(*SERVER_TLS)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(CA)
    with RawServer(well_behaved, context) as server:
        with raw_client(server, ca_bundle_file=CA) as client:
            with pytest.raises(APIConnectionError, match=r"cert_file \(GIGACHAT_CERT_FILE\)"):
                call(client, "chat", "Привет")
        assert server.requests == []
        with raw_client(server, ca_bundle_file=CA, **in_certs(CLIENT_CERTIFICATES["plain"])) as client:
            assert call(client, "chat", "Привет").choices


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_certificate_that_the_server_refuses(call, version):
    """Where the server does not trust the client's certificate, the error names cert_file."""
    context = server_context(*SERVER_TLS)
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(str(CERTS / "other-ca.pem"))
    arguments = in_certs(CLIENT_CERTIFICATES["plain"])
    with RawServer(well_behaved, context) as server, raw_client(server, ca_bundle_file=CA, **arguments) as client:
        with pytest.raises(APIConnectionError, match=r"refuses the client certificate.*GIGACHAT_CERT_FILE"):
            call(client, "chat", "Привет")


def test_certificate_without_rights(call):
    """A 401 to a call that only a certificate authenticates speaks of the certificate, not of a token."""
    with RawServer(always(answer({"message": "no"}, "401 No")), SERVER_TLS) as server:
        arguments = in_certs(CLIENT_CERTIFICATES["plain"])
        with raw_client(server, access_token=None, ca_bundle_file=CA, **arguments) as client:
            with pytest.raises(AuthenticationError, match="did not take the client certificate"):
                call(client, "chat", "Привет")


# ---------- proxies


class Proxy(RawServer):
    """A proxy for http (whole addresses) and https (CONNECT); ``requests`` is what it saw. *login*: 407 without it."""

    def __init__(self, login=None):
        super().__init__(self.serve)
        self.login = login
        self.url = f"http://127.0.0.1:{self.port}"  # not the name of the servers behind it

    def serve(self, wire):
        for request in wire:
            if not self.admits(request):
                wire.send(answer(b"who are you?", "407 Proxy Authentication Required"))
            elif request.method == "CONNECT":
                self.tunnel(wire, request)
                return
            else:
                wire.send(self.fetch(request))

    def admits(self, request):
        login = None if self.login is None else "Basic " + base64.b64encode(self.login.encode()).decode()
        return login is None or request.headers.get("proxy-authorization") == login

    def tunnel(self, wire, request):
        host, _, port = request.target.rpartition(":")
        with connect(host, port) as upstream:
            wire.send(b"HTTP/1.1 200 Connection established\r\nX-Proxy: yes\r\n\r\n")
            back = threading.Thread(target=relay, args=(upstream, wire.sock), daemon=True)
            back.start()
            relay(wire.sock, upstream)
            back.join(WAIT_SECONDS)

    def fetch(self, request):
        address = urlsplit(request.target)
        head = request.head.replace(request.target.encode(), address.path.encode(), 1)
        head = re.sub(rb"\r\nProxy-Authorization:[^\r]*", b"\r\nConnection: close", head, flags=re.IGNORECASE)
        with connect(address.hostname, address.port) as upstream:
            upstream.sendall(head + request.body)
            upstream.shutdown(socket.SHUT_WR)
            reply = b"".join(iter(lambda: upstream.recv(65_536), b""))
        return reply.replace(b"Connection: close", b"Connection: keep-alive", 1)


def connect(host, port):
    assert host == "localhost"
    return socket.create_connection(("127.0.0.1", int(port)), timeout=WAIT_SECONDS)


def relay(source, target):
    """Pass bytes on until either side ends, then end both."""
    try:
        while True:
            data = source.recv(65_536)
            if not data:
                break
            target.sendall(data)
    except OSError:
        pass
    for sock in (source, target):
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


@pytest.fixture
def proxy():
    with Proxy() as proxy:
        yield proxy


def plain_settings(server):
    return {"base_url": server.base_url, "auth_url": server.auth_url, "credentials": server.credentials, "timeout": 20}


def test_https_through_a_tunnel(settings, server, proxy, call):
    """https goes through one CONNECT tunnel, which sees neither token nor text, and is kept like any connection."""
    with GigaChat(**settings, proxy=proxy.url) as client:
        for _ in range(3):
            assert call(client, "chat", "Привет").choices
        assert call(client, "stream", "Привет")
    (connect,) = proxy.requests
    assert (connect.method, connect.target) == ("CONNECT", f"localhost:{server.port}")
    assert connect.headers["host"] == f"localhost:{server.port}"
    assert set(connect.headers) == {"host"}
    assert server.connections == 1
    assert server.requests[1].path == "/api/v1/chat/completions"
    assert server.requests[1].headers["Host"] == f"localhost:{server.port}"


def test_http_through_a_proxy(plain_server, proxy, call):
    """http goes to the proxy with the whole address (RFC 9112, section 3.2.2)."""
    with GigaChat(**plain_settings(plain_server), proxy=proxy.url) as client:
        assert call(client, "chat", "Привет").choices
    assert [request.target for request in proxy.requests][:1] == [plain_server.auth_url]
    assert proxy.requests[0].headers["host"] == f"localhost:{plain_server.port}"
    assert [request.path for request in plain_server.requests] == ["/api/v2/oauth", "/api/v1/chat/completions"]


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "GIGACHAT_PROXY"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_proxy_of_the_environment(monkeypatch, settings, server, proxy, variable, scheme):
    """The proxy comes from the environment, with or without a scheme."""
    monkeypatch.setenv(variable, f"{scheme}localhost:{proxy.port}")
    with GigaChat(**settings) as client:
        client.chat("Привет")
    assert [request.method for request in proxy.requests] == ["CONNECT"]
    assert len(server.requests) == 2


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_http_proxy_of_the_environment(monkeypatch, plain_server, proxy, variable):
    """http_proxy serves http addresses; https_proxy does not."""
    monkeypatch.setenv("HTTPS_PROXY", "http://localhost:9")
    monkeypatch.setenv(variable, proxy.url)
    with GigaChat(**plain_settings(plain_server)) as client:
        client.chat("Привет")
    assert [request.method for request in proxy.requests][:1] == ["POST"]
    assert len(plain_server.requests) == 2


@pytest.mark.parametrize(
    ("no_proxy", "direct"),
    [
        ("localhost", True),
        ("example.com, localhost", True),
        ("*", True),
        ("localhost:{port}", True),
        ("example.com", False),
        ("localhost:1", False),
        ("host", False),
    ],
)
@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_no_proxy(monkeypatch, settings, server, proxy, variable, no_proxy, direct):
    """NO_PROXY lists the hosts that are reached directly."""
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv(variable, no_proxy.format(port=server.port))
    with GigaChat(**settings) as client:
        client.chat("Привет")
    assert len(proxy.requests) == (0 if direct else 1)
    assert len(server.requests) == 2


def test_empty_proxy_ignores_the_environment(monkeypatch, settings, server, proxy, call):
    """proxy="" means no proxy, whatever the environment says."""
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "GIGACHAT_PROXY"):
        monkeypatch.setenv(variable, proxy.url)
    with GigaChat(**settings, proxy="") as client:
        assert call(client, "chat", "Привет").choices
    assert proxy.connections == 0


def test_proxy_argument_beats_the_environment(monkeypatch, settings, proxy, call):
    """proxy= is taken, not HTTPS_PROXY."""
    with Proxy() as other:
        monkeypatch.setenv("HTTPS_PROXY", other.url)
        with GigaChat(**settings, proxy=proxy.url) as client:
            assert call(client, "chat", "Привет").choices
        assert other.connections == 0
    assert proxy.connections == 1


@pytest.mark.parametrize("source", ["argument", "environment"])
def test_proxy_credentials_go_to_the_proxy_only(monkeypatch, settings, server, call, source):
    """User and password, percent-encoded in the address, reach the proxy and nobody else."""
    with Proxy(login="user:p@ss/word") as proxy:
        url = f"http://user:p%40ss%2Fword@localhost:{proxy.port}"
        arguments = {"proxy": url} if source == "argument" else {}
        if source == "environment":
            monkeypatch.setenv("HTTPS_PROXY", url)
        with GigaChat(**settings, **arguments) as client:
            assert call(client, "chat", "Привет").choices
        assert proxy.connections == 1
        assert "authorization" not in proxy.requests[0].headers
    assert len(server.requests) == 2
    assert all("Proxy-Authorization" not in request.headers for request in server.requests)


LOGINS = [
    ("user", "user:"),
    ("user:", "user:"),
    (":password", ":password"),
    ("user:p%40ss%3Aw%2Frd", "user:p@ss:w/rd"),
    ("user:pass:word", "user:pass:word"),
    ("user:p@ss", "user:p@ss"),
    ("пользователь:пароль", "пользователь:пароль"),
    ("%D0%B8%D0%BC%D1%8F:%D0%BF", "имя:п"),
]


@pytest.mark.parametrize(("written", "sent"), LOGINS, ids=[written for written, _ in LOGINS])
def test_proxy_credentials_in_legal_forms(monkeypatch, settings, call, written, sent):
    """User and password may be empty, percent-encoded or not in ASCII, with and without a scheme in any case."""
    with Proxy(login=sent) as proxy:
        for scheme in ("http://", "HTTP://", "", "//"):
            with GigaChat(**settings, proxy=f"{scheme}{written}@127.0.0.1:{proxy.port}") as client:
                assert call(client, "chat", "Привет").choices
            monkeypatch.setenv("HTTPS_PROXY", f"{scheme}{written}@127.0.0.1:{proxy.port}")
            with GigaChat(**settings) as client:
                assert call(client, "chat", "Привет").choices
            monkeypatch.delenv("HTTPS_PROXY")
        assert proxy.connections == 8


def test_proxy_with_an_ipv6_address(settings, call):
    """A proxy may have an IPv6 address."""
    assert GigaChat(**settings, proxy="user:p@[::1]:3128")._settings.proxies["https"] == "http://user:p@[::1]:3128"
    with GigaChat(**{**settings, "timeout": 1}, proxy="[::1]:9") as client:
        with pytest.raises(APIConnectionError, match=re.escape("[::1]:9")):
            call(client, "chat", "Привет")


@pytest.mark.parametrize("empty", [{"https_proxy": ""}, {"HTTPS_PROXY": ""}, {"https_proxy": "", "HTTPS_PROXY": "{}"}])
def test_empty_variable_means_off(monkeypatch, settings, proxy, empty):
    """A variable that is set and empty says that there is no proxy; of two the one in lower case counts."""
    monkeypatch.setenv("ALL_PROXY", proxy.url)
    for name, value in empty.items():
        monkeypatch.setenv(name, value.format(proxy.url))
    with GigaChat(**settings) as client:
        assert client.chat("Привет").choices
    assert proxy.connections == 0


def test_lower_case_wins(monkeypatch, settings, proxy):
    """Of https_proxy and HTTPS_PROXY the first counts."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", proxy.url)
    with GigaChat(**settings) as client:
        assert client.chat("Привет").choices
    assert proxy.connections == 1


SOCKS = "socks5h://user:S3CR3T@127.0.0.1:1080"


@pytest.mark.parametrize(
    "variables",
    [
        {"ALL_PROXY": SOCKS, "NO_PROXY": "localhost,127.0.0.1"},
        {"ALL_PROXY": SOCKS, "NO_PROXY": "*"},
        {"ALL_PROXY": SOCKS, "https_proxy": "{}"},
        {"HTTP_PROXY": SOCKS, "https_proxy": '"{}"\r'},
        {"HTTPS_PROXY": "https://127.0.0.1:1080", "no_proxy": "localhost"},
        {"HTTPS_PROXY": "nonsense:x", "no_proxy": ".localhost"},
    ],
)
def test_proxies_that_no_request_uses(monkeypatch, settings, proxy, call, variables):
    """A proxy that we cannot speak with is no matter while no request needs it."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(proxy.url))
    with GigaChat(**settings) as client:
        assert call(client, "chat", "Привет").choices


@pytest.mark.parametrize("no_proxy", ["localhost", "LOCALHOST", ".localhost", "localhost:{port}", "x, localhost"])
def test_no_proxy_of_a_complete_name(monkeypatch, settings, server, proxy, no_proxy):
    """no_proxy beats an explicit proxy too; a dot at the end of a host's name makes no difference."""
    monkeypatch.setenv("no_proxy", no_proxy.format(port=server.port))
    with GigaChat(**settings, proxy=proxy.url) as client:
        client.chat("Привет")
        assert proxy.connections == 0
    dotted = {name: settings[name].replace("localhost", "localhost.") for name in ("base_url", "auth_url")}
    if "port" not in no_proxy:
        with GigaChat(**{**settings, **dotted}, proxy=proxy.url) as client, contextlib.suppress(APIConnectionError):
            client.chat("Привет")  # not every machine knows localhost by its complete name
    assert proxy.connections == 0


def test_exceptions_of_the_system_are_not_asked(monkeypatch, settings, proxy, call):
    """An explicit proxy is used whatever macOS or Windows list as exceptions, and DNS is not asked for them."""
    import urllib.request

    def asked(*_):
        raise AssertionError("the system was asked")

    for name in ("proxy_bypass", "getproxies", "proxy_bypass_macosx_sysconf", "proxy_bypass_registry"):
        monkeypatch.setattr(urllib.request, name, asked, raising=False)
    monkeypatch.setattr(socket, "gethostbyname", asked)
    with GigaChat(**settings, proxy=proxy.url) as client:
        assert call(client, "chat", "Привет").choices
    assert proxy.connections == 1


@pytest.mark.parametrize(("asks", "said"), [("Negotiate, NTLM", "Negotiate, NTLM; only Basic"), (None, "credentials")])
def test_what_the_proxy_asks_for(settings, plain_server, call, asks, said):
    """A 407, of a tunnel and of a plain request, says what the proxy asked for and how a password is written."""
    fields = {"Proxy_Authenticate": asks} if asks else {}
    with RawServer(always(answer(b"", "407 Who", **fields))) as proxy:
        for arguments in (settings, plain_settings(plain_server)):
            with GigaChat(**arguments, proxy=proxy.base_url.partition("/api")[0]) as client:
                with pytest.raises(GigaChatException, match=rf"407.*asks for {said}.*%40") as caught:
                    call(client, "chat", "Привет")
            assert "scope" not in str(caught.value)


def test_http_proxy_credentials(plain_server, call):
    """A plain http request carries the proxy's credentials to the proxy."""
    with Proxy(login="user:secret") as proxy:
        settings = {**plain_settings(plain_server), "proxy": f"http://user:secret@localhost:{proxy.port}"}
        with GigaChat(**settings) as client:
            assert call(client, "chat", "Привет").choices
    assert all("Proxy-Authorization" not in request.headers for request in plain_server.requests)


@pytest.mark.parametrize("login", ["", "user:S3CR3T@"])
def test_proxy_that_refuses(settings, server, call, login):
    """A proxy that refuses the tunnel is an APIConnectionError with its address and status, not its password."""
    with Proxy(login="other:login") as proxy:
        with GigaChat(**settings, proxy=f"http://{login}localhost:{proxy.port}") as client:
            with pytest.raises(APIConnectionError, match=f"localhost:{proxy.port}.*407") as caught:
                call(client, "chat", "Привет")
        assert "S3CR3T" not in str(caught.value)
        assert len(proxy.requests) == 1
    assert server.connections == 0


def hang_up(wire):
    wire.receive()


def babble(wire):
    wire.receive()
    wire.send(b"SSH-2.0-OpenSSH\r\n")


@pytest.mark.parametrize("handler", [hang_up, babble])
def test_proxy_that_fails(settings, server, call, handler):
    """A proxy that hangs up, or is none, is an APIConnectionError that speaks of the proxy."""
    with RawServer(handler) as proxy, GigaChat(**settings, proxy=f"localhost:{proxy.port}") as client:
        with pytest.raises(APIConnectionError, match=f"proxy.*{proxy.port}|{proxy.port}.*proxy"):
            call(client, "chat", "Привет")
        assert len(proxy.requests) == 1
    assert server.connections == 0


def test_unreachable_proxy(settings, server, call):
    """A proxy that cannot be reached is named: not the server behind it is to blame."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        with GigaChat(**settings, proxy=f"http://user:S3CR3T@127.0.0.1:{port}") as client:
            with pytest.raises(APIConnectionError, match=rf"127\.0\.0\.1:{port}") as caught:
                call(client, "chat", "Привет")
    assert "proxy" in str(caught.value)
    assert "S3CR3T" not in str(caught.value)
    assert server.connections == 0


def test_client_certificate_through_a_tunnel(mutual_server, proxy, call):
    """The client certificate reaches the server at the end of the tunnel."""
    arguments = in_certs(CLIENT_CERTIFICATES["encrypted"])
    with GigaChat(base_url=mutual_server.base_url, ca_bundle_file=CA, proxy=proxy.url, **arguments) as client:
        assert call(client, "chat", "Привет").choices
    assert [request.method for request in proxy.requests] == ["CONNECT"]
    assert "TEST client" in str(mutual_server.requests[0].peer_certificate)


def test_untrusted_server_behind_a_tunnel(proxy, call):
    """The certificate is checked against the server's name, not the proxy's."""
    context = server_context(str(CERTS / "wronghost.pem"), str(CERTS / "wronghost.key"))
    with RawServer(well_behaved, context) as server:
        with raw_client(server, ca_bundle_file=CA, proxy=proxy.url) as client:
            with pytest.raises(APIConnectionError, match=f"localhost:{server.port}.*[Hh]ostname mismatch"):
                call(client, "chat", "Привет")
        assert server.requests == []


def test_stale_tunnel(proxy, call):
    """A tunnel that was closed while idle is replaced like any connection."""
    with RawServer(one_answer_then_close, SERVER_TLS) as server:
        with raw_client(server, ca_bundle_file=CA, proxy=proxy.url) as client:
            for number in (1, 2):
                assert call(client, "chat", "Привет").choices
                proxy.wait(lambda number=number: proxy.closed == number)
        assert [request.connection for request in server.requests] == [1, 2]
    assert len(proxy.requests) == 2


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
            with raw_client(server, ca_bundle_file=CA, max_retries=3) as client:
                with pytest.raises(APIConnectionError, match="certificate is not trusted"):
                    call(client, "chat", "x")
            server.wait(lambda server=server: server.closed == 1)
            assert server.connections == 1  # and it is not tried again
    assert not any(received)
