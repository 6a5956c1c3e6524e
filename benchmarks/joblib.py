"""joblib: many short tasks, and a grid search; beside joblib's own backend, loky."""

from __future__ import annotations

import functools
from typing import Any

from joblib import Parallel, delayed, parallel_config
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

from benchmarks.functions import noop
from benchmarks.harness import LASTCALL, SLOTS, Row, Stand, Stopwatch, check_sum
from lastcall.joblib import LastcallBackend

TASKS = 20_000
SAMPLES = 1_500
GRID = {"C": [0.1, 1.0, 10.0], "gamma": [0.01, 0.1, 1.0]}  # times 3 folds: 27 fits


def run(stand: Stand) -> list[Row]:
    """Tasks per second, from the first one read to the last result; seconds of a grid search."""
    n = stand.size(TASKS)
    x, y = make_classification(stand.size(SAMPLES), 20, random_state=0)
    backends = {LASTCALL: LastcallBackend(client=stand.client), "loky": "loky"}

    def tasks(backend: Any) -> float:
        with Stopwatch() as watch:
            check_sum(Parallel(n_jobs=SLOTS, backend=backend)(delayed(noop)(i) for i in range(n)), n)
        return n / watch.seconds

    def search(backend: Any) -> float:
        with parallel_config(backend=backend, n_jobs=SLOTS), Stopwatch() as watch:
            found = GridSearchCV(SVC(), GRID, cv=3).fit(x, y)
        if found.best_score_ <= 0.5:
            raise AssertionError(f"expected a score better than chance, got {found.best_score_}")
        return watch.seconds

    rows = []
    for measure, unit, work in (
        ("joblib tasks that do nothing", "/s", tasks),
        (f"scikit-learn's GridSearchCV, 27 fits of {len(x):,} samples", "s", search),
    ):
        seen = stand.race({name: functools.partial(work, backend) for name, backend in backends.items()})
        rows.append(Row("joblib", measure, unit, seen[LASTCALL], "loky", seen["loky"]))
    return rows
