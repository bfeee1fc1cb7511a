"""The process that reads files: limits that end it, a peer that goes on, a door that believes nothing."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import msgpack
import pytest

from flocklet.device.readers.door import BrokenAnswerError, End, pack_answer, unpack_answer
from flocklet.device.readers.process import ReaderLimits, ReaderProcess
from flocklet.device.readers.reading import Part, Reading
from flocklet.device.readers.registry import Member, Refusal


def read(reader: ReaderProcess, path: Path) -> list[Member | Refusal]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return list(reader.read(descriptor, path.name))
    finally:
        os.close(descriptor)


def test_a_killed_reader_costs_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    with ReaderProcess() as reader:
        (first,) = read(reader, tmp_path / "a.txt")
        assert reader._process is not None
        os.kill(reader._process.pid, 9)
        reader._process.wait()
        (second,) = read(reader, tmp_path / "a.txt")
        assert first == second
        assert isinstance(first, Member)
        assert reader.started == 2


def test_what_eats_its_reader_s_memory_is_named(tmp_path: Path) -> None:
    (tmp_path / "eat.ipynb").write_bytes(b"[" * 9_000_000)  # json nests, or runs out of memory or depth
    (tmp_path / "good.txt").write_text("words")
    with ReaderProcess(ReaderLimits(cpu_s=1.0, wall_s=15.0, memory_bytes=96 << 20)) as reader:
        (refused,) = read(reader, tmp_path / "eat.ipynb")
        (good,) = read(reader, tmp_path / "good.txt")
    assert isinstance(refused, Refusal)
    assert isinstance(good, Member)


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="seccomp and RLIMIT_CPU's signal are Linux's here"
)
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("while True: pass", "took more than 1 s of CPU"),
        ("import time; time.sleep(60)", "took more than 3 s to read"),
        ("os.abort()", "crashed (SIG"),
        ("bytearray(600 << 20)", "needs more than"),
        ("import socket; socket.socket()", "PermissionError"),
        ("os.unlink(VICTIM)", "PermissionError"),
        ("open(VICTIM, 'w')", "PermissionError"),
        ("os.system('true') and open('/nothing')", "FileNotFoundError"),
        ("os.kill(os.getppid(), 0)", "PermissionError"),
        ("return 3", "returned no reading"),
    ],
)
def test_a_reader_can_do_nothing_but_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, expected: str
) -> None:
    """A reader that a package adds is the most hostile one there can be: it runs code of its own."""
    site = tmp_path / "site"
    (site / "evil-1.dist-info").mkdir(parents=True)
    (site / "evil-1.dist-info" / "METADATA").write_text("Name: evil\nVersion: 1\n")
    (site / "evil-1.dist-info" / "entry_points.txt").write_text("[flocklet.readers]\nevil = evil:read\n")
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (site / "evil.py").write_text(
        f"import os\nVICTIM = {str(victim)!r}\ndef read(source, name, budget):\n    {body}\n"
    )
    (tmp_path / "x.evil").write_text("words")
    (tmp_path / "good.txt").write_text("words")
    real = sys.executable
    launcher = tmp_path / "python"
    launcher.write_text(
        f'#!/bin/sh\nshift 4\nexec {real} -B -c \'import sys, runpy; sys.path.insert(0, "{site}"); m = sys.argv.pop(1); '
        'runpy.run_module(m, run_name="__main__", alter_sys=True)\' "$@"\n'
    )
    launcher.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(launcher))
    with ReaderProcess(ReaderLimits(1.0, 3.0 if "sleep" in body else 15.0, 400 << 20)) as reader:
        (refused,) = read(reader, tmp_path / "x.evil")
        (good,) = read(reader, tmp_path / "good.txt")
    assert isinstance(refused, Refusal)
    assert expected in refused.why
    assert isinstance(good, Member)
    assert victim.read_text() == "precious"


def test_answers_survive_the_door() -> None:
    reading = Reading(
        "T", "text", "de", "2024-01-02", "pdf", (Part(0, "page 1"), Part(2, "page 2")), note="n"
    )
    for answer in (Member("a!b", reading), Refusal("p", "why", "remedy"), End(7)):
        assert unpack_answer(pack_answer(answer)) == answer


def test_the_door_refuses_what_no_reader_says() -> None:
    good = msgpack.unpackb(
        pack_answer(Member("", Reading("T", "text", "de", "2024-01-02", "pdf", (Part(0, "p"),))))
    )
    wrong = {1: 5, 2: b"\xff", 3: None, 4: "DEU", 5: "2024-1-2", 6: [], 7: [[9, "late"]], 8: {}}
    for place, value in wrong.items():
        with pytest.raises(BrokenAnswerError):
            unpack_answer(msgpack.packb([*good[:place], value, *good[place + 1 :]]))
    for body in (
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xa1\xff",
        msgpack.packb(["end", -1]),
        msgpack.packb("end"),
    ):
        with pytest.raises(BrokenAnswerError):
            unpack_answer(body)
    rng = random.Random(3)
    packed = bytearray(msgpack.packb(good))
    for _ in range(3000):
        mutated = bytearray(packed)
        for _ in range(rng.randint(1, 4)):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        try:
            answer = unpack_answer(bytes(mutated))
        except BrokenAnswerError:
            continue
        if isinstance(answer, Member):
            (answer.reading.title + answer.reading.text).encode()


def test_the_language_is_told_inside_the_limits(tmp_path: Path) -> None:
    pytest.importorskip("py3langid", reason="py3langid (extra 'languages') is not installed")
    (tmp_path / "a.txt").write_text("Die Bücher liegen im Zelt auf der Wiese am See, und niemand liest sie.")
    with ReaderProcess() as reader:
        (found,) = read(reader, tmp_path / "a.txt")
    assert isinstance(found, Member)
    assert found.reading.language == "de"
