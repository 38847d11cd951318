"""What the catalogue says of models that stand in for others, and of the rules that pick one; and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from common.catalogue import Catalogue, load_catalogue
from common.errors import ConfigurationError

SHIPPED = Path(__file__).parents[3] / "deploy" / "catalogue"


def model(name: str, class_: str = "simple", **more: Any) -> dict[str, Any]:
    price = {"provider": "anthropic", "model": name}
    given = {"name": name, "provider": "anthropic", "api": "messages", "window": 1000, "max_output": 100}
    return {**given, "class": class_, "price": price, **more}


def loaded(tmp_path: Path, models: list[dict[str, Any]], agent: str | None = None, **more: Any) -> Catalogue:
    agents = [{"name": "default", "version": 1, "system": "", "model": agent or models[0]["name"]}]
    for name, document in (
        ("tiers", {"tiers": [{"name": "free", "weight": 1}]}),
        ("models", {"models": models, **more}),
        ("agents", {"agents": agents}),
    ):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(document))
    return load_catalogue(tmp_path)


def refused(tmp_path: Path, models: list[dict[str, Any]], agent: str | None = None, **more: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, models, agent, **more)
    return str(caught.value)


def test_each_of_the_shipped_models_has_a_fallback_at_another_provider() -> None:
    catalogue = load_catalogue(SHIPPED)
    for declared in catalogue.models:
        others = [catalogue.model(name) for name in declared.fallbacks]
        assert any(other is not None and other.provider != declared.provider for other in others), declared.name


def test_two_models_may_stand_in_for_each_other(tmp_path: Path) -> None:
    catalogue = loaded(tmp_path, [model("a", fallbacks=["b"]), model("b", fallbacks=["a"])])
    assert [declared.fallbacks for declared in catalogue.models] == [("b",), ("a",)]


def test_a_fallback_that_is_not_declared(tmp_path: Path) -> None:
    said = refused(tmp_path, [model("a", fallbacks=["gone"])])
    assert "model 'a' falls back to 'gone', which is not declared" in said


@pytest.mark.parametrize(("fallbacks", "circle"), [(["a"], "a, a"), (["b", "a"], "a, b, a"), (["b", "b"], "a, b, b")])
def test_fallbacks_that_come_back(tmp_path: Path, fallbacks: list[str], circle: str) -> None:
    said = refused(tmp_path, [model("a", fallbacks=fallbacks), model("b")])
    assert f"the fallbacks of model 'a' go round in a circle: {circle}" in said


def test_an_agent_may_leave_its_model_to_the_rules(tmp_path: Path) -> None:
    catalogue = loaded(tmp_path, [model("a"), model("b", "strong")], "auto", auto=AUTO_RULES)
    assert [each.name for each in catalogue.models_for("auto")] == ["b", "a"]
    assert [each.name for each in catalogue.models_for("b")] == ["b"]
    assert catalogue.models_for("gone") == ()


AUTO_RULES = [{"class": "strong", "longer_than": 10}, {"class": "simple"}]


def test_without_rules_there_is_no_auto(tmp_path: Path) -> None:
    assert "agent 'default' names the model 'auto', which is not declared" in refused(tmp_path, [model("a")], "auto")
    assert loaded(tmp_path, [model("a")]).models_for("auto") == ()


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([{"class": "standard"}], "rule 1 of `auto` picks a standard model, and none is declared"),
        ([{"class": "simple", "tools": True}], "rule 1 of `auto` has conditions: the last rule, and it alone"),
        ([{"class": "simple"}, {"class": "simple"}], "rule 1 of `auto` has no conditions"),
        ([{"class": "best"}], "auto.0.class"),
        ([{"class": "simple", "shorter_than": 3}], "auto.0.shorter_than"),
        ([{"class": "simple", "longer_than": -1}], "auto.0.longer_than"),
    ],
)
def test_rules_that_would_not_do(tmp_path: Path, rules: list[dict[str, Any]], said: str) -> None:
    assert said in refused(tmp_path, [model("a")], auto=rules)


@pytest.mark.parametrize(
    ("field", "said"), [("fallback", "models.0.fallback: Extra inputs"), ("class", "models.0.class: Input should be")]
)
def test_a_field_that_is_none(tmp_path: Path, field: str, said: str) -> None:
    assert said in refused(tmp_path, [model("a") | {field: "b"}])


def test_a_model_without_the_name_of_a_price(tmp_path: Path) -> None:
    assert "models.0.price: Field required" in refused(
        tmp_path, [{k: v for k, v in model("a").items() if k != "price"}]
    )


def test_a_list_that_nobody_reads(tmp_path: Path) -> None:
    assert "has 'automatic', which is nothing: it has models and auto" in refused(tmp_path, [model("a")], automatic=[])


def test_no_model_is_named_as_the_rules_are(tmp_path: Path) -> None:
    assert "no model can be named 'auto'" in refused(tmp_path, [model("a"), model("auto")])


def test_the_first_of_a_class_that_can_be_reached(tmp_path: Path) -> None:
    catalogue = loaded(tmp_path, [model("a"), model("b", api="chat", provider="openai"), model("c", "strong")])
    first, reached = catalogue.first_of("simple"), catalogue.first_of("simple", {"chat"})
    assert (first and first.name, reached and reached.name) == ("a", "b")
    assert catalogue.first_of("strong", {"chat"}) is None
