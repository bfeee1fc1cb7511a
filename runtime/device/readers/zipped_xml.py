"""Open zip files of XML under limits: what a member says of its size is not believed, and no entity is expanded."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import BinaryIO
from xml.parsers import expat

from flocklet.device.readers.reading import Budget, UnusableError

__all__ = ["BoundedZip", "parse_xml"]

_MEMBERS_MAX = 5_000
_MEMBER_MAX_BYTES = 64 << 20
_SUM_MAX_BYTES = 256 << 20
_RATIO_MAX = 200
_RATIO_FROM_BYTES = 1 << 20
_DEPTH_MAX = 500
_BLOCK = 256 << 10

Attributes = Mapping[str, str]


class BoundedZip:
    """Read members of a zip file by name; UnusableError for what no honest file of the formats has."""

    def __init__(self, source: BinaryIO, budget: Budget) -> None:
        self._budget = budget
        try:
            self._zip = zipfile.ZipFile(source)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
            raise UnusableError("damaged zip file") from error
        members = self._zip.infolist()
        if len(members) > _MEMBERS_MAX:
            raise UnusableError(f"has {len(members)} members, more than {_MEMBERS_MAX}")
        if sum(member.file_size for member in members) > _SUM_MAX_BYTES:
            raise UnusableError(f"unpacks to more than {_SUM_MAX_BYTES >> 20} MiB")
        offsets = {member.header_offset for member in members}
        if len(offsets) != len(members):
            raise UnusableError("has members that overlap")
        for member in members:
            large = member.file_size > _RATIO_FROM_BYTES
            if member.file_size > _MEMBER_MAX_BYTES or (
                large and member.file_size > _RATIO_MAX * max(member.compress_size, 1)
            ):
                raise UnusableError("has a member that unpacks to far more than it should (a zip bomb)")
        self._members = {member.filename: member for member in members}

    @property
    def names(self) -> list[str]:
        """The names of the members, in the order of the file."""
        return list(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str) -> bytes:
        """Return a member; its bytes are counted as they come, whatever its header says."""
        member = self._members.get(name)
        if member is None:
            raise UnusableError("a part of it is missing")
        if member.flag_bits & 1:
            raise UnusableError("is protected by a password")
        blocks = []
        size = 0
        try:
            with self._zip.open(member) as stream:
                while block := stream.read(_BLOCK):
                    size += len(block)
                    self._budget.unpacked(len(block))
                    if size > _MEMBER_MAX_BYTES:
                        raise UnusableError("has a member that unpacks to far more than it says (a zip bomb)")
                    blocks.append(block)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, ValueError) as error:
            raise UnusableError("damaged zip file") from error
        return b"".join(blocks)


class _EnoughError(Exception):
    """The budget is spent: keep what was read."""


def parse_xml(
    data: bytes,
    budget: Budget,
    *,
    start: Callable[[str, Attributes], None],
    end: Callable[[str], object],
    text: Callable[[str], object],
) -> None:
    """Call `start`, `end` and `text` with local names; stop silently when the budget's characters or time are spent.

    Raises UnusableError for malformed XML, any DOCTYPE, and more than 500 levels.
    """
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    depth = 0
    seen = 0

    def on_start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEPTH_MAX:
            raise UnusableError("is nested too deeply")
        start(name.rpartition(" ")[2], {key.rpartition(" ")[2]: value for key, value in attributes.items()})

    def on_end(name: str) -> None:
        nonlocal depth
        depth -= 1
        end(name.rpartition(" ")[2])

    def on_text(part: str) -> None:
        nonlocal seen
        seen += len(part)
        if seen > 4 * budget.characters or budget.is_late:
            raise _EnoughError
        text(part)

    def on_doctype(*_: object) -> None:
        raise UnusableError("declares a document type, which no file of this kind does")

    parser.StartElementHandler = on_start
    parser.EndElementHandler = on_end
    parser.CharacterDataHandler = on_text
    parser.StartDoctypeDeclHandler = on_doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise UnusableError(f"damaged XML (line {error.lineno})") from error
    except _EnoughError:
        return
