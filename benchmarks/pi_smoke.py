"""Run flocklet as on a Raspberry Pi: Debian arm64 under qemu-user, then linked with a native peer, events both ways.

What is real: the packages of Debian 12 for arm64 (Python 3.11, glibc), the aarch64 wheels of every dependency, the
wheel of this checkout, TLS and sockets of this machine's loopback. What is not: the processor (qemu-user translates
it, about ten times slower, so the seconds below say nothing about a Pi) and the kernel (this machine's).

The root is made by `debootstrap --foreign`, which checks signatures, and its packages are unpacked, not configured: no
maintainer script runs. It is kept in the user's cache directory, so a second run is quick. Everything emulated runs in
user, mount and process namespaces of its own, where arm64 is registered with binfmt_misc: mounts, registration and
processes end with them. Kernels before 6.7 cannot do that; there qemu is called directly and children of the emulated
process cannot start, so the doctor reports that nothing but Python computes.

Run as root: python benchmarks/pi_smoke.py [--json FILE] [--fresh]
Exit code: 0 every step passed, or SKIPPED with the reason; 1 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
SUITE = "bookworm"  # Raspberry Pi OS and Debian 12: Python 3.11, glibc 2.36
QEMU = "qemu-aarch64-static"
PYTHON = "/usr/bin/python3.11"
TOOLS = ("debootstrap", "dpkg-deb", "tar", "unshare", "chroot", "mount", "git", QEMU)
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_26", "manylinux_2_17", "manylinux2014")
# Patience for a processor that is emulated on a machine that may be busy; nothing here is a measurement.
COMMAND_S = 600.0
MEET_S = 180.0

# arm64 ELF, as in qemu's binfmt.d; F: the kernel opens qemu now, so it need not lie in the root.
BINFMT = (
    r":flocklet-arm64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:{qemu}:F"
)
# $1 the root, $2 the binfmt line or nothing; the rest is the command.
INSIDE = """
set -e
root=$1; line=$2; shift 2
if [ -n "$line" ]; then
    mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
    printf '%s' "$line" > /proc/sys/fs/binfmt_misc/register
fi
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
[ -n "$line" ] || exec chroot "$root" /usr/bin/qemu-aarch64-static "$@"
exec chroot "$root" "$@"
"""

NOTES = {
    "tent.md": "# Pitching a tent\n\nDrive the pegs in at an angle, away from the tent, and tie the guy lines.\n",
    "knots.md": "# Knots\n\nA bowline holds the guy line of a tent; a clove hitch holds the pole.\n",
    "soup.txt": "Onions, carrots, lentils and time: a soup for an evening in the tent.\n",
    "stove.html": "<title>The stove</title><p>Never cook inside a tent: a stove needs air.</p>",
}


class Failed(Exception):
    """A step did not do what it should."""


def missing() -> list[str]:
    """Say what this machine lacks; empty when the smoke test can run."""
    reasons = [f"'{tool}' is not installed" for tool in TOOLS if shutil.which(tool) is None]
    if not sys.platform.startswith("linux"):
        reasons.append("this is not Linux")
    if os.geteuid() != 0:
        reasons.append("not root (debootstrap and chroot need it)")
    return reasons


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "flocklet" / "pi-smoke"


def call(command: Sequence[str | Path], log: Path) -> None:
    """Run a tool of this machine; its words go to `log`, and its last one into the error."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
        try:
            process.wait()
        finally:
            end(process)
    if process.returncode:
        words = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        raise Failed(
            f"{Path(command[0]).name} ended with {process.returncode}: {words[-1][:200]} (see {log})"
        )


def debian_mirror() -> list[str]:
    """Return where apt gets Debian from on this machine; nothing (debootstrap's own choice) if it is not Debian."""
    if shutil.which("apt-get") is None:
        return []
    wanted = ["Created-By: Packages", "Origin: Debian", "Label: Debian", f"Codename: {SUITE}"]
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return listed.stdout.split()[:1]


def make_root(root: Path, log: Path) -> str:
    """Make the arm64 root unless the cache holds it; say which."""
    done = root / ".complete"
    if done.exists():
        return "from the cache"
    shutil.rmtree(root, ignore_errors=True)
    command = ["debootstrap", "--foreign", "--force-check-gpg", "--arch=arm64", "--variant=minbase"]
    call([*command, "--include=python3", SUITE, root, *debian_mirror()], log)
    for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as files:
            unpack = ["tar", "-x", "--keep-directory-symlink", "-f", "-", "-C", root]
            unpacked = subprocess.run(unpack, stdin=files.stdout, capture_output=True, text=True, check=False)
        if files.returncode or unpacked.returncode:
            raise Failed(f"cannot unpack {package.name}: {unpacked.stderr.strip()[-200:]}")
        package.unlink()
    for name in ("proc", "dev", "sys"):
        if (root / name).is_symlink():  # what debootstrap leaves inside a container: it would lead to itself
            (root / name).unlink()
        (root / name).mkdir(exist_ok=True)
    shutil.copy2(str(shutil.which(QEMU)), root / "usr/bin" / QEMU)
    done.touch()
    return f"debootstrap --foreign {SUITE} arm64, unpacked"


def dependencies() -> list[str]:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    return list(project["dependencies"])


def install_dependencies(cache: Path, root: Path, log: Path) -> tuple[str, str]:
    """Fetch the aarch64 wheels and unpack them into the root; return the folder inside it, and what was done."""
    wanted = dependencies()
    key = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:12]
    target = root / "opt" / f"packages-{key}"
    count = "*.dist-info"
    if (target / ".complete").exists():
        return f"/opt/{target.name}", f"{len(list(target.glob(count)))} packages, from the cache"
    for old in (root / "opt").glob("packages-*"):
        shutil.rmtree(old)
    wheels = cache / "wheels"
    foreign = ["--only-binary=:all:", "--implementation", "cp", "--python-version", "311"]
    for name in PLATFORMS:
        foreign += ["--platform", f"{name}_aarch64"]
    for abi in ("cp311", "abi3", "none"):
        foreign += ["--abi", abi]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    call([*pip, "download", *foreign, "-d", wheels, "--find-links", wheels, *wanted], log)
    command = [*pip, "install", "--no-index", "--find-links", wheels, "--no-compile", "--target", target]
    call([*command, *foreign, *wanted], log)
    (target / ".complete").touch()
    return f"/opt/{target.name}", f"{len(list(target.glob(count)))} packages from wheels, nothing compiled"


def install_wheel(root: Path, folder: Path, log: Path) -> str:
    """Build the wheel of what git tracks and unpack it into `folder`, which lies in the root."""
    with tempfile.TemporaryDirectory(prefix="flocklet-wheel-", ignore_cleanup_errors=True) as temporary:
        source = Path(temporary, "source")
        names = subprocess.check_output(["git", "ls-files"], cwd=CHECKOUT, text=True).splitlines()
        for name in names:
            if (CHECKOUT / name).is_file():
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(CHECKOUT / name, source / name)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
        call([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", temporary, source], log)
        wheel = next(Path(temporary).glob("*.whl"))
        call([*pip, "install", "--no-index", "--no-deps", "--no-compile", "--target", folder, wheel], log)
        return wheel.name


class Emulated:
    """Runs commands of the arm64 root, each in namespaces of its own."""

    def __init__(self, root: Path, log: Path, packages: Sequence[str], scratch: str) -> None:
        self._root = root
        self._log = log
        self._line = ""
        self._environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": scratch,
            "LANG": "C.UTF-8",
            "PYTHONPATH": ":".join(packages),
        }
        self._peer: subprocess.Popen[bytes] | None = None

    def _command(self, words: Sequence[str]) -> list[str]:
        spaces = ["--mount", "--pid", "--fork", "--kill-child"]
        if self._line:
            spaces += ["--user", "--map-root-user", "--mount-proc"]
        return ["unshare", *spaces, "sh", "-c", INSIDE, "sh", str(self._root), self._line, *words]

    def choose(self) -> str:
        """Find out how arm64 programs start here; say how."""
        self._line = BINFMT.format(qemu=shutil.which(QEMU))
        with contextlib.suppress(Failed):
            self.run("/usr/bin/uname", "-m")
            return f"{QEMU} through binfmt_misc in a user namespace"
        self._line = ""
        self.run("/usr/bin/uname", "-m")
        return f"{QEMU} called directly: children of the emulated process cannot start"

    def run(self, *words: str) -> str:
        """Run one command to its end and return what it printed."""
        with self._log.open("ab") as errors:
            process = subprocess.Popen(
                self._command(words),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
            try:
                printed, _ = process.communicate(timeout=COMMAND_S)
            except subprocess.TimeoutExpired:
                raise Failed(f"'{' '.join(words)}' gave no answer within {COMMAND_S:.0f} s") from None
            finally:
                end(process)
        text = printed.decode(errors="replace")
        with self._log.open("a") as log:
            log.write(text)
        if process.returncode:
            last = self._log.read_text(errors="replace").strip().splitlines()
            raise Failed(
                f"'{' '.join(words)}' ended with {process.returncode}: {last[-1][:200] if last else ''}"
            )
        return text

    def flocklet(self, *words: str) -> str:
        return self.run(PYTHON, "-m", "flocklet", *words)

    def start_peer(self, *words: str) -> None:
        with self._log.open("ab") as log:
            self._peer = subprocess.Popen(
                self._command([PYTHON, "-m", "flocklet", "-vv", "up", *words]),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def peer_lives(self) -> bool:
        return self._peer is not None and self._peer.poll() is None

    def stop_peer(self) -> int | None:
        """Ask the peer to end and return its exit code; None when it had to be killed, or none runs."""
        if self._peer is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._peer.pid, signal.SIGTERM)  # unshare waits; the peer inside hears it
        try:
            return self._peer.wait(60.0)
        except subprocess.TimeoutExpired:
            return None
        finally:
            end(self._peer)
            self._peer = None


def end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of a process and its namespaces behind."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Steps:
    """The table of what was done."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []

    def do(self, name: str, action: Callable[[], str]) -> None:
        """Do one step and print its row; its failure is one too, and then ends the run."""
        start_s = time.monotonic()
        problem: Exception | None = None
        try:
            detail = action()
        except Failed as error:
            detail, problem = str(error), error
        except Exception as error:
            detail, problem = f"{type(error).__name__}: {error}", error
        row = {
            "step": name,
            "s": round(time.monotonic() - start_s, 1),
            "ok": problem is None,
            "detail": detail,
        }
        self.rows.append(row)
        print(f"{name:<34} {row['s']:>7} s  {'ok    ' if row['ok'] else 'FAILED'}  {detail}", flush=True)
        if problem is not None:
            raise Failed(name) from problem


def wait_until(is_true: Callable[[], object], what: str, timeout_s: float = MEET_S) -> float:
    """Ask again until it is true; return the seconds that it took."""
    start_s = time.monotonic()
    while not is_true():
        if time.monotonic() - start_s > timeout_s:
            raise Failed(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.2)
    return time.monotonic() - start_s


def smoke(steps: Steps, cache: Path, log: Path, stack: contextlib.ExitStack) -> None:
    """Do every step; raise Failed at the first that fails."""
    from flocklet.demo.flock import PeerProcess
    from flocklet.identity.flock import Flock

    root = cache / "root"
    steps.do("arm64 root", lambda: make_root(root, log))
    packages: list[str] = []

    def fetch() -> str:
        folder, what = install_dependencies(cache, root, log)
        packages.append(folder)
        return what

    steps.do("aarch64 wheels of the dependencies", fetch)
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="run-", dir=root / "tmp")))
    inside = f"/tmp/{scratch.name}"
    steps.do("wheel of flocklet", lambda: install_wheel(root, scratch / "package", log))
    for name, text in NOTES.items():
        (scratch / "notes").mkdir(exist_ok=True)
        (scratch / "notes" / name).write_text(text)
    arm = Emulated(root, log, [f"{inside}/package", *packages], inside)
    steps.do("emulation", arm.choose)
    steps.do("flocklet --version", lambda: arm.flocklet("--version").strip())

    def doctor() -> str:
        found = json.loads(arm.flocklet("doctor", "--seconds", "0", "--json"))
        compute = [
            f"{one['name']} {'works' if one['works'] else 'no'}" for one in found["compute"]["backends"]
        ]
        levels = [finding["level"] for finding in found["findings"]]
        return f"{', '.join(compute)}; {levels.count('warning')} warnings, {levels.count('failure')} failures"

    steps.do("flocklet doctor --seconds 0", doctor)
    flock = Flock.generate()
    native = PeerProcess(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "home", flock)
    stack.callback(native.stop)
    steps.do("flocklet join CODE", lambda: arm.flocklet("join", flock.invite()).splitlines()[0])
    steps.do("flocklet add", lambda: arm.flocklet("add", f"{inside}/notes").strip())

    def search(query: str) -> dict[str, object]:
        return dict(json.loads(arm.flocklet("search", query, "--json")))

    def search_click() -> str:
        answer = search("guy line")
        arm.flocklet("click", str(answer["query_id"]), "1")
        hits = answer["found"]
        return f"{len(hits)} found, clicked {hits[0]['title']!r}"  # type: ignore[arg-type,index]

    steps.do("flocklet search, flocklet click", search_click)

    def start_native() -> str:
        native.start()
        native.wait_ready()
        native.ask("add", {"paths": [str(scratch / "notes")]})
        return f"port {native.ask('status')['port']}"

    steps.do("native peer: flocklet up", start_native)
    stack.callback(arm.stop_peer)

    def start_emulated() -> str:
        address = f"127.0.0.1:{native.ask('status')['port']}"
        arm.start_peer("--interface", "127.0.0.1", "--peer", address, "--gossip-s", "1")
        socket = scratch / ".local/share/flocklet/control.sock"
        wait_until(lambda: socket.exists() or not arm.peer_lives(), "the emulated peer starts")
        if not arm.peer_lives():
            raise Failed(
                f"the emulated peer ended: {log.read_text(errors='replace').strip().splitlines()[-1][:200]}"
            )
        return f"flocklet up --peer {address}"

    steps.do("emulated peer: flocklet up", start_emulated)

    def link() -> str:
        wait_until(lambda: native.ask("status")["links"], "a link between the two")
        refused = native.ask("status")["refusals"]
        found = next(peer for peer in native.ask("peers") if peer["is_linked"])
        facts = json.loads(arm.flocklet("status", "--json"))
        mdns = f"; mDNS: {facts['problems'][0]}" if facts["problems"] else "; mDNS works"
        how = " ".join(found["sources"]) or "dialled by the emulated one"
        return f"{how}, {len(refused)} refused{mdns}"

    steps.do("link between the two", link)

    def native_ask(query: str) -> dict[str, object]:
        return dict(native.ask("search", {"query": query, "person": "me", "limit": 10}))

    def votes(answer: dict[str, object], item_id: object) -> float:
        return next((hit["votes"] for hit in answer["found"] if hit["item_id"] == item_id), 0.0)  # type: ignore[attr-defined]

    def carried_back() -> str:
        """What was clicked on the emulated device before it met the other."""
        item = search("guy line")["found"][0]["item_id"]  # type: ignore[index]
        wait_until(
            lambda: votes(native_ask("guy line"), item) > 0, "the earlier click arrives at the native peer"
        )
        return f"{votes(native_ask('guy line'), item):.2f} votes there"

    steps.do("earlier click: emulated to native", carried_back)

    def to_native() -> str:
        answer = search("evening soup tent")
        hit = answer["found"][-1]  # type: ignore[index]
        arm.flocklet("click", str(answer["query_id"]), str(hit["rank"]))
        arrived = lambda: votes(native_ask("evening soup tent"), hit["item_id"]) > 0  # noqa: E731
        took_s = wait_until(arrived, "the click arrives at the native peer")
        return f"{hit['title']!r} has votes there {took_s:.1f} s later"

    steps.do("click: emulated to native", to_native)

    def to_emulated() -> str:
        answer = native_ask("stove air")
        hit = answer["found"][0]  # type: ignore[index]
        before = votes(search("stove air"), hit["item_id"])
        native.ask("click", {"query_id": answer["query_id"], "rank": hit["rank"]})
        wait_until(
            lambda: votes(search("stove air"), hit["item_id"]) > before,
            "the click arrives at the emulated peer",
        )
        return f"{hit['title']!r}: {before:.2f} votes before, {votes(search('stove air'), hit['item_id']):.2f} after"

    steps.do("click: native to emulated", to_emulated)

    def stop() -> str:
        code = arm.stop_peer()
        native.stop()
        if code != 0:
            raise Failed(f"the emulated peer ended with {code}")
        return "the emulated peer said goodbye, exit code 0"

    steps.do("SIGTERM", stop)


@contextlib.contextmanager
def alone(cache: Path) -> Iterator[None]:
    """Let one run at a time use the cache."""
    with (cache / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Run flocklet on emulated arm64 and link it with a native peer."
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--fresh", action="store_true", help="forget the cached root and wheels")
    arguments = parser.parse_args()
    reasons = missing()
    steps, is_passed = Steps(), False
    if reasons:
        print(f"SKIPPED: {'; '.join(reasons)}")
    else:
        signal.signal(signal.SIGTERM, interrupted)
        cache = cache_folder()
        if arguments.fresh:
            shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        log = cache / "last.log"
        with alone(cache), contextlib.ExitStack() as stack:
            log.write_text("")
            try:
                smoke(steps, cache, log, stack)
                is_passed = True
            except Failed:
                print(f"what was said: {log}")
            except KeyboardInterrupt:
                print("interrupted")
        passed = sum(bool(row["ok"]) for row in steps.rows)
        print(
            f"{passed} of {len(steps.rows)} steps passed" + ("" if is_passed else "; the run is not complete")
        )
    if arguments.json:
        document = {"skipped": reasons, "passed": is_passed, "steps": steps.rows}
        arguments.json.write_text(json.dumps(document, indent=1))
    return 0 if is_passed or reasons else 1


if __name__ == "__main__":
    sys.exit(main())
