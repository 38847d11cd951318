"""`make bench-fairness`: who is served. `ARGS=tiers` measures one, `ARGS=--save` keeps table, JSON and plot."""

from __future__ import annotations

import sys

from benchmarks.fairness import admission, cancelling, crowd, demand, lending, provider, tiers
from benchmarks.picture import draw
from benchmarks.suite import Suite, run_suite

SUITE = Suite(
    "make bench-fairness",
    __doc__,
    {
        "tiers": tiers.measure,
        "lending": lending.measure,
        "free-flood": crowd.free_flood,
        "tenant-flood": crowd.tenant_flood,
        "demand": demand.measure,
        "provider": provider.measure,
        "admission": admission.measure,
        "cancelling": cancelling.measure,
    },
    page="fairness",
    draw=draw,
)

if __name__ == "__main__":
    sys.exit(run_suite(SUITE))
