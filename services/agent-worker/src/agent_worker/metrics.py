"""What an operator sees of a worker."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SLOTS_LENT = Gauge("laneway_worker_slots_lent", "Slots lent to a tier beyond its guarantee", ["tier"])
RUNS_HELD = Gauge("laneway_worker_runs_held", "Deliveries this worker holds, each in a slot", ["tier"])
RUNS_ENDED = Counter("laneway_worker_runs_ended_total", "Deliveries settled", ["tier", "disposition"])
SLOTS = Gauge("laneway_worker_slots", "All slots, lent ones included")
GUARANTEED_SLOTS = Gauge("laneway_worker_guaranteed_slots", "Slots that are never lent for good", ["tier"])
CALL_SECONDS = Histogram(
    "laneway_model_call_seconds",
    "Model calls, from the request to the end of the stream",
    ["provider", "model", "outcome"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
