"""Verbs of trust and taste: trust, rate, recommend, import."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from flocklet.cli.output import Output
from flocklet.cli.session import ask
from flocklet.errors import UsageError

__all__ = ["add_parser"]

_SIGNS = {"+": 1.0, "-": -1.0, "0": 0.0}


def add_parser(verbs: Any) -> None:
    """Add the verbs of this module."""
    trust = verbs.add_parser(
        "trust",
        help="show or record who is trusted",
        description="Without PEER: whom you trust, directly or through others, with MeritRank scores and the path. "
        "With PEER and a sign: record your opinion, signed. '+' trusts, '-' distrusts, '0' takes it back.",
    )
    trust.add_argument(
        "peer",
        nargs="?",
        metavar="PEER",
        help="a name, or an id as 'flocklet peers' or 'flocklet id' prints it",
    )
    trust.add_argument("sign", nargs="?", metavar="+|-|0", help="the opinion")
    trust.add_argument("-n", "--limit", type=int, default=20, metavar="N", help="rows to show")
    _add_person(trust)
    trust.set_defaults(run=_trust)
    rate = verbs.add_parser(
        "rate",
        help="say how good an item is, in stars, or what became of it",
        description="Stars are signed and travel to peers. Whether you finished or skipped an item, and how long you "
        "stayed, stays on this device and re-ranks what it recommends to you. 0 stars take everything back.",
    )
    rate.add_argument("item", metavar="ITEM", help="a file, the title of a document, or any name")
    rate.add_argument("stars", nargs="?", type=float, metavar="STARS", help="0.5 to 5; 0 takes it back")
    end = rate.add_mutually_exclusive_group()
    end.add_argument("--finished", action="store_true", help="you had it to the end")
    end.add_argument("--skipped", action="store_true", help="you broke it off or passed it over")
    rate.add_argument("--dwell", type=float, metavar="SECONDS", help="how long you stayed with it")
    _add_person(rate)
    rate.set_defaults(run=_rate)
    recommend = verbs.add_parser("recommend", help="say what else you may like, and why")
    recommend.add_argument("-n", "--limit", type=int, default=10, metavar="N", help="items to show")
    recommend.add_argument("--explain", action="store_true", help="name the items and people it came through")
    _add_person(recommend)
    recommend.set_defaults(run=_recommend)
    take = verbs.add_parser(
        "import",
        help="take in ratings from a CSV file, or what was clicked",
        description="Read user,item,rating,timestamp lines (UTF-8; a header is skipped; the time may be left out, and in "
        "a file of two columns everything is liked). Every user becomes a person of this device, or with --user one "
        "of them becomes you.",
    )
    take.add_argument("path", nargs="?", type=Path, metavar="CSV")
    take.add_argument("--user", metavar="NAME", help="take only this user, as your own ratings")
    take.add_argument("--scale", type=float, default=5.0, metavar="BEST", help="the best rating (default: 5)")
    take.add_argument(
        "--clicks", action="store_true", help="take what was clicked here for ratings of 4 stars"
    )
    take.set_defaults(run=_import)


def _add_person(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--as", dest="person", default="me", metavar="NAME", help="who asks (default: the owner)"
    )


def _trust(args: argparse.Namespace) -> int:
    output = Output(args)
    if args.peer is not None:
        if args.sign not in _SIGNS:
            raise UsageError(
                "'flocklet trust PEER' needs an opinion", remedy="flocklet trust PEER + (or -, or 0)"
            )
        values = {"peer": args.peer, "weight": _SIGNS[args.sign], "person": args.person}
        answer = ask(args, "trust", values, may_create=True)
        verb = {1.0: "trusted", -1.0: "distrusted", 0.0: "neither trusted nor distrusted"}[answer["weight"]]
        output.remark(f"{answer['peer'][:12]} is now {verb}")
        output.document(answer)
        return 0
    if args.limit < 1:
        raise UsageError(f"--limit is {args.limit}", remedy="at least 1")
    answer = ask(args, "trust", {"limit": args.limit, "person": args.person})
    output.document(answer)
    if not answer["trusted"]:
        output.remark("nobody is trusted yet: flocklet trust PEER +")
        return 0
    output.table(
        ("peer", "name", "score", "influence", "path"),
        [
            (
                row["peer"][:12],
                row["name"],
                f"{row['score']:.4f}",
                f"{row['influence']:.2f}",
                " > ".join(row["path"]),
            )
            for row in answer["trusted"]
        ],
    )
    return 0


def _rate(args: argparse.Namespace) -> int:
    output = Output(args)
    is_finished = True if args.finished else False if args.skipped else None
    if args.stars is None and is_finished is None and args.dwell is None:
        raise UsageError("'flocklet rate ITEM' needs stars, --finished, --skipped or --dwell SECONDS")
    values = {
        "item": args.item,
        "stars": args.stars,
        "is_finished": is_finished,
        "dwell_s": args.dwell,
        "person": args.person,
    }
    answer = ask(args, "rate", values, may_create=True)
    said = [] if args.stars is None else [f"{args.stars:g} stars" if args.stars else "taken back"]
    said += ["finished"] * args.finished + ["skipped"] * args.skipped
    said += [] if args.dwell is None else [f"{args.dwell:g} s"]
    output.remark(f"{answer['name']}: {', '.join(said)}")
    output.document(answer)
    return 0


def _recommend(args: argparse.Namespace) -> int:
    output = Output(args)
    if not 1 <= args.limit <= 100:
        raise UsageError(f"--limit is {args.limit}", remedy="between 1 and 100")
    values = {"limit": args.limit, "explain": args.explain, "person": args.person}
    answer = ask(args, "recommend", values)
    output.document(answer)
    if not answer["found"]:
        output.remark(
            f"nothing to recommend yet: rate a few things {answer['liked_from']:g} stars or more, and meet peers"
        )
        return 0
    for row in answer["found"]:
        output.line(f"{row['rank']:2d}. {row['name']}")
        if args.explain:
            output.line(f"    because you like {', '.join(row['because']) or 'nothing in particular'}")
            output.line(f"    through {', '.join(row['through']) or 'nobody in particular'}")
    if not answer["is_trust_used"]:
        output.remark(
            "everybody's taste counts alike until five people of your trust have rated something: "
            "flocklet trust PEER +"
        )
    return 0


def _import(args: argparse.Namespace) -> int:
    output = Output(args)
    if (args.path is None) == (not args.clicks):
        raise UsageError("give a CSV file or --clicks", remedy="flocklet import ratings.csv")
    values = {
        "path": str(args.path.absolute()) if args.path is not None else None,
        "user": args.user,
        "scale": args.scale,
        "clicks": args.clicks,
    }
    answer = ask(args, "import", values, may_create=True)
    output.remark(f"{answer['ratings']} ratings of {answer['people']} people, {answer['new']} of them new")
    if answer["ratings"] and not answer["liked"]:
        output.remark("none of them is a like (4 stars of 5): does --scale name the best rating of the file?")
    output.document(answer)
    return 0
