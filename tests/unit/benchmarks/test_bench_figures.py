"""A figure knows its bounds, a page keeps what is around its table, and a picture can be drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.figures import Figure, Panel, aligned, within
from benchmarks.picture import draw
from benchmarks.suite import put_between_marks

PANEL = Panel("Waits", "ms", "% of tasks", {"alone": [(1.0, 50.0), (2.0, 100.0)]}, logarithmic=True)
SHARES = Panel("Shares", "s", "%", {"a": [(0.0, 1.0)], "b": [(0.0, 2.0)]}, levels={"a": 1.0, "b": 2.0})


def test_a_floor_of_so_many_times_and_a_slack_is_met_up_to_both_together() -> None:
    def verdict(ours: float) -> str:
        return within("wait", [ours], [10.0], times=2, slack=50, aim=1.2).verdict

    assert [verdict(ours) for ours in (12.0, 12.1, 70.0, 70.1)] == ["aim", "must", "must", "MISSED"]


def test_ratios_are_taken_run_by_run() -> None:
    figure = within("wait", [2.0, 30.0, 4.0], [1.0, 10.0, 2.0], times=2, slack=1, aim=1)

    assert figure.runs == (2.0, 3.0, 2.0)
    assert figure.must == pytest.approx(2 + 1 / 2.0)


def test_a_figure_with_a_panel_keeps_its_curves_in_the_json() -> None:
    assert Figure("wait", "ms", (1.0,), panel=PANEL).as_dict()["panel"]["curves"] == PANEL.curves
    assert "panel" not in Figure("wait", "ms", (1.0,)).as_dict()


def test_a_table_is_aligned_under_its_header() -> None:
    assert aligned([("a", "bb"), ("ccc", "d")]).splitlines() == ["| a   | bb |", "| --- | -- |", "| ccc | d  |"]


def test_only_what_is_between_the_marks_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- one: begin -->\nold\n<!-- one: end -->\nafter\n", encoding="utf-8")

    for _ in range(2):
        put_between_marks(page, "one", "new")

    text = page.read_text(encoding="utf-8")
    assert text == "before\n<!-- one: begin -->\n\nnew\n\n<!-- one: end -->\nafter\n"


def test_a_page_without_the_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("all of it\n", encoding="utf-8")

    with pytest.raises(ValueError, match=r"page\.md has no <!-- one: begin -->"):
        put_between_marks(page, "one", "new")

    assert page.read_text(encoding="utf-8") == "all of it\n"


def test_a_picture_names_its_panels_and_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"

    draw([PANEL, SHARES, PANEL], first)
    draw([PANEL, SHARES, PANEL], second)

    text = first.read_text(encoding="utf-8")
    assert text == second.read_text(encoding="utf-8")
    assert all(f"<!-- {words} -->" in text for words in ("Waits", "Shares", "% of tasks"))
