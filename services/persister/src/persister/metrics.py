"""What operators watch."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

RECORDED = Counter("laneway_persister_recorded", "Messages whose content is durable", ["kind"])
EVENTS = Counter("laneway_persister_events", "Events of runs that were in those messages")
DEAD_LETTERS = Counter("laneway_persister_dead_letters", "Dead letters filed; alert above 0", ["queue"])
BURIED = Counter("laneway_persister_buried_tasks", "Dead-lettered tasks that were ended as failed; alert above 0")
EXPIRED = Counter(
    "laneway_persister_expired_tasks", "Tasks that were ended because they had not begun by their deadline"
)
WOKEN = Counter("laneway_persister_woken_runs", "Parked runs that were made ready to go on")
WAKER_FAILURES = Counter(
    "laneway_persister_waker_failures", "Errors that nobody expected while waking or firing schedules; alert above 0"
)
WAKER_INTERRUPTIONS = Counter(
    "laneway_persister_waker_interruptions",
    "How often waking was broken off because a server did not answer in time; alert where it goes on",
)
# Of the process that wakes; the others show none.
PARKED = Gauge("laneway_persister_parked_runs", "Runs that wait without a slot", ["reason"])
OLDEST_READY = Gauge(
    "laneway_persister_oldest_ready_seconds", "How long a run has been ready to go on without being taken from its lane"
)
TICKS = Counter("laneway_persister_schedule_ticks", "Ticks of schedules by what came of them", ["outcome"])
TICK_LATENESS = Histogram(
    "laneway_persister_schedule_lateness_seconds",
    "How long after its tick a schedule's task was published",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 600, 3600),
)
CANCELLED = Counter("laneway_persister_cancelled_tasks", "Tasks that a cancel of many reached by way of the persister")
ERASED = Counter("laneway_persister_erased_tasks", "Tasks that were emptied with their conversation")

BATCH_MESSAGES = Histogram(
    "laneway_persister_batch_messages", "Messages in a batch", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
)
BATCH_SECONDS = Histogram("laneway_persister_batch_seconds", "Time from a batch to its commit")
