"""Finds usable server programs: the machine's own, else those unpacked into `.laneway/rootfs`."""

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local import rootfs
from deploy.local.instance import BASE
from deploy.local.spec import User

USERS = ("rabbitmq", "postgres", "redis")


@dataclass(frozen=True)
class Programs:
    """Where the servers' programs are, as seen from inside `root`, and who runs them."""

    root: Path | None
    rabbitmq_server: str
    rabbitmqctl: str
    epmd: str
    postgres_bin: str
    redis_server: str
    users: Mapping[str, User]

    def user(self, name: str) -> User | None:
        """The user of one server; None means this process's own."""
        return self.users.get(name)


def find(base: Path, say: Callable[[str], None]) -> Programs:
    """The machine's servers if all are new enough, else the unpacked ones (unpacking them first if need be)."""
    return installed() or unpacked(rootfs.ensure(base, say))


def unpacked(root: Path) -> Programs:
    """The programs of Debian's packages in the unpacked root."""
    (postgres_bin,) = (root / "usr/lib/postgresql").glob("*/bin")
    return Programs(
        root=root,
        rabbitmq_server="/usr/lib/rabbitmq/bin/rabbitmq-server",
        rabbitmqctl="/usr/lib/rabbitmq/bin/rabbitmqctl",
        epmd="/usr/bin/epmd",
        postgres_bin=f"/{postgres_bin.relative_to(root)}",
        redis_server="/usr/bin/redis-server",
        users=rootfs.USERS,
    )


def installed() -> Programs | None:
    """The machine's own servers, or None when one is missing or too old, or its user is."""
    search = os.pathsep.join(
        [os.environ.get("PATH", os.defpath), "/usr/lib/rabbitmq/bin", "/usr/local/sbin", "/usr/sbin"]
        + [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    )
    found = {
        name: shutil.which(name, path=search)
        for name in ("rabbitmq-server", "rabbitmqctl", "epmd", "postgres", "initdb", "redis-server")
    }
    paths = {name: str(Path(path).resolve()) for name, path in found.items() if path}
    if len(paths) < len(found) or not _new_enough(paths):
        return None
    users = _users()
    if users is None:
        return None
    return Programs(
        root=None,
        rabbitmq_server=paths["rabbitmq-server"],
        rabbitmqctl=paths["rabbitmqctl"],
        epmd=paths["epmd"],
        postgres_bin=str(Path(paths["postgres"]).parent),
        redis_server=paths["redis-server"],
        users=users,
    )


def _new_enough(paths: Mapping[str, str]) -> bool:
    return (
        _version([paths["rabbitmqctl"], "version"]) >= (4, 3, 3)
        and _version([paths["postgres"], "--version"]) >= (16,)
        and _version([paths["redis-server"], "--version"]) >= (7, 2)
    )


def _version(command: list[str]) -> tuple[int, ...]:
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(r"\d+(\.\d+)+", output)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _users() -> dict[str, User] | None:
    """Root must hand the servers to their own users (PostgreSQL refuses root), who must be able to reach the data."""
    if os.geteuid() != 0:
        return {}
    if any(not folder.stat().st_mode & 0o001 for folder in (BASE, *BASE.parents) if folder.exists()):
        return None
    try:
        entries = {name: pwd.getpwnam(name) for name in USERS}
    except KeyError:
        return None
    return {name: User(entry.pw_uid, entry.pw_gid) for name, entry in entries.items()}
