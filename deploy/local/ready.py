"""Whether a server or service really serves: each check speaks its protocol."""

import asyncio

import asyncpg
import httpx2
import redis.asyncio
import redis.exceptions

from deploy.local.ports import HOST
from deploy.local.spec import Probe

ATTEMPT_SECONDS = 3.0


def http(port: int, path: str = "/health/ready") -> Probe:
    """A service that answers its readiness check with success."""
    return lambda: _answers(f"http://{HOST}:{port}{path}")


def rabbitmq(management_url: str, amqp_port: int) -> Probe:
    """A broker whose management interface says that it listens for AMQP."""
    return lambda: _answers(f"{management_url}/api/health/checks/port-listener/{amqp_port}")


def epmd(port: int) -> Probe:
    """Erlang's port mapper, by its request for names."""

    async def serves() -> bool:
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                reader, writer = await asyncio.open_connection(HOST, port)
                writer.write(b"\x00\x01n")
                answered = bool(await reader.read(4))
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError):
            return False
        return answered

    return serves


def postgres(dsn: str) -> Probe:
    """A database that answers a query."""

    async def serves() -> bool:
        try:
            connection = await asyncpg.connect(dsn, timeout=ATTEMPT_SECONDS)
            try:
                return bool(await connection.fetchval("SELECT 1", timeout=ATTEMPT_SECONDS))
            finally:
                await connection.close(timeout=ATTEMPT_SECONDS)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False

    return serves


def redis_server(url: str) -> Probe:
    """A Redis that answers PING and has loaded its data."""

    async def serves() -> bool:
        try:
            async with redis.asyncio.Redis.from_url(url, socket_timeout=ATTEMPT_SECONDS) as client:
                return bool(await client.ping())
        except (OSError, TimeoutError, redis.exceptions.RedisError):
            return False

    return serves


async def _answers(url: str) -> bool:
    try:
        async with httpx2.AsyncClient(timeout=ATTEMPT_SECONDS, trust_env=False) as client:
            return (await client.get(url)).is_success
    except httpx2.HTTPError:
        return False
