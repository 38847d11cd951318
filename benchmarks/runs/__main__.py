"""`make bench-run`: what a run costs beside its model. `ARGS=overhead` measures one, `ARGS=--save` keeps the table."""

from __future__ import annotations

import sys

from benchmarks.runs import crash, overhead, reconnect, relay
from benchmarks.suite import Suite, run_suite

SUITE = Suite(
    "make bench-run",
    __doc__,
    {
        "overhead": overhead.measure,
        "relay": relay.measure,
        "crash": crash.measure,
        "reconnect": reconnect.measure,
    },
    page="benchmarks-run",
)

if __name__ == "__main__":
    sys.exit(run_suite(SUITE))
