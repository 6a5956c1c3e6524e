"""The files of `lastcall map`: what is read as an item, what is known again, and what a journal knows is done."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lastcall.errors import ConfigError
from lastcall.feed import NotYet
from lastcall.mapfiles import lines
from lastcall.mapfiles.inputs import BadItem, Items, Pipe, open_input
from lastcall.mapfiles.journal import Journal
from lastcall.mapfiles.target import find


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("__mp_main__", None)


def read(*names: str, as_json: bool | None = None, done: set[int] = frozenset()) -> tuple[list[Any], list[str]]:  # type: ignore[assignment]
    """The items of these inputs with their indices, and what was refused."""
    refused: list[str] = []
    items = Items(
        [open_input(name, as_json) for name in names],
        lambda index: index in done,
        lambda index, error: refused.append(f"{index}: {error}"),
    )
    for _ in items:
        pass
    return list(items._under_way.values()), refused


# Items


def test_lines_are_strings_and_those_of_jsonl_are_json(here: Path) -> None:
    (here / "a.txt").write_bytes(b"1\r\n\n x \nlast\x0cline")
    (here / "b.jsonl").write_bytes(b'{"n": 1}\n\n[2]\n')
    assert read("a.txt", "b.jsonl") == (
        [(0, "1"), (1, ""), (2, " x "), (3, "last\x0cline"), (4, {"n": 1}), (5, [2])], [],
    )  # fmt: skip
    assert read("b.jsonl", as_json=False)[0] == [(0, '{"n": 1}'), (1, ""), (2, "[2]")]
    assert [open_input(name, None).count for name in ("a.txt", "b.jsonl")] == [4, 2]
    assert read("a.txt", "b.jsonl", done={0, 1, 2, 4})[0] == [(3, "last\x0cline"), (5, [2])]


def test_a_line_that_cannot_be_read_is_refused_with_its_number(here: Path) -> None:
    (here / "a.jsonl").write_bytes(b"1\n\n{\n\xff\n2\n")
    items, refused = read("a.jsonl")
    assert items == [(0, 1), (3, 2)]
    assert refused[0].startswith("1: line 3 of a.jsonl is not JSON: ")
    assert refused[1].startswith("2: line 4 of a.jsonl is not UTF-8: ")


def test_a_glob_gives_the_paths_of_files_in_order_without_the_commands_own(here: Path) -> None:
    (here / "in" / "deep").mkdir(parents=True)
    for name in ("in/b", "in/deep/a", "in/a", "in/out"):
        (here / name).touch()
    source = open_input("in/**", None, ["in/out"])
    assert [item() for item in source.items()] == ["in/a", "in/b", "in/deep/a"]
    before = source.identity()
    (here / "in" / "c").touch()
    assert not open_input("in/**", None, ["in/out"]).same(before)


def test_what_is_no_input_is_told(here: Path) -> None:
    for name, said in (("nowhere.txt", "No such file"), (".", r"say \./\*\*"), ("no*", "no file is called that")):
        with pytest.raises(ConfigError, match=said):
            open_input(name, None)


def test_what_is_written_is_no_input_by_any_name(here: Path) -> None:
    (here / "out").write_text("1\n")
    (here / "link").symlink_to("out")
    for name in ("out", "./out", "link"):
        with pytest.raises(ConfigError, match="--input must be another file than those that are written"):
            open_input(name, None, ["elsewhere", "out"])


def test_a_byte_order_mark_is_no_part_of_the_first_line(here: Path) -> None:
    (here / "a.txt").write_bytes(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n")
    (here / "b.jsonl").write_bytes(b"\xef\xbb\xbf[1]\r\n")
    assert read("a.txt", "b.jsonl") == ([(0, "a"), (1, "\ufeffb"), (2, [1])], [])


def test_json_that_is_too_deep_is_refused_and_what_only_python_takes_for_json_is_told(here: Path) -> None:
    (here / "a.jsonl").write_text("[" * 100_000 + "\nNaN\n1e999\n")
    items, refused = read("a.jsonl")
    assert refused[0].startswith("0: line 1 of a.jsonl is not JSON: maximum recursion depth")
    for (_, item), told in zip(items, ("nan", "inf"), strict=True):
        assert json.loads(lines.of_error(1, ValueError("x"), item))["input"] == told
        assert json.loads(lines.of_value(1, 7, "json", item)) == {"index": 1, "value": 7, "input": told}


def test_what_is_refused_is_told_in_its_place_and_few_wait_for_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lastcall.mapfiles.inputs._BAD_AHEAD", 3)
    (here / "a.jsonl").write_text("{\n1\n{\n2\n" + "{\n" * 5 + "3\n{\n")
    told: list[int] = []
    items = Items(
        [open_input("a.jsonl", None)], lambda index: False, lambda index, error: told.append(index), in_order=True
    )
    assert (next(items), next(items), told) == (1, 2, [0])
    with pytest.raises(NotYet):
        next(items)
    assert items.take(0) == (1, 1)
    assert told == [0]
    assert items.take(1) == (3, 2)
    assert told == [0, 2]
    assert (next(items), told) == (3, [0, 2, 4, 5, 6, 7, 8])
    assert list(items) == []
    items.tell_refused()
    assert told[-1] == 10


def test_a_line_of_megabytes_comes_out_of_a_pipe_whole(here: Path) -> None:
    os.mkfifo("pipe")
    line = b"x" * (20 << 20)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(Path("pipe").write_bytes, b"a\n" + line + b"\nb")
        pipe = open_input("pipe", None)
        found: list[str] = []
        items = pipe.items()
        while True:
            with contextlib.suppress(NotYet):
                item = next(items, None)
                if item is None:
                    break
                found.append(item())
    assert [len(one) for one in found] == [1, 20 << 20, 1]


def test_a_pipe_gives_its_lines_as_they_come(here: Path) -> None:
    os.mkfifo("pipe")
    writer = os.open("pipe", os.O_RDWR)
    try:
        os.write(writer, b"first\nsec")
        pipe = open_input("pipe", None)
        assert isinstance(pipe, Pipe)
        identity = pipe.identity()
        items = pipe.items()
        assert next(items)() == "first"
        for _ in range(2):
            with pytest.raises(NotYet):
                next(items)
        os.write(writer, b"ond\nrest")
        assert next(items)() == "second"
    finally:
        os.close(writer)
    assert next(items)() == "rest"
    assert list(items) == []
    assert not pipe.same({**identity, "first line": "another"})


def test_a_file_is_known_again_by_what_is_in_it_and_a_large_one_by_its_time(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = here / "a.txt"
    path.write_text("1\n2\n")
    before = open_input("a.txt", None).identity()
    os.utime(path, (1, 1))
    assert open_input("a.txt", None).same(before)
    assert not open_input("a.txt", True).same(before)
    path.write_text("1\n3\n")
    assert not open_input("a.txt", None).same(before)
    monkeypatch.setattr("lastcall.mapfiles.inputs._WHOLE_BYTES", 1)
    large = open_input("a.txt", None)
    assert large.count is None
    assert open_input("a.txt", None).same(large.identity())
    os.utime(path, (1, 1))
    assert not open_input("a.txt", None).same(large.identity())


# The function


def test_functions_are_found_in_modules_here_and_in_scripts(here: Path) -> None:
    (here / "there").mkdir()
    (here / "there" / "script.py").write_text("import beside\nclass A:\n  def f(x): return beside.n\n")
    (here / "there" / "beside.py").write_text("n = 7\n")
    (here / "a_module_of_this_test.py").write_text("def f(x): return x\nn = 1\nif __name__ == '__main__': 1/0\n")
    (here / "a_broken_module.py").write_text("import nowhere_at_all\n")
    assert find("a_module_of_this_test:f")(3) == 3
    assert find("there/script.py:A.f")(3) == 7
    for target, said in (
        ("f", "must be package.module:function or path/of/script.py:function, got 'f'"),
        ("a_module_of_this_test:g", "has no g"),
        ("a_module_of_this_test:n", "must be callable, got a_module_of_this_test:n, a value of type int"),
        ("nowhere:f", "there is no module nowhere in"),
        ("a_broken_module:f", "which raised ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("nowhere.py:f", "there is no nowhere.py"),
    ):
        with pytest.raises(ConfigError) as caught:
            find(target)
        assert said in str(caught.value)


# Lines


def test_values_are_json_or_it_is_said_what_to_do() -> None:
    assert lines.of_value(1, "é\ud800", "json") == b'{"index": 1, "value": "\\u00e9\\ud800"}\n'
    assert lines.of_value(1, {"é": 1}, "json", "in") == '{"index": 1, "value": {"é": 1}, "input": "in"}\n'.encode()
    assert lines.of_value(1, {2}, "repr") == b'{"index": 1, "repr": "{2}"}\n'
    for value in ({2}, float("nan"), b"x"):
        with pytest.raises(lines.NotJson, match=r"of type \w+, is not JSON .* --values repr"):
            lines.of_value(1, value, "json")


# The journal


def journal(*, restart: bool = False, retry_errors: bool = False, function: str = "m:f") -> Journal:
    opened = Journal("out", "out.errors")
    try:
        opened.begin(function, [open_input("in.txt", None)], restart=restart, retry_errors=retry_errors)
    except BaseException:
        opened.close()
        raise
    return opened


@pytest.fixture
def written(here: Path) -> Path:
    """A journal of the items 0, 1 and, in error, 2; 9 in error, aside."""
    (here / "in.txt").write_text("\n".join("abcdefghij"))
    out = journal()
    for index in (1, 0):
        out.write(index, lines.of_value(index, [index], "json"))
    out.write(2, lines.of_error(2, ValueError("2"), "c"), failed=True)
    out.write(9, lines.of_error(9, ValueError("9"), "j"), failed=True, aside=True)
    out.close()
    return here / "out"


def done(out: Journal) -> tuple[list[int], int, int]:
    out.close()
    return [index for index in range(20) if out.is_done(index)], out.done, out.failed


def test_a_journal_knows_what_is_done(written: Path) -> None:
    assert done(journal()) == ([0, 1, 2, 9], 4, 2)
    assert [json.loads(line)["index"] for line in written.read_text().splitlines()] == [1, 0, 2]


@pytest.mark.parametrize("torn", [b"{", b'{"index": 3, "value": "x', b'{"index": 3, "value": 3}', b"x" * 200_000])
def test_a_torn_last_line_is_cut_off(written: Path, torn: bytes) -> None:
    whole = written.read_bytes()
    aside = Path("out.errors").read_bytes()
    written.write_bytes(whole + torn)
    Path("out.errors").write_bytes(aside + torn)
    assert done(journal()) == ([0, 1, 2, 9], 4, 2)
    assert (written.read_bytes(), Path("out.errors").read_bytes()) == (whole, aside)
    written.write_bytes(torn)
    assert done(journal()) == ([9], 1, 1)


def test_a_line_that_is_not_of_ours_is_told(written: Path) -> None:
    written.write_text('{"index": 3, "value": 1}\n{"my": "line"}\n{"index": 4, "value": 1}\n')
    with pytest.raises(ConfigError, match=r"line 2 of out, b'.*mend that line"):
        journal()


def test_errors_are_forgotten_to_be_tried_again_and_values_stay(written: Path) -> None:
    assert done(journal(retry_errors=True)) == ([0, 1], 2, 0)
    assert done(journal()) == ([0, 1], 2, 0)
    out = journal()
    out.write(2, lines.of_value(2, 2, "json"))
    assert done(out) == ([0, 1, 2], 3, 0)


def test_another_input_or_function_is_refused_until_it_is_told_to_begin_anew(written: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"it has the results of m:f, not of m:g; name another --output, or --restart"
    ):
        journal(function="m:g")
    Path("in.txt").write_text("other")
    with pytest.raises(ConfigError, match=r"the input in\.txt has changed since; .*--restart"):
        journal()
    assert done(journal(restart=True)) == ([], 0, 0)
    assert not Path("out.errors").exists()
    Path("out.lastcall").unlink()
    assert done(journal()) == ([], 0, 0)


def test_a_file_that_is_not_of_ours_is_not_written_to(here: Path) -> None:
    (here / "in.txt").write_text("a")
    (here / "out").write_text("mine\n")
    with pytest.raises(ConfigError, match=r"there is no out\.lastcall that tells"):
        journal()
    assert (here / "out").read_text() == "mine\n"


def test_errors_and_results_are_not_the_same_file(here: Path) -> None:
    (here / "out").touch()
    (here / "link").symlink_to("out")
    with pytest.raises(ConfigError, match="--errors must be another file than --output, got 'link'"):
        Journal("out", "link")


def test_errors_that_go_to_a_device_are_not_kept_and_the_device_stays(here: Path) -> None:
    (here / "in.txt").write_text("a\nb")
    os.mkfifo("errors")
    reader = os.open("errors", os.O_RDWR)
    try:
        for options in ({}, {"retry_errors": True}, {"restart": True}):
            out = Journal("out", "errors")
            out.begin("m:f", [open_input("in.txt", None)], **{"restart": False, "retry_errors": False, **options})
            line = lines.of_error(1, ValueError("1"), "b")
            assert not out.is_done(1)
            out.write(1, line, failed=True, aside=True)
            out.close()
            assert os.read(reader, 1000) == line
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(os.stat("errors").st_mode)


def test_what_cannot_be_written_beside_the_output_is_told(here: Path) -> None:
    (here / "in.txt").write_text("a")
    inputs = [open_input("in.txt", None)]
    out = Journal("x" * 250, None)
    with pytest.raises(ConfigError, match="--output must be a file that can be read and written, as those beside it"):
        out.begin("m:f", inputs, restart=False, retry_errors=False)
    out.close()
    out = Journal("out", "no/errors")
    out.begin("m:f", inputs, restart=False, retry_errors=False)
    with pytest.raises(ConfigError, match="--errors must be a file that can be written, got 'no/errors': No such file"):
        out.write(0, b"", failed=True, aside=True)
    out.close()


def test_a_pipe_is_written_when_somebody_reads_it(here: Path) -> None:
    os.mkfifo("out")
    with ThreadPoolExecutor(1) as pool:
        out = pool.submit(Journal, "out", None)
        reader = os.open("out", os.O_RDONLY)
        try:
            out.result(10).write(0, b"line\n")
            assert os.read(reader, 100) == b"line\n"
        finally:
            os.close(reader)
        with pytest.raises(BrokenPipeError):
            out.result().write(1, b"line\n")
        os.close(out.result()._fd)


def test_an_output_by_a_link_stays_one_when_errors_are_dropped(written: Path) -> None:
    written.rename("elsewhere")
    written.symlink_to("elsewhere")
    os.chmod("elsewhere", 0o640)
    assert done(journal(retry_errors=True)) == ([0, 1], 2, 0)
    assert written.is_symlink()
    assert stat.S_IMODE(os.stat("elsewhere").st_mode) == 0o640


def test_an_output_is_written_by_one_at_a_time(written: Path) -> None:
    first = journal()
    with pytest.raises(ConfigError, match="another `lastcall map` is at work on it"):
        journal()
    first.close()
    journal().close()


def test_what_is_done_takes_a_bit_an_item(here: Path) -> None:
    (here / "in.txt").write_text("a")
    out = journal()
    for index in range(0, 1_000_000, 2):
        out._mark(index, False)
    out.close()
    assert out.done == 500_000
    assert len(out._bits) < 150_000
    assert not out.is_done(3)
    assert out.is_done(4)
    assert not out.is_done(10**9)


def test_refusing_an_item_may_end_the_reading(here: Path) -> None:
    (here / "a.jsonl").write_text("1\n{\n2\n")

    def refused(index: int, error: BadItem) -> None:
        raise error

    items = Items([open_input("a.jsonl", None)], lambda index: False, refused)
    assert next(items) == 1
    with pytest.raises(BadItem):
        next(items)
