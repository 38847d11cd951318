"""A tool: a typed function, its schema taken from its signature, run within a deadline and an output limit.

An async function runs in the worker's own loop. A plain one computes, and does so in a process of its own.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import structlog

from agent_worker.cutting import side_by_side
from agent_worker.providers.base import ToolCall, ToolSpec
from agent_worker.tools.context import ToolContext
from agent_worker.tools.processes import Computing, address_of
from agent_worker.tools.signature import Signature, ToolError
from common.catalogue import Approvals
from common.errors import ConfigurationError

__all__ = ["Tool", "ToolContext", "ToolError", "ToolResult", "Toolbox"]

_log = structlog.get_logger(__name__)
_OUTPUT_LIMIT = 32_000
# What both providers take.
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
# A step's results together are to fit into a model's window, and into what a run may hold in memory.
_MOST_CALLS = 16


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What goes back to the model."""

    id: str
    name: str
    content: str
    is_error: bool


@dataclass(frozen=True)
class Tool:
    """A function that models may call. `side_effect` says that running it twice does harm, `ask` that a person is to
    approve each call, whatever the agent."""

    spec: ToolSpec
    function: Callable[..., object]
    signature: Signature
    timeout: float
    side_effect: bool
    ask: bool
    output_limit: int
    computing: Computing | None = None
    """Where a plain function computes."""

    @classmethod
    def of(
        cls,
        function: Callable[..., object],
        *,
        name: str | None = None,
        timeout: float = 10.0,
        side_effect: bool = False,
        ask: bool = False,
        output_limit: int = _OUTPUT_LIMIT,
    ) -> Tool:
        """A tool from an annotated function; its docstring tells the model what it does. Seconds, and characters.

        Raises `ConfigurationError` where it cannot be one.
        """
        name = _checked_name(name or function.__name__)
        description = inspect.getdoc(function)
        if not description:
            raise ConfigurationError(f"The tool {name!r} has no docstring: it is what models are told of it.")
        signature = Signature.of(function)
        if not inspect.iscoroutinefunction(function):
            address_of(function)
            if signature.context is not None:
                raise ConfigurationError(f"The tool {name!r} is to know its run: that takes an async function.")
        spec = ToolSpec(name, description, signature.schema)
        return cls(spec, function, signature, timeout, side_effect, ask, output_limit)

    def named(self, name: str) -> Tool:
        """The same tool by another name. Raises `ConfigurationError` where no tool can have it."""
        return replace(self, spec=replace(self.spec, name=_checked_name(name)))

    def computing_in(self, processes: Computing) -> Tool:
        """The same tool; what computes does so there."""
        return replace(self, computing=processes)

    async def __call__(self, arguments: Mapping[str, Any], context: ToolContext | None = None) -> str:
        """Run it. Raises `ToolError` where the arguments do not fit, the time is up, or the tool says so."""
        checked = self.signature.checked(arguments)
        try:
            async with asyncio.timeout(self.timeout) as limit:
                output = await self._run(arguments, checked, context)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise ToolError(f"{self.spec.name} did not finish within {self.timeout:g} s") from error
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            raise ToolError(f"{self.spec.name} broke off") from error  # it was something of the tool's own
        # Half a character, as a foreign page may hold it, could be neither stored nor sent.
        return self._limited(str(output).encode(errors="replace").decode())

    def _run(self, given: Mapping[str, Any], checked: dict[str, Any], context: ToolContext | None) -> Awaitable[object]:
        if not inspect.iscoroutinefunction(self.function):
            if self.computing is None:
                raise RuntimeError(f"{self.spec.name} was given no processes to compute in")
            # As the model gave them: they are JSON, and are checked there once more.
            return self.computing.call(self.function, given, self.timeout)
        if self.signature.context is not None:
            if context is None:
                raise RuntimeError(f"{self.spec.name} was called outside of a run")
            checked[self.signature.context] = context
        return self.function(**checked)

    def _limited(self, text: str) -> str:
        over = len(text) - self.output_limit
        return text if over <= 0 else f"{text[: self.output_limit]}\n[{over} more characters were cut off]"


Make: TypeAlias = Callable[[int, ToolCall], Coroutine[Any, Any, ToolResult]]


class Toolbox:
    """The tools of one agent, and of one run where it has a context."""

    def __init__(
        self,
        tools: Mapping[str, Tool],
        approvals: Approvals | None = None,
        context: ToolContext | None = None,
        missing: tuple[dict[str, str], ...] = (),
    ) -> None:
        self.tools = tools
        self.approvals = approvals or Approvals()
        self.specs = tuple(tool.spec for tool in tools.values())
        self.side_effects = any(tool.side_effect or self._marked(name, tool) for name, tool in tools.items())
        self.missing = missing
        """Servers and tools that cannot be used, with the reason."""
        self._context = context

    def within(self, context: ToolContext) -> Toolbox:
        """The same tools for one run."""
        return Toolbox(self.tools, self.approvals, context, self.missing)

    async def run_all(self, calls: Sequence[ToolCall], make: Make | None = None) -> list[ToolResult]:
        """Run calls of one step side by side; the results in their order. What is too much at once is not run.

        `make` is another way than `run` to have a call's result, by its place in the step.
        """
        made = calls[:_MOST_CALLS]
        results = await side_by_side(make(n, call) if make else self.run(call) for n, call in enumerate(made))
        too_many = f"not run: at most {_MOST_CALLS} tool calls are run at a time, call it again"
        return [*results, *(_failure(call, too_many) for call in calls[_MOST_CALLS:])]

    def schema(self, name: str) -> dict[str, Any]:
        """What the arguments of a tool that is here are held against."""
        return self.tools[name].spec.schema

    def asks(self, call: ToolCall) -> bool:
        """Whether a person is to decide on the call. One that fails by itself is nothing to decide on."""
        tool = self._sound(call)
        return tool is not None and self._marked(call.name, tool)

    def harms_twice(self, call: ToolCall) -> bool:
        """Whether the call has side effects. One that fails by itself has none."""
        tool = self._sound(call)
        return tool is not None and tool.side_effect

    def _sound(self, call: ToolCall) -> Tool | None:
        """The tool, where it can be called like that."""
        tool = self.tools.get(call.name)
        if tool is None or call.malformed is not None:
            return None
        try:
            tool.signature.checked(call.arguments)
        except ToolError:
            return None
        return tool

    def _marked(self, name: str, tool: Tool) -> bool:
        named = self.approvals.tools
        return tool.ask or (tool.side_effect if named == "side_effects" else name in named)

    async def run(self, call: ToolCall) -> ToolResult:
        """Run one call. Whatever goes wrong goes back to the model as a result, and nowhere else."""
        tool = self.tools.get(call.name)
        if tool is None:
            return _failure(call, f"there is no tool named {call.name!r}")
        if call.malformed is not None:
            return _failure(call, call.malformed)
        try:
            return ToolResult(call.id, call.name, await tool(call.arguments, self._context), is_error=False)
        except ToolError as error:
            return _failure(call, str(error) or f"{call.name} failed")
        except Exception as error:  # noqa: BLE001 - a tool's fault is contained here: the run goes on without its result
            _log.warning("tool.failed", tool=call.name, error=repr(error))
            return _failure(call, f"{call.name} failed: {type(error).__name__}")


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"No tool can be named {name!r}: up to 64 letters, digits, `_` and `-`.")
    return name


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _failure(call: ToolCall, reason: str) -> ToolResult:
    return ToolResult(call.id, call.name, reason, is_error=True)
