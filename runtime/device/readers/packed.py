"""Open compressed files and archives: gz, bz2, xz, zst, tar, zip. The name inside decides what reads them next."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from flocklet.device.readers.reading import Budget, Child, MissingPackageError, Reading, UnusableError
from flocklet.device.readers.zipped_xml import BoundedZip

__all__ = ["read_compressed", "read_tar", "read_zip"]

_MEMBERS_MAX = 2_000
_MEMBER_MAX_BYTES = 8 << 20
_UNPACKED_MAX_BYTES = 64 << 20
_XZ_MEMORY = 64 << 20
_BLOCK = 256 << 10
_SUFFIXES = {".tgz": ".tar", ".tbz2": ".tar", ".txz": ".tar", ".tzst": ".tar", ".svgz": ".svg"}


def read_compressed(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Unpack one file; its name is that of the outer one without the last suffix."""
    stem, dot, suffix = name.rpartition(".")
    inner = (stem or name) + _SUFFIXES.get(f"{dot}{suffix}".lower(), "")
    head = source.read(8)
    source.seek(0)
    blocks = []
    size = 0
    try:
        for block in _unpacked(source, head):
            size += len(block)
            budget.unpacked(len(block))
            if size > _UNPACKED_MAX_BYTES:
                raise UnusableError(f"unpacks to more than {_UNPACKED_MAX_BYTES >> 20} MiB")
            blocks.append(block)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise UnusableError("damaged compressed file") from error
    return Reading("", "", kind="packed", children=(Child(inner, b"".join(blocks)),))


def _unpacked(source: BinaryIO, head: bytes) -> Iterator[bytes]:
    if head.startswith(b"\x1f\x8b"):
        stream: Any = gzip.GzipFile(fileobj=source)
    elif head.startswith(b"BZh"):
        stream = bz2.BZ2File(source)
    elif head.startswith(b"\xfd7zXZ"):
        decompressor = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
        while block := source.read(_BLOCK):
            piece = decompressor.decompress(block, _BLOCK)
            yield piece
            while not decompressor.needs_input and not decompressor.eof:
                yield decompressor.decompress(b"", _BLOCK)
        return
    else:
        try:
            from backports import zstd
        except ImportError as error:
            raise MissingPackageError("backports.zstd", "zstd", "reading .zst files") from error
        stream = zstd.ZstdFile(source)
    while block := stream.read(_BLOCK):
        yield block


def read_tar(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Open an archive: its regular files, at most 2,000; nothing is written anywhere, no link is followed."""
    children: list[Child] = []
    note = ""
    try:
        with tarfile.open(fileobj=source, mode="r:") as archive:
            for member in archive:
                if not member.isreg() or member.size > _MEMBER_MAX_BYTES:
                    continue
                if len(children) == _MEMBERS_MAX or budget.is_late:
                    note = f"only the first {len(children)} files were read"
                    break
                budget.unpacked(member.size)
                stream = archive.extractfile(member)
                if stream is not None:
                    children.append(Child(member.name, stream.read(_MEMBER_MAX_BYTES)))
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        if not children:
            raise UnusableError("damaged archive") from error
        note = "damaged archive: read up to the damage"
    return Reading("", "", kind="packed", children=tuple(children), note=note)


def read_zip(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Open a zip archive: its files, at most 2,000."""
    archive = BoundedZip(source, budget)
    names = [member for member in archive.names if not member.endswith("/")]
    children = [Child(member, archive.read(member)) for member in names[:_MEMBERS_MAX]]
    note = f"only the first {_MEMBERS_MAX} files were read" if len(names) > _MEMBERS_MAX else ""
    return Reading("", "", kind="packed", children=tuple(children), note=note)
