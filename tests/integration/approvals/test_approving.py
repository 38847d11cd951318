"""A tool call that waits for a person: shown, decided at the gateway, made at most once, whoever dies meanwhile."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from agent_worker.providers.base import TextDelta, ToolCall
from common import streams
from common.contracts.base import now
from tests.integration.agent_worker.world import Played, World
from tests.integration.approvals.office import LETTER, THANKS, Office, Post, opened
from tests.integration.gateway.conftest import Running, forget

BOTH = (*LETTER, ToolCall("c2", "postcode", {"city": "Bern"}), ToolCall("c3", "send", {"to": "bob"}))
WAITING = {"call_id": "c1", "tool": "send", "arguments": {"to": "ann", "copies": 1}}


async def _stream(office: Office) -> list[tuple[str, dict[str, Any]]]:
    return [(event.type, event.data) for event in await office.world.stream(office.task)]


async def test_a_call_waits_without_a_slot_and_is_made_once_it_is_approved(world: World, gateway: Running) -> None:
    office = await opened(world, gateway)
    parked = (await office.waiting())["parked"]
    await office.worker.idle()
    assert (parked["reason"], parked["key"], parked["calls"]) == ("approval", None, [WAITING])
    assert timedelta(hours=23) < datetime.fromisoformat(parked["until"]) - now() <= timedelta(hours=24)
    assert office.post.sent == []
    (told,) = [data for _, data in await _stream(office) if data.get("status") == "parked"]
    assert (told["reason"], told["calls"]) == ("approval", [WAITING])

    answer = await office.decide("approve", user_id="zoe")
    assert (answer.status_code, answer.json()["decision"]) == (200, "approve")
    end = await world.heard.end(office.task.task_id)
    assert (end.status, end.output, end.steps, end.attempts) == ("completed", "Done.", 2, 1)
    assert office.post.sent == ["ann:1"]
    assert [block["content"] for block in office.told_the_model()] == ["sent to ann"]
    assert len(office.provider.requests) == 2, "the model was not asked again for what it had said"
    assert end.usage.output_tokens == sum(record.usage.output_tokens for record in world.heard.usage(end.task_id))


async def test_who_decided_what_and_when_is_kept_and_told(world: World, gateway: Running) -> None:
    office = await opened(world, gateway)
    await office.waiting()
    (before,) = await office.approvals()
    assert (before["decision"], before["on_timeout"], before["step"]) == (None, "deny", 1)
    answer = await office.decide("approve", user_id="zoe", reason="she asked for it")
    await world.heard.end(office.task.task_id)
    (after,) = await office.approvals()
    key = office.tenant.key.split("_")[1]
    assert (after["decision"], after["decided_by"], after["user_id"]) == ("approve", f"key:{key}", "zoe")
    assert (after["reason"], after["decided_at"]) == ("she asked for it", answer.json()["decided_at"])

    async def told() -> list[dict[str, Any]]:
        return [data["approvals"][0] for _, data in await _stream(office) if "approvals" in data]

    await world.until(told)
    (decided,) = await told()
    assert (decided["call_id"], decided["decision"], decided["decided_by"]) == ("c1", "approve", f"key:{key}")


async def test_changed_arguments_are_checked_and_used(world: World, gateway: Running) -> None:
    office = await opened(world, gateway)
    await office.waiting()
    wrong = await office.decide("edit", arguments={"to": "bob", "copies": "many", "stamp": 1})
    assert wrong.status_code == 422
    assert {error["pointer"] for error in wrong.json()["errors"]} == {"#/arguments", "#/arguments/copies"}
    assert (await office.waiting())["parked"]["calls"] == [WAITING]
    right = await office.decide("edit", arguments={"to": "bob", "copies": 2})
    assert right.status_code == 200
    assert (await world.heard.end(office.task.task_id)).status == "completed"
    assert office.post.sent == ["bob:2"]
    (result,) = office.told_the_model()
    assert result["content"].startswith("[A person changed the arguments")
    assert result["content"].endswith("sent to bob")


async def test_of_a_denial_the_model_is_told_the_reason(world: World, gateway: Running) -> None:
    office = await opened(world, gateway)
    await office.waiting()
    assert (await office.decide("deny", reason="not on a Sunday")).status_code == 200
    assert (await world.heard.end(office.task.task_id)).status == "completed"
    assert office.post.sent == []
    (result,) = office.told_the_model()
    assert (result["is_error"], result["content"]) == (True, "A person denied this call: not on a Sunday")
    kinds = [kind for kind, _ in await _stream(office)]
    assert "tool_start" not in kinds


async def test_it_goes_on_when_all_calls_of_the_step_are_decided(world: World, gateway: Running) -> None:
    office = await opened(world, gateway, BOTH, THANKS)
    assert [call["call_id"] for call in (await office.waiting())["parked"]["calls"]] == ["c1", "c3"]
    assert (await office.decide("deny", "c3")).status_code == 200
    assert [call["call_id"] for call in (await office.waiting())["parked"]["calls"]] == ["c1"]
    assert (await office.decide("approve", "c1")).status_code == 200
    await world.heard.end(office.task.task_id)
    assert office.post.sent == ["ann:1"]
    denied = "A person denied this call, without giving a reason."
    assert [block["content"] for block in office.told_the_model()] == ["sent to ann", "3000", denied]


async def test_what_does_not_fit_the_tool_is_nobodys_to_approve(world: World, gateway: Running) -> None:
    wrong = (ToolCall("c1", "send", {"to": 4711}),)
    office = await opened(world, gateway, wrong, THANKS)
    assert (await world.heard.end(office.task.task_id)).status == "completed"
    assert office.post.sent == []
    assert "'to'" in office.told_the_model()[0]["content"]


async def test_calls_that_share_an_id_are_decided_one_by_one(world: World, gateway: Running) -> None:
    same = (
        ToolCall("x", "send", {"to": "ann"}),
        ToolCall("x", "send", {"to": "bob"}),
        ToolCall("", "send", {"to": "cy"}),
    )
    office = await opened(world, gateway, same, THANKS)
    calls = (await office.waiting())["parked"]["calls"]
    assert [call["call_id"] for call in calls] == ["x", "x~1", "call~2"]
    for name, decision in (("x", "deny"), ("x~1", "approve"), ("call~2", "deny")):
        assert (await office.decide(decision, name)).status_code == 200
    await world.heard.end(office.task.task_id)
    assert office.post.sent == ["bob:1"]


async def test_the_same_decision_again_changes_nothing_and_another_is_refused(world: World, gateway: Running) -> None:
    office = await opened(world, gateway)
    await office.waiting()
    first = await office.decide("approve")
    again = await office.decide("approve")
    assert (again.status_code, again.json()) == (200, first.json())
    other = await office.decide("deny")
    assert (other.status_code, other.json()["type"]) == (409, "urn:laneway:problem:already-decided")
    assert f"approve, by {first.json()['decided_by']}, at " in other.json()["detail"]
    await world.heard.end(office.task.task_id)
    late = await office.decide("approve")
    assert (late.status_code, late.json()) == (200, first.json())
    assert office.post.sent == ["ann:1"]


async def test_a_decision_on_what_does_not_wait_is_refused(world: World, gateway: Running) -> None:
    office = await opened(world, gateway)
    await office.waiting()
    wrong = await office.decide("approve", "c9")
    assert (wrong.status_code, wrong.json()["detail"]) == (404, "No call 'c9' waits for approval. Those that do: 'c1'.")
    stranger = await gateway.tenant()
    body = {"call_id": "c1", "decision": "approve"}
    other = await office.post_json(body, stranger)
    listed = await gateway.client.get(f"/v1/tasks/{office.task.task_id}/approvals", headers=stranger.headers)
    nowhere = await gateway.client.post(f"/v1/tasks/{uuid4()}/approvals", json=body, headers=office.tenant.headers)
    assert [answer.status_code for answer in (other, listed, nowhere)] == [404, 404, 404]
    assert office.post.sent == []
    assert (await gateway.client.post(f"/v1/tasks/{office.task.task_id}/approvals", json=body)).status_code == 401

    plain = world.task(tenant_id=office.tenant.id, agent="supervised", not_before=now() + timedelta(hours=1))
    await world.submit(plain)

    async def refused() -> bool:
        path = f"/v1/tasks/{plain.task_id}/approvals"
        answer = await gateway.client.post(path, json=body, headers=office.tenant.headers)
        return answer.status_code == 409 and "is parked, and nothing" in answer.json()["detail"]

    await world.until(refused)
    await world.cancel(office.task)
    await world.heard.end(office.task.task_id)
    ended = await office.decide("approve")
    assert (ended.status_code, ended.json()["type"]) == (409, "urn:laneway:problem:not-waiting")
    assert "ended as cancelled" in ended.json()["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"decision": "approve"}, "call_id"),
        ({"call_id": "c1"}, "decision"),
        ({"call_id": "c1", "decision": "perhaps"}, "decision"),
        ({"call_id": "c1", "decision": "edit"}, ""),
        ({"call_id": "c1", "decision": "approve", "arguments": {}}, ""),
        ({"call_id": "c1", "decision": "edit", "arguments": [1]}, "arguments"),
        ({"call_id": "c1", "decision": "deny", "reason": "\0"}, "reason"),
        ({"call_id": "c1", "decision": "approve", "tool": "send"}, "tool"),
        (["c1"], ""),
    ],
)
async def test_a_body_that_is_wrong_is_said_to_be(gateway: Running, body: Any, field: str) -> None:
    tenant = await gateway.tenant()
    answer = await gateway.client.post(f"/v1/tasks/{uuid4()}/approvals", json=body, headers=tenant.headers)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == field


@pytest.mark.parametrize(
    ("policy", "status", "sent"),
    [("deny", "completed", []), ("approve", "completed", ["ann:1"]), ("expire", "expired", [])],
)
async def test_what_nobody_decides_the_policy_decides_in_time(
    world: World, gateway: Running, policy: str, status: str, sent: list[str]
) -> None:
    office = await opened(world, gateway, terms={"timeout_seconds": 1.0, "on_timeout": policy})
    end = await world.heard.end(office.task.task_id, 30)
    assert (end.status, office.post.sent) == (status, sent)
    (decided,) = await office.approvals()
    assert (decided["decision"], decided["decided_by"]) == (policy, "policy")
    assert datetime.fromisoformat(decided["decided_at"]) >= datetime.fromisoformat(decided["expires_at"])
    late = await office.decide("approve" if policy != "approve" else "deny")
    assert (late.status_code, late.json()["type"]) == (409, "urn:laneway:problem:already-decided")
    if policy == "deny":
        assert "in time" in office.told_the_model()[0]["content"]
    if policy == "expire":
        assert end.error is not None
        assert (end.error.type, end.usage.output_tokens) == ("approval_expired", 2)


async def test_a_cancel_ends_what_waits(world: World, gateway: Running) -> None:
    office = await opened(world, gateway)
    await office.waiting()
    await office.worker.idle()
    await world.cancel(office.task)
    end = await world.heard.end(office.task.task_id)
    assert (end.status, office.post.sent) == ("cancelled", [])
    assert end.usage.output_tokens == 2, "what the model said before is paid for"


async def test_it_waits_through_a_restart_and_a_flushall(world: World, gateway: Running) -> None:
    office = await opened(world, gateway)
    await office.waiting()
    await office.worker.idle()
    office.worker.supervisor.runner.drain()  # type: ignore[union-attr]
    await world.state.delete(streams.key(office.tenant.id, office.task.task_id))
    await forget(world.state, office.tenant)
    second, post = Played(LETTER, THANKS), Post()
    await world.worker(second, boxes={"supervised": post.toolbox()})
    assert (await office.decide("approve")).status_code == 200
    end = await world.heard.end(office.task.task_id)
    assert (end.status, end.output, post.sent, office.post.sent) == ("completed", "Done.", ["ann:1"], [])


async def test_a_call_that_was_begun_by_a_worker_that_died_is_not_made_again(world: World, gateway: Running) -> None:
    post = Post()
    post.go.clear()
    office = await opened(world, gateway, post=post)
    await office.waiting()
    await office.decide("approve")

    async def begun() -> bool:
        return post.sent == ["ann:1"]

    await world.until(begun)
    second = Played(LETTER, THANKS)
    office.worker.leases.cancel()  # it is as good as dead: its lease runs out
    await world.worker(second, boxes={"supervised": post.toolbox()})
    for _ in range(2):  # as the broker does; the dead one's consumer takes one of them
        await world.submit(office.task)
    end = await world.heard.end(office.task.task_id, 30)
    assert (end.status, post.sent) == ("completed", ["ann:1"])
    (result,) = [block for block in second.requests[-1].turns[-1].content if block["type"] == "tool_result"]
    assert result["is_error"]
    assert "not known" in result["content"]
    post.go.set()


async def test_what_nobody_approves_beside_it_is_made_once_too(world: World, gateway: Running) -> None:
    both = (*LETTER, ToolCall("c2", "stamp", {"sheet": "one"}))
    post = Post()
    post.go.clear()
    office = await opened(world, gateway, both, THANKS, post=post)
    assert [call["call_id"] for call in (await office.waiting())["parked"]["calls"]] == ["c1"]
    assert post.stamped == [], "the step waits as a whole"
    await office.decide("approve")

    async def noted() -> bool:
        query = "SELECT result FROM runtime.intents WHERE task_id = $1 AND index = 1"
        return post.sent == ["ann:1"] and await world.owner.fetchval(query, office.task.task_id) is not None

    await world.until(noted)
    second = Played(both, THANKS)
    office.worker.leases.cancel()  # as above
    await world.worker(second, boxes={"supervised": post.toolbox()})
    for _ in range(2):
        await world.submit(office.task)
    end = await world.heard.end(office.task.task_id, 60)
    post.go.set()
    assert (end.status, post.sent, post.stamped) == ("completed", ["ann:1"], ["one"])
    letter, stamp = [block for block in second.requests[-1].turns[-1].content if block["type"] == "tool_result"]
    assert "not known" in letter["content"]
    assert (stamp["content"], stamp["is_error"]) == ("stamped one", False)
    assert [approval["call_id"] for approval in await office.approvals()] == ["c1"]


async def test_what_nobody_is_asked_about_is_no_approval(world: World, gateway: Running) -> None:
    office = await opened(world, gateway, (ToolCall("c1", "stamp", {"sheet": "one"}),), THANKS)
    assert (await world.heard.end(office.task.task_id)).status == "completed"
    assert office.post.stamped == ["one"]
    assert await office.approvals() == []
    assert (await office.shown()).get("parked") is None
    answer = await office.decide("approve")
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:laneway:problem:not-waiting")


async def test_two_steps_that_are_both_approved(world: World, gateway: Running) -> None:
    again = (TextDelta("Once more. "), ToolCall("c1", "send", {"to": "bob"}))
    office = await opened(world, gateway, LETTER, again, THANKS)
    await office.waiting()
    await office.decide("approve")

    async def second() -> bool:
        return bool((await office.waiting())["parked"]["calls"][0]["arguments"] == {"to": "bob"})

    await world.until(second)
    assert (await office.decide("approve")).status_code == 200
    end = await world.heard.end(office.task.task_id)
    assert (end.output, end.steps, office.post.sent) == ("Done.", 3, ["ann:1", "bob:1"])
    assert [message.role for message in end.messages] == ["assistant", "tool", "assistant", "tool", "assistant"]
    assert [approval["step"] for approval in await office.approvals()] == [1, 2]
