"""A tool: a typed function, its schema taken from its signature, run within a deadline and an output limit."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo

from agent_worker.providers.base import ToolCall, ToolSpec

_log = structlog.get_logger(__name__)
_OUTPUT_LIMIT = 32_000


class ToolError(Exception):
    """The tool's own word, for the model, on why it could not do what was asked."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What goes back to the model."""

    id: str
    name: str
    content: str
    is_error: bool


@dataclass(frozen=True)
class Tool:
    """A function that models may call. `side_effect` says that running it twice does harm."""

    spec: ToolSpec
    function: Callable[..., Awaitable[object]]
    arguments: TypeAdapter[Any]
    timeout: float
    side_effect: bool

    @classmethod
    def of(
        cls, function: Callable[..., Awaitable[object]], *, timeout: float = 10.0, side_effect: bool = False
    ) -> Tool:
        """A tool from an annotated async function; its docstring tells the model what it does."""
        fields: dict[str, tuple[Any, FieldInfo | object]] = {
            name: (parameter.annotation, ... if parameter.default is parameter.empty else parameter.default)
            for name, parameter in inspect.signature(function, eval_str=True).parameters.items()
        }
        model = create_model(function.__name__, __config__={"extra": "forbid"}, **fields)  # type: ignore[call-overload]
        schema = model.model_json_schema()
        schema.pop("title", None)
        spec = ToolSpec(function.__name__, inspect.cleandoc(function.__doc__ or function.__name__), schema)
        return cls(spec, function, TypeAdapter(model), timeout, side_effect)

    async def __call__(self, arguments: Mapping[str, Any]) -> str:
        """Run it. Raises `ToolError` where the arguments do not fit, the time is up, or the tool says so."""
        try:
            checked = self.arguments.validate_python(dict(arguments))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ToolError(f"argument {where!r}: {first['msg']}") from error
        try:
            async with asyncio.timeout(self.timeout):
                output = await self.function(**{name: getattr(checked, name) for name in type(checked).model_fields})
        except TimeoutError as error:
            raise ToolError(f"{self.spec.name} did not finish within {self.timeout:g} s") from error
        # Half a character, as a foreign page may hold it, could be neither stored nor sent.
        return _limited(str(output).encode(errors="replace").decode())


def _limited(text: str) -> str:
    if len(text) <= _OUTPUT_LIMIT:
        return text
    return f"{text[:_OUTPUT_LIMIT]}\n[{len(text) - _OUTPUT_LIMIT} more characters were cut off]"


class Toolbox:
    """The tools of one agent."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self._tools = tools
        self.specs = tuple(tool.spec for tool in tools.values())
        self.side_effects = any(tool.side_effect for tool in tools.values())

    async def run(self, call: ToolCall) -> ToolResult:
        """Run one call. Whatever goes wrong goes back to the model as a result, and nowhere else."""
        tool = self._tools.get(call.name)
        if tool is None:
            return _failure(call, f"there is no tool named {call.name!r}")
        if call.malformed is not None:
            return _failure(call, call.malformed)
        try:
            return ToolResult(call.id, call.name, await tool(call.arguments), is_error=False)
        except ToolError as error:
            return _failure(call, str(error) or f"{call.name} failed")
        except Exception as error:  # noqa: BLE001 - a tool's fault is contained here: the run goes on without its result
            _log.warning("tool.failed", tool=call.name, error=repr(error))
            return _failure(call, f"{call.name} failed: {type(error).__name__}")


def _failure(call: ToolCall, reason: str) -> ToolResult:
    return ToolResult(call.id, call.name, reason, is_error=True)
