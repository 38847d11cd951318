"""`make prove-cap`: exit code 0 where everything agrees after the attack, 1 where anything does not."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.proving.attack import Size, attack, stacks
from tests.servers import ServersOfThisRun, ServersUnavailable


def main() -> int:
    """Attack, judge, print."""
    parser = argparse.ArgumentParser(prog="make prove-cap ARGS=…", description=__doc__)
    parser.add_argument("--tenants", type=int, default=24)
    parser.add_argument("--runs", type=int, default=25, help="of each tenant")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is broken")
    parser.add_argument("--seed", type=int, default=None, help="as an earlier run printed it")
    given = parser.parse_args()
    logging.getLogger().addHandler(logging.NullHandler())  # of connections that break, as they are to
    seed = time.time_ns() % 10**9 if given.seed is None else given.seed
    print(f"{given.tenants} tenants, {given.runs} runs each, seed {seed}", flush=True)
    own = ServersOfThisRun(name="proof-", durable=True, environment={})
    try:
        servers = own.get()
        with (
            tempfile.TemporaryDirectory(prefix="laneway-proof-") as logs,
            stacks(servers, Path(logs)) as (stack, second),
        ):
            size = Size(given.tenants, given.runs, given.rounds, pause=2.0, deadline=1800)
            verdict, adversary = asyncio.run(attack(stack, second, size, seed))
    except ServersUnavailable as problem:
        print(f"no servers: {problem}", file=sys.stderr)
        return 1
    finally:
        own.stop()
    done = ", ".join(f"{count} x {name}" for name, count in sorted(Counter(adversary.done).items()))
    print(f"done meanwhile: {done}; {adversary.sent_again} records sent again\n\n{verdict}")
    return 1 if verdict.differences else 0


if __name__ == "__main__":
    sys.exit(main())
