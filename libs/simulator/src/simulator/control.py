"""The control endpoints: rules, defaults and the audit."""

from collections.abc import Iterable
from itertools import islice
from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from simulator.audit import Record
from simulator.directives import explain
from simulator.limits import Defaults
from simulator.rules import Rule
from simulator.state import State

Model = TypeVar("Model", bound=BaseModel)


class Json(Response):
    """A JSON response that says it is simulated."""

    media_type = "application/json"

    def __init__(self, content: object, status_code: int = 200) -> None:
        super().__init__(orjson.dumps(content), status_code, {"x-laneway-simulated": "true"})


class InvalidInput(Exception):
    """The body or a query parameter of a control request is not valid."""


def invalid(_: Request, error: Exception) -> Response:
    """The 422 answer to an invalid control request."""
    return Json({"error": {"type": "invalid_input", "message": str(error)}}, 422)


class Control:
    """Handlers over the state of one simulator."""

    def __init__(self, state: State) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        """The table of endpoints."""
        return [
            Route("/control/rules", self.add_rule, methods=["POST"]),
            Route("/control/rules", self.list_rules, methods=["GET"]),
            Route("/control/rules", self.clear_rules, methods=["DELETE"]),
            Route("/control/defaults", self.set_defaults, methods=["PUT"]),
            Route("/control/defaults", self.get_defaults, methods=["GET"]),
            Route("/control/audit", self.audit, methods=["GET"]),
            Route("/control/audit", self.clear_audit, methods=["DELETE"]),
        ]

    async def add_rule(self, request: Request) -> Response:
        """Append a rule to the ordered list."""
        self._state.rules.add(_validated(Rule, await request.body()))
        return await self.list_rules(request, 201)

    async def list_rules(self, _: Request, status: int = 200) -> Response:
        """The rules in their order."""
        return Json({"rules": self._state.rules.listing()}, status)

    async def clear_rules(self, request: Request) -> Response:
        """Drop all rules and the failures counted for `fault_times`."""
        self._state.rules.clear()
        return await self.list_rules(request)

    async def set_defaults(self, request: Request) -> Response:
        """Replace all defaults; a key that is not given goes back to its built-in value."""
        self._state.set_defaults(_validated(Defaults, await request.body()))
        return await self.get_defaults(request)

    async def get_defaults(self, _: Request) -> Response:
        """The defaults in force."""
        return Json(self._state.limiter.defaults.model_dump())

    async def audit(self, request: Request) -> Response:
        """Totals, and the calls unless only totals are asked for."""
        query = request.query_params
        totals = self._state.audit.totals()
        if query.get("totals") == "1":
            return Json({"totals": totals})
        calls = self._state.audit.calls(query.get("request_id"), query.get("client_request_id"))
        return Json({"totals": totals, "calls": list(_limited(calls, query.get("limit")))})

    async def clear_audit(self, _: Request) -> Response:
        """Start counting anew."""
        self._state.audit.clear()
        return Json({"totals": self._state.audit.totals()})


def _validated(model: type[Model], body: bytes) -> Model:
    try:
        return model.model_validate(orjson.loads(body))
    except ValidationError as error:
        raise InvalidInput(explain(error)) from None
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None


def _limited(calls: Iterable[Record], limit: str | None) -> Iterable[Record]:
    if limit is None:
        return calls
    if not limit.isdecimal():
        raise InvalidInput("limit: not a number")
    return islice(calls, int(limit))
