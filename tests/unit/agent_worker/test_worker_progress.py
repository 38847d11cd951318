from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent_worker import progress
from agent_worker.progress import RunLog
from common.contracts.events import EventId, StreamEvent


class Ignoring:
    """A sink that is told and does nothing."""

    def __init__(self) -> None:
        self.urgent: list[bool] = []

    def notice(self, log: RunLog, *, urgent: bool) -> None:
        self.urgent.append(urgent)


class Interleavings(RuleBasedStateMachine):
    """A run, the writer to Redis and the step boundaries, in any order; against what each of them has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.log = RunLog("log", 7, Ignoring())
        self.text = ""
        self.emitted = 0
        self.redis: list[StreamEvent] = []
        self.sent: list[StreamEvent] = []
        self.durable: list[StreamEvent] = []

    @rule(text=st.text(max_size=5))
    def token(self, text: str) -> None:
        self.log.token(text)
        self.text += text

    @rule()
    def emit(self) -> None:
        self.log.emit("usage", {"n": self.emitted})
        self.emitted += 1

    @rule()
    def writer_sends(self) -> None:
        self.sent = self.log.not_written()

    @rule()
    def redis_has_it(self) -> None:
        if self.sent:
            self.redis += [event for event in self.sent if event.seq > (self.redis[-1].seq if self.redis else 0)]
            self.log.mark_written(self.sent[-1].seq)
            self.sent = []

    @rule()
    def redis_loses_everything(self) -> None:
        self.redis = []
        self.sent = []
        self.log.mark_unwritten()

    @rule()
    def boundary(self) -> None:
        events = self.log.not_durable()
        self.durable += events
        if events:
            self.log.mark_durable(events[-1].id)

    @invariant()
    def nothing_is_lost_and_nothing_is_numbered_twice(self) -> None:
        kept = self.durable + list(self.log.not_durable())
        assert [event.seq for event in kept] == list(range(1, len(kept) + 1))
        assert "".join(event.data.get("text", "") for event in kept) == self.text
        assert sum(event.type == "usage" for event in kept) == self.emitted
        assert self.log.last_id == (EventId(7, len(kept)) if kept else None)

    @invariant()
    def redis_misses_nothing_that_postgresql_has_not(self) -> None:
        known = {event.seq for event in (*self.redis, *self.sent, *self.log.not_written(), *self.durable)}
        assert known == set(range(1, (self.log.last_id or EventId(0, 0)).seq + 1))

    @invariant()
    def what_begins_a_stream_follows_what_is_durable(self) -> None:
        waiting = self.log.not_written()
        if waiting and self.log.may_create:
            assert waiting[0].seq <= len(self.durable) + 1

    @invariant()
    def what_is_not_durable_is_measured(self) -> None:
        assert (self.log.bytes_not_durable > 0) == bool(self.log.not_durable())


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_memory_is_bounded_while_redis_is_away() -> None:
    log = RunLog("log", 1, Ignoring())
    for _ in range(4):
        for number in range(progress._KEPT_FOR_REDIS // 2):
            log.emit("usage", {"n": number})
        last = log.last_id
        assert last is not None
        log.mark_durable(last)
    assert len(log.not_written()) == progress._KEPT_FOR_REDIS
    assert log.not_durable() == ()


def test_the_first_token_of_an_answer_is_urgent_and_neither_the_others_are_nor_what_passes() -> None:
    sink = Ignoring()
    log = RunLog("log", 1, sink)
    log.emit("start", {})
    log.token("a")
    log.join_tokens()
    log.token("b")
    log.emit("usage", {})
    log.token("c")
    assert sink.urgent == [True, True, False, False, True]
    data: list[dict[str, Any]] = [event.data for event in log.not_durable()]
    assert data == [{}, {"text": "a"}, {"text": "b"}, {}, {"text": "c"}]


def test_tokens_that_nobody_writes_become_events_of_a_bounded_size() -> None:
    log = RunLog("log", 1, Ignoring())
    for _ in range(1000):
        log.token("x" * 100)
    sizes = [len(event.data["text"]) for event in log.not_durable()]
    assert sum(sizes) == 100_000
    assert max(sizes) < 10_000
    assert log.bytes_not_durable > 100_000
