"""What the command line does with an instance."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time

from deploy.local import processes, programs
from deploy.local.control import Control
from deploy.local.envfile import read_env, write_env
from deploy.local.errors import LocalError, NotUp
from deploy.local.instance import BASE, Instance, remove_abandoned
from deploy.local.ports import Ports
from deploy.local.runner import run
from deploy.local.servers import Servers
from deploy.local.stack import OnlyServers, WholeStack

MAIN = Instance("main")
DEMO_ENV = BASE / "demo.env"
STOP_SECONDS = 120


def servers(name: str, *, ephemeral: bool, until_eof: bool) -> int:
    """Run only the servers in the foreground; print their addresses as one line of JSON when they are ready."""
    instance = Instance(name)
    if ephemeral:
        remove_abandoned(instance.base, "test-")
    found = programs.find(instance.base, _say)

    def make(ports: Ports) -> OnlyServers:
        return OnlyServers(Servers(instance, found, ports, quick=ephemeral))

    def tell(report: dict[str, str]) -> None:
        print(json.dumps({"instance": name, **report}), flush=True)

    try:
        was_ready = asyncio.run(run(instance, make, tell, until_eof=until_eof))
    finally:
        if ephemeral and not instance.is_alive():
            instance.remove()
    return 0 if was_ready else 130


def supervise(name: str, report_fd: int) -> int:
    """Run the whole stack in the foreground; report to whoever started this, once: `{"ready": …}` or `{"error": …}`."""
    instance = Instance(name)

    def report(key: str, value: object) -> None:
        with os.fdopen(report_fd, "w") as pipe:
            json.dump({key: value}, pipe)

    try:
        found = programs.find(instance.base, _say)
        asyncio.run(
            run(
                instance,
                lambda ports: WholeStack(instance, Servers(instance, found, ports), ports),
                lambda addresses: report("ready", addresses),
            )
        )
    except LocalError as error:
        report("error", str(error))
        return 1
    return 0


def start(instance: Instance) -> dict[str, str]:
    """Start the whole stack in the background and wait until everything is ready; returns its addresses.

    Interrupted while it waits, it stops what it started.
    """
    instance.logs.mkdir(parents=True, exist_ok=True)
    reading, writing = os.pipe()
    with (instance.run / "supervisor.log").open("ab") as log, os.fdopen(reading) as pipe:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "deploy.local",
                "supervise",
                "--instance",
                instance.name,
                "--report-fd",
                str(writing),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[writing],
            start_new_session=True,
        )
        os.close(writing)
        try:
            answer = json.loads(pipe.read() or "{}")
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if "ready" not in answer:
        process.wait()
        raise LocalError(answer.get("error", f"the supervisor ended: see {instance.run}/supervisor.log"))
    process.returncode = 0  # it lives on by itself: do not warn that nobody waits for it
    addresses: dict[str, str] = answer["ready"]
    return addresses


def stop(instance: Instance) -> bool:
    """Stop the whole stack and wait until nothing of it is left; False when nothing was up."""
    if not instance.is_alive():
        return False
    with contextlib.suppress(NotUp):  # its supervisor was killed: its children are about to end
        Control(instance).shut_down()
    deadline = time.monotonic() + STOP_SECONDS
    while instance.is_alive():
        if time.monotonic() > deadline:
            raise LocalError(f"instance {instance.name} did not stop within {STOP_SECONDS} s: see {instance.run}")
        time.sleep(0.05)
    return True


def up() -> int:
    """Start the stack in the background, unless it is up already, and say where it is."""
    if MAIN.is_alive():
        print("already up")
        addresses = read_env(DEMO_ENV)
    else:
        addresses = start(MAIN)
        write_env(DEMO_ENV, addresses)
        print("up; the addresses and keys are in .laneway/demo.env")
    for name in ("LANEWAY_URL", "RABBITMQ_UI", "SIMULATOR_URL"):
        if name in addresses:
            print(f"  {name:<14} {addresses[name]}")
    return 0


def down() -> int:
    """Stop the stack."""
    print("down" if stop(MAIN) else "nothing is up")
    DEMO_ENV.unlink(missing_ok=True)
    return 0


def ps(name: str) -> int:
    """Print the table of processes."""
    print(processes.table(Control(Instance(name)).ps()))
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
