"""What a tool's function says of its arguments: their schema, and the check of what a model gives for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from agent_worker.tools.context import ToolContext
from common.errors import ConfigurationError

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
# A model that is told the first few mistakes makes none of them again; the rest is more of the same.
_MOST_TOLD = 5


class ToolError(Exception):
    """The tool's own word, for the model, on why it could not do what was asked."""


@dataclass(frozen=True)
class Signature:
    """The arguments of one function."""

    schema: dict[str, Any]
    """JSON schema, as models are told."""
    context: str | None
    """The parameter that is given the `ToolContext`, of which models know nothing."""
    _names: tuple[str, ...]
    _model: type[BaseModel]

    @classmethod
    def of(cls, function: Callable[..., object]) -> Signature:
        """Read it. Raises `ConfigurationError` where a model could not be told of it."""
        name = getattr(function, "__name__", repr(function))
        try:
            parameters = inspect.signature(function, eval_str=True).parameters
        except (NameError, TypeError, ValueError) as error:
            raise ConfigurationError(f"The tool {name!r} has a signature that cannot be read: {error}.") from error
        context = next((one.name for one in parameters.values() if one.annotation is ToolContext), None)
        asked = {key: one for key, one in parameters.items() if key != context}
        for parameter in asked.values():
            if parameter.kind not in _NAMED:
                raise ConfigurationError(f"The tool {name!r} takes {parameter}: a model gives every argument by name.")
            if parameter.annotation is parameter.empty:
                raise ConfigurationError(f"The tool {name!r} has no type for its argument {parameter.name!r}.")
        try:
            model = _model(asked)
            schema = model.model_json_schema()
        except Exception as error:  # whatever a foreign type's own schema raises
            raise ConfigurationError(f"The arguments of the tool {name!r} have no schema: {error}.") from error
        schema.pop("title", None)
        return cls(schema, context, tuple(asked), model)

    def checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the function takes them. Raises `ToolError`, for the model, where they do not fit."""
        try:
            given = self._model.model_validate(dict(arguments))
        except ValidationError as error:
            raise ToolError(_mistakes(error)) from error
        return {name: getattr(given, f"of_{place}") for place, name in enumerate(self._names)}


def _model(parameters: Mapping[str, inspect.Parameter]) -> type[BaseModel]:
    """Under names of its own, as an argument may be called what a model's own method is."""
    fields: dict[str, Any] = {
        f"of_{place}": (
            Annotated[parameter.annotation, Field(alias=name)],
            ... if parameter.default is parameter.empty else parameter.default,
        )
        for place, (name, parameter) in enumerate(parameters.items())
    }
    return create_model("Arguments", __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields)


def _mistakes(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    told = [f"argument {'.'.join(map(str, one['loc']))!r}: {one['msg']}" for one in found[:_MOST_TOLD]]
    return "; ".join(told + [f"and {len(found) - _MOST_TOLD} more"] * (len(found) > _MOST_TOLD))
