"""What the provider says that it served, against what the books have of it, call by call and to the last digit. Pure.

A provider's bill is what the ledger says is payable to it, and what the ledger cannot know: of calls whose usage was
lost with the worker, and of calls that were cut, what the provider had sent beyond what arrived. Both are the
platform's, both are named here call by call; anything else is a difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from billing.pricebook import Rates
from billing.pricing import NOTHING, price
from common.contracts.usage import Usage

_EXACT = ("input_tokens", "cache_read_tokens", "output_tokens", "reasoning_tokens")
_COUNTED = (*_EXACT, "cache_write_tokens")


@dataclass(frozen=True, slots=True)
class Booked:
    """A call in the books: its hold, and its usage and postings where there are any."""

    attempt_id: UUID
    provider: str
    state: str | None
    rates: Rates | None
    usage: Usage | None
    estimated: bool
    request_id: str | None
    cost: Decimal
    recorded_at: float


@dataclass(slots=True)
class Sums:
    """US dollars of one provider."""

    calls: int = 0
    served: Decimal = NOTHING
    ledger: Decimal = NOTHING
    lost: Decimal = NOTHING
    lost_calls: int = 0
    cut: Decimal = NOTHING
    cut_calls: int = 0

    @property
    def difference(self) -> Decimal:
        """What nothing explains."""
        return self.served - self.ledger - self.lost - self.cut


@dataclass(slots=True)
class Compared:
    """The sums by provider, and each thing that does not agree, in words."""

    providers: dict[str, Sums] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    def of(self, provider: str) -> Sums:
        """The provider's sums."""
        return self.providers.setdefault(provider, Sums())


def compare(served: Iterable[Mapping[str, Any]], booked: Mapping[UUID, Booked]) -> Compared:
    """All calls that were served, with nothing under way any more, against all that are booked."""
    compared, seen, calls = Compared(), set[UUID](), list(served)
    since = min((call["started_at"] for call in calls), default=float("inf"))
    # One that was refused counts nothing: it may have been made again at once, with another key.
    for call in [call for call in calls if any(call[name] for name in _COUNTED)]:
        known = _known(call, booked)
        if known is None:
            compared.differences += _unknown(call)
        elif known.attempt_id in seen:
            compared.differences.append(f"attempt {known.attempt_id} was served twice")
        else:
            seen.add(known.attempt_id)
            _put(compared, call, known)
    for one in booked.values():
        if one.attempt_id not in seen:
            _put_uncounted(compared, one, since)
    for provider, sums in compared.providers.items():
        if sums.difference:
            compared.differences.append(f"{provider} served {sums.difference:f} USD more than the books explain")
    return compared


def _known(call: Mapping[str, Any], booked: Mapping[UUID, Booked]) -> Booked | None:
    try:
        return booked.get(UUID(call["client_request_id"] or ""))
    except ValueError:
        return None


def _unknown(call: Mapping[str, Any]) -> Iterator[str]:
    """A call without a hold. One that names no attempt is not ours."""
    if call["client_request_id"]:
        yield f"attempt {call['client_request_id']} was served and never held"


def _put(compared: Compared, call: Mapping[str, Any], known: Booked) -> None:
    sums = compared.of(known.provider)
    cost = _cost(call, known)
    sums.calls += 1
    sums.served += cost
    sums.ledger += known.cost
    if known.usage is None:
        sums.lost += cost
        sums.lost_calls += bool(cost)
        if known.state not in {"voided", "open", "in_doubt"}:
            compared.differences.append(f"attempt {known.attempt_id} was served, has no usage, and is {known.state}")
    elif known.estimated:
        sums.cut += cost - known.cost
        sums.cut_calls += cost != known.cost
    else:
        compared.differences += _unequal(call, known.attempt_id, known.usage)


def _cost(call: Mapping[str, Any], known: Booked) -> Decimal:
    """What the provider charges for it by the price that the books have for it."""
    if known.rates is None:
        return NOTHING
    written = call["cache_write_tokens"]
    # The provider's audit has one number for both lifetimes; the usage record says how they divide.
    hour = min(written, known.usage.cache_write_1h_tokens) if known.usage else 0
    counts = {name: call[name] for name in _EXACT}
    usage = Usage(**counts, cache_write_5m_tokens=written - hour, cache_write_1h_tokens=hour)
    return price(usage, known.rates)


def _unequal(call: Mapping[str, Any], attempt: UUID, usage: Usage) -> Iterator[str]:
    counted = {name: getattr(usage, name) for name in _EXACT}
    counted["cache_write_tokens"] = usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    for name, count in counted.items():
        if count != call[name]:
            yield f"attempt {attempt} has {name} {count}, and was served {call[name]}"


def _put_uncounted(compared: Compared, one: Booked, since: float) -> None:
    """A call that the provider counts nothing of, as far back as its audit goes; an estimate of it is one too much."""
    if one.usage is None or one.recorded_at < since:
        return
    if one.estimated:
        sums = compared.of(one.provider)
        sums.ledger += one.cost
        sums.cut -= one.cost
        sums.cut_calls += bool(one.cost)
    elif one.request_id and one.usage.total_input_tokens + one.usage.output_tokens:
        compared.differences.append(f"attempt {one.attempt_id} is in the books, and was never served")
