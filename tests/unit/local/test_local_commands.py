"""The commands themselves, with what they start and stop taken for granted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy.local import background, commands, compose
from deploy.local import demo as client
from deploy.local.instance import Instance


def _interrupt() -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return 0


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    done: list[str] = []
    supervisor = SimpleNamespace(wait=lambda: done.append("waited"))

    def stop(_: Instance) -> bool:
        _interrupt()
        done.append("stopped")
        return True

    monkeypatch.setattr(compose, "chosen", lambda: False)
    monkeypatch.setattr(commands, "DEMO", Instance("demo", tmp_path))
    monkeypatch.setattr(background, "start", lambda *_, **__: SimpleNamespace(addresses={}, supervisor=supervisor))
    monkeypatch.setattr(background, "stop", stop)
    return done


@pytest.mark.parametrize("run", [lambda _: 0, lambda _: _interrupt()])
def test_the_demo_stops_what_it_started_whatever_interrupts_it(
    monkeypatch: pytest.MonkeyPatch, steps: list[str], run: Callable[[dict[str, str]], int]
) -> None:
    monkeypatch.setattr(client, "main", run)
    with pytest.raises(KeyboardInterrupt):
        commands.demo()
    assert steps == ["stopped", "waited"]


def test_a_reader_that_has_enough_is_no_error() -> None:
    program = "import sys; from deploy.local import __main__, commands\n"
    program += "commands.has_docker = lambda: print('row\\n' * 100_000) or 0\nsys.exit(__main__.main())"
    command = f'{sys.executable} -c "$PROGRAM" has-docker | head -1'
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env={**os.environ, "PROGRAM": program},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "row\n", "")
