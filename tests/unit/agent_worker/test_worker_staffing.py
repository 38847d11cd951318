"""Who runs a task where its tenant's plan does not have every model: the plan's own, as fallbacks and by `auto` too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.providers.base import Provider
from agent_worker.providers.scripted import Scripted
from agent_worker.resilience.breakers import Breakers
from agent_worker.resilience.circuit import Rules
from agent_worker.staffing import Staffed, Staffing
from common.catalogue import Agent, AutoRule, Catalogue, Model, Price, Tier
from common.contracts import TaskSubmitted
from common.contracts.base import now
from common.contracts.tasks import InputMessage
from common.pipelining import Pipelined
from tests.unit.agent_worker.serving import Away


def _model(name: str, class_: str, *fallbacks: str, api: str = "scripted") -> Model:
    given: dict[str, Any] = {"provider": "anthropic", "api": api, "window": 1000, "max_output": 100, "class": class_}
    return Model(name=name, price=Price(provider="anthropic", model=name), fallbacks=fallbacks, **given)


MODELS = (
    _model("small", "simple", "middle", "large"),
    _model("middle", "standard", "small", "large", "larger"),
    _model("large", "strong", "larger", "middle", "small"),
    _model("larger", "strong"),
    _model("unreachable", "strong", api="chat"),
)
NAMES = tuple(model.name for model in MODELS)
REACHABLE = NAMES[:4]
CATALOGUE = Catalogue(
    tiers=(Tier(name="free", weight=1),),
    models=MODELS,
    agents=(Agent(name="default", version=1, system="", model="auto"),),
    auto=(
        AutoRule(**{"class": "strong", "keywords": ("prove",)}),
        AutoRule(**{"class": "standard", "longer_than": 20}),
        AutoRule(**{"class": "simple"}),
    ),
)
PROVIDERS: dict[str, Provider] = {"scripted": Scripted()}
STAFFING = Staffing(CATALOGUE, PROVIDERS, Breakers(cast(Pipelined, Away()), CATALOGUE, Rules()))
TEXTS = st.sampled_from(["hello", "please prove it", "a text of more than twenty characters"])
PLANS = st.lists(st.sampled_from([*NAMES, "gone"]), unique=True)


def _staffed(plan: Sequence[str] | None, model: str | None = None, text: str = "hello") -> Staffed | None:
    return STAFFING.of(
        TaskSubmitted(
            task_id=UUID(int=1),
            tenant_id=UUID(int=2),
            tier="free",
            level=30,
            priority=5,
            agent="default",
            model=model,
            models=None if plan is None else tuple(plan),
            input=(InputMessage(role="user", content=text),),
            request_hash="",
            submitted_at=now(),
        )
    )


def _names(staffed: Staffed | None) -> list[str]:
    return [] if staffed is None else [served.model.name for served in staffed.models]


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (None, ["middle", "small", "large", "larger"]),
        (["middle", "large"], ["middle", "large"]),
        (["larger", "small", "middle"], ["middle", "small", "larger"]),  # in the catalogue's order
        (["middle"], ["middle"]),
    ],
)
def test_only_models_of_the_plan_stand_in(plan: list[str] | None, expected: list[str]) -> None:
    assert _names(_staffed(plan, "middle")) == expected


def test_a_model_that_was_asked_for_and_is_none_of_the_plans_is_left_to_be_refused_by_name() -> None:
    # The plan has lost it since the task was submitted: `billing.reserve` says so, and no other one answers instead.
    assert _names(_staffed(["unreachable"], "large")) == ["large"]


@pytest.mark.parametrize(
    ("plan", "model", "reason"),
    [
        (None, "large", "rule 1, class strong: the newest message says 'prove'"),
        (["small", "larger"], "larger", "rule 1, class strong: the newest message says 'prove'"),
        (
            ["unreachable", "middle", "small"],
            "small",
            "rule 1, class strong: the newest message says 'prove'; the plan allows none of that class",
        ),
    ],
)
def test_auto_picks_of_the_plans_models(plan: list[str] | None, model: str, reason: str) -> None:
    staffed = _staffed(plan, text="prove it")
    assert staffed is not None
    assert staffed.routing is not None
    assert (_names(staffed)[0], staffed.routing.model, staffed.routing.reason) == (model, model, reason)


@given(plan=PLANS, text=TEXTS)
def test_whatever_the_plan_and_the_task_auto_asks_no_other_model(plan: list[str], text: str) -> None:
    names = _names(_staffed(plan, text=text))
    assert set(names) <= set(plan) & set(REACHABLE)
    assert bool(names) == bool(set(plan) & set(REACHABLE))  # and one of them, where there is one
    assert names == _names(_staffed(plan, text=text))


@given(plan=PLANS, model=st.sampled_from(REACHABLE))
def test_whatever_the_plan_no_fallback_is_another_ones(plan: list[str], model: str) -> None:
    first, *others = _names(_staffed(plan, model))
    assert first == model
    assert set(others) <= set(plan)
    assert others == [name for name in _names(_staffed(None, model))[1:] if name in plan]


def test_a_plan_without_a_model_that_can_be_reached_has_nobody_to_run_it() -> None:
    assert _staffed(["unreachable", "gone"]) is None
    assert _staffed([]) is None
