"""What the command line does. Each command returns the status for the shell."""

import asyncio
import json
import os
import subprocess
import sys

from deploy.local import background, compose, interrupts, processes, programs
from deploy.local import demo as client
from deploy.local.control import Control
from deploy.local.envfile import read_env, write_env
from deploy.local.errors import AlreadyUp, LocalError
from deploy.local.instance import BASE, Instance, remove_abandoned
from deploy.local.ports import Ports
from deploy.local.runner import run
from deploy.local.servers import Servers
from deploy.local.stack import OnlyServers, WholeStack

MAIN = Instance("main")
DEMO = Instance("demo")
DEMO_ENV = BASE / "demo.env"
SHOWN = ("LANEWAY_URL", "RABBITMQ_UI", "SIMULATOR_URL")


def servers(name: str, *, ephemeral: bool, durable: bool, until_eof: bool) -> int:
    """Run only the servers in the foreground; print their addresses as one line of JSON when they are ready."""
    instance = Instance(name)
    if ephemeral:
        remove_abandoned(instance.base, "test-")
    found = programs.find(instance.base, _say)

    def make(ports: Ports) -> OnlyServers:
        return OnlyServers(Servers(instance, found, ports, quick=ephemeral and not durable))

    def tell(report: dict[str, str]) -> None:
        print(json.dumps({"instance": name, **report}), flush=True)

    if instance.is_alive():  # before `finally` could remove what belongs to another
        raise AlreadyUp(f"instance {name} is already running (see {instance.run})")
    try:
        was_ready = asyncio.run(run(instance, make, tell, until_eof=until_eof))
    finally:
        if ephemeral:
            instance.remove()
    return 0 if was_ready else 130


def supervise(name: str, report_fd: int, *, until_eof: bool) -> int:
    """Run the whole stack; report to whoever started this, once: `{"ready": …}` or `{"error": …}`."""
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
                until_eof=until_eof,
            )
        )
    except LocalError as error:
        report("error", str(error))
        return 1
    return 0


def up() -> int:
    """Start the stack in the background, unless it is up already, and say where it is."""
    if MAIN.is_alive() or (compose.chosen() and compose.is_up()):
        print("already up")
        addresses = read_env(DEMO_ENV)
    else:
        addresses = compose.start() if compose.chosen() else background.start(MAIN).addresses
        write_env(DEMO_ENV, addresses)
        print("up; all addresses, keys and passwords are in .laneway/demo.env")
    for name in SHOWN:
        if name in addresses:
            print(f"  {name:<14} {addresses[name]}")
    return 0


def down() -> int:
    """Stop the stack, however it was started."""
    stopped = [background.stop(MAIN), compose.stop()]
    if os.environ.get("CLEAN"):
        MAIN.remove()
    print("down" if any(stopped) else "nothing is up")
    DEMO_ENV.unlink(missing_ok=True)
    return 0


def demo() -> int:
    """Start a stack of its own, run the demo client against it, and remove it with all its data."""
    if compose.chosen():
        return _demo_by_compose()
    if DEMO.is_alive():
        raise LocalError("a demo is running already")
    DEMO.remove()
    started = background.start(DEMO, attached=True)
    try:
        status = client.main(started.addresses)
    finally:
        with interrupts.put_off():  # the stack has to be gone before the next demo can start
            background.stop(DEMO)
            started.supervisor.wait()
    if status == 0:
        DEMO.remove()  # else it is kept for whoever looks for the reason
    else:
        _say(f"the logs are in {DEMO.logs}")
    return status


def _demo_by_compose() -> int:
    project = f"{compose.PROJECT}-demo"
    try:
        return client.main(compose.start(project))
    finally:
        with interrupts.put_off():
            compose.stop(project, volumes=True)


def has_docker() -> int:
    """Succeed if the stack can run by docker-compose.yml here."""
    return 0 if compose.usable() else 1


def ps(name: str) -> int:
    """Print the table of processes."""
    if _by_compose(name):
        compose.compose(compose.PROJECT, "ps")
    else:
        print(processes.table(Control(Instance(name)).ps()))
    return 0


def logs(name: str, child: str | None, follow: bool) -> int:
    """Print, and follow if asked, the logs of one child or of all."""
    if _by_compose(name):
        compose.compose(compose.PROJECT, "logs", *(["-f"] if follow else []), *([child] if child else []))
        return 0
    files = sorted(Instance(name).logs.glob(f"{child}*.log" if child else "*.log"))
    if not files:
        raise LocalError(f"instance {name} has no log of {child or 'anything'}")
    return subprocess.run(["tail", "-n", "200", *(["-F"] if follow else []), *map(str, files)], check=False).returncode


def topology(name: str) -> int:
    """Apply the topology to the running stack again."""
    if _by_compose(name):
        compose.compose(compose.PROJECT, "run", "--rm", "topology")
    else:
        Control(Instance(name)).restart("topology")
    return 0


def start(name: str, child: str) -> int:
    """Start a stopped child, or run a job again."""
    Control(Instance(name)).start(child)
    return 0


def stop(name: str, child: str, signal: str | None) -> int:
    """Stop a child, which stays down until it is started."""
    Control(Instance(name)).stop(child, signal)
    return 0


def restart(name: str, child: str) -> int:
    """Stop and start a child."""
    Control(Instance(name)).restart(child)
    return 0


def kill(name: str, child: str, signal: str) -> int:
    """Send a signal to a child's process group."""
    Control(Instance(name)).kill(child, signal)
    return 0


def scale(name: str, child: str, count: int) -> int:
    """Run this many processes of a service."""
    Control(Instance(name)).scale(child, count)
    return 0


def rabbitmqctl(name: str, arguments: list[str]) -> int:
    """Run the broker's command line tool against the instance's broker."""
    print(Control(Instance(name)).rabbitmqctl(*arguments))
    return 0


def _by_compose(name: str) -> bool:
    return name == MAIN.name and not MAIN.is_alive() and compose.is_up()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
