"""The connections of a provider's client: those of aiohttp, below both SDKs.

The pool that the SDKs have by themselves looks at each of its connections whenever a request begins or ends, and reads
HTTP in Python: with a thousand calls under way that took two fifths of a worker's time.
"""

from __future__ import annotations

import httpx2
from anthropic import DefaultAioHttpClient


def http_client(connections: int, timeout: httpx2.Timeout) -> httpx2.AsyncClient:
    """For so many calls at a time, of either SDK: OpenAI's own takes a server that hangs up for one that is silent."""
    return DefaultAioHttpClient(limits=httpx2.Limits(max_connections=connections), timeout=timeout)
