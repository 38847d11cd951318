"""The circuit breaker as a value, by a clock of the test's."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.providers.base import PermanentError, TransientError
from agent_worker.providers.errors import from_status
from agent_worker.resilience.circuit import Circuit, Rules, verdict

RULES = Rules(window=10, minimum=4, rate=0.5, rest=5, longest_rest=20, probes=1, proofs=2)


def after(circuit: Circuit, *ends: bool, now: float = 0.0) -> Circuit:
    """The circuit after calls that were let through while it was closed."""
    for succeeded in ends:
        circuit = circuit.ended(succeeded, probe=False, now=now)
    return circuit


def probed(circuit: Circuit, succeeded: bool | None, now: float) -> Circuit:
    return circuit.begun().ended(succeeded, probe=True, now=now)


OPEN = after(Circuit(RULES), False, False, False, False)


@pytest.mark.parametrize(
    ("ends", "phase"),
    [
        ((False,) * 3, "closed"),
        ((False,) * 4, "open"),
        ((True, True, False, False), "open"),
        ((True, True, True, False), "closed"),
        ((True,) * 6 + (False,) * 6, "open"),
    ],
)
def test_opens_when_enough_calls_of_enough_have_failed(ends: tuple[bool, ...], phase: str) -> None:
    assert after(Circuit(RULES), *ends).phase(0) == phase


def test_what_is_older_than_the_window_does_not_count() -> None:
    circuit = after(Circuit(RULES), False, False, False, now=0)
    assert after(circuit, False, now=11).phase(11) == "closed"
    assert after(circuit, False, now=8).phase(8) == "open"


def test_it_rests_is_probed_and_closes() -> None:
    assert (OPEN.phase(4.9), OPEN.phase(5)) == ("open", "probing")
    assert OPEN.wait(1) == 4
    once = probed(OPEN, True, 5)
    assert once.phase(5) == "probing"
    twice = probed(once, True, 5)
    assert (twice.phase(5), twice.opened) == ("closed", 0)
    assert after(twice, False, False, False, now=5).phase(5) == "closed"  # it counts anew


def test_a_probe_that_fails_opens_it_for_longer_and_not_for_ever() -> None:
    circuit, now, rests = OPEN, 5.0, []
    for _ in range(4):
        circuit = probed(circuit, False, now)
        rests.append(circuit.wait(now))
        now += rests[-1]
    assert rests == [10, 20, 20, 20]
    assert probed(probed(circuit, True, now), True, now).phase(now) == "closed"


def test_one_probe_at_a_time() -> None:
    probing = OPEN.begun()
    assert probing.wait(5) > 0
    assert probing.ended(None, probe=True, now=5).wait(5) == 0  # cut: it has told nothing


def test_what_began_before_it_opened_changes_nothing() -> None:
    assert after(OPEN, True, True, True, now=6) == OPEN
    assert after(OPEN, False, now=6) == OPEN


def test_a_probe_that_ends_while_it_rests_again_changes_nothing_but_its_place() -> None:
    two = OPEN.begun().begun()
    failed = two.ended(False, probe=True, now=5)
    assert failed.ended(True, probe=True, now=6) == failed.ended(None, probe=True, now=6)


def test_advice_opens_and_closes_it() -> None:
    advised = Circuit(RULES).advised_open(2, 3.0, now=10)
    assert (advised.phase(12.9), advised.phase(13)) == ("open", "probing")
    assert advised.advised_closed(9) == advised  # that was before
    assert advised.advised_closed(11).phase(11) == "closed"
    assert Circuit(RULES).advised_open(1, 1e9, now=0).wait(0) == RULES.longest_rest


def test_advice_that_is_no_news_keeps_what_was_proved() -> None:
    once = probed(OPEN, True, 5)
    assert once.advised_open(1, -0.2, now=5.2) == once


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, True),
        (TransientError("stream_cut", ""), False),
        (from_status(500, None, "", {}), False),
        (from_status(529, None, "", {}), False),
        (from_status(401, None, "", {}), False),
        (from_status(404, None, "", {}), False),
        (from_status(429, "insufficient_quota", "", {}), False),
        (from_status(429, None, "", {}), None),
        (from_status(400, None, "", {}), None),
        (from_status(413, None, "", {}), None),
        (from_status(422, None, "", {}), None),
        (PermanentError("refused", ""), None),
    ],
)
def test_a_tenants_own_mistake_and_a_rate_limit_say_nothing_of_the_provider(
    error: TransientError | None, said: bool | None
) -> None:
    assert verdict(error) is said


@dataclass
class Life:
    """A circuit, its clock, and the calls that are under way."""

    circuit: Circuit = field(default_factory=lambda: Circuit(RULES))
    now: float = 0.0
    calls: list[bool] = field(default_factory=list)

    def step(self, what: str, amount: float) -> None:
        if what == "wait":
            self.now += amount
        elif what == "begin":
            if self.circuit.wait(self.now) == 0:
                probe = self.circuit.phase(self.now) == "probing"
                self.circuit = self.circuit.begun() if probe else self.circuit
                self.calls.append(probe)
        elif what == "advice":
            self.circuit = self.circuit.advised_open(1 + int(amount), amount - 5, self.now)
        elif what == "closed elsewhere":
            self.circuit = self.circuit.advised_closed(self.now - amount)
        elif self.calls:
            told = {"succeed": True, "fail": False, "cut": None}[what]
            self.circuit = self.circuit.ended(told, probe=self.calls.pop(0), now=self.now)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["wait", "begin", "begin", "succeed", "fail", "cut", "advice", "closed elsewhere"]),
        st.floats(0, 30),
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_happens_it_is_probed_by_one_at_a_time_and_can_close(steps: list[tuple[str, float]]) -> None:
    life = Life()
    for what, amount in steps:
        life.step(what, amount)
        circuit = life.circuit
        assert 0 <= circuit.probing <= RULES.probes
        assert circuit.probing <= sum(life.calls)
        assert circuit.wait(life.now) <= RULES.longest_rest + 1e-6  # a sum of floats, less one of its parts
        assert len(circuit.slices) <= 10
        assert not (circuit.opened and circuit.slices)
    while life.calls:
        life.step("cut", 0)
    life.now += RULES.longest_rest
    for _ in range(RULES.proofs):
        life.step("begin", 0)
        life.step("succeed", 0)
    assert life.circuit.phase(life.now) == "closed"


@given(st.lists(st.booleans(), max_size=40))
def test_it_never_opens_before_the_minimum_or_below_the_rate(ends: list[bool]) -> None:
    circuit, seen = Circuit(RULES), []
    for succeeded in ends:
        seen.append(succeeded)
        circuit = circuit.ended(succeeded, probe=False, now=0)
        if circuit.opened:
            assert len(seen) >= RULES.minimum
            assert seen.count(False) >= RULES.rate * len(seen)
            return
    assert len(seen) < RULES.minimum or seen.count(False) < RULES.rate * len(seen)
