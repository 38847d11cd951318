"""When a run is to come to its end: its next step is then the last one, and its model is asked to wrap up.

A run that is cut at its limit has cost all that it cost, and has nothing to show for it. So the last step is kept for
an answer: the model is told so, and may call no tools. Only what goes on all the same is ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from common.contracts.usage import Usage

Limit = Literal["max_steps", "max_run_tokens", "timeout", "max_output_bytes"]
WRAP_UP = (
    "This is the last step that you have: you can use no tools any more. Answer now, as well as you can with what you"
    " have found out. Say what is missing, and do not announce what you would do next."
)

REPAIR = (
    "Your answer does not match the JSON Schema that it is to match: {}. Answer again, with the whole of the corrected"
    " JSON and nothing else."
)


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What a run may take."""

    max_steps: int
    max_tokens: int | None = None
    """Of input and output, over all its calls. The last step comes on top."""
    seconds: float | None = None
    """Wall clock, takeovers included."""
    kept_for_answer: float = 0.2
    """The part of the seconds, and of what it may say, that is left for the last step."""
    max_output_bytes: int | None = None
    """Of what its models say, over all its steps, the arguments of tool calls included."""

    def reached(self, step: int, used: Usage, passed: float, said: int = 0) -> Limit | None:
        """The limit for which this step is to be the last, before it begins; None: others may follow."""
        if step >= self.max_steps:
            return "max_steps"
        if self.max_tokens is not None and used.total_input_tokens + used.output_tokens >= self.max_tokens:
            return "max_run_tokens"
        if self.seconds is not None and passed >= self.seconds * (1 - self.kept_for_answer):
            return "timeout"
        if self.max_output_bytes is not None and said >= self.max_output_bytes * (1 - self.kept_for_answer):
            return "max_output_bytes"
        return None

    def left_to_say(self, said: int) -> int | None:
        """The bytes after which a call is cut, where so many were said before; None: it may say what it likes."""
        return None if self.max_output_bytes is None else max(0, self.max_output_bytes - said)
