"""The store keeps what it acknowledged, and says in one line why it cannot."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from flocklet.errors import StoreError, UsageError
from flocklet.store.documents import StoredDocument
from flocklet.store.store import Click, Person, Store

BIG = (1 << 64) - 5


def document(number: int, path: str | None = None) -> StoredDocument:
    return StoredDocument(number, f"key{number}", f"title {number}", "text", path)


def test_documents_keep_unsigned_ids_and_replace_by_path(tmp_path: Path) -> None:
    with Store(tmp_path / "state.db") as store:
        store.add_documents([document(7, "/a/x.txt"), document(BIG, "/a/b/y.txt"), document(1 << 63)], 1.0)
        assert [d.item_id for d in store.documents()] == [1 << 63, BIG, 7]
        assert store.document(BIG) == document(BIG, "/a/b/y.txt")
        store.add_documents([document(8, "/a/x.txt")], 2.0)
        assert store.document(7) is None
        assert sorted(store.paths_below("/a")) == [(8, "/a/x.txt"), (BIG, "/a/b/y.txt")]
        assert store.paths_below("/a/b/") == [(BIG, "/a/b/y.txt")]
        assert store.paths_below("/a/x") == []
        assert store.item_ids_at("/a/x.txt") == [8]
        assert store.documents_generation() == 2
        assert store.remove_documents([8, 12345]) == 1
        assert store.documents_generation() == 3


def test_events_clicks_and_sequence_numbers(tmp_path: Path) -> None:
    origin = b"o" * 16
    with Store(tmp_path / "state.db") as store:
        query_id = store.add_event(origin, "wing", [BIG, 3], 5.0)
        assert store.event(query_id).shown == (BIG, 3)
        assert store.next_seq(origin) == 1
        assert store.add_clicks([Click(origin, 1, b"e1")], query_id=query_id) == 1
        assert store.add_clicks([Click(origin, 1, b"other"), Click(origin, 2, b"e2")]) == 1
        assert [(c.seq, c.entry) for c in store.clicks()] == [(1, b"e1"), (2, b"e2")]
        assert store.next_seq(origin) == 3
        with pytest.raises(UsageError, match="no query 99"):
            store.event(99)


def test_clicks_come_back_in_order_across_pages(tmp_path: Path) -> None:
    entries = [Click(bytes([o]) * 16, s, b"x") for o in range(5) for s in range(1000)]
    with Store(tmp_path / "state.db") as store:
        assert store.add_clicks(reversed(entries)) == 5000
        assert list(store.clicks()) == entries


def test_condemned_origin_loses_its_clicks(tmp_path: Path) -> None:
    with Store(tmp_path / "state.db") as store:
        store.add_origins([(b"a" * 16, b"k" * 32), (b"b" * 16, b"l" * 32)])
        store.add_clicks([Click(b"a" * 16, 1, b"x"), Click(b"b" * 16, 1, b"y")])
        store.condemn_origin(b"a" * 16, b"k" * 32, b"proof")
        assert [c.origin for c in store.clicks()] == [b"b" * 16]
        assert {o: p for o, _, p, _ in store.origins()} == {b"a" * 16: b"proof", b"b" * 16: None}


def test_people_models_deltas_and_peers_survive_a_reopening(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with Store(path) as store:
        store.add_people([Person("ann", b"a" * 16, b"s" * 32)])
        store.add_people([Person("ann", b"z" * 16, b"t" * 32)])
        assert store.add_delta(b"d" * 16, b"p" * 32, 10, 1.0)
        assert not store.add_delta(b"d" * 16, b"p" * 32, 10, 1.0)
        store.add_model(b"1" * 16, "grank", b"s" * 16, None, b"one", 1.0)
        store.add_model(b"2" * 16, "grank", b"s" * 16, b"1" * 16, b"two", 2.0)
        store.remember_peer(b"p" * 32, "pi", [("10.0.0.1", 4000)], 1.0)
        store.ban_peer(b"p" * 32, ("signature", 1200.0), 2.0)
    with Store(path, check=True) as store:
        assert store.people() == [Person("ann", b"a" * 16, b"s" * 32)]
        assert not store.add_delta(b"d" * 16, b"a" * 32, 1, 9.0)
        assert store.newest_model("grank") == (b"2" * 16, b"two")
        (peer,) = store.peers()
        assert (peer.addresses, peer.banned) == ((("10.0.0.1", 4000),), "1200 signature")
        assert store.banned_peers() == {b"p" * 32: ("signature", 1200.0)}
        store.ban_peer(b"p" * 32, None, 3.0)
        assert store.banned_peers() == {}
        assert path.stat().st_mode & 0o777 == 0o600


def test_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "state.db") as store:
        with pytest.raises(RuntimeError), store.transaction():
            store.set_meta("a", 1)
            raise RuntimeError
        assert store.get_meta("a") is None


def test_store_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="newer flocklet"):
        Store(path)
    assert path.read_bytes() == before


def test_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE other (x)")
    db.close()
    with pytest.raises(StoreError, match="another program"):
        Store(path)


@pytest.mark.parametrize(
    "content", [b"this is not a database at all, " * 99, b"SQLite format 3\0" + b"\xff" * 8000]
)
def test_damaged_store_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"damaged|another program") as caught:
        Store(path, check=True)
    assert caught.value.remedy
    assert path.read_bytes() == content


def test_damage_inside_is_found_at_start(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with Store(path) as store:
        store.add_clicks([Click(bytes([n % 250]) * 16, n, b"x" * 300) for n in range(3000)])
    content = bytearray(path.read_bytes())
    content[8192 * 4 : 8192 * 8] = bytes(8192 * 4)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        Store(path, check=True)


def test_full_disk_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with Store(path) as store:
        store.add_clicks([Click(b"a" * 16, 1, b"kept")])
        with store.transaction() as db:
            pages = db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="disk full"):
            store.add_clicks([Click(b"b" * 16, n, b"x" * 4000) for n in range(100)])
        assert [c.entry for c in store.clicks()] == [b"kept"]
    with Store(path, check=True) as store:
        assert store.count("clicks") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_store(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Store(path).close()
    path.chmod(0o400)
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match=r"read-only|cannot use"):
        Store(path).set_meta("a", 1)
    tmp_path.chmod(0o700)


def test_torn_write_ahead_log_gives_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = Store(path)
    for number in range(40):
        store.add_clicks([Click(b"a" * 16, number, bytes(50))])
    log = Path(f"{path}-wal").read_bytes()
    for cut in range(0, len(log), len(log) // 60):
        copy = tmp_path / f"cut{cut}"
        copy.mkdir()
        shutil.copy(path, copy / "state.db")
        (copy / "state.db-wal").write_bytes(log[:cut])
        with Store(copy / "state.db", check=True) as other:
            kept = [c.seq for c in other.clicks()]
        assert kept == list(range(len(kept)))
    store.close()


KILLED = """
    import sys
    from pathlib import Path
    from flocklet.store.store import Click, Store
    store = Store(Path(sys.argv[1]), check=True)
    number = store.next_seq(b"a" * 16)
    while True:
        store.add_clicks([Click(b"a" * 16, number, number.to_bytes(4, "big") * 30)])
        print(number, flush=True)
        number += 1
"""


def test_kill_at_any_moment_loses_no_acknowledged_click(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    acknowledged = 0
    for after in (1, 7, 40, 3, 90):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(KILLED), str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(after):
            acknowledged = int(process.stdout.readline())
        process.kill()
        rest = process.stdout.read().split("\n")
        acknowledged = max([acknowledged, *(int(line) for line in rest[:-1] if line)])
        process.wait()
        process.stdout.close()
        with Store(path, check=True) as store:
            assert [c.seq for c in store.clicks()][:acknowledged] == list(range(1, acknowledged + 1))


def test_so_many_peers_are_remembered_and_banned_ones_longest(tmp_path: Path) -> None:
    who = [bytes([n]) * 32 for n in range(6)]
    with Store(tmp_path / "state.db") as store:
        store.remember_peer(who[0], "banned", [("10.0.0.1", 4000)], 0.0, most=4)
        store.ban_peer(who[0], ("signature", 60.0), 0.0)
        for n in range(1, 6):
            store.remember_peer(who[n], "pi", [("10.0.0.1", 4000)], float(n), most=4)
            assert len(store.peers()) == min(n + 1, 4)
        assert {peer.device_id for peer in store.peers()} == {who[0], *who[3:]}
