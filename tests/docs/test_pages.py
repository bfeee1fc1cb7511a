"""What the documentation and our own error messages tell people to type is really there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from flocklet.cli import build_parser
from flocklet.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("examples/*.md")]
)
PAGES = [
    page for page in PAGES if not page.name.startswith("add-")
]  # test_additions runs those, in a copy of the source
SOURCES = sorted(
    path
    for folder in ("runtime", "discovery", "models", "firmware_export")
    for path in ROOT.glob(f"{folder}/**/*.py")
)
IDS = {path: path.relative_to(ROOT).as_posix() for path in [*PAGES, *SOURCES]}
SHELL = ("", "sh", "bash", "shell", "console")
NUMBERS = {"N", "S", "PORT", "RANK", "QUERY_ID", "SECONDS"}  # placeholders of options that take numbers


def blocks(text: str) -> Iterator[tuple[str, int, list[str]]]:
    """Yield language, first line number and lines of every code block: fenced ones and, as "", indented ones."""
    fence, language, start = "", "", 0
    lines: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        opening = re.match(r"(```+|~~~+)\s*([\w-]*)", line)
        if fence:
            if line.rstrip() == fence:
                yield language, start, lines
                fence, lines = "", []
            else:
                lines.append(line)
        elif opening:
            fence, language, start = opening[1], opening[2], number + 1
        elif line.startswith("    "):
            yield "", number, [line.strip()]
    assert not fence, f"the code block of line {start - 1} is never closed"


def commands(line: str) -> Iterator[list[str]]:
    """Yield the flocklet commands of a line of shell, without comments, redirections and other programs."""
    command: list[str] = []
    is_target = False
    for word in [*shlex_words(line), ";"]:
        if is_target:
            is_target = False
        elif word in (">", ">>", "<", "2>"):
            is_target = True
        elif word in ("&&", "||", "|", ";", "&"):
            if command and Path(command[0]).name == "flocklet":
                yield command[1:]
            command = []
        else:
            command.append(word)


def shlex_words(line: str) -> list[str]:
    lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    return list(lexer)


def problem(words: list[str], capsys: pytest.CaptureFixture[str]) -> str | None:
    """Return what the real parser says against a command, or None."""
    filled = ["1" if word.strip("[]").rstrip(".") in NUMBERS else word for word in words]
    capsys.readouterr()
    try:
        build_parser(filled).parse_args(filled)
    except SystemExit:  # --help, --version
        return None
    except UsageError as error:
        return str(error)
    return None


def documented(path: Path) -> list[tuple[int, list[str]]]:
    return [
        (start + offset, command)
        for language, start, lines in blocks(path.read_text())
        if language in SHELL
        for offset, line in enumerate(lines)
        if re.match(r"(\$ )?(\S*/)?flocklet ", line) or "&& flocklet " in line
        for command in commands(line)
    ]


@pytest.mark.parametrize("path", PAGES, ids=IDS.get)
def test_commands_of_a_page_are_understood(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = [
        f"line {number}: flocklet {' '.join(command)}: {said}"
        for number, command in documented(path)
        if (said := problem(command, capsys))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", PAGES, ids=IDS.get)
def test_commands_in_running_text_are_understood(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those between backticks: `flocklet up --peer HOST:PORT`."""
    text = re.sub(r"(?ms)^(```+|~~~+).*?^\1\s*$", "", path.read_text())
    spans = re.findall(r"`(flocklet [a-z-][^`]*)`", text)
    check_phrases(spans, capsys)


@pytest.mark.parametrize("path", SOURCES, ids=IDS.get)
def test_commands_in_our_messages_are_understood(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those between quotes: 'flocklet init --rotate' gives this copy its own identity."""
    source = re.sub(r"\"\s*\n\s*f?\"", "", path.read_text())  # a message that goes on in the next line
    check_phrases(re.findall(r"'(flocklet [a-z][^'{}\n]*)'", source), capsys)


def check_phrases(phrases: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for phrase in phrases:
        for words in commands(" ".join(phrase.split()).replace("...", "")):
            said = problem(words, capsys)
            if said and not re.search("arguments are required|expected (one|at least one) argument", said):
                wrong.append(f"{phrase}: {said}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", PAGES, ids=IDS.get)
def test_python_of_a_page_compiles(path: Path) -> None:
    for language, start, lines in blocks(path.read_text()):
        if language in ("python", "py"):
            compile("\n" * (start - 1) + "\n".join(lines), str(path), "exec")


def test_every_language_of_a_block_is_known() -> None:
    """A block in a language that nobody looks at would be skipped without a word."""
    known = {*SHELL, "python", "py", "ini", "c", "json", "toml", "text"}
    seen = {language for path in PAGES for language, _, _ in blocks(path.read_text())}
    assert seen <= known


def test_pages_tell_enough_to_be_worth_checking() -> None:
    for name in ("README.md", "docs/raspberry-pi.md", "docs/discovery.md"):
        assert documented(ROOT / name), f"no command was found in {name}"


@pytest.mark.parametrize(
    "line",
    [
        "flocklet serch tents",
        "flocklet up --prot 4710",
        "flocklet click first",
        "flocklet add",
        "x && flocklet up now",
    ],
)
def test_the_check_finds_mistakes(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The control: what is wrong must not pass."""
    assert [said for command in commands(line) if (said := problem(command, capsys))]


def test_the_check_reads_shell(capsys: pytest.CaptureFixture[str]) -> None:
    line = "flocklet service --port 4710 > ~/.config/systemd/user/flocklet.service && flocklet click QUERY_ID RANK  # later"
    found = list(commands(line))
    assert found == [["service", "--port", "4710"], ["click", "QUERY_ID", "RANK"]]
    assert [problem(command, capsys) for command in found] == [None, None]
    with pytest.raises(AssertionError, match="never closed"):
        list(blocks("text\n```python\nprint()\n"))
