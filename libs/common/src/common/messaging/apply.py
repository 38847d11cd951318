"""The one job that declares the topology: `python -m common.messaging.apply [--export FILE]`.

Makes the virtual host, the services' users with the least permissions that serve them, and imports the
definitions, all through the management API and all idempotently. An existing queue is never changed or deleted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, SecretStr

from common.catalogue import load_catalogue
from common.errors import ConfigurationError
from common.messaging.topology import SERVICES, Permission, Topology, definitions, topology
from common.settings import SecretHttpUrl, ServiceSettings, load


class ManagedRabbit(BaseModel):
    """An administrator's way in, and the passwords that the services shall have."""

    management_url: SecretHttpUrl
    vhost: str = "laneway"
    user_prefix: str = ""
    password_gateway: SecretStr
    password_agent_worker: SecretStr
    password_persister: SecretStr
    password_billing: SecretStr

    def password(self, service: str) -> str:
        """The password of a service's user."""
        secret: SecretStr = getattr(self, f"password_{service.replace('-', '_')}")
        return secret.get_secret_value()


class CatalogueFiles(BaseModel):
    """Where the operator's YAML files are."""

    dir: Path


class ApplySettings(ServiceSettings):
    """What the topology job needs."""

    rabbit: ManagedRabbit
    catalogue: CatalogueFiles


def apply(rabbit: ManagedRabbit, plan: Topology) -> None:
    """Bring the broker to the plan. Raises `ConfigurationError` with the broker's own words where it refuses."""
    with httpx2.Client(base_url=rabbit.management_url.get_secret_value(), timeout=15) as client:
        vhost = quote(rabbit.vhost, safe="")
        _put(client, f"/api/vhosts/{vhost}", {"default_queue_type": "quorum"})
        for service in SERVICES:
            user = rabbit.user_prefix + service
            _put(client, f"/api/users/{quote(user, safe='')}", {"password": rabbit.password(service), "tags": ""})
        _post(client, f"/api/definitions/{vhost}", definitions(plan, rabbit.vhost))
        for permission in plan.permissions:
            user = quote(rabbit.user_prefix + permission.user, safe="")
            _put(client, f"/api/permissions/{vhost}/{user}", _rights(permission))


def _rights(permission: Permission) -> dict[str, str]:
    return {"configure": permission.configure, "write": permission.write, "read": permission.read}


def _put(client: httpx2.Client, path: str, body: dict[str, Any]) -> None:
    _check(client.put(path, json=body))


def _post(client: httpx2.Client, path: str, body: dict[str, Any]) -> None:
    _check(client.post(path, json=body))


def _check(response: httpx2.Response) -> None:
    if response.is_error:
        what = f"{response.request.method} {response.request.url.path}"
        raise ConfigurationError(f"RabbitMQ refused {what}: {response.status_code} {response.text[:300]}")


def main(arguments: list[str] | None = None) -> int:
    """Apply the topology, or with `--export` write it to a file without touching a broker."""
    parser = argparse.ArgumentParser(prog="python -m common.messaging.apply", description=__doc__)
    parser.add_argument("--export", type=Path, metavar="FILE", help="write definitions.json instead of applying it")
    parser.add_argument("--catalogue", type=Path, default=Path("deploy/catalogue"), help="used with --export")
    options = parser.parse_args(arguments)
    try:
        if options.export:
            plan = topology(load_catalogue(options.catalogue).tier_names)
            options.export.write_text(json.dumps(definitions(plan, "laneway"), indent=2) + "\n", encoding="utf-8")
            return 0
        settings = load(ApplySettings)
        apply(settings.rabbit, topology(load_catalogue(settings.catalogue.dir).tier_names))
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except httpx2.HTTPError as error:
        sys.stderr.write(f"The management API of RabbitMQ cannot be reached: {error}\n")
        return 1
    sys.stdout.write("The topology is in place.\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
