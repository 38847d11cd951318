"""`make bench-money`: what the books cost. `ARGS=holds` measures one, `ARGS=--save` keeps table and JSON."""

from __future__ import annotations

import sys

from benchmarks.money import calls, month, records
from benchmarks.suite import Suite, run_suite

SUITE = Suite(
    "make bench-money",
    __doc__,
    {"holds": calls.many_tenants, "hot-tenant": calls.hot_tenant, "records": records.measure, "month": month.measure},
    page="money",
)

if __name__ == "__main__":
    sys.exit(run_suite(SUITE))
