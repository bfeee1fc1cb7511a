"""No file becomes code: names and strings of strangers stay names and strings in whatever is generated and compiled."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import onnx
import pytest

from flocklet.errors import ExportError
from flocklet.firmware_export.c.info import clean_name, info_text, literal
from flocklet.firmware_export.c.template import fill, named
from flocklet.firmware_export.export import export_policy
from flocklet.firmware_export.packages.plain_text import plain_text
from flocklet.firmware_export.read.semantics import ActionSpec, ObsSpec, preset
from flocklet.firmware_export.verify.toolchain import WARNINGS
from kit.firmware import actor, needs_cc
from kit.made_graphs import floats, model

PIECES = [
    "??/", '"', "'", "\\", "\n", "\r", "\t", "\0", "\x7f", "*/", "/*", "//", "%s%n", "??<", "??'", "@N@", "@TEXT@", "${X}",
    "$(id)", "`id`", "\u202e", "\u2028", "\udc80", "é", "中", "#define state", "#include </etc/passwd>", '");', "};",
    "__attribute__((constructor)) void f(void){}", "<script>", "[x](y)", "\\u0022", "\\x22", "?" * 5, " ", "a", "L", "R\"(",
]  # fmt: skip


def drawn(rng: np.random.Generator) -> str:
    """Return a hostile string of up to 12 pieces; one in 200 is very long."""
    count = 900 if rng.integers(200) == 0 else int(rng.integers(1, 13))
    return "".join(PIECES[i] for i in rng.integers(0, len(PIECES), count))


def compiled(tmp_path, texts: list[str], flags: list[str]) -> list[str]:
    """Compile and run a program of one NAME_info per text; return what they tell. Symbols and sections are checked."""
    infos = [{"meaning": text, "name": "x"} for text in texts]
    functions = [
        named(fill("info.c.in", TEXT="@TEXT@"), f"p{i}", TEXT=literal(info_text(info)))
        for i, info in enumerate(infos)
    ]
    declared = [f"const char *p{i}_info(void);" for i in range(len(texts))]
    suffix = "cpp" if "c++" in " ".join(flags) else "c"
    (tmp_path / f"i.{suffix}").write_text("\n".join([*declared, *functions]))
    opened, closed = ('extern "C++" {', "}") if suffix == "cpp" else ("", "")
    calls = "".join(f"  puts(p{i}_info());\n" for i in range(len(texts)))
    main = f"#include <stdio.h>\n{opened}{' '.join(declared)}{closed}\nint main(void)\n{{\n{calls}  return 0;\n}}\n"
    (tmp_path / f"m.{suffix}").write_text(main)
    tool = "c++" if suffix == "cpp" else "cc"
    build = [tool, *flags, *WARNINGS, "-c", f"i.{suffix}", "-o", "i.o"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr[:2000]
    listed = subprocess.run(
        ["nm", "--demangle", "i.o"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    symbols = [line.split(maxsplit=2)[-1] for line in listed.splitlines()]
    own = re.compile(r"p\d+_info(\(\))?(::text)?|text(\.\d+)?")
    assert [symbol for symbol in symbols if not own.fullmatch(symbol)] == []
    heads = subprocess.run(
        ["readelf", "-SW", "i.o"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert "init_array" not in heads and ".ctors" not in heads
    subprocess.run([tool, *flags, f"m.{suffix}", "i.o", "-o", "m"], cwd=tmp_path, check=True)
    said = subprocess.run([tmp_path / "m"], capture_output=True, text=True, check=True).stdout
    told = said.splitlines()
    assert [json.loads(line) for line in told] == infos
    return told


needs_binutils = pytest.mark.skipif(
    shutil.which("nm") is None or shutil.which("readelf") is None,
    reason="binutils (nm, readelf) are not installed",
)


@needs_cc
@needs_binutils
@pytest.mark.parametrize("flags", [["-std=c99"], ["-std=gnu99"], ["-std=c++11"]], ids=["c99", "gnu99", "c++"])
def test_two_thousand_hostile_strings_stay_strings(tmp_path, flags):
    if "c++" in flags[-1] and shutil.which("c++") is None:
        pytest.skip("no C++ compiler 'c++'")
    rng = np.random.default_rng(0)
    compiled(tmp_path, ['??/", evil()); //', *(drawn(rng) for _ in range(1999))], flags)


@needs_cc
@needs_binutils
def test_the_check_sees_a_string_that_gets_out(tmp_path):
    """The control: with quotes and backslashes escaped but not question marks, a trigraph opens the string."""
    payload = (
        '??/";return text;}__attribute__((constructor))void evil(void){}'
        "const char*more(void){static const char text[]={0};//"
    )
    text = info_text({"meaning": payload})
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    function = named(fill("info.c.in", TEXT="@TEXT@"), "p0", TEXT=f'    "{escaped}"')
    (tmp_path / "i.c").write_text("const char *p0_info(void);\n" + function)
    subprocess.run(["cc", "-std=c99", "-w", "-c", "i.c", "-o", "i.o"], cwd=tmp_path, check=True)
    listed = subprocess.run(["nm", "i.o"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    heads = subprocess.run(
        ["readelf", "-SW", "i.o"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert " evil" in listed and "init_array" in heads
    assert len(compiled(tmp_path, [payload], ["-std=c99"])) == 1


@needs_cc
@needs_binutils
@pytest.mark.parametrize("seed", range(4))
def test_a_hostile_file_compiles_to_the_intended_symbols_only(tmp_path, seed):
    """Through the whole export: hostile input, node and tensor names and a hostile meaning."""
    rng = np.random.default_rng(seed)
    made = onnx.load_from_string(
        model([onnx.helper.make_node("Gemm", ["x", "w"], ["y"])], {"w": floats(rng, 4, 3)}, [("x", [1, 4])])
    )
    name = drawn(rng).encode("utf-8", "ignore").decode().replace("\0", "") or "x"
    made.graph.input[0].name = made.graph.node[0].input[0] = name
    made.graph.node[0].name = made.graph.name = name
    path = tmp_path / "p.onnx"
    onnx.save(made, path)
    meaning = drawn(rng)[:300]
    action = ActionSpec(-1e9, 1e9, meaning=meaning)
    out = tmp_path / "out"
    export_policy(path, out, name="pol", obs=ObsSpec(4), action=action, blob=True)
    for standard in ("-std=c99", "-std=gnu99"):
        build = ["cc", standard, *WARNINGS, "-c", str(out / "pol.c"), "-o", "o.o"]
        done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and not done.stderr, done.stderr[:2000]
        listed = subprocess.run(
            ["nm", "-g", "o.o"], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout
        symbols = {
            line.split()[-1]
            for line in listed.splitlines()
            if " T " in line or " D " in line or " R " in line
        }
        assert symbols == {f"pol_{key}" for key in ("eval", "info", "load", "reset", "selftest", "step")}
        heads = subprocess.run(
            ["readelf", "-SW", "o.o"], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout
        assert "init_array" not in heads
    for item in out.rglob("*"):
        if item.is_file() and item.suffix not in {".npz", ".bin"}:
            text = item.read_text(encoding="utf-8")
            assert all(letter.isprintable() or letter in "\n\t" for letter in text), item
            if item.suffix in {".md", ".txt", ".cmake"}:
                assert (
                    "<script>" not in text
                    and "[x](y)" not in text
                    and "$(id)" not in text.replace(meaning, "")
                )


@pytest.mark.parametrize("name", ["", "1a", "a b", "a;b", 'a"', "ä", "a\n", "x" * 33, "a-b", "../a"])
def test_a_name_is_a_c_identifier(tmp_path, name):
    with pytest.raises(ExportError, match="no C identifier"):
        export_policy(actor(), tmp_path / "out", name=name)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ObsSpec, {"state": "4"}),
        (ObsSpec, {"state": 4.0}),
        (ObsSpec, {"state": True}),
        (ObsSpec, {"state": 4, "period": "1u); evil("}),
        (ObsSpec, {"state": 4, "history": ("2", "2")}),
        (ObsSpec, {"state": 4, "clip": "1"}),
        (ObsSpec, {"state": 4, "order": ["oldest_first"]}),
        (ActionSpec, {"bad_limit": "3"}),
        (ActionSpec, {"low": "x"}),
        (ActionSpec, {"meaning": 5}),
        (ActionSpec, {"meaning": "x" * 401}),
    ],
)
def test_rules_of_another_type_are_refused(kind, fields):
    with pytest.raises(ExportError):
        kind(**fields)


def test_words_on_a_page_stay_words():
    assert plain_text("a\n# b <i> [x](y) `c` | \u2028 d") == "a # b &lt;i&gt; (x)(y) 'c' / d"
    assert clean_name('in"put\n??/' + "x" * 99).startswith("in_put___/x") and len(clean_name("y" * 99)) == 64
    _, action = preset("learning-to-fly")
    assert plain_text(replace(action, meaning="rpm").meaning) == "rpm"


def test_messages_stay_on_one_line(tmp_path):
    from flocklet.firmware_export.read.onnx_reader import read

    nodes = [onnx.helper.make_node("Softmax", ["x"], ["y"], name="a\nb\x1b[31m" + "c" * 300)]
    path = tmp_path / "p.onnx"
    path.write_bytes(model(nodes, {}, [("x", [1, 4])]))
    with pytest.raises(ExportError) as refused:
        read(path)
    assert (
        "\n" not in str(refused.value) and "\x1b" not in str(refused.value) and len(str(refused.value)) < 300
    )
