"""Usage records as files: rows of a table, or a JSON document a line; as they are read, never all at once."""

from __future__ import annotations

import csv
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from io import StringIO
from typing import Any

import orjson

from gateway.invoice_documents import cell
from gateway.routes.raw import Json

COLUMNS = (
    "recorded_at", "attempt_id", "task_id", "step", "call", "user_id", "agent", "provider", "model", "input_tokens",
    "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens", "reasoning_tokens",
    "estimated", "cost_usd", "metadata",
)  # fmt: skip
Chunks = AsyncGenerator[Sequence[dict[str, Any]], None]


async def as_csv(chunks: Chunks) -> AsyncIterator[bytes]:
    """A header, then a row for each record; its metadata as JSON."""
    yield _rows([COLUMNS])
    async with aclosing(chunks):
        async for chunk in chunks:
            yield _rows([_cells(record) for record in chunk])


async def as_json_lines(chunks: Chunks) -> AsyncIterator[bytes]:
    """A document for each record."""
    render = Json({}).render
    async with aclosing(chunks):
        async for chunk in chunks:
            yield b"".join(render(record) + b"\n" for record in chunk)


def _cells(record: dict[str, Any]) -> list[object]:
    metadata = orjson.dumps(record["metadata"]).decode()
    named = {name: cell(record[name]) for name in ("user_id", "agent", "provider", "model")}
    told = {"recorded_at": record["recorded_at"].isoformat(), "estimated": str(record["estimated"]).lower()}
    values = record | named | told | {"metadata": metadata}
    return ["" if values[name] is None else values[name] for name in COLUMNS]


def _rows(rows: Sequence[Sequence[object]]) -> bytes:
    text = StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
