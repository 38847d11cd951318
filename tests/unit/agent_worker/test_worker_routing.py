"""Which class of model the rules pick, and what they say of why."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.resilience.routing import Asked, pick
from common.catalogue import AutoRule


def rule(class_: str, **conditions: Any) -> AutoRule:
    return AutoRule(**{"class": class_, **conditions})


RULES = (
    rule("strong", keywords=("prove", "step by step")),
    rule("strong", tools=True, longer_than=20),
    rule("standard", longer_than=10),
    rule("simple"),
)


@pytest.mark.parametrize(
    ("texts", "tools", "model_class", "reason"),
    [
        (["hello"], False, "simple", "rule 4, class simple: no other rule fits"),
        (["Please PROVE it"], False, "strong", "rule 1, class strong: the newest message says 'prove'"),
        (["go\nstep by step."], True, "strong", "rule 1, class strong: the newest message says 'step by step'"),
        (["improve it"], False, "simple", "rule 4, class simple: no other rule fits"),
        (
            ["0123456789", "01234567890"],
            True,
            "strong",
            "rule 2, class strong: the input has 21 characters, more than 20 and the agent has tools",
        ),
        (["0123456789", "01234567890"], False, "standard", "rule 3, class standard: the input has 21 characters, more"),
        (["prove it", "ok"], False, "simple", "rule 4"),
    ],
)
def test_the_first_rule_that_fits(texts: list[str], tools: bool, model_class: str, reason: str) -> None:
    picked = pick(RULES, Asked(texts, tools))
    assert picked.model_class == model_class
    assert picked.reason.startswith(reason)


def test_a_keyword_is_no_pattern() -> None:
    rules = (rule("strong", keywords=("c++", "a.c")), rule("simple"))
    assert pick(rules, Asked(["in c++ please"], False)).model_class == "strong"
    assert pick(rules, Asked(["abc"], False)).model_class == "simple"


CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "longer_than": st.integers(0, 50),
        "tools": st.booleans(),
        "keywords": st.lists(st.text("ab .*", min_size=1, max_size=4), max_size=2),
    },
)


@given(st.lists(CONDITIONS, max_size=5), st.lists(st.text("ab .*", max_size=30), min_size=1), st.booleans())
def test_every_task_gets_a_class_and_the_same_each_time(
    conditions: list[dict[str, Any]], texts: list[str], tools: bool
) -> None:
    rules = (*(rule("strong", **each) for each in conditions), rule("simple"))
    picked = pick(rules, Asked(texts, tools))
    assert picked == pick(rules, Asked(list(texts), tools))
    assert picked.reason.startswith("rule ")
