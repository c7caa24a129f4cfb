"""Manage the service's API keys: `python -m pipelines.keys create --name ci --scope forecast`."""

import argparse
import sys
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine

from forecaster.database.keys import SCOPES, create_key, read_keys, revoke_key
from forecaster.database.schema import open_database
from pipelines.command import add_database_option, command_parser, format_table, run


def create_api_key(engine: Engine, arguments: argparse.Namespace) -> dict[str, Any]:
    """Create a key. Only the result contains it; the database stores its digest."""
    owner = arguments.name if arguments.owner is None else arguments.owner
    key = create_key(engine, arguments.name, arguments.scope, owner)
    sys.stderr.write("store this key now: it cannot be shown again, because only its digest is kept\n")
    return {"key": key, "name": arguments.name, "owner": owner, "scopes": arguments.scope}


def revoke_api_key(engine: Engine, arguments: argparse.Namespace) -> dict[str, Any]:
    """Revoke a key. The service refuses it within `FORECASTER_KEYS_REFRESH_SECONDS`."""
    revoke_key(engine, arguments.key_id)
    return {"revoked": arguments.key_id}


def list_keys(engine: Engine, arguments: argparse.Namespace) -> dict[str, Any]:
    """List the keys, without their secrets."""
    rows = [
        {
            "key_id": key.key_id,
            "name": key.name,
            "owner": key.owner,
            "scopes": " ".join(key.scopes),
            "created": _day(key.created_at),
            "revoked": _day(key.revoked_at) if key.revoked_at else "",
        }
        for key in read_keys(engine)
    ]
    if rows:
        sys.stdout.write(format_table(rows) + "\n")
    return {"keys": rows}


def _day(at: int) -> str:
    return datetime.fromtimestamp(at / 1e6, UTC).date().isoformat()


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "keys",
        "Create, list and revoke API keys of the service.",
        "python -m pipelines.keys create --name shop --scope forecast actuals\n"
        "  python -m pipelines.keys create --name shop-2027 --owner shop --scope forecast actuals\n"
        "  python -m pipelines.keys list\n  python -m pipelines.keys revoke 1a2b3c4d",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    creation = commands.add_parser("create", help="create a key and print it once")
    creation.add_argument("--name", required=True, help="name of the key")
    creation.add_argument(
        "--owner",
        help="owner of the key; keys of the same owner share forecasts and actuals (default: the name; '' is the owner "
        "of requests made while no key existed)",
    )
    creation.add_argument("--scope", required=True, nargs="+", choices=SCOPES, help="permissions of the key")
    creation.set_defaults(do=create_api_key)
    commands.add_parser("list", help="list the keys, without their secrets").set_defaults(do=list_keys)
    revocation = commands.add_parser("revoke", help="revoke a key")
    revocation.add_argument("key_id", metavar="KEY_ID", help="id of the key, as list shows it")
    revocation.set_defaults(do=revoke_api_key)
    for command in commands.choices.values():
        add_database_option(command)
    return parser


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    with open_database(arguments.database) as engine:
        answer: dict[str, Any] = arguments.do(engine, arguments)
    return answer


if __name__ == "__main__":
    parsed = _parser().parse_args()
    sys.exit(run(lambda: _run(parsed)))
