"""Reads a trace: a CSV file, compressed or not, with the columns TIMESTAMP, ContextTokens and GeneratedTokens."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOST_TOKENS = {"ContextTokens": 20_000, "GeneratedTokens": 4_096}
"""What fits into a request's body, and what an agent lets a model say."""


class UnusableTrace(Exception):
    """The file is no trace; the message says why, and what one looks like."""


@dataclass(frozen=True)
class Request:
    """One request: seconds since the first of its trace, and the tokens that went in and came out."""

    at: float
    context: int
    generated: int


@dataclass(frozen=True)
class BadRow:
    """A line of the file that is left out, and why."""

    line: int
    reason: str


@dataclass(frozen=True)
class Trace:
    """The requests in the order of their times, and what was left out."""

    requests: tuple[Request, ...]
    bad: tuple[BadRow, ...]

    @property
    def seconds(self) -> float:
        """From the first request to the last."""
        return self.requests[-1].at


def read_trace(file: Path) -> Trace:
    """Raises `UnusableTrace` where the file cannot be read, has other columns, or fewer than two good rows."""
    if not file.is_file():
        raise UnusableTrace(f"{file} cannot be read: there is no such file. Name one as TRACE=file.csv.")
    try:
        with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
            return parse(lines)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UnusableTrace(f"{file} cannot be read: {error}.") from error
    except UnusableTrace as problem:
        raise UnusableTrace(f"{file}: {problem}") from None


def parse(lines: Iterable[str]) -> Trace:
    """The trace that these lines are. Raises `UnusableTrace`."""
    rows = csv.DictReader(lines)
    missing = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
    if missing:
        raise UnusableTrace(f"it has no column {missing[0]}: the first line must name {', '.join(COLUMNS)}.")
    found: list[tuple[datetime, int, int]] = []
    bad: list[BadRow] = []
    for row in rows:
        try:
            context, generated = (_number(row, name, most) for name, most in MOST_TOKENS.items())
            found.append((_time(row["TIMESTAMP"]), context, generated))
        except ValueError as error:
            bad.append(BadRow(rows.line_num, str(error)))
    if len(found) < 2:
        raise UnusableTrace(f"it has {len(found)} usable rows and {len(bad)} others; a replay needs two at least.")
    found.sort(key=lambda each: each[0])
    first = found[0][0]
    requests = (Request((at - first).total_seconds(), context, generated) for at, context, generated in found)
    return Trace(tuple(requests), tuple(bad))


def _time(text: str | None) -> datetime:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        raise ValueError(f"TIMESTAMP is not a time: {text!r}") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _number(row: dict[str, str | None], column: str, most: int) -> int:
    text = row[column]
    if text is None or not text.strip().isdecimal():
        raise ValueError(f"{column} is not a number of tokens: {text!r}")
    number = int(text)
    if not 1 <= number <= most:
        raise ValueError(f"{column} is {number}, not between 1 and {most}")
    return number
