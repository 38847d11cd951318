"""From an HTTP status and a provider's error code to transient or permanent. Both SDKs' errors end here."""

from __future__ import annotations

import math
from collections.abc import Mapping

import httpx2

from agent_worker.providers.base import PermanentError, ProviderError, TransientError

# What an answer raises that is not HTTP, or not in the shape the SDK promises: neither SDK checks the latter.
BROKEN = (httpx2.HTTPError, ValueError, LookupError, TypeError, AttributeError)

# A 429 that waiting does not heal.
_SPENT = frozenset(
    {
        "insufficient_quota",
        "billing_hard_limit_reached",
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
    }
)
_TRANSIENT_STATUS = frozenset({408, 409, 425, 429})


def from_status(status: int, code: str | None, message: str, headers: Mapping[str, str]) -> ProviderError:
    """The error that a response with this status and error code is."""
    if code in _SPENT:
        return PermanentError("provider_quota_exhausted", message)
    if status == 429:
        return TransientError("rate_limited", message, retry_after=_retry_after(headers))
    if status >= 500 or status in _TRANSIENT_STATUS:
        return TransientError("provider_unavailable", message, retry_after=_retry_after(headers))
    if status in (401, 402, 403):
        return PermanentError("provider_refused_credentials", message)
    return PermanentError("provider_refused_request", message)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; the HTTP date form is rare among providers, and then our own backoff serves."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * scale
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None
