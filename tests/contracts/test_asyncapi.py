"""The published description of the messages is what the code says."""

from __future__ import annotations

from pathlib import Path

from common.contracts import CONTRACTS
from common.messaging.asyncapi import ADDRESSES, render

_ROOT = Path(__file__).resolve().parents[2]


def test_the_document_is_the_one_the_code_makes() -> None:
    current = (_ROOT / "docs/asyncapi.yaml").read_text(encoding="utf-8")
    assert current == render(_ROOT / "deploy/catalogue"), (
        "run: .venv/bin/python -m common.messaging.asyncapi docs/asyncapi.yaml"
    )


def test_every_contract_has_its_address() -> None:
    assert ADDRESSES.keys() == CONTRACTS.keys()
