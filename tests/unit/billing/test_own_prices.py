"""A price file is taken as it is written, or refused with a sentence that says where it is wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from billing.own_prices import read_own_prices
from billing.price_versions import ALWAYS
from billing.pricebook import Rates
from common.errors import ConfigurationError

ENTRY = {
    "provider": "anthropic",
    "model": "m",
    "input": "0.1",
    "cache_read": "0.01",
    "cache_write_5m": "0.125",
    "cache_write_1h": "0.2",
    "output": "0.3000000001",
    "source": "contract 7",
}


def _file(directory: Path, *entries: dict[str, str], currency: str = "USD") -> Path:
    lines = [f"currency: {currency}", "prices:"]
    for entry in entries:
        first, *rest = [f"{name}: {value}" for name, value in entry.items()]
        lines += [f"  - {first}", *(f"    {line}" for line in rest)]
    path = directory / "prices.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_rates_are_as_they_are_written_and_dates_are_days_of_utc(tmp_path: Path) -> None:
    limited = {**ENTRY, "from": "2026-10-01", "until": "2026-12-01T02:00:00+02:00"}
    always, later = read_own_prices(_file(tmp_path, {**ENTRY, "model": "other"}, limited))
    assert always.rates == Rates(
        Decimal("0.1"), Decimal("0.01"), Decimal("0.125"), Decimal("0.2"), Decimal("0.3000000001")
    )
    assert (always.valid_from, always.valid_until) == (ALWAYS, None)
    assert later.valid_from == datetime(2026, 10, 1, tzinfo=UTC)
    assert later.valid_until == datetime(2026, 12, 1, tzinfo=UTC)


def test_versions_that_touch_do_not_overlap(tmp_path: Path) -> None:
    path = _file(tmp_path, {**ENTRY, "until": "2026-10-01"}, {**ENTRY, "from": "2026-10-01"})
    assert len(read_own_prices(path)) == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"input": "0"}, "prices.0.input: Input should be greater than 0"),
        ({"output": "-1"}, "prices.0.output: Input should be greater than 0"),
        ({"output": "NaN"}, "prices.0.output: Input should be a finite number"),
        ({"output": "0.00000000001"}, "prices.0.output: Decimal input should have no more than 10 decimal places"),
        ({"cache_read": "cheap"}, "prices.0.cache_read: Input should be a valid decimal"),
        ({"from": "2026-10-02", "until": "2026-10-02"}, "`until` must be after `from`"),
        ({"from": "1969-12-31"}, "not before 1970"),
        ({"from": "2026-10-01T12:00:00"}, "prices.0.from: it must be a day in UTC"),
        ({"until": "soon"}, "prices.0.until: it must be a day in UTC"),
        ({"inputs": "1"}, "prices.0.inputs: Extra inputs are not permitted"),
        ({"model": '""'}, "prices.0.model: String should have at least 1 character"),
    ],
)
def test_an_entry_that_is_wrong_is_refused_and_named(tmp_path: Path, changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_own_prices(_file(tmp_path, {**ENTRY, **changes}))
    assert sentence in str(refused.value)


@pytest.mark.parametrize("name", sorted(ENTRY))
def test_nothing_is_guessed(tmp_path: Path, name: str) -> None:
    entry = {key: value for key, value in ENTRY.items() if key != name}
    with pytest.raises(ConfigurationError, match=f"prices.0.{name}: Field required"):
        read_own_prices(_file(tmp_path, entry))


def test_another_currency_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match="currency: prices are in US dollars: the currency must be USD, not 'EUR'"
    ):
        read_own_prices(_file(tmp_path, ENTRY, currency="EUR"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {}),
        ({}, {"from": "2026-10-01"}),
        ({"until": "2026-10-02"}, {"from": "2026-10-01"}),
        ({"from": "2026-10-01", "until": "2026-10-09"}, {"from": "2026-10-03", "until": "2026-10-04"}),
    ],
)
def test_versions_that_overlap_are_refused_and_named(
    tmp_path: Path, one: dict[str, str], other: dict[str, str]
) -> None:
    for first, second in ((one, other), (other, one)):
        path = _file(tmp_path, {**ENTRY, "model": "m2"}, {**ENTRY, **first}, {**ENTRY, **second})
        with pytest.raises(ConfigurationError, match=r"prices\.1 and prices\.2 overlap: anthropic m has both"):
            read_own_prices(path)


@pytest.mark.parametrize(("text", "sentence"), [("{", "is not YAML"), ("7", "the file: "), ("", "the file: ")])
def test_what_is_no_price_file_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=sentence):
        read_own_prices(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_own_prices(tmp_path / "nowhere.yaml")
