"""The body of a batch: checked whole before anything of it is taken, and every item's errors told at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.requests import Request

from common.catalogue import Catalogue
from gateway import problems
from gateway.failures import invalid_field, invalid_items, reasons
from gateway.problems import Problem
from gateway.requests import json_body
from gateway.schemas import TASK_REQUEST, TaskRequest, check_catalogue

MOST_TASKS = 1_000
_TOLD = 100
# Between two breaths for the other requests of this process.
_AT_A_TIME = 50
_FIELDS = {"tasks", "defaults"}

ItemError = tuple[int | None, tuple[str, ...], str]


async def read_batch(request: Request, catalogue: Catalogue) -> list[TaskRequest]:
    """The checked tasks of a batch, its defaults applied. Raises `Problem`."""
    body = await json_body(request)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise problems.INVALID.problem("The body is not JSON.") from error
    items, defaults = _parts(document)
    asked: list[TaskRequest] = []
    errors: dict[ItemError, None] = {}
    wrong = 0
    for index, item in enumerate(items):
        try:
            asked.append(_item(item, defaults, catalogue))
        except (ValidationError, Problem) as error:
            wrong += 1
            errors.update(dict.fromkeys(_placed(index, item, found) for found in _reasons(error)))
        if index % _AT_A_TIME == _AT_A_TIME - 1:
            await asyncio.sleep(0)
    if errors:
        raise refused(list(errors), wrong, len(items))
    return asked


def refused(errors: Sequence[ItemError], wrong: int, total: int) -> Problem:
    """The problem for a batch of which some tasks are wrong."""
    more = f" The first {_TOLD} of {len(errors)} errors are listed." if len(errors) > _TOLD else ""
    are = "task is" if wrong == 1 else "tasks are"
    return invalid_items(
        errors[:_TOLD], f"{wrong} of the batch's {total} {are} not valid, and nothing was taken.{more}"
    )


def _parts(document: object) -> tuple[list[object], Mapping[str, Any]]:
    if not isinstance(document, dict):
        raise problems.INVALID.problem('The body is not an object: send {"tasks": […]}.')
    for name in document.keys() - _FIELDS:
        raise invalid_field(name, "a batch has `tasks` and `defaults`, and nothing else")
    items, defaults = document.get("tasks"), document.get("defaults") or {}
    if not isinstance(items, list):
        raise invalid_field("tasks", f"must be a list of 1 to {MOST_TASKS} tasks, each as in POST /v1/tasks")
    if not items:
        raise invalid_field("tasks", "is empty: a batch has at least one task")
    if len(items) > MOST_TASKS:
        raise invalid_field("tasks", f"has {len(items)} tasks: send at most {MOST_TASKS} in a batch")
    if not isinstance(defaults, dict):
        raise invalid_field("defaults", "must be an object with fields of a task")
    return items, defaults


def _item(item: object, defaults: Mapping[str, Any], catalogue: Catalogue) -> TaskRequest:
    whole = {**defaults, **item} if isinstance(item, dict) else item
    # As text once more: only of text does the schema take what JSON has no type for, such as exact decimals.
    asked = TASK_REQUEST.validate_json(orjson.dumps(whole))
    check_catalogue(asked, catalogue)
    return asked


def _reasons(error: ValidationError | Problem) -> list[tuple[list[str], str]]:
    if isinstance(error, ValidationError):
        return reasons(error.errors(include_url=False, include_input=False, include_context=False))
    return [(str(one["field"]).split("."), str(one["reason"])) for one in error.errors or ()]


def _placed(index: int, item: object, found: tuple[list[str], str]) -> ItemError:
    """Where the client finds it: what an item has not said itself, the defaults have said, once for all items."""
    path, reason = found
    inherited = isinstance(item, dict) and bool(path) and path[0] not in item and reason != "Field required"
    return (None, ("defaults", *path), reason) if inherited else (index, ("tasks", str(index), *path), reason)
