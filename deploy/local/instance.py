"""Where one instance of the stack keeps its files, and the lock that says whether it lives."""

import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import AlreadyUp

REPOSITORY = Path(__file__).resolve().parents[2]
BASE = REPOSITORY / ".laneway"


@dataclass(frozen=True)
class Instance:
    """A named stack: its runtime files under `<base>/run/<name>`. Several may run at a time."""

    name: str
    base: Path = BASE

    @property
    def run(self) -> Path:
        """Logs, process ids, control socket and lock."""
        return self.base / "run" / self.name

    @property
    def logs(self) -> Path:
        """One file per child."""
        return self.run / "logs"

    @property
    def pids(self) -> Path:
        """One file per living child."""
        return self.run / "pids"

    @property
    def ports(self) -> Path:
        """The ports that it had, which it takes again."""
        return self.run / "ports.json"

    @property
    def control(self) -> Path:
        """The supervisor's unix socket."""
        return self.run / "control.sock"

    @property
    def data(self) -> Path:
        """The servers' data: a directory, or a link to one inside the servers' root."""
        return self.run / "data"

    @property
    def demo_keys(self) -> Path:
        """What the seed job writes: the demo tenants' keys. Kept with the data that knows them."""
        return self.data / "demo-keys.env"

    def prepare(self) -> None:
        """Make the directories, and forget what a dead supervisor left in them."""
        shutil.rmtree(self.pids, ignore_errors=True)
        self.control.unlink(missing_ok=True)
        for folder in (self.logs, self.pids):
            folder.mkdir(parents=True, exist_ok=True)
        for log in self.logs.glob("*.log"):
            log.unlink()

    def remove(self) -> None:
        """Delete everything of this instance, its data too."""
        if self.data.is_symlink():
            shutil.rmtree(self.data.resolve(), ignore_errors=True)
        shutil.rmtree(self.run, ignore_errors=True)

    def lock(self) -> int:
        """Own this instance; the returned file descriptor is inherited by every child.

        So the lock is held for as long as anything of the instance lives, even after a `kill -9` of its supervisor.
        """
        self.run.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.run / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise AlreadyUp(f"instance {self.name} is already running (see {self.run})") from None
        return descriptor

    def is_alive(self) -> bool:
        """Whether the supervisor or any child of this instance still runs."""
        if not (self.run / "lock").exists():
            return False
        try:
            os.close(self.lock())
        except AlreadyUp:
            return True
        return False


def remove_abandoned(base: Path, prefix: str) -> None:
    """Remove instances whose name starts with `prefix` and which nobody owns: their tests were killed."""
    for run in (base / "run").glob(f"{prefix}*"):
        abandoned = Instance(run.name, base)
        if not abandoned.is_alive():
            abandoned.remove()
