"""The four servers of an instance: their data, configuration and start commands."""

import os
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType

from deploy.local import ready
from deploy.local.credentials import Credentials
from deploy.local.instance import Instance
from deploy.local.ports import HOST, Ports
from deploy.local.programs import Programs
from deploy.local.rootfs import DATA
from deploy.local.spec import Kind, Spec

DATABASE = "laneway"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OWNERS = {"rabbitmq": "rabbitmq", "postgres": "postgres", "redis-state": "redis", "redis-cache": "redis"}
"""Which user runs each server."""

RABBITMQ_CONF = """\
listeners.tcp.1 = {host}:{amqp}
management.tcp.ip = {host}
management.tcp.port = {management}
prometheus.tcp.ip = {host}
prometheus.tcp.port = {prometheus}
default_user = admin
default_pass = {password}
default_user_tags.administrator = true
# A task is at most 128 KiB; nothing legitimate comes near this.
max_message_size = 1048576
# Without /proc the machine's memory cannot be read, so it is stated.
total_memory_available_override_value = 2GB
vm_memory_calculation_strategy = allocated
vm_memory_high_watermark.relative = 0.6
disk_free_limit.absolute = 50MB
# A developer's machine has no use for the 512 MB log segments of a server.
raft.wal_max_size_bytes = 64000000
collect_statistics_interval = {statistics_ms}
log.console = true
log.console.use_colors = off
log.file = false
"""

REDIS_CONF = """\
bind {host}
port {port}
dir {folder}
requirepass {password}
daemonize no
save ""
{policy}
"""
REDIS_POLICIES = {
    "redis-state": "appendonly yes\nappendfsync everysec\nmaxmemory-policy noeviction",
    "redis-cache": "appendonly no\nmaxmemory 256mb\nmaxmemory-policy allkeys-lru",
}

INITDB = """\
set -e
if [ -d "$HOME/main" ]; then exit 0; fi
rm -rf "$HOME/fresh"
initdb --pgdata="$HOME/fresh" --username=postgres --pwfile="$HOME/password" --auth=scram-sha-256 \\
    --encoding=UTF8 --locale=C.UTF-8 --no-instructions $1
echo "CREATE DATABASE $0" | postgres --single -D "$HOME/fresh" postgres
rm "$HOME/password"
mv "$HOME/fresh" "$HOME/main"
"""
"""Makes the cluster aside and moves it into place, so that a killed start leaves nothing half made."""


@dataclass(frozen=True)
class Addresses:
    """How to reach the servers of an instance, as their administrator."""

    rabbit_url: str
    rabbit_management_url: str
    postgres_dsn: str
    redis_state_url: str
    redis_cache_url: str

    @classmethod
    def of(cls, ports: Ports, credentials: Credentials) -> "Addresses":
        """The addresses behind these ports and passwords."""
        rabbit = f"admin:{credentials.rabbit_admin}@{HOST}"
        redis = f"redis://:{credentials.redis}@{HOST}"
        return cls(
            rabbit_url=f"amqp://{rabbit}:{ports['amqp']}/",
            rabbit_management_url=f"http://{rabbit}:{ports['management']}",
            postgres_dsn=f"postgresql://postgres:{credentials.postgres_admin}@{HOST}:{ports['postgres']}/{DATABASE}",
            redis_state_url=f"{redis}:{ports['redis-state']}/0",
            redis_cache_url=f"{redis}:{ports['redis-cache']}/0",
        )

    def as_dict(self) -> dict[str, str]:
        """For one line of JSON."""
        return asdict(self)


class Servers:
    """Prepares an instance's server data and describes its server processes."""

    def __init__(self, instance: Instance, programs: Programs, ports: Ports, *, quick: bool = False) -> None:
        """`quick` gives up durability for speed: for tests, whose data is thrown away."""
        self._instance, self._programs, self._ports, self._quick = instance, programs, ports, quick
        self._inside = f"/{DATA}/{instance.name}" if programs.root else str(instance.data)
        self._data = self._make_data_folders()
        self.credentials = Credentials.load_or_create(self._data / "credentials.json")
        self.addresses = Addresses.of(ports, self.credentials)

    def specs(self) -> list[Spec]:
        """The server processes, in no particular order."""
        self._configure_rabbitmq()
        self._configure_redis()
        redis = [self._redis(name) for name in REDIS_POLICIES]
        return [self._epmd(), self._rabbitmq(), self._initdb(), self._postgres(), *redis]

    def rabbitmqctl(self, *arguments: str) -> Spec:
        """One run of the broker's command line tool."""
        argv = (self._programs.rabbitmqctl, *arguments)
        return replace(self._spec("rabbitmqctl", argv, self._rabbitmq_env(), owner="rabbitmq"), kind=Kind.JOB)

    def _make_data_folders(self) -> Path:
        """The data lives inside the servers' root where there is one, so that nothing need be mounted."""
        root = self._programs.root
        data = root / DATA / self._instance.name if root else self._instance.data
        data.mkdir(parents=True, exist_ok=True)
        if root:
            self._instance.data.unlink(missing_ok=True)
            self._instance.data.symlink_to(data)
        for name in OWNERS:
            (data / name).mkdir(exist_ok=True, mode=0o700)
            self._give(data / name, name)
        return data

    def _spec(
        self,
        name: str,
        argv: tuple[str, ...],
        env: Mapping[str, str] = MappingProxyType({}),
        *,
        owner: str | None = None,
    ) -> Spec:
        return Spec(
            name,
            argv,
            Kind.SERVER,
            env={"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", "TZ": "UTC", **env},
            root=self._programs.root,
            user=self._programs.user(OWNERS[owner or name]),
        )

    def _epmd(self) -> Spec:
        """Erlang's port mapper in the foreground: left to RabbitMQ it would become a daemon and stay."""
        port = self._ports["epmd"]
        argv = (self._programs.epmd, "-port", str(port), "-address", HOST)
        return replace(self._spec("epmd", argv, owner="rabbitmq"), ready=ready.epmd(port), ports=(port,))

    def _rabbitmq(self) -> Spec:
        ports = tuple(self._ports[name] for name in ("amqp", "management", "prometheus", "distribution"))
        return replace(
            self._spec("rabbitmq", (self._programs.rabbitmq_server,), self._rabbitmq_env()),
            after=("epmd",),
            ready=ready.rabbitmq(self.addresses.rabbit_management_url, ports[0]),
            ports=ports,
            stop_seconds=30,
        )

    def _rabbitmq_env(self) -> dict[str, str]:
        home = f"{self._inside}/rabbitmq"
        return {
            "HOME": home,
            "RABBITMQ_NODENAME": f"{self._instance.name}@localhost",
            "RABBITMQ_CONFIG_FILE": f"{home}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": f"{home}/none",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{home}/none",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{home}/mnesia",
            "RABBITMQ_LOG_BASE": f"{home}/log",
            "RABBITMQ_PID_FILE": f"{home}/pid",
            "RABBITMQ_DIST_PORT": str(self._ports["distribution"]),
            "ERL_EPMD_PORT": str(self._ports["epmd"]),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            # Replaces its start script's shell by the broker itself, so that the child we hold is the broker.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _configure_rabbitmq(self) -> None:
        conf = RABBITMQ_CONF.format(
            host=HOST,
            amqp=self._ports["amqp"],
            management=self._ports["management"],
            prometheus=self._ports["prometheus"],
            password=self.credentials.rabbit_admin,
            statistics_ms=1000 if self._quick else 5000,
        )
        self._write("rabbitmq", "rabbitmq.conf", conf)
        self._write("rabbitmq", "enabled_plugins", "[rabbitmq_management,rabbitmq_prometheus].\n")
        self._write("rabbitmq", ".erlang.cookie", self.credentials.rabbit_cookie)

    def _initdb(self) -> Spec:
        """The job that makes the database, where there is none yet."""
        if not (self._data / "postgres/main").exists():
            self._write("postgres", "password", self.credentials.postgres_admin)
        argv = ("/bin/sh", "-c", INITDB, DATABASE, "--no-sync" if self._quick else "")
        return replace(self._spec("initdb", argv, self._postgres_env(), owner="postgres"), kind=Kind.JOB)

    def _postgres(self) -> Spec:
        port = self._ports["postgres"]
        settings = {
            "listen_addresses": HOST,
            "port": port,
            "unix_socket_directories": "",
            "max_connections": 300,
            "password_encryption": "scram-sha-256",
            "dynamic_shared_memory_type": "mmap",  # there is no /dev/shm in the servers' root
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if self._quick:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        argv = (f"{self._programs.postgres_bin}/postgres", "-D", f"{self._inside}/postgres/main", *options)
        return replace(
            self._spec("postgres", argv, self._postgres_env()),
            after=("initdb",),
            ready=ready.postgres(self.addresses.postgres_dsn),
            ports=(port,),
            stop_signal=signal.SIGINT,  # "fast": SIGTERM would wait for every client to leave
        )

    def _postgres_env(self) -> dict[str, str]:
        return {"HOME": f"{self._inside}/postgres", "PATH": f"{self._programs.postgres_bin}:{SYSTEM_PATH}"}

    def _redis(self, name: str) -> Spec:
        port = self._ports[name]
        url = self.addresses.redis_state_url if name == "redis-state" else self.addresses.redis_cache_url
        argv = (self._programs.redis_server, f"{self._inside}/{name}/redis.conf")
        return replace(self._spec(name, argv), ready=ready.redis_server(url), ports=(port,))

    def _configure_redis(self) -> None:
        for name, policy in REDIS_POLICIES.items():
            conf = REDIS_CONF.format(
                host=HOST,
                port=self._ports[name],
                folder=f"{self._inside}/{name}",
                password=self.credentials.redis,
                policy=policy,
            )
            self._write(name, "redis.conf", conf)

    def _write(self, server: str, file: str, text: str) -> None:
        """Write a file that only this server can read."""
        path = self._data / server / file
        path.touch(mode=0o600)
        path.write_text(text)
        self._give(path, server)

    def _give(self, path: Path, server: str) -> None:
        if user := self._programs.user(OWNERS[server]):
            os.chown(path, user.uid, user.gid)
