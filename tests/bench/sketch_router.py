"""The yardstick: the least that a router can do, on picows, uvloop and msgspec. No features, no safety.

Measured beside an engine in one run, it turns CPU per call into a ratio that holds on any machine. Not a design to
copy: it drops whatever it does not know. usage: sketch_router.py PORT
"""

import sys
import uuid

import msgspec
import picows
import uvloop


class Message(msgspec.Struct):
    """The envelope; payloads stay raw bytes."""

    type: str
    id: str | None = None
    invocation_id: str | None = None
    function_id: str | None = None
    data: msgspec.Raw = msgspec.Raw()


decode = msgspec.json.Decoder(Message).decode
owner: dict[str | None, "Connection"] = {}
waiting: dict[str | None, "Connection"] = {}
TEXT = picows.WSMsgType.TEXT


class Connection(picows.WSListener):
    """A caller or a worker."""

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self.transport, self.id = transport, str(uuid.uuid4()).encode()
        transport.send(TEXT, b'{"type":"workerregistered","worker_id":"%s"}' % self.id)

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type != TEXT:
            return
        raw = frame.get_payload_as_bytes()
        m = decode(raw)
        if m.type == "invokefunction" and m.function_id in owner:
            waiting[m.invocation_id] = self
            data = bytes(m.data) or b"null"
            if data[:1] == b"{":
                data = b'{"_caller_worker_id":"' + self.id + b'"' + (b"," if data != b"{}" else b"") + data[1:]
            owner[m.function_id].transport.send(
                TEXT,
                b'{"type":"invokefunction","invocation_id":"%s","function_id":"%s","data":%s}'
                % (m.invocation_id.encode(), m.function_id.encode(), data),
            )
        elif m.type == "invocationresult":
            if caller := waiting.pop(m.invocation_id, None):
                caller.transport.send(TEXT, raw)
        elif m.type == "registerfunction":
            owner[m.id] = self


async def main() -> None:
    """Serve until killed."""
    server = await picows.ws_create_server(
        lambda request: Connection(), "127.0.0.1", int(sys.argv[1]), max_frame_size=64 << 20
    )
    await server.serve_forever()


uvloop.run(main())
