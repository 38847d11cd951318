"""When all is over: whether every book agrees, with the caps and with what the provider served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from common.messaging.topology import BILLING_QUEUE
from deploy.proof import books, report
from deploy.proof.audit import Compared, compare
from tests.acceptance.stack import Stack
from tests.proving.crowd import until

_UNRESOLVED = "SELECT count(*) AS n FROM billing.holds WHERE state IN ('open', 'in_doubt')"
_ENDS = "SELECT status, count(*) AS n FROM runtime.runs GROUP BY status ORDER BY status"
_MODELS = "SELECT model, count(*) AS n FROM billing.usage GROUP BY model ORDER BY model"
_STATES = "SELECT state, count(*) AS n FROM billing.holds GROUP BY state ORDER BY state"


@dataclass(frozen=True)
class Verdict:
    """What was found. Nothing in `differences` is the proof."""

    months: Sequence[dict[str, Any]]
    audit: Compared
    differences: list[str]
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def __str__(self) -> str:
        counted = "\n".join(
            f"{what}: " + ", ".join(f"{count} {name}" for name, count in counts.items())
            for what, counts in self.counts.items()
        )
        found = "\n".join(self.differences) or "Everything agrees: there is no difference."
        tables = f"{report.months_table(self.months)}\n{report.providers_table(self.audit)}"
        return f"{tables}\n{counted}\n\n{found}"


async def settle_down(stack: Stack, deadline: float) -> None:
    """Wait until every hold is resolved, every record settled, and the provider has nothing under way."""

    async def down() -> bool:
        [unresolved] = await stack.rows(_UNRESOLVED)
        return (
            unresolved["n"] == 0
            and (await stack.audit())["in_flight"] == 0
            and await stack.lane_is_empty(BILLING_QUEUE)
        )

    await until(down, deadline)


async def judge(stack: Stack) -> Verdict:
    """Prove every book, and hold them against the audit."""
    async with stack.operator() as client:
        months = [month async for month in books.months(client)]
    served = await books.audit(stack.simulator)
    compared = compare(served["calls"], await books.booked(stack.stage.admin_dsn))
    differences = report.differences(months) + compared.differences
    if count := report.unresolved(months):
        differences.append(f"{count} holds are not resolved")
    if not sum(Decimal(month["posted"]["charge_usd"]) for month in months) or not served["calls"]:
        differences.append("nothing was served and charged: nothing is proved")
    counts = {
        what: {row[0]: row["n"] for row in await stack.rows(query)}
        for what, query in (("runs", _ENDS), ("calls", _MODELS), ("holds", _STATES))
    }
    return Verdict(months, compared, differences, counts)
