"""The SDK alone, in a process of its own, as a worker is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

_SECONDS = 180


def bare(what: str, url: str, prompt: str, count: int) -> Any:
    """What `benchmarks.rivals.bare_sdk` prints."""
    command = [sys.executable, "-m", "benchmarks.rivals.bare_sdk", what, url, prompt, str(count)]
    found = subprocess.run(command, env=dict(os.environ), check=True, stdout=subprocess.PIPE, timeout=_SECONDS)
    return json.loads(found.stdout)
