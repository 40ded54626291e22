"""What a stranger wrote stays one line that prints, and tells no more than it has room for."""

from __future__ import annotations

import pytest

from nfk.one_line import OneLine, one_line


@pytest.mark.parametrize(("text", "line"), [
    ("plain, é, 図 and ×", "plain, é, 図 and ×"),
    ("two\nlines\r\n", r"two\nlines\r\n"),
    ("\x1b[2J\x07\0", r"\x1b[2J\x07\x00"),
    ("caf\udce9.png", r"caf\udce9.png"),
    ("\u202egnp.exe", r"\u202egnp.exe"),
    ("", ""),
])
def test_what_does_not_print_is_escaped(text, line):
    assert one_line(text) == line
    assert str(OneLine(text)) == line
    assert line.isprintable()


def test_the_middle_of_what_is_long_is_left_out():
    assert one_line("a" * 2000) == "a" * 2000
    assert one_line("a" * 1500 + "b" * 10_000 + "c" * 500) == "a" * 1500 + " ... " + "c" * 500
    assert len(one_line("\n" * 5000)) == 2005
