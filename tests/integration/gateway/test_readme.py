"""The tour of README.md: every request that it shows is answered as it says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.integration.gateway.conftest import Running

_README = Path(__file__).parents[3] / "README.md"
_COMMAND = re.compile(r"^curl (?:.*\\\n)*.*$", re.MULTILINE)
# Streams have no end here, as there is no worker: they are read for this long.
_SECONDS = "5"


async def _run(command: str, **environment: str) -> tuple[int, str]:
    """The status and the body."""
    shell = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        f"{command} --max-time {_SECONDS} -w '\\n%{{http_code}}'",
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        output, _ = await shell.communicate()
    body, _, status = output.decode().rpartition("\n")
    return int(status), body


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
async def test_every_request_of_the_tour_works(gateway: Running) -> None:
    commands = _COMMAND.findall(_README.read_text())
    environment = {
        "LANEWAY_URL": str(gateway.client.base_url).rstrip("/"),
        "LANEWAY_KEY_PRO": (await gateway.tenant("pro")).key,
        "LANEWAY_KEY_ENTERPRISE": (await gateway.tenant("enterprise")).key,
        "TASK": "",
    }
    statuses = []
    for command in commands:
        status, body = await _run(command, **environment)
        statuses.append(status)
        assert status in (200, 201, 202), body
        environment["TASK"] = environment["TASK"] or json.loads(body)["id"]
    assert statuses == [202, 202, 202, 202, 202, 200, 200, 200, 202, 201, 202, 202, 200, 201, 202, 201, 200, 200, 200]
