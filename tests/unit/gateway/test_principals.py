"""Who was known goes on working; who was revoked does not, however the look-ups and the bells cross."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from common.contracts import CancelRequested, PrincipalsChanged
from common.errors import StoreUnavailable
from gateway import principals
from gateway.identities import Identities, KeyRow
from gateway.keys import ApiKey
from gateway.principals import Principals
from gateway.problems import Problem
from tests.stage import eventually


class _Identities(Identities):
    """A database in memory, which can be away and can be slow."""

    def __init__(self) -> None:
        self.rows: dict[str, KeyRow] = {}
        self.tiers: dict[tuple[UUID, str], str] = {}
        self.away = False
        self.asked = 0
        self.began = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def key(self, key_id: str) -> KeyRow | None:
        self.asked += 1
        self.began.set()
        row = self.rows.get(key_id)
        await self.gate.wait()
        if self.away:
            raise StoreUnavailable("away")
        return row

    async def user_tier(self, tenant_id: UUID, user_id: str) -> str | None:
        self.asked += 1
        if self.away:
            raise StoreUnavailable("away")
        return self.tiers.get((tenant_id, user_id))


@pytest.fixture
def identities() -> _Identities:
    return _Identities()


def _made(identities: _Identities, *, revoked: bool = False) -> tuple[str, ApiKey, UUID]:
    key, tenant = ApiKey.mint(), uuid4()
    identities.rows[key.key_id] = KeyRow(tenant, key.secret_hash, revoked, "pro", 60, 100)
    return f"Bearer {key.token}", key, tenant


async def test_a_key_is_looked_up_once(identities: _Identities) -> None:
    header, _, tenant = _made(identities)
    known = Principals(identities)
    answers = await asyncio.gather(*(known.authenticate(header) for _ in range(20)))
    assert {answer.tenant_id for answer in answers} == {tenant}
    await known.authenticate(header)
    assert identities.asked == 1


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic abc",
        "Bearer lw_x_y",
        "lw_0000000000000000_" + "a" * 43,
        "Bearer " + "\0" * 9,
    ],
)
async def test_what_is_no_key_is_refused_without_the_database(identities: _Identities, header: str | None) -> None:
    with pytest.raises(Problem) as caught:
        await Principals(identities).authenticate(header)
    assert caught.value.kind.status == 401
    assert "WWW-Authenticate" in caught.value.headers
    assert identities.asked == 0


async def test_unknown_revoked_and_wrong_secrets_read_the_same(identities: _Identities) -> None:
    known = Principals(identities)
    revoked, _, _ = _made(identities, revoked=True)
    _, key, _ = _made(identities)
    forged = ApiKey(key.key_id, ApiKey.mint().secret)
    details = set()
    for header in (revoked, f"Bearer {ApiKey.mint().token}", f"Bearer {forged.token}"):
        with pytest.raises(Problem) as caught:
            await known.authenticate(header)
        details.add(caught.value.detail)
    assert len(details) == 1


async def test_while_the_database_is_away_the_known_go_on_and_the_unknown_are_told(
    identities: _Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(principals, "_KNOWN_SECONDS", 0.0)
    header, _, tenant = _made(identities)
    known = Principals(identities)
    await known.authenticate(header)
    identities.away = True
    assert (await known.authenticate(header)).tenant_id == tenant
    asked = identities.asked
    assert (await known.authenticate(header)).tenant_id == tenant
    assert identities.asked == asked, "not asked again for a while"
    with pytest.raises(StoreUnavailable):
        await known.authenticate(_made(identities)[0])


async def test_what_was_known_is_not_believed_for_ever(
    identities: _Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(principals, "_KNOWN_SECONDS", 0.0)
    monkeypatch.setattr(principals, "_STALE_SECONDS", 0.0)
    monkeypatch.setattr(principals, "_BELIEVED_SECONDS", 0.05)
    header, _, _ = _made(identities)
    known = Principals(identities)
    await known.authenticate(header)
    identities.away = True
    await known.authenticate(header)

    async def doubted() -> bool:
        try:
            await known.authenticate(header)
        except StoreUnavailable:
            return True
        return False

    await eventually(doubted)


async def test_keys_that_do_not_exist_push_out_none_that_do(
    identities: _Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(principals, "_CACHED", 2)
    monkeypatch.setattr(principals, "_UNKNOWN", 2)
    header, _, _ = _made(identities)
    known = Principals(identities)
    await known.authenticate(header)
    for _ in range(5):
        with pytest.raises(Problem):
            await known.authenticate(f"Bearer {ApiKey.mint().token}")
    asked = identities.asked
    await known.authenticate(header)
    assert identities.asked == asked


async def test_what_is_in_use_stays(identities: _Identities, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(principals, "_CACHED", 2)
    used, _, _ = _made(identities)
    known = Principals(identities)
    for _ in range(5):
        await known.authenticate(used)
        await known.authenticate(_made(identities)[0])
    assert identities.asked == 6


async def test_a_user_without_a_tier_goes_on_while_the_database_is_away(
    identities: _Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, _, _ = _made(identities)
    known = Principals(identities)
    principal = await known.authenticate(header)
    monkeypatch.setattr(principals, "_KNOWN_SECONDS", 0.0)
    assert await known.tier(principal, "ada") == "pro"
    identities.away = True
    assert await known.tier(principal, "ada") == "pro"


async def test_a_revoked_key_is_forgotten_when_the_bell_rings(identities: _Identities) -> None:
    header, key, tenant = _made(identities)
    known = Principals(identities)
    await known.authenticate(header)
    row = identities.rows[key.key_id]
    identities.rows[key.key_id] = KeyRow(row.tenant_id, row.secret_hash, True, "pro", 60, 100)
    known.hear(CancelRequested(task_id=uuid4(), tenant_id=tenant))
    await known.authenticate(header)
    known.hear(PrincipalsChanged(tenant_id=tenant))
    with pytest.raises(Problem):
        await known.authenticate(header)


async def test_a_look_up_that_began_before_the_bell_is_not_remembered(identities: _Identities) -> None:
    header, key, tenant = _made(identities)
    known = Principals(identities)
    identities.gate.clear()
    looking = asyncio.create_task(known.authenticate(header))
    await identities.began.wait()
    row = identities.rows[key.key_id]
    identities.rows[key.key_id] = KeyRow(row.tenant_id, row.secret_hash, True, "pro", 60, 100)
    known.hear(PrincipalsChanged(tenant_id=tenant))
    identities.gate.set()
    await looking
    with pytest.raises(Problem):
        await known.authenticate(header)


async def test_a_new_key_works_though_it_was_unknown_a_moment_ago(identities: _Identities) -> None:
    header, key, tenant = _made(identities)
    row = identities.rows.pop(key.key_id)
    known = Principals(identities)
    with pytest.raises(Problem):
        await known.authenticate(header)
    identities.rows[key.key_id] = row
    known.hear(PrincipalsChanged(tenant_id=tenant))
    assert (await known.authenticate(header)).tenant_id == tenant


async def test_a_users_own_tier_goes_before_the_plans(identities: _Identities) -> None:
    header, _, tenant = _made(identities)
    identities.tiers[(tenant, "ada")] = "enterprise"
    known = Principals(identities)
    principal = await known.authenticate(header)
    assert await known.tier(principal, "ada") == "enterprise"
    assert await known.tier(principal, "bob") == await known.tier(principal, None) == "pro"
