"""How a case is damaged, and written as one text for the engine."""

from __future__ import annotations

import random
import struct

from tests.faults.fuzz_readers import Parts, Reader

_NUMBERS = tuple(value.to_bytes(size, order) for size in (1, 2, 4, 8) for order in ("little", "big")
                 for value in (0, 1, 2**(8 * size - 1) - 1, 2**(8 * size - 1), 2**(8 * size) - 1))

# --- a case as one text, for the engine ---


def framed(parts: Parts) -> bytes:
    """Each part as the lengths of its name and its body, then both."""
    named = [(name.encode("utf-8", "surrogatepass"), body) for name, body in parts.items()]
    return b"".join(struct.pack("<HI", len(name), len(body)) + name + body for name, body in named)


def unframed(text: bytes) -> Parts:
    """The parts of any text; one that ends early is taken as far as it goes."""
    parts, at = {}, 0
    while at + 6 <= len(text):
        name, body = struct.unpack_from("<HI", text, at)
        parts[text[at + 6:at + 6 + name].decode("utf-8", "replace")] = text[at + 6 + name:at + 6 + name + body]
        at += 6 + name + body
    return parts


# --- changes ---


def changed(draw: random.Random, parts: Parts, others: list[Parts], reader: Reader) -> Parts:
    """One to four changes of one part or its name."""
    found = dict(parts)
    if not found:
        return dict(others[0])
    name = draw.choice(sorted(found))
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        if reader.renames and draw.random() < 0.2:
            body = found.pop(name)
            name = _damaged(draw, name.encode(), [b""], reader.words).decode("utf-8", "replace")[:400].replace(
                "\0", "" if draw.random() < 0.9 else "\0")
            found[name] = body
        elif len(found) > 1 and draw.random() < 0.03:
            del found[name]
            return found
        else:
            found[name] = _damaged(draw, found[name], [other[key] for other in others for key in other], reader.words)
    return found


def _damaged(draw: random.Random, body: bytes, others: list[bytes], words: tuple[bytes, ...]) -> bytes:
    way, at = draw.randrange(8), draw.randrange(len(body) + 1)
    if draw.random() < 0.5:  # headers are at the ends
        at = draw.randrange(min(len(body), 160) + 1)
        at = len(body) - at if draw.random() < 0.4 else at
    if way == 0 and at < len(body):
        return body[:at] + bytes([body[at] ^ 1 << draw.randrange(8)]) + body[at + 1:]
    if way == 1:
        return body[:at]
    if way == 2:
        number = draw.choice(_NUMBERS)
        return body[:at] + number + body[at + len(number):]
    if way == 3:
        other = draw.choice(others)
        begin = draw.randrange(len(other) + 1)
        return body[:at] + other[begin:begin + draw.randrange(1, 400)] + body[at:]
    if way == 4 and words:
        word = draw.choice(words)
        return body[:at] + word + body[at + draw.choice((0, len(word))):]
    if way == 5:
        return body[:at] + body[at + draw.randrange(1, 40):]
    if way == 6:
        return body[:at] + body[max(0, at - draw.randrange(1, 200)):at] + body[at:]
    return body[:at] + draw.randbytes(draw.randrange(1, 9)) + body[at + draw.randrange(0, 9):]
