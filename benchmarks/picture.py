"""Draws panels side by side, as one SVG that is the same for the same figures."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet
from matplotlib.ticker import StrMethodFormatter

from benchmarks.figures import Panel

COLUMNS = 2
_WIDTH, _HEIGHT = 6.4, 3.3
"""Inches of a panel."""
_COLOURS = ("#1b6ca8", "#d1642a", "#3a9d5d", "#8a5aa8", "#6b6b6b")
_STYLE: Any = {
    "font.size": 10,
    "svg.hashsalt": "laneway",  # or every drawing would have other ids
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "figure.constrained_layout.w_pad": 0.15,
    "figure.constrained_layout.h_pad": 0.15,
}


def draw(panels: Sequence[Panel], file: Path) -> None:
    """Into a file whose name says the format."""
    with mpl.rc_context(_STYLE):
        rows = ceil(len(panels) / COLUMNS)
        sheet = Sheet(figsize=(_WIDTH * COLUMNS, _HEIGHT * rows), layout="constrained")
        for place, panel in enumerate(panels, 1):
            _draw(sheet.add_subplot(rows, COLUMNS, place), panel)
        metadata = {"Date": None} if file.suffix == ".svg" else None
        sheet.savefig(file, metadata=metadata)


def _draw(axes: Axes, panel: Panel) -> None:
    for colour, (name, points) in zip(_COLOURS, panel.curves.items(), strict=False):
        axes.plot([x for x, _ in points], [y for _, y in points], color=colour, label=name)
        if panel.levels:
            axes.axhline(panel.levels[name], color=colour, linestyle="--", linewidth=1)
    axes.set_title(panel.title, fontsize=11, loc="left")
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)
    if panel.logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.4g}"))
    axes.set_ylim(bottom=0)
    if len(panel.curves) > 1:
        # Beside the curves, wherever they are.
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
