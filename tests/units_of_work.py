"""What one process of a parallel run is given at a time: the tests of a file, or of all files that share a stack.

Files come in the order in which they are collected, not the ones with the most tests first: so those that take longest,
which are the acceptance tests, begin first, and the run does not end with a few processes that wait for one file.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

FRAGILE = ("conversations", "faults", "lane_faults")
"""A stack whose servers are its own takes longest to start."""
WHOLE = ("caps", "documents", "main_job")
_UNITS = {f"tests/acceptance/test_{name}.py": unit for unit in (FRAGILE, WHOLE) for name in unit}


class UnitsOfWork(LoadFileScheduling):  # type: ignore[misc]
    """`--dist loadfile`, with that."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return " ".join(_UNITS.get(file, (file,)))
