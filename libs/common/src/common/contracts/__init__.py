"""The messages between services. This table is their table of contents; golden files under test pin their shape."""

from __future__ import annotations

from common.contracts.base import Contract
from common.contracts.budgets import BudgetWarned
from common.contracts.control import CancelRequested, CancelsRequested, PausesChanged, PrincipalsChanged
from common.contracts.runs import RunFinished, RunProgressed
from common.contracts.tasks import TaskSubmitted
from common.contracts.usage import UsageRecorded
from common.errors import DecodeError

CONTRACTS: dict[str, type[Contract]] = {
    contract.KIND: contract
    for contract in (
        TaskSubmitted,
        RunProgressed,
        RunFinished,
        UsageRecorded,
        BudgetWarned,
        CancelRequested,
        CancelsRequested,
        PausesChanged,
        PrincipalsChanged,
    )
}


def decode(kind: str | None, body: bytes) -> Contract:
    """Read a message of any kind. Raises `DecodeError` where the kind is unknown or the body does not fit it."""
    contract = CONTRACTS.get(kind or "")
    if contract is None:
        raise DecodeError(f"unknown kind of message: {kind!r}")
    return contract.decode(body)


__all__ = [
    "CONTRACTS",
    "BudgetWarned",
    "CancelRequested",
    "CancelsRequested",
    "Contract",
    "PausesChanged",
    "PrincipalsChanged",
    "RunFinished",
    "RunProgressed",
    "TaskSubmitted",
    "UsageRecorded",
    "decode",
]
