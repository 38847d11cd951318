"""The supervisor's promises, on tiny children: order, readiness, restarts, and nothing left behind."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.local.child import State
from deploy.local.errors import BadRequest, StartFailed
from deploy.local.instance import Instance
from deploy.local.spec import Kind, Probe, Spec
from deploy.local.supervisor import Supervisor

FOREVER = "import signal; signal.pause()"
DEAF = "import signal; signal.signal(15, signal.SIG_IGN); open('{flag}', 'w').write('1'); signal.pause()"
WITH_GRANDCHILD = (
    "import subprocess, sys, signal;"
    "p = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']);"
    "open('{flag}', 'w').write(str(p.pid)); signal.pause()"
)


def python(name: str, code: str, kind: Kind = Kind.SERVICE) -> Spec:
    return Spec(name, (sys.executable, "-S", "-c", code), kind, env=dict(os.environ), stop_seconds=5)


def when_written(flag: Path) -> Probe:
    async def probe() -> bool:
        return is_written(flag)

    return probe


def is_written(flag: Path) -> bool:
    return flag.exists() and flag.stat().st_size > 0


async def never() -> bool:
    return False


def is_alive(pid: int) -> bool:
    """A zombie is dead: only its parent has not noticed yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - other processes have no event to wait for
            await asyncio.sleep(0.01)


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    instance = Instance("unit", tmp_path)
    instance.prepare()
    return instance


Make = Callable[..., Supervisor]


@pytest.fixture
async def supervise(instance: Instance) -> AsyncIterator[Make]:
    made: list[Supervisor] = []

    def make(*specs: Spec) -> Supervisor:
        made.append(Supervisor(instance, specs))
        return made[-1]

    yield make
    for supervisor in made:
        await supervisor.stop()


async def test_a_child_starts_after_what_it_needs_and_stops_before_it(supervise: Make, tmp_path: Path) -> None:
    order = tmp_path / "order"
    code = (
        f"import signal, sys; signal.signal(15, lambda *_: sys.exit(open({str(order)!r}, 'a').write('{{0}}-') and 0));"
    )
    code += (
        f"open({str(order)!r}, 'a').write('{{0}}+'); open({str(tmp_path)!r} + '/{{0}}', 'w').write('1'); signal.pause()"
    )
    first, second = (
        replace(python(name, code.format(name)), ready=when_written(tmp_path / name)) for name in ("one", "two")
    )
    supervisor = supervise(replace(second, after=("one",)), first)
    await supervisor.start()
    await supervisor.stop()
    assert order.read_text() == "one+two+two-one-"


async def test_a_job_is_done_before_what_follows_it_starts(supervise: Make, tmp_path: Path) -> None:
    flag = tmp_path / "done"
    job = python("job", f"open({str(flag)!r}, 'w')", Kind.JOB)
    follower = python("follower", f"import os; assert os.path.exists({str(flag)!r}); {FOREVER}")
    supervisor = supervise(job, replace(follower, after=("job",)))
    await supervisor.start()
    assert [child.state for child in supervisor.children.values()] == [State.DONE, State.READY]


async def test_a_failed_job_is_told_in_one_sentence_with_the_end_of_its_log(
    supervise: Make, instance: Instance
) -> None:
    failing = python("migrate", "import sys; sys.exit('no such table')", Kind.JOB)
    supervisor = supervise(python("server", FOREVER, Kind.SERVER), failing)
    with pytest.raises(StartFailed, match=r"migrate ended at start with status 1; the end of its log:\nno such table"):
        await supervisor.start()
    await supervisor.stop()
    assert list(instance.pids.iterdir()) == []


async def test_a_child_that_is_never_ready_is_given_up_and_ended(supervise: Make) -> None:
    supervisor = supervise(replace(python("slow", FOREVER), ready=never, start_seconds=0.3))
    with pytest.raises(StartFailed, match=r"slow was not ready within 0\.3 s"):
        await supervisor.start()
    assert supervisor["slow"].pid is None


async def test_a_program_that_does_not_exist_is_named(supervise: Make) -> None:
    supervisor = supervise(Spec("ghost", ("/no/such/program",), ready=never))
    with pytest.raises(StartFailed, match="/no/such/program: No such file or directory"):
        await supervisor.start()


async def test_a_crashed_service_is_restarted(supervise: Make) -> None:
    supervisor = supervise(python("service", FOREVER))
    await supervisor.start()
    service = supervisor["service"]
    crashed = service.pid
    assert crashed
    service.kill(signal.SIGKILL)
    await eventually(lambda: service.state is State.READY and service.restarts == 1)
    assert service.pid != crashed
    assert "service ended with signal SIGKILL; restarting in 0.5 s" in service.log_tail()


async def test_what_was_stopped_stays_down_until_it_is_started(supervise: Make) -> None:
    supervisor = supervise(python("service", FOREVER))
    await supervisor.start()
    service = supervisor["service"]
    await service.stop(signal.SIGKILL)
    assert (service.state, service.pid, service.restarts) == (State.STOPPED, None, 0)
    await service.start()
    assert service.state is State.READY


async def test_starting_what_runs_changes_nothing(supervise: Make) -> None:
    supervisor = supervise(python("service", FOREVER))
    await supervisor.start()
    pid = supervisor["service"].pid
    await supervisor["service"].start()
    assert supervisor["service"].pid == pid


async def test_one_that_ignores_sigterm_is_killed_after_its_deadline(supervise: Make, tmp_path: Path) -> None:
    flag = tmp_path / "deaf"
    deaf = replace(python("deaf", DEAF.format(flag=flag)), ready=when_written(flag), stop_seconds=0.2)
    supervisor = supervise(deaf)
    await supervisor.start()
    pid = supervisor["deaf"].pid
    assert pid
    await supervisor.stop()
    assert not is_alive(pid)


async def test_a_frozen_child_can_be_stopped(supervise: Make) -> None:
    supervisor = supervise(python("frozen", FOREVER))
    await supervisor.start()
    supervisor["frozen"].kill(signal.SIGSTOP)
    async with asyncio.timeout(4):  # less than it is given to stop: SIGCONT woke it
        await supervisor.stop()


async def test_the_children_of_a_child_go_with_it(supervise: Make, tmp_path: Path) -> None:
    flag = tmp_path / "grandchild"
    supervisor = supervise(replace(python("parent", WITH_GRANDCHILD.format(flag=flag)), ready=when_written(flag)))
    await supervisor.start()
    grandchild = int(flag.read_text())
    assert is_alive(grandchild)
    await supervisor.stop()
    await eventually(lambda: not is_alive(grandchild))


async def test_a_service_is_named_with_or_without_its_number(supervise: Make) -> None:
    supervisor = supervise(*(python(name, FOREVER) for name in ("worker-1", "worker-2", "redis-state")))
    assert [child.spec.name for child in supervisor.named("worker")] == ["worker-1", "worker-2"]
    assert [child.spec.name for child in supervisor.named("worker-2")] == ["worker-2"]
    with pytest.raises(BadRequest, match="there is no 'redis' here; there is: worker-1, worker-2, redis-state"):
        supervisor.named("redis")
