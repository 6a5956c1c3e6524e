"""The census without queues: what is walked and counted, and that shares add up to the whole."""

from __future__ import annotations

import ast
import io
import json
import pickle
import random
import tokenize
import warnings
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from lastcall.demo import census, table
from lastcall.demo.census import Census, FileCensus, Function, Source, parse, plain, read, walk

SHAPES = '''\
import os.path, sys
import os as system
from collections.abc import Iterator
from . import sibling
from .sibling import os


def outer():
    async def inner():
        pass

    if True:
        import json
    return lambda: 1


class Shape:
    class Part:
        def method(self):
            try:
                from sys import path
            except* ValueError:
                def on_error(): pass
            else:
                match self:
                    case 1:
                        class Deep: ...
            finally:
                async def last():
                    return """
                    def not_a_function(): class NotAClass
                    """
'''

FILES: dict[str, bytes] = {
    "shapes.py": SHAPES.encode(),
    "pkg/__init__.py": b"",
    "pkg/latin.py": "# coding: latin-1\nname = 'é'\ndef é(): pass\n".encode("latin-1"),
    "pkg/bom.py": b"\xef\xbb\xbfimport os\r\n",
    "pkg/tests/no_newline.py": b"x = 1",
    "pkg/bad_cookie.py": b"# coding: uft-8\nimport sys\n",
    "pkg/bad_bytes.py": b"x = 1\ny = '\xff'\n",
    "pkg/old.py": b"def f():\n    print 'python 2'\n",
}
NOT_WALKED: dict[str, bytes] = {
    "site-packages/installed.py": b"import os\n",
    "pkg/dist-packages/installed.py": b"import os\n",
    "pkg/__pycache__/cached.py": b"import os\n",
    "pkg/data.txt": b"import os\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, content in (FILES | NOT_WALKED).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "link_to_nowhere.py").symlink_to(tmp_path / "nowhere")
    return tmp_path


def parse_text(text: str) -> FileCensus:
    return parse(Source("x.py", text))


# walk


def test_walk_finds_python_files_and_leaves_out_installed_ones(tree: Path) -> None:
    found = list(walk(0, 1, tree))
    assert found == sorted(str(tree / name) for name in FILES)


@pytest.mark.parametrize("shares", [1, 2, 3, 7])
def test_shares_of_the_standard_library_are_a_partition(shares: int) -> None:
    whole = list(walk(0, 1))
    parts = [list(walk(share, shares)) for share in range(shares)]
    assert sorted(path for part in parts for path in part) == whole
    assert len(set(whole)) == len(whole)
    # No share is so small that its producer would have nothing to do.
    assert all(len(part) > len(whole) / shares / 2 for part in parts)


def test_the_standard_library_is_a_real_input() -> None:
    names = {Path(path).relative_to(census.stdlib()).as_posix() for path in walk(0, 1)}
    assert len(names) > 500
    assert {"os.py", "asyncio/queues.py", "xml/dom/minidom.py"} <= names
    assert not any("-packages/" in name for name in names)


def test_a_share_does_not_depend_on_where_the_tree_is_or_what_else_it_holds(
    tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "pkg").mkdir()
    for name in ("pkg/old.py", "pkg/bom.py", "shapes.py"):
        (other / name).write_bytes(FILES[name])
    for share in range(3):
        here = {Path(path).relative_to(other) for path in walk(share, 3, other)}
        there = {Path(path).relative_to(tree) for path in walk(share, 3, tree)}
        assert here == {path for path in there if (other / path).exists()}


@pytest.mark.parametrize(("share", "shares"), [(0, 0), (0, -1), (1, 1), (-1, 2), (7, 7)])
def test_a_share_that_does_not_exist_is_refused_at_once(share: int, shares: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        walk(share, shares)


def test_a_root_that_is_no_folder_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"expected a folder.*missing"):
        walk(0, 1, tmp_path / "missing")


# read


def test_read_decodes_as_python_does(tree: Path) -> None:
    assert read(str(tree / "pkg/latin.py")).text.splitlines()[1] == "name = 'é'"
    assert read(str(tree / "pkg/bom.py")) == Source(str(tree / "pkg/bom.py"), "import os\n")


@pytest.mark.parametrize(("name", "reason"), [("bad_cookie", "SyntaxError: "), ("bad_bytes", "UnicodeDecodeError: ")])
def test_a_file_that_does_not_decode_is_a_result(tree: Path, name: str, reason: str) -> None:
    path = str(tree / f"pkg/{name}.py")
    source = read(path)
    assert source.text == ""
    assert source.error is not None
    assert source.error.startswith(reason)
    assert path not in source.error
    assert parse(source) == FileCensus(path, error=source.error)


def test_a_file_that_is_not_there_is_no_result(tree: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(str(tree / "gone.py"))


# parse


def test_parse_counts_what_a_file_holds() -> None:
    counted = parse(Source("shapes.py", SHAPES))
    assert counted == FileCensus(
        path="shapes.py",
        lines=32,
        functions=5,  # outer, inner, method, on_error, last
        classes=3,  # Shape, Part, Deep
        longest=Function("shapes.py", 19, "Shape.Part.method", 14),
        imports=(("collections", 1), ("json", 1), ("os", 2), ("sys", 2)),
    )


@pytest.mark.parametrize(
    ("text", "lines"),
    [("", 0), ("x = 1", 1), ("x = 1\n", 1), ("\n\n", 2), ("x = '\x0c'\ny = 1", 2)],
)
def test_lines_are_counted_as_an_editor_numbers_them(text: str, lines: int) -> None:
    assert parse_text(text).lines == lines


def test_the_first_of_equally_long_functions_is_the_longest() -> None:
    counted = parse_text("class A:\n    def z(self): ...\ndef a(): ...\n")
    assert counted.longest == Function("x.py", 2, "A.z", 1)


def test_decorators_are_not_part_of_a_functions_length() -> None:
    counted = parse_text("@one\n@two\ndef f():\n    pass\n")
    assert counted.longest == Function("x.py", 3, "f", 2)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def f():\n    print 'old'\n", "SyntaxError: "),
        ("if x:\npass\n", "IndentationError: "),
        ("x = '\0'\n", ("SyntaxError: ", "ValueError: ")),  # the latter before 3.11.4
        ("x = '\ud800'\n", "UnicodeEncodeError: "),
        ("x = a" + ".b" * 50_000 + "\n", "RecursionError: "),
        ("x = " + "-" * 50_000 + "1\n", "MemoryError: "),
    ],
)
def test_a_file_that_does_not_parse_is_a_result(text: str, reason: str | tuple[str, ...]) -> None:
    counted = parse_text(text)
    assert counted.error is not None
    assert counted.error.startswith(reason)
    assert "<census>" not in counted.error
    assert counted == FileCensus("x.py", text.count("\n"), error=counted.error)


def test_deep_nesting_is_walked_without_recursion() -> None:
    depth = 90  # The parser's own limit is 100 levels.
    text = "".join(f"{'  ' * level}def f():\n" for level in range(depth)) + "  " * depth + "pass\n"
    counted = parse_text(text)
    assert counted.functions == depth
    assert counted.longest == Function("x.py", 1, "f", depth + 1)


def test_old_code_causes_no_warnings() -> None:
    old = "pattern = '\\d'\n"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ast.parse(old)
        assert len(caught) == 1, "this Python would not have warned anyway"
        before = len(warnings.filters)
        for _ in range(3):
            assert parse_text(old).error is None
        assert len(caught) == 1
        assert len(warnings.filters) == before + 1
        warnings.simplefilter("error")
        assert parse_text(old).error is None
        with pytest.raises(SyntaxError):
            ast.parse(old)  # Only the census's own parsing is hushed.


@pytest.mark.parametrize("module", ["ast.py", "argparse.py", "asyncio/events.py", "typing.py"])
def test_counts_of_real_files_agree_with_their_tokens_and_their_whole_tree(module: str) -> None:
    source = read(str(census.stdlib() / module))
    counted = parse(source)
    keywords = Counter(
        token.string
        for token in tokenize.generate_tokens(io.StringIO(source.text).readline)
        if token.type == tokenize.NAME
    )
    assert counted.functions == keywords["def"]
    assert counted.classes == keywords["class"]
    assert counted.lines == len(source.text.splitlines(keepends=True)) - source.text.count("\x0c")

    nodes = list(ast.walk(ast.parse(source.text)))
    spans = [
        (node.end_lineno or 0) - node.lineno + 1
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert counted.longest is not None
    assert counted.longest.lines == max(spans)
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    assert dict(counted.imports) == Counter(name.split(".")[0] for name in names)
    assert counted.functions > 20, "too small a file to prove anything"


# the whole


def test_plain_counts_the_small_tree(tree: Path) -> None:
    assert plain(tree) == Census(
        files=8,
        lines=32 + 3 + 1 + 1 + 2,
        functions=5 + 1,
        classes=3,
        longest=Function(str(tree / "shapes.py"), 19, "Shape.Part.method", 14),
        imports=Counter(os=3, sys=2, collections=1, json=1),
        errors={
            name: error
            for name in map(str, (tree / "pkg").glob("*.py"))
            if (error := parse(read(name)).error) is not None
        },
    )
    assert {Path(name).stem for name in plain(tree).errors} == {"bad_cookie", "bad_bytes", "old"}
    assert plain(tree).unreadable == 3


@pytest.mark.parametrize("package", ["asyncio", "email"])
@pytest.mark.parametrize("shares", [1, 2, 3, 7])
def test_merged_shares_equal_the_plain_loop(package: str, shares: int) -> None:
    root = census.stdlib() / package
    merged = Census()
    for share in reversed(range(shares)):
        part = Census()
        for path in walk(share, shares, root):
            part.add(parse(read(path)))
        merged.merge(part)
    assert merged == plain(root)
    assert merged.files > 20
    assert merged.longest is not None


def test_files_may_be_added_in_any_order(tree: Path) -> None:
    files = [parse(read(path)) for path in walk(0, 1, tree)]
    # Equally long functions in several files: the order of counting must not decide.
    files += [parse(Source(f"{name}.py", SHAPES)) for name in "cab"]
    shuffled = random.Random(7)
    outcomes = []
    for _ in range(10):
        shuffled.shuffle(files)
        counted = Census()
        for file in files:
            counted.add(file)
        outcomes.append(counted)
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert outcomes[0].longest is not None
    assert outcomes[0].longest.path == min(str(tree / "shapes.py"), "a.py")


def test_equally_used_imports_are_ranked_by_name() -> None:
    counted = Census(imports=Counter(re=2, sys=3, abc=2))
    assert counted.most_imported() == [("sys", 3), ("abc", 2), ("re", 2)]
    assert counted.most_imported(1) == [("sys", 3)]


def test_differences_name_what_differs(tree: Path) -> None:
    whole, part = plain(tree), Census()
    assert whole.differences(plain(tree)) == []
    for path in walk(0, 1, tree):
        if not path.endswith("bom.py"):
            part.add(parse(read(path)))
    assert whole.differences(part) == [
        "files: 8 here, 7 there",
        "lines: 39 here, 38 there",
        "imports['os']: 3 here, 2 there",
    ]


def test_what_travels_pickles_small(tree: Path) -> None:
    for path in walk(0, 1, tree):
        source = read(path)
        counted = parse(source)
        assert pickle.loads(pickle.dumps(source)) == source
        assert pickle.loads(pickle.dumps(counted)) == counted
    biggest = parse(read(str(census.stdlib() / "typing.py")))
    assert len(pickle.dumps(biggest, 5)) < 1_000
    whole = plain(tree)
    assert pickle.loads(pickle.dumps(whole)) == whole


# the table


def test_json_holds_the_whole_census(tree: Path) -> None:
    data = json.loads(json.dumps(table.to_json(plain(tree), tree)))
    assert data["files"] == 8
    assert data["unreadable"] == 3
    assert data["longest_function"] == {
        "name": "Shape.Part.method",
        "lines": 14,
        "path": "shapes.py",
        "line": 19,
    }
    assert data["imports"] == {"os": 3, "sys": 2, "collections": 1, "json": 1}
    assert list(data["errors"]) == ["pkg/bad_bytes.py", "pkg/bad_cookie.py", "pkg/old.py"]


def test_plain_text_is_one_tabbed_line_a_row(tree: Path) -> None:
    rows = dict(line.split("\t") for line in table.plain_text(plain(tree), tree).splitlines())
    assert rows == {
        "files": "8",
        "lines": "39",
        "functions": "6",
        "classes": "3",
        "unreadable": "3",
        "longest function": "Shape.Part.method, 14 lines, shapes.py:19",
        "imported most": "os 3, sys 2, collections 1, json 1",
    }


def test_the_table_shows_names_as_they_are() -> None:
    counted = Census(files=1790, longest=Function("/elsewhere/[red]x.py", 3, "f", 12), imports=Counter(os=1))
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(table.render(counted, "/root/of/the/library"))
    shown = console.export_text()
    assert "1,790" in shown
    assert "f, 12 lines, /elsewhere/[red]x.py:3" in shown


def test_an_empty_census_has_a_table_too(tmp_path: Path) -> None:
    nothing = plain(tmp_path)
    assert nothing == Census()
    assert "longest function\tnone\n" in table.plain_text(nothing)
    assert table.to_json(nothing)["longest_function"] is None
