"""How a worker's slots are shared among the tiers: a part is guaranteed to each, the rest is lent where there is work.

Pure: what is decided here is carried out by the lanes' consumers (the guarantees) and by `dispatcher` (the rest).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

from agent_worker.guarantees import guaranteed_slots
from common.catalogue import Tier

IDLE_SECONDS = 0.05
"""A slot to which nothing came for so long lies idle: the broker sends what it has within milliseconds."""
EMPTY_SECONDS = 0.2
"""A tier whose lane was found empty is lent nothing for so long: a slot is idle for a fifth of that time at most."""
AWAY_SECONDS = 0.5
"""A lane that cannot be consumed is tried again after so long."""
SPARE_SECONDS = 1.0
"""A loan that nobody else wants is kept so long, for load that comes and goes."""


class Loan:
    """Slots that are lent to a tier together: one consumer of its lane, which may hold so many runs.

    Taken back it is sent nothing more, and its slots are free as the runs in them end.
    """

    __slots__ = ("held", "on_credit", "open", "size", "stirred_at", "tier")

    def __init__(self, tier: str, size: int, now: float, *, on_credit: bool = False) -> None:
        self.tier = tier
        self.size = size
        self.held = 0
        self.open = True
        self.on_credit = on_credit
        """No slot was free for it: it takes up none until a run begins in it. Then one comes from who has too much."""
        self.stirred_at = now
        """When it was last full, or a run in it began or ended."""


class Lend(NamedTuple):
    """Open a consumer of the tier's lane that may hold so many runs."""

    tier: str
    size: int
    on_credit: bool = False


class TakeBack(NamedTuple):
    """Close the consumer of a loan."""

    loan: Loan
    found_empty: bool = False
    """Its lane had nothing for it: the tier needs no more for a while."""


class Slots:
    """The slots of one worker, and what becomes of those that no guarantee uses.

    A guarantee is never lent for good: work of its tier begins in it at once, though all other slots be taken. And a
    tier that uses all of its guarantee, and has less than its weight, is lent one slot more on credit: what comes next
    begins at once too, and not when a run of those that have more has ended. So there are at most `total` runs in lent
    slots, and with those in guarantees more than `total` for as long as it takes borrowers to end theirs.
    Times are seconds of any one clock.
    """

    def __init__(self, total: int, tiers: Sequence[Tier]) -> None:
        self.total = total
        self.guaranteed = guaranteed_slots(total, tiers)
        self.held = dict.fromkeys(self.guaranteed, 0)
        """Runs of each tier, in guaranteed and in lent slots."""
        self._weights = {tier.name: tier.weight for tier in tiers}
        self._by_right = dict.fromkeys(self.guaranteed, 0)
        self._between_runs: dict[str, deque[float]] = {tier: deque() for tier in self.guaranteed}
        """Guaranteed slots whose run has just ended, by when: the next is on its way, so they are not lent yet."""
        self.lent = dict.fromkeys(self.guaranteed, 0)
        """Slots of each tier that are lent to it."""
        self._loans: dict[str, list[Loan]] = {tier: [] for tier in self.guaranteed}
        self._ending = 0  # runs in slots that were taken back
        self.paused: frozenset[str] = frozenset()
        """Tiers that are lent nothing, and whose loans are taken back."""
        self._empty_until = dict.fromkeys(self.guaranteed, -math.inf)
        self._away_until = dict.fromkeys(self.guaranteed, -math.inf)
        # Large enough that a lone borrower needs few consumers, small enough that one can be taken back.
        self._largest_loan = max(1, (total - sum(self.guaranteed.values())) // 8)

    @property
    def free(self) -> int:
        """Slots that no run is in and that are not lent either. Negative while guarantees are made good."""
        return self.total - self._promised - self._ending

    def room(self, tier: str) -> int:
        """How many runs of the tier could begin now: in its guarantee or in free slots, and in what it was lent."""
        if tier in self.paused:
            return 0
        lent = sum(loan.size - loan.held for loan in self._loans[tier])
        unlent = self.free + len(self._between_runs[tier])
        return lent + max(self.guaranteed[tier] - self._by_right[tier], unlent)

    @property
    def loans(self) -> list[Loan]:
        """All that are open."""
        return [loan for loans in self._loans.values() for loan in loans]

    @property
    def _promised(self) -> int:
        return sum(map(self._in_guarantee, self.held)) + sum(self.lent.values())

    def _in_guarantee(self, tier: str) -> int:
        """Guaranteed slots that the tier uses: a run is in them, or on its way."""
        return self._by_right[tier] + len(self._between_runs[tier])

    def begin(self, tier: str, loan: Loan | None, now: float) -> None:
        """A run begins, in a guaranteed slot or in a lent one."""
        self.held[tier] += 1
        if loan is None:
            self._by_right[tier] += 1
            if self._between_runs[tier]:
                self._between_runs[tier].popleft()
            return
        loan.held += 1
        loan.stirred_at = now
        self._ending += not loan.open
        if loan.on_credit and loan.open:
            loan.on_credit = False
            self.lent[tier] += loan.size

    def end(self, tier: str, loan: Loan | None, now: float) -> None:
        """A run ends."""
        self.held[tier] -= 1
        if loan is None:
            self._by_right[tier] -= 1
            self._between_runs[tier].append(now)
            return
        loan.held -= 1
        loan.stirred_at = now
        self._ending -= not loan.open

    def lend(self, lend: Lend, now: float) -> Loan:
        """Lend slots to a tier."""
        loan = Loan(lend.tier, lend.size, now, on_credit=lend.on_credit)
        self._loans[loan.tier].append(loan)
        self.lent[loan.tier] += 0 if loan.on_credit else loan.size
        return loan

    def take_back(self, loan: Loan) -> None:
        """Take a loan back. Doing it again changes nothing."""
        if loan.open:
            loan.open = False
            self._loans[loan.tier].remove(loan)
            self.lent[loan.tier] -= 0 if loan.on_credit else loan.size
            self._ending += loan.held

    def found_empty(self, tier: str, now: float) -> None:
        """Its lane had nothing: for a while it is lent no slot that others need. A credit costs them none."""
        self._empty_until[tier] = now + EMPTY_SECONDS

    def found_away(self, tier: str, now: float) -> None:
        """Its lane cannot be consumed: for a while it is lent nothing at all."""
        self._away_until[tier] = now + AWAY_SECONDS

    def decide(self, now: float) -> Lend | TakeBack | None:
        """The next thing to do; None where all is as it should be, until something changes or time passes.

        First the guarantees, then what is free to whoever needs it, then what lies idle and at last what one has too
        much of to whoever has too little: on credit while that is possible.
        """
        if stopped := [loan for loan in self.loans if loan.tier in self.paused]:
            return TakeBack(stopped[0])
        self._let_go_of_idle_guarantees(now)
        if self._promised > self.total:
            return self._most_dispensable(list(self._loans))
        full = (tier for tier in self.held if tier not in self.paused and self._is_full(tier))
        hungry = [tier for tier in full if max(self._empty_until[tier], self._away_until[tier]) <= now]
        if hungry and self.free > 0:
            return self._lent_what_is_free(hungry)
        return self._idle(hungry, now) or self._credited(now) or self._redistributed(hungry)

    def next_look(self, now: float) -> float | None:
        """When to decide again though nothing has changed; None where only a change can make a difference."""
        between_runs = any(self._between_runs.values())
        if any(map(self._is_full, self.held)) and (self.free > 0 or between_runs or any(self._loans.values())):
            return now + IDLE_SECONDS
        return now + SPARE_SECONDS if any(self._loans.values()) else None

    def _let_go_of_idle_guarantees(self, now: float) -> None:
        for ends in self._between_runs.values():
            while ends and ends[0] + IDLE_SECONDS <= now:
                ends.popleft()

    def _is_full(self, tier: str) -> bool:
        """Whether every slot that the tier has is taken: only then can more of its work be waiting."""
        guaranteed = self._by_right[tier] >= self.guaranteed[tier]
        return guaranteed and all(loan.held >= loan.size for loan in self._loans[tier])

    def _standing(self, tier: str, change: int = 0) -> float:
        """Who has the least is lent the next slot, as seats are shared after an election (Sainte-Laguë): by weight,
        with no bias to the large or to the small. Equals go in the order of the tiers.
        """
        return (2 * (self._in_guarantee(tier) + self.lent[tier] + change) + 1) / self._weights[tier]

    def _idle(self, hungry: Collection[str], now: float) -> TakeBack | None:
        """A loan that lies idle, while another tier wants it or its own has room without it."""
        for tier, loans in self._loans.items():
            wanted = any(other != tier for other in hungry)
            for loan in loans:
                unused = now - loan.stirred_at
                if wanted and not loan.on_credit and loan.held < loan.size and unused >= IDLE_SECONDS:
                    return TakeBack(loan, found_empty=not loan.held)
                if not loan.held and unused >= SPARE_SECONDS and self._has_room_without(loan):
                    return TakeBack(loan)
        return None

    def _has_room_without(self, loan: Loan) -> bool:
        others = (other for other in self._loans[loan.tier] if other is not loan)
        by_right = self._by_right[loan.tier] < self.guaranteed[loan.tier]
        return by_right or any(other.held < other.size for other in others)

    @property
    def _lendable(self) -> int:
        """Slots that are in no loan, the unused credits among them: all may fill, whatever guarantees are used then."""
        return self.total - self._ending - sum(loan.size for loan in self.loans)

    def _lent_what_is_free(self, hungry: Sequence[str]) -> Lend | TakeBack | None:
        """To who has least for its weight; a credit that nothing came to is taken back first where it is in the way."""
        if (most := min(self.free, self._lendable)) <= 0:
            unused = [loan for loan in self.loans if loan.on_credit]
            return TakeBack(unused[0]) if unused else None
        return Lend(min(hungry, key=self._standing), min(most, self._largest_loan) if len(hungry) == 1 else 1)

    def _credited(self, now: float) -> Lend | None:
        """One slot more for the poorest tier that may soon need it, while another has too much."""
        short = [tier for tier in self._loans if self._is_at_its_end(tier, now)]
        if not short:
            return None
        poorest = min(short, key=self._standing)
        if not self._richer_than(poorest) or self._lendable <= 0:
            return None
        return Lend(poorest, 1, on_credit=True)

    def _is_at_its_end(self, tier: str, now: float) -> bool:
        """Whether a tier that may be lent something has nothing spare, or will not a moment later."""
        if tier in self.paused or self._away_until[tier] > now:
            return False
        return self._in_guarantee(tier) >= self.guaranteed[tier] and all(x.held >= x.size for x in self._loans[tier])

    def _richer_than(self, poorest: str) -> list[str]:
        """Tiers that would have more for their weight than this one even with a loan less."""
        standing = self._standing(poorest)
        return [tier for tier, loans in self._loans.items() if loans and self._standing(tier, -1) > standing]

    def _redistributed(self, hungry: Sequence[str]) -> TakeBack | None:
        """A loan of whoever has too much; None while enough slots that were taken back before are still to come."""
        if not hungry:
            return None
        poorest = min(hungry, key=self._standing)
        # One more each time it has filled what it was lent: that it is full does not say that it has more.
        if self._ending + min(0, self.free) > self.lent[poorest]:
            return None
        return self._most_dispensable(self._richer_than(poorest))

    def _most_dispensable(self, tiers: Sequence[str]) -> TakeBack | None:
        """The smallest loan of the tier that has the most for its weight, among those that have any.

        Of equal ones that in which nothing has begun for longest: its run may be expected to end first.
        """
        lenders = [tier for tier in tiers if self._loans[tier]]
        if not lenders:
            return None
        richest = max(lenders, key=self._standing)
        return TakeBack(min(self._loans[richest], key=lambda loan: (loan.size, loan.held, loan.stirred_at)))
