"""`make bench`: run the benchmarks and print their table; `ARGS=submit` runs one, `ARGS=--save` keeps all in docs/."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import concurrency, end_to_end, latency, limiter, persister, streams, submit
from benchmarks.figures import Figure, machine, table
from tests.servers import Servers, ServersOfThisRun, ServersUnavailable

Measure = Callable[[Servers, Path], list[Figure]]
MEASURES: dict[str, Measure] = {
    "submit": submit.measure,
    "end-to-end": end_to_end.measure,
    "latency": latency.measure,
    "concurrency": concurrency.measure,
    "streams": streams.measure,
    "persister": persister.measure,
    "limiter": limiter.measure,
}
DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"


def main() -> int:
    """Exit code 1 where a floor is missed or nothing could be measured."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all, or some of: {', '.join(MEASURES)}")
    parser.add_argument("--save", action="store_true", help="write the table and the JSON into docs/")
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in MEASURES]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]}; there are {', '.join(MEASURES)}")
    names = asked.names or list(MEASURES)
    if asked.save and len(names) < len(MEASURES):
        parser.error("--save keeps whole tables only: leave the names away")
    _allow_many_sockets()
    own = ServersOfThisRun(name="bench-", durable=True)
    try:
        servers = own.get()
        figures = _measured(names, servers)
    except ServersUnavailable as problem:
        print(f"no servers: {problem}", file=sys.stderr)
        return 1
    finally:
        own.stop()
    where = f"{machine()}; servers: {servers.source}"
    print(f"\n{where}\n\n{table(figures)}")
    if asked.save:
        save(figures, where)
    return 1 if any(figure.verdict == "MISSED" for figure in figures) else 0


def _measured(names: list[str], servers: Servers) -> list[Figure]:
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="laneway-bench-") as folder:
        for name in names:
            logs = Path(folder) / name
            logs.mkdir()
            began = time.monotonic()
            found = MEASURES[name](servers, logs)
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
            print("\n".join(f"  {figure.name}: {figure.value:.4g} {figure.unit}" for figure in found), file=sys.stderr)
            figures += found
    return figures


def save(figures: list[Figure], where: str) -> None:
    """Put the table between its marks in docs/benchmarks.md, and the runs into docs/benchmarks.json."""
    page = DOCS / "benchmarks.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    day = datetime.now(UTC).date().isoformat()
    page.write_text(f"{before}{BEGIN}\n{day}, {where}\n\n{table(figures)}\n\n{END}{after}", encoding="utf-8")
    found = {"date": day, "machine": where, "figures": [figure.as_dict() for figure in figures]}
    (DOCS / "benchmarks.json").write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _allow_many_sockets() -> None:
    """Thousands of streams are as many open files, here and in the services started from here."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    sys.exit(main())
