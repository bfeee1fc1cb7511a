"""Settings of a device, and where each value comes from: a flag, the environment, the file of the home, the default."""

from __future__ import annotations

import enum
import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flocklet.errors import ConfigError, UsageError

__all__ = ["SETTINGS", "Origin", "Setting", "Value", "read_file", "resolve", "write_file"]

Plain = bool | int | float | str | tuple[str, ...]
_FILE_MAX_BYTES = 64 * 1024
_GOSSIP_MAX_S = 86_400.0


class Origin(enum.StrEnum):
    """Where a value comes from; an earlier one wins over a later one."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


def _port(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 65535:
        raise ValueError("a port is a number from 0 (any free one) to 65535")
    return value


def _seconds(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 <= value <= _GOSSIP_MAX_S:
        raise ValueError("seconds are a number from 0 (only answer) to 86400")
    return float(value)


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("write true or false")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) and one.strip() for one in value):
        raise ValueError('write a list of names: ["one", "two"]')
    return tuple(value)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its name in the file, its variable, what it does, its default, and the check of a value."""

    name: str
    summary: str
    default: Plain
    check: Callable[[Any], Plain]

    @property
    def variable(self) -> str:
        """The name of its environment variable."""
        return f"FLOCKLET_{self.name.upper()}"

    def parse(self, text: str) -> Plain:
        """Return the value that a word means: a number, true or false, or names with commas between.

        Raises:
            ValueError: it means none; the message says what is wanted.
        """
        if isinstance(self.default, tuple):
            return self.check([word.strip() for word in text.split(",") if word.strip()])
        try:
            return self.check(json.loads(text.strip()))
        except json.JSONDecodeError:
            return self.check(text)


@dataclass(frozen=True, slots=True)
class Value:
    """What a setting is, and where that comes from; `where` is the option, the variable or the file, "" by default."""

    name: str
    value: Plain
    origin: Origin
    where: str
    summary: str


SETTINGS: tuple[Setting, ...] = (
    Setting("port", "TCP port of the peer, 0: any free one", 0, _port),
    Setting("interface", "use only these interfaces or addresses; none: all", (), _names),
    Setting("peer", "peers to dial, HOST:PORT", (), _names),
    Setting("mdns", "announce and browse by mDNS", True, _switch),
    Setting("gossip_s", "seconds between two exchanges, 0: only answer", 5.0, _seconds),
)


def read_file(path: Path) -> dict[str, Plain]:
    """Return the checked values of a TOML file, {} if there is none.

    Raises:
        ConfigError: it cannot be read, is no TOML, or holds an unknown setting or a value that cannot be.
    """
    if not path.exists():
        return {}
    try:
        data = path.read_bytes()
        if len(data) > _FILE_MAX_BYTES:
            raise ConfigError(f"{path} is larger than {_FILE_MAX_BYTES // 1024} KiB", remedy="make it anew")
        found = tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(
            f"{path} is no TOML: {error}", remedy="mend that line, or remove the file"
        ) from error
    return {name: _checked(_setting(name, path), value, path) for name, value in found.items()}


def _setting(name: str, path: Path | None = None) -> Setting:
    for setting in SETTINGS:
        if setting.name == name:
            return setting
    names = ", ".join(setting.name for setting in SETTINGS)
    if path is None:
        raise UsageError(f"there is no setting {name!r}", remedy=f"one of: {names}")
    raise ConfigError(f"{path} holds an unknown setting {name!r}", remedy=f"one of: {names}")


def _checked(setting: Setting, value: Any, where: Path | str) -> Plain:
    try:
        return setting.check(value)
    except ValueError as error:
        raise ConfigError(f"{where}: {setting.name} is {value!r}", remedy=str(error)) from None


def resolve(
    path: Path, flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ
) -> dict[str, Value]:
    """Return every setting by name: `flags` (None: not given) over `environ` over the file `path` over defaults.

    Raises:
        ConfigError: a variable or the file holds what cannot be.
        UsageError: a flag does.
    """
    kept = read_file(path)
    found = {}
    for setting in SETTINGS:
        flag, text = flags.get(setting.name), environ.get(setting.variable)
        if flag is not None:
            try:
                value, origin, where = setting.check(flag), Origin.FLAG, f"--{setting.name.replace('_', '-')}"
            except ValueError as error:
                option = f"--{setting.name.replace('_', '-')}"
                raise UsageError(f"{option} is {flag!r}", remedy=str(error)) from None
        elif text is not None:
            try:
                value, origin, where = setting.parse(text), Origin.ENVIRONMENT, setting.variable
            except ValueError as error:
                raise ConfigError(f"{setting.variable} is {text!r}", remedy=str(error)) from None
        elif setting.name in kept:
            value, origin, where = kept[setting.name], Origin.FILE, str(path)
        else:
            value, origin, where = setting.default, Origin.DEFAULT, ""
        found[setting.name] = Value(setting.name, value, origin, where, setting.summary)
    return found


def write_file(path: Path, name: str, text: str | None) -> None:
    """Set one setting in the file, or take it out with None; comments and the other settings stay as they are.

    Raises:
        UsageError: there is no such setting, or `text` is no value of it.
        ConfigError: the file cannot be read, mended or written.
    """
    setting = _setting(name)
    before = read_file(path)
    after = dict(before)
    line = ""
    if text is None:
        after.pop(name, None)
    else:
        try:
            after[name] = setting.parse(text)
        except ValueError as error:
            raise UsageError(f"{name} cannot be {text!r}", remedy=str(error)) from None
        value = after[name]
        line = (
            f"{name} = {json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)}\n"
        )
    source = path.read_text(encoding="utf-8") if path.exists() else ""
    held = re.compile(rf"^{name}[ \t]*=.*\n?", re.MULTILINE)
    if held.search(source):
        source = held.sub(lambda _: line, source, count=1)
    else:
        source = source + ("\n" if source and not source.endswith("\n") else "") + line
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_text(source, encoding="utf-8")
        try:
            is_right = read_file(beside) == after
        except ConfigError:
            is_right = False
        if not is_right:
            raise ConfigError(f"{path} is written in a way that I cannot change", remedy="edit it by hand")
        beside.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
