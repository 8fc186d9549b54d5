"""Requests of the engine itself: what they may reach, and what they do with what comes back."""

import asyncio
import datetime
import ipaddress
import json
import ssl
import subprocess
import sys

import pytest
from agentos_engine.outbound import client as client_module
from agentos_engine.outbound.client import OutboundClient, RequestFailed, ResponseFailed
from agentos_engine.outbound.rules import UrlRefused, UrlRules, check_headers, is_public, parse_url

# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.1",
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "169.254.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "100.127.255.255",
        "168.63.129.16",
        "192.0.0.192",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0:127.0.0.1",
        "::127.0.0.1",
        "::7f00:1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "64:ff9b:1::8.8.8.8",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:7f00:1::",
        "2001:db8::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "2606:4700::1111%eth0",
    ],
)
def test_addresses_that_are_not_on_the_internet_are_private(address):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.1.1.1",
        "172.32.0.1",
        "100.128.0.1",
        "168.63.129.17",
        "2606:4700:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
    ],
)
def test_addresses_on_the_internet_are_public(address):
    assert is_public(ipaddress.ip_address(address))


# URLs


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "path", "origin"),
    [
        ("https://a.example", "https", "a.example", 443, "/", "https://a.example"),
        ("HTTPS://A.Example./x?y=1#z", "https", "a.example", 443, "/x?y=1", "https://a.example"),
        ("http://a.example:8080/x", "http", "a.example", 8080, "/x", "http://a.example:8080"),
        ("https://a.example:443/", "https", "a.example", 443, "/", "https://a.example"),
        ("https://[2606:4700::1]:8443/", "https", "2606:4700::1", 8443, "/", "https://[2606:4700::1]:8443"),
        ("https://my_svc.example?q", "https", "my_svc.example", 443, "/?q", "https://my_svc.example"),
    ],
)
def test_a_url_is_taken_apart(url, scheme, host, port, path, origin):
    target = parse_url(url)
    assert (target.scheme, target.host, target.port, target.path) == (scheme, host, port, path)
    assert target.origin == origin


@pytest.mark.parametrize(
    "url",
    [
        None,
        5,
        "",
        "a.example/x",
        "//a.example/x",
        "ftp://a.example/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://",
        "https:///x",
        "https://user@a.example/",
        "https://user:pass@a.example/",
        "https://a.example@127.0.0.1/",
        "https://a.example\\@127.0.0.1/",
        "https://a.example/x y",
        "https://a.example/\r\nx: y",
        "https://a.example/\t",
        "https://bücher.example/",
        "https://a.example:port/",
        "https://a.example:99999/",
        "https://a.example:0/",
        "https://a..example%2f/",
        "https://[::1/",
        "https://[v1.x]/",
        "https://a.example/a/../b",
        "https://a.example/%2e%2e/b",
        "https://a.example/" + "x" * 9000,
    ],
)
def test_what_is_not_plainly_a_web_address_is_refused(url):
    with pytest.raises(UrlRefused):
        parse_url(url)


@pytest.mark.parametrize(
    ("allowlist", "url", "allowed"),
    [
        (["*"], "https://a.example:8443/x", True),
        ([], "https://a.example/", False),
        (["a.example"], "https://a.example/x", True),
        (["a.example"], "https://a.example.evil.example/x", False),
        (["A.EXAMPLE"], "https://a.example/x", True),
        (["*.example"], "https://a.example/x", True),
        (["*.a.example"], "https://a.example/x", False),
        (["*.a.example/*"], "https://evil.example/x.a.example/y", False),
        (["*.a.example"], "https://evil.example/?x.a.example", False),
        (["https://*"], "https://a.example:8443/x", True),
        (["https://*"], "http://a.example/x", False),
        (["http*://a.example/*"], "http://a.example/x", True),
        (["https://a.example/hooks/*"], "https://a.example/hooks/1?t=2", True),
        (["https://a.example/hooks/*"], "https://a.example/admin", False),
        (["https://a.example/hooks"], "https://a.example/hooks", True),
        (["https://a.example/hooks"], "https://a.example/hooks/1", False),
        (["https://a.example:8443"], "https://a.example:8443/x", True),
        (["https://a.example:8443"], "https://a.example/x", False),
        (["https://a.example:*/x"], "https://a.example:1/x", True),
        (["https://[2606:4700::1]"], "https://[2606:4700::1]/x", True),
        (["b.example", "a.example"], "https://a.example/x", True),
    ],
)
def test_the_allowlist_compares_scheme_host_port_and_path_each_for_itself(allowlist, url, allowed):
    rules = UrlRules(allowlist, block_private_ips=False, require_https=False)
    if allowed:
        rules.check_url(url)
    else:
        with pytest.raises(UrlRefused, match="url_allowlist"):
            rules.check_url(url)


def test_https_is_required_unless_the_rules_say_otherwise():
    with pytest.raises(UrlRefused, match="require_https"):
        UrlRules().check_url("http://a.example/")
    assert UrlRules(require_https=False).check_url("http://a.example/").port == 80


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "[fd00:ec2::254]"])
def test_a_private_address_in_the_url_is_refused_at_once(host):
    with pytest.raises(UrlRefused, match="block_private_ips"):
        UrlRules().check_url(f"https://{host}/")
    UrlRules(block_private_ips=False).check_url(f"https://{host}/")


@pytest.mark.parametrize(
    "headers",
    [
        {"": "x"},
        {"a b": "x"},
        {"a:b": "x"},
        {"x\r\ny": "z"},
        {"x": "a\r\nb: c"},
        {"x": "a\nb"},
        {"x": "a\x00b"},
        {"x": "ℵ"},
        {"x": " a"},
        {"Host": "other"},
        {"Content-Length": "5"},
        {"transfer-encoding": "chunked"},
        {"Connection": "upgrade"},
        {"Accept-Encoding": "gzip"},
        {f"x-{number}": "" for number in range(65)},
        {"x": "a" * 40_000},
    ],
)
def test_headers_that_could_change_the_request_are_refused(headers):
    with pytest.raises(UrlRefused):
        check_headers(headers)


def test_ordinary_headers_are_allowed():
    check_headers({"Authorization": "Bearer a.b-c", "x-tab": "a\tb", "x-latin": "é", "x-empty": ""})


# Requests


class Upstream:
    """An HTTP server on loopback that answers with the bytes that it was told and remembers what came."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0
        self.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
        self.hold = asyncio.Event()
        self.hold.set()
        self.arrived = asyncio.Semaphore(0)
        self.closes = False
        self.port = 0

    async def start(self, tls: ssl.SSLContext | None = None) -> "Upstream":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        self.hold.set()
        self._server.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def say(self, status: str, body: bytes = b"", *headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]
        self.answer = "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                top = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {}
                for line in filter(None, top[1:]):
                    name, _, value = line.partition(": ")
                    headers[name.lower()] = value
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append((top[0], headers, body))
                self.arrived.release()
                await self.hold.wait()
                writer.write(self.answer)
                await writer.drain()
                if self.closes:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


@pytest.fixture
async def upstream():
    server = await Upstream().start()
    yield server
    await server.stop()


@pytest.fixture
async def make_client():
    made: list[OutboundClient] = []

    def make(**rules) -> OutboundClient:
        tls = rules.pop("tls", None)
        open_rules = {"block_private_ips": False, "require_https": False, **rules}
        made.append(OutboundClient(UrlRules(**open_rules), tls=tls))
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def test_a_request_arrives_as_it_was_made_and_its_answer_comes_back(upstream, make_client):
    upstream.say("201 Created", b"[1]", "X-A: 1", "X-A: 2", "Content-Type: text/plain")
    headers = {"X-Custom": "é", "Content-Type": "application/json"}
    reply = await make_client().request("PUT", f"{upstream.url}/a/b?c=d#e", headers=headers, body=b'{"n":1}')
    assert (reply.status, reply.body) == (201, b"[1]")
    assert reply.headers["x-a"] == "1, 2"
    line, got, body = upstream.requests[0]
    assert (line, body) == ("PUT /a/b?c=d HTTP/1.1", b'{"n":1}')
    assert got["host"] == f"127.0.0.1:{upstream.port}"
    assert got["x-custom"] == "é"
    assert got["content-type"] == "application/json"
    assert got["content-length"] == "7"


async def test_json_is_posted_for_webhooks(upstream, make_client):
    reply = await make_client().post_json(upstream.url, b'{"alert":"x"}', headers={"x-key": "v"})
    assert reply.status == 200
    line, headers, body = upstream.requests[0]
    assert (line, headers["content-type"], headers["x-key"]) == ("POST / HTTP/1.1", "application/json", "v")
    assert json.loads(body) == {"alert": "x"}


async def test_connections_are_used_again_and_a_closed_client_too(upstream, make_client):
    client = make_client()
    for _ in range(3):
        await client.post_json(upstream.url, b"{}")
    assert upstream.connections == 1
    await client.close()
    await client.post_json(upstream.url, b"{}")
    assert upstream.connections == 2


async def test_redirects_are_returned_and_not_followed(upstream, make_client):
    upstream.say("302 Found", b"", f"Location: {upstream.url}/other")
    reply = await make_client().post_json(upstream.url, b"{}")
    assert reply.status == 302
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f.0.0.1", "0x7f000001"])
async def test_a_name_that_leads_to_a_private_address_is_never_connected_to(upstream, make_client, host):
    client = make_client(block_private_ips=True)
    with pytest.raises((UrlRefused, RequestFailed)):
        await client.post_json(f"http://{host}:{upstream.port}/", b"{}")
    assert upstream.connections == 0


async def test_a_name_that_leads_to_a_private_address_is_refused_by_the_rules(upstream, make_client):
    with pytest.raises(UrlRefused, match="localhost is at a private address"):
        await make_client(block_private_ips=True).post_json(f"http://localhost:{upstream.port}/", b"{}")


async def test_the_connection_goes_to_the_address_that_was_checked(upstream):
    """The name is looked up once: no second look-up could give another address than the one that was checked."""
    seen = []

    class Watching(UrlRules):
        def check_address(self, host, address):
            seen.append((host, str(address)))
            if str(address) != "127.0.0.1":
                raise UrlRefused("not this one")

    client = OutboundClient(Watching(block_private_ips=False, require_https=False))
    await client.post_json(f"http://localhost:{upstream.port}/", b"{}")
    await client.close()
    assert ("localhost", "127.0.0.1") in seen
    assert upstream.requests[0][1]["host"] == f"localhost:{upstream.port}"


async def test_proxies_of_the_environment_are_not_used(upstream, make_client, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert (await make_client().post_json(upstream.url, b"{}")).status == 200


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n" + b"x" * 1001,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        + (b"64\r\n" + b"x" * 100 + b"\r\n") * 20
        + b"0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nxx",
    ],
)
async def test_an_answer_that_is_too_large_compressed_or_broken_off_fails(upstream, make_client, monkeypatch, answer):
    monkeypatch.setattr(client_module, "MAX_RESPONSE", 1000)
    upstream.answer = answer
    upstream.closes = True
    with pytest.raises(ResponseFailed):
        await make_client().post_json(upstream.url, b"{}")


async def test_all_answers_together_are_bounded(upstream, make_client, monkeypatch):
    monkeypatch.setattr(client_module, "MAX_BUFFERED", 1000)
    client = make_client()
    upstream.say("200 OK", b"x" * 1001)
    with pytest.raises(ResponseFailed, match="together"):
        await client.post_json(upstream.url, b"{}")
    upstream.say("200 OK", b"x" * 999)
    assert (await client.post_json(upstream.url, b"{}")).status == 200


@pytest.mark.parametrize("answer", [b"", b"not http\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 200_000])
async def test_a_server_that_does_not_speak_http_fails_the_request(upstream, make_client, answer):
    upstream.answer = answer
    upstream.closes = True
    with pytest.raises(RequestFailed):
        await make_client().post_json(upstream.url, b"{}")


async def test_a_server_that_is_not_there_fails_the_request(upstream, make_client):
    await upstream.stop()
    with pytest.raises(RequestFailed, match=f"http://127.0.0.1:{upstream.port}: cannot connect"):
        await make_client().post_json(f"{upstream.url}/secret-path", b"{}")
    with pytest.raises(RequestFailed, match="the host is unknown"):
        await make_client().post_json("http://no-such-host.invalid/secret-path", b"{}")


async def test_a_server_that_takes_too_long_fails_the_request_and_frees_its_place(upstream, make_client):
    upstream.hold.clear()
    client = make_client()
    with pytest.raises(RequestFailed, match=r"no complete answer within 0\.05 s"):
        await client.post_json(f"{upstream.url}/secret-path", b"{}", seconds=0.05)
    upstream.hold.set()
    assert (await client.post_json(upstream.url, b"{}")).status == 200


async def test_a_slow_origin_cannot_take_all_places(upstream, make_client, monkeypatch):
    monkeypatch.setattr(client_module, "MAX_IN_FLIGHT_PER_ORIGIN", 2)
    other = await Upstream().start()
    upstream.hold.clear()
    client = make_client()
    slow = [asyncio.ensure_future(client.post_json(upstream.url, b"{}")) for _ in range(2)]
    async with asyncio.timeout(10):
        for _ in slow:
            await upstream.arrived.acquire()
    with pytest.raises(RequestFailed, match="too many requests"):
        await client.post_json(upstream.url, b"{}")
    assert (await client.post_json(other.url, b"{}")).status == 200
    upstream.hold.set()
    assert [(await each).status for each in slow] == [200, 200]
    assert (await client.post_json(upstream.url, b"{}")).status == 200
    await other.stop()


def _certificate(tmp_path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for ``name``, and a client's that trusts it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / f"{name}.pem"
    text = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(text + secret)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cadata=text.decode())


async def test_the_server_must_have_a_certificate_for_the_name_in_the_url(tmp_path, make_client):
    right, trusting = _certificate(tmp_path, "localhost")
    server = await Upstream().start(right)
    url = f"https://localhost:{server.port}/"
    assert (await make_client(require_https=True, tls=trusting).post_json(url, b"{}")).status == 200
    with pytest.raises(RequestFailed, match=r"(?i)certificate"):
        await make_client(require_https=True).post_json(url, b"{}")
    await server.stop()

    wrong, trusting = _certificate(tmp_path, "other.example")
    server = await Upstream().start(wrong)
    with pytest.raises(RequestFailed, match=r"(?i)certificate"):
        await make_client(require_https=True, tls=trusting).post_json(f"https://localhost:{server.port}/", b"{}")
    assert server.requests == []
    await server.stop()


def test_the_library_behind_it_is_loaded_with_the_first_request_only():
    code = "import sys, agentos_engine.http_functions; print(sorted({'httpcore', 'anyio', 'h11'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


async def test_head_and_body_of_a_small_request_come_in_one_piece():
    pieces = []

    async def serve(reader, writer):
        pieces.append(await reader.read(1 << 16))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = OutboundClient(UrlRules(block_private_ips=False, require_https=False))
    try:
        for _ in range(5):
            await client.post_json(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", b'{"a":1}')
    finally:
        await client.close()
        server.close()
    assert [piece.endswith(b'\r\n\r\n{"a":1}') for piece in pieces] == [True] * 5
