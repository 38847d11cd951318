"""The body of a task, checked before anything is done with it; what only the catalogue knows is checked after."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    model_validator,
)

from common.answer_schema import AnswerForm, SchemaError
from common.catalogue import AUTO, Catalogue
from common.contracts.tasks import InputMessage
from gateway.failures import invalid_field, invalid_path

_MAX_CHARACTERS = 100_000
# RFC 3339: pydantic reads numbers and dates as times, too.
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def _storable(text: str) -> str:
    # PostgreSQL's text and jsonb cannot hold it: what is accepted here must be recordable later.
    if "\0" in text:
        raise ValueError("must not contain the character U+0000")
    return text


def _time(value: object) -> datetime:
    if not (isinstance(value, str) and _TIME.fullmatch(value)):
        raise ValueError("must be a time with its zone, as in 2026-07-01T09:00:00Z (RFC 3339)")
    return datetime.fromisoformat(value.upper())


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must have printable characters only")
    return text


class _Message(InputMessage):
    """As a client sends it: a field that means nothing is a mistake of the client's."""

    model_config = ConfigDict(extra="forbid")


Text = Annotated[str, AfterValidator(_storable)]
Time = Annotated[AwareDatetime, BeforeValidator(_time)]
Metadata = Annotated[
    dict[Annotated[Text, Field(min_length=1, max_length=64)], Annotated[Text, Field(max_length=512)]],
    Field(max_length=16),
]
Input = Annotated[
    Annotated[Text, Tag("text")] | Annotated[tuple[_Message, ...], Tag("messages")],
    Discriminator(lambda value: "text" if isinstance(value, str) else "messages"),
]


class TaskRequest(BaseModel):
    """What a tenant asks for."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    input: Input = Field(description="a question, or the messages of a conversation that ends with the user's")
    agent: Text = Field(default="default", max_length=100, description="an agent of the catalogue")
    model: Text | None = Field(
        default=None, max_length=100, description="a model of the catalogue, or `auto`; else the agent's"
    )
    conversation_id: UUID | None = Field(
        default=None,
        description="a UUID of your own: the first task that names it begins the conversation, each later one is shown"
        " what those that completed before it said",
    )
    user_id: Text | None = Field(default=None, min_length=1, max_length=200, description="the tenant's own user")
    tier: Text | None = Field(default=None, max_length=31, description="at most the user's, which is the default")
    priority: int = Field(default=5, ge=0, le=9, description="orders the tenant's own tasks; 9 goes first")
    max_cost_usd: Decimal | None = Field(default=None, gt=0, max_digits=20, decimal_places=10)
    max_steps: int | None = Field(default=None, ge=1, le=100)
    max_output_tokens: int | None = Field(default=None, ge=1, description="per model call, at most the model's own")
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="OpenAI's models only: Anthropic's take none, and ignore it"
    )
    response_schema: dict[str, Any] | None = Field(
        default=None,
        description="a JSON Schema (2020-12) of an object: the answer is JSON that matches it, and is `parsed`",
        examples=[{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}],
    )
    deadline_seconds: float | None = Field(
        default=None, gt=0, le=30 * 86_400, description="a task that has not started by then expires"
    )
    not_before: Time | None = Field(
        default=None, description="a time (RFC 3339) before which the task does not start; at most a year ahead"
    )
    concurrency_key: Annotated[str, AfterValidator(_printable)] | None = Field(
        default=None, min_length=1, max_length=200, description="of the tenant's tasks with one key a few run at a time"
    )
    concurrency_limit: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="how many of the same `concurrency_key` at a time; 1 where it is absent",
    )
    on_budget_exhausted: Literal["fail", "wait", "park"] = Field(
        default="fail",
        description="where the next model call does not fit into a budget: end with `budget_exceeded`; wait for calls"
        " that are under way, 15 minutes at most; or park until the budget is raised or renewed",
    )
    on_busy: Literal["enqueue", "reject", "interrupt"] = Field(
        default="enqueue",
        description="where another task has the conversation: wait for it, fail with `conversation_busy`, or cancel it",
    )
    metadata: Metadata = Field(default_factory=dict, description="at most 16 pairs, returned with the task")

    @property
    def messages(self) -> tuple[InputMessage, ...]:
        """The input as messages, however it was given."""
        if isinstance(self.input, str):
            return (InputMessage.model_construct(role="user", content=self.input),)
        return self.input

    @model_validator(mode="after")
    def _busy_is_a_conversation(self) -> Self:
        if self.on_busy != "enqueue" and self.conversation_id is None:
            raise invalid_field("on_busy", "has no meaning without a conversation_id: name one, or leave it out")
        return self

    @model_validator(mode="after")
    def _limit_of_a_key(self) -> Self:
        if self.concurrency_limit is not None and self.concurrency_key is None:
            raise invalid_field(
                "concurrency_limit", "has no meaning without a concurrency_key: set one, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _a_schema_that_models_can_be_held_to(self) -> Self:
        if self.response_schema is not None:
            try:
                AnswerForm(self.response_schema)
            except SchemaError as error:
                raise invalid_path(["response_schema", *error.path], error.reason) from error
        return self

    @model_validator(mode="after")
    def _input_says_something(self) -> Self:
        messages = self.messages
        if not messages or messages[-1].role != "user":
            raise invalid_field("input", "must end with a message of the user")
        for message in messages:
            if not message.content.strip():
                raise invalid_field("input", "must not be empty")
            _check_text(message.content)
        if sum(len(message.content) for message in messages) > _MAX_CHARACTERS:
            raise invalid_field("input", f"must not have more than {_MAX_CHARACTERS} characters")
        return self


def _check_text(text: str) -> None:
    try:
        _storable(text)
    except ValueError as error:
        raise invalid_field("input", str(error)) from error


TASK_REQUEST: TypeAdapter[TaskRequest] = TypeAdapter(TaskRequest)


def check_catalogue(request: TaskRequest, catalogue: Catalogue) -> None:
    """Refuse what the catalogue does not have. Raises `Problem`."""
    agent = catalogue.agent(request.agent)
    if agent is None:
        raise invalid_field("agent", f"there is no agent {request.agent!r}")
    if request.max_steps is not None and request.max_steps > agent.max_steps:
        raise invalid_field("max_steps", f"{agent.name} takes at most {agent.max_steps} steps")
    models = catalogue.models_for(request.model or agent.model)
    if not models:
        raise invalid_field("model", _no_model(request.model))
    largest = max(models, key=lambda model: model.max_output)
    if request.max_output_tokens is not None and request.max_output_tokens > largest.max_output:
        raise invalid_field("max_output_tokens", f"{largest.name} gives at most {largest.max_output} tokens")


def _no_model(name: str | None) -> str:
    return "there are no rules to pick a model by: name one" if name == AUTO else f"there is no model {name!r}"


EXAMPLES: dict[str, dict[str, Any]] = {
    "question": {"summary": "A question", "value": {"input": "What is AI?"}},
    "conversation": {
        "summary": "A conversation that the client keeps, with limits",
        "value": {
            "input": [
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hello! What can I do for you?"},
                {"role": "user", "content": "What is 17 * 23?"},
            ],
            "agent": "analyst",
            "priority": 7,
            "max_cost_usd": "0.05",
            "metadata": {"order": "4711"},
        },
    },
    "structured": {
        "summary": "An answer for a program: JSON that matches a schema",
        "value": {
            "input": "Where does Anna Meier live? Letter: Anna Meier, Ring 1, 1010 Vienna.",
            "response_schema": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "postcode": {"type": "string", "pattern": "^[0-9]{4}$"}},
                "required": ["city", "postcode"],
                "additionalProperties": False,
            },
        },
    },
    "turn": {
        "summary": "The next message of a conversation, instead of what is being answered there",
        "value": {
            "input": "No, in euros please.",
            "conversation_id": "0198c0de-0000-7000-8000-0000000000cc",
            "on_busy": "interrupt",
        },
    },
    "exclusive": {
        "summary": "One at a time for a customer, within the hour",
        "value": {"input": "Summarise the day.", "concurrency_key": "customer-17", "deadline_seconds": 3600},
    },
}
