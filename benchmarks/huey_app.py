"""huey on Redis, as its documentation sets it up; the consumer's `benchmarks.huey_app.huey`.

Without `notify_result`, which costs its workers a round trip more for each call and is of no use where all are
gathered.
"""

import os
from typing import Any

from huey import RedisHuey

from benchmarks.functions import noop
from lastcall.settings import Settings


def make(url: str | None) -> tuple[RedisHuey, Any]:
    """An app on this server, and its task."""
    app = RedisHuey("benchmarks", url=url)
    return app, app.task(name="noop")(noop)


if "LASTCALL_URL" in os.environ:  # in the consumer, whose server is a private one, too
    huey, _ = make(Settings.load().url)
