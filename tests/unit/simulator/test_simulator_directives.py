"""The grammar of directives, and the arithmetic of tokens."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.directives import parse
from simulator.errors import DirectiveInvalid
from simulator.script import Script
from simulator.tokens import count, filler, pieces


def test_a_prompt_without_directives_is_left_alone() -> None:
    assert parse("plain [[simple]] text") == ("plain [[simple]] text", Script())


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("[[sim tokens]]", "expected key=value"),
        ("[[sim tokens=3", "expected key=value"),
        ("[[sim tokens=]]", "has no value"),
        ("[[sim tokens=x]]", "valid integer"),
        ('[[sim text="open]]', "not JSON"),
        ("[[sim tool=x:{]]", "not JSON"),
        ("[[sim tokens=1 text=x]]", "not both"),
        ("[[sim tps=inf]]", "finite number"),
    ],
)
def test_what_is_wrong_with_a_directive_is_said(prompt: str, reason: str) -> None:
    with pytest.raises(DirectiveInvalid, match=reason):
        parse(prompt)


def test_directives_are_taken_out_and_read_as_one() -> None:
    parsed = parse("one [[sim tokens=3 ttft=0.5 ]]two[[sim tokens=4 quota=true fault=429]] three [[sim]]")
    assert parsed.text == "one two three"
    assert parsed.script == Script(tokens=4, ttft=0.5, quota=True, fault="429")


def test_json_values_may_hold_anything() -> None:
    parsed = parse(r'[[sim tool=a.b-c:{"x": "]] [[sim", "y": [[1]]} tool=plain text="say \"hi\"\n" ]] rest')
    assert parsed.text == "rest"
    assert [(call.name, call.arguments) for call in parsed.script.tool] == [
        ("a.b-c", {"x": "]] [[sim", "y": [[1]]}),
        ("plain", {}),
    ]
    assert parsed.script.text == 'say "hi"\n'


@given(st.text(), st.text(), st.text())
def test_any_text_survives_quoting(before: str, said: str, after: str) -> None:
    if "[[sim" in before + after:
        return
    parsed = parse(f"{before}[[sim text={json.dumps(said)}]]{after}")
    assert parsed.text == (before + after).strip()
    assert parsed.script.text == said


@given(st.text(min_size=1))
def test_a_text_is_streamed_in_as_many_pieces_as_it_counts_tokens(text: str) -> None:
    assert len(pieces(text)) == count(text)
    assert "".join(pieces(text)) == text


@given(st.integers(min_value=1, max_value=100))
def test_filler_counts_as_many_tokens_as_asked(tokens: int) -> None:
    assert count("".join(filler(tokens))) == tokens == len(filler(tokens))


def test_an_upper_layer_hides_the_whole_group_below() -> None:
    upper = Script(text="said")
    lower = Script(tokens=9, fault="500", fault_times=2, ttft=1)
    merged = upper.over(lower)
    assert (merged.text, merged.tokens, merged.fault, merged.fault_times, merged.ttft) == ("said", None, "500", 2, 1)
    assert Script(fault="none").over(lower).fault_times is None
