"""The ASGI application: model calls go straight to their dialect, everything else through Starlette's routes."""

from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from simulator.calls import ModelCall
from simulator.control import Control, InvalidInput, Json, invalid
from simulator.dialects.anthropic import Messages, input_tokens
from simulator.dialects.base import Dialect, messages_of
from simulator.dialects.chat import Chat
from simulator.dialects.responses import Responses
from simulator.errors import CallRefused
from simulator.state import State

# Those of deploy/catalogue/models.yaml; a call may name any other.
ANTHROPIC_MODELS = ("claude-haiku-4-5", "claude-sonnet-5-5")
OPENAI_MODELS = ("gpt-5.4-mini", "gpt-5.4")


def create_app(state: State | None = None) -> ASGIApp:
    """The application over a state, by default a fresh one."""
    state = state or State()
    dialects: dict[str, Dialect] = {
        "/v1/messages": Messages(),
        "/v1/chat/completions": Chat(),
        "/v1/responses": Responses(),
    }
    rest = _rest(state)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # Starlette's routing would cost more than the whole answer of a tiny call.
        if scope["type"] == "http" and scope["method"] == "POST":
            dialect = dialects.get(scope["path"])
            if dialect is not None:
                await ModelCall(state, dialect, scope, receive, send).serve()
                return
        await rest(scope, receive, send)

    return app


def _rest(state: State) -> Starlette:
    routes = [
        Route("/health", _health, methods=["GET"]),
        Route("/v1/models", _models, methods=["GET"]),
        Route("/v1/messages/count_tokens", _count_tokens, methods=["POST"]),
        *Control(state).routes(),
    ]
    return Starlette(routes=routes, exception_handlers={InvalidInput: invalid, HTTPException: _http_error})


async def _health(_: Request) -> Response:
    return Json({"status": "ok", "simulated": True})


async def _models(request: Request) -> Response:
    """The list in the shape of the provider whose client asks: only Anthropic's sends a version header."""
    if "anthropic-version" in request.headers:
        return Json(
            {
                "data": [_anthropic_model(name) for name in ANTHROPIC_MODELS],
                "has_more": False,
                "first_id": ANTHROPIC_MODELS[0],
                "last_id": ANTHROPIC_MODELS[-1],
            }
        )
    models = [{"id": name, "object": "model", "created": 0, "owned_by": "simulated"} for name in OPENAI_MODELS]
    return Json({"object": "list", "data": models})


def _anthropic_model(name: str) -> dict[str, object]:
    return {
        "type": "model",
        "id": name,
        "display_name": f"{name} (simulated)",
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "active",
    }


async def _count_tokens(request: Request) -> Response:
    """Anthropic's count of a request's input; not a model call, so not in the audit."""
    try:
        body: dict[str, Any] = orjson.loads(await request.body())
        messages_of(body, "messages")
        return Json({"input_tokens": input_tokens(body)})
    except (CallRefused, AttributeError, KeyError, TypeError, ValueError) as error:
        refused = error if isinstance(error, CallRefused) else CallRefused("bad_request", f"Wrong shape: {error!r}")
        status, content = Messages().refusal(refused, "req_count_tokens")
        return Json(orjson.loads(content), status)


def _http_error(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return Json({"error": {"type": "http_error", "message": str(error)}}, status)
