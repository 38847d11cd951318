"""What runs in a process of `Processes`: one call after the other, until its standard input ends."""

from __future__ import annotations

import math
import os
import resource
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import BinaryIO

import orjson

from agent_worker.tools.processes import LENGTH_BYTES
from agent_worker.tools.signature import Signature, ToolError

_MEMORY_BYTES = 512 * 1024 * 1024


@cache
def _found(address: str) -> tuple[Callable[..., object], Signature]:
    module, _, name = address.partition(":")
    function: Callable[..., object] = getattr(import_module(module), name)
    return function, Signature.of(function)


def _bound_processor_time(seconds: float) -> None:
    """Nobody may be left to kill this process: then the system does."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (end, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def answer(question: bytes) -> bytes:
    """What came of one call."""
    asked = orjson.loads(question)
    name = str(asked["function"]).partition(":")[2]
    _bound_processor_time(asked["seconds"])
    try:
        function, signature = _found(asked["function"])
        output = str(function(**signature.checked(asked["arguments"])))
    except ToolError as error:
        return orjson.dumps({"error": str(error) or f"{name} failed"})
    except Exception as error:  # noqa: BLE001 - the tool's fault, which the model is told of as in `Toolbox.run`
        return orjson.dumps({"error": f"{name} failed: {type(error).__name__}"})
    return orjson.dumps({"output": output.encode(errors="replace").decode()})


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer until there are no more questions."""
    while len(header := questions.read(LENGTH_BYTES)) == LENGTH_BYTES:
        answered = answer(questions.read(int.from_bytes(header)))
        answers.write(len(answered).to_bytes(LENGTH_BYTES) + answered)
        answers.flush()


def main() -> None:
    """Serve the process that started this one. What a tool prints goes to the log."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, hard))
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
