"""A table of measurements that one command makes: runs them, prints the table, keeps it in docs/ where asked to."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.figures import Figure, Panel, machine, table
from tests.servers import Servers, ServersOfThisRun, ServersUnavailable

Measure = Callable[[Servers, Path], list[Figure]]
"""Of servers, and a folder for logs."""
Draw = Callable[[Sequence[Panel], Path], None]
DOCS = Path(__file__).resolve().parents[1] / "docs"


@dataclass(frozen=True)
class Suite:
    """Measurements by name. `--save` keeps them in `docs/<page>.md`, between its marks, and in `.json` beside it."""

    command: str
    description: str | None
    measures: Mapping[str, Measure]
    page: str
    draw: Draw | None = None
    """Draws the figures' panels into `docs/images/<page>.svg`."""


def run_suite(suite: Suite) -> int:
    """Exit code 1 where a floor is missed or nothing could be measured."""
    parser = argparse.ArgumentParser(prog=f"{suite.command} ARGS=…", description=suite.description)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all, or some of: {', '.join(suite.measures)}")
    parser.add_argument("--save", action="store_true", help=f"keep what was measured in docs/{suite.page}.*")
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in suite.measures]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]}; there are {', '.join(suite.measures)}")
    names = asked.names or list(suite.measures)
    if asked.save and len(names) < len(suite.measures):
        parser.error("--save keeps whole tables only: leave the names away")
    allow_many_sockets()
    own = ServersOfThisRun(name="bench-", durable=True)
    try:
        servers = own.get()
        figures = _measured(suite, names, servers)
    except ServersUnavailable as problem:
        print(f"no servers: {problem}", file=sys.stderr)
        return 1
    finally:
        own.stop()
    where = f"{machine()}; servers: {servers.source}"
    print(f"\n{where}\n\n{table(figures)}")
    if asked.save:
        _save(suite, figures, where)
    return 1 if any(figure.verdict == "MISSED" for figure in figures) else 0


def _measured(suite: Suite, names: list[str], servers: Servers) -> list[Figure]:
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="laneway-bench-") as folder:
        for name in names:
            logs = Path(folder) / name
            logs.mkdir()
            began = time.monotonic()
            found = suite.measures[name](servers, logs)
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
            print("\n".join(f"  {figure.name}: {figure.value:.4g} {figure.unit}" for figure in found), file=sys.stderr)
            figures += found
    return figures


def _save(suite: Suite, figures: list[Figure], where: str) -> None:
    day = datetime.now(UTC).date().isoformat()
    put_between_marks(DOCS / f"{suite.page}.md", "measured", f"{day}, {where}\n\n{table(figures)}")
    found = {"date": day, "machine": where, "figures": [figure.as_dict() for figure in figures]}
    written = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    (DOCS / f"{suite.page}.json").write_text(written, encoding="utf-8")
    if suite.draw is not None:
        panels = [figure.panel for figure in figures if figure.panel]
        suite.draw(panels, DOCS / "images" / f"{suite.page}.svg")


def put_between_marks(page: Path, mark: str, text: str) -> None:
    """Replace what stands in a page between two comments, `<!-- mark: begin -->` and `<!-- mark: end -->`."""
    begin, end = f"<!-- {mark}: begin -->\n", f"<!-- {mark}: end -->\n"
    before, begins, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ends, after = rest.partition(end)
    if not (begins and ends):
        raise ValueError(f"{page} has no {begin.strip()}, or nothing that ends it")
    page.write_text(f"{before}{begin}\n{text}\n\n{end}{after}", encoding="utf-8")


def allow_many_sockets() -> None:
    """Thousands of streams are as many open files, here and in the services started from here."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
