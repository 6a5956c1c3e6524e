"""Gantt: a job as a picture of what really ran. Rows are slots, bars are chunks, colours are stages.

The diagrams of serial, horizontal, vertical and streaming runs, drawn from the job's history. What a slot did while it
waited in another chunk is drawn inside that one; chunks that are thinner than a pixel share a bar, paler where the slot
was idle in between.
"""

from __future__ import annotations

import html
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lastcall.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lastcall.history import Event

SUFFIXES: Final = (".svg", ".png", ".html")
_WIDTH_IN: Final = 10.0
_ROW_IN: Final = 0.34
_MOST_IN: Final = 60.0  # of all rows
_PIECES: Final = 600  # of the width; chunks that are shorter share a bar
_SHADES: Final = 4
_NOISE_S: Final = 0.002  # an entry's time is whole milliseconds, and its way to the server takes some, too


def save(events: Iterable[Event], path: str | os.PathLike[str], *, title: str = "", stages: Sequence[str] = ()) -> Path:
    """Draw a job's "done" events into a file, as its name ends: .svg, .png, or .html. In the first and the last the bar
    under the pointer is told of.

    stages: names of queues, upstream first; others come after these. Raises ConfigError where the name ends otherwise,
    where nothing was recorded, and where matplotlib is missing.
    """
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise ConfigError("the picture's file", f"a name that ends in one of {', '.join(SUFFIXES)}", repr(str(path)))
    figure, told = _draw(events, title, stages)
    if target.suffix.lower() == ".png":
        figure.savefig(target, dpi=144)
        return target
    text = io.StringIO()
    with _style():
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = re.sub(
        r'<g id="bar-(\d+)">',
        lambda bar: f'<g class="bar"><title>{html.escape(told[int(bar[1])])}</title>',
        text.getvalue(),
    )
    target.write_text(_page(svg, title) if target.suffix.lower() == ".html" else svg, encoding="utf-8")
    return target


def draw(events: Iterable[Event], *, title: str = "", stages: Sequence[str] = ()) -> Figure:
    """The figure: seconds from the first chunk's start on the horizontal axis, slots on the vertical one."""
    return _draw(events, title, stages)[0]


@dataclass(frozen=True, slots=True)
class _Bar:
    """A chunk, or several of one stage. Times in seconds since the first began. depth: in how many others it lies."""

    stage: str
    began_s: float
    ended_s: float
    told: str
    depth: int = 0
    share: float = 1.0  # for which the slot was busy


def _draw(events: Iterable[Event], title: str, stages: Sequence[str]) -> tuple[Figure, list[str]]:
    """Also what is told of each bar."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch, Rectangle
    except ImportError as error:
        raise ConfigError(
            "a picture", "drawn where matplotlib is installed", "no matplotlib", "pip install 'lastcall[plots]'"
        ) from error
    chunks = sorted((event for event in events if event.kind == "done"), key=lambda event: event.began_ms)
    if not chunks:
        raise ConfigError("a picture", "of a job whose chunks were recorded", "no chunk that is done",
                          'run it with record="all" or "times"')  # fmt: skip
    there = {chunk.queue for chunk in chunks}
    names = [name for name in (*stages, *sorted(there - set(stages))) if name in there]
    began_ms = chunks[0].began_ms
    width_s = max((max(chunk.ended_ms for chunk in chunks) - began_ms) / 1000, 1e-6)
    lanes: defaultdict[tuple[str, str], list[Event]] = defaultdict(list)
    for chunk in chunks:
        lanes[chunk.worker, chunk.slot].append(chunk)
    rows = sorted(lanes, key=lambda lane: (lane[0], [int(number) for number in re.findall(r"\d+", lane[1])], lane[1]))
    told: list[str] = []
    row_in = min(_ROW_IN, _MOST_IN / len(lanes))
    with _style():
        figure = Figure(figsize=(_WIDTH_IN, 1.3 + row_in * len(lanes)), layout="constrained")
        axes = figure.add_subplot()
        colours = mpl.colormaps["tab10" if len(names) <= 10 else "tab20"]
        colour_of = {name: colours(number % colours.N) for number, name in enumerate(names)}
        for row, lane in enumerate(rows):
            for bar in _bars(lanes[lane], began_ms, width_s / _PIECES):
                height = 0.8 * 0.6**bar.depth
                wide = bar.ended_s - bar.began_s > 4 * width_s / _PIECES
                axes.add_patch(Rectangle(
                    (bar.began_s, row - height / 2), bar.ended_s - bar.began_s, height, gid=f"bar-{len(told)}",
                    facecolor=colour_of[bar.stage], alpha=bar.share if bar.share < 1 else None,
                    edgecolor="white", linewidth=0.4 if wide or bar.depth else 0, zorder=2 + bar.depth,
                ))  # fmt: skip
                told.append(bar.told)
        labels = [f"{worker} {slot}" for worker, slot in rows]
        axes.set_yticks(range(len(lanes)), labels, parse_math=False)
        axes.set_ylim(len(lanes) - 0.5, -0.5)
        axes.set_xlim(0, width_s * 1.01)
        axes.set_xlabel("seconds")
        axes.set_title(title, loc="left", parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
        # A label that began with an underscore would be left out.
        keys = [Patch(color=colour_of[name], label=f" {name}" if name.startswith("_") else name) for name in names]
        legend = figure.legend(handles=keys, loc="outside upper right", ncols=min(len(names), 6), frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure, told


def _bars(chunks: Sequence[Event], began_ms: float, piece_s: float) -> Iterator[_Bar]:
    """One slot's chunks, in their order, as bars; those that are shorter than a piece of the width come last."""
    short: defaultdict[int, defaultdict[str, list[Event]]] = defaultdict(lambda: defaultdict(list))
    around: list[float] = []  # ends of those that are under way
    for chunk in sorted(chunks, key=lambda chunk: (chunk.began_ms, -chunk.ended_ms)):
        began_s, ended_s = (chunk.began_ms - began_ms) / 1000, (chunk.ended_ms - began_ms) / 1000
        while around and around[-1] < ended_s - _NOISE_S:
            around.pop()
        depth = sum(began_s < end - _NOISE_S for end in around)
        if chunk.runtime_s < piece_s and not depth:
            short[int(began_s / piece_s)][chunk.queue].append(chunk)
            continue
        around.append(ended_s)
        yield _Bar(chunk.queue, began_s, max(ended_s, began_s + piece_s), _told(chunk), depth)
    yield from _joined(_pieces(short, piece_s))


def _pieces(short: dict[int, defaultdict[str, list[Event]]], piece_s: float) -> Iterator[tuple[_Bar, int, int]]:
    """For each piece of the width with short chunks a bar of the stage that took most, its chunks and its items."""
    for at in sorted(short):
        busy_s = {stage: sum(chunk.runtime_s for chunk in chunks) for stage, chunks in short[at].items()}
        stage = max(busy_s, key=busy_s.__getitem__)
        share = min(1.0, max(1.0, round(_SHADES * sum(busy_s.values()) / piece_s)) / _SHADES)
        chunks = short[at][stage]
        bar = _Bar(stage, at * piece_s, (at + 1) * piece_s, _told(chunks[0]), share=share)
        yield bar, len(chunks), sum(chunk.items for chunk in chunks)


def _joined(pieces: Iterable[tuple[_Bar, int, int]]) -> Iterator[_Bar]:
    """Neighbours that look the same become one."""
    so_far: _Bar | None = None
    chunks = items = 0
    for bar, more, more_items in pieces:
        alike = so_far is not None and (so_far.stage, so_far.share) == (bar.stage, bar.share)
        if so_far is not None and alike and bar.began_s - so_far.ended_s < (bar.ended_s - bar.began_s) / 2:
            so_far, chunks, items = replace(so_far, ended_s=bar.ended_s), chunks + more, items + more_items
            continue
        if so_far is not None:
            yield _summed(so_far, chunks, items)
        so_far, chunks, items = bar, more, more_items
    if so_far is not None:
        yield _summed(so_far, chunks, items)


def _summed(bar: _Bar, chunks: int, items: int) -> _Bar:
    if chunks == 1:
        return bar
    return replace(bar, told=f"{bar.stage}: {chunks} chunks, {items} items, in {_ms(bar.ended_s - bar.began_s)}")


def _told(chunk: Event) -> str:
    items = f"{chunk.items} items" if chunk.items > 1 else "1 item"
    attempt = f", attempt {chunk.attempt}" if chunk.attempt > 1 else ""
    return f"{chunk.queue} {chunk.chunk}: {items}{attempt}, {_ms(chunk.runtime_s)}"


def _ms(duration_s: float) -> str:
    return f"{1000 * duration_s:.1f} ms"


def _style() -> AbstractContextManager[None]:
    """Text stays text, and the same job gives the same file."""
    import matplotlib as mpl

    return mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lastcall", "font.size": 9})


def _page(svg: str, title: str) -> str:
    shown = svg[svg.index("<svg") :]
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title or "lastcall")}</title>
<style>
body {{ font-family: sans-serif; margin: 1em }}
svg {{ max-width: 100%; height: auto }}
.bar:hover path {{ stroke: black !important; stroke-width: 1 !important }}
#told {{ min-height: 1.4em }}
</style>
<body>{shown}<p id="told">Point at a bar.</p>
<script>
for (const bar of document.querySelectorAll(".bar")) {{
  const told = bar.querySelector("title").textContent;
  bar.addEventListener("pointerenter", () => {{ document.getElementById("told").textContent = told; }});
}}
</script></body></html>
"""
