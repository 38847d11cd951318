"""`make bench`: run the benchmarks and print their table; `ARGS=submit` runs one, `ARGS=--save` keeps all in docs/."""

from __future__ import annotations

import sys

from benchmarks import concurrency, end_to_end, latency, limiter, persister, streams, submit
from benchmarks.suite import Suite, run_suite

SUITE = Suite(
    "make bench",
    __doc__,
    {
        "submit": submit.measure,
        "end-to-end": end_to_end.measure,
        "latency": latency.measure,
        "concurrency": concurrency.measure,
        "streams": streams.measure,
        "persister": persister.measure,
        "limiter": limiter.measure,
    },
    page="benchmarks",
)

if __name__ == "__main__":
    sys.exit(run_suite(SUITE))
