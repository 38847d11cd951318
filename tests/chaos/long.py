"""A long run with a short lease: as many renewals as in an hour, and the broker restarted in the middle.

By the default lease of 4 s an hour is 900 leases; here a lease is a second.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from tests.acceptance.reading import Reading, follow
from tests.acceptance.tasks import ended, submit
from tests.chaos.matrix import DEADLINE, Grounds, standing

HOUR = 900.0
"""Seconds that have as many leases as an hour by default."""
_CALL_SECONDS = 30.0
"""Of each model call: none is to take as long as a model may be silent."""
_ANSWER = "It has taken its time."


async def long_run(made: Grounds, seconds: float) -> list[str]:
    """What is wrong with a run that takes so long. Only for a stack whose servers nobody else uses."""
    steps = max(1, round(seconds / _CALL_SECONDS) - 1)
    script = f'tool=calculator:{{"expression":"6*7"}} steps={steps} ttft={_CALL_SECONDS:g} text="{_ANSWER}"'
    async with made.stack.client("pro") as client:
        task = await submit(client, f"Take your time [[sim {script}]]", agent="noting")
        reading = Reading()
        following = asyncio.create_task(follow(client, task["id"], reading, 2 * seconds + DEADLINE))
        await asyncio.sleep(seconds / 2)
        await asyncio.to_thread(made.stack.restart_broker)
        await following
        finished = await ended(client, task["id"], DEADLINE)
    wrong = []
    if (finished["status"], finished["output"], reading.text) != ("completed", _ANSWER, _ANSWER):
        wrong.append(f"the long run ended as {finished['status']} with {finished['output']!r}: {finished.get('error')}")
    if finished["attempts"] != 1:
        wrong.append(f"the long run was taken over: its lease was lost, {finished['attempts'] - 1} times")
    if (told := Counter(event.type for event in standing(reading))["tool_end"]) != steps:
        wrong.append(f"the stream of the long run tells of {told} results of {steps}")
    return wrong
