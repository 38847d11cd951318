"""One child process: started until ready, kept running, stopped with its whole group."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from deploy.local.errors import StartFailed
from deploy.local.instance import Instance
from deploy.local.spec import Kind, Spec

ENTER = Path(__file__).with_name("enter.py")
PROBE_SECONDS = 0.1
FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS, HEALTHY_SECONDS = 0.5, 15.0, 30.0


class State(StrEnum):
    """Where a child is in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    DONE = "done"
    FAILED = "failed"
    BACKOFF = "backoff"
    STOPPED = "stopped"


class Child:
    """Owns the process of one spec. All methods run in the supervisor's event loop."""

    def __init__(self, spec: Spec, instance: Instance, inherited: tuple[int, ...] = ()) -> None:
        self.spec = spec
        self.state = State.WAITING
        self.since = time.monotonic()
        self.restarts = 0
        self._log = instance.logs / f"{spec.name}.log"
        self._pid_file = instance.pids / f"{spec.name}.pid"
        self._inherited = inherited
        self._process: asyncio.subprocess.Process | None = None
        self._group: int | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The process id while it lives; also the id of its group and session."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start it and wait until it is ready (a job: until it is done). Does nothing when it is ready already.

        Raises `StartFailed`, and leaves no process, when it ends early or is not ready in time.
        """
        async with self._turn:
            if self.state is State.READY:
                return
            await self._end(signal.SIGKILL)
            await self._launch()
            if self.spec.kind is not Kind.JOB:
                self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.spec.name}")

    async def stop(self, by: signal.Signals | None = None) -> None:
        """Ask it to end, insist after the deadline, and leave nothing of its group. It stays down until started."""
        async with self._turn:
            await self._end(by or self.spec.stop_signal)
            if self.spec.kind is not Kind.JOB or self.state is State.STARTING:
                self._enter(State.STOPPED)

    def kill(self, by: signal.Signals) -> None:
        """Send a signal to the whole group. What dies of it is restarted like anything that crashed."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, by)

    def log_tail(self, lines: int = 15) -> str:
        """The last lines it wrote."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    async def _launch(self) -> None:
        self._enter(State.STARTING)
        process = await self._spawn()
        try:
            async with asyncio.timeout(self.spec.start_seconds):
                await self._until_ready(process)
        except TimeoutError:
            await self._fail(f"was not ready within {self.spec.start_seconds:g} s")
        except BaseException:  # cancelled by Ctrl-C or a sibling's failure: the process must not outlive the attempt
            await self._destroy()
            raise
        if self.spec.kind is Kind.JOB and process.returncode == 0:
            await self._destroy()
            self._enter(State.DONE)
        elif process.returncode is not None:
            await self._fail(f"ended at start with {_meaning(process.returncode)}")
        else:
            self._enter(State.READY)

    async def _spawn(self) -> asyncio.subprocess.Process:
        spec = self.spec
        user = f"{spec.user.uid}:{spec.user.gid}" if spec.user else "-"
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(ENTER), str(os.getpid()), str(spec.root or "-"), user, *spec.argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(spec.env),
                cwd=spec.cwd,
                start_new_session=True,
                pass_fds=self._inherited,
            )
        self._group = self._process.pid
        self._pid_file.write_text(f"{self._process.pid}\n")
        return self._process

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        """Return when the process has ended or is ready."""
        if self.spec.kind is Kind.JOB:
            await process.wait()
            return
        while process.returncode is None:
            if self.spec.ready is None or await self.spec.ready():
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), PROBE_SECONDS)

    async def _keep(self) -> None:
        """Restart it whenever it ends by itself, ever more slowly while it keeps failing."""
        delays = _backoff()
        while self._process is not None:
            code = await self._process.wait()
            if time.monotonic() - self.since > HEALTHY_SECONDS:
                delays = _backoff()
            delay = next(delays)
            await self._destroy()
            self._note(f"{self.spec.name} ended with {_meaning(code)}; restarting in {delay:g} s")
            self._enter(State.BACKOFF)
            await asyncio.sleep(delay)
            self.restarts += 1
            await self._relaunch()

    async def _relaunch(self) -> None:
        try:
            await self._launch()
        except StartFailed as error:
            self._note(str(error).splitlines()[0])

    async def _end(self, by: signal.Signals) -> None:
        if self._keeper:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None
        if self._process and self._process.returncode is None:
            self._send(by)
            self._send(signal.SIGCONT)  # one that is frozen could not hear the first
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), self.spec.stop_seconds)
        await self._destroy()

    def _send(self, by: signal.Signals) -> None:
        """To the leader alone. Not by `Process.send_signal`, which may reap the process behind asyncio's back."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, by)

    async def _destroy(self) -> None:
        """Kill what is left of the group, once (its number may be given to others later), and wait for the leader."""
        if self._process is None or self._group is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._group, signal.SIGKILL)
        self._group = None
        await self._process.wait()
        self._pid_file.unlink(missing_ok=True)

    async def _fail(self, why: str) -> None:
        await self._destroy()
        self._enter(State.FAILED)
        raise StartFailed(self.spec.name, why, self.log_tail())

    def _enter(self, state: State) -> None:
        self.state, self.since = state, time.monotonic()

    def _note(self, text: str) -> None:
        with self._log.open("a") as log:
            log.write(f"--- {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} supervisor: {text}\n")


def _backoff() -> Iterator[float]:
    delay = FIRST_BACKOFF_SECONDS
    while True:
        yield delay
        delay = min(2 * delay, LONGEST_BACKOFF_SECONDS)


def _meaning(code: int) -> str:
    return f"status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
