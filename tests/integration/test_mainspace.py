"""A script's initializers set globals that its functions read: with lastcall's pools as with the standard library's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cluster
from tests.workers import environment

pytestmark = pytest.mark.integration

SCRIPT = """
import functools, json, multiprocessing, sys

if sys.argv[1] == "lastcall":
    from lastcall import Executor, Pool, ThreadPool
else:
    from concurrent.futures import ProcessPoolExecutor as Executor
    from multiprocessing import Pool
    from multiprocessing.pool import ThreadPool

table = None
settings = {}


def set_up(n):
    global table
    table = {"base": n}
    settings["factor"] = 2


def base():
    return table["base"]


def work(n):
    return settings["factor"] * base() + n


def plus(m, n):
    return work(m + n)


def replace(n):
    global table
    table = {"base": n}


class Item:
    def __init__(self, n):
        self.n = n


def of_item(item):
    return work(item.n)


def main():
    said = []
    with Pool(2, set_up, (10,)) as ten, Pool(2, set_up, (1000,)) as thousand:
        said += [ten.map(work, range(3)), thousand.map(work, range(3)), ten.map(work, range(3), 1)]
        said += [ten.apply(work, (1,)), thousand.apply(work, (1,)), list(ten.imap(work, [4]))]
        said += [ten.starmap(plus, [(1, 2)]), ten.map(functools.partial(plus, 5), [6]), ten.map(of_item, [Item(7)])]
    with Pool(1, set_up, (20,), maxtasksperchild=1) as anew:
        said += [anew.apply(replace, (3,)), anew.apply(work, (0,)), anew.map(work, range(2), 1)]
    with ThreadPool(3, set_up, (30,)) as threads:
        said += [threads.map(work, range(3), 1)]
    with Executor(2, initializer=set_up, initargs=(40,)) as executor:
        said += [executor.submit(work, 1).result(), list(executor.map(work, range(4), chunksize=3))]
    print(json.dumps(said))


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    main()
"""


def test_functions_of_a_script_read_what_its_initializer_set(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(SCRIPT)

    def run(kind: str) -> object:
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", str(script), kind], env=environment(cluster.url, cluster.key),
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    assert run("lastcall") == run("multiprocessing")
