"""`laneway-billing`: what finance does by hand. It works as billing does, on the same database and in the same role.

Exit codes: 0 done, or nothing to do; 1 something would change, or could not be done yet; 2 what was given is not
usable; 69 the database does not answer.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import TypeVar
from uuid import UUID

from billing import month_commands, price_commands
from billing.own_prices import parse_time
from common.errors import ConfigurationError, Unavailable

Value = TypeVar("Value")


def parser() -> argparse.ArgumentParser:
    """The commands and what they take."""
    root = argparse.ArgumentParser(prog="laneway-billing", description="Prices, corrections, and the ends of months.")
    groups = root.add_subparsers(required=True)
    _add_prices(groups.add_parser("prices", help="the price book").add_subparsers(required=True))
    _add_months(groups.add_parser("months", help="months that are over").add_subparsers(required=True))
    _add_invoices(groups.add_parser("invoices", help="what tenants owe for them").add_subparsers(required=True))
    return root


def _add_prices(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    diff = commands.add_parser("diff", help="what would change in the book; exit code 1 where something would")
    apply = commands.add_parser("apply", help="make the change that was reviewed")
    for command in (diff, apply):
        command.add_argument(
            "--effective",
            type=_argument(parse_time),
            help="when the bundle's changes begin; default: with the next day",
        )
    apply.add_argument("--digest", required=True, help="as `diff` printed it")
    apply.add_argument("--by", required=True, type=_argument(_words), help="who has reviewed it")
    apply.add_argument("--reason", required=True, type=_argument(_words))
    rerate = commands.add_parser("rerate", help="put the calls of a period to the prices that the book has for it now")
    rerate.add_argument("--from", dest="begin", required=True, type=_argument(parse_time))
    rerate.add_argument("--until", dest="end", required=True, type=_argument(parse_time), help="not included")
    rerate.add_argument("--post", action="store_true", help="post it; else the difference is printed, with exit code 1")
    diff.set_defaults(run=price_commands.diff)
    apply.set_defaults(run=price_commands.apply)
    rerate.set_defaults(run=price_commands.rerate)


def _add_months(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    close = commands.add_parser("close", help="post what plans take and give for a month; after corrections, the rest")
    close.add_argument("month", type=_argument(_month), help="as 2026-10")
    close.add_argument("--tenant", type=_argument(UUID), help="this one only")
    close.set_defaults(run=month_commands.close)


def _add_invoices(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    issue = commands.add_parser("issue", help="close a month and issue its invoices; after corrections, credit notes")
    issue.add_argument("month", type=_argument(_month), help="as 2026-10")
    issue.add_argument("--tenant", type=_argument(UUID), help="this one only")
    issue.add_argument("--by", required=True, type=_argument(_words), help="who issues them")
    issue.set_defaults(run=month_commands.issue)


def _argument(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """argparse repeats the message of its own error only."""

    def checked(text: str) -> Value:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error

    return checked


def _words(text: str) -> str:
    if not text.strip():
        raise ValueError("say it in words: it is kept with the change")
    return text.strip()


def _month(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m").date()  # noqa: DTZ007 - a month has no zone
    except ValueError:
        raise ValueError("it must be a month, as 2026-10") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command."""
    given = parser().parse_args(arguments)
    try:
        code: int = asyncio.run(given.run(given))
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except Unavailable as error:
        sys.stderr.write(f"{error}\nWhat was not done can be done again: nothing is done twice.\n")
        return os.EX_UNAVAILABLE
    return code


if __name__ == "__main__":
    raise SystemExit(main())
