"""What every message has: a kind, a version, JSON on the wire, and a way to say why bytes are not one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from common.errors import DecodeError
from common.storable import storable_json


class Contract(BaseModel):
    """A frozen message. Unknown fields are ignored, so that a newer sender does not break an older reader."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")
    kind: str
    version: int
    KIND: ClassVar[str]

    def encode(self) -> bytes:
        """JSON, UTF-8."""
        return self.model_dump_json().encode()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """Read one message, without NUL characters. Raises `DecodeError` with the first field that is wrong and why."""
        try:
            return cls.model_validate_json(storable_json(body))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "body"
            raise DecodeError(f"{cls.KIND}: {where}: {first['msg']}") from error


def now() -> AwareDatetime:
    """The present moment, UTC."""
    return datetime.now(UTC)
