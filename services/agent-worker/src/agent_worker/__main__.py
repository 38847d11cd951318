"""`python -m agent_worker`."""

from __future__ import annotations

from agent_worker.bootstrap import serve
from agent_worker.settings import WorkerSettings
from common.lifecycle import run
from common.settings import load


def main() -> int:
    """Run a worker; the exit code."""
    settings = load(WorkerSettings)
    return run("agent-worker", settings.telemetry, lambda stopping: serve(settings, stopping))


if __name__ == "__main__":
    raise SystemExit(main())
