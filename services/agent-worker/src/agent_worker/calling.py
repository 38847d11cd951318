"""One model call: through its model's gate, with leave, and accounted for however it ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from agent_worker.calls import Calls
from agent_worker.metering import settle_meter
from agent_worker.providers.base import CallMeter, ModelRequest, OutputLimitError, Piece, ProviderError
from agent_worker.resilience.chain import Served
from agent_worker.sizes import overhead, text_bytes, tokens_of
from agent_worker.tools.base import Toolbox


async def called(
    step: int, served: Served, request: ModelRequest, meter: CallMeter, tools: Toolbox, calls: Calls
) -> AsyncGenerator[Piece, None]:
    """What the model says; where it says more than it may, what it said until then. Raises `ProviderError`."""
    passage = await served.gate.enter()
    try:
        async with aclosing(_paid(step, served, request, meter, tools, calls)) as stream:
            async for piece in stream:
                yield piece
    except ProviderError as error:
        served.gate.left(passage, error)
        raise
    else:
        served.gate.left(passage, None)
    finally:
        served.gate.leave(passage, None)


async def _paid(
    step: int, served: Served, request: ModelRequest, meter: CallMeter, tools: Toolbox, calls: Calls
) -> AsyncGenerator[Piece, None]:
    text = text_bytes(request.instructions, request.turns)
    bound = min(served.model.window, text + overhead(request.turns, tools, request.response_schema))
    estimate = min(bound, tokens_of(text))
    attempt = await calls.begin(step, served, bound, estimate)
    meter.asked = True
    request = replace(request, attempt_id=attempt)
    try:
        async with aclosing(served.provider.stream(request, meter)) as stream:
            async for piece in stream:
                yield piece
    except OutputLimitError:
        meter.stop_reason = "max_output_bytes"
    except ProviderError as error:
        meter.refused, meter.failure = error.refused, error
        raise
    finally:
        # However it ended: what was used is accounted for before anything else happens.
        settle_meter(meter, estimate, request.max_output_tokens)
        calls.record(attempt, step, meter)
