"""What a stranger wrote, in a message of one line."""

from __future__ import annotations

_MOST, _END = 2000, 500


def one_line(text: str) -> str:
    """`text` with every character that is not printed (line ends, escape sequences of terminals, halves of names that
    are no UTF-8) as its escape, and without the middle of what is longer than 2,000 letters."""
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return text if len(text) <= _MOST else f"{text[:_MOST - _END]} ... {text[-_END:]}"


class OneLine(ValueError):
    """An error whose message is one line, whatever names, keys or reasons of others are in it."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))
