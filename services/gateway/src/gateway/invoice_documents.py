"""Invoices as clients read them: in JSON, described for `/docs`, and as rows of a table."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from datetime import datetime
from io import StringIO
from typing import Any, Literal

from pydantic import Field

from gateway.documents import Document

AMOUNT = Field(pattern=r"^-?[0-9]+(\.[0-9]+)?$", examples=["49.000123"], description="US dollars, exact")
_MONTH = Field(pattern=r"^[0-9]{4}-[0-9]{2}$", examples=["2026-10"])
_COLUMNS = (
    "month", "state", "document", "number", "kind", "provider", "model", "agent", "user_id", "calls", "input_tokens",
    "output_tokens", "amount_usd", "plan", "days", "of_days",
)  # fmt: skip
# What a spreadsheet would take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class InvoiceHead(Document):
    """One document of a month; `number` 0 is its invoice, later ones are credit notes."""

    month: str = _MONTH
    number: int
    kind: Literal["invoice", "credit_note"]
    state: Literal["draft", "final"] = Field(description="what is final never changes")
    total_usd: str | None = Field(
        pattern=r"^-?[0-9]+(\.[0-9]+)?$", description="US dollars, exact; null in the list for a draft"
    )
    issued_at: datetime | None


class InvoiceLine(Document):
    """What was used of a model by an agent and a user, or what the plan takes (`fee`) and gives (`allowance`)."""

    kind: Literal["usage", "allowance", "fee"]
    provider: str | None
    model: str | None
    agent: str | None
    user_id: str | None
    calls: int
    input_tokens: int = Field(description="cached ones included")
    output_tokens: int
    amount_usd: str = AMOUNT
    plan: str | None = Field(description="of a fee: the plan's; there is a line for each plan that the tenant had")
    days: int | None = Field(description="of a fee: for how many of the month's days, of the tenant's time zone")
    of_days: int | None = Field(description="of a fee: how many days the month has")


class Invoice(InvoiceHead):
    """A document with its lines, which sum to its total."""

    lines: list[InvoiceLine]


class InvoiceList(Document):
    """What was issued, and a draft for each month for which nothing was; newest first."""

    invoices: list[InvoiceHead]


class InvoiceMonth(Document):
    """All that is owed for a month: its invoice with its credit notes, or its draft."""

    month: str = _MONTH
    state: Literal["draft", "final"]
    total_usd: str = AMOUNT
    documents: list[Invoice]


class LabelLine(Document):
    """The charges of the calls whose task has this value; null: of tasks without the label."""

    value: str | None
    calls: int
    amount_usd: str = AMOUNT


class InvoiceByLabel(Document):
    """The charges of a month's calls by the values of a label of their tasks' metadata.

    They sum to the usage lines of the month's documents; fee and allowance belong to no label.
    """

    month: str = _MONTH
    label: str
    lines: list[LabelLine]
    total_usd: str = AMOUNT


def as_csv(month: Mapping[str, Any]) -> str:
    """All lines of a month, one a row; they sum to its total."""
    text = StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for document in month["documents"]:
        head = [document["month"], document["state"], document["kind"], document["number"]]
        for line in document["lines"]:
            named = [cell(line[name]) for name in ("kind", "provider", "model", "agent", "user_id")]
            counted = [line[name] for name in ("calls", "input_tokens", "output_tokens", "amount_usd")]
            writer.writerow([*head, *named, *counted, cell(line["plan"]), line["days"], line["of_days"]])
    return text.getvalue()


def cell(value: str | None) -> str:
    """Text that tenants choose, such as a user's id, is no formula."""
    return "" if value is None else f"'{value}" if value.startswith(_FORMULA) else value
