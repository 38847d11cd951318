"""A provider without a network: answers at once, from a function of the request. For tests, and for measuring
everything but the model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence

from agent_worker.providers.base import CallMeter, ModelRequest, Piece, ProviderError, TextDelta, ToolCall
from common.contracts.usage import Usage

Script = Callable[[ModelRequest], Sequence[TextDelta | ToolCall | ProviderError]]


def acknowledge(_: ModelRequest) -> Sequence[TextDelta | ToolCall | ProviderError]:
    """The shortest answer there is."""
    return (TextDelta("ok"),)


class Scripted:
    """Plays what the script returns; an error in it is raised at its place."""

    name = "scripted"

    def __init__(self, script: Script = acknowledge) -> None:
        self._script = script

    async def stream(self, request: ModelRequest, meter: CallMeter) -> AsyncGenerator[Piece, None]:
        """See `Provider.stream`. One output token is counted for each piece, one input token for each turn."""
        meter.accepted = True
        meter.usage = Usage(input_tokens=len(request.turns))
        for piece in self._script(request):
            if isinstance(piece, ProviderError):
                raise piece
            meter.usage = meter.usage + Usage(output_tokens=1)
            if isinstance(piece, ToolCall):
                meter.stop_reason = "tool_use"
            yield piece
        meter.complete = meter.final = True

    async def close(self) -> None:
        """See `Provider.close`."""
