"""How a task is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent_worker.providers.base import NO_ATTEMPT, ModelRequest, Piece, ToolCall, Turn
from agent_worker.resilience.chain import Served
from agent_worker.resilience.closing import WRAP_UP, RunLimits
from agent_worker.response_cache import NO_CACHE, ResponseCache, Responses, may_be_repeated
from agent_worker.staffing import Staffed
from agent_worker.tools.base import Toolbox
from agent_worker.turns import text_of
from common.answer_schema import AnswerForm
from common.contracts import TaskSubmitted


@dataclass(frozen=True, slots=True)
class Plan:
    """How a task is run: everything that does not change while it runs. `models` are the first and its fallbacks."""

    models: tuple[Served, ...]
    system: str
    limits: RunLimits
    temperature: float | None
    form: AnswerForm | None = None
    """What the answer is to match."""
    cache: ResponseCache = NO_CACHE
    """Where answers may be known already."""
    summary_tokens: int | None = None
    """Of a summary of what there is no room for; None: there is none."""

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """Of the form."""
        return self.form.schema if self.form is not None else None

    def request(self, served: Served, turns: tuple[Turn, ...], tools: Toolbox, *, last: bool) -> ModelRequest:
        """A call of that model, before it has leave; the last one is told so."""
        return ModelRequest(
            served.model.name,
            self.system,
            turns,
            tools.specs,
            served.max_output_tokens,
            self.temperature,
            NO_ATTEMPT,
            use_tools=not last,
            closing=WRAP_UP if last else "",
            response_schema=self.schema,
        )

    def problem(self, text: str) -> str | None:
        """What is wrong with this answer; None: it has the form that it is to have, if any."""
        return self.form.problem(text) if self.form is not None else None

    def may_keep(self, pieces: list[Piece]) -> bool:
        """Whether this may be found again: not an answer that is to be asked for anew."""
        return any(isinstance(piece, ToolCall) for piece in pieces) or self.problem(text_of(pieces)) is None


def plan_of(task: TaskSubmitted, staffed: Staffed, tools: Toolbox, responses: Responses) -> Plan:
    """What the task asks for, within what its agent allows."""
    agent = staffed.agent
    temperature = agent.temperature if task.temperature is None else task.temperature
    return Plan(
        models=staffed.models,
        system=agent.system,
        limits=RunLimits(
            min(task.max_steps or agent.max_steps, agent.max_steps),
            agent.max_run_tokens,
            agent.timeout_seconds,
            max_output_bytes=agent.max_output_bytes,
        ),
        temperature=temperature,
        cache=responses.of(task) if may_be_repeated(task, temperature, tools) else NO_CACHE,
        form=None if task.response_schema is None else AnswerForm(task.response_schema),
        summary_tokens=agent.history_summary_tokens,
    )
