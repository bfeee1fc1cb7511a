"""The home directory: where one device keeps its key, its store and its socket."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flocklet.errors import ConfigError

__all__ = ["Home", "default_home"]

_UNIX_PATH_MAX_BYTES = 100  # sun_path holds 104 (macOS) or 108 (Linux) bytes with the final zero


def default_home() -> Path:
    """Return `$FLOCKLET_HOME`, or the user's data directory for flocklet."""
    if path := os.environ.get("FLOCKLET_HOME"):
        return Path(path)
    import platformdirs

    return Path(platformdirs.user_data_dir("flocklet", appauthor=False))


@dataclass(frozen=True, slots=True)
class Home:
    """Name the files of one device; nothing is created before `ensure`."""

    path: Path

    @property
    def key(self) -> Path:
        """The Ed25519 private key, mode 0600."""
        return self.path / "key.pem"

    @property
    def certificate(self) -> Path:
        """The self-made certificate of that key."""
        return self.path / "cert.pem"

    @property
    def flock(self) -> Path:
        """The secret of a closed flock, mode 0600, or the mark of an open one."""
        return self.path / "flock"

    @property
    def database(self) -> Path:
        """The embedded store."""
        return self.path / "state.db"

    @property
    def config(self) -> Path:
        """The settings that 'flocklet config set' keeps, as TOML."""
        return self.path / "config.toml"

    @property
    def security_log(self) -> Path:
        """What concerned security, a line each."""
        return self.path / "security.log"

    @property
    def models(self) -> Path:
        """Model files: the index snapshot, learned versions."""
        return self.path / "models"

    @property
    def socket(self) -> Path:
        """The control socket; in a private temporary directory when this path is too long for a socket."""
        path = self.path.absolute() / "control.sock"
        if len(os.fsencode(path)) <= _UNIX_PATH_MAX_BYTES:
            return path
        digest = hashlib.blake2b(os.fsencode(self.path.resolve()), digest_size=8).hexdigest()
        return Path(tempfile.gettempdir()) / f"flocklet-{os.getuid()}-{digest}" / "control.sock"

    def ensure(self) -> None:
        """Create the directory (mode 0700) and prove that it can be written.

        Raises:
            ConfigError: it is not a directory, or not ours to write.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.models.mkdir(mode=0o700, exist_ok=True)
        except FileExistsError as error:
            raise ConfigError(f"{error.filename} is a file, not a directory") from error
        except OSError as error:
            raise ConfigError(f"cannot create {error.filename}: {error.strerror}") from error
        if not os.access(self.path, os.W_OK | os.X_OK) or not os.access(self.models, os.W_OK | os.X_OK):
            raise ConfigError(
                f"home directory {self.path} is not writable",
                remedy="pass --home DIR or change its permissions",
            )

    def socket_directory(self) -> Path:
        """Create the directory of the control socket, private to this user, and return it.

        Raises:
            ConfigError: somebody else owns a directory of that name.
        """
        directory = self.socket.parent
        if directory != self.path.absolute():
            directory.mkdir(mode=0o700, exist_ok=True)
            status = directory.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
                raise ConfigError(f"{directory} belongs to somebody else", remedy="use a shorter --home DIR")
        return directory

    @contextlib.contextmanager
    def lock(self, *, wait_s: float) -> Iterator[None]:
        """Hold this home for one process; the lock dies with the process.

        Raises:
            ConfigError: another process still holds it after `wait_s` seconds.
        """
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot lock {self.path}: {error.strerror}") from error
        try:
            deadline_s = time.monotonic() + wait_s
            while not _try_lock(descriptor):
                if time.monotonic() >= deadline_s:
                    raise ConfigError(
                        f"another flocklet process is using {self.path}",
                        remedy="wait for it, stop it, or pass another --home DIR",
                    )
                time.sleep(0.02)
            yield
        finally:
            os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK):
            return False
        raise ConfigError(f"cannot lock the home directory: {error.strerror}") from error
    return True
