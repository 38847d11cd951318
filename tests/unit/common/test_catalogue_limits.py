"""What the catalogue says of providers' limits: watermarks by tier, and limits by model."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from common.catalogue import Catalogue, load_catalogue
from common.errors import ConfigurationError

CATALOGUE = Path(__file__).parents[3] / "deploy" / "catalogue"


def loaded(tmp_path: Path, tiers: list[dict[str, object]], **limits: object) -> Catalogue:
    for name in ("agents", "models"):
        (tmp_path / f"{name}.yaml").write_text((CATALOGUE / f"{name}.yaml").read_text())
    models = yaml.safe_load((CATALOGUE / "models.yaml").read_text())
    models["models"][0].update(limits)
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(models))
    (tmp_path / "tiers.yaml").write_text(yaml.safe_dump({"tiers": tiers}))
    return load_catalogue(tmp_path)


def tiers(*watermarks: object) -> list[dict[str, object]]:
    return [
        {"name": f"t{number}", "weight": 1, **({} if mark is None else {"watermark": mark})}
        for number, mark in enumerate(watermarks)
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((None,), [0.0]),
        ((None, None), [0.0, 0.4]),
        ((None, None, None), [0.0, 0.2, 0.4]),
        ((0.1, 0.1, 0.9), [0.1, 0.1, 0.9]),
        ((None, 0.3, None), [0.0, 0.3, 0.4]),
    ],
)
def test_watermarks_are_as_given_or_evenly_spread(
    tmp_path: Path, given: tuple[object, ...], expected: list[float]
) -> None:
    assert list(loaded(tmp_path, tiers(*given)).watermarks.values()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((0.3, 0.2), "the better tier 't0' 0.3"),
        ((None, 0.5, None), "tier 't2' has the watermark 0.4"),
        ((0, 1), "tiers.1.watermark: Input should be less than 1"),
        ((-0.1, 0), "tiers.0.watermark: Input should be greater than or equal to 0"),
        ((0, "half"), "tiers.1.watermark"),
    ],
)
def test_what_would_favour_a_worse_tier_is_refused(tmp_path: Path, given: tuple[object, ...], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        loaded(tmp_path, tiers(*given))


def test_a_models_limits_are_its_own(tmp_path: Path) -> None:
    first, second, *_ = loaded(tmp_path, tiers(None), requests_per_minute=50, tokens_per_minute=40_000).models
    assert (first.requests_per_minute, first.tokens_per_minute) == (50, 40_000)
    assert (second.requests_per_minute, second.tokens_per_minute) == (None, None)


def test_a_limit_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"models\.0\.requests_per_minute"):
        loaded(tmp_path, tiers(None), requests_per_minute=0)
