"""Starts and stops a supervisor that stays in the background."""

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

from deploy.local import interrupts
from deploy.local.control import Control
from deploy.local.errors import LocalError, NotUp
from deploy.local.instance import REPOSITORY, Instance

STOP_SECONDS = 120


@dataclass(frozen=True)
class Started:
    """A stack that is ready, and its supervisor."""

    addresses: dict[str, str]
    supervisor: subprocess.Popen[bytes]


def start(instance: Instance, *, attached: bool = False) -> Started:
    """Start the whole stack in the background and wait until everything is ready.

    Interrupted while it waits, it stops what it started. An attached stack ends with this process, however that ends.
    """
    instance.logs.mkdir(parents=True, exist_ok=True)
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "deploy.local", "supervise", "--instance", instance.name, f"--report-fd={writing}"]
    stdin = subprocess.DEVNULL
    if attached:
        command.append("--until-eof")
        stdin, _ = os.pipe()  # the other end is closed when this process ends, and only then
    with (instance.run / "supervisor.log").open("ab") as log, os.fdopen(reading) as pipe:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=stdin, stdout=log, stderr=log, pass_fds=[writing], start_new_session=True
        )
        os.close(writing)
        if attached:
            os.close(stdin)
        try:
            answer = json.loads(pipe.read() or "{}")
        except BaseException:
            with interrupts.put_off():
                process.terminate()
                process.wait()
            raise
    if "ready" not in answer:
        process.wait()
        raise LocalError(answer.get("error", f"the supervisor ended: see {instance.run}/supervisor.log"))
    if not attached:
        process.returncode = 0  # it lives on by itself: do not warn that nobody waits for it
    return Started(answer["ready"], process)


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
