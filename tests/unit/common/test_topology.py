"""The topology is complete, and gives each service what it needs and nothing more."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from common.catalogue import LONGEST_RUN_SECONDS, Agent, load_catalogue
from common.messaging import topology as t
from common.messaging.apply import main

CATALOGUE = Path(__file__).parents[3] / "deploy" / "catalogue"
PLAN = t.topology(("enterprise", "pro", "free"))
LANES = {t.lane("enterprise"), t.lane("pro"), t.lane("free")}
QUEUES = {queue.name for queue in PLAN.queues}
WORKING = [policy for policy in PLAN.policies if not policy.pattern.startswith("^dead")]
RIGHTS = {permission.user: permission for permission in PLAN.permissions}


def test_every_tier_has_a_lane_bound_to_its_name() -> None:
    assert LANES <= QUEUES
    bound = {(b.queue, b.routing_key) for b in PLAN.bindings if b.source == t.TASKS and b.queue in LANES}
    assert bound == {(t.lane(tier), tier) for tier in ("enterprise", "pro", "free")}


def test_a_tier_is_configuration() -> None:
    plan = t.topology(("gold",))
    assert t.lane("gold") in {queue.name for queue in plan.queues}
    assert t.lane("free") not in {queue.name for queue in plan.queues}


def test_everything_that_is_bound_is_declared() -> None:
    assert {binding.source for binding in PLAN.bindings} <= {exchange.name for exchange in PLAN.exchanges}
    assert {binding.queue for binding in PLAN.bindings} == QUEUES


@pytest.mark.parametrize("queue", sorted(QUEUES))
def test_exactly_one_policy_matches_a_queue(queue: str) -> None:
    matching = [policy.name for policy in PLAN.policies if re.search(policy.pattern, queue)]
    assert len(matching) == 1


@pytest.mark.parametrize("policy", PLAN.policies, ids=lambda policy: policy.name)
def test_no_policy_drops_or_hoards_messages(policy: t.Policy) -> None:
    assert policy.definition["overflow"] == "reject-publish"
    assert policy.definition["max-length"] > 0
    assert "message-ttl" not in policy.definition


@pytest.mark.parametrize(
    "policy", [p for p in PLAN.policies if not p.pattern.startswith("^dead")], ids=lambda p: p.name
)
def test_what_fails_is_retried_later_and_dead_lettered_at_least_once(policy: t.Policy) -> None:
    definition = policy.definition
    assert definition["dead-letter-strategy"] == "at-least-once"
    assert definition["delivery-limit"] > 1
    assert definition["delayed-retry-type"] == "failed"
    assert 0 < definition["delayed-retry-min"] <= definition["delayed-retry-max"]
    routed = {
        b.queue for b in PLAN.bindings if (b.source, b.routing_key) == (t.DEAD, definition["dead-letter-routing-key"])
    }
    assert definition["dead-letter-exchange"] == t.DEAD
    assert len(routed) == 1


def test_dead_letters_are_kept_until_they_are_filed() -> None:
    (policy,) = [policy for policy in PLAN.policies if re.search(policy.pattern, t.DEAD_TASKS_QUEUE)]
    assert policy.definition["delivery-limit"] == -1
    assert policy.definition["delayed-retry-type"] == "failed"
    assert "dead-letter-exchange" not in policy.definition


def test_a_lane_waits_longer_for_an_acknowledgement_than_a_run_may_take() -> None:
    (policy,) = [policy for policy in PLAN.policies if re.search(policy.pattern, t.lane("free"))]
    assert policy.definition["consumer-timeout"] > 1.25 * LONGEST_RUN_SECONDS * 1000
    with pytest.raises(ValidationError, match="less than or equal"):
        Agent(name="slow", version=1, system="", model="m", timeout_seconds=LONGEST_RUN_SECONDS + 1)


def test_every_service_has_a_user_and_no_user_is_anothers() -> None:
    assert set(RIGHTS) == set(t.SERVICES)


@pytest.mark.parametrize(
    ("service", "reads", "writes"),
    [
        (
            t.GATEWAY,
            {t.CONTROL, t.control_queue("gateway-1")},
            {t.TASKS, t.CONTROL, t.control_queue("gateway-1")} | LANES,
        ),
        (t.AGENT_WORKER, LANES | {t.CONTROL, t.control_queue("w-1")}, {t.EVENTS, t.CONTROL, t.control_queue("w-1")}),
        (t.PERSISTER, {t.PERSISTER_QUEUE, t.DEAD_TASKS_QUEUE, t.DEAD_EVENTS_QUEUE}, {t.TASKS}),
        (t.BILLING, {t.BILLING_QUEUE}, {t.EVENTS}),
    ],
)
def test_rights_are_the_least_that_serve(service: str, reads: set[str], writes: set[str]) -> None:
    control = {name for name in reads | writes if name.startswith(f"{t.CONTROL}.")}
    names = QUEUES | {exchange.name for exchange in PLAN.exchanges} | {"amq.topic", "amq.default"} | control
    right = RIGHTS[service]
    assert {name for name in names if re.search(right.read, name)} == reads
    assert {name for name in names if re.search(right.write, name)} == writes
    assert {name for name in names if re.search(right.configure, name)} == control


def test_queue_arguments_hold_only_what_can_never_change() -> None:
    rendered = t.definitions(PLAN, "laneway")
    assert {json.dumps(queue["arguments"]) for queue in rendered["queues"]} == {'{"x-queue-type": "quorum"}'}


def test_the_export_is_what_the_broker_imports(tmp_path: Path) -> None:
    file = tmp_path / "definitions.json"
    assert main(["--export", str(file), "--catalogue", str(CATALOGUE)]) == 0
    assert json.loads(file.read_text(encoding="utf-8")) == t.definitions(
        t.topology(load_catalogue(CATALOGUE).tier_names), "laneway"
    )
