"""Functions with the owner's rights are for those who are named, and look nothing up where others may put it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tests.stage import Stage

_SCHEMAS = ["billing", "history", "identity", "runtime"]
_OPEN = """
SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = ANY (%s) AND p.prosecdef AND (has_function_privilege('public', p.oid, 'EXECUTE')
  OR NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false))
"""
_DEFINERS = """
SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = ANY (%s) AND p.prosecdef
"""


@pytest.fixture
def admin(stage: Stage) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(stage.admin_dsn) as connection:
        yield connection
        connection.rollback()


def test_whatever_acts_with_the_owners_rights_is_for_nobody_else_and_has_a_fixed_search_path(
    admin: psycopg.Connection[Any],
) -> None:
    definers = admin.execute(_DEFINERS, [_SCHEMAS]).fetchone()
    assert definers is not None
    assert definers[0] > 40
    assert admin.execute(_OPEN, [_SCHEMAS]).fetchall() == []


@pytest.mark.parametrize("function", ["identity.keep_plan", "billing.keep_earlier_cap"])
def test_no_service_puts_the_owners_triggers_on_a_table_of_its_own(
    admin: psycopg.Connection[Any], function: str
) -> None:
    """It would write what it likes, of any tenant, where nobody can change anything."""
    admin.execute("SET ROLE laneway_gateway")
    admin.execute("CREATE TEMPORARY TABLE forged (tenant_id uuid, plan text)")
    with pytest.raises(errors.InsufficientPrivilege):
        admin.execute(f"CREATE TRIGGER forging AFTER INSERT ON forged FOR EACH ROW EXECUTE FUNCTION {function}()")
