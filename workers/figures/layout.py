"""Figures on paper: grids of pictures and curves with bands, by matplotlib, as PNG and PDF."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

Image = NDArray[Any] | None
CELL, LABEL, LINE, GAP = 0.95, 1.5, 0.17, 0.12
"""Inches: a picture's side, the width of the row labels, a line of text, the space between blocks."""
DPI = 110
COLOURS = {"model": "#0b6e99", "baseline": "#c2541d", "other": "#6b6b6b"}
METADATA = {"Creator": None, "Producer": None, "CreationDate": None}


@dataclass(frozen=True)
class Row:
    """Pictures side by side, float [3, H, W] in [0, 1] or None for a gap, with a word under each if there are any."""

    label: str
    images: Sequence[Image]
    captions: Sequence[str] = ()


@dataclass(frozen=True)
class Block:
    """Rows under one title; `heads` stand above the columns."""

    title: str
    rows: Sequence[Row]
    heads: Sequence[str] = ()


@dataclass(frozen=True)
class Curve:
    """Median and quartiles over items at each x, [R]."""

    name: str
    colour: str
    median: NDArray[Any]
    low: NDArray[Any]
    high: NDArray[Any]


def two_lines(network: str) -> str:
    """A network's name above what it was trained for."""
    return network.replace(" (", "\n(")


def _row_height(row: Row) -> float:
    return CELL + (LINE if any(row.captions) else 0) + 0.05


def _block_height(block: Block) -> float:
    heads = LINE if block.heads else 0
    return (LINE * 1.5 if block.title else 0) + heads + sum(map(_row_height, block.rows)) + GAP


def pictures(title: str, blocks: Sequence[Block], notes: Sequence[str]) -> Figure:
    """A grid of pictures, shown without smoothing, with notes underneath."""
    columns = max(len(row.images) for block in blocks for row in block.rows)
    width = max(LABEL + columns * (CELL + 0.05) + 0.1, 6.5)
    notes = [line for note in notes for line in _wrapped(note, int(width * 15))]
    height = 0.4 + sum(map(_block_height, blocks)) + LINE * len(notes) + 0.15
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.text(0.1 / width, 1 - 0.15 / height, title, va="top", fontsize=11, fontweight="bold")
    y = height - 0.4
    for block in blocks:
        y = _draw_block(figure, block, y, width, height)
    for i, note in enumerate(notes):
        figure.text(0.1 / width, (y - LINE * (i + 0.5)) / height, note, va="center", fontsize=7.5, color="#333333")
    return figure


def _draw_block(figure: Figure, block: Block, y: float, width: float, height: float) -> float:
    if block.title:
        figure.text(0.1 / width, (y - LINE * 0.7) / height, block.title, va="center", fontsize=9, fontweight="bold")
        y -= LINE * 1.5
    if block.heads:
        for i, head in enumerate(block.heads):
            x = LABEL + i * (CELL + 0.05) + CELL / 2
            figure.text(x / width, (y - LINE * 0.4) / height, head, ha="center", va="center", fontsize=7)
        y -= LINE
    for row in block.rows:
        figure.text(0.1 / width, (y - CELL / 2) / height, row.label, va="center", fontsize=8)
        for i, image in enumerate(row.images):
            left = LABEL + i * (CELL + 0.05)
            if image is None:
                continue
            axes = figure.add_axes((left / width, (y - CELL) / height, CELL / width, CELL / height))
            axes.imshow(np.clip(image.transpose(1, 2, 0), 0, 1), interpolation="nearest", aspect="auto")
            axes.set_axis_off()
        for i, caption in enumerate(row.captions):
            x = LABEL + i * (CELL + 0.05) + CELL / 2
            figure.text(x / width, (y - CELL - LINE * 0.5) / height, caption, ha="center", va="center", fontsize=6.5)
        y -= _row_height(row)
    return y - GAP


def curves(
    title: str, x: NDArray[Any], lines: Sequence[Curve], notes: Sequence[str], axes: Mapping[str, str]
) -> Figure:
    """Medians over x on a logarithmic axis, with bands between the quartiles; `axes` has the words for x and y."""
    wrapped = [line for note in notes for line in _wrapped(note, 118)]
    height = 4.2 + LINE * len(wrapped)
    figure = Figure(figsize=(7, height), dpi=DPI)
    FigureCanvasAgg(figure)
    bottom = (LINE * len(wrapped) + 0.75) / height
    plot = figure.add_axes((0.1, bottom, 0.87, 1 - bottom - 0.4 / height))
    for line in lines:
        plot.plot(x, line.median, "o-", color=line.colour, label=line.name, markersize=4)
        plot.fill_between(x, line.low, line.high, color=line.colour, alpha=0.18, linewidth=0)
    plot.set_xscale("log", base=2)
    plot.set_xticks(x, [f"{value:g}" for value in x])
    plot.set_ylim(bottom=0)
    plot.set_xlabel(axes["x"])
    plot.set_ylabel(axes["y"])
    plot.grid(alpha=0.25)
    plot.legend(frameon=False)
    plot.set_title(title, fontsize=11, fontweight="bold", loc="left")
    for i, note in enumerate(wrapped):
        figure.text(0.02, (LINE * (len(wrapped) - i) - 0.04) / height, note, va="center", fontsize=7.5, color="#333333")
    return figure


def tabled(title: str, rows: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> Figure:
    """Accuracies by network, a line each: shares in percent, with the interval that stands beside them in `rows`."""
    names = [name for name in rows[0] if name not in ("model", "images") and f"{name} low" in rows[0]]
    cells = [[row["model"], *(_percent(row, name) for name in names)] for row in rows]
    width = max(3.2 + 1.9 * len(names), 6.5)
    wrapped = [line for note in notes for line in _wrapped(note, int(width * 15))]
    height = 0.45 + 0.3 * (len(rows) + 1) + 0.2 + LINE * len(wrapped)
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.text(0.1 / width, 1 - 0.15 / height, title, va="top", fontsize=11, fontweight="bold")
    axes = figure.add_axes(
        (0.1 / width, (0.2 + LINE * len(wrapped)) / height, 1 - 0.2 / width, 0.3 * (len(rows) + 1) / height)
    )
    axes.set_axis_off()
    drawn = axes.table(cells, colLabels=["network", *names], cellLoc="left", bbox=Bbox.unit(), edges="horizontal")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(8)
    for i, note in enumerate(wrapped):
        y = LINE * (len(wrapped) - i - 0.3)
        figure.text(0.1 / width, y / height, note, va="center", fontsize=7.5, color="#333333")
    return figure


def _percent(row: Mapping[str, Any], name: str) -> str:
    value, low, high = (100 * row[key] for key in (name, f"{name} low", f"{name} high"))
    return f"{value:.2f}% [{low:.1f}, {high:.1f}]"


def _wrapped(note: str, width: int) -> list[str]:
    return textwrap.wrap(note, width) or [""]


def rendered(figure: Figure, kind: str) -> bytes:
    """The figure as `png` or `pdf`, without a date: the same results give the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format=kind, metadata=METADATA if kind == "pdf" else {"Software": None})
    return file.getvalue()
