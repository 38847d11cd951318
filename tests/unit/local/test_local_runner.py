"""A whole instance in a process of its own: requests, signals, and a supervisor that is killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.control import Control
from deploy.local.errors import LocalError, NotUp
from deploy.local.instance import Instance, remove_abandoned

REPOSITORY = Path(__file__).resolve().parents[3]
PROGRAM = """
import asyncio, os, sys
from dataclasses import replace
from pathlib import Path
from deploy.local.instance import Instance
from deploy.local.runner import run
from deploy.local.spec import Kind, Spec

class Tiny:
    def __init__(self, ports):
        self.ports = ports
    def specs(self):
        return [self.one_more("worker", 1), self.one_more("worker", 2), *([self.job()] if "job" in sys.argv else [])]
    def one_more(self, service, index):
        code = "import signal; signal.pause()"
        name = f"{service}-{index}"
        return Spec(name, (sys.executable, "-S", "-c", code), env=dict(os.environ), ports=(self.ports[name],))
    def job(self):
        argv = (sys.executable, "-S", "-c", "import time; time.sleep(600)")
        return Spec("job", argv, Kind.JOB, env=dict(os.environ), after=("worker-1", "worker-2"))
    def rabbitmqctl(self, arguments):
        return Spec("tool", ("/bin/echo", *arguments), Kind.JOB)
    def report(self):
        return {"answer": "ready"}

done = asyncio.run(run(Instance("tiny", Path(sys.argv[1])), Tiny, lambda report: print(report["answer"], flush=True)))
sys.exit(0 if done else 130)
"""


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return Instance("tiny", tmp_path / ("deep-" * 20))  # longer than the address of a unix socket may be


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(instance: Instance) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", PROGRAM, str(instance.base), *options]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        if not options:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    eventually(lambda: not instance.is_alive())


def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ps_tells_names_states_processes_and_ports(start: Start, instance: Instance) -> None:
    start()
    rows = Control(instance).ps()
    assert [(row["name"], row["state"], row["restarts"]) for row in rows] == [
        ("worker-1", "ready", 0),
        ("worker-2", "ready", 0),
    ]
    assert all(row["pid"] and row["ports"] for row in rows)
    eventually(lambda: all(row["rss_bytes"] > 0 for row in Control(instance).ps()))  # it has none while it begins
    assert (instance.pids / "worker-1.pid").read_text() == f"{rows[0]['pid']}\n"


def test_one_child_can_be_stopped_started_and_restarted(start: Start, instance: Instance) -> None:
    start()
    control = Control(instance)
    control.stop("worker-1", "KILL")
    assert control.ps()[0]["state"] == "stopped"
    control.start("worker-1")
    pids = [row["pid"] for row in control.ps()]
    control.restart("worker")
    assert all(row["state"] == "ready" and row["pid"] not in pids for row in control.ps())


def test_a_service_is_scaled_up_and_down(start: Start, instance: Instance) -> None:
    start()
    control = Control(instance)
    control.scale("worker", 4)
    assert [row["name"] for row in control.ps()] == ["worker-1", "worker-2", "worker-3", "worker-4"]
    control.scale("worker", 1)
    assert [row["name"] for row in control.ps()] == ["worker-1"]


@pytest.mark.parametrize(
    ("ask", "complaint"),
    [
        (lambda control: control.start("nobody"), "there is no 'nobody' here"),
        (lambda control: control.kill("worker-1", "LOUDLY"), "there is no signal LOUDLY"),
        (lambda control: control.scale("worker", 0), "worker cannot be scaled to 0"),
    ],
)
def test_a_bad_request_is_refused_in_a_sentence(
    start: Start, instance: Instance, ask: Callable[[Control], None], complaint: str
) -> None:
    start()
    with pytest.raises(LocalError, match=complaint):
        ask(Control(instance))


def test_a_tool_runs_inside_the_instance(start: Start, instance: Instance) -> None:
    start()
    assert Control(instance).rabbitmqctl("status", "please") == "status please"


def test_shutting_down_leaves_nothing(start: Start, instance: Instance) -> None:
    process = start()
    Control(instance).shut_down()
    assert process.wait(20) == 0
    assert not instance.is_alive()
    assert not instance.control.exists()
    with pytest.raises(NotUp, match="instance tiny does not answer"):
        Control(instance).ps()


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_the_start_leaves_nothing(
    start: Start, instance: Instance, by: signal.Signals
) -> None:
    process = start("job")
    eventually(lambda: (instance.pids / "job.pid").exists())
    process.send_signal(by)
    assert process.wait(20) == 130
    assert list(instance.pids.iterdir()) == []
    assert not instance.is_alive()


def test_killing_the_supervisor_ends_its_children(start: Start, instance: Instance) -> None:
    process = start()
    pids = [row["pid"] for row in Control(instance).ps()]
    process.kill()
    process.wait()
    eventually(lambda: not instance.is_alive())
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


@pytest.mark.parametrize("take_away", [shutil.rmtree, lambda folder: folder.rename(folder.with_name("elsewhere"))])
def test_without_its_folder_everything_stops(
    start: Start, instance: Instance, take_away: Callable[[Path], object]
) -> None:
    process = start()
    pids = [row["pid"] for row in Control(instance).ps()]
    take_away(instance.base)
    assert process.wait(20) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_stale_files_of_a_killed_supervisor_do_not_matter(start: Start, instance: Instance) -> None:
    process = start()
    process.kill()
    process.wait()
    eventually(lambda: not instance.is_alive())
    start()
    assert len(Control(instance).ps()) == 2


def test_a_second_supervisor_is_refused(start: Start, instance: Instance) -> None:
    start()
    second = start("again")
    _, errors = second.communicate(timeout=20)
    assert "instance tiny is already running" in errors


def test_only_abandoned_instances_are_removed(start: Start, instance: Instance) -> None:
    start()
    abandoned = Instance("tiny-2", instance.base)
    abandoned.prepare()
    os.close(abandoned.lock())
    remove_abandoned(instance.base, "tiny")
    assert not abandoned.run.exists()
    assert instance.is_alive()
