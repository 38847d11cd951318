"""The body of a schedule: checked whole, its task as a submission of its own would be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.requests import Request

from common.cadence import LONGEST_EXPRESSION, Cadence, CadenceError, cadence
from common.catalogue import Catalogue
from common.scheduling import OWN_METADATA
from gateway import problems
from gateway.failures import invalid, invalid_field, invalid_items, reasons
from gateway.problems import Problem
from gateway.requests import json_body
from gateway.schemas import TASK_REQUEST, TaskRequest, Text, check_catalogue

MOST_SCHEDULES = 100


class Timing(BaseModel):
    """When a schedule ticks, and what it is called."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    cron: Text = Field(
        max_length=LONGEST_EXPRESSION,
        description="minute, hour, day of month, month, day of week",
        examples=["0 9 * * 1-5"],
    )
    time_zone: Text = Field(default="UTC", max_length=100, description="one of IANA's", examples=["Europe/Vienna"])
    missed: Literal["skip", "run_once"] = Field(
        default="skip",
        description="of ticks that nobody was there for: `skip` forgets them, `run_once` submits one task for all",
    )
    name: Text | None = Field(default=None, min_length=1, max_length=200)
    enabled: bool = Field(default=True, description="false: it keeps, and does not tick")

    @model_validator(mode="after")
    def _ticks(self) -> Self:
        try:
            cadence(self.cron, self.time_zone)
        except CadenceError as error:
            raise invalid_field(error.field, error.reason) from error
        return self


class ScheduleRequest(Timing):
    """A schedule, as `/docs` describes its body."""

    task: TaskRequest = Field(description="as in POST /v1/tasks, without `not_before`")


@dataclass(frozen=True, slots=True)
class Asked:
    """A schedule that is checked."""

    timing: Timing
    task: TaskRequest

    @property
    def cadence(self) -> Cadence:
        """When it ticks."""
        return cadence(self.timing.cron, self.timing.time_zone)

    @property
    def task_as_given(self) -> dict[str, Any]:
        """What the tenant said of the task, and no defaults: later ones apply."""
        return self.task.model_dump(mode="json", exclude_unset=True)


async def read_document(request: Request) -> dict[str, Any]:
    """The body, which is an object. Raises `Problem`."""
    try:
        document = orjson.loads(await json_body(request))
    except orjson.JSONDecodeError as error:
        raise problems.INVALID.problem("The body is not JSON.") from error
    if not isinstance(document, dict):
        raise problems.INVALID.problem('The body is not an object: send {"cron": …, "task": {…}}.')
    return document


def check_schedule(document: Mapping[str, Any], catalogue: Catalogue) -> Asked:
    """What a body asks for. Raises `Problem`."""
    rest = {name: value for name, value in document.items() if name != "task"}
    try:
        timing = Timing.model_validate(rest)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_input=False, include_context=False)) from error
    if "task" not in document:
        raise invalid_field("task", "Field required")
    return Asked(timing, _task(document["task"], catalogue))


def _task(value: object, catalogue: Catalogue) -> TaskRequest:
    try:
        # As text: only of text does the schema take what JSON has no type for, such as exact decimals.
        task = TASK_REQUEST.validate_json(orjson.dumps(value))
        check_catalogue(task, catalogue)
        if task.not_before is not None:
            raise invalid_field("not_before", "is for single tasks: here the schedule says when")
        if taken := OWN_METADATA & task.metadata.keys():
            raise invalid_field("metadata", f"{min(taken)} is set by the schedule itself: leave it out")
    except (ValidationError, Problem) as error:
        raise of_task(error) from error
    return task


def of_task(error: ValidationError | Problem) -> Problem:
    """The problem of a task, as one of the schedule that it is in."""
    if isinstance(error, ValidationError):
        found = reasons(error.errors(include_url=False, include_input=False, include_context=False)[:20])
    elif error.errors:
        found = [(str(one["field"]).split("."), str(one["reason"])) for one in error.errors]
    else:
        found = [(["tier"], error.detail)]
    placed = [(None, ("task", *path), reason) for path, reason in found]
    _, path, reason = placed[0]
    return invalid_items(placed, f"{'.'.join(path)}: {reason}")


EXAMPLES: dict[str, dict[str, Any]] = {
    "weekdays": {
        "summary": "On weekdays at nine, in Vienna",
        "value": {
            "name": "morning report",
            "cron": "0 9 * * 1-5",
            "time_zone": "Europe/Vienna",
            "missed": "run_once",
            "task": {"input": "Summarise the night.", "agent": "analyst", "metadata": {"order": "4711"}},
        },
    },
    "hourly": {"summary": "Each hour", "value": {"cron": "0 * * * *", "task": {"input": "What is new?"}}},
}
CHANGES: dict[str, dict[str, Any]] = {
    "pause": {"summary": "No ticks for now", "value": {"enabled": False}},
    "later": {"summary": "Another time", "value": {"cron": "30 9 * * 1-5"}},
}
