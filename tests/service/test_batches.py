"""The queue before the embedder: order kept, blocks filled, bounds held, faults kept to the one they belong to."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from nfk.service.batches import Batches, Busy, Ended


def images(*values: float) -> np.ndarray:
    """Images of one number, which `doubled` gives back doubled."""
    return np.array(values, np.float32).reshape(-1, 1, 1, 1)


class Doubled:
    """An embedder that waits for `go` before each block, and remembers the blocks' sizes."""

    def __init__(self) -> None:
        self.go, self.entered, self.sizes = threading.Semaphore(0), threading.Semaphore(0), []

    def __call__(self, block: np.ndarray) -> np.ndarray:
        self.entered.release()
        assert self.go.acquire(timeout=20)
        self.sizes.append(len(block))
        if (block == 13).any():
            raise ValueError("thirteen")
        return 2 * block.reshape(len(block), -1)


@pytest.fixture
def embed():
    return Doubled()


@pytest.fixture
def batches(embed):
    made = Batches(embed, block=4, waiting_bytes=80)
    yield made
    for _ in range(100):
        embed.go.release()
    made.end()
    assert not made.alive


def test_what_waits_is_embedded_together_and_each_gets_its_own(embed, batches):
    asked = [batches.submit(images(*values)) for values in ([1], [2, 3], [4], [5, 6, 7, 8, 9], [10])]
    for _ in range(10):
        embed.go.release()
    assert [future.result(20).ravel().tolist() for future in asked] == [
        [2], [4, 6], [8], [10, 12, 14, 16, 18], [20]]
    assert sum(embed.sizes) == 10
    assert max(embed.sizes) == 4
    assert embed.sizes[0] in (1, 3, 4)  # what was there when the thread woke
    assert len(embed.sizes) <= 4


def test_bytes_are_divided_by_255(embed, batches):
    embed.go.release()
    answer = batches.submit(np.array([[[[0]]], [[[255]]]], np.uint8)).result(20)
    assert answer.ravel().tolist() == [0, 2]


def test_an_image_that_fails_fails_alone(embed, batches):
    first = batches.submit(images(0))
    asked = [batches.submit(images(value)) for value in (1, 13, 2)]
    for _ in range(10):
        embed.go.release()
    assert first.result(20).item() == 0
    assert [asked[0].result(20).item(), asked[2].result(20).item()] == [2, 4]
    with pytest.raises(ValueError, match="thirteen"):
        asked[1].result(20)


def test_a_full_queue_says_when_to_come_again(embed, batches):
    held = [batches.submit(images(*range(10)))]
    with pytest.raises(Busy) as refusal:
        while True:
            held.append(batches.submit(images(*range(10))))
    assert len(held) <= 3  # one in the block being made, two of 40 bytes waiting
    assert 1 <= refusal.value.seconds <= 30
    for _ in range(60):
        embed.go.release()
    assert all(future.result(20).shape == (10, 1) for future in held)
    assert batches.submit(images(*[0] * 100)).result(20).shape == (100, 1)  # alone, it may be larger than the bound


def test_who_has_gone_is_not_embedded(embed, batches):
    first, gone = batches.submit(images(1)), batches.submit(images(2, 3))
    assert gone.cancel()
    for _ in range(3):
        embed.go.release()
    assert first.result(20).item() == 2
    assert batches.submit(images(4)).result(20).item() == 8
    assert sum(embed.sizes) == 2


def test_the_end_finishes_the_block_in_hand_and_refuses_the_rest(embed):
    batches = Batches(embed, block=1)
    first, second = batches.submit(images(1)), batches.submit(images(2))
    assert embed.entered.acquire(timeout=20)
    threading.Timer(0.2, embed.go.release).start()
    batches.end(20.0)
    assert first.result(20).item() == 2
    assert isinstance(second.exception(20), Ended)
    with pytest.raises(Ended):
        batches.submit(images(3))
