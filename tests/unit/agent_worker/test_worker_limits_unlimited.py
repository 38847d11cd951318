"""What the limiter costs where there is nothing to limit, and how it reads what providers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from agent_worker.limiter.provider_limits import ProviderLimits
from agent_worker.providers.base import CallMeter, RateLimits, TransientError
from agent_worker.providers.errors import from_status
from agent_worker.providers.rate_limits import rate_limits
from common.catalogue import load_catalogue
from common.contracts.usage import Usage
from common.pipelining import Pipelined

CATALOGUE = load_catalogue(Path(__file__).parents[3] / "deploy" / "catalogue")


class Untouched:
    """A Redis that nobody may ask."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"Redis was asked: {name}")


async def test_a_model_without_a_limit_asks_nobody_and_waits_for_nothing() -> None:
    limits = ProviderLimits(cast(Pipelined, Untouched()), CATALOGUE, 2)
    for model in CATALOGUE.models:
        limit = limits.of("free", model)
        assert limits.of("free", model) is limit
        leave = limit.reserve(1_000_000, lambda: None)
        with pytest.raises(StopIteration):  # it ends without giving way once
            leave.__await__().__next__()
        reservation = await limit.reserve(1_000_000, lambda: None)
        limit.settle(reservation, CallMeter(usage=Usage(output_tokens=5)))
        limit.give_back(reservation)
    assert not limits._wake.is_set()
    assert not any(model.changed for model in limits._models.values())


async def test_a_tier_that_is_not_declared_is_the_last() -> None:
    limits = ProviderLimits(cast(Pipelined, Untouched()), CATALOGUE, 2)
    unknown, free = (cast(Any, limits.of(tier, CATALOGUE.models[0])) for tier in ("gone", "free"))
    assert (unknown._watermark, free._watermark) == (0.4, 0.4)
    assert unknown._rank > free._rank


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({}, None),
        ({"retry-after": "3", "x-ratelimit-reset-requests": "1s"}, None),
        (
            {
                "anthropic-ratelimit-requests-limit": "50",
                "anthropic-ratelimit-requests-remaining": "49",
                "anthropic-ratelimit-tokens-limit": "40000",
                "anthropic-ratelimit-tokens-remaining": "39000",
            },
            RateLimits(50, 49, 40_000, 39_000),
        ),
        (
            {"x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "0"},
            RateLimits(500, 0, None, None),
        ),
        ({"x-ratelimit-limit-tokens": "-1", "x-ratelimit-remaining-tokens": "unlimited"}, RateLimits()),
        ({"x-ratelimit-limit-tokens": "0", "x-ratelimit-remaining-tokens": "٣"}, RateLimits()),
        ({"x-ratelimit-limit-requests": "9" * 400}, RateLimits()),
    ],
)
def test_headers_of_either_family_are_read_and_nonsense_is_not(
    headers: dict[str, str], said: RateLimits | None
) -> None:
    assert rate_limits(headers) == said


def test_a_refusal_for_a_limit_says_what_is_left_of_all() -> None:
    headers = {"anthropic-ratelimit-requests-remaining": "0", "retry-after-ms": "1500", "retry-after": "2"}
    error = from_status(429, None, "slow down", headers)
    assert isinstance(error, TransientError)
    assert (error.retry_after, error.rate_limits) == (1.5, RateLimits(requests_left=0))
