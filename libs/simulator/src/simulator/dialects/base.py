"""What a dialect has to offer to be served, and what all of them share in reading requests."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import orjson

from simulator.answer import Answer
from simulator.conversation import Conversation
from simulator.errors import CallRefused
from simulator.limits import Standing
from simulator.tokens import count

Frame = tuple[int, bytes]
"""A piece of a stream and the output tokens it carries; pieces without tokens go along with the one before."""

Headers = list[tuple[bytes, bytes]]


class Dialect(Protocol):
    """One API of one provider."""

    provider: str
    api: str

    def api_key(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        """The client's key, or None when there is none."""

    def read(self, body: dict[str, Any]) -> Conversation:
        """The conversation in a request body; raises CallRefused, or a plain error for a wrong shape."""

    def whole(self, answer: Answer) -> bytes:
        """The body of an answer that is not streamed."""

    def frames(self, answer: Answer) -> Iterator[Frame]:
        """The stream of an answer, from its opening to its end."""

    def failure(self, number: int) -> bytes:
        """The stream's event for an error; `number` events went before."""

    def refusal(self, refused: CallRefused, request_id: str) -> tuple[int, bytes]:
        """Status and body of an error."""

    def headers(self, request_id: str, standing: Standing | None) -> Headers:
        """The provider's own headers: the request's id and, for an admitted call, the rate limits."""


def bearer(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The token of an Authorization header."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return token.strip() or None if scheme.lower() == b"bearer" else None


def content_tokens(content: object) -> int:
    """Tokens of a message's content: each text by its own, anything else by its JSON."""
    if content is None:
        return 0
    if isinstance(content, str):
        return count(content)
    if isinstance(content, list):
        return sum(map(content_tokens, content))
    if isinstance(content, dict):
        for key in ("text", "content"):
            if key in content:
                return content_tokens(content[key])
    return count(orjson.dumps(content).decode())


def plain_text(content: object) -> str:
    """The text parts of a message's content, joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(part["text"] for part in content if isinstance(part.get("text"), str))


def model_of(body: Mapping[str, Any]) -> str:
    """The model asked for; a name starting with `missing-` stands for one that does not exist."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise CallRefused("bad_request", "model: Field required")
    if model.startswith("missing-"):
        raise CallRefused("not_found", f"The model `{model}` does not exist or you do not have access to it.")
    return model


def limit_of(body: Mapping[str, Any], *keys: str) -> int | None:
    """The first of the limits of output tokens that the request sets."""
    for key in keys:
        limit = body.get(key)
        if limit is None:
            continue
        if not isinstance(limit, int) or limit < 1:
            raise CallRefused("bad_request", f"{key}: Input should be an integer greater than or equal to 1")
        return limit
    return None


def messages_of(body: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The non-empty list of messages."""
    messages = body.get(key)
    if not isinstance(messages, list) or not messages:
        raise CallRefused("bad_request", f"{key}: at least one message is required")
    return messages


def tools_tokens(tools: Iterable[object] | None) -> int:
    """Tokens of the tool definitions."""
    return sum(count(orjson.dumps(tool).decode()) for tool in tools or ())
