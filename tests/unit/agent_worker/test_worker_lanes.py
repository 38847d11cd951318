from __future__ import annotations

import heapq
import random
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_worker.guarantees import guaranteed_slots, served_tiers
from agent_worker.lanes import Lend, Loan, Slots, TakeBack
from common.catalogue import Tier
from common.errors import ConfigurationError

TIERS = st.lists(st.integers(1, 1000), min_size=1, max_size=8).map(
    lambda weights: [Tier(name=f"t{number}", weight=weight) for number, weight in enumerate(weights)]
)


DEFAULT = [Tier(name="enterprise", weight=6), Tier(name="pro", weight=3), Tier(name="free", weight=1)]


def test_half_of_the_slots_are_guaranteed_by_weight() -> None:
    assert guaranteed_slots(20, DEFAULT) == {"enterprise": 6, "pro": 3, "free": 1}
    assert guaranteed_slots(3, DEFAULT) == {"enterprise": 1, "pro": 1, "free": 1}


@given(TIERS, st.integers(0, 500))
def test_half_of_the_slots_are_given_and_each_tier_has_one(tiers: list[Tier], extra: int) -> None:
    slots = len(tiers) + extra
    shares = guaranteed_slots(slots, tiers)
    assert sum(shares.values()) == max(len(tiers), slots // 2)
    assert min(shares.values()) >= 1


@given(TIERS, st.integers(0, 500))
def test_shares_follow_the_weights(tiers: list[Tier], extra: int) -> None:
    slots = 2 * len(tiers) + extra
    shares = guaranteed_slots(slots, tiers)
    slots //= 2
    total = sum(tier.weight for tier in tiers)
    raised = any(slots * tier.weight < total for tier in tiers)
    for tier in tiers:
        fair = slots * tier.weight / total
        assert shares[tier.name] <= max(1, fair + 1)
        if not raised:
            assert shares[tier.name] > fair - 1


def test_fewer_slots_than_tiers_is_a_contradiction() -> None:
    with pytest.raises(ConfigurationError, match="LANEWAY_SLOTS is 1"):
        guaranteed_slots(1, [Tier(name="a", weight=1), Tier(name="b", weight=1)])


def test_a_worker_may_serve_some_tiers_only() -> None:
    assert served_tiers(None, DEFAULT) == DEFAULT
    assert [tier.name for tier in served_tiers(("free", "enterprise"), DEFAULT)] == ["enterprise", "free"]
    with pytest.raises(ConfigurationError, match="names 'gold'; the tiers are enterprise, pro, free"):
        served_tiers(("gold",), DEFAULT)


class Simulation:
    """Lanes with work, and the slots of one worker, in time of its own: the broker sends at once what may be held."""

    def __init__(self, total: int, tiers: list[Tier]) -> None:
        self.slots = Slots(total, tiers)
        self.waiting = dict.fromkeys(self.slots.held, 0)
        self.runs: list[tuple[str, Loan | None]] = []
        self.now = 0.0
        self.ended = dict.fromkeys(self.slots.held, 0)
        self.changes = 0

    def settle(self) -> None:
        """Whatever may begin begins, and whatever is to be lent or taken back is, until nothing is left to do."""
        self._deliver()
        while (decision := self.slots.decide(self.now)) is not None:
            self.changes += 1
            assert self.changes < 100_000, "it does not come to rest"
            if isinstance(decision, Lend):
                self.slots.lend(decision, self.now)
            else:
                if decision.found_empty:
                    self.slots.found_empty(decision.loan.tier, self.now)
                self.slots.take_back(decision.loan)
            self._deliver()

    def pass_time(self, seconds: float) -> None:
        """Nothing ends meanwhile; what is to be looked at again is."""
        until = self.now + seconds
        while (look := self.slots.next_look(self.now)) is not None and look < until:
            self.now = look
            self.settle()
        self.now = until
        self.settle()

    def _deliver(self) -> None:
        for tier in self.waiting:
            by_right = sum(run == (tier, None) for run in self.runs)
            self.begin(tier, None, self.slots.guaranteed[tier] - by_right)
        for loan in self.slots.loans:
            self.begin(loan.tier, loan, loan.size - loan.held)

    def begin(self, tier: str, loan: Loan | None, most: int) -> None:
        """So many of what waits, at most, in a guarantee or a loan."""
        for _ in range(min(most, self.waiting[tier])):
            self.waiting[tier] -= 1
            self.runs.append((tier, loan))
            self.slots.begin(tier, loan, self.now)

    def end(self, index: int) -> None:
        tier, loan = self.runs.pop(index)
        self.slots.end(tier, loan, self.now)
        self.ended[tier] += 1
        self.settle()

    @property
    def taken(self) -> int:
        return len(self.runs)


def test_what_only_one_tier_needs_it_has_and_another_still_begins_at_once() -> None:
    worker = Simulation(20, DEFAULT)
    worker.waiting["free"] = 100
    worker.settle()
    assert worker.slots.held == {"enterprise": 0, "pro": 0, "free": 20}
    worker.waiting["enterprise"] = 100
    worker.settle()
    assert worker.slots.held == {"enterprise": 7, "pro": 0, "free": 20}, "its guarantee, and one on credit"


def test_beside_a_flood_what_comes_beyond_the_guarantee_begins_at_once_too() -> None:
    worker = Simulation(20, DEFAULT)
    worker.waiting["free"] = 1000
    worker.settle()
    worker.waiting["enterprise"] = 6
    worker.settle()
    while worker.taken > 20:  # what was lent of the guarantee is made good
        worker.end(next(n for n, (_, loan) in enumerate(worker.runs) if loan and not loan.open))
    for enterprise in range(7, 18):
        assert worker.slots.held == {"enterprise": enterprise - 1, "pro": 0, "free": 21 - enterprise}
        worker.waiting["enterprise"] = 1
        worker.settle()
        assert worker.slots.held == {"enterprise": enterprise, "pro": 0, "free": 21 - enterprise}
        worker.end(next(n for n, (_, loan) in enumerate(worker.runs) if loan and not loan.open))
    worker.waiting["enterprise"] = 1
    worker.settle()
    assert worker.waiting["enterprise"] == 1, "it has what is its by weight"


def test_a_credit_does_not_fill_beside_what_was_lent_since() -> None:
    worker = Simulation(20, DEFAULT)
    worker.waiting["free"] = 1000
    worker.settle()
    worker.waiting.update(enterprise=6, pro=3)
    worker.settle()
    while worker.taken > 20:
        worker.end(next(n for n, (_, loan) in enumerate(worker.runs) if loan and not loan.open))
    credits = [loan for loan in worker.slots.loans if loan.on_credit]
    assert {loan.tier for loan in credits} == {"enterprise", "pro"}
    for _ in range(9):  # the guarantees end, and free is lent what they leave
        worker.end(next(n for n, (tier, _) in enumerate(worker.runs) if tier != "free"))
    worker.pass_time(0.2)
    for credit in credits:
        if credit.open:
            worker.waiting[credit.tier] += 1
            worker.begin(credit.tier, credit, 1)
    worker.settle()
    assert sum(loan is not None for _, loan in worker.runs) <= 20


def test_a_credit_that_nothing_comes_to_takes_no_slot_and_is_closed_by_and_by() -> None:
    worker = Simulation(20, DEFAULT)
    worker.waiting.update(enterprise=6, free=1000)
    worker.settle()
    worker.pass_time(0.5)
    (credit,) = [loan for loan in worker.slots.loans if loan.tier == "enterprise"]
    assert credit.on_credit
    assert worker.slots.held == {"enterprise": 6, "pro": 0, "free": 14}
    before = worker.changes
    worker.pass_time(60)
    assert worker.changes == before, "it is not opened and closed again and again"
    worker.end(next(n for n, (tier, _) in enumerate(worker.runs) if tier == "enterprise"))
    worker.pass_time(1.1)
    assert [loan for loan in worker.slots.loans if loan.tier == "enterprise"] == []
    assert worker.slots.held == {"enterprise": 5, "pro": 0, "free": 15}


def test_what_was_lent_goes_back_by_weight_as_runs_end() -> None:
    worker = Simulation(20, DEFAULT)
    worker.waiting["free"] = 1000
    worker.settle()
    worker.waiting["enterprise"] = worker.waiting["pro"] = 1000
    for _ in range(40):  # the oldest ends
        worker.end(0)
    assert worker.slots.held == {"enterprise": 12, "pro": 6, "free": 2}


def test_the_loan_that_is_taken_back_is_that_whose_run_has_gone_on_for_longest() -> None:
    worker = Simulation(20, DEFAULT)
    worker.waiting["free"] = 1000
    worker.settle()
    for _ in range(12):  # the oldest run of a loan ends, and another begins in its slot
        worker.now += 0.01
        worker.end(next(n for n, (_, loan) in enumerate(worker.runs) if loan is not None))
    oldest = min(worker.slots.loans, key=lambda loan: loan.stirred_at)
    assert oldest is not worker.slots.loans[0]
    worker.waiting["enterprise"] = 7  # one more than its guarantee
    worker.settle()
    assert not oldest.open


def test_a_lone_borrower_needs_few_consumers() -> None:
    worker = Simulation(400, DEFAULT)
    worker.waiting["enterprise"] = 1000
    worker.settle()
    assert worker.slots.held["enterprise"] == 400
    assert len(worker.slots.loans) <= 16


def test_a_slot_that_nothing_came_to_is_given_to_who_needs_it() -> None:
    worker = Simulation(20, DEFAULT)
    worker.waiting["pro"] = 3
    worker.settle()
    assert worker.slots.lent["pro"] >= 1  # its guarantee is used up: more may come
    worker.waiting["enterprise"] = 100
    worker.settle()
    worker.pass_time(0.06)
    assert worker.slots.held == {"enterprise": 17, "pro": 3, "free": 0}


def test_a_loan_is_given_up_when_its_tier_has_room_without_it() -> None:
    worker = Simulation(20, DEFAULT)
    worker.waiting["pro"] = 20
    worker.settle()
    while worker.runs:
        worker.end(0)
    assert worker.slots.loans
    worker.pass_time(1.1)
    assert not worker.slots.loans
    assert worker.slots.next_look(worker.now) is None


def test_a_full_tier_without_more_work_costs_the_others_next_to_nothing() -> None:
    worker = Simulation(20, DEFAULT)
    worker.waiting.update(enterprise=6, free=1000)  # enterprise has its guarantee, and no more
    worker.settle()
    lost = 0.0
    for _ in range(1000):
        before = worker.now
        worker.pass_time(0.01)
        lost += (20 - worker.taken) * (worker.now - before)
        if (free := next((n for n, (tier, _) in enumerate(worker.runs) if tier == "free"), None)) is not None:
            worker.end(free)
    assert lost <= 0.02 * 20 * worker.now


def test_under_saturation_slots_go_by_weight() -> None:
    worker = Simulation(100, DEFAULT)
    worker.waiting.update(enterprise=1000, pro=1000, free=1000)
    worker.settle()
    assert worker.slots.held == {"enterprise": 60, "pro": 30, "free": 10}


def test_hours_of_saturation_are_shared_by_weight_and_no_consumer_is_changed() -> None:
    """Runs of 1 to 60 seconds, of whichever tier; four hours."""
    worker, chance = Simulation(40, DEFAULT), random.Random(7)
    worker.waiting.update(enterprise=10**9, pro=10**9, free=10**9)
    worker.settle()
    until = {number: chance.uniform(1, 60) for number in range(worker.taken)}
    settled = worker.changes
    ends = [until[number] for number in range(worker.taken)]
    while worker.now < 4 * 3600:
        first = min(range(len(ends)), key=ends.__getitem__)
        worker.now = max(worker.now, ends.pop(first))
        worker.end(first)
        while len(ends) < worker.taken:
            ends.append(worker.now + chance.uniform(1, 60))
    done = sum(worker.ended.values())
    for tier in DEFAULT:
        assert worker.ended[tier.name] / done == pytest.approx(tier.weight / 10, rel=0.05)
    assert worker.changes == settled


def test_a_paused_tier_is_lent_nothing_and_gives_back_what_it_was_lent() -> None:
    worker = Simulation(20, DEFAULT)
    worker.waiting.update(enterprise=100, free=100)
    worker.settle()
    worker.slots.paused = frozenset({"free"})
    worker.settle()
    assert {loan.tier for loan in worker.slots.loans} == {"enterprise"}
    for index in reversed([n for n, (tier, loan) in enumerate(worker.runs) if tier == "free" and loan is not None]):
        worker.end(index)
    assert worker.slots.held == {"enterprise": 19, "pro": 0, "free": 1}
    worker.slots.paused = frozenset()
    for _ in range(40):
        worker.end(0)
    assert worker.slots.lent["free"] > 0


class Saturated:
    """Every lane has work without end, and the next run of a slot comes a moment after the last has ended."""

    RUN, MOMENT = 0.2, 0.005

    def __init__(self, total: int, tiers: list[Tier]) -> None:
        self.slots = Slots(total, tiers)
        self.now = 0.0
        self.ended = dict.fromkeys(self.slots.held, 0)
        self.changes = 0
        self._chance = random.Random(7)
        self._numbers = count()
        self._coming: list[tuple[float, int, bool, str, Loan | None]] = []
        for tier, guarantee in self.slots.guaranteed.items():
            self._fill(tier, None, guarantee)

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now, _, begins, tier, loan = heapq.heappop(self._coming)
            if begins and (loan is None or loan.open):
                self.slots.begin(tier, loan, self.now)
                self._expect(self.RUN, False, tier, loan)
            elif not begins:
                self._end(tier, loan)
            self._settle()

    def _end(self, tier: str, loan: Loan | None) -> None:
        self.slots.end(tier, loan, self.now)
        self.ended[tier] += 1
        if loan is None or loan.open:
            self._fill(tier, loan, 1)

    def _settle(self) -> None:
        while (decision := self.slots.decide(self.now)) is not None:
            self.changes += 1
            if isinstance(decision, TakeBack):
                self.slots.take_back(decision.loan)
            else:
                loan = self.slots.lend(decision, self.now)
                self._fill(decision.tier, loan, decision.size)

    def _fill(self, tier: str, loan: Loan | None, slots: int) -> None:
        for _ in range(slots):
            self._expect(self.MOMENT, True, tier, loan)

    def _expect(self, after: float, begins: bool, tier: str, loan: Loan | None) -> None:
        at = self.now + after * self._chance.uniform(0.8, 1.2)
        heapq.heappush(self._coming, (at, next(self._numbers), begins, tier, loan))


def test_a_slot_between_two_runs_is_not_lent_for_the_moment_until_the_next_one_comes() -> None:
    worker = Saturated(20, DEFAULT)
    worker.pass_time(60)
    for tier in DEFAULT:
        assert worker.ended[tier.name] / sum(worker.ended.values()) == pytest.approx(tier.weight / 10, rel=0.05)
    assert worker.changes < 60


def test_a_guarantee_whose_work_has_ended_is_lent_once_nothing_comes() -> None:
    worker = Simulation(20, DEFAULT)
    worker.waiting.update(enterprise=6, free=1000)
    worker.settle()
    worker.pass_time(1)
    while (
        enterprise := next((n for n, (tier, _) in enumerate(worker.runs) if tier == "enterprise"), None)
    ) is not None:
        worker.end(enterprise)
    worker.pass_time(0.06)
    assert worker.slots.held == {"enterprise": 0, "pro": 0, "free": 20}


def test_a_burst_finds_room_in_a_worker_that_has_some_however_lately_it_was_idle() -> None:
    worker = Simulation(20, DEFAULT)
    worker.waiting["enterprise"] = 12
    worker.settle()
    while worker.runs:
        worker.end(0)
    worker.pass_time(1.05)  # its loans have just been given up
    assert not worker.slots.loans
    worker.waiting["enterprise"] = 12
    worker.settle()
    assert worker.slots.held["enterprise"] == 12


WAITING = st.lists(st.integers(0, 300), min_size=8, max_size=8)


@given(TIERS, st.integers(0, 100), WAITING)
@settings(deadline=None)
def test_no_slot_stays_free_while_work_waits_and_no_more_are_taken_than_there_are(
    tiers: list[Tier], extra: int, amounts: list[int]
) -> None:
    worker = Simulation(len(tiers) + extra, tiers)
    worker.waiting.update(zip(worker.waiting, amounts, strict=False))
    worker.settle()
    worker.pass_time(0.2)
    assert worker.taken == min(worker.slots.total, sum(amounts[: len(tiers)]))


@given(TIERS, st.integers(0, 60), WAITING, st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_each_tier_has_its_guarantee_while_it_has_work_whatever_came_before(
    tiers: list[Tier], extra: int, amounts: list[int], seed: int
) -> None:
    worker, chance = Simulation(len(tiers) + extra, tiers), random.Random(seed)
    slots = worker.slots
    for tier, amount in zip(chance.choices(list(slots.held), k=8), amounts, strict=True):
        worker.waiting[tier] += amount
        worker.settle()
        for name, guarantee in slots.guaranteed.items():
            assert slots.held[name] >= guarantee or not worker.waiting[name]
        assert worker.taken <= slots.total + sum(slots.guaranteed.values())
        assert sum(loan is not None for _, loan in worker.runs) <= slots.total
        assert sum(slots.held.values()) == worker.taken
        for _ in range(chance.randint(0, worker.taken)):
            worker.end(chance.randrange(worker.taken))
        worker.pass_time(chance.choice((0.0, 0.06, 1.5)))
    while worker.runs:
        worker.waiting = dict.fromkeys(worker.waiting, 0)
        worker.end(0)
    worker.pass_time(3)
    assert slots.free == slots.total  # nothing has leaked


@given(TIERS, st.integers(0, 30), st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_runs_in_lent_slots_are_never_more_than_the_slots_whichever_consumer_is_sent_what(
    tiers: list[Tier], extra: int, seed: int
) -> None:
    """Any consumer may be sent the next message, any run may end, consumers are lost, and tiers paused, at any time."""
    worker, chance = Simulation(len(tiers) + extra, tiers), random.Random(seed)
    slots = worker.slots
    for _ in range(300):
        for tier in slots.held:
            open_to_it = [loan for loan in slots.loans if loan.tier == tier and loan.held < loan.size]
            by_right = sum(run == (tier, None) for run in worker.runs)
            anyone = [*open_to_it, *([None] if by_right < slots.guaranteed[tier] and tier not in slots.paused else [])]
            if anyone and chance.random() < 0.5:
                worker.waiting[tier] = 1
                worker.begin(tier, chance.choice(anyone), 1)
        if worker.runs and chance.random() < 0.6:
            worker.end(chance.randrange(worker.taken))
        if chance.random() < 0.02:
            slots.paused = frozenset(tier for tier in slots.held if chance.random() < 0.3)
        if slots.loans and chance.random() < 0.02:
            slots.take_back(chance.choice(slots.loans))
        worker.now += chance.choice((0.0, 0.001, 0.01, 0.05, 0.2, 1.0))
        worker.settle()
        lent = sum(loan is not None for _, loan in worker.runs)
        assert lent <= slots.total
        assert worker.taken <= slots.total + sum(slots.guaranteed.values())
        assert all(loan.held <= loan.size for loan in slots.loans)


@given(TIERS, st.integers(0, 100), st.integers(0, 7))
@settings(deadline=None, max_examples=60)
def test_from_any_start_saturation_converges_to_the_weights(tiers: list[Tier], extra: int, first: int) -> None:
    worker = Simulation(2 * len(tiers) + extra, tiers)
    slots = worker.slots
    greedy = list(slots.held)[first % len(tiers)]
    worker.waiting[greedy] = 10_000
    worker.settle()
    worker.waiting = dict.fromkeys(slots.held, 10_000)
    for _ in range(4 * slots.total):  # the oldest run ends, one at a time
        worker.end(0)
    total = sum(tier.weight for tier in tiers)
    assert worker.taken == slots.total
    spare = sum(max(0.0, slots.guaranteed[tier.name] - slots.total * tier.weight / total) for tier in tiers)
    for tier in tiers:
        fair = slots.total * tier.weight / total
        assert slots.held[tier.name] <= max(fair + 2, slots.guaranteed[tier.name])
        assert slots.held[tier.name] >= fair - spare - 2


def test_room_is_what_could_begin_now() -> None:
    """Ten slots: three are enterprise's, one is pro's, one is free's, and five are anybody's."""
    slots = Slots(10, DEFAULT)
    assert {tier: slots.room(tier) for tier in slots.guaranteed} == {"enterprise": 10, "pro": 10, "free": 10}
    loan = slots.lend(Lend("pro", 4), 0.0)
    assert slots.room("pro") == 10, "what it was lent is its own"
    assert slots.room("free") == 6, "and nobody else's"
    slots.begin("pro", None, 0.0)
    for _ in range(4):
        slots.begin("pro", loan, 0.0)
    assert (slots.room("pro"), slots.room("free"), slots.room("enterprise")) == (5, 5, 5)
    more = slots.lend(Lend("pro", 5), 0.0)
    for _ in range(5):
        slots.begin("pro", more, 0.0)
    assert slots.free == 0
    assert (slots.room("pro"), slots.room("free"), slots.room("enterprise")) == (0, 1, 3), "guarantees are free still"
    slots.take_back(more)
    assert (slots.room("pro"), slots.room("free")) == (0, 1), "its runs are still in it"
    for _ in range(5):
        slots.end("pro", more, 0.0)
    assert (slots.room("pro"), slots.room("free")) == (5, 5)
    slots.end("pro", None, 0.0)
    assert slots.room("pro") == 6, "the slot of the run that has just ended is kept for it"
    slots.paused = frozenset({"pro"})
    assert slots.room("pro") == 0
