"""A usage record settles its hold once: priced, posted in double entry, moved from held to charged in every scope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from prometheus_client import REGISTRY

from billing import handlers, repository
from billing.bill import Hold
from common.contracts import UsageRecorded
from common.contracts.base import now
from common.contracts.usage import Usage
from common.errors import PoisonError, StoreContended
from common.postgres import Connection, Pool, transaction
from tests.integration.billing.calls import Call, balances, ledger, settle
from tests.stage import Stage

HELD = Decimal("0.007")
COST = Decimal("0.0015")
NOTHING = Decimal(0)
POSTED = {"receivable": COST, "revenue": -COST, "cost": COST, "payable:anthropic": -COST}


def _counted(name: str) -> float:
    return REGISTRY.get_sample_value(f"laneway_billing_{name}_total") or 0.0


async def test_a_record_moves_what_was_held_to_what_is_charged(call: Call, pool: Pool, owner: Pool) -> None:
    assert await call.reserve(owner) == "held"
    assert set((await balances(owner, call.tenant_id)).values()) == {(HELD, NOTHING)}
    await settle(pool, call.record())
    assert await balances(owner, call.tenant_id) == dict.fromkeys(
        ("run", "tenant_day", "tenant_month", "user_day"), (NOTHING, COST)
    )
    hold = await owner.fetchrow("SELECT state, charged FROM billing.holds WHERE attempt_id = $1", call.attempt_id)
    assert hold is not None
    assert tuple(hold.values()) == ("settled", COST)
    assert await ledger(owner, call.attempt_id) == POSTED


async def test_the_same_record_twice_is_one_posting(call: Call, pool: Pool, owner: Pool) -> None:
    await call.reserve(owner)
    record, duplicates, conflicts = call.record(), _counted("duplicates"), _counted("conflicts")
    await settle(pool, record, record)
    await settle(pool, record)
    assert await ledger(owner, call.attempt_id) == POSTED
    assert (await balances(owner, call.tenant_id))["run"] == (NOTHING, COST)
    assert _counted("duplicates") == duplicates + 2
    assert _counted("conflicts") == conflicts


@pytest.mark.parametrize("together", [True, False])
async def test_a_record_with_other_numbers_is_ignored_and_reported(
    call: Call, pool: Pool, owner: Pool, together: bool
) -> None:
    await call.reserve(owner)
    first, other = call.record(), call.record(usage=Usage(input_tokens=1001, output_tokens=100))
    conflicts = _counted("conflicts")
    if together:
        await settle(pool, first, other)
    else:
        await settle(pool, first)
        await settle(pool, other)
    assert await ledger(owner, call.attempt_id) == POSTED
    assert _counted("conflicts") == conflicts + 1
    await settle(pool, other)
    kept = await owner.fetch(
        "SELECT record -> 'usage' ->> 'input_tokens' AS input FROM billing.usage_conflicts WHERE attempt_id = $1",
        call.attempt_id,
    )
    assert [row["input"] for row in kept] == ["1001"]


async def test_no_more_is_charged_than_was_held(call: Call, pool: Pool, owner: Pool) -> None:
    await call.reserve(owner, input_bound=10, max_output=10)
    held, unexpected = Decimal("0.00007"), _counted("variance_usd")
    await settle(pool, call.record())
    assert (await balances(owner, call.tenant_id))["tenant_day"] == (NOTHING, held)
    assert await ledger(owner, call.attempt_id) == {
        "receivable": held,
        "revenue": -held,
        "cost": held,
        "variance": COST - held,
        "payable:anthropic": -COST,
    }
    assert _counted("variance_usd") == pytest.approx(unexpected + float(COST - held))


async def test_a_call_that_used_nothing_releases_its_hold(call: Call, pool: Pool, owner: Pool) -> None:
    await call.reserve(owner)
    await settle(pool, call.record(usage=Usage()))
    assert set((await balances(owner, call.tenant_id)).values()) == {(NOTHING, NOTHING)}
    assert await ledger(owner, call.attempt_id) == {}


async def test_a_record_without_a_hold_is_paid_by_the_platform(call: Call, pool: Pool, owner: Pool) -> None:
    unheld = _counted("unheld")
    await settle(pool, call.record())
    assert await ledger(owner, call.attempt_id) == {"variance": COST, "payable:anthropic": -COST}
    assert await balances(owner, call.tenant_id) == {}
    assert _counted("unheld") == unheld + 1


async def test_another_tenants_hold_is_not_charged(call: Call, stage: Stage, pool: Pool, owner: Pool) -> None:
    await call.reserve(owner)
    await settle(pool, call.record(tenant_id=stage.new_tenant()))
    assert (await balances(owner, call.tenant_id))["run"] == (HELD, NOTHING)
    assert await ledger(owner, call.attempt_id) == {"variance": COST, "payable:anthropic": -COST}


async def test_a_model_without_a_price_is_filed_and_never_charged(call: Call, pool: Pool, owner: Pool) -> None:
    unpriced = _counted("unpriced")
    await settle(pool, call.record(model="nobody-knows-1"))
    filed = await owner.fetchrow("SELECT cost, charge, variance FROM billing.usage WHERE task_id = $1", call.task_id)
    assert filed is not None
    assert tuple(filed.values()) == (None, None, None)
    assert await ledger(owner, call.attempt_id) == {}
    assert _counted("unpriced") == unpriced + 1


LISTED = """
INSERT INTO billing.prices (provider, model, valid_from, valid_until, input_mtok, cache_read_mtok, cache_write_5m_mtok,
  cache_write_1h_mtok, output_mtok, source) VALUES ('anthropic', $1, $2, $3, $4, $4, $4, $4, $4, 'test')
"""


async def test_the_price_is_the_holds_even_where_a_newer_one_is_listed(call: Call, pool: Pool, owner: Pool) -> None:
    model, epoch, at = f"m-{uuid4()}", datetime(1970, 1, 1, tzinfo=UTC), now()
    call = replace(call, model=model)
    await owner.execute(LISTED, model, epoch, None, Decimal(1))
    await call.reserve(owner)
    await owner.execute("UPDATE billing.prices SET superseded_at = clock_timestamp() WHERE model = $1", model)
    await owner.execute(LISTED, model, epoch, at, Decimal(1))
    await owner.execute(LISTED, model, at, None, Decimal(100))
    earlier, unheld = replace(call, number=2), replace(call, number=3)
    await settle(
        pool, call.record(), earlier.record(recorded_at=at - timedelta(days=1)), unheld.record(recorded_at=now())
    )
    assert (await ledger(owner, call.attempt_id))["receivable"] == Decimal("0.0011")
    assert (await ledger(owner, earlier.attempt_id))["variance"] == Decimal("0.0011")
    assert (await ledger(owner, unheld.attempt_id))["variance"] == Decimal("0.11")


async def test_nul_characters_and_surprising_counts_are_filed(call: Call, pool: Pool, owner: Pool) -> None:
    await call.reserve(owner)
    body = call.record(metadata={"name": "a\x00b"}).encode()
    record = type(call.record()).decode(
        body.replace(b'"reasoning_tokens"', b'"new_kind_of_tokens":7,"reasoning_tokens"')
    )
    await settle(pool, record, record)
    filed = await owner.fetchrow("SELECT metadata, vector FROM billing.usage WHERE task_id = $1", call.task_id)
    assert filed is not None
    assert filed["metadata"] == {"name": "a\ufffdb"}
    assert filed["vector"]["new_kind_of_tokens"] == 7


async def test_a_number_that_fits_no_column_is_poison(call: Call, pool: Pool) -> None:
    with pytest.raises(PoisonError):
        await settle(pool, call.record(step=2**40))


async def test_the_books_balance(pool: Pool, owner: Pool, call: Call) -> None:
    await call.reserve(owner)
    await settle(pool, call.record())
    assert await owner.fetchval("SELECT sum(amount) FROM billing.ledger") == 0
    assert await owner.fetchval("SELECT sum(greatest(cost - charge, 0) - variance) FROM billing.usage") == 0


async def test_a_hold_that_is_given_up_between_its_price_and_its_settlement_is_priced_again(
    call: Call, pool: Pool, owner: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its tenant would be charged what is held no more, or its scopes would lose what was held twice."""
    await call.reserve(owner)
    look = repository.holds_of

    async def look_and_be_late(connection: Connection, records: Sequence[UsageRecorded]) -> dict[UUID, Hold]:
        found = await look(connection, records)
        await repository.void(connection, list(found))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(repository, "holds_of", look_and_be_late)
        with pytest.raises(StoreContended, match="resolved meanwhile"):
            await settle(pool, call.record())
    assert not await owner.fetchval("SELECT count(*) FROM billing.usage WHERE attempt_id = $1", call.attempt_id)
    assert (await balances(owner, call.tenant_id))["run"] == (NOTHING, NOTHING)
    await settle(pool, call.record())
    assert await ledger(owner, call.attempt_id) == {"variance": COST, "payable:anthropic": -COST}
    assert (await balances(owner, call.tenant_id))["run"] == (NOTHING, NOTHING)


async def test_a_settlement_finds_everything_by_its_key_and_nothing_among_what_its_tenant_has(
    call: Call, pool: Pool, owner: Pool
) -> None:
    """The plans are made while the tables are small, where going through all of a tenant's looks as cheap."""
    await call.reserve(owner)
    async with transaction(pool, 30) as connection:
        outcome = await handlers.settle(connection, [call.record()])
        rows = await connection.fetch(
            "SELECT indexrelid::regclass::text AS name FROM pg_index"
            " WHERE indrelid = ANY ('{billing.holds,billing.usage,billing.ledger,billing.balances}'::regclass[])"
            " AND pg_stat_get_xact_numscans(indexrelid) > 0"
        )
    assert len(outcome.filed) == 1
    keys = {f"billing.{table}_pkey" for table in ("holds", "usage", "balances")}
    assert keys <= {row["name"] for row in rows} <= {*keys, "billing.ledger_pkey"}
