"""Turn bytes of unknown encoding into text.

Order: byte-order mark, UTF-8, the charset that the file names, what `chardet` (extra `office`) detects, Windows-1252.
The last is a guess and says so. A file may only name the encodings of the web (WHATWG Encoding Standard, section 4.2).
"""

from __future__ import annotations

import codecs
import re

from flocklet.device.readers.reading import UnusableError, clean

__all__ = ["GUESSED", "decode", "looks_binary", "web_encoding"]

GUESSED = "encoding guessed"
_SNIFF = 8192
_DETECT_BYTES = 64 << 10
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_CONTROL = re.compile("[\0-\x07\x0e-\x1a\x1c-\x1f]")
_LABEL = re.compile(r"[A-Za-z0-9_.:-]{1,40}")
# Python's name of the codec -> the codec to use: the standard maps some labels to a superset.
_WEB = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "big5": "big5hkscs",
    "euc_kr": "cp949",
} | {
    name: name
    for name in (
        *(
            "utf-8",
            "utf-16",
            "utf-16-le",
            "utf-16-be",
            "cp866",
            "koi8-r",
            "koi8-u",
            "mac-roman",
            "mac-cyrillic",
        ),
        *("cp874", "gb18030", "big5hkscs", "euc_jp", "iso2022_jp", "cp932", "cp949"),
        *(f"iso8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)),
        *(f"cp{page}" for page in range(1250, 1259)),
    )
}


def web_encoding(label: str) -> str | None:
    """Return the codec for a charset that a file names, None unless it is an encoding of the web."""
    if _LABEL.fullmatch(label) is None:
        return None
    try:
        return _WEB.get(codecs.lookup(label).name)
    except (LookupError, ValueError):
        return None


def decode(data: bytes, named: str = "") -> tuple[str, str]:
    """Return the clean text of `data` and a note, `GUESSED` or nothing; UnusableError: the bytes are no text."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _checked(data.decode(encoding, "replace")), ""
    if b"\0" in data[:_SNIFF]:
        raise UnusableError("binary file")
    try:
        return _checked(data.decode("utf-8")), ""
    except UnicodeDecodeError as error:
        if error.end >= len(data) - 3 and error.reason == "unexpected end of data":  # cut inside a letter
            return _checked(data.decode("utf-8", "replace")), ""
    for codec in (web_encoding(named), _detected(data)):
        if codec is not None:
            try:
                return _checked(data.decode(codec)), ""
            except UnicodeDecodeError:
                continue
    try:
        return _checked(data.decode("cp1252")), GUESSED
    except UnicodeDecodeError:
        return _checked(data.decode("latin-1")), GUESSED


def looks_binary(text: str) -> bool:
    """Tell whether `text` is full of control characters: bytes that only happen to decode."""
    start = text[:_SNIFF]
    return len(_CONTROL.findall(start)) > len(start) // 20


def _checked(text: str) -> str:
    if looks_binary(text):
        raise UnusableError("binary file")
    return clean(text)


def _detected(data: bytes) -> str | None:
    """Return what chardet says of the first non-ASCII stretch of `data`; None without it or when it is not sure."""
    try:
        import chardet
    except ImportError:
        return None
    if int(chardet.__version__.split(".")[0]) < 7:  # older ones are right less often than Windows-1252
        return None
    first = next((at for at, byte in enumerate(data) if byte > 127), 0)
    found = chardet.detect(data[max(0, first - 512) :][:_DETECT_BYTES])["encoding"]
    if found is None:
        return None
    try:
        return codecs.lookup(found).name
    except LookupError:
        return None
