"""Read mail: one message, mailboxes, and Outlook's .msg; attachments come back as files to be read in turn."""

from __future__ import annotations

import contextlib
import email
import email.policy
import re
from collections.abc import Iterator
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO

from flocklet.device.readers.encodings import decode
from flocklet.device.readers.reading import (
    Budget,
    Child,
    MissingPackageError,
    Reading,
    UnusableError,
    clean,
    one_line,
)
from flocklet.device.readers.web_page import page_of

__all__ = ["read_mailbox", "read_message", "read_msg"]

_MAX_BYTES = 64 << 20
_MESSAGES_MAX = 20_000
_START = re.compile(rb"(?:\A|\r?\n\r?\n)From [^\r\n]*\r?\n")
_QUOTED = re.compile(rb"^>(>*From )", re.MULTILINE)
_SHOWN = ("From", "To", "Cc", "Date")


def read_message(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Read one message: subject, who, when, and the plain text, else the HTML."""
    data = source.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise UnusableError(f"larger than {_MAX_BYTES >> 20} MiB")
    budget.unpacked(len(data))
    try:
        message = email.message_from_bytes(data, policy=email.policy.default)
        return _reading(message, budget)
    except (
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        IndexError,
        KeyError,
        RecursionError,
    ) as error:
        raise UnusableError(f"damaged message ({type(error).__name__})") from error


def _header(message: EmailMessage, name: str) -> str:
    try:
        return one_line(str(message.get(name, "")))
    except (
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        IndexError,
    ):  # email.headerregistry on bad headers
        return ""


def _reading(message: EmailMessage, budget: Budget) -> Reading:
    lines = [f"{name}: {value}" for name in _SHOWN if (value := _header(message, name))]
    written = ""
    with contextlib.suppress(ValueError, TypeError, IndexError, OverflowError):
        written = parsedate_to_datetime(_header(message, "Date")).strftime("%Y-%m-%d")
    plain: list[str] = []
    pages: list[str] = []
    children: list[Child] = []
    for part in message.walk():
        if part.is_multipart():
            continue
        content = part.get_payload(decode=True)
        if not isinstance(content, bytes):
            continue
        budget.unpacked(len(content))
        kind = part.get_content_type()
        if (
            part.get_content_disposition() == "attachment"
            or part.get_filename()
            or not kind.startswith("text/")
        ):
            children.append(Child(one_line(part.get_filename() or f"part {len(children) + 1}"), content))
            continue
        text, _ = decode(content, part.get_content_charset() or "")
        (pages if kind == "text/html" else plain).append(text)
    if not plain:
        plain = [page_of(page, budget).text for page in pages]
    body = "\n".join([*lines, "", *plain])[: budget.characters]
    return Reading(
        _header(message, "Subject"), clean(body), written=written, kind="mail", children=tuple(children)
    )


def read_mailbox(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Read a mailbox (RFC 4155): every message is a file inside it."""
    data = source.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise UnusableError(f"larger than {_MAX_BYTES >> 20} MiB")
    return Reading("", "", kind="mailbox", children=tuple(_messages(data)))


def _messages(data: bytes) -> Iterator[Child]:
    starts = [*_START.finditer(data)][:_MESSAGES_MAX]
    for at, match in enumerate(starts):
        end = starts[at + 1].start() if at + 1 < len(starts) else len(data)
        yield Child(f"{at + 1}.eml", _QUOTED.sub(rb"\1", data[match.end() : end]))


_MSG_FIELDS = {"0037": "Subject", "0C1A": "From", "0E04": "To", "1000": "body"}


def read_msg(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Read a message of Outlook through `olefile`; attachments are not opened ([MS-OXMSG])."""
    try:
        import olefile
    except ImportError as error:
        raise MissingPackageError("olefile", "office", "reading .msg files") from error
    try:
        with olefile.OleFileIO(source) as container:
            found = {word: _property(container, code, budget) for code, word in _MSG_FIELDS.items()}
            if not found["body"]:
                page = _stream(container, "__substg1.0_10130102", budget)
                found["body"] = page_of(decode(page)[0], budget).text if page else ""
    except UnusableError:
        raise
    except Exception as error:  # the library raises kinds of its own
        raise UnusableError(f"damaged message ({one_line(str(error))})") from error
    lines = [f"{word}: {found[word]}" for word in ("From", "To") if found[word]]
    text = "\n".join([*lines, "", found["body"]])[: budget.characters]
    return Reading(one_line(found["Subject"]), clean(text), kind="mail")


def _property(container: Any, code: str, budget: Budget) -> str:
    wide = _stream(container, f"__substg1.0_{code}001F", budget)
    if wide:
        return clean(wide.decode("utf-16-le", "replace")).strip("\0 ")
    narrow = _stream(container, f"__substg1.0_{code}001E", budget)
    return decode(narrow)[0].strip("\0 ") if narrow else ""


def _stream(container: Any, name: str, budget: Budget) -> bytes:
    if not container.exists(name):
        return b""
    data: bytes = container.openstream(name).read(16 << 20)
    budget.unpacked(len(data))
    return data
