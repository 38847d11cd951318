from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.passages import passages


@given(st.text(alphabet="ab .\n🎈", max_size=12_000) | st.text(max_size=4_000))
def test_passages_are_the_document(text: str) -> None:
    parts = list(passages(text))
    assert "".join(parts) == text
    assert all(0 < len(part) <= 1_500 for part in parts)
    assert all(len(part) >= 500 for part in parts[:-1])


def test_a_passage_ends_where_a_reader_would_end_it() -> None:
    paragraph = "One sentence. " * 60 + "\n\n"
    assert list(passages(paragraph * 2)) == [paragraph, paragraph]
    lines = "A line of a list\n" * 200
    assert all(part.endswith("list\n") for part in passages(lines))
    words = "word " * 1_000
    assert all(part.endswith("word ") for part in passages(words))
    assert [len(part) for part in passages("x" * 3_100)] == [1_500, 1_500, 100]
