"""An alert about a metric that nobody exports never fires."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import REGISTRY

from billing import metrics  # noqa: F401 - registers them

_ALERTS = Path(__file__).parents[3] / "deploy" / "prometheus" / "alerts.yaml"


def test_every_metric_that_an_alert_of_billing_watches_is_there() -> None:
    watched = set(re.findall(r"\blaneway_billing_\w+", _ALERTS.read_text(encoding="utf-8")))
    exported = {sample.name for metric in REGISTRY.collect() for sample in metric.samples}
    assert watched == {
        "laneway_billing_over_hold_total",
        "laneway_billing_unpriced_usage",
        "laneway_billing_budget_warnings_total",
        "laneway_billing_tenants_burning",
        "laneway_billing_oldest_doubt_seconds",
        "laneway_billing_doubts_resolved_total",
    }
    assert watched <= exported
