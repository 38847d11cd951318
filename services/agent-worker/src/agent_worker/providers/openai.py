"""OpenAI's two APIs through its SDK: Chat Completions, which compatible endpoints speak too, and Responses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx2
import openai
from openai import AsyncOpenAI

from agent_worker.providers.base import ProviderError
from agent_worker.providers.connections import http_client
from agent_worker.providers.counts import unnamed
from agent_worker.providers.errors import BROKEN, from_status, refused_request, timed_out, unavailable, unsent
from agent_worker.providers.schemas import closed, is_strict
from common.contracts.usage import Usage

_ERROR_STATUS = {"rate_limit_exceeded": 429, "insufficient_quota": 429, "invalid_prompt": 400}


def client(api_key: str, base_url: str | None, timeout: httpx2.Timeout, connections: int) -> AsyncOpenAI:
    """One client for the process: its connections are shared by all runs, and by both APIs."""
    return AsyncOpenAI(
        api_key=api_key,
        base_url=base_url,
        # The worker is the only retry loop: a silent retry would be billed where nobody sees it.
        max_retries=0,
        timeout=timeout,
        http_client=http_client(connections, timeout),
    )


async def connect(client: AsyncOpenAI) -> None:
    """Open a connection, by asking for what costs nothing. Raises `ProviderError`."""
    try:
        await client.models.list()
    except RAISED as error:
        raise translate(error) from error


def usage(counted: Any, input_tokens: int, output_tokens: int, input_details: Any, output_details: Any) -> Usage:
    """OpenAI counts what was read from and written to the cache as a part of the input: it is taken out here.

    The two APIs name the parts of what is `counted` differently.
    """
    read = getattr(input_details, "cached_tokens", None) or 0
    written = getattr(input_details, "cache_write_tokens", None) or 0
    return Usage(
        input_tokens=max(0, input_tokens - read - written),
        cache_read_tokens=read,
        cache_write_5m_tokens=written,
        output_tokens=output_tokens,
        reasoning_tokens=min(output_tokens, getattr(output_details, "reasoning_tokens", None) or 0),
        **{**unnamed(input_details), **unnamed(output_details), **unnamed(counted)},
    )


def arguments_json(arguments: dict[str, Any]) -> str:
    """A tool call's arguments as OpenAI wants them back."""
    return json.dumps(arguments, ensure_ascii=False)


def answer_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What the answer is to match, as both APIs name it; strictly where OpenAI can promise that."""
    whole = closed(schema)
    return {"name": "answer", "schema": whole, "strict": is_strict(whole)}


def failed(code: str | None, message: str) -> ProviderError:
    """An error that arrived inside of a stream, where no status says what it is."""
    return from_status(_ERROR_STATUS.get(code or "", 500), code, message, {})


def translate(error: Exception) -> ProviderError:
    """Every error that the SDK can raise, as one of ours."""
    if isinstance(error, openai.APIStatusError):
        return from_status(error.status_code, error.code, error.message, error.response.headers)
    if isinstance(error, openai.APITimeoutError | httpx2.TimeoutException):
        return timed_out(refused=unsent(error))
    if isinstance(error, openai.APIError) and not isinstance(error, openai.APIConnectionError) and error.code:
        return failed(error.code, error.message)
    if isinstance(error, (openai.APIError, *BROKEN)):
        return unavailable(repr(error), refused=unsent(error))
    return refused_request(str(error))


RAISED = (openai.OpenAIError, *BROKEN)
