"""Gantt: a job as a picture of what really ran. Rows are slots, bars are chunks, colours are stages.

The diagrams of serial, horizontal, vertical and streaming runs, drawn from the job's history.
"""

from __future__ import annotations

import html
import io
import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lastcall.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lastcall.history import Event

SUFFIXES: Final = (".svg", ".png", ".html")
_ROW_IN: Final = 0.34
_LEAST: Final = 1 / 500  # of the width, so that the shortest chunk is seen


def save(events: Iterable[Event], path: str | os.PathLike[str], *, title: str = "", stages: Sequence[str] = ()) -> Path:
    """Draw a job's "done" events into a file, as its name ends: .svg, .png, or .html, which tells of the bar under the
    pointer.

    stages: names of queues, upstream first; others come after these. Raises ConfigError where the name ends otherwise,
    where nothing was recorded, and where matplotlib is missing.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise ConfigError("the picture's file", f"a name that ends in one of {', '.join(SUFFIXES)}", repr(str(path)))
    figure = draw(events, title=title, stages=stages)
    if target.suffix.lower() == ".png":
        figure.savefig(target, dpi=144)
        return target
    text = io.StringIO()
    with _style():
        figure.savefig(text, format="svg")
    svg = text.getvalue()
    target.write_text(_page(svg, title) if target.suffix.lower() == ".html" else svg, encoding="utf-8")
    return target


def draw(events: Iterable[Event], *, title: str = "", stages: Sequence[str] = ()) -> Figure:
    """The figure: seconds from the first chunk's start on the horizontal axis, slots on the vertical one."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "a picture", "drawn where matplotlib is installed", "no matplotlib", "pip install 'lastcall[plots]'"
        ) from error
    bars = sorted((event for event in events if event.kind == "done"), key=lambda event: event.began_ms)
    if not bars:
        raise ConfigError("a picture", "of a job whose chunks were recorded", "no chunk that is done",
                          'run it with record="all" or "times"')  # fmt: skip
    names = [*stages, *sorted({bar.queue for bar in bars} - set(stages))]
    names = [name for name in names if any(bar.queue == name for bar in bars)]
    slots = sorted({(bar.worker, bar.slot) for bar in bars})
    began = bars[0].began_ms
    width_s = max((max(bar.ended_ms for bar in bars) - began) / 1000, 1e-6)
    with _style():
        figure = Figure(figsize=(10, 1.3 + _ROW_IN * len(slots)), layout="constrained")
        axes = figure.add_subplot()
        colours = mpl.colormaps["tab10" if len(names) <= 10 else "tab20"]
        for number, name in enumerate(names):
            colour = colours(number % colours.N)
            for bar in bars:
                if bar.queue != name:
                    continue
                (patch,) = axes.barh(
                    slots.index((bar.worker, bar.slot)), max(bar.runtime_s, width_s * _LEAST), height=0.8,
                    left=(bar.began_ms - began) / 1000, color=colour, edgecolor="white", linewidth=0.3,
                )  # fmt: skip
                patch.set_gid(_gid(bar))
            axes.barh(0, 0, color=colour, label=name)
        axes.set_yticks(range(len(slots)), [f"{worker} {slot}" for worker, slot in slots])
        axes.invert_yaxis()
        axes.set_xlim(0, width_s * 1.01)
        axes.set_xlabel("seconds")
        axes.set_title(title, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper right", ncols=min(len(names), 6), frameon=False)
    return figure


def _style() -> AbstractContextManager[None]:
    """Text stays text, and the same job gives the same file."""
    import matplotlib as mpl

    return mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lastcall", "font.size": 9})


def _gid(bar: Event) -> str:
    return f"{bar.queue} {bar.chunk}: {bar.items} items, attempt {bar.attempt}, {1000 * bar.runtime_s:.1f} ms"


def _page(svg: str, title: str) -> str:
    shown = svg[svg.index("<svg") :]
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title or "lastcall")}</title>
<style>
body {{ font-family: sans-serif; margin: 1em }}
svg {{ max-width: 100%; height: auto }}
#told {{ min-height: 1.4em }}
</style>
<body>{shown}<p id="told">Point at a bar.</p>
<script>
for (const bar of document.querySelectorAll("svg g[id*=' items, attempt ']")) {{
  bar.addEventListener("pointerenter", () => {{ document.getElementById("told").textContent = bar.id; }});
}}
</script></body></html>
"""
