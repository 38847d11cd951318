"""The servers as throw-away containers, for tests: `python -m deploy.local.containers`.

Prints their addresses as one line of JSON and removes them when standard input ends. With `--durable` they write to
disk as those of docker-compose.yml do, else they are fast.
"""

import asyncio
import json
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from deploy.local import compose, ready
from deploy.local.errors import StartFailed
from deploy.local.servers import DATABASE, Addresses

RABBITMQ, POSTGRES, REDIS = compose.SERVER_IMAGES
READY_SECONDS = 90
BROKER_OPTIONS = "-rabbit max_message_size 1048576 -rabbit collect_statistics_interval 1000"
CONNECTIONS = ("max_connections=300",)
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


def main() -> int:
    """Run the containers until standard input ends."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Its helper image is one more that may not be at hand; this process removes the containers by itself.
    testcontainers_config.ryuk_disabled = not compose.is_present(testcontainers_config.ryuk_image)
    with ExitStack() as containers:
        try:
            print(json.dumps(start(containers, durable="--durable" in sys.argv[1:])), flush=True)
            sys.stdin.read()
        except StartFailed as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    return 0


def start(containers: ExitStack, *, durable: bool = False) -> dict[str, str]:
    """Start all four and wait until they serve: their addresses, and the broker's container as `instance`."""
    password = secrets.token_hex(16)
    rabbitmq = containers.enter_context(_rabbitmq(password))
    postgres = containers.enter_context(_postgres(password, CONNECTIONS if durable else CONNECTIONS + FAST))
    state = containers.enter_context(_redis(password, "--appendonly yes --maxmemory-policy noeviction"))
    cache = containers.enter_context(_redis(password, "--save '' --maxmemory 256mb --maxmemory-policy allkeys-lru"))
    addresses = Addresses(
        rabbit_url=f"amqp://admin:{password}@{_address(rabbitmq, 5672)}/",
        rabbit_management_url=f"http://admin:{password}@{_address(rabbitmq, 15672)}",
        postgres_dsn=f"postgresql://postgres:{password}@{_address(postgres, 5432)}/{DATABASE}",
        redis_state_url=f"redis://:{password}@{_address(state, 6379)}/0",
        redis_cache_url=f"redis://:{password}@{_address(cache, 6379)}/0",
    )
    asyncio.run(_until_ready(addresses))
    return {**addresses.as_dict(), "instance": rabbitmq.get_wrapped_container().short_id}


def _rabbitmq(password: str) -> DockerContainer:
    return (
        DockerContainer(RABBITMQ)
        .with_envs(RABBITMQ_DEFAULT_USER="admin", RABBITMQ_DEFAULT_PASS=password)
        .with_env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", BROKER_OPTIONS)
        .with_exposed_ports(5672, 15672)
    )


def _postgres(password: str, settings: tuple[str, ...]) -> DockerContainer:
    options = [part for setting in settings for part in ("-c", setting)]
    return (
        DockerContainer(POSTGRES)
        .with_envs(POSTGRES_PASSWORD=password, POSTGRES_DB=DATABASE)
        .with_command(["postgres", *options])
        .with_exposed_ports(5432)
    )


def _redis(password: str, options: str) -> DockerContainer:
    command = f"redis-server --requirepass {password} {options}"
    return DockerContainer(REDIS).with_command(command).with_exposed_ports(6379)


def _address(container: DockerContainer, port: int) -> str:
    host = container.get_container_host_ip()
    # By name it may mean ::1 first, where nothing is published.
    return f"{'127.0.0.1' if host == 'localhost' else host}:{container.get_exposed_port(port)}"


async def _until_ready(addresses: Addresses) -> None:
    probes = {
        "rabbitmq": ready.rabbitmq(addresses.rabbit_management_url, 5672),
        "postgres": ready.postgres(addresses.postgres_dsn),
        "redis-state": ready.redis_server(addresses.redis_state_url),
        "redis-cache": ready.redis_server(addresses.redis_cache_url),
    }
    await asyncio.gather(*(_poll(name, probe) for name, probe in probes.items()))


async def _poll(name: str, probe: Callable[[], Awaitable[bool]]) -> None:
    try:
        async with asyncio.timeout(READY_SECONDS):
            while not await probe():  # noqa: ASYNC110 - another process: it has no event to wait for
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise StartFailed(name, f"was not ready within {READY_SECONDS} s") from None


if __name__ == "__main__":
    sys.exit(main())
