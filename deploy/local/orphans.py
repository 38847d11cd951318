"""Processes whose own parent died before them, such as the helpers of a broker that was killed.

They would go to process 1, which in a container often waits for nobody and keeps them as zombies for ever.
"""

import asyncio
import ctypes
import os
import sys

PR_SET_CHILD_SUBREAPER = 36
SECONDS, STEP = 2.0, 0.02


def adopt() -> None:
    """Become the parent of all orphaned descendants, where the system offers that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


async def bury() -> None:
    """Wait for them to end, for a little while. Only when no other child is left: it takes whichever ends."""
    for _ in range(int(SECONDS / STEP)):
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)  # noqa: ASYNC222 - WNOHANG: it does not wait
        except ChildProcessError:
            return
        if ended == 0:
            await asyncio.sleep(STEP)
