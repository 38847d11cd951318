"""The body of a document that is uploaded to a conversation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.requests import Request

from gateway import problems
from gateway.failures import invalid
from gateway.requests import json_body
from gateway.schemas import Text

LONGEST_DOCUMENT = 1_000_000
MOST_DOCUMENTS = 50
MOST_CHARACTERS = 5_000_000
MOST_CHARACTERS_OF_TENANT = 500_000_000

Language = Literal[
    "simple", "danish", "dutch", "english", "finnish", "french", "german", "hungarian", "italian", "norwegian",
    "portuguese", "romanian", "russian", "spanish", "swedish", "turkish",
]  # fmt: skip


def _printable(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("must have printable characters only, and not only blanks")
    return text


class Upload(BaseModel):
    """A document, as text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, AfterValidator(_printable)] = Field(
        min_length=1, max_length=200, examples=["handbook.md"], description="what the agent is told that it is called"
    )
    content: Text = Field(min_length=1, max_length=LONGEST_DOCUMENT, pattern=r"\S", description="plain text, Markdown")
    language: Language = Field(
        default="english", description="whose words are found in all their forms; `simple`: only as they are written"
    )


_UPLOAD: TypeAdapter[Upload] = TypeAdapter(Upload)


async def read_upload(request: Request) -> Upload:
    """The checked body. Raises `Problem`."""
    body = await json_body(request)
    try:
        return _UPLOAD.validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        if details[0]["type"] == "json_invalid":
            raise problems.INVALID.problem("The body is not JSON.") from error
        raise invalid(details) from error


EXAMPLES: dict[str, dict[str, Any]] = {
    "handbook": {
        "summary": "A page of a handbook",
        "value": {"name": "handbook.md", "content": "# Leave\n\nEverybody has 25 days of leave a year."},
    },
}
