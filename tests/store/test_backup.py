"""A backup and what is made from it: nothing lost, no key leaks, nobody condemned."""

from __future__ import annotations

import io
import sqlite3
import sys
import zipfile

import numpy as np
import pytest

from flocklet.cli import main
from flocklet.clock import SystemClock
from flocklet.device.click_feed import ClickFeed
from flocklet.device.device import OWNER, Device
from flocklet.device.membership import create_membership, load_membership
from flocklet.errors import ConfigError, IdentityError, UsageError
from flocklet.events.feed import exchange
from flocklet.store import backup as backup_module
from flocklet.store.backup import back_up, restore
from flocklet.store.home import Home

WORDS = "correct horse"


def made(home: Home) -> Device:
    device = Device(home, create_membership(home), SystemClock())
    device.add_documents([])
    return device


def click(device: Device, query: str) -> None:
    from flocklet.device.results import PastClick

    assert device.record([PastClick(OWNER, query, (1, 2, 3), 0, 1_000.0)]) == 1


def feed(device: Device) -> ClickFeed:
    return ClickFeed(device.clicks, device.clock, device.regard_friends)


def story(tmp_path, monkeypatch=None):
    """Back up, ten clicks that a peer hears of, restore, one click; return (restored device, peer, second peer)."""
    first = Home(tmp_path / "a")
    device = made(first)
    click(device, "before")
    back_up(first, tmp_path / "b.zip", keys=tmp_path / "b.keys", passphrase=WORDS)
    peers = [made(Home(tmp_path / name)) for name in ("p", "q")]
    for n in range(10):
        click(device, f"query {n}")
    exchange(feed(peers[0]), feed(device))
    device.close()
    again = Home(tmp_path / "again")
    assert restore(again, tmp_path / "b.zip", keys=tmp_path / "b.keys", passphrase=WORDS)
    restored = Device(again, load_membership(again), SystemClock())
    click(restored, "after the restore")
    for peer in peers:
        exchange(feed(peer), feed(restored))
    exchange(feed(restored), feed(peers[0]))
    exchange(feed(peers[1]), feed(restored))
    return restored, *peers


def test_a_restored_home_goes_on_and_nobody_is_condemned(tmp_path):
    restored, *peers = story(tmp_path)
    origin = restored.identity_of(OWNER).origin
    for one in (restored, *peers):
        assert not one.log.proofs
        assert (
            len(list(one.log.entries(origin))) == 12
        )  # one before, ten after the backup, one after the restore
        one.close()


def test_without_the_jump_the_click_is_lost_or_the_owner_condemned(tmp_path, monkeypatch):
    """The control: the number of the new click was used before, so whoever knows that one never takes the new one."""
    monkeypatch.setattr(backup_module, "_go_on_far_ahead", _plain_people)
    restored, *peers = story(tmp_path)
    origin = restored.identity_of(OWNER).origin
    told = [entry.query for entry in peers[0].log.entries(origin)]
    assert "after the restore" not in told
    for one in (restored, *peers):
        one.close()


def _plain_people(database, people, random_below):
    with sqlite3.connect(database) as db:
        db.executemany("INSERT INTO people VALUES (?, ?, ?)", people)
    db.close()


def test_a_backup_holds_no_key_and_others_cannot_read_it(tmp_path):
    home = Home(tmp_path / "a")
    device = made(home)
    seed = device.identity_of(OWNER).seed
    back_up(home, tmp_path / "b.zip", keys=tmp_path / "b.keys", passphrase=WORDS)
    device.close()
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        held = b"".join(archive.read(name) for name in archive.namelist())
    assert seed not in held and b"PRIVATE KEY" not in held
    secret = load_membership(home).roster.secrets[0]
    for data in (held, (tmp_path / "b.keys").read_bytes()):
        assert secret not in data and seed not in data
    for name in ("b.zip", "b.keys"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_wrong_passphrases_files_and_homes_are_refused_and_change_nothing(tmp_path):
    home = Home(tmp_path / "a")
    made(home).close()
    file, keys = tmp_path / "b.zip", tmp_path / "b.keys"
    back_up(home, file, keys=keys, passphrase=WORDS)
    empty = Home(tmp_path / "empty")
    with pytest.raises(IdentityError, match="passphrase"):
        restore(empty, file, keys=keys, passphrase="wrong horse")
    with pytest.raises(ConfigError, match="holds a device"):
        restore(home, file)
    with pytest.raises(UsageError, match="exists already"):
        back_up(home, file)
    with pytest.raises(UsageError, match="passphrase"):
        back_up(home, tmp_path / "c.zip", keys=tmp_path / "c.keys", passphrase="short")
    data = file.read_bytes()
    rng = np.random.default_rng(0)
    for n in range(40):
        bad = bytearray(data)
        if n % 2:
            bad = bad[: int(rng.integers(len(bad)))]
        else:
            for _ in range(20):
                bad[int(rng.integers(len(bad)))] ^= 0xFF
        (tmp_path / "bad.zip").write_bytes(bad)
        target = Home(tmp_path / f"bad{n}")
        try:
            restore(target, tmp_path / "bad.zip")
        except ConfigError:
            assert not target.database.exists()


@pytest.mark.parametrize(
    "name", ["../evil", "models/../evil", "/tmp/evil", "models/a/b", "key.pem", "models/"]
)
def test_names_that_lead_out_of_the_home_are_refused(tmp_path, name):
    home = Home(tmp_path / "a")
    made(home).close()
    back_up(home, tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "a") as archive:
        archive.writestr(name, "x")
    with pytest.raises(ConfigError, match="no backup holds"):
        restore(Home(tmp_path / "c"), tmp_path / "b.zip")
    assert not (tmp_path / "evil").exists() and not (tmp_path / "c" / "state.db").exists()


def test_the_verbs_from_an_empty_folder_with_relative_paths(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.md").write_text("# Tent pegs\n\nBy the door.\n")
    assert main(["--home", "a", "add", "note.md"]) == 0
    (tmp_path / "words").write_text(WORDS + "\n")
    assert main(["--home", "a", "backup", "b.zip", "--keys", "b.keys", "--passphrase-file", "words"]) == 0
    assert main(["--home", "c", "restore", "b.zip", "--keys", "b.keys", "--passphrase-file", "words"]) == 0
    capsys.readouterr()
    assert main(["--home", "c", "search", "tent"]) == 0
    assert "Tent pegs" in capsys.readouterr().out
    assert main(["--home", "d", "restore", "b.zip"]) == 0
    assert main(["--home", "d", "init", "-q"]) == 0
    assert main(["--home", "d", "search", "tent"]) == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["--home", "a", "backup", "e.zip", "--keys", "e.keys"]) == 2
    assert main(["--home", "a", "backup", "missing/e.zip"]) == 3
    assert "\n" not in capsys.readouterr().err.strip().replace("\nflocklet:", "")
