"""The whole of it: a crowd, an adversary, and the verdict when both are done."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Identifier

from tests.acceptance.stack import Stack, running
from tests.proving.adversary import Adversary
from tests.proving.crowd import Crowd
from tests.proving.verdict import Verdict, judge, settle_down
from tests.servers import Servers
from tests.stage import Stage, staged

# What is lost is given up after seconds instead of minutes.
_SWEEPING = {"LANEWAY_SWEEP_INTERVAL": "1", "LANEWAY_SWEEP_GRACE": "3", "LANEWAY_SWEEP_DOUBT": "5"}
_SETTINGS = {"billing": _SWEEPING}


@dataclass(frozen=True)
class Size:
    """How much of it. `deadline` is for a machine that hardly moves, and decides nothing else."""

    tenants: int
    each: int
    rounds: int
    pause: float
    deadline: float = 900


@contextmanager
def stacks(servers: Servers, logs: Path) -> Iterator[tuple[Stack, Stack]]:
    """Every service, and billing once more, on servers that nobody else uses."""
    second = logs / "second"
    second.mkdir(parents=True)
    with (
        _durably_staged(servers) as stage,
        running(stage, logs, settings=_SETTINGS) as stack,
        running(stage, second, ("billing",), _SETTINGS) as other,
    ):
        yield stack, other


@contextmanager
def _durably_staged(servers: Servers) -> Iterator[Stage]:
    """Test servers commit without waiting for their log, and a crash that loses what was committed is none to bear."""
    with staged(servers) as stage:
        with psycopg.connect(stage.admin_dsn, autocommit=True) as connection:
            connection.execute(SQL("ALTER DATABASE {} SET synchronous_commit = on").format(Identifier(stage.name)))
        yield stage


async def attack(stack: Stack, second: Stack, size: Size, seed: int) -> tuple[Verdict, Adversary]:
    """Run it, and judge."""
    crowd, adversary = Crowd(stack, size.tenants, size.each, seed), Adversary(stack, second, seed)
    await crowd.gather()
    async with adversary.meddling():
        async with asyncio.TaskGroup() as group:
            group.create_task(crowd.ask())
            group.create_task(adversary.rage(size.rounds, size.pause))
        await adversary.heal()
        await crowd.until_over(size.deadline)
    await settle_down(stack, size.deadline)
    return await judge(stack), adversary
