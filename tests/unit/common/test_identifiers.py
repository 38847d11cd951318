"""Keys are the same each time they are made, and differ where the effects they guard do."""

from __future__ import annotations

from uuid import UUID, uuid4

from common.contracts.identifiers import attempt_id, task_id

TENANT, TASK = UUID(int=1), UUID(int=2)


def test_the_same_request_is_the_same_task() -> None:
    assert task_id(TENANT, "order-1") == task_id(TENANT, "order-1")
    assert task_id(TENANT, "order-1") != task_id(TENANT, "order-2")
    assert task_id(TENANT, "order-1") != task_id(uuid4(), "order-1")


def test_without_a_key_tasks_differ_and_sort_by_time() -> None:
    one, other = task_id(TENANT, None), task_id(TENANT, None)
    assert one.version == other.version == 7
    assert one < other


def test_an_attempt_is_a_call_of_a_step_of_a_task() -> None:
    assert attempt_id(TASK, 1, 1) == attempt_id(TASK, 1, 1)
    others = {attempt_id(TASK, 1, 2), attempt_id(TASK, 2, 1), attempt_id(TENANT, 1, 1), attempt_id(TASK, 11, 1)}
    assert attempt_id(TASK, 1, 1) not in others
    assert len(others) == 4


def test_ids_are_pinned() -> None:
    """A change here would make every task and call that is under way a new one."""
    assert str(task_id(TENANT, "order-1")) == "c6ead1f1-13ef-5d9e-a067-27a44fe5912e"
    assert str(attempt_id(TASK, 1, 1)) == "b7477df8-9ebd-56b4-995f-ee401382b817"
