"""`make chaos`: exit code 0 where every run is whole and the books agree, 1 where anything is not."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
from pathlib import Path

from tests.chaos.long import HOUR, long_run
from tests.chaos.matrix import Fate, Found, Grounds, Point, When, grounds
from tests.servers import ServersOfThisRun, ServersUnavailable

# So many runs in a row that their workers survived: there is no later point.
_ALL_ALIVE = 20
_BOTH: tuple[When, ...] = ("before", "after")


def main() -> int:
    """Kill, look, print."""
    parser = argparse.ArgumentParser(prog="make chaos ARGS=…", description=__doc__)
    parser.add_argument("--first", type=int, default=1, help="the first suspension to die at")
    parser.add_argument("--last", type=int, default=None, help="the last one; else as many as there are")
    parser.add_argument("--long", type=float, default=HOUR, help="seconds of the long run at the end; 0: none")
    parser.add_argument("--stand", action="store_true", help="not killed, but stopped until the run is over")
    given = parser.parse_args()
    fate: Fate = "stands" if given.stand else "dies"
    own = ServersOfThisRun(name="chaos-", durable=True, environment={})
    try:
        with tempfile.TemporaryDirectory(prefix="laneway-chaos-") as folder, grounds(own.get(), Path(folder)) as made:
            wrong = asyncio.run(_all(made, fate, given.first, given.last, given.long))
    except ServersUnavailable as problem:
        print(f"no servers: {problem}", file=sys.stderr)
        return 1
    finally:
        own.stop()
    print("\n".join(wrong) or "Every run was finished, no call was made twice, and the books agree.")
    return 1 if wrong else 0


async def _all(made: Grounds, fate: Fate, first: int, last: int | None, long: float) -> list[str]:
    found: list[Found] = []
    async with made.stack.client() as client:
        for at in itertools.count(first):
            row = [await made.strike(client, Point(at, when, fate)) for when in _BOTH]
            found += row
            for one in row:
                ended = "killed" if fate == "dies" else "stopped"
                told = f"{ended}, {one.unknown} unknown" if one.died else f"not {ended}: {one.suspensions} suspensions"
                print(f"{one.point}: {told}", *one.wrong, sep="\n  ", flush=True)
            # How often a run waits differs a little.
            if at == last or not any(one.died for one in found[-_ALL_ALIVE:]):
                break
    killed, unknown = sum(one.died for one in found), sum(one.unknown for one in found)
    were = "killed" if fate == "dies" else "stopped"
    print(f"{killed} workers were {were}, each at another point; the outcome of {unknown} calls was lost", flush=True)
    wrong = [what for one in found for what in one.wrong] + (await long_run(made, long) if long else [])
    return wrong + await made.books(found)


if __name__ == "__main__":
    sys.exit(main())
