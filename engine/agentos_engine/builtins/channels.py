"""``engine::channels::create``."""

from typing import Annotated

import msgspec

from agentos_engine.bus.bus import Bus
from agentos_engine.bus.channels import ChannelRef, Channels
from agentos_engine.bus.functions import Context, decode_optional

CREATE = "engine::channels::create"


class _Create(msgspec.Struct):
    buffer_size: Annotated[int, msgspec.Meta(ge=0)] | None = None


def install(bus: Bus, channels: Channels) -> None:
    """Add the function to a bus; the channels it makes belong to the connection that asks."""

    def create(context: Context, data: bytes) -> dict[str, ChannelRef]:
        wanted = decode_optional(CREATE, data, _Create)
        owner = context.connection.id if context.connection is not None else "engine"
        channel = channels.create(wanted.buffer_size, owner)
        return {"writer": channel.writer_ref(), "reader": channel.reader_ref()}

    bus.functions.add(CREATE, create, "Make a data channel: refs of its two ends, to be sent to who shall open them.")
