"""Turn C source into a loaded library that is proven not to crash, and keep it on disk.

A library goes through four gates, each of which may fail without hurting this process: the compiler runs in a
process group of its own with a time limit; its output must be an ELF, Mach-O or PE file; a child process
loads and runs it once (a broken library, a wrong instruction set or an endless loop ends the child, not us)
and checks that denormal numbers survived; only then is it renamed into the cache under the digest of its own
bytes. Two processes that build the same kernel at once each finish their own copy, and the rename is atomic.
A cache that is read-only, full or owned by somebody else is replaced by a private temporary directory for
this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flocklet.errors import ConfigError
from flocklet.kernels.compile.compilers import Compiler

__all__ = ["LibraryCache", "default_cache_dir", "load_library"]

_log = logging.getLogger("flocklet.kernels")
_KEEP_FILES = 256
_REFUSED_FOR_S = 86400.0

# Runs in a bare child: load the library, run it once on small buffers, see that denormals are still there.
_TRIAL = """
import ctypes, json, sys
job = json.load(sys.stdin)
lib = ctypes.CDLL(job["library"])
if job["sizes"] is not None:
    buffers = [(ctypes.c_float * max(1, n))() for n in job["sizes"]]
    table = (ctypes.c_void_p * max(1, len(buffers)))(*[ctypes.addressof(b) for b in buffers])
    lib[job["symbol"]].restype = None
    lib[job["symbol"]](table, ctypes.c_long(0), ctypes.c_long(1))
tiny = float.fromhex("0x1p-1060")
print("ok" if tiny * 0.5 > 0.0 and sum([tiny, tiny]) > tiny else "flush-to-zero")
"""


def default_cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return where compiled kernels live: `$FLOCKLET_CACHE` or the user's cache directory."""
    env = os.environ if environ is None else environ
    chosen = env.get("FLOCKLET_CACHE", "")
    if chosen:
        return Path(chosen).expanduser() / "kernels"
    base = env.get("XDG_CACHE_HOME", "")
    if not base:
        base = str(Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache"))
    return Path(base) / "flocklet" / "kernels"


def load_library(path: Path) -> ctypes.CDLL:
    """Load a proven library; its calls release the GIL."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise ConfigError(f"cannot load the compiled kernels {path.name}: {error}") from error


class LibraryCache:
    """Compiled kernels by key. `get` never compiles, `build` compiles, proves and stores."""

    def __init__(self, directory: Path | None = None, *, compile_timeout_s: float = 60.0) -> None:
        self.directory = default_cache_dir() if directory is None else directory
        self.compile_timeout_s = compile_timeout_s
        self.trial_timeout_s = 20.0
        self._private: Path | None = None

    def get(self, key: str) -> Path | None:
        """Return the stored library for `key` if its bytes are the ones that were proven."""
        for folder in self._folders():
            try:
                candidates = sorted(folder.glob(f"{key}-*.so"))
            except OSError:
                continue
            for path in candidates:
                if _is_intact(path):
                    return path
                _log.warning("damaged kernel library %s removed from the cache", path.name)
                with contextlib.suppress(OSError):
                    path.unlink()
        return None

    def build(
        self,
        key: str,
        source: str | Sequence[str],
        compiler: Compiler,
        *,
        symbol: str,
        sizes: Sequence[int] | None,
    ) -> Path:
        """Compile `source`, prove the library in a child process, store it under `key`; return its path.

        Several sources are compiled at the same time and linked.
        `symbol` names the entry point `void f(void **, long, long)`, `sizes` the float32 counts of its
        buffers; with None the library is only loaded. Raise ConfigError when the compiler hangs, fails or
        emits a broken library.
        """
        with tempfile.TemporaryDirectory(prefix="flocklet-cc-") as scratch_name:
            scratch = Path(scratch_name)
            library = scratch / "kernels.so"
            self._compile(compiler, [source] if isinstance(source, str) else source, scratch, library)
            if not compiler.target:
                self._try_out(library, symbol, sizes, compiler)
            digest = hashlib.sha256(library.read_bytes()).hexdigest()[:32]
            return self._store(library, f"{key}-{digest}.so")

    def held(self, key: str, compiler: Compiler) -> Path | None:
        """Return the stored library for `key`, None if it is to be built; raise ConfigError if `compiler` was given up."""
        known = self.get(key)
        if known is None and (refused := self.refusal(compiler)) is not None:
            raise ConfigError(refused)
        return known

    def refusal(self, compiler: Compiler) -> str | None:
        """Return why `compiler` was given up within the last day: a hanging compiler is waited for once."""
        marker = self.directory / self._marker(compiler)
        try:
            if time.time() - marker.stat().st_mtime < _REFUSED_FOR_S:
                return marker.read_text(encoding="utf-8")
        except (OSError, ValueError):
            pass
        return None

    def _refuse(self, compiler: Compiler, why: str) -> None:
        with contextlib.suppress(OSError):
            self._shared_folder().joinpath(self._marker(compiler)).write_text(why, encoding="utf-8")

    @staticmethod
    def _marker(compiler: Compiler) -> str:
        return f"refused-{hashlib.sha256(compiler.identity.encode()).hexdigest()[:24]}"

    def _folders(self) -> list[Path]:
        folders = [self.directory] if _is_ours(self.directory) else []
        return folders + ([self._private] if self._private is not None else [])

    def _compile(self, compiler: Compiler, sources: Sequence[str], scratch: Path, library: Path) -> None:
        env = dict(os.environ)
        if compiler.family == "zig":
            zig_cache = (self.directory.parent if _writable(self.directory.parent) else scratch) / "zig"
            env |= {"ZIG_GLOBAL_CACHE_DIR": str(zig_cache), "ZIG_LOCAL_CACHE_DIR": str(zig_cache)}
        files = [scratch / f"kernels{i}.c" for i in range(len(sources))]
        for file, text in zip(files, sources, strict=True):
            file.write_text(text, encoding="utf-8")

        def run(command: Sequence[str]) -> tuple[int | None, str]:
            return _run_bounded(command, b"", self.compile_timeout_s, scratch, env)

        code: int | None = 0
        output = ""
        if len(files) > 1:
            objects = [file.with_suffix(".o") for file in files]
            with ThreadPoolExecutor(len(files)) as pool:
                done = list(pool.map(run, map(compiler.compile, files, objects)))
            code, output = next((d for d in done if d[0] != 0), (0, ""))
            files = objects
        if code == 0:
            code, output = run(compiler.link(files, library))
        remedy = "install clang or gcc, or pip install '.[compiler]', or set FLOCKLET_CC"
        if code is None:
            why = f"{compiler.name} gave no library within {self.compile_timeout_s:g} s"
            self._refuse(compiler, why)
            raise ConfigError(why, remedy=remedy)
        if code != 0 or not library.is_file():
            lines = [line for line in output.splitlines() if line.strip()]
            first = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
            raise ConfigError(f"{compiler.name} failed (status {code}): {first[:200]}", remedy=remedy)
        head = library.read_bytes()[:4]
        if not head.startswith((b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")):
            raise ConfigError(f"{compiler.name} wrote something that is not a library", remedy=remedy)

    def _try_out(self, library: Path, symbol: str, sizes: Sequence[int] | None, compiler: Compiler) -> None:
        job = {"library": str(library), "symbol": symbol, "sizes": None if sizes is None else list(sizes)}
        code, output = _run_bounded(
            [sys.executable, "-I", "-S", "-c", _TRIAL],
            json.dumps(job).encode(),
            self.trial_timeout_s,
            library.parent,
            dict(os.environ),
        )
        if code == 0 and output.strip().endswith("ok"):
            return
        if code is None:
            why = f"did not return within {self.trial_timeout_s:g} s"
        elif code < 0:
            why = f"died of {signal.Signals(-code).name}"
        else:
            why = (output.strip().splitlines() or ["no message"])[-1][:200]
        raise ConfigError(
            f"the library that {compiler.name} built is broken: {why}", remedy="set FLOCKLET_CC"
        )

    def _store(self, library: Path, name: str) -> Path:
        for place in (self._shared_folder, self._private_folder):
            try:
                folder = place()
                _copy_atomically(library, folder / name)
                _forget_oldest(folder)
            except OSError:
                continue
            return folder / name
        raise ConfigError("no place to keep compiled kernels", remedy="free some space or set FLOCKLET_CACHE")

    def _shared_folder(self) -> Path:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(self.directory):
            raise PermissionError(f"others may write to {self.directory}")
        return self.directory

    def _private_folder(self) -> Path:
        if self._private is None:
            self._private = Path(tempfile.mkdtemp(prefix="flocklet-kernels-"))
            weakref.finalize(self, shutil.rmtree, self._private, ignore_errors=True)
            _log.warning(
                "cannot keep compiled kernels in %s: this process uses a private copy", self.directory
            )
        return self._private


def _copy_atomically(source: Path, target: Path) -> None:
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as out, source.open("rb") as data:
            shutil.copyfileobj(data, out)
            out.flush()
            os.fsync(out.fileno())
        Path(temporary).chmod(0o500)
        Path(temporary).replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def _forget_oldest(folder: Path) -> None:
    files = sorted(folder.glob("*.so"), key=lambda path: path.stat().st_mtime)
    for path in files[:-_KEEP_FILES]:
        with contextlib.suppress(OSError):
            path.unlink()


def _is_intact(path: Path) -> bool:
    try:
        return path.stem.rsplit("-", 1)[-1] == hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    except OSError:
        return False


def _is_ours(folder: Path) -> bool:
    """Tell whether only we may write here: code is loaded from this directory."""
    try:
        status = folder.stat()
    except OSError:
        return False
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)


def _run_bounded(
    command: Sequence[str], data: bytes, timeout_s: float, cwd: Path, env: Mapping[str, str]
) -> tuple[int | None, str]:
    """Run a command in a process group of its own; return (status or None on time-out, output)."""
    try:
        process = subprocess.Popen(  # noqa: S603 - the owner chooses the compiler
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=dict(env),
            start_new_session=True,
        )
    except OSError as error:
        return 127, f"error: cannot start {command[0]}: {error.strerror}"
    try:
        output, _ = process.communicate(data, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None, ""
    return process.returncode, output.decode("utf-8", "replace")
