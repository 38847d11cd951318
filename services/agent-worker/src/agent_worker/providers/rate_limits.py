"""The providers' rate limits, as their answers' headers tell them: Anthropic's family and OpenAI's.

Anthropic's `tokens` are those of the strictest of its limits. The reset headers are not read: they tell when a limit is
whole again, which is no time to wait for.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent_worker.providers.base import RateLimits

_FAMILIES = (
    (
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-tokens-limit",
        "anthropic-ratelimit-tokens-remaining",
    ),
    (
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
    ),
)


def rate_limits(headers: Mapping[str, str]) -> RateLimits | None:
    """What the headers say; None where there are none of these."""
    for requests, requests_left, tokens, tokens_left in _FAMILIES:
        if any(name in headers for name in (requests, requests_left, tokens, tokens_left)):
            return RateLimits(
                _number(headers, requests, least=1),
                _number(headers, requests_left, least=0),
                _number(headers, tokens, least=1),
                _number(headers, tokens_left, least=0),
            )
    return None


def _number(headers: Mapping[str, str], name: str, *, least: int) -> int | None:
    """Compatible endpoints write -1, or a word, where they have no limit."""
    value = headers.get(name, "")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 16 and int(value) >= least else None
