"""From an HTTP status and a provider's error code to transient or permanent. Both SDKs' errors end here.

A tenant reads our own sentences: providers name keys, accounts and limits that are the operator's. What they said goes
to the log. Only why a request was refused is quoted, shortened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import aiohttp
import httpx2
from aiohttp.http_exceptions import HttpProcessingError

from agent_worker.providers.base import Fault, PermanentError, ProviderError, TransientError
from agent_worker.providers.rate_limits import rate_limits

# What an answer raises that is not HTTP, or not in the shape the SDK promises: neither SDK checks the latter. Of the
# connections' own errors some come as they are: those of a stream that is under way, which neither SDK looks at.
BROKEN = (
    httpx2.HTTPError,
    aiohttp.ClientError,
    HttpProcessingError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)

_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
# What the connections themselves raise says more than what the SDKs make of it: to those a server that hangs up on a
# request is one that cannot be reached.
_UNSENT_BELOW = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)

# A 429 that waiting does not heal.
_SPENT = frozenset(
    {
        "insufficient_quota",
        "billing_hard_limit_reached",
        "billing_not_active",
        "enforced_spend_limit_reached",
        "contract_spend_limit_reached",
    }
)
# A 400 that is about the operator's account, and not about the request.
_ACCOUNT = frozenset(
    {
        "organization_on_hold",
        "organization_type_not_supported",
        "organization_not_enrolled_in_beta",
        "parent_organization_required",
        "cmek_key_disabled",
        "cmek_key_network_blocked",
    }
)
_TRANSIENT_STATUS = frozenset({408, 409, 425, 429})
_QUOTED = 500
_LOGGED = 2_000


def from_status(status: int, code: str | None, text: str, headers: Mapping[str, str]) -> ProviderError:
    """The error that a response with this status, error code and text is."""
    if code in _SPENT:
        return PermanentError(
            "provider_quota_exhausted",
            "the quota at the provider is used up",
            detail=_logged(text),
            refused=True,
            fault="provider",
        )
    if status == 429:
        return TransientError(
            "rate_limited",
            "the provider's rate limit is reached",
            detail=_logged(text),
            retry_after=_retry_after(headers),
            refused=True,
            rate_limits=rate_limits(headers),
            fault="limit",
        )
    if status >= 500 or status in _TRANSIENT_STATUS:
        return unavailable(text, headers, refused=True)
    if status in (401, 402, 403) or code in _ACCOUNT:
        return refused_credentials(text)
    # The path is ours: what is not found is the model, which the operator's catalogue names.
    return refused_request(text, fault="provider" if status == 404 else "request")


def unsent(error: BaseException | None) -> bool:
    """Whether this error, or the one that an SDK made it of, came before anything was sent."""
    if isinstance(error, aiohttp.ClientError):
        return isinstance(error, _UNSENT_BELOW)
    return error is not None and (unsent(error.__cause__) if error.__cause__ else isinstance(error, _UNSENT))


def unavailable(
    text: str, headers: Mapping[str, str] = MappingProxyType({}), *, refused: bool = False
) -> ProviderError:
    """The provider, the connection to it or its answer was broken."""
    return TransientError(
        "provider_unavailable",
        "the provider is not available, or its answer was broken",
        detail=_logged(text),
        retry_after=_retry_after(headers),
        refused=refused,
    )


def timed_out(*, refused: bool) -> ProviderError:
    """The provider was silent for too long."""
    return TransientError("provider_timeout", "the provider did not answer in time", refused=refused)


def refused_credentials(text: str) -> ProviderError:
    """The operator's key is at fault: what the provider says of it is none of the tenant's business."""
    return PermanentError(
        "provider_refused_credentials",
        "the provider refused this service's credentials",
        detail=_logged(text),
        refused=True,
        fault="provider",
    )


def refused_request(text: str, fault: Fault = "request") -> ProviderError:
    """The request is at fault, or what it asks for is gone, which only the provider's own words can explain."""
    return PermanentError(
        "provider_refused_request",
        f"the provider refused the request: {_cut(text, _QUOTED)}",
        detail=_logged(text),
        refused=True,
        fault=fault,
    )


def _logged(text: str) -> str:
    return _cut(text, _LOGGED)


def _cut(text: str, limit: int) -> str:
    """Either SDK's text may be the whole body of the response, however long."""
    return text if len(text) <= limit else f"{text[:limit]} …"


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
