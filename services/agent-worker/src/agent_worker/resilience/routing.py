"""`model: "auto"`: the catalogue's rules pick a class by what a task is, and say why. The same task gets the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from common.catalogue import AutoRule, ModelClass


@dataclass(frozen=True, slots=True)
class Asked:
    """What the rules look at."""

    texts: Sequence[str]
    """The messages of the task's input, the newest last; what its conversation said before does not count."""
    tools: bool
    """Whether its agent has tools."""


@dataclass(frozen=True, slots=True)
class Picked:
    """What a rule picked, and why, for whoever asks."""

    model_class: ModelClass
    reason: str


def pick(rules: Sequence[AutoRule], asked: Asked) -> Picked:
    """What the first rule that fits picks. The catalogue has seen to it that one does."""
    number, rule = next((n, rule) for n, rule in enumerate(rules, 1) if all(_met(rule, asked)))
    why = " and ".join(_reasons(rule, asked)) or "no other rule fits"
    return Picked(rule.class_, f"rule {number}, class {rule.class_}: {why}")


def _met(rule: AutoRule, asked: Asked) -> Iterator[bool]:
    yield rule.longer_than is None or _length(asked) > rule.longer_than
    yield rule.tools is None or asked.tools == rule.tools
    yield not rule.keywords or _keyword(rule, asked) is not None


def _reasons(rule: AutoRule, asked: Asked) -> Iterator[str]:
    if rule.longer_than is not None:
        yield f"the input has {_length(asked)} characters, more than {rule.longer_than}"
    if rule.tools is not None:
        yield "the agent has tools" if rule.tools else "the agent has no tools"
    if (keyword := _keyword(rule, asked)) is not None:
        yield f"the newest message says {keyword!r}"


def _length(asked: Asked) -> int:
    return sum(map(len, asked.texts))


def _keyword(rule: AutoRule, asked: Asked) -> str | None:
    """The first of the rule's keywords that the newest message has: as words, so that `prove` is not in `improve`."""
    return next((word for word in rule.keywords if _has(asked.texts[-1], word)), None)


def _has(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None
