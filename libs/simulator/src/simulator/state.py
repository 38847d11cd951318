"""Everything a running simulator remembers; lives in one event loop, so nothing in it needs a lock."""

import itertools
import os
from dataclasses import dataclass, field

from simulator.audit import Audit
from simulator.limits import Defaults, Limiter
from simulator.rules import Rules
from simulator.script import Script


@dataclass(slots=True)
class State:
    """The rules, limits and audit of one server."""

    rules: Rules = field(default_factory=Rules)
    limiter: Limiter = field(default_factory=lambda: Limiter(Defaults()))
    audit: Audit = field(default_factory=Audit)
    default_script: Script = field(default_factory=Script)
    _boot: str = field(default_factory=lambda: os.urandom(6).hex())
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def next_uid(self) -> str:
        """A text no other call of any simulator has."""
        return f"{self._boot}{next(self._numbers):010x}"

    def set_defaults(self, defaults: Defaults) -> None:
        """Replace the defaults; refills the buckets of the rate limits."""
        self.limiter.replace(defaults)
        self.default_script = defaults.script
