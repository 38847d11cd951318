"""The simulator's own count of every call: what was really sent, whatever became of the client.

Token counts are disjoint: `input_tokens` excludes what was read from or written to the cache, for both providers;
`output_tokens` includes reasoning. Totals are exact from start (or the last reset); of single calls the last
200,000 are kept.
"""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Literal

Outcome = Literal["completed", "cut", "client_gone", "failed"]

KEPT = 200_000


@dataclass(slots=True)
class Record:
    """One call; the tokens are those sent up to its end."""

    request_id: str
    client_request_id: str | None
    provider: str
    api: str
    model: str = ""
    streaming: bool = False
    status: int = 0
    outcome: Outcome = "failed"
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    started_at: float = field(default_factory=time.time)
    last_token_at: float = 0.0
    """When the last output token was sent; 0 where none was."""
    finished_at: float = 0.0


@dataclass(slots=True)
class Totals:
    """Sums over calls; `calls` is completed + failed + cut + client_gone."""

    calls: int = 0
    completed: int = 0
    failed: int = 0
    cut: int = 0
    client_gone: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    def add(self, record: Record) -> None:
        """Count a finished call in."""
        self.calls += 1
        setattr(self, record.outcome, getattr(self, record.outcome) + 1)
        self.input_tokens += record.input_tokens
        self.output_tokens += record.output_tokens
        self.cache_read_tokens += record.cache_read_tokens
        self.cache_write_tokens += record.cache_write_tokens
        self.reasoning_tokens += record.reasoning_tokens


class Audit:
    """Keeps the records of finished calls and their totals."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self.in_flight = 0
        self.clear()

    def clear(self) -> None:
        """Start counting anew; calls in flight will be counted when they end."""
        self._records: deque[Record] = deque()
        self._by_request: dict[str, Record] = {}
        self._by_client: dict[str, deque[Record]] = {}
        self._totals = Totals()
        self._by_model: dict[str, Totals] = {}

    def finish(self, record: Record) -> None:
        """Note the end of a call."""
        record.finished_at = time.time()
        self._totals.add(record)
        self._by_model.setdefault(record.model, Totals()).add(record)
        self._records.append(record)
        self._by_request[record.request_id] = record
        if record.client_request_id is not None:
            self._by_client.setdefault(record.client_request_id, deque()).append(record)
        if len(self._records) > self._kept:
            self._forget(self._records.popleft())

    def totals(self) -> dict[str, object]:
        """The sums, the number of calls that have not ended yet, and the sums of each model."""
        by_model = {model: asdict(totals) for model, totals in self._by_model.items()}
        return {**asdict(self._totals), "in_flight": self.in_flight, "by_model": by_model}

    def calls(self, request_id: str | None = None, client_request_id: str | None = None) -> Iterable[Record]:
        """The kept records, oldest first; all, or those of one id."""
        if request_id is not None:
            found = self._by_request.get(request_id)
            return [found] if found else []
        if client_request_id is not None:
            return self._by_client.get(client_request_id, [])
        return self._records

    def _forget(self, record: Record) -> None:
        self._by_request.pop(record.request_id, None)
        if record.client_request_id is None:
            return
        # Both queues are in the order of the calls' ends, so the oldest of all is the oldest of its client's id.
        same_client = self._by_client[record.client_request_id]
        same_client.popleft()
        if not same_client:
            del self._by_client[record.client_request_id]
