"""Verbs that ask and answer, and who may ask: search, click, people."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from typing import Any

from flocklet.cli.output import Output
from flocklet.cli.session import ask
from flocklet.errors import UsageError
from flocklet.wire.visible import visible

__all__ = ["add_parser"]


def add_parser(verbs: Any) -> None:
    """Add the verbs of this module."""
    search = verbs.add_parser(
        "search",
        help="search; results are numbered for 'click'",
        description='Search the indexed documents: words, "a phrase", prefix*, -not, title:WORD path:WORD type:pdf lang:de '
        "before:2024-05 after:30d in:FOLDER. On a terminal the number of the right result is asked for; "
        "elsewhere 'flocklet click QUERY_ID RANK' tells it.",
    )
    search.add_argument("words", nargs="+", help="the query")
    search.add_argument(
        "-n",
        "--limit",
        type=int,
        default=10,
        metavar="N",
        help="results of a page, at most 100 (default: 10)",
    )
    search.add_argument(
        "--page", type=int, default=1, metavar="P", help="which page of the results (default: 1)"
    )
    search.add_argument(
        "--private", action="store_true", help="keep nothing of this search: no click can refer to it"
    )
    search.add_argument("--no-fold", action="store_true", help="show documents that say the same one by one")
    search.add_argument(
        "--as", dest="person", default="me", metavar="NAME", help="who asks (default: the owner)"
    )
    search.add_argument(
        "--model",
        choices=("posterior", "grank", "bm25"),
        default="posterior",
        help="what decides the order (default: the posterior click rate)",
    )
    search.add_argument(
        "--explain", action="store_true", help="say for each result where its place comes from"
    )
    search.set_defaults(run=_search)
    click = verbs.add_parser("click", help="tell which result was the right one")
    click.add_argument("query_id", type=int, metavar="QUERY_ID")
    click.add_argument("rank", type=int, metavar="RANK")
    click.set_defaults(run=_click)
    opened = verbs.add_parser(
        "open",
        help="open a result of the last search",
        description="Open the file of a result of the last search with the program that the desktop has for it, and note "
        "that it was the right one.",
    )
    opened.add_argument("rank", type=int, metavar="RANK")
    opened.add_argument(
        "--as", dest="person", default="me", metavar="NAME", help="who asked (default: the owner)"
    )
    opened.add_argument("--print", action="store_true", help="print the path only")
    opened.set_defaults(run=_open)
    people = verbs.add_parser(
        "people",
        help="list who shares this device, or add somebody",
        description="Everybody who shares a device has a key and clicks of their own: 'flocklet people NAME' adds "
        "somebody, 'flocklet search --as NAME' asks in that name.",
    )
    people.add_argument("names", nargs="*", metavar="NAME", help="who to add")
    people.set_defaults(run=_people)


def _search(args: argparse.Namespace) -> int:
    output = Output(args)
    if not 1 <= args.limit <= 100:
        raise UsageError(f"--limit is {args.limit}", remedy="between 1 and 100")
    if not 1 <= args.page <= 1000:
        raise UsageError(f"--page is {args.page}", remedy="between 1 and 1000")
    words = {"query": " ".join(args.words), "person": args.person, "limit": args.limit}
    words |= {"model": args.model, "explain": args.explain, "page": args.page, "fold": not args.no_fold}
    words |= {"private": args.private}
    answer = ask(args, "search", words)
    for hit in answer["found"]:
        hit["item_id"] = str(hit["item_id"])  # a u64: JSON readers round numbers from 2^53 on
    output.document(answer)
    for typed, others in answer["corrected"]:
        output.remark(f"searched for {', '.join(others)} too; put '{typed}' in quotes for only that")
    if not answer["found"]:
        output.remark("nothing found")
        return 0
    for hit in answer["found"]:
        votes = f"  [{hit['votes']:.2f} votes]" if hit["votes"] else ""
        where = f"  {hit['path']}" if hit["path"] else ""
        where += f":{hit['line']}" if hit["line"] else f" ({hit['part']})" if hit["part"] else ""
        output.line(f"{hit['rank']:2d}. {visible(hit['title'])}{votes}{where}")
        if hit["snippet"] and not args.quiet:
            output.line(f"    {_highlighted(hit, output)}")
        if hit["twins"] and not args.quiet:
            languages = sorted({twin["language"] for twin in hit["twins"]} - {""})
            output.line(
                f"    +{len(hit['twins'])} that say the same"
                + (f" ({', '.join(languages)})" if languages else "")
            )
        if hit.get("why"):
            for reason in _reasons(hit):
                output.line(f"    {reason}")
    if answer["note"]:
        output.remark(answer["note"])
    if args.private:
        output.remark(f"{answer['total']} documents, page {answer['page']}; nothing of this search is kept")
        return 0
    output.remark(f"{answer['total']} documents, page {answer['page']}; flocklet open RANK opens one")
    output.remark(f"query {answer['query_id']}: flocklet click {answer['query_id']} RANK")
    if output.is_terminal and sys.stdin.isatty() and not args.quiet:
        _choose(args, output, answer)
    return 0


def _highlighted(hit: dict[str, Any], output: Output) -> str:
    """Return the snippet, the words of the query in bold on a terminal that has colours."""
    snippet = hit["snippet"]
    if not output.is_terminal or "NO_COLOR" in os.environ:
        return visible(snippet)
    pieces, at = [], 0
    for first, last in hit["spans"]:
        pieces += [visible(snippet[at:first]), "\x1b[1m", visible(snippet[first:last]), "\x1b[0m"]
        at = last
    return "".join(pieces) + visible(snippet[at:])


def _open(args: argparse.Namespace) -> int:
    output = Output(args)
    answer = ask(args, "open", {"rank": args.rank, "person": args.person})
    path = os.fsdecode(answer["path"])
    if not args.print:
        opener = shutil.which("open" if sys.platform == "darwin" else "xdg-open")
        if opener is None:
            raise UsageError(
                "there is no program here that opens files",
                remedy="flocklet open --print RANK prints the path",
            )
        subprocess.run([opener, path], check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # noqa: S603
    output.line(visible(path))
    output.document({"path": visible(path), "title": answer["title"], "query": answer["query"]})
    return 0


def _reasons(hit: dict[str, Any]) -> list[str]:
    """Return the lines that explain one result."""
    why = hit["why"]
    words = ", ".join(f"{term} {value:.2f}" for term, value in why["text"].items()) or "no word of the query"
    lines = [f"text {hit['text_score']:.2f}: {words}", f"click rate {hit['score']:.2f}"]
    own, peers = why["own"], why["peers"]
    if own["looks"] or own["clicks"]:
        lines[1] += f"; own: {own['clicks']:.1f} clicks on {own['looks']:.1f} looks"
    if peers["looks"] or peers["clicks"]:
        lines[1] += (
            f"; peers: {peers['clicks']:.1f} clicks on {peers['looks']:.1f} looks, {peers['identities']} clicked"
        )
        trusts = [f"{peer['origin'][:12]} (trust {peer['trust']:.2f})" for peer in peers["trust"][:3]]
        if trusts:
            lines.append("clicked by " + ", ".join(trusts) + (" ..." if peers["identities"] > 3 else ""))
    if why["reranker"]:
        lines.append(
            "reranker: " + ", ".join(f"{name} {value:+.2f}" for name, value in why["reranker"].items())
        )
    if why["online"]:
        online = why["online"]
        lines.append(
            f"online reranker ({online['model']}, strength {online['strength']:g}, {online['clicks']} own clicks, "
            f"{online['merged']} merges with peers): {online['moved']:+.2f}"
        )
    return lines


def _choose(args: argparse.Namespace, output: Output, answer: dict[str, Any]) -> None:
    try:
        reply = input(
            f"which was right? [{answer['found'][0]['rank']}-{answer['found'][-1]['rank']}, Enter: none] "
        ).strip()
    except EOFError:
        return
    if not reply:
        return
    if not reply.isdigit() or int(reply) not in {hit["rank"] for hit in answer["found"]}:
        raise UsageError(
            f"{reply!r} is not one of the numbers", remedy=f"flocklet click {answer['query_id']} RANK"
        )
    ask(args, "click", {"query_id": answer["query_id"], "rank": int(reply)})
    output.remark("noted")


def _click(args: argparse.Namespace) -> int:
    output = Output(args)
    answer = ask(args, "click", {"query_id": args.query_id, "rank": args.rank})
    output.remark(f"noted for {answer['query']!r}")
    output.document({**answer, "item_id": str(answer["item_id"])})
    return 0


def _people(args: argparse.Namespace) -> int:
    output = Output(args)
    if args.names:
        from flocklet.identity.key import Identity

        ask(
            args,
            "people",
            {"people": {name: Identity.generate().seed for name in args.names}},
            may_create=True,
        )
    names = ask(args, "people", {"people": {}})["names"]
    for name in names:
        output.line(name)
    output.document({"people": names})
    return 0
