"""`make bench-replay TRACE=file.csv`: a real workload at 40, 80 and 120 % of what the stack can do.

`ARGS=--save` keeps the tables in docs/fairness.md.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.fairness.ground import SERVICES, WORKER, new_tenant
from benchmarks.figures import Figure, machine, table
from benchmarks.replay.population import TENANTS, TIER_PARTS, Schedule, draw, sped_up, tiers_of, zipf_weights
from benchmarks.replay.report import FULL, LOADS, REST, Replayed, figures, tiers_table
from benchmarks.replay.stage import FIRST_TOKEN_SECONDS, TOKENS_PER_SECOND, Sender, capacity, replay
from benchmarks.replay.summary import summary
from benchmarks.replay.trace import Trace, UnusableTrace, read_trace
from benchmarks.stand import RUNS, run, stack_of
from benchmarks.suite import DOCS, put_between_marks
from tests.acceptance.stack import TIERS, Stack
from tests.servers import Servers, ServersOfThisRun, ServersUnavailable

SLOTS = 20
SEED = 20231116
SECONDS = 60.0
"""Of each replay."""
CAPACITY_REQUESTS, CAPACITY_SECONDS = 400, 25.0


def main() -> int:
    """Exit code 1 where a floor is missed or nothing could be measured, 2 where the trace is none."""
    parser = argparse.ArgumentParser(prog="make bench-replay TRACE=file.csv ARGS=…", description=__doc__)
    parser.add_argument("trace", type=Path, metavar="FILE", help="the trace, a CSV file that may end in .gz")
    parser.add_argument("--save", action="store_true", help="keep what was measured in docs/fairness.md")
    asked = parser.parse_args()
    try:
        trace = read_trace(asked.trace)
    except UnusableTrace as problem:
        print(problem, file=sys.stderr)
        return 2
    own = ServersOfThisRun(name="bench-", durable=True)
    try:
        servers = own.get()
        with tempfile.TemporaryDirectory(prefix="laneway-bench-") as logs:
            text, found = _measured(trace, servers, Path(logs))
    except ServersUnavailable as problem:
        print(f"no servers: {problem}", file=sys.stderr)
        return 1
    finally:
        own.stop()
    print(text)
    if asked.save:
        put_between_marks(DOCS / "fairness.md", "replayed", text)
    return 1 if any(figure.verdict == "MISSED" for figure in found) else 0


def _measured(trace: Trace, servers: Servers, logs: Path) -> tuple[str, list[Figure]]:
    source = random.Random(SEED)
    tiers = tiers_of(TENANTS, TIER_PARTS, source)
    drawn = draw(len(trace.requests), zipf_weights(TENANTS), source)
    replays: dict[int, list[Replayed]] = {load: [] for load in LOADS}
    with stack_of(servers, logs, SERVICES, {WORKER: {"LANEWAY_SLOTS": str(SLOTS)}}, limits=True) as stack:
        most = run(capacity(stack, trace.requests[:CAPACITY_REQUESTS], CAPACITY_SECONDS))
        senders = [Sender(tier, new_tenant(stack, tier)) for tier in tiers]
        schedules = {load: sped_up(trace.requests, drawn, most * load / 100, SECONDS) for load in LOADS}
        for number in range(1, RUNS + 1):
            for load, schedule in schedules.items():
                replays[load].append(_replayed(stack, schedule, senders))
                print(f"replay {number} at {load} %: done", file=sys.stderr)
    found = figures(replays)
    text = "\n\n".join((_setting(trace, most, schedules), tiers_table(replays, TIERS), table(found)))
    return text, found


def _replayed(stack: Stack, schedule: Schedule, senders: Sequence[Sender]) -> Replayed:
    account = run(replay(stack, schedule, senders))
    tiers = summary(account.ended, account.refused, TIERS)
    return Replayed(tiers, account.lost, account.failed)


def _setting(trace: Trace, most: float, schedules: dict[int, Schedule]) -> str:
    day = datetime.now(UTC).date().isoformat()
    speeds = ", ".join(
        f"{load} % ({len(schedule.sendings)} requests, {schedule.factor:.2g} times as fast as they came)"
        for load, schedule in schedules.items()
    )
    left_out = (
        f", {len(trace.bad)} lines left out (line {trace.bad[0].line}: {trace.bad[0].reason})" if trace.bad else ""
    )
    return (
        f"{day}, {machine()}\n\n"
        f"Trace: {len(trace.requests):,} requests in {trace.seconds:,.0f} s{left_out}. "
        f"{SLOTS} slots, {FIRST_TOKEN_SECONDS:g} s to the first token, {TOKENS_PER_SECOND} tokens a second: "
        f"{most:.3g} requests a second at most, as measured. Replayed for {SECONDS:g} s, {RUNS} times each: {speeds}."
    )


assert set(LOADS) >= {REST, FULL}

if __name__ == "__main__":
    sys.exit(main())
