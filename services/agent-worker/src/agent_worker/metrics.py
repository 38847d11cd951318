"""What an operator sees of a worker."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SLOTS_LENT = Gauge("laneway_worker_slots_lent", "Slots lent to a tier beyond its guarantee", ["tier"])
RUNS_HELD = Gauge("laneway_worker_runs_held", "Deliveries this worker holds, each in a slot", ["tier"])
QUARANTINED = Counter("laneway_worker_runs_quarantined_total", "Runs that were given a process of their own")
MCP_FAILURES = Counter("laneway_mcp_failures_total", "Listings and calls of MCP servers that failed", ["server"])
RUNS_ENDED = Counter("laneway_worker_runs_ended_total", "Deliveries settled", ["tier", "disposition"])
SLOTS = Gauge("laneway_worker_slots", "All slots, lent ones included")
GUARANTEED_SLOTS = Gauge("laneway_worker_guaranteed_slots", "Slots that are never lent for good", ["tier"])
LIMIT_WAIT_SECONDS = Histogram(
    "laneway_provider_limit_wait_seconds",
    "How long calls waited for a provider's limit; calls of models without one are not counted",
    ["tier", "provider", "model"],
    buckets=(0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)
LIMIT_CAPACITY = Gauge(
    "laneway_provider_limit_capacity",
    "Requests or tokens a minute that all workers keep to now: what refusals have left of the limit",
    ["provider", "model", "unit"],
)
LIMIT_LEVEL = Gauge(
    "laneway_provider_limit_level", "What is left of the capacity at this moment", ["provider", "model", "unit"]
)
LIMIT_PAUSED = Gauge(
    "laneway_provider_limit_paused_seconds", "How long the provider is still to be left alone", ["provider", "model"]
)
CIRCUIT_OPEN = Gauge(
    "laneway_provider_circuit_open",
    "Whether this worker leaves the model alone, but for probes: 1, else 0",
    ["provider", "model"],
)
CIRCUIT_OPENED = Counter(
    "laneway_provider_circuit_opened_total",
    "How often this worker's own calls opened the circuit, failed probes included",
    ["provider", "model"],
)
FALLBACKS = Counter(
    "laneway_fallbacks_total", "Runs that went on with another model, by why they left theirs", ["left", "to", "reason"]
)
RESPONSE_CACHE = Counter(
    "laneway_response_cache_total",
    "Calls that the response cache was asked for: hit, miss, or away where its Redis was",
    ["outcome"],
)
CALL_SECONDS = Histogram(
    "laneway_model_call_seconds",
    "Model calls, from the request to the end of the stream",
    ["provider", "model", "outcome"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
