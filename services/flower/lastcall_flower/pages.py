"""The page /queues, what it reads (/api/queues), and its link among Flower's own."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from typing import Final

from flower.app import rewrite_handler
from flower.views import BaseHandler
from flower.views.monitor import Metrics
from redis.exceptions import RedisError
from tornado.routing import URLSpec
from tornado.template import BaseLoader, DictLoader
from tornado.web import authenticated

from lastcall_flower.watch import Watch

_LINK: Final = """
<li class="nav-item">
  <a class="nav-link{% if active_tab == 'queues' %} active{% end %}" href="{{ reverse_url('lastcall-queues') }}"
    {% if active_tab == 'queues' %}aria-current="page"{% end %}>Queues</a>
</li>
"""


class QueuesPage(BaseHandler):
    """The page; its script fills it."""

    @authenticated
    def get(self) -> None:
        self.render("queues.html")


class QueuesData(BaseHandler):
    """The same as JSON, with the password of Flower's pages; 503 while the server is away."""

    def initialize(self, watch: Watch) -> None:
        self.watch = watch

    @authenticated
    async def get(self) -> None:
        try:
            told = await asyncio.get_running_loop().run_in_executor(None, self.watch.look)
        except (RedisError, OSError) as error:
            self.set_status(503)
            told = {"error": f"the server cannot be reached: {error}"}
        self.set_header("Cache-Control", "no-store")
        self.write(told)


class ClosedMetrics(Metrics):
    """Flower's /metrics tells everybody the names of tasks and workers; here it asks for the password."""

    @authenticated
    async def get(self) -> None:
        await super().get()


def handlers(watch: Watch, url_prefix: str | None) -> list[URLSpec]:
    """What Flower is to serve besides."""
    specs = [
        URLSpec(r"/queues", QueuesPage, name="lastcall-queues"),
        URLSpec(r"/api/queues", QueuesData, {"watch": watch}, name="lastcall-queues-data"),
        URLSpec(r"/metrics", ClosedMetrics),
    ]
    return [rewrite_handler(spec, url_prefix) for spec in specs] if url_prefix else specs


def templates() -> BaseLoader:
    """Flower's templates, with a link to the page as the last of the navigation's first list; and the page's own."""
    texts: dict[str, str] = {}
    for package in ("flower", "lastcall_flower"):
        for file in files(package).joinpath("templates").iterdir():
            texts[file.name] = file.read_text("utf-8")
    texts["navbar.html"] = texts["navbar.html"].replace("</ul>", f"{_LINK}</ul>", 1)
    return DictLoader(texts)
