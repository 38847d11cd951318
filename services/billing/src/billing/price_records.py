"""All SQL about the price book itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from billing.price_versions import Difference, Version, version_document
from billing.repository import columns, price_of

if TYPE_CHECKING:
    from common.postgres import Connection

# One changes the book at a time. It is read meanwhile as always, and what the seed job adds cannot overlap.
LOCK_BOOK = "SELECT pg_advisory_xact_lock(7316003)"
BOOKED = "SELECT * FROM billing.prices WHERE superseded_at IS NULL ORDER BY provider, model, valid_from"


async def lock_book(connection: Connection) -> None:
    """Until the transaction ends."""
    await connection.execute(LOCK_BOOK)


async def booked(connection: Connection) -> list[Version]:
    """What the book says now, of all times."""
    rows = await connection.fetch(BOOKED)
    return [
        Version(
            row["provider"],
            row["model"],
            price_of(row).rates,
            row["valid_from"],
            row["valid_until"],
            row["source"],
            row["price_id"],
        )
        for row in rows
    ]


# After whatever the book was told last, though this transaction may have begun before.
NEXT = "SELECT greatest(clock_timestamp(), max(recorded_at) + interval '1 microsecond') FROM billing.prices"
SUPERSEDE = "UPDATE billing.prices SET superseded_at = $2 WHERE price_id = ANY ($1::bigint[])"
RECORD = """
INSERT INTO billing.prices (provider, model, valid_from, valid_until, input_mtok, cache_read_mtok, cache_write_5m_mtok,
  cache_write_1h_mtok, output_mtok, source, recorded_at, digest)
SELECT r.*, $11::timestamptz, $12::text
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::numeric[], $6::numeric[], $7::numeric[],
  $8::numeric[], $9::numeric[], $10::text[]) AS r
"""
LOG = """
INSERT INTO billing.price_changes (digest, applied_at, applied_by, reason, changes) VALUES ($1, $2, $3, $4, $5)
"""


async def apply(connection: Connection, change: Difference, by: str, reason: str) -> None:
    """Supersede and record, at one moment of the book's own time. The caller has locked the book."""
    at: datetime = await connection.fetchval(NEXT)
    await connection.execute(SUPERSEDE, [version.price_id for version in change.superseded], at)
    await connection.execute(RECORD, *columns([_row(version) for version in change.recorded]), at, change.digest)
    documents: dict[str, Sequence[Any]] = {
        "superseded": [version.price_id for version in change.superseded],
        "recorded": [version_document(version) for version in change.recorded],
    }
    await connection.execute(LOG, change.digest, at, by, reason, documents)


def _row(version: Version) -> tuple[Any, ...]:
    rates = version.rates
    return (
        version.provider,
        version.model,
        version.valid_from,
        version.valid_until,
        rates.input,
        rates.cache_read,
        rates.cache_write_5m,
        rates.cache_write_1h,
        rates.output,
        version.source,
    )
