"""Frames come through as they went in, one after another; what breaks off is the end, and no half of a frame."""

from __future__ import annotations

import asyncio
import tempfile

import pytest

from nfk.service.frames import packed, read, receive

FRAMES = [({"id": 1}, b""), ({"words": "é\n", "deep": [1, {"a": None}]}, bytes(range(256))), ({}, b"x" * 70_000)]
ALL = b"".join(packed(*frame) for frame in FRAMES)


async def received(content: bytes) -> list:
    stream = asyncio.StreamReader()
    stream.feed_data(content)
    stream.feed_eof()
    return [frame async for frame in every(stream)]


async def every(stream):
    while (frame := await receive(stream)) is not None:
        yield frame


def both(content: bytes) -> list:
    """The frames of a stream; the same with a thread that waits and without."""
    with tempfile.TemporaryFile() as stream:
        stream.write(content)
        stream.seek(0)
        found = list(iter(lambda: read(stream), None))
    assert asyncio.run(received(content)) == found
    return found


def test_they_come_through_in_order():
    assert both(ALL) == FRAMES


@pytest.mark.parametrize("length", [0, 3, 7, 8, 9, len(packed({"id": 1})) - 1])
def test_one_cut_short_is_the_end(length):
    assert both(packed({"id": 1}) + packed({"id": 1})[:length]) == [({"id": 1}, b"")]


def test_a_connection_that_breaks_is_the_end():
    async def broken():
        stream = asyncio.StreamReader()
        stream.set_exception(ConnectionResetError())
        return await receive(stream)

    assert asyncio.run(broken()) is None
