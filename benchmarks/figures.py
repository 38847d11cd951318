"""What a measurement says: a figure from several runs, and what it was asked to be."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal


@dataclass(frozen=True)
class Panel:
    """What a figure looks like: its curves by name, each of points (x, y), and what is written at the axes."""

    title: str
    x: str
    y: str
    curves: Mapping[str, Sequence[tuple[float, float]]]
    levels: Mapping[str, float] | None = None
    """By the name of a curve: where it was to be."""
    logarithmic: bool = False
    """Whether x is."""


@dataclass(frozen=True)
class Figure:
    """One line of the table. `must` and `aim` are the floor and the goal; without them it stands for reference."""

    name: str
    unit: str
    runs: tuple[float, ...]
    better: Literal["more", "less"] = "more"
    must: float | None = None
    aim: float | None = None
    panel: Panel | None = None
    """What is drawn beside it, where that says more than a number."""

    @property
    def value(self) -> float:
        """The median of the runs."""
        return median(self.runs)

    @property
    def verdict(self) -> str:
        """`aim` where the goal is reached, `must` where the floor is, `MISSED` where neither."""
        if self.must is None:
            return ""
        if self.aim is not None and self._holds(self.aim):
            return "aim"
        return "must" if self._holds(self.must) else "MISSED"

    def _holds(self, bound: float) -> bool:
        return self.value >= bound if self.better == "more" else self.value <= bound

    def as_dict(self) -> dict[str, Any]:
        """For the JSON."""
        return {
            "name": self.name,
            "unit": self.unit,
            "median": self.value,
            "runs": list(self.runs),
            "must": self.must,
            "aim": self.aim,
            "verdict": self.verdict,
            **({"panel": asdict(self.panel)} if self.panel else {}),
        }


def ratio(name: str, ours: Sequence[float], theirs: Sequence[float], *, must: float, aim: float) -> Figure:
    """How many times as fast we are: run by run, so that a busy moment of the machine weighs on both."""
    return Figure(name, "×", tuple(a / b for a, b in zip(ours, theirs, strict=True)), must=must, aim=aim)


def within(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    times: float,
    slack: float,
    aim: float,
    panel: Panel | None = None,
) -> Figure:
    """How many times as long ours takes, run by run; the floor is so many times and a slack in the unit of both.

    The table shows the floor as what it comes to beside the median of theirs.
    """
    runs = tuple(a / b for a, b in zip(ours, theirs, strict=True))
    return Figure(name, "×", runs, better="less", must=times + slack / median(theirs), aim=aim, panel=panel)


def table(figures: Sequence[Figure]) -> str:
    """As Markdown, which reads well in a terminal too."""
    rows: list[tuple[str, ...]] = [("measure", "median", "runs", "must", "aim", "reached")]
    rows += [
        (
            figure.name,
            f"{_short(figure.value)} {figure.unit}",
            ", ".join(_short(run) for run in figure.runs),
            _bound(figure, figure.must),
            _bound(figure, figure.aim),
            figure.verdict,
        )
        for figure in figures
    ]
    return aligned(rows)


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table, the first row its header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [rows[0], tuple("-" * width for width in widths), *rows[1:]]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in lines
    )


def machine() -> str:
    """What it was measured on."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return (
        f"{os.cpu_count()} cores of {model}, {memory / 1024**2:.0f} GiB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def _bound(figure: Figure, bound: float | None) -> str:
    if bound is None:
        return ""
    return f"{'≥' if figure.better == 'more' else '≤'} {_short(bound)}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
