"""What finance and operators watch. Each counter that should stay at zero says so."""

from __future__ import annotations

from typing import get_args

from prometheus_client import Counter, Gauge, Histogram

from common.contracts.budgets import BudgetScope, BudgetThreshold

SETTLED = Counter("laneway_billing_settled", "Usage records settled against their hold")
DUPLICATES = Counter("laneway_billing_duplicates", "Usage records that were known already, and changed nothing")
CONFLICTS = Counter(
    "laneway_billing_conflicts", "Usage records repeated with other numbers, and ignored; alert above 0"
)
UNPRICED = Counter("laneway_billing_unpriced", "Usage records that came without a price, never charged; alert above 0")
PRICED_LATER = Counter("laneway_billing_priced_later", "Usage records that were unpriced until their price came")
UNHELD = Counter("laneway_billing_unheld", "Usage records without an open hold, paid by the platform; alert above 0")
OVER_HOLD = Counter(
    "laneway_billing_over_hold",
    "Usage records that came to more than was held, and were charged what was; alert above 0",
)
VARIANCE = Counter("laneway_billing_variance_usd", "Provider cost that no tenant was charged")
VOIDED_USD = Counter("laneway_billing_voided_usd", "What holds held, in US dollars, that were given up: nothing came")

DOUBTED = Counter("laneway_billing_doubts", "Holds that went in doubt: their runs moved on without a usage record")
DOUBTS_RESOLVED = Counter(
    "laneway_billing_doubts_resolved",
    "Holds in doubt that were resolved: own_record it came after all, received billed by what the stream had,"
    " platform_pays voided; alert where that goes on",
    ["policy"],
)
for _policy in ("own_record", "received", "platform_pays"):
    DOUBTS_RESOLVED.labels(_policy)
OLDEST_DOUBT = Gauge(
    "laneway_billing_oldest_doubt_seconds", "Since when the oldest hold in doubt is; alert above half an hour"
)

UNRESOLVED = Gauge("laneway_billing_holds", "Holds that are not resolved", ["state"])
UNPRICED_NOW = Gauge(
    "laneway_billing_unpriced_usage", "Usage records that have no price yet, 10,000 at most; alert above 0"
)

BUDGET_WARNINGS = Counter(
    "laneway_billing_budget_warnings", "Budgets spent to 50, 80 or 100 percent of their cap", ["scope", "threshold"]
)
# From 0 on: an alert by `increase` would not see the first warning of a series that begins with it.
for _scope in get_args(BudgetScope):
    for _threshold in get_args(BudgetThreshold):
        BUDGET_WARNINGS.labels(_scope, _threshold)
BURNING = Gauge(
    "laneway_billing_tenants_burning", "Tenants whose rate would use up their month before it ends; alert above 0"
)

BATCH_RECORDS = Histogram(
    "laneway_billing_batch_records", "Records in a batch", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
)
BATCH_SECONDS = Histogram("laneway_billing_batch_seconds", "Time from a batch to its commit")
