"""The contracts on the wire, pinned by one file each.

A change of a golden file is a change of what other services, of an older or newer version, must read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.contracts import CONTRACTS, Contract, decode
from common.errors import DecodeError

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*.json"))


def _newest(contract: type[Contract]) -> Path:
    return GOLDEN / f"{contract.KIND}.v{contract.model_fields['version'].default}.json"


def _document(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def test_every_contract_has_a_golden_file_and_every_file_a_contract() -> None:
    assert {_newest(contract).name for contract in CONTRACTS.values()} <= {path.name for path in FILES}
    assert {path.name.rpartition(".v")[0] for path in FILES} == set(CONTRACTS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_version_still_decodes(path: Path) -> None:
    document = _document(path)
    contract = decode(document["kind"], path.read_bytes())
    assert contract.kind == document["kind"]


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=lambda contract: contract.KIND)
def test_encoding_is_what_the_file_says(contract: type[Contract]) -> None:
    path = _newest(contract)
    message = contract.decode(path.read_bytes())
    assert json.loads(message.encode()) == _document(path)
    assert contract.decode(message.encode()) == message


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=lambda contract: contract.KIND)
def test_a_golden_file_shows_every_field(contract: type[Contract]) -> None:
    assert set(_document(_newest(contract))) == set(contract.model_fields)


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=lambda contract: contract.KIND)
def test_a_field_of_a_newer_sender_is_ignored(contract: type[Contract]) -> None:
    path = _newest(contract)
    newer = {**_document(path), "field_of_next_year": {"deep": [1]}}
    assert contract.decode(json.dumps(newer).encode()) == contract.decode(path.read_bytes())


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=lambda contract: contract.KIND)
def test_fields_without_which_there_is_no_message_are_named(contract: type[Contract]) -> None:
    document = _document(_newest(contract))
    for name, field in contract.model_fields.items():
        if field.is_required():
            without = {key: value for key, value in document.items() if key != name}
            with pytest.raises(DecodeError, match=f"{contract.KIND}: {name}: Field required"):
                contract.decode(json.dumps(without).encode())


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=lambda contract: contract.KIND)
def test_a_version_from_the_future_is_refused(contract: type[Contract]) -> None:
    future = {**_document(_newest(contract)), "version": 999}
    with pytest.raises(DecodeError, match="version"):
        contract.decode(json.dumps(future).encode())
