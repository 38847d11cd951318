"""Arithmetic, by walking the parsed expression: nothing is evaluated that is not a number or an operator."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable

from agent_worker.tools.base import ToolError

Number = int | float

_BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: dict[type[ast.unaryop], Callable[[Number], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_LARGEST_DIGITS = 400


def _round(value: Number, digits: int = 0) -> Number:
    # Python makes ten to the power of the digits, however many they are: one call would stop the whole worker.
    if abs(digits) > _LARGEST_DIGITS:
        raise ToolError("too many digits to round to")
    return round(value, digits) if digits else round(value)


_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "abs": abs,
    "round": _round,
    "min": min,
    "max": max,
    "sqrt": math.sqrt,
    "log": math.log,
    "exp": math.exp,
}
_CONSTANTS = {"pi": math.pi, "e": math.e}
_LONGEST = 1_000
_LARGEST_BITS = 4_096


async def calculator(expression: str) -> str:
    """Compute an arithmetic expression, e.g. `(2 + 3) * 4 / 7`. Knows + - * / // % **, parentheses, sqrt, log, exp,
    abs, round, min, max, pi and e."""
    if len(expression) > _LONGEST:
        raise ToolError(f"the expression is longer than {_LONGEST} characters")
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except SyntaxError as error:
        raise ToolError(f"not an arithmetic expression: {error.msg}") from error
    except (ArithmeticError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ToolError(f"cannot be computed: {error}") from error
    return str(value)


def _value(node: ast.expr) -> Number:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_value(node.operand))
    if isinstance(node, ast.BinOp):
        return _bounded(_binary(node.op, _value(node.left), _value(node.right)))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        if node.keywords:
            raise ToolError("functions take no named arguments")
        return _bounded(_FUNCTIONS[node.func.id](*map(_value, node.args)))
    raise ToolError(f"not arithmetic: {ast.unparse(node)[:80]}")


def _binary(kind: ast.operator, left: Number, right: Number) -> Number:
    if isinstance(kind, ast.Pow):
        return _power(left, right)
    if type(kind) not in _BINARY:
        raise ToolError("an operator that is not arithmetic")
    return _BINARY[type(kind)](left, right)


def _power(base: Number, exponent: Number) -> Number:
    # A small expression can name a number that fills the memory.
    if isinstance(base, int) and isinstance(exponent, int) and abs(exponent) * base.bit_length() > _LARGEST_BITS:
        raise ToolError("the power is too large")
    result = base**exponent
    if isinstance(result, complex):
        raise ToolError("the result is not a real number")
    return result


def _bounded(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > _LARGEST_BITS:
        raise ToolError("the number is too large")
    if isinstance(value, float) and not math.isfinite(value):
        raise ToolError("the result is not a finite number")
    return value
