"""The tree of verbs: headings, sub-verbs, the options that every verb takes, completion and the manual page."""

from __future__ import annotations

import argparse
import builtins
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flocklet.cli import VERBS, build_parser, main
from flocklet.cli.parser import HEADINGS

# The sub-verbs of the tree that everybody agreed on; a verb may still lack some, it has no others.
TREE = {
    "swarm": "create join list status pause resume leave export upgrade predict run simulate advise sample",
    "learn": "tasks train eval prefer label explain attack gap",
    "fly": "train adapt eval excite fit compare",
    "bench": "kernels search",
    "devices": "list name remove back obey",
    "model": "add list remove plan share check",
    "folders": "list refresh exclude",
    "data": "list where checksum",
    "history": "show delete",
    "config": "show set completion man",
}
GONE = ("bench-search DIR", "swarm --peers 3", "swarm --simulate", "export verify DIR", "trust --user me")


def parsers(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from parsers(below, (*path, name))


ALL = dict(parsers(build_parser(VERBS)))


def test_help_has_every_verb_under_its_heading(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    blocks = re.split(r"^(\S[^\n]*):\n", out, flags=re.MULTILINE)
    found = dict(zip(blocks[1::2], blocks[2::2], strict=True))
    for heading, rows in HEADINGS.items():
        assert re.findall(r"^  (\S+)", found[heading], re.MULTILINE) == list(rows)
    assert "--home DIR" in found["options"]


@pytest.mark.parametrize("path", sorted(ALL))
def test_every_verb_takes_what_all_take_and_says_what_it_is(path: tuple[str, ...]) -> None:
    parser = ALL[path]
    options = {option for action in parser._actions for option in action.option_strings}
    assert {"--home", "--json", "-v", "-q", "--help"} <= options
    assert all(a.help for a in parser._actions if a.option_strings), f"an option of {path} has no help"


def test_a_row_of_the_table_says_what_its_parser_says() -> None:
    whole = next(a for a in build_parser(VERBS)._actions if isinstance(a, argparse._SubParsersAction))
    told = {action.dest: action.help for action in whole._choices_actions}
    assert told == {name: summary for name, (_, summary) in VERBS.items()}


WITH_SUB_VERBS = [
    path[0] for path in ALL if len(path) == 1 and any(len(p) == 2 and p[0] == path[0] for p in ALL)
]


@pytest.mark.parametrize("verb", WITH_SUB_VERBS)
def test_a_verb_alone_prints_its_sub_verbs(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    there = {path[1] for path in ALL if len(path) == 2 and path[0] == verb}
    assert there <= set(TREE[verb].split())
    assert main([verb, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["sub_verbs"]) == there
    assert main([verb]) == 0
    assert {line.split()[2] for line in capsys.readouterr().out.splitlines()} == there


@pytest.mark.parametrize("line", GONE)
def test_old_names_are_gone(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("serch tents", "there is no 'flocklet serch'; did you mean 'search'? (run 'flocklet --help')"),
        ("swarm smulate", "there is no 'flocklet swarm smulate'; did you mean 'simulate'?"),
        ("qqqqqq", "there is no 'flocklet qqqqqq' (run"),
        ("join", "join: the following arguments are required: code (run 'flocklet join --help')"),
        ("service --port x", "invalid int value: 'x'"),
        ("--home", "argument --home: expected one argument"),
        ("rate x 99", "99 stars"),
        ("doctor --seconds nan", "--seconds is nan"),
        ("rate x", "(run 'flocklet rate --help')"),
    ],
)
def test_a_wrong_line_is_one_line_and_one_document(
    line: str, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOCKLET_HOME", str(tmp_path))
    assert main(line.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1
    assert said.err.startswith("flocklet: ")
    assert says in said.err
    assert main(["--json", *line.split()]) == 2
    failure = json.loads(capsys.readouterr().out)["error"]
    assert failure["exit_code"] == 2
    assert f"flocklet: {failure['message']} ({failure['remedy']})" == said.err.strip()


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\x1b[31m", "x" * 65])
def test_a_person_has_a_name_that_can_be_printed(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--home", str(tmp_path), "people", name]) == 2
    assert "is no name" in capsys.readouterr().err
    assert main(["--home", str(tmp_path), "people", "Zoë"]) == 0
    assert capsys.readouterr().out.split() == ["me", "Zoë"]


def test_an_abbreviated_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--jso"]) == 2
    assert "--jso" in capsys.readouterr().err


def test_completion_knows_verbs_sub_verbs_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "completion", "bash"]) == 0
    script = capsys.readouterr().out
    bash = shutil.which("bash")
    assert bash is not None, "bash is everywhere that the tests run"
    ask = script + (
        '\nfor words in "flocklet sw" "flocklet swarm sim" "flocklet swarm simulate --attackers"; do\n'
        'COMP_WORDS=($words); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()\n'
        '_shtab_flocklet flocklet "${COMP_WORDS[-1]}"; echo "${COMPREPLY[@]}"\ndone\n'
    )  # fmt: skip
    done = subprocess.run([bash], input=ask, capture_output=True, text=True, check=True, timeout=15)
    assert [line.split() for line in done.stdout.splitlines()] == [["swarm"], ["simulate"], ["--attackers"]]


def test_manual_page_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "man"]) == 0
    page = capsys.readouterr().out.replace("\\-", "-").replace("\\,", "").replace("\\/", "")
    assert page.startswith(".TH FLOCKLET")
    for verb, (_, summary) in VERBS.items():
        assert verb in page
        assert summary.replace("'", "") in page.replace("'", "").replace("\\(aq", "")
    assert "--attackers" in page


@pytest.mark.parametrize(("words", "module"), [(["completion", "zsh"], "shtab"), (["man"], "build_manpages")])
def test_a_missing_generator_is_one_line(
    words: list[str], module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.split(".")[0] == module:
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["config", *words]) == 7
    assert "pip install '.[shell]'" in capsys.readouterr().err
