"""How many connections a provider's client keeps."""

from __future__ import annotations

import httpx2

# The client's pool probes every idle connection at each request and at each end of one: a thousand of them cost more
# than all tokens that come over them. What is above this is opened anew in the next burst.
_IDLE = 50


def limits(connections: int) -> httpx2.Limits:
    """For so many calls at a time."""
    return httpx2.Limits(max_connections=connections, max_keepalive_connections=min(connections, _IDLE))
