"""The messages between a peer and the process that reads its files. What comes back is a stranger's word.

Frame: `u32 length (big-endian) | msgpack array`. Request, with the open file beside it: `[name, start]`. Answers, in
order: `["member", path, title, text, language, written, kind, [[start, label], ...], note]` and
`["refusal", path, why, remedy, package, extra]`, then one `["end", resume]`. Sixteen MiB a file in all.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import msgpack

from flocklet.device.readers.reading import MAX_CHARACTERS, Part, Reading, clean
from flocklet.device.readers.registry import Member, Refusal

__all__ = ["LENGTH", "MAX_ANSWER_BYTES", "BrokenAnswerError", "End", "pack_answer", "unpack_answer"]

LENGTH = struct.Struct(">I")
MAX_ANSWER_BYTES = 16 << 20
_MAX_PARTS = 20_000
_MAX_NAME = 4096
_MAX_LINE = 512


class BrokenAnswerError(Exception):
    """The reading process said something that no reader says."""


@dataclass(frozen=True, slots=True)
class End:
    """Say that a file is done, or where to go on (`resume` > 0)."""

    resume: int = 0


def pack_answer(answer: Member | Refusal | End) -> bytes:
    """Return one answer as msgpack."""
    if isinstance(answer, End):
        fields: list[Any] = ["end", answer.resume]
    elif isinstance(answer, Refusal):
        fields = ["refusal", _short(answer.path, _MAX_NAME), _short(answer.why), _short(answer.remedy)]
    else:
        it = answer.reading
        parts = [[part.start, _short(part.label)] for part in it.parts[:_MAX_PARTS]]
        fields = ["member", _short(answer.path, _MAX_NAME), _short(it.title), clean(it.text[:MAX_CHARACTERS])]
        fields += [it.language[:3], it.written[:10], _short(it.kind, 32), parts, _short(it.note)]
    packed: bytes = msgpack.packb(fields)
    return packed


def unpack_answer(body: bytes) -> Member | Refusal | End:
    """Return one answer, every field checked; raise BrokenAnswerError for anything else."""
    try:
        fields = msgpack.unpackb(
            body, max_array_len=_MAX_PARTS, max_map_len=0, max_ext_len=0, max_str_len=MAX_ANSWER_BYTES
        )
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise BrokenAnswerError("no msgpack") from error
    match fields:
        case ["end", int(resume)] if 0 <= resume < 1 << 31:
            return End(resume)
        case ["refusal", str(path), str(why), str(remedy)]:
            return Refusal(_short(path, _MAX_NAME), _short(why), _short(remedy))
        case [
            "member",
            str(path),
            str(title),
            str(text),
            str(language),
            str(written),
            str(kind),
            list(rows),
            str(note),
        ]:
            if len(text) > MAX_CHARACTERS or not _is_language(language) or not _is_date(written):
                raise BrokenAnswerError("a field out of its range")
            reading = Reading(
                _short(title),
                clean(text),
                language,
                written,
                _short(kind, 32),
                _parts(rows, len(text)),
                note=_short(note),
            )
            return Member(_short(path, _MAX_NAME), reading)
        case _:
            raise BrokenAnswerError("no message of this door")


def _short(text: str, most: int = _MAX_LINE) -> str:
    return " ".join(clean(text[:most]).split("\n"))


def _is_language(text: str) -> bool:
    return not text or (2 <= len(text) <= 3 and text.isascii() and text.isalpha() and text.islower())


def _is_date(text: str) -> bool:
    digits = text.split("-")
    return not text or (
        len(text) == 10 and [len(d) for d in digits] == [4, 2, 2] and all(map(str.isdecimal, digits))
    )


def _parts(rows: list[Any], size: int) -> tuple[Part, ...]:
    parts: list[Part] = []
    for row in rows:
        match row:
            case [int(start), str(label)] if (parts[-1].start if parts else 0) <= start <= size:
                parts.append(Part(start, _short(label)))
            case _:
                raise BrokenAnswerError("a part out of its range")
    return tuple(parts)
