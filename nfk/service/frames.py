"""What passes between the process that answers and the one that embeds: a head as JSON and a body of bytes.

    8 bytes   lengths of head and body, 4 each, big-endian
    head      a JSON object
    body      as it is

Both ends are ours and on one machine; nothing is unpickled.
"""

from __future__ import annotations

import asyncio
import struct
from typing import IO, Any, NamedTuple

import orjson

_LENGTHS = struct.Struct(">II")


class Frame(NamedTuple):
    head: dict[str, Any]
    body: bytes


def packed(head: dict[str, Any], body: bytes = b"") -> bytes:
    words = orjson.dumps(head)
    return _LENGTHS.pack(len(words), len(body)) + words + body


def read(stream: IO[bytes]) -> Frame | None:
    """The next frame; None once the other end has closed."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    head, body = _LENGTHS.unpack(lengths)
    content = stream.read(head + body)
    return Frame(orjson.loads(content[:head]), content[head:]) if len(content) == head + body else None


async def receive(stream: asyncio.StreamReader) -> Frame | None:
    """The same, waiting without a thread."""
    try:
        head, body = _LENGTHS.unpack(await stream.readexactly(_LENGTHS.size))
        content = await stream.readexactly(head + body)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return Frame(orjson.loads(content[:head]), content[head:])
