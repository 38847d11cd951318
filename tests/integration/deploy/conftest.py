"""What the jobs' tests run on: a stage of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import Servers
from tests.stage import Stage, staged


@pytest.fixture(scope="session")
def stage(servers: Servers) -> Iterator[Stage]:
    with staged(servers) as made:
        yield made
