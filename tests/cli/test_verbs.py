"""The command line as a person meets it: what it prints, what it returns, and one clear line for every mistake."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flocklet.cli import VERBS, main
from flocklet.device.membership import load_membership
from flocklet.identity.key import format_id, short_id
from flocklet.store.home import Home
from flocklet.store.store import Store

Run = Callable[..., int]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "tent.md").write_text("# Pitching a tent\n\nDrive the pegs in at an angle.\n")
    (folder / "soup.txt").write_text("Onions, carrots, and time: a soup for a tent in the rain.")
    (folder / "page.html").write_text(
        "<title>Knots</title><p>The bowline holds a tent guy.</p><script>peg()</script>"
    )
    return folder


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> int:
        capsys.readouterr()
        return main(["--home", str(home), *map(str, words)])

    return call


def one_line(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("flocklet: "), text
    assert "Traceback" not in text
    return lines[0]


def test_first_steps(run: Run, notes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("add", notes) == 0
    assert "3 new or changed" in capsys.readouterr().out
    assert run("search", "tent", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert {hit["title"] for hit in answer["found"]} == {"Pitching a tent", "soup.txt", "Knots"}
    last = answer["found"][-1]
    assert run("click", answer["query_id"], last["rank"]) == 0
    assert run("search", "tent", "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["found"][0]["item_id"] == last["item_id"], "a click puts a result first"
    assert run("search", "guy", "--json") == 0
    assert json.loads(capsys.readouterr().out)["found"][0]["title"] == "Knots"


def test_people_share_a_device(run: Run, notes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("add", notes)
    assert run("people", "ann", "ben", "--json") == 0
    assert json.loads(capsys.readouterr().out)["people"] == ["me", "ann", "ben"]
    assert run("search", "tent", "--as", "ann", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert run("click", answer["query_id"], 3) == 0
    run("status", "--json")
    assert json.loads(capsys.readouterr().out)["people"] == 3


def test_script_text_is_not_indexed(run: Run, notes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("add", notes)
    assert run("search", "peg()", "--json") == 0
    titles = [hit["title"] for hit in json.loads(capsys.readouterr().out)["found"]]
    assert titles == ["Pitching a tent"]


def test_adding_again_follows_the_files(run: Run, notes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("add", notes)
    (notes / "soup.txt").write_text("A stew now.")
    (notes / "page.html").unlink()
    assert run("add", notes, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["added"], answer["unchanged"], answer["gone"], answer["documents"]) == (1, 1, 1, 2)
    run("search", "onions", "--json")
    assert json.loads(capsys.readouterr().out)["found"] == []
    assert run("remove", notes, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"removed": 2, "documents": 0}


def test_damaged_index_snapshot_is_built_anew(
    run: Run, home: Path, notes: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run("add", notes)
    (home / "models" / "index.npz").write_bytes(b"PK\x03\x04 not an archive")
    assert run("search", "pegs", "--json") == 0
    assert json.loads(capsys.readouterr().out)["found"][0]["title"] == "Pitching a tent"
    assert "built anew" in caplog.text


def test_binary_and_unreadable_files_are_named_and_the_rest_is_added(
    run: Run, notes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (notes / "photo.jpg").write_bytes(b"\xff\xd8\xff\x00\x10JFIF" + bytes(range(256)) * 20)
    assert run("add", notes, notes / "nothing.txt") == 0
    captured = capsys.readouterr()
    assert "photo.jpg: binary file" in captured.err
    assert "nothing.txt: no such file" in captured.err
    assert "3 new or changed" in captured.out


def test_a_name_with_bytes_that_are_no_text_is_added_shown_and_removed(
    run: Run, notes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = os.fsdecode(os.fsencode(notes) + b"/caf\xe9\n.txt")
    Path(odd).write_text("a plover")
    assert run("add", odd) == 0
    assert run("add", notes, "--json") == 0  # the folder's files are known by their bytes: nothing is gone
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["gone"] == 0
    run("search", "plover", "--json")
    (found,) = json.loads(capsys.readouterr().out)["found"]
    assert found["path"] == f"{notes}/caf\\xe9\\x0a.txt"
    assert run("remove", found["path"], "--json") == 0
    assert json.loads(capsys.readouterr().out)["removed"] == 1


@pytest.mark.parametrize("verb", ["search", "rate", "people"])
def test_an_argument_that_is_no_text_is_refused_in_one_line(
    run: Run, notes: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    run("add", notes)
    capsys.readouterr()
    assert run(verb, "t\udcff", *(["5"] if verb == "rate" else [])) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_only_unusable_files_is_an_error(run: Run, tmp_path: Path) -> None:
    assert run("add", tmp_path / "nothing.txt") == 1


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("search", " "), 2, "query is empty"),
        (("search", "x", "--limit", "0"), 2, "--limit is 0"),
        (("search", "x", "--as", "nobody"), 2, "nobody called 'nobody'"),
        (("click", "99", "1"), 2, "no query 99"),
        (("join", "ABCD"), 3, "invitation"),
        (("init",), 3, "is a device with a flock already"),
        (("peers",), 4, "no peer is running"),
        (("up", "--interface", "nosuch0"), 3, "no interface or address 'nosuch0'"),
        (("up", "--peer", "host:notaport"), 3, "notaport"),
    ],
)
def test_one_clear_line(
    run: Run, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, says: str
) -> None:
    run("init")
    assert run(*words) == code
    assert says in one_line(capsys.readouterr().err)


def test_click_beyond_what_was_shown(run: Run, notes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("add", notes)
    run("search", "pegs")
    assert run("click", 1, 7) == 2
    assert "there is no result 7" in one_line(capsys.readouterr().err)


def test_verbs_without_a_device(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("search", "x"), ("id",), ("invite",), ("status",), ("init", "--rotate", "--yes")):
        assert run(*words) == 3
        assert "no flocklet device" in one_line(capsys.readouterr().err)


def test_errors_are_json_too(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("id", "--json") == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["exit_code"] == 3
    one_line(captured.err)


def test_usage_mistakes_exit_with_2(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fly-me-to-the-moon") == 2
    assert run("click", "one", "2") == 2


def test_home_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--home", str(tmp_path / "file"), "init"]) == 3
    assert "not a directory" in one_line(capsys.readouterr().err)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_home_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    assert main(["--home", str(tmp_path / "home"), "init"]) == 3
    assert "cannot create" in one_line(capsys.readouterr().err)


def test_store_of_a_newer_version(
    run: Run, home: Path, notes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("add", notes)
    db = sqlite3.connect(home / "state.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    assert run("search", "tent") == 6
    assert "newer flocklet" in one_line(capsys.readouterr().err)


def test_damaged_store(run: Run, home: Path, notes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("add", notes)
    (home / "state.db").write_bytes(b"rubbish" * 1000)
    for words in (("search", "tent"), ("up", "--interface", "127.0.0.1")):
        assert run(*words) == 6
        assert "damaged" in one_line(capsys.readouterr().err)


def test_damaged_key(run: Run, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("init")
    (home / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\nrubbish\n-----END PRIVATE KEY-----\n")
    assert run("id") == 3
    assert "not a key file" in one_line(capsys.readouterr().err)


def test_key_that_others_can_read(run: Run, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("init")
    (home / "key.pem").chmod(0o644)
    assert run("id") == 3
    assert "others on this machine can read" in one_line(capsys.readouterr().err)


def test_copied_disk_is_noticed_and_rotated(run: Run, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("init")
    old = capsys.readouterr().out.splitlines()[0]
    (home / "key.machine").write_text("0" * 32)
    assert run("id") == 3
    assert "another machine" in one_line(capsys.readouterr().err)
    assert run("init", "--rotate", "--yes") == 0
    assert run("id") == 0
    assert capsys.readouterr().out.strip() != old


def test_full_disk(
    run: Run, home: Path, notes: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("add", notes)
    from flocklet.store import store as store_module

    class SmallStore(store_module.Store):
        def __init__(self, path: Path, **options: bool) -> None:
            super().__init__(path, **options)
            pages = self._db.execute("PRAGMA page_count").fetchone()[0]
            self._db.execute(f"PRAGMA max_page_count = {pages}")

    monkeypatch.setattr("flocklet.device.device.Store", SmallStore)
    (notes / "big.txt").write_text("word " * 200_000)
    assert run("add", notes) == 6
    assert "disk full" in one_line(capsys.readouterr().err)
    monkeypatch.undo()
    assert run("search", "pegs", "--json") == 0
    assert json.loads(capsys.readouterr().out)["found"][0]["title"] == "Pitching a tent"


def test_invite_and_join_make_one_flock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    main(["--home", str(first), "init"])
    capsys.readouterr()
    main(["--home", str(first), "invite"])
    code = capsys.readouterr().out.strip()
    assert main(["--home", str(second), "join", code.lower().replace("-", " ")]) == 0
    capsys.readouterr()
    assert load_membership(Home(first)).flock == load_membership(Home(second)).flock
    assert main(["--home", str(second), "join", code]) == 3
    assert "in that flock already" in one_line(capsys.readouterr().err)
    wrong = ("B" if code[0] == "A" else "A") + code[1:]
    assert main(["--home", str(tmp_path / "c"), "join", wrong]) == 3
    assert not (tmp_path / "c" / "key.pem").exists(), "a mistyped code changes nothing"


def test_service_unit_names_this_home(run: Run, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("service", "--peer", "192.168.1.5:4710") == 0
    unit = capsys.readouterr().out
    assert f"--home {home} up --peer 192.168.1.5:4710" in unit
    assert "NoNewPrivileges=yes" in unit


def test_every_verb_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        assert main([verb, "--help"]) == 0
        assert "usage: flocklet" in capsys.readouterr().out


def test_data_lists_sources_and_licences(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", "--json") == 0
    known = {row["name"]: row for row in json.loads(capsys.readouterr().out)["data"]}
    assert known["movielens-100k"]["sha256"]


def test_output_into_a_closed_pipe(home: Path, notes: Path) -> None:
    command = f"{sys.executable} -m flocklet --home {home} add {notes} >&- 2>/dev/null; {sys.executable} -m flocklet"
    done = subprocess.run(
        ["sh", "-c", f"{command} --help | head -1"], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr


def test_two_processes_take_turns(home: Path, notes: Path) -> None:
    main(["--home", str(home), "add", str(notes)])
    searches = [
        subprocess.Popen(
            [sys.executable, "-m", "flocklet", "--home", str(home), "search", "tent", "--json"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    ids = []
    for process in searches:
        out, _ = process.communicate(timeout=15)
        assert process.returncode == 0
        ids.append(json.loads(out)["query_id"])
    assert sorted(ids) == [1, 2, 3, 4]


def test_a_new_flock_keeps_what_the_device_holds(
    run: Run, home: Path, notes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What SECURITY.md says: `init` alone changes nothing and names the way, `leave` and `init` make a new flock."""
    assert run("add", notes) == 0
    before = {path: path.read_bytes() for path in (home / "key.pem", home / "flock")}
    capsys.readouterr()
    assert run("init") == 3
    assert "'flocklet leave' first" in one_line(capsys.readouterr().err)
    assert {path: path.read_bytes() for path in before} == before
    secrets = set(load_membership(Home(home)).roster.secrets)
    assert run("leave") == 0
    assert run("init") == 0
    assert secrets.isdisjoint(load_membership(Home(home)).roster.secrets)
    assert (home / "key.pem").read_bytes() == before[home / "key.pem"]
    capsys.readouterr()
    assert run("status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["documents"] == 3


def test_trust_takes_what_peers_prints(run: Run, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A peer that only proved its key is not in the graph of trust yet; its short id and its name are enough."""
    assert run("init") == 0
    friend, twin = bytes(range(32)), bytes([0, 1, 2, *range(40, 69)])
    with Store(home / "state.db") as store:
        store.remember_peer(friend, "kitchen", [("10.0.0.2", 4710)], 1.0)
        store.remember_peer(twin, "attic", [("10.0.0.3", 4710)], 1.0)
    for called in (short_id(friend), "kitchen", format_id(friend), friend[:16].hex()):
        assert run("trust", called, "+", "--json") == 0
        assert json.loads(capsys.readouterr().out)["peer"] == friend[:16].hex()
    assert run("trust", "000102", "+") == 2
    assert "means several people, 0001020304050607" in capsys.readouterr().err
    for stranger in ("123456789abc", "cellar", "0001"):
        assert run("trust", stranger, "+") == 2
        assert "nobody that is known here" in one_line(capsys.readouterr().err)
