"""A simulator process, and the real SDKs of both providers talking to it."""

import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

DEADLINE = 20.0


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    command = [sys.executable, "-m", "simulator", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            assert line.startswith("simulator listening on http://127.0.0.1:")
            yield line.split()[-1]
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def tls() -> ssl.SSLContext:
    """One for all clients: reading the certificates takes longer than most of these tests."""
    return ssl.create_default_context()


@pytest.fixture
async def control(url: str, tls: ssl.SSLContext) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=url, verify=tls) as client:
        await client.delete("/control/rules")
        await client.put("/control/defaults", json={})
        await client.delete("/control/audit")
        yield client


@pytest.fixture
async def claude(url: str, control: httpx2.AsyncClient, tls: ssl.SSLContext) -> AsyncIterator[AsyncAnthropic]:
    http = anthropic.DefaultAsyncHttpxClient(verify=tls)
    async with AsyncAnthropic(api_key="any", base_url=url, max_retries=0, timeout=60, http_client=http) as client:
        yield client


@pytest.fixture
async def gpt(url: str, control: httpx2.AsyncClient, tls: ssl.SSLContext) -> AsyncIterator[AsyncOpenAI]:
    http = openai.DefaultAsyncHttpxClient(verify=tls)
    async with AsyncOpenAI(api_key="any", base_url=f"{url}/v1", max_retries=0, timeout=60, http_client=http) as client:
        yield client


@pytest.fixture
def audited(control: httpx2.AsyncClient) -> Callable[[int], Awaitable[dict[str, Any]]]:
    """The audit, once it holds so many calls and none is in flight."""

    async def wait_for(calls: int) -> dict[str, Any]:
        deadline = time.monotonic() + DEADLINE
        while True:
            audit: dict[str, Any] = (await control.get("/control/audit")).json()
            totals = audit["totals"]
            if totals["calls"] == calls and not totals["in_flight"]:
                return audit
            assert time.monotonic() < deadline, totals

    return wait_for
