"""No NUL character reaches PostgreSQL, and nothing else is changed on the way."""

from __future__ import annotations

import json
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from common.postgres import to_json
from common.storable import REPLACEMENT, storable_json, storable_text

pieces = st.sampled_from(["\x00", "\\", "u0000", "a", '"', "\ufffd", "é"])
texts = st.lists(pieces, max_size=8).map("".join)
documents = st.recursive(
    texts | st.integers(-9, 9) | st.none(), lambda inner: st.lists(inner) | st.dictionaries(texts, inner)
)


def _expected(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\x00", REPLACEMENT)
    if isinstance(value, list):
        return [_expected(item) for item in value]
    return value


@given(st.lists(texts))
def test_every_nul_in_a_document_is_replaced_and_nothing_else(value: list[str]) -> None:
    for encoded in (orjson.dumps(value), json.dumps(value).encode()):
        assert orjson.loads(storable_json(encoded)) == _expected(value)


@given(documents)
def test_documents_stay_documents(value: Any) -> None:
    assert "\x00" not in str(orjson.loads(to_json(value)))


def test_text() -> None:
    assert storable_text("a\x00\\u0000") == "a\ufffd\\u0000"
