"""`laneway-billing prices` on a real book: what is applied is what was reviewed, and what was said is never lost."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from prometheus_client import REGISTRY

from billing.console import main
from billing.rerating import rerate
from billing.sweeper import sweep_once
from common.contracts.base import now
from common.postgres import Pool
from tests.integration.billing.calls import PROVIDER, Call, balances, ledger, settle
from tests.integration.billing.conftest import Command
from tests.integration.billing.test_sweeper import PATIENT
from tests.servers import Servers
from tests.stage import Stage, staged

CHEAPER = {"input": "0.5", "output": "2.5"}
"""Half of what the bundle has for the model of these tests."""


@pytest.fixture(scope="module")
def stage(servers: Servers) -> Iterator[Stage]:
    """Of its own: these tests change the book."""
    with staged(servers) as made:
        yield made


@pytest.fixture
def price_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "prices.yaml"
    monkeypatch.setenv("LANEWAY_PRICES_FILE", str(path))
    return path


def _write(path: Path, model: str, **values: str) -> None:
    entry = {
        "provider": PROVIDER,
        "model": model,
        **dict.fromkeys(("input", "cache_read", "cache_write_5m", "cache_write_1h", "output"), "1"),
        "source": "contract 7",
        **values,
    }
    first, *rest = [f"{name}: {value}" for name, value in entry.items()]
    lines = ["currency: USD", "prices:", f"  - {first}", *(f"    {line}" for line in rest)]
    path.write_text("\n".join(lines), encoding="utf-8")


def _digest(said: str) -> str:
    found = re.search(r"--digest ([0-9a-f]{64})", said)
    assert found is not None, said
    return found[1]


async def _apply(command: Command, digest: str) -> tuple[int, str]:
    return await command("prices", "apply", "--digest", digest, "--by", "ada", "--reason", "a new contract")


async def _reviewed_and_applied(command: Command) -> None:
    code, said = await command("prices", "diff")
    assert code == 1, said
    code, said = await _apply(command, _digest(said))
    assert code == 0, said


def _new_model() -> str:
    return f"m-{uuid4()}"


async def _book(owner: Pool, model: str) -> list[asyncpg.Record]:
    return await owner.fetch("SELECT * FROM billing.prices WHERE model = $1 ORDER BY price_id", model)


async def test_a_book_that_says_what_the_bundle_says_does_not_change(command: Command, owner: Pool) -> None:
    before = await owner.fetchval("SELECT count(*) FROM billing.prices")
    assert await command("prices", "diff") == (0, "The price book says what is wanted: nothing would change.\n")
    assert before == await owner.fetchval("SELECT count(*) FROM billing.prices") > 0


async def test_a_change_is_shown_and_then_made_as_it_was_shown(command: Command, price_file: Path, owner: Pool) -> None:
    model = _new_model()
    _write(price_file, model, input="3.50")
    await _reviewed_and_applied(command)
    _write(price_file, model, input="4.25", **{"from": "2026-10-01"})
    code, said = await command("prices", "diff")
    assert code == 1
    shown = [line.split() for line in said.splitlines() if model in line]
    assert shown == [[PROVIDER, model, "2026-10-01", "00:00", "-", "input", "3.5", "4.25", "contract", "7"]]
    assert len(await _book(owner, model)) == 1
    assert (await _apply(command, _digest(said)))[0] == 0
    first, kept, new = await _book(owner, model)
    assert first["superseded_at"] == kept["recorded_at"] == new["recorded_at"]
    assert (kept["input_mtok"], kept["valid_until"]) == (Decimal("3.5"), datetime(2026, 10, 1, tzinfo=UTC))
    assert (new["input_mtok"], new["valid_from"], new["valid_until"]) == (Decimal("4.25"), kept["valid_until"], None)
    log = await owner.fetchrow("SELECT * FROM billing.price_changes ORDER BY change_id DESC LIMIT 1")
    assert log is not None
    assert (log["applied_by"], log["reason"], log["digest"]) == ("ada", "a new contract", new["digest"])
    assert log["changes"]["superseded"] == [first["price_id"]]
    assert (await command("prices", "diff"))[0] == 0


async def test_what_the_book_said_at_any_time_can_be_asked(command: Command, price_file: Path, owner: Pool) -> None:
    model = _new_model()
    moments = []
    for rate in ("1", "2", "3"):
        _write(price_file, model, input=rate)
        await _reviewed_and_applied(command)
        moments.append(await owner.fetchval("SELECT clock_timestamp()"))
    said = [
        await owner.fetchval(
            "SELECT input_mtok FROM billing.prices WHERE model = $1 AND recorded_at <= $2"
            " AND (superseded_at IS NULL OR superseded_at > $2)",
            *(model, at),
        )
        for at in moments
    ]
    assert said == [1, 2, 3]


async def test_a_change_that_was_not_reviewed_is_not_made(command: Command, price_file: Path, owner: Pool) -> None:
    model = _new_model()
    _write(price_file, model)
    _, said = await command("prices", "diff")
    _write(price_file, model, output="1.01")
    code, answer = await _apply(command, _digest(said))
    assert code == 1
    assert "not the change that was reviewed" in answer
    assert await _book(owner, model) == []


async def test_of_two_who_apply_the_same_change_one_does(command: Command, price_file: Path, owner: Pool) -> None:
    model = _new_model()
    _write(price_file, model)
    _, said = await command("prices", "diff")
    codes = await asyncio.gather(*(_apply(command, _digest(said)) for _ in range(3)))
    assert sorted(code for code, _ in codes) == [0, 1, 1]
    assert len(await _book(owner, model)) == 1


async def test_a_price_of_the_future_is_not_held_for_yet(
    command: Command, price_file: Path, owner: Pool, call: Call
) -> None:
    model = _new_model()
    _write(price_file, model)
    await _reviewed_and_applied(command)
    _write(price_file, model, input="9", **{"from": f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%d}"})
    await _reviewed_and_applied(command)
    call = replace(call, model=model)
    assert await call.reserve(owner) == "held"
    held = await owner.fetchval("SELECT amount FROM billing.holds WHERE attempt_id = $1", call.attempt_id)
    assert held == Decimal("0.002")


async def test_a_model_whose_price_has_ended_is_not_called(
    command: Command, price_file: Path, owner: Pool, call: Call
) -> None:
    model = _new_model()
    _write(price_file, model, until="2026-01-01")
    await _reviewed_and_applied(command)
    assert await replace(call, model=model).reserve(owner) == "unpriced"


async def test_a_price_file_that_is_wrong_is_told_with_its_place(command: Command, price_file: Path) -> None:
    _write(price_file, "m", input="0")
    code, said = await command("prices", "diff")
    assert code == 2
    assert "prices.0.input: Input should be greater than 0" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("prices", "diff", "--effective", "soon"), "it must be a day in UTC"),
        (("prices", "apply", "--digest", "0", "--by", " ", "--reason", "r"), "say it in words"),
        (("prices", "rerate", "--from", "2026-01-01"), "required: --until"),
        (("months", "close", "October"), "it must be a month, as 2026-10"),
    ],
)
def test_arguments_that_cannot_be_used(
    arguments: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("period", [("2026-02-01", "2026-01-01"), ("2026-01-01", "2999-01-01")])
async def test_a_period_must_be_over(command: Command, period: tuple[str, str]) -> None:
    code, said = await command("prices", "rerate", "--from", period[0], "--until", period[1])
    assert (code, said) == (2, "The period must begin before it ends, and end before now.\n")


INSERT = """
INSERT INTO billing.prices (provider, model, valid_from, valid_until, input_mtok, cache_read_mtok, cache_write_5m_mtok,
  cache_write_1h_mtok, output_mtok, source) VALUES ($1, $2, $3, $4, $5, 1, 1, 1, 1, 'test')
"""


async def test_the_database_refuses_a_book_that_contradicts_itself(pool: Pool, owner: Pool) -> None:
    model, begin, end = _new_model(), datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)
    await pool.execute(INSERT, PROVIDER, model, begin, end, Decimal(1))
    for other_begin, other_end in ((begin, end), (begin + timedelta(days=1), None), (begin - timedelta(days=9), end)):
        with pytest.raises(asyncpg.ExclusionViolationError):
            await pool.execute(INSERT, PROVIDER, model, other_begin, other_end, Decimal(2))
    await pool.execute(INSERT, PROVIDER, model, end, None, Decimal(2))
    for rate in (Decimal(0), Decimal(-1), Decimal("NaN")):
        with pytest.raises(asyncpg.CheckViolationError):
            await pool.execute(INSERT, PROVIDER, _new_model(), begin, None, rate)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await pool.execute("UPDATE billing.prices SET input_mtok = 2 WHERE model = $1", model)
    with pytest.raises(asyncpg.RestrictViolationError, match="cannot change"):
        await owner.execute("UPDATE billing.prices SET input_mtok = 2 WHERE model = $1", model)
    await pool.execute("UPDATE billing.prices SET superseded_at = clock_timestamp() WHERE model = $1", model)
    with pytest.raises(asyncpg.RestrictViolationError, match="cannot change"):
        await pool.execute("UPDATE billing.prices SET superseded_at = NULL WHERE model = $1", model)


async def test_usage_without_a_price_is_priced_when_the_price_comes(
    command: Command, price_file: Path, call: Call, pool: Pool, owner: Pool
) -> None:
    call = replace(call, model=_new_model())
    await settle(pool, call.record(), replace(call, number=2).record())
    await sweep_once(pool, 20, PATIENT, void=False)
    assert REGISTRY.get_sample_value("laneway_billing_unpriced_usage") == 2
    assert await ledger(owner, call.attempt_id) == {}
    _write(price_file, call.model)
    await _reviewed_and_applied(command)
    for _ in range(2):
        await sweep_once(pool, 20, PATIENT, void=False)
    cost = Decimal("0.0011")
    assert await ledger(owner, call.attempt_id) == {"variance": cost, "payable:anthropic": -cost}
    filed = await owner.fetch("SELECT cost, charge, variance, revision FROM billing.usage WHERE model = $1", call.model)
    assert [tuple(row.values()) for row in filed] == [(cost, 0, cost, 0)] * 2
    assert REGISTRY.get_sample_value("laneway_billing_unpriced_usage") == 0
    await _assert_the_books_agree(owner)


async def _assert_the_books_agree(owner: Pool) -> None:
    """Usage, holds, balances and ledger say the same of every call and of every tenant."""
    wrong = await owner.fetch(
        """
        SELECT u.attempt_id FROM billing.usage u
        LEFT JOIN billing.holds h ON h.attempt_id = u.attempt_id AND h.tenant_id = u.tenant_id
        LEFT JOIN LATERAL (
          SELECT coalesce(sum(amount) FILTER (WHERE account = 'receivable'), 0) AS charge,
                 coalesce(sum(amount) FILTER (WHERE account = 'variance'), 0) AS variance,
                 -coalesce(sum(amount) FILTER (WHERE account LIKE 'payable:%'), 0) AS cost, sum(amount) AS sum
          FROM billing.ledger l WHERE l.attempt_id = u.attempt_id) l ON true
        WHERE (u.charge, u.variance, u.cost) IS DISTINCT FROM (l.charge, l.variance, l.cost) AND u.price_id IS NOT NULL
           OR h.state = 'settled' AND h.charged <> u.charge OR l.sum <> 0
        """
    )
    assert wrong == []
    wrong = await owner.fetch(
        """
        SELECT b.tenant_id, b.scope FROM billing.balances b
        LEFT JOIN (SELECT tenant_id, sum(amount) AS charged FROM billing.ledger
                   WHERE account = 'receivable' AND attempt_id IS NOT NULL GROUP BY 1) l USING (tenant_id)
        WHERE b.scope = 'tenant_month' AND b.charged <> coalesce(l.charged, 0) OR b.charged + b.held > b.cap
        """
    )
    assert wrong == []


async def test_a_correction_gives_back_what_was_charged_too_much(
    command: Command, price_file: Path, stage: Stage, pool: Pool, owner: Pool
) -> None:
    """A markup of 20 % on one of two tenants, and a call that was above its hold."""
    model = _new_model()
    _write(price_file, model, input="1", output="5")
    await _reviewed_and_applied(command)
    marked, plain = stage.new_tenant(markup_percent="20"), stage.new_tenant()
    calls = [Call(tenant, uuid4(), user_id="anna", model=model) for tenant in (marked, plain)]
    over = Call(plain, uuid4(), user_id="ben", model=model)
    for call in calls:
        await call.reserve(owner)
    await over.reserve(owner, input_bound=100, max_output=10)  # holds 0.00015 of 0.0015
    await settle(pool, *(call.record() for call in (*calls, over)))
    assert {charged for _, charged in (await balances(owner, marked)).values()} == {Decimal("0.0018")}

    _write(price_file, model, **CHEAPER)
    code, said = await command("prices", "diff")
    assert "reaches into the past" in said
    assert (await _apply(command, _digest(said)))[0] == 0
    period = (
        "prices",
        "rerate",
        "--from",
        f"{now() - timedelta(hours=1):%Y-%m-%dT%H:%M}Z",
        "--until",
        now().isoformat(),
    )
    code, told = await command(*period)
    assert code == 1
    assert "Nothing was posted" in told
    assert (await ledger(owner, calls[0].attempt_id))["receivable"] == Decimal("0.0018")

    code, posted = await command(*period, "--post")
    assert code == 0
    assert posted.splitlines()[:-2] == told.splitlines()[:-2]
    shown = {
        line.split()[0]: line.split()[1:4] for line in posted.splitlines() if line[:1] in "0123456789abcdef" and line
    }
    assert shown[str(marked)] == ["1", "-0.0007500000", "-0.0009000000"]
    # Of the call above its hold the tenant was charged less than it costs still: the platform bears less of it.
    assert shown[str(plain)] == ["2", "-0.0015000000", "-0.0007500000"]
    assert shown["all"] == ["3", "-0.0022500000", "-0.0016500000"]
    assert {charged for _, charged in (await balances(owner, marked)).values()} == {Decimal("0.0009")}

    lines = await owner.fetch(
        "SELECT kind, account, amount, reverses, price_id FROM billing.ledger WHERE attempt_id = $1",
        calls[1].attempt_id,
    )
    receivable = {line["kind"]: line["amount"] for line in lines if line["account"] == "receivable"}
    assert receivable == {
        "usage": Decimal("0.0015"),
        "reversal": Decimal("-0.0015"),
        "correction": Decimal("0.00075"),
    }
    prices = {line["kind"]: line["price_id"] for line in lines}
    assert prices["usage"] == prices["reversal"] != prices["correction"]
    assert {line["reverses"] for line in lines if line["kind"] == "reversal"} == {calls[1].attempt_id}
    code, again = await command(*period, "--post")
    assert (code, again) == (0, "Every call of the period is at the price that the book has for it.\n")
    await _assert_the_books_agree(owner)


async def test_a_correction_never_charges_more(
    command: Command, price_file: Path, call: Call, pool: Pool, owner: Pool
) -> None:
    call = replace(call, model=_new_model())
    _write(price_file, call.model, input="1", output="5")
    await _reviewed_and_applied(command)
    await call.reserve(owner)
    await settle(pool, call.record())
    _write(price_file, call.model, input="2", output="10")
    await _reviewed_and_applied(command)
    found = await rerate(pool, 20, now() - timedelta(hours=1), now(), post=True)
    assert (found[call.tenant_id].cost, found[call.tenant_id].charge) == (Decimal("0.0015"), Decimal(0))
    row = await owner.fetchrow(
        "SELECT cost, charge, variance FROM billing.usage WHERE attempt_id = $1", call.attempt_id
    )
    assert row is not None
    assert tuple(row.values()) == (Decimal("0.003"), Decimal("0.0015"), Decimal("0.0015"))
    await _assert_the_books_agree(owner)


async def test_corrections_side_by_side_with_settlements_count_once(
    command: Command, price_file: Path, stage: Stage, pool: Pool, owner: Pool
) -> None:
    model, tenant = _new_model(), stage.new_tenant()
    _write(price_file, model, input="1", output="5")
    await _reviewed_and_applied(command)
    calls = [Call(tenant, uuid4(), user_id="anna", model=model) for _ in range(40)]
    later = [Call(tenant, call.task_id, number=2, user_id="anna", model=model) for call in calls]
    for call in (*calls, *later):
        await call.reserve(owner)
    await settle(pool, *(call.record() for call in calls))
    _write(price_file, model, **CHEAPER)
    await _reviewed_and_applied(command)
    begin, end = now() - timedelta(hours=1), now()
    again = [call.record(recorded_at=end) for call in calls]
    async with asyncio.timeout(60):
        async with asyncio.TaskGroup() as together:
            rerates = [together.create_task(rerate(pool, 30, begin, end, post=True)) for _ in range(3)]
            together.create_task(settle(pool, *(call.record() for call in later)))
            together.create_task(settle(pool, *again))
    corrected = [found[tenant].calls for one in rerates if tenant in (found := one.result())]
    assert sum(corrected) == 40
    charged = (await balances(owner, tenant))["tenant_day"]
    assert charged == (Decimal(0), 40 * Decimal("0.00075") + 40 * Decimal("0.0015"))
    await _assert_the_books_agree(owner)


async def test_months_are_closed_for_all_tenants_by_one_command(command: Command, stage: Stage, owner: Pool) -> None:
    tenant = stage.new_tenant(monthly_fee_usd="49")
    await owner.execute("UPDATE identity.tenants SET created_at = '2026-01-15' WHERE tenant_id = $1", tenant)
    code, said = await command("months", "close", "2026-02")
    assert code == 0
    (line,) = [line for line in said.splitlines() if str(tenant) in line]
    assert line.split()[2:] == ["0", "0", "49.0000000000", "49.0000000000"]
    code, said = await command("months", "close", f"{datetime.now(UTC):%Y-%m}", "--tenant", str(tenant))
    assert code == 1
    assert "cannot be closed before" in said
    assert (await command("months", "close", "2026-02", "--tenant", str(uuid4())))[0] == 2


async def test_a_database_that_does_not_answer_is_told(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANEWAY_POSTGRES_DSN", "postgresql://laneway_billing:x@127.0.0.1:1/laneway")
    code, said = await command("prices", "diff")
    assert code == 69
    assert "What was not done can be done again" in said
