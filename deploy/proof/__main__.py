"""`python -m deploy.proof`: exit code 0 where everything agrees, 1 where it does not, 64 for what cannot be asked,
69 where nothing answers.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

import asyncpg
import httpx2

from deploy.local.envfile import read_env
from deploy.local.instance import BASE
from deploy.proof import books, report
from deploy.proof.audit import compare

_FILE = BASE / "demo.env"


def main() -> int:
    """Print the tables and every difference."""
    parser = argparse.ArgumentParser(prog="make proof ARGS=…", description=__doc__)
    parser.add_argument("--tenant", help="this one's books only")
    parser.add_argument("--month", help="this month only, as 2026-10")
    parser.add_argument("--idle", action="store_true", help="nothing runs: a hold that is not resolved is a difference")
    given = parser.parse_args()
    try:
        differences = asyncio.run(_prove(given, {**read_env(_FILE), **os.environ}))
    except KeyError as error:
        print(f"{error.args[0]} is not set: run `make up`, or set it to where the stack is", file=sys.stderr)
        return os.EX_UNAVAILABLE
    except httpx2.HTTPStatusError as error:
        print(f"the gateway refused: {error.response.status_code} {error.response.text}", file=sys.stderr)
        return os.EX_UNAVAILABLE if error.response.is_server_error else os.EX_USAGE
    except (OSError, httpx2.HTTPError, asyncpg.PostgresError) as error:
        print(f"the stack does not answer: {error!r}", file=sys.stderr)
        return os.EX_UNAVAILABLE
    print("\n".join(differences) if differences else "Everything agrees: there is no difference.")
    return 1 if differences else 0


async def _prove(given: argparse.Namespace, environment: dict[str, str]) -> list[str]:
    asked = {name: value for name, value in (("tenant_id", given.tenant), ("month", given.month)) if value}
    headers = {"Authorization": f"Bearer {environment['LANEWAY_ADMIN_KEY']}"}
    async with httpx2.AsyncClient(base_url=environment["LANEWAY_URL"], headers=headers) as client:
        months = [month async for month in books.months(client, **asked)]
    print(report.months_table(months))
    found = report.differences(months)
    if given.idle and (count := report.unresolved(months)):
        found.append(f"{count} holds are not resolved")
    if "SIMULATOR_URL" in environment and not asked:
        found += await _against_the_audit(environment)
    return found


async def _against_the_audit(environment: dict[str, str]) -> list[str]:
    """Calls that are under way are in neither yet: the audit is read first, so that the books can only have more."""
    served = await books.audit(environment["SIMULATOR_URL"])
    compared = compare(served["calls"], await books.booked(environment["DATABASE_URL"]))
    print("The provider is the simulator; it says that it served:\n")
    print(report.providers_table(compared))
    return compared.differences


if __name__ == "__main__":
    sys.exit(main())
