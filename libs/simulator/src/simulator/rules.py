"""Rules that script the answers of many calls, set through the control endpoint; the first that matches wins."""

from collections import OrderedDict

from pydantic import BaseModel, ConfigDict, Field, model_validator

from simulator.script import Script

_REMEMBERED_PROMPTS = 100_000


class Match(BaseModel):
    """Which calls a rule is for; a key that is not set matches all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    contains: str | None = None

    def accepts(self, model: str, prompt: str) -> bool:
        """Whether a call of this model with this prompt is meant."""
        return self.model in (None, model) and (self.contains is None or self.contains in prompt)


class Rule(BaseModel):
    """A reply for matching calls, at most `times` of them when set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: Match = Match()
    reply: Script
    times: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _says_something(self) -> "Rule":
        if not self.reply.model_fields_set:
            raise ValueError("reply sets no key")
        return self


class Rules:
    """The rules in their order, and how often each was used and each prompt has failed."""

    def __init__(self) -> None:
        self._rules: list[tuple[Rule, int]] = []
        self._failed: OrderedDict[str, int] = OrderedDict()

    def add(self, rule: Rule) -> None:
        """Append a rule."""
        self._rules.append((rule, 0))

    def clear(self) -> None:
        """Forget the rules and the failures counted so far."""
        self._rules.clear()
        self._failed.clear()

    def listing(self) -> list[dict[str, object]]:
        """The rules as they were given, with how often each was used."""
        return [{**rule.model_dump(mode="json", exclude_unset=True), "used": used} for rule, used in self._rules]

    def reply_for(self, model: str, prompt: str) -> Script | None:
        """The reply of the first rule that matches and is not used up, counting the use."""
        for place, (rule, used) in enumerate(self._rules):
            if (rule.times is None or used < rule.times) and rule.match.accepts(model, prompt):
                self._rules[place] = (rule, used + 1)
                return rule.reply
        return None

    def fails(self, script: Script, prompt: str) -> bool:
        """Whether this call of the prompt has to fail, counting it against `fault_times`."""
        if script.fault == "none":
            return False
        if script.fault_times is None:
            return True
        failed = self._failed.get(prompt, 0)
        if failed >= script.fault_times:
            return False
        self._failed[prompt] = failed + 1
        self._failed.move_to_end(prompt)
        if len(self._failed) > _REMEMBERED_PROMPTS:
            self._failed.popitem(last=False)
        return True
