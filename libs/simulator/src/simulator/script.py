"""The script of one answer: what to say, how fast, and what to break.

One set of keys serves prompt directives, control rules and (a part of it) the defaults. A key that is not set is
taken from the layer below: prompt over rule over defaults.
"""

from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Fault = Literal["none", "400", "401", "429", "500", "529", "stall", "cut", "malformed", "error_event"]
Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Tokens = Annotated[int, Field(ge=0, le=1_000_000)]

# Keys that only mean something together: a layer that sets the first of a group hides the whole group below it.
_GROUPS = (
    ({"text", "tokens"}, {"text", "tokens"}),
    ({"fault"}, {"fault", "fault_times", "fault_after", "retry_after", "quota"}),
    ({"tool"}, {"tool", "steps"}),
)


class ToolCall(BaseModel):
    """A tool to call and the JSON object to call it with; written `name:{json}` in short."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")
    arguments: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        name, _, arguments = value.partition(":")
        try:
            return {"name": name, "arguments": orjson.loads(arguments or "{}")}
        except orjson.JSONDecodeError as error:
            raise ValueError(f"the arguments of tool {name!r} are not JSON: {error}") from None

    @property
    def arguments_json(self) -> str:
        """The arguments as they appear on the wire."""
        return orjson.dumps(self.arguments).decode()


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str | dict) else value


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class Script(BaseModel):
    """The keys of a directive or of a rule's reply; `None` means not said."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str | None = None
    tokens: Tokens | None = None
    ttft: Seconds = 0.0
    tps: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)] | None = None
    cached: Tokens = 0
    cache_write: Tokens = 0
    reasoning: Tokens = 0
    tool: Annotated[tuple[ToolCall, ...], BeforeValidator(_as_list)] = ()
    steps: Annotated[int, Field(ge=1, le=1000)] = 1
    fault: Annotated[Fault, BeforeValidator(_as_text)] = "none"
    fault_times: Annotated[int, Field(ge=1)] | None = None
    fault_after: Tokens = 0
    retry_after: Seconds = 1.0
    quota: bool = False

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if self.text is not None and self.tokens is not None:
            raise ValueError("give text or tokens, not both")
        return self

    def over(self, below: "Script") -> "Script":
        """This script, completed by the keys that only the layer below sets."""
        if not below.model_fields_set:
            return self
        if not self.model_fields_set:
            return below
        hidden = set(self.model_fields_set)
        for heads, group in _GROUPS:
            if heads & self.model_fields_set:
                hidden |= group
        merged = {key: getattr(below, key) for key in below.model_fields_set - hidden}
        merged.update((key, getattr(self, key)) for key in self.model_fields_set)
        return Script.model_construct(**merged)
