"""A device's trust and taste: what is kept over a restart, what peers exchange, and what the verbs say."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flocklet import Node, NodeSettings
from flocklet.cli import main
from flocklet.clock import VirtualClock
from flocklet.device.edge_feed import EdgeFeed
from flocklet.device.membership import create_membership
from flocklet.device.recommender import Taste
from flocklet.errors import UsageError, WireError
from flocklet.events.edge import sign_edge, sign_page
from flocklet.events.edge_pool import PageLimits
from flocklet.events.edge_sync import EdgeAnswer, EdgeQuestion
from flocklet.events.feed import exchange, finish, take
from flocklet.events.item import item_id_of
from flocklet.identity.key import Identity
from flocklet.store.documents import StoredDocument
from flocklet.store.home import Home as HomeFolder
from flocklet.store.store import Store
from flocklet.wire.schema import body_of, schema_of

NOW = 1_800_000_000.0
Run = Callable[..., int]


class Home:
    """A device's store and people, without the rest of the device."""

    def __init__(self, folder: Path, number: int, names: tuple[str, ...] = ("me",)) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.clock = VirtualClock(NOW)
        self.device = Identity.from_seed(bytes([number, 0]) * 16)
        self.people = {n: Identity.from_seed(bytes([number, i + 1]) * 16) for i, n in enumerate(names)}
        self.open()

    def open(self) -> None:
        self.store = Store(self.folder / "state.db")
        self.taste = Taste(self.store, self.folder, self.clock, self.device, lambda: self.people)
        self.feed = EdgeFeed(self.taste, np.random.default_rng(1))

    def ask(self) -> EdgeQuestion:
        asked = self.feed.request(self.feed.start(b"peer", 1))
        assert isinstance(asked, EdgeQuestion)
        return asked

    def answer(self, asked: EdgeQuestion) -> EdgeAnswer:
        told = finish(self.feed.answer(asked, b"peer"))
        assert isinstance(told, EdgeAnswer)
        return told

    def absorb(self, told: EdgeAnswer) -> int:
        turn = self.feed.start(b"peer", 1)
        finish(take(self.feed, turn, told))
        return turn.new

    def reopen(self, *, is_saved: bool) -> None:
        if is_saved:
            self.taste.save()
        self.store.close()
        self.open()

    def likes(self) -> dict[tuple[bytes, int], float]:
        graph, affinity = self.taste.graph, self.taste.graph.affinity()
        return {
            (graph.people[s], graph.items[d]): w
            for s, d, w in zip(
                affinity.src.tolist(), affinity.dst.tolist(), affinity.weight.tolist(), strict=True
            )
        }


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[list[Home]]:
    made = [Home(tmp_path / str(n), n) for n in (1, 2)]
    yield made
    for home in made:
        home.store.close()


def meet(one: Home, two: Home) -> int:
    return exchange(one.feed, two.feed).new + exchange(two.feed, one.feed).new


@pytest.mark.parametrize("is_saved", [True, False])
def test_ratings_and_trust_come_back_after_a_restart(homes: list[Home], is_saved: bool) -> None:
    one = homes[0]
    one.taste.rate(one.people["me"], 7, 4.0)
    one.taste.rate(one.people["me"], 8, 2.0)
    one.taste.trust(one.people["me"], homes[1].device.origin, 1.0)
    before = one.likes()
    one.reopen(is_saved=is_saved)
    assert one.likes() == before == {(one.people["me"].origin, 7): pytest.approx(0.8, abs=1e-3),
                                     (one.people["me"].origin, 8): pytest.approx(0.4, abs=1e-3)}  # fmt: skip
    assert [row.origin for row in one.taste.view(one.people["me"]).trusted()] == [homes[1].device.origin]


def test_a_damaged_snapshot_is_built_anew_from_the_pages(homes: list[Home]) -> None:
    one = homes[0]
    one.taste.rate(one.people["me"], 7, 4.0)
    one.taste.save()
    (one.folder / "graph.npz").write_bytes(b"not a zip")
    one.reopen(is_saved=False)
    assert len(one.likes()) == 1


def test_a_later_rating_holds_even_after_the_clock_was_set_back(homes: list[Home]) -> None:
    one = homes[0]
    one.taste.rate(one.people["me"], 7, 5.0)
    one.clock._now_s = NOW - 1e6
    one.taste.rate(one.people["me"], 7, 1.0)
    assert list(one.likes().values()) == [pytest.approx(0.2, abs=1e-3)]
    one.taste.rate(one.people["me"], 7, 0.0)
    assert one.likes() == {}
    with pytest.raises(UsageError):
        one.taste.rate(one.people["me"], 7, 6.0)


def test_two_devices_that_meet_hold_the_same(homes: list[Home]) -> None:
    one, two = homes
    one.taste.rate(one.people["me"], 7, 4.0)
    two.taste.rate(two.people["me"], 9, 5.0)
    assert meet(one, two) > 0
    assert one.likes() == two.likes()
    assert len(one.likes()) == 2
    assert meet(one, two) == 0
    two.reopen(is_saved=False)  # what came from a peer survives as well
    assert one.likes() == two.likes()


def test_trusting_a_device_reaches_the_people_on_it(homes: list[Home]) -> None:
    one, two = homes
    two.taste.rate(two.people["me"], 9, 5.0)
    one.taste.trust(one.people["me"], two.device.origin, 1.0)
    meet(one, two)
    trusted = {row.origin: row.path for row in one.taste.view(one.people["me"]).trusted()}
    me, device, owner = one.people["me"].origin, two.device.origin, two.people["me"].origin
    assert trusted[owner] == (me, device, owner)
    influence = {row.origin: row.influence for row in one.taste.view(one.people["me"]).trusted()}
    assert influence[owner] == 1.0  # behind one device, but one that is trusted directly


def test_a_forged_page_is_refused_and_nothing_of_it_is_kept(homes: list[Home]) -> None:
    one, two = homes
    two.taste.rate(two.people["me"], 9, 5.0)
    answer = two.answer(one.ask())
    eve = Identity.generate()
    forged = sign_edge(eve, 9, 0.0, int(NOW) + 5).raw.replace(eve.origin, two.people["me"].origin)
    with pytest.raises(WireError, match="signature"):
        one.absorb(EdgeAnswer(forged, two.people["me"].public_key))
    assert one.likes() == {}
    one.absorb(answer)
    assert len(one.likes()) == 1


def test_replayed_old_pages_change_nothing(homes: list[Home]) -> None:
    one, two = homes
    two.taste.rate(two.people["me"], 9, 5.0)
    old = two.answer(one.ask())
    two.clock._now_s += 10
    two.taste.rate(two.people["me"], 9, 1.0)
    one.absorb(two.answer(one.ask()))
    for _ in range(5):
        assert one.absorb(old) == 0
    assert list(one.likes().values()) == [pytest.approx(0.2, abs=1e-3)]


def test_a_clock_days_ahead_stops_nobodys_ratings_nor_their_corrections(homes: list[Home]) -> None:
    """Attack row 9: it did, silently, and the corrections after the clock was right again too."""
    one, two = homes
    two.clock._now_s = NOW + 3 * 86_400
    two.taste.rate(two.people["me"], 9, 5.0)
    meet(one, two)
    assert list(one.likes().values()) == [pytest.approx(1.0, abs=1e-3)]
    two.clock._now_s = NOW
    two.taste.rate(two.people["me"], 9, 1.0)
    two.taste.rate(two.people["me"], 10, 4.0)
    meet(one, two)
    assert sorted(one.likes().values()) == [pytest.approx(0.2, abs=1e-3), pytest.approx(0.8, abs=1e-3)]


def flood(home: Home, persons: int, pages: int, via: bytes) -> None:
    """Let a peer bring pages of made-up persons."""
    for person in range(persons):
        who = Identity.from_seed(bytes([200]) + via[:1] + person.to_bytes(2, "big") * 15)
        made = [sign_page(who, [(1_000 + n, 1.0, n + 1)]) for n in range(pages)]
        home.taste.keep(made, {who.origin: who.public_key}, via=via)


def test_pages_of_strangers_have_a_quota_on_disk_and_in_the_graph(tmp_path: Path) -> None:
    """Attack row 5."""
    one, two, three = (Home(tmp_path / str(n), n) for n in (1, 2, 3))
    one.taste = Taste(
        one.store, one.folder, one.clock, one.device, lambda: one.people,
        PageLimits(of_author=8, of_device=60, strangers=100),
    )  # fmt: skip
    one.feed = EdgeFeed(one.taste, np.random.default_rng(1))
    for item in range(12):
        one.taste.rate(one.people["me"], item, 5.0)
        two.taste.rate(two.people["me"], 20 + item, 5.0)
        three.taste.rate(three.people["me"], 40 + item, 5.0)
    one.taste.trust(one.people["me"], two.people["me"].origin, 1.0)
    exchange(one.feed, two.feed, peer=b"two")
    exchange(one.feed, three.feed, peer=b"three")
    flood(one, 40, 12, b"mallory")
    flood(one, 40, 12, b"eve")
    pool, stored = one.taste.pool, [(src, raw) for _, src, raw in one.store.edge_pages()]
    assert pool.strangers == 100
    assert {(src, raw) for src, rows in pool.pages.items() for _, raw in rows} == set(stored)
    counts = Counter(src for src, _ in stored)
    assert counts[one.people["me"].origin] >= 13, "nothing of the owner gives way"
    assert counts[two.people["me"].origin] == 8 and counts[three.people["me"].origin] == 8
    assert (
        max(counts[src] for src in counts if src not in {h.people["me"].origin for h in (one, two, three)})
        <= 8
    )
    likes = one.likes()
    one.taste.save()
    one.store.close()
    (one.folder / "graph.npz").unlink()
    one.open()
    assert one.likes() == likes, "the graph is as if what gave way had never come"
    for home in (one, two, three):
        home.store.close()


def test_somebody_who_moved_in_later_is_no_stranger(homes: list[Home]) -> None:
    one = homes[0]
    one.taste = Taste(
        one.store, one.folder, one.clock, one.device, lambda: one.people,
        PageLimits(of_author=4, of_device=10, strangers=20),
    )  # fmt: skip
    one.taste.rate(one.people["me"], 1, 5.0)
    one.people["guest"] = guest = Identity.from_seed(b"g" * 32)
    for item in range(10):
        one.taste.rate(guest, item, 5.0)
    flood(one, 10, 12, b"mallory")
    assert sum(src == guest.origin for src, _ in one.likes()) == 10
    assert sum(src == guest.origin for _, src, _ in one.store.edge_pages()) == 10


def test_a_restart_with_smaller_quotas_forgets_on_disk_too(homes: list[Home]) -> None:
    one = homes[0]
    flood(one, 10, 5, b"mallory")
    assert one.store.count("edge_pages") == 50
    one.taste.save()
    one.taste = Taste(
        one.store, one.folder, one.clock, one.device, lambda: one.people, PageLimits(strangers=20)
    )
    assert len(one.taste.pool) == one.store.count("edge_pages") == 20
    assert len(one.likes()) == 20


def test_many_small_pages_become_few(homes: list[Home]) -> None:
    one, two = homes
    for item in range(80):
        one.taste.rate(one.people["me"], item, 5.0)
    me = one.people["me"].origin
    assert len(one.taste.pool.pages[me]) <= 33
    assert sum(src == me for _, src, _ in one.store.edge_pages()) <= 33
    for _ in range(4):
        meet(one, two)
    assert len(two.likes()) == 80


def test_the_name_of_a_document_stays_home_even_when_it_was_rated(homes: list[Home]) -> None:
    """Its name is often its path; the control: the same name without the document is told."""
    one, two = homes
    names = ["/home/me/letter to the doctor.txt", "a film"]
    for name in names:
        two.taste.rate(two.people["me"], item_id_of(name), 5.0, name)
    want = b"".join(item_id_of(name).to_bytes(8, "big") for name in names)
    assert two.answer(replace(one.ask(), want=want)).n == "\0".join(names).encode()
    two.store.add_documents([StoredDocument(item_id_of(names[0]), names[0], "", "text", names[0])], NOW)
    assert two.answer(replace(one.ask(), want=want)).n == b"a film"


def test_names_of_items_follow_their_edges_and_prove_themselves(homes: list[Home]) -> None:
    one, two = homes
    films = [f"film {n} 🎬" for n in range(5)]
    for film in films:
        two.taste.rate(two.people["me"], item_id_of(film), 5.0, film)
    two.store.name_items([(item_id_of("private"), "private")])  # played, never rated: nobody's business
    meet(one, two)
    meet(one, two)
    assert [one.store.item_name(item_id_of(film)) for film in films] == films
    request = replace(one.ask(), want=item_id_of("private").to_bytes(8, "big"))
    assert not two.answer(request).n
    good = two.answer(one.ask())
    one.absorb(replace(good, n=b"another name"))  # the hash of no item that is known
    assert one.store.item_name(item_id_of("another name")) is None
    for wrong in (b"a\0", b"\xff", b"\x1b[2J"):
        with pytest.raises(WireError):
            one.absorb(replace(good, n=wrong))
    for names in (bytes(9_000), "text", None):
        with pytest.raises(WireError):
            schema_of(EdgeAnswer).read({**body_of(good), "n": names})
    for wanted in (bytes(7), bytes(8 * 129), "text", None):
        with pytest.raises(WireError):
            schema_of(EdgeQuestion).read({**body_of(one.ask()), "want": wanted})


# -- the verbs --


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> int:
        capsys.readouterr()
        return main(["--home", str(tmp_path / "home"), *map(str, words)])

    return call


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    lines = ["user,item,rating,timestamp"]
    for person in range(24):
        for film in rng.choice(12, 7, replace=False):
            lines.append(f"p{person},kind{person % 3}-{film},{5 if film % 4 else 4.5},{1000 + film}")
    path = tmp_path / "ratings.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_import_rate_recommend_and_explain(
    run: Run, ratings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("import", ratings, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "ratings": 168,
        "new": 168,
        "people": 24,
        "liked": 168,
    }
    assert run("import", ratings, "--json") == 0
    assert json.loads(capsys.readouterr().out)["new"] == 0
    for film in (0, 1, 2, 3):
        assert run("rate", f"kind1-{film}", 5) == 0
    assert run("recommend", "--explain", "--json", "-n", 4) == 0
    answer = json.loads(capsys.readouterr().out)
    assert all(row["name"].startswith("kind1-") for row in answer["found"])
    assert not {row["name"] for row in answer["found"]} & {f"kind1-{n}" for n in range(4)}
    assert all(row["because"] and row["through"] for row in answer["found"])
    assert not answer["is_trust_used"]
    assert run("recommend", "--as", "p0", "--json") == 0
    assert json.loads(capsys.readouterr().out)["found"][0]["name"].startswith("kind0-")


def test_trust_decides_whose_taste_counts(
    run: Run, ratings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("import", ratings)
    run("rate", "kind1-0", 5)
    for person in range(0, 24, 3):  # people of kind 0
        assert run("trust", f"p{person}", "+") == 0
    assert run("trust", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["trusted"]
    assert {row["name"] for row in rows} >= {f"p{n}" for n in range(0, 24, 3)}
    assert rows[0]["path"][0] == "me"
    assert run("recommend", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["is_trust_used"]
    assert all(row["name"].startswith("kind0-") for row in answer["found"])
    assert run("trust", "p0", "0") == 0
    run("trust", "--json")
    assert "p0" not in {row["name"] for row in json.loads(capsys.readouterr().out)["trusted"]}


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ("a,b,4\na,b", "2 fields"),
        ("user,item,rating\na,b,7", "rating 7"),
        ("a,b,4,1\na,b,x,1", "not a number"),
        ("a,b,nan,1\na,b,nan,1", "not a number"),
        (",b,4,1", "empty"),
        ("a,b,4,-1", "time -1"),
    ],
)
def test_a_wrong_csv_line_is_named_and_nothing_is_kept(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: str, what: str
) -> None:
    path = tmp_path / "wrong.csv"
    path.write_text(lines)
    assert run("import", path) == 2
    error = capsys.readouterr().err
    assert what in error
    assert "Traceback" not in error
    run("recommend", "--json")
    assert json.loads(capsys.readouterr().out)["edges"] == 0


def test_clicks_become_ratings(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = tmp_path / "tent.md"
    note.write_text("# Pitching a tent\n\nDrive the pegs in.\n")
    run("add", note)
    run("search", "tent", "--json")
    run("click", json.loads(capsys.readouterr().out)["query_id"], 1)
    assert run("import", "--clicks", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"ratings": 1, "new": 1, "people": 1, "liked": 1}


def test_mistakes_are_one_clear_line(run: Run, ratings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("import", ratings)
    for words in (("trust", "nobody", "+"), ("trust", "p1"), ("rate", "x", 9), ("import",), ("recommend", "-n", 0),
                  ("recommend", "--as", "stranger"), ("import", "/nowhere.csv")):  # fmt: skip
        assert run(*words) in (1, 2)
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("flocklet: ")


async def test_running_peers_exchange_edges_over_a_link(tmp_path: Path) -> None:
    quiet = NodeSettings(is_mdns_on=False, interfaces=("127.0.0.1",), gossip_s=0)
    async with Node(tmp_path / "a", quiet) as a:
        folder = HomeFolder(tmp_path / "b")
        await asyncio.to_thread(create_membership, folder, flock=a.membership.flock)
        async with Node(folder, replace(quiet, peers=(f"127.0.0.1:{a.port}",))) as b:
            await a.perform("rate", {"item": "a film", "stars": 5.0})
            async with asyncio.timeout(10):
                while not b.endpoint.links:
                    await asyncio.sleep(0.01)
            (link,) = b.endpoint.links.values()
            assert (
                await b.gossip.pull(link, "edges")
            ).new == 2  # the rating, and that the device vouches for its owner
            assert (await b.gossip.pull(link, "edges")).new == 0
            assert item_id_of("a film") in b.device.taste.graph.items
