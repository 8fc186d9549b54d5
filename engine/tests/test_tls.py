"""TLS on the ports for workers, REST and streams, over real sockets."""

import asyncio
import contextlib
import dataclasses
import json
import os
import socket
import ssl
import time

import pytest
import websockets
from agentos_engine import limits
from agentos_engine.config import SettingsError, TlsFiles, read_settings
from agentos_engine.server.tls import Tls

from tests.certificates import Authority
from tests.waiting import until


class Running:
    """An engine with TLS."""

    def __init__(self, running, authority):
        self.engine, self.ports = running.engine, running.ports
        self.context = ssl.create_default_context(cafile=authority.ca)

    async def connect(self, port=None, context=None, **options):
        url = f"wss://127.0.0.1:{port or self.ports.workers}/"
        return await websockets.connect(url, ssl=context or self.context, max_size=None, compression=None, **options)

    async def http(self, *parts, context=None):
        """Send bytes to the REST port and return all that comes back until it closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports.http, ssl=context or self.context)
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(15):
            answer = await reader.read()
        writer.close()
        return answer

    async def certificate(self, port, context=None):
        """The serial number of the certificate that a new connection gets."""
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context or self.context)
        number = writer.get_extra_info("peercert")["serialNumber"]
        writer.close()
        return number


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
async def start(run_engine, authority):
    async def start(*flags):
        cert, key = authority.issue("server")
        return Running(await run_engine("--tls-cert", str(cert), "--tls-key", str(key), *flags), authority)

    return start


async def message(worker, kind):
    async with asyncio.timeout(15):
        while True:
            found = json.loads(await worker.recv())
            if found["type"] == kind:
                return found


async def call(worker, **data):
    ask = {"type": "invokefunction", "invocation_id": "1", "function_id": "a::f", "data": data}
    await worker.send(json.dumps(ask))


ASK = b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


async def test_workers_rest_and_streams_are_served_and_the_admin_port_is_plain(start):
    running = await start()
    worker = await running.connect()
    assert json.loads(await worker.recv())["type"] == "workerregistered"
    assert b"404 Not Found" in await running.http(ASK)
    client = await running.connect(running.ports.stream)
    join = {"subscriptionId": "s", "streamName": "n", "groupId": "g"}
    await client.send(json.dumps({"type": "join", "data": join}))
    assert "sync" in await client.recv()
    await client.close()
    await worker.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", running.ports.admin)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert b"200 OK" in await reader.read()


@pytest.mark.parametrize(
    "sent",
    [ASK, b"", b"\x16\x03\x01", b"\x16\x03\x01\xff\xff" + b"\x00" * 70_000, b"\x80\x2e\x01\x00\x02", b"\x00" * 100],
)
async def test_what_is_no_tls_is_closed_and_logs_nothing(start, caplog, sent):
    running = await start()
    caplog.clear()
    for port in (running.ports.workers, running.ports.http, running.ports.stream):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        writer.write_eof()
        async with asyncio.timeout(15):
            with contextlib.suppress(ConnectionResetError):
                assert b"HTTP" not in await reader.read()
        writer.close()
    assert b"404 Not Found" in await running.http(ASK)
    assert [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
async def test_versions_before_1_2_are_refused(start):
    running = await start()
    for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        running.context.minimum_version = running.context.maximum_version = version
        _, writer = await asyncio.open_connection("127.0.0.1", running.ports.http, ssl=running.context)
        assert writer.get_extra_info("ssl_object").version() == name
        writer.close()
    running.context.set_ciphers("ALL:@SECLEVEL=0")
    running.context.minimum_version = running.context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", running.ports.http, ssl=running.context)


async def test_large_messages_and_many_small_ones_arrive_whole(start):
    running = await start()
    worker, caller = await running.connect(), await running.connect()
    await worker.send('{"type":"registerfunction","id":"a::f"}')
    await message(worker, "workerregistered")

    async def serve():
        while True:
            asked = await message(worker, "invokefunction")
            ids = {"invocation_id": asked["invocation_id"], "function_id": "a::f"}
            await worker.send(json.dumps({"type": "invocationresult", "result": asked["data"], **ids}))

    serving = asyncio.create_task(serve())
    for size in (1, 16_383, 16_384, 70_000, 5 << 20, 100):
        await call(caller, text="x" * size)
        assert len((await message(caller, "invocationresult"))["result"]["text"]) == size
    await asyncio.gather(*(call(caller, n=number) for number in range(500)))
    for _ in range(500):
        await message(caller, "invocationresult")
    serving.cancel()
    await worker.close()
    await caller.close()


async def test_a_worker_that_does_not_read_is_held_off_and_cut_as_without_tls(start):
    running = await start()
    bounds = running.engine.bus.bounds
    bounds.limits = dataclasses.replace(bounds.limits, unsent_bytes_per_connection=4 << 20)
    reader, writer = await asyncio.open_connection("127.0.0.1", running.ports.workers, ssl=running.context, limit=1024)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    text = b'{"type":"registerfunction","id":"a::f"}'
    writer.write(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.pause_reading()
    bus = running.engine.bus
    caller = await running.connect()

    async def registered():
        return len(bus.registry) > 0

    await until(registered)
    codes = set()
    async with asyncio.timeout(30):
        while not codes & {"invocation_stopped", "limit_exceeded", "function_not_found"}:
            await call(caller, text="x" * 1_000_000)
            try:
                async with asyncio.timeout(0.05):
                    answer = await message(caller, "invocationresult")
                    codes.add(answer["error"]["code"])
            except TimeoutError:
                pass
    await caller.send('{"type":"ping"}')
    assert (await message(caller, "pong"))["type"] == "pong"
    writer.transport.abort()
    await caller.close()


async def test_a_peer_that_goes_in_the_middle_of_a_message_harms_nobody(start, caplog):
    running = await start()
    for _ in range(5):
        _, writer = await asyncio.open_connection("127.0.0.1", running.ports.workers, ssl=running.context)
        writer.write(
            b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" + bytes([0x81, 0xFF, 0, 0, 0, 0, 1, 0, 0, 0])
        )
        await writer.drain()
        writer.transport.abort()
    worker = await running.connect()
    assert json.loads(await worker.recv())["type"] == "workerregistered"
    await worker.close()

    async def gone():
        return not running.engine.bus.connections

    await until(gone)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_requests_of_one_connection_bodies_and_refusals(start, monkeypatch):
    monkeypatch.setattr(limits, "HTTP_LINGER_TIMEOUT", 0.2)
    running = await start()
    keep = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
    assert (await running.http(keep * 3 + ASK)).count(b"404 Not Found") == 4
    chunks = b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    answer = await running.http(chunks)  # refused before its end: it is closed once the client stops sending
    assert b"404 Not Found" in answer
    large = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n"
    assert b"404 Not Found" in await running.http(large, b"x" * 3_000_000)


async def test_a_handshake_that_never_ends_is_cut_and_others_are_served_meanwhile(run_engine, authority, monkeypatch):
    monkeypatch.setattr(limits, "HANDSHAKE_TIMEOUT", 1.0)
    cert, key = authority.issue("server")
    running = Running(await run_engine("--tls-cert", str(cert), "--tls-key", str(key)), authority)
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    stuck = []
    for number in range(200):
        stuck.append(await asyncio.open_connection("127.0.0.1", running.ports.http))
        stuck[-1][1].write(hello[: number % len(hello)])
    assert b"404 Not Found" in await running.http(ASK)
    async with asyncio.timeout(15):
        for reader, writer in stuck:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()


async def test_stopping_the_engine_tells_workers_to_come_again(start):
    running = await start()
    worker = await running.connect()
    await worker.recv()
    before = time.monotonic()
    await running.engine.stop()
    with pytest.raises(websockets.ConnectionClosed) as closed:
        await worker.recv()
    assert closed.value.rcvd.code == 1012
    assert time.monotonic() - before < 10


# Files


async def test_a_renewed_certificate_is_served_to_new_connections_while_open_ones_go_on(start, authority, caplog):
    running = await start()
    ports = (running.ports.workers, running.ports.http, running.ports.stream)
    worker = await running.connect()
    await worker.recv()
    (former,) = {await running.certificate(port) for port in ports}
    authority.issue("server")  # both files, one after the other

    async def renewed():
        try:
            return former not in {await running.certificate(port) for port in ports}
        except ConnectionResetError:
            return False  # it came in the moment in which its port got the new listener

    await until(renewed)
    await worker.send('{"type":"ping"}')
    assert (await message(worker, "pong"))["type"] == "pong"
    assert b"404 Not Found" in await running.http(ASK)
    (current,) = {await running.certificate(port) for port in ports}
    authority.issue("other")
    cert = authority.ca.parent / "server.crt"
    os.replace(authority.ca.parent / "other.crt", cert)  # without its key

    async def told():
        return "not the key of the certificate" in caplog.text

    await until(told)
    assert {await running.certificate(port) for port in ports} == {current}
    await worker.close()


async def test_after_many_renewals_the_ports_are_freed_when_the_engine_stops(start):
    running = await start()
    for _ in range(20):
        await running.engine.parts.tls._reload()
    assert b"404 Not Found" in await running.http(ASK)
    await running.engine.stop()
    for port in (running.ports.workers, running.ports.http, running.ports.stream):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


async def test_with_a_client_ca_only_clients_with_its_certificates_get_through(start, authority, tmp_path):
    clients = Authority(tmp_path, "clients")
    running = await start("--tls-client-ca", str(clients.ca))

    def context(*files):
        made = ssl.create_default_context(cafile=authority.ca)
        if files:
            made.load_cert_chain(*files)
        return made

    async def passes(context):
        try:
            worker = await running.connect(context=context)
            await worker.recv()
            await worker.close()
            await (await running.connect(running.ports.stream, context=context)).close()
            return b"404 Not Found" in await running.http(ASK, context=context)
        except (OSError, websockets.WebSocketException, EOFError):
            return False

    trusted = context(*clients.issue("client"))
    assert await passes(trusted)
    assert not await passes(context())
    assert not await passes(context(*authority.issue("stranger")))
    others = Authority(tmp_path, "others")
    theirs = context(*others.issue("their-client"))
    os.replace(others.ca, clients.ca)

    async def changed():
        return await passes(theirs)

    await until(changed)
    assert not await passes(trusted)


def wrong_files(folder):
    """Pairs of flags and the words that tell what is wrong."""
    authority = Authority(folder)
    cert, key = authority.issue("good")
    other_cert, other_key = authority.issue("other")
    _, locked = authority.issue("locked", password=b"secret")
    text, empty, huge, broken = (folder / name for name in ("text", "empty", "huge", "broken"))
    text.write_text("hello")
    empty.write_bytes(b"")
    huge.write_bytes(b"x" * (2 << 20))
    broken.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    missing = folder / "missing"
    return {
        "no certificate": (TlsFiles(missing, key), f"--tls-cert {missing}: cannot be read: No such file"),
        "a folder": (TlsFiles(folder, key), "Is a directory"),
        "no key": (TlsFiles(cert, missing), f"--tls-key {missing}: cannot be read"),
        "text": (TlsFiles(text, key), f"--tls-cert {text}: holds no certificate in PEM form"),
        "empty": (TlsFiles(cert, empty), f"--tls-key {empty}: holds no private key in PEM form"),
        "huge": (TlsFiles(huge, key), "is it the right file?"),
        "swapped": (TlsFiles(key, cert), "holds no certificate"),
        "broken": (TlsFiles(broken, key), "cannot be used"),
        "another key": (TlsFiles(cert, other_key), f"it is not the key of the certificate in {cert}"),
        "a password": (TlsFiles(other_cert, locked), "the key has a password"),
        "no authority": (TlsFiles(cert, key, text), f"--tls-client-ca {text}: holds no certificate"),
        "a broken authority": (TlsFiles(cert, key, broken), "--tls-client-ca"),
    }


def test_a_file_that_is_wrong_is_named_with_what_to_do(tmp_path, subtests):
    for case, (files, words) in wrong_files(tmp_path).items():
        with subtests.test(case):
            with pytest.raises(SettingsError) as error:
                Tls(files)
            assert words in str(error.value)
            assert "\n" not in str(error.value)


def test_a_certificate_at_its_end_is_warned_of_and_one_past_it_too(tmp_path, caplog):
    authority = Authority(tmp_path)
    Tls(TlsFiles(*authority.issue("fresh")))
    assert caplog.text == ""
    Tls(TlsFiles(*authority.issue("soon", days=3)))
    assert "ends within 3 days" in caplog.text
    Tls(TlsFiles(*authority.issue("past", days=-1)))
    assert "clients will not accept it: certificate has expired" in caplog.text


@pytest.mark.parametrize("flags", [["--tls-cert", "a"], ["--tls-key", "a"], ["--tls-client-ca", "a"]])
def test_a_certificate_without_its_key_or_the_reverse_is_refused(flags, capsys):
    with pytest.raises(SystemExit) as end:
        read_settings(flags, {})
    assert end.value.code == 2
    assert "TLS needs a certificate and its key" in capsys.readouterr().err


def test_settings_of_tls_come_from_the_environment(tmp_path):
    names = {"AGENTOS_TLS_CERT": "/c", "AGENTOS_TLS_KEY": "/k", "AGENTOS_TLS_CLIENT_CA": "/a"}
    files = read_settings([], names).tls
    assert [str(each) for each in (files.cert, files.key, files.client_ca)] == ["/c", "/k", "/a"]
    assert read_settings([], {}).tls is None
