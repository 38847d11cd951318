"""Celery as one would run it for work that must not be lost: quorum queue, late acks, confirms, results in Redis.

A worker is `celery -A benchmarks.rivals.celery_app worker`; `python -m benchmarks.rivals.celery_app COUNT` submits so
many tasks, waits for their results, and prints tasks per second.
"""

from __future__ import annotations

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis
from celery import Celery  # type: ignore[import-untyped]
from kombu.entity import Queue

_THREADS = 8
_SECONDS = 240

app = Celery("rival", broker=os.environ["RIVAL_BROKER"], backend=os.environ["RIVAL_RESULTS"])
app.conf.update(
    task_queues=[Queue("celery-rival", queue_arguments={"x-queue-type": "quorum"})],  # type: ignore[no-untyped-call]
    task_default_queue="celery-rival",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    broker_transport_options={"confirm_publish": True},
    worker_detect_quorum_queues=True,
    broker_connection_retry_on_startup=True,
)


@app.task(name="no-op")  # type: ignore[untyped-decorator]
def no_op(text: str) -> str:
    """Does nothing."""
    return text


def measure(count: int) -> float:
    """Tasks per second, from the first submission to the last result."""
    results: Any = redis.Redis.from_url(os.environ["RIVAL_RESULTS"])
    no_op.delay("warm").get(timeout=60)
    results.flushdb()
    began = time.perf_counter()
    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(no_op.delay, ["Nothing."] * count))
    while results.dbsize() < count:
        if time.perf_counter() - began > _SECONDS:
            raise TimeoutError(f"{results.dbsize()} of {count} results")
        time.sleep(0.05)
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    print(measure(int(sys.argv[1])))
