"""Unpacks Debian's RabbitMQ, PostgreSQL and Redis into `.laneway/rootfs`, without installing and without mounting.

Nothing is configured by the packages' scripts (some need /proc, which an unprivileged container cannot mount); the few
things that the servers need beyond their files (devices, users, /etc/hosts) are made here.
"""

import fcntl
import os
import platform
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

from deploy.local.errors import ServersMissing
from deploy.local.spec import User

SUITES = ("forky", "sid")
PACKAGES = ("dash", "coreutils", "sed", "grep", "findutils", "rabbitmq-server", "postgresql", "redis-server")
USERS = {"rabbitmq": User(64101, 64101), "postgres": User(64102, 64102), "redis": User(64103, 64103)}
DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9)}
RECIPE = f"1 {' '.join(SUITES)}: {' '.join(PACKAGES)}"
"""Changes when an unpacked root of before is no longer good enough."""

DATA = "laneway"
"""The folder inside the root that holds the instances' data: seen from inside as /laneway/<instance>."""


def ensure(base: Path, say: Callable[[str], None]) -> Path:
    """The unpacked root, made first if it is missing or out of date. Raises `ServersMissing`."""
    root = base / "rootfs"
    base.mkdir(parents=True, exist_ok=True)
    with (base / "rootfs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two starts at a time unpack once
        if not _is_current(root):
            _require_debian()
            say("unpacking RabbitMQ, PostgreSQL and Redis from Debian's packages (about 20 s, once)")
            _unpack(root)
        shutil.copy("/etc/hosts", root / "etc/hosts")  # the port mapper resolves localhost
    return root


def _is_current(root: Path) -> bool:
    stamp = root / ".recipe"
    return stamp.exists() and stamp.read_text() == RECIPE


def _require_debian() -> None:
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    family = {release.get("ID"), *release.get("ID_LIKE", "").split()}
    if os.geteuid() != 0 or "debian" not in family:
        raise ServersMissing(
            "RabbitMQ >= 4.3.3, PostgreSQL >= 16 and Redis >= 7.2 are not all installed, and unpacking them needs root "
            "on a Debian-family machine: install them, or start a Docker engine"
        )


def _unpack(root: Path) -> None:
    """Unpack beside the target and rename, so that a half-made root is never seen."""
    fresh = root.with_name("rootfs.new")
    try:
        _download(fresh)
        _complete(fresh)
        if root.exists():
            shutil.rmtree(root)
        fresh.rename(root)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _download(target: Path) -> None:
    if shutil.which("mmdebstrap") is None:
        _run("apt-get", "update", "-qq")
        _run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "mmdebstrap")
    for suite in SUITES:
        shutil.rmtree(target, ignore_errors=True)
        try:
            _run(
                *("mmdebstrap", "--quiet", "--mode=root", "--variant=extract", f"--include={','.join(PACKAGES)}"),
                *('--aptopt=Acquire::Check-Valid-Until "false"', suite, str(target), _mirror()),
            )
        except ServersMissing:
            if suite == SUITES[-1]:
                raise
        else:
            return


def _mirror() -> str:
    """The address from which this machine gets its own Debian packages, unless LANEWAY_DEBIAN_MIRROR says otherwise."""
    if chosen := os.environ.get("LANEWAY_DEBIAN_MIRROR"):
        return chosen
    own = (platform.freedesktop_os_release().get("VERSION_CODENAME", ""), "main")
    listed = _run("apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages")
    for release, component, address in (line.split() for line in listed.splitlines()):
        if (release, component) == own:
            return address
    raise ServersMissing("apt has no source for this machine's own release: set LANEWAY_DEBIAN_MIRROR")


def _run(*command: str) -> str:
    """Run to the end; when interrupted, leave nothing of its process group."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, process_group=0
    ) as process:
        try:
            output, errors = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        last = "\n".join(errors.strip().splitlines()[-5:])
        raise ServersMissing(f"the servers could not be unpacked: {command[0]} failed:\n{last}")
    return output


def _complete(root: Path) -> None:
    """Add what the packages' scripts would have made."""
    for name in ("bin", "sbin", "lib", "lib64"):
        if not (root / name).exists() and (root / "usr" / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    _make_devices(root / "dev")
    for folder in (root / "tmp", root / "var/tmp"):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)
    accounts = {"root": User(0, 0), **USERS}
    lines = [f"{name}:x:{user.uid}:{user.gid}:::/bin/sh" for name, user in accounts.items()]
    (root / "etc/passwd").write_text("\n".join(lines) + "\n")
    (root / "etc/group").write_text("".join(f"{name}:x:{user.gid}:\n" for name, user in accounts.items()))
    (root / DATA).mkdir()
    (root / ".recipe").write_text(RECIPE)


def _make_devices(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, (major, minor) in DEVICES.items():
        device = folder / name
        if not device.exists():
            os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        device.chmod(0o666)
