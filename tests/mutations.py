"""Files made wrong at random, and what may happen to whoever reads them: a typed error, soon and in little memory."""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sciml.errors import InputError

LONGEST, MOST_MB = 2.0, 500.0
"""What one wrong file may cost: CPU seconds and megabytes."""
EXTREMES = [
    b"0", b"-1", b"1", b"nan", b"inf", b"-inf", b"1e308", b"-1e308", b"1e-308", b"9999999999999999999999", b"0x10",
    b"1_000", b"1,5", b"''", b'""', b"''''", b"?", b".", b"loop_", b"data_", b"data_particles", b"_rlnImageName",
    b"#", b";", b"\x00", b"\xff\xfe", b"\xe2\x82\xac", b"../../../x", b"/dev/zero", b"1@", b"@", b"0@particles.mrcs",
    b"null", b"[]", b"{}", b'"a"', b"1e999", b"true", b"-0", b"[" * 2000, b"{\"a\":" * 500,
]  # fmt: skip
"""Words in the place of others."""


@dataclass
class Tally:
    """What happened to the wrong files of one kind.

    Attributes:
        kind: what was made wrong.
        tried: number of files.
        refused: how many met a typed error.
        wrong: what must not happen, a line each with the number of the file, by which it can be made again.
        slowest: CPU seconds of the slowest.
    """

    kind: str
    tried: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0


def mutated(data: bytes, draw: np.random.Generator) -> bytes:
    """The bytes of a file, made wrong in one to four places."""
    out = bytearray(data)
    for _ in range(int(draw.integers(1, 5))):
        _CHANGES[int(draw.integers(len(_CHANGES)))](out, draw)
    return bytes(out)


def _flip(out: bytearray, draw: np.random.Generator) -> None:
    if out:
        out[int(draw.integers(len(out)))] = int(draw.integers(256))


def _delete(out: bytearray, draw: np.random.Generator) -> None:
    place = int(draw.integers(len(out) + 1))
    del out[place : place + int(draw.integers(1, 200))]


def _insert(out: bytearray, draw: np.random.Generator) -> None:
    place = int(draw.integers(len(out) + 1))
    out[place:place] = draw.integers(0, 256, int(draw.integers(1, 9)), dtype=np.uint8).tobytes()


def _replace_word(out: bytearray, draw: np.random.Generator) -> None:
    """A word, between white space, commas or colons, becomes an extreme one."""
    place = int(draw.integers(len(out) + 1))
    ends = [i for i in range(place, min(place + 80, len(out))) if out[i] in b' \t\n,:{}[]"']
    if len(ends) > 1:
        out[ends[0] + 1 : ends[1]] = EXTREMES[int(draw.integers(len(EXTREMES)))]


def _cut(out: bytearray, draw: np.random.Generator) -> None:
    if draw.random() < 0.2:
        del out[int(draw.integers(len(out) + 1)) :]


def _repeat(out: bytearray, draw: np.random.Generator) -> None:
    place = int(draw.integers(len(out) + 1))
    piece = bytes(out[place : place + int(draw.integers(1, 400))])
    out[place:place] = piece * int(draw.integers(1, 4))


def _swap(out: bytearray, draw: np.random.Generator) -> None:
    a, b = sorted(int(place) for place in draw.integers(0, len(out) + 1, 2))
    width = min(40, b - a)
    out[a : a + width], out[b : b + width] = out[b : b + width], out[a : a + width]


def _set_number(out: bytearray, draw: np.random.Generator) -> None:
    """Four bytes at a multiple of four become an extreme integer or float, which headers of binary files hold."""
    place = 4 * int(draw.integers(min(len(out), 1024) // 4 + 1))
    values = [0, 1, -1, 2**31 - 1, -(2**31), 65536, 101, 16, 255]
    if draw.random() < 0.5:
        out[place : place + 4] = np.int32(values[int(draw.integers(len(values)))]).tobytes()
    else:
        out[place : place + 4] = np.float32(draw.choice([0.0, -1.0, 1e30, np.nan, np.inf, 1e-30])).tobytes()


_CHANGES = [_flip, _delete, _insert, _replace_word, _replace_word, _cut, _repeat, _swap, _set_number]


def torment(kind: str, file: Path, read: Callable[[], object], count: int, seed: int) -> Tally:
    """Make a file wrong many times over and read it.

    Args:
        kind: name of the row.
        file: it holds what is right, and is left so.
        read: reads it. Another exception than `InputError` or `OSError` is wrong, as is one that does not name the
            file, one that takes `LONGEST`, and one that takes `MOST_MB`.
        count: how often.
        seed: wrong file number i is that of `numpy.random.default_rng([seed, i])`.
    """
    right, tally = file.read_bytes(), Tally(kind)
    for number in range(count):
        data = mutated(right, np.random.default_rng([seed, number]))
        file.write_bytes(data)
        tally.tried += 1
        before, began = _peak_mb(), time.process_time()
        try:
            read()
        except (InputError, OSError) as error:
            tally.refused += 1
            if not str(error).strip():
                tally.wrong.append(f"{kind} {number}: an error without a message")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            tally.wrong.append(f"{kind} {number}: {type(error).__name__}: {str(error)[:150]}")
        seconds, more = time.process_time() - began, _peak_mb() - before
        tally.slowest = max(tally.slowest, seconds)
        if seconds > LONGEST:
            tally.wrong.append(f"{kind} {number}: {seconds:.1f} s")
        if more > MOST_MB:
            tally.wrong.append(f"{kind} {number}: {more:.0f} MB more")
    file.write_bytes(right)
    return tally


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
