"""`python -m agent_worker`."""

from __future__ import annotations

import gc

# The SDKs are thousands of modules, none of which is garbage: a quarter of the time to start went to looking for some.
# The collector is set to work when all is started (see `common.lifecycle`).
gc.disable()

from agent_worker.bootstrap import serve  # noqa: E402
from agent_worker.settings import WorkerSettings  # noqa: E402
from common.lifecycle import run  # noqa: E402
from common.settings import load  # noqa: E402


def main() -> int:
    """Run a worker; the exit code."""
    settings = load(WorkerSettings)
    return run("agent-worker", settings.telemetry, lambda stopping: serve(settings, stopping))


if __name__ == "__main__":
    raise SystemExit(main())
