"""Changes of bytes without a fuzzer's library: what `make test` and Pythons without atheris use."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

WORDS = (
    b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[2J", b"-1", b"0", b"1e400", b"-inf", b"nan", b"NaN",
    b"Infinity", b"9" * 30, b"9" * 5000, b"1e-400", b"18446744073709551616", b"-9223372036854775809", b"4294967295",
    b"1.5", b"null",
    b"true", b"{}", b"[]", b'""', b"[" * 3000, b"{" * 3000, b'{"a":' * 2000, b"'", b'"', b"\\", b"\\u0000", b"\\ud800",
    b"../", b"/", b"..\\", b"%00", b"\r\n", b"\n", b"\t", b",", b";", b":", b"=", b"<!DOCTYPE x>", b"&lt;",
    b"<a>" * 500,
    b"\xc3\xa9", b"\xf0\x9f\x98\x80", b"\x80", b"\xed\xa0\x80", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80\0\0\0",
)  # fmt: skip
"""What readers trip over: limits of numbers, depth, signs of formats, bytes that are no UTF-8."""


def mutations(seeds: Sequence[bytes], largest: int, seed: int = 0) -> Iterator[bytes]:
    """Yield the seeds, then changes of them without end; the same for the same seed."""
    dice = random.Random(seed)
    seeds = [*seeds, b""]
    yield from seeds
    while True:
        content = dice.choice(seeds)
        for _ in range(dice.choice((1, 1, 1, 2, 3, 5))):
            content = _changed(content, seeds, dice)
        yield content[:largest]


def _changed(content: bytes, seeds: Sequence[bytes], dice: random.Random) -> bytes:
    start = dice.randint(0, len(content))
    length = min(dice.choice((0, 1, 1, 2, 4, 8, 16, 64)), len(content) - start)
    end = start + length
    kind = dice.randrange(7)
    if kind == 0 and content:  # a bit
        place = min(start, len(content) - 1)
        return content[:place] + bytes([content[place] ^ 1 << dice.randrange(8)]) + content[place + 1 :]
    if kind == 1:
        return content[:start] + bytes(dice.randrange(256) for _ in range(length)) + content[end:]
    if kind == 2:
        return content[:start] + content[end:]
    if kind == 3:
        return content[:start]
    if kind == 4:  # a piece again, once or often
        return content[:start] + content[start:end] * dice.choice((2, 3, 100)) + content[end:]
    if kind == 5:
        other = dice.choice(seeds)
        return content[:start] + other[dice.randint(0, len(other)) :]
    return content[:start] + dice.choice(WORDS) + content[dice.choice((start, end)) :]
