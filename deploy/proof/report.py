"""The proof as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from billing.tables import table
from deploy.proof.audit import Compared

_MONTHS = (
    "TENANT", "MONTH", "FULLEST CAP", "HOLDS", "OPEN", "VOIDED", "HELD USD", "CHARGED USD", "COST USD", "VARIANCE",
    "OWED USD", "INVOICED", "DIFFERENCES",
)  # fmt: skip
_PROVIDERS = (
    "PROVIDER", "CALLS", "SERVED USD", "LEDGER USD", "LOST CALLS", "LOST USD", "CUT CALLS", "CUT USD", "DIFFERENCE",
)  # fmt: skip


def months_table(months: Sequence[Mapping[str, Any]]) -> str:
    """A row for each tenant and month in which something happened."""
    return table(_MONTHS, [_month(month) for month in months if _happened(month)])


def providers_table(compared: Compared) -> str:
    """A row for each provider: served = ledger + lost + cut."""
    rows = [
        (name, one.calls, one.served, one.ledger, one.lost_calls, one.lost, one.cut_calls, one.cut, one.difference)
        for name, one in sorted(compared.providers.items())
    ]
    return table(
        _PROVIDERS, [tuple(f"{cell:f}" if isinstance(cell, Decimal) else cell for cell in row) for row in rows]
    )


def differences(months: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each one, in words; that there are no books at all is one, too: they cannot agree."""
    if not months:
        return ["there are no books of what was asked for: nothing is proved"]
    return [
        f"{month['tenant_id']} {month['month']}: {one['what']}: {one['subject']}:"
        f" expected {one['expected']}, found {one['found']}"
        for month in months
        for one in month["differences"]
    ]


def unresolved(months: Sequence[Mapping[str, Any]]) -> int:
    """Holds that are open or in doubt."""
    return sum(month["holds"]["open"] + month["holds"]["in_doubt"] for month in months)


def _happened(month: Mapping[str, Any]) -> bool:
    return bool(month["caps"] or month["differences"] or month["invoices"]["issued"] or month["usage"]["calls"])


def _month(month: Mapping[str, Any]) -> tuple[object, ...]:
    holds, posted = month["holds"], month["posted"]
    return (
        month["tenant_id"],
        month["month"],
        _fullest(month["caps"]),
        sum(holds[state] for state in ("open", "in_doubt", "settled", "voided")),
        holds["open"] + holds["in_doubt"],
        holds["voided"],
        holds["held_usd"],
        posted["charge_usd"],
        posted["cost_usd"],
        posted["variance_usd"],
        posted["owed_usd"],
        month["invoices"]["total_usd"] or "draft",
        month["differences_in_all"] or "none",
    )


def _fullest(caps: Sequence[Mapping[str, Any]]) -> str:
    shares = [
        (Decimal(cap["peak_usd"]) / Decimal(cap["cap_usd"]), cap["scope"])
        for cap in caps
        if Decimal(cap["cap_usd"] or 0)
    ]
    share, scope = max(shares, default=(Decimal(0), "-"))
    return f"{scope} {share * 100:.0f} %"
