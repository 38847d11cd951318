"""Every error class of both SDKs is known here: a release that brings a new one fails until it is mapped."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import pkgutil
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType

import aiohttp
import anthropic
import httpx2
import openai
import pytest
from aiohttp.http_exceptions import TransferEncodingError
from anthropic import _exceptions as anthropic_errors
from openai import _exceptions as openai_errors

from agent_worker.providers import anthropic as claude
from agent_worker.providers import openai as gpt
from agent_worker.providers.base import PermanentError, ProviderError, TransientError
from agent_worker.providers.errors import BROKEN, from_status

REQUEST = httpx2.Request("POST", "http://provider.test/v1")
TRANSIENT, PERMANENT = TransientError, PermanentError
ANTHROPIC: dict[str, type[ProviderError]] = {
    "AnthropicError": PERMANENT,
    "APIError": TRANSIENT,
    "APIResponseValidationError": TRANSIENT,
    "APIWebhookValidationError": TRANSIENT,
    "APIConnectionError": TRANSIENT,
    "APITimeoutError": TRANSIENT,
    "RetryableError": TRANSIENT,
    "CredentialsError": PERMANENT,
    "IdentityTokenFileError": PERMANENT,
    "APIStatusError": TRANSIENT,  # made with status 500 below, as for all that name no status
    "BadRequestError": PERMANENT,
    "AuthenticationError": PERMANENT,
    "PaymentRequiredError": PERMANENT,
    "PermissionDeniedError": PERMANENT,
    "NotFoundError": PERMANENT,
    "RequestTimeoutError": TRANSIENT,
    "ConflictError": TRANSIENT,
    "PreconditionFailedError": PERMANENT,
    "ContentTooLargeError": PERMANENT,
    "UnprocessableEntityError": PERMANENT,
    "RateLimitError": TRANSIENT,
    "RequestHeaderFieldsTooLargeError": PERMANENT,
    "ClientClosedRequestError": PERMANENT,
    "InternalServerError": TRANSIENT,
    "HTTPNotImplementedError": TRANSIENT,
    "ServiceUnavailableError": TRANSIENT,
    "GatewayTimeoutError": TRANSIENT,
    "OverloadedError": TRANSIENT,
}
OPENAI: dict[str, type[ProviderError]] = {
    "OpenAIError": PERMANENT,
    "SubjectTokenProviderError": PERMANENT,
    "APIError": TRANSIENT,
    "APIResponseValidationError": TRANSIENT,
    "APIConnectionError": TRANSIENT,
    "APITimeoutError": TRANSIENT,
    "APIStatusError": TRANSIENT,
    "BadRequestError": PERMANENT,
    "AuthenticationError": PERMANENT,
    "OAuthError": PERMANENT,
    "PermissionDeniedError": PERMANENT,
    "NotFoundError": PERMANENT,
    "ConflictError": TRANSIENT,
    "UnprocessableEntityError": PERMANENT,
    "RateLimitError": TRANSIENT,
    "InternalServerError": TRANSIENT,
    "LengthFinishReasonError": PERMANENT,
    "ContentFilterFinishReasonError": PERMANENT,
    "InvalidWebhookSignatureError": TRANSIENT,  # a ValueError, as a body that is no JSON is; no call raises it
    "WebSocketConnectionClosedError": PERMANENT,  # no call of ours uses one
    "WebSocketQueueFullError": PERMANENT,
}


def errors(module: ModuleType) -> dict[str, type[Exception]]:
    found = {c.__name__: c for _, c in inspect.getmembers(module, inspect.isclass) if issubclass(c, Exception)}
    return {name: c for name, c in found.items() if c.__module__.partition(".")[0] == module.__name__.partition(".")[0]}


def made(kind: type[Exception]) -> Exception:
    """An instance: classes that are one status have that status, the others 500; attributes as their parents set."""
    if issubclass(kind, anthropic.APIStatusError | openai.APIStatusError):
        response = httpx2.Response(getattr(kind, "status_code", 500), request=REQUEST)
        return kind("message", response=response, body=None) if kind is not openai.OAuthError else _oauth(response)
    if issubclass(kind, anthropic.APIResponseValidationError | openai.APIResponseValidationError):
        return kind(httpx2.Response(200, request=REQUEST), None)
    if issubclass(kind, anthropic.APITimeoutError | openai.APITimeoutError):
        return kind(REQUEST)
    if issubclass(kind, anthropic.APIConnectionError | openai.APIConnectionError):
        return kind(request=REQUEST)
    if issubclass(kind, anthropic.APIError | openai.APIError):
        return kind("message", REQUEST, body=None)
    error = kind.__new__(kind)
    Exception.__init__(error, "message")
    return error


def _oauth(response: httpx2.Response) -> Exception:
    return openai.OAuthError(response=response, body=None)


@pytest.mark.parametrize(
    ("module", "known"), [(anthropic_errors, ANTHROPIC), (openai_errors, OPENAI)], ids=["anthropic", "openai"]
)
def test_every_class_is_known(module: ModuleType, known: dict[str, type[ProviderError]]) -> None:
    assert errors(module).keys() == known.keys()


@pytest.mark.parametrize("name", ANTHROPIC)
def test_anthropic(name: str) -> None:
    assert type(claude.translate(made(errors(anthropic_errors)[name]))) is ANTHROPIC[name]


@pytest.mark.parametrize("name", OPENAI)
def test_openai(name: str) -> None:
    assert type(gpt.translate(made(errors(openai_errors)[name]))) is OPENAI[name]


# What else the SDKs define as an error, beyond the modules above: of their clients and streams, which we use, and of
# helpers that we do not (tools, credentials, other clouds, browsers, agents, sockets).
HELPERS = ("lib", "auth", "types", "cli")
ELSEWHERE = {
    "anthropic": {"_response.MissingStreamClassError", "_response.StreamAlreadyConsumed"},
    "openai": {
        "_extras._common.MissingDependencyError",
        "_legacy_response.MissingStreamClassError",
        "_response.MissingStreamClassError",
        "_response.StreamAlreadyConsumed",
    },
}


def _elsewhere(package: ModuleType) -> Iterator[tuple[str, type[Exception]]]:
    """Every error class that the package defines outside of its module of errors, by its place."""
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        parts = found.name.split(".")[1:]
        if parts[0] in HELPERS or parts[0] == "_exceptions":
            continue
        try:
            module = importlib.import_module(found.name)
        except ImportError:  # of an extra that is not installed
            continue
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Exception) and kind.__module__ == found.name:
                yield f"{'.'.join(parts)}.{name}", kind


@pytest.mark.parametrize("package", [anthropic, openai], ids=lambda package: package.__name__)
def test_nor_is_there_another_one_anywhere_that_would_not_be_caught(package: ModuleType) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = dict(_elsewhere(package))
    assert found.keys() == ELSEWHERE[package.__name__]
    assert all(issubclass(kind, (anthropic.AnthropicError, *gpt.RAISED)) for kind in found.values())


def _below(kind: type[anthropic.APIStatusError]) -> Iterator[type[anthropic.APIStatusError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)


def test_the_classes_that_anthropic_makes_of_error_codes_go_by_their_status() -> None:
    for kind in set(_below(anthropic.APIStatusError)):
        response = httpx2.Response(status := getattr(kind, "status_code", 500), request=REQUEST)
        mapped = claude.translate(kind("message", response=response, body=None))
        assert type(mapped) is type(from_status(status, None, "", {})), kind


@pytest.mark.parametrize(
    "error",
    [
        json.JSONDecodeError("no", "", 0),
        httpx2.ReadTimeout("slow"),
        httpx2.ReadError("gone"),
        httpx2.RemoteProtocolError("cut"),
        httpx2.ConnectError("refused"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
        AttributeError("'NoneType' object has no attribute 'text'"),
        TypeError("'NoneType' object is not iterable"),
        KeyError(3),
        aiohttp.ServerDisconnectedError(),
        TransferEncodingError("no size"),
        ConnectionResetError("gone"),
        asyncio.IncompleteReadError(b"", 5),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_broken_answer_may_be_whole_the_next_time(error: Exception) -> None:
    assert isinstance(error, BROKEN)
    assert isinstance(claude.translate(error), TransientError)
    assert isinstance(gpt.translate(error), TransientError)


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (429, None, "rate_limited"),
        (429, "rate_limit_exceeded", "rate_limited"),
        (429, "ramp_limit_exceeded", "rate_limited"),
        (429, "insufficient_quota", "provider_quota_exhausted"),
        (429, "enforced_spend_limit_reached", "provider_quota_exhausted"),
        (429, "contract_spend_limit_reached", "provider_quota_exhausted"),
        (529, None, "provider_unavailable"),
        (503, None, "provider_unavailable"),
        (408, None, "provider_unavailable"),
        (401, None, "provider_refused_credentials"),
        (402, None, "provider_refused_credentials"),
        (400, "context_length_exceeded", "provider_refused_request"),
        (400, "organization_on_hold", "provider_refused_credentials"),
        (400, "cmek_key_disabled", "provider_refused_credentials"),
        (429, "billing_not_active", "provider_quota_exhausted"),
        (404, None, "provider_refused_request"),
    ],
)
def test_reasons(status: int, code: str | None, reason: str) -> None:
    assert from_status(status, code, "", {}).reason == reason


@pytest.mark.parametrize(
    ("status", "code", "fault"),
    [
        (400, None, "request"),
        (413, None, "request"),
        (422, None, "request"),
        (429, None, "limit"),
        (429, "insufficient_quota", "provider"),
        (400, "organization_on_hold", "provider"),
        (401, None, "provider"),
        (403, None, "provider"),
        (404, None, "provider"),
        (408, None, "provider"),
        (500, None, "provider"),
        (529, None, "provider"),
    ],
)
def test_whose_fault_it_is(status: int, code: str | None, fault: str) -> None:
    assert from_status(status, code, "", {}).fault == fault


@pytest.mark.parametrize("translate", [claude.translate, gpt.translate])
def test_a_broken_answer_is_the_providers_fault(translate: Callable[[Exception], ProviderError]) -> None:
    assert {translate(error).fault for error in (httpx2.ReadError("gone"), KeyError(3))} == {"provider"}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert from_status(429, None, "", headers).retry_after == seconds


@pytest.mark.parametrize(
    ("kind", "mapped"),
    [
        ("overloaded_error", "provider_unavailable"),
        ("rate_limit_error", "rate_limited"),
        ("api_error", "provider_unavailable"),
        ("invalid_request_error", "provider_refused_request"),
        ("billing_error", "provider_refused_credentials"),
        ("something_new", "provider_unavailable"),
    ],
)
def test_an_error_inside_an_anthropic_stream_goes_by_its_type(kind: str, mapped: str) -> None:
    response = httpx2.Response(200, request=REQUEST)
    error = anthropic.APIStatusError("m", response=response, body={"type": "error", "error": {"type": kind}})
    assert claude.translate(error).reason == mapped


SECRETS = "Incorrect API key provided: sk-proj-ab***wxyz in organization org-123"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "organization_on_hold"),
        (401, None),
        (402, None),
        (403, None),
        (429, None),
        (429, "insufficient_quota"),
        (500, None),
    ],
)
def test_what_a_provider_says_of_its_operator_is_not_for_tenants(status: int, code: str | None) -> None:
    error = from_status(status, code, SECRETS, {})
    assert "sk-" not in error.message
    assert "org-" not in error.message
    assert error.detail == SECRETS


@pytest.mark.parametrize("translate", [claude.translate, gpt.translate])
@pytest.mark.parametrize("error", [httpx2.ConnectError(SECRETS), ValueError(SECRETS)])
def test_nor_is_what_a_broken_connection_says(
    error: Exception, translate: Callable[[Exception], ProviderError]
) -> None:
    translated = translate(error)
    assert "sk-" not in translated.message
    assert SECRETS in translated.detail


@pytest.mark.parametrize("status", [400, 401, 404, 422, 429, 500])
def test_however_long_a_providers_text_is_ours_are_short(status: int) -> None:
    error = from_status(status, None, "x" * 400_000, {})
    assert len(error.message) < 600
    assert len(error.detail) < 2_100


def test_why_a_request_was_refused_is_quoted() -> None:
    assert "too many tokens" in from_status(400, None, "too many tokens", {}).message
    assert len(gpt.translate(openai.OpenAIError("x" * 9_000)).message) < 600


def _by_sdk(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (_by_sdk(openai.APIConnectionError(request=REQUEST), httpx2.ConnectError("refused")), True),
        (_by_sdk(openai.APITimeoutError(REQUEST), httpx2.ConnectTimeout("slow")), True),
        (_by_sdk(openai.APITimeoutError(REQUEST), httpx2.PoolTimeout("busy")), True),
        (_by_sdk(openai.APITimeoutError(REQUEST), httpx2.ReadTimeout("silent")), False),
        (_by_sdk(openai.APIConnectionError(request=REQUEST), httpx2.ReadError("gone")), False),
        (httpx2.RemoteProtocolError("cut"), False),
        (made(openai.RateLimitError), True),
        (made(openai.InternalServerError), True),
        (made(openai.BadRequestError), True),
    ],
    ids=repr,
)
def test_what_was_refused_is_told_from_what_was_sent_and_not_answered(error: Exception, refused: bool) -> None:
    assert gpt.translate(error).refused is refused
