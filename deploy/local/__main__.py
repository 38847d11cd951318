"""The command line: `python -m deploy.local <command>`."""

import argparse
import signal
import sys

from deploy.local import commands
from deploy.local.errors import LocalError


def main() -> int:
    """Do one command; a failure is one sentence and a non-zero status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments = vars(_parser().parse_args())
    command = arguments.pop("command")
    try:
        status: int = getattr(commands, command)(**arguments)
    except LocalError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    add = parser.add_subparsers(dest="command", required=True, metavar="COMMAND").add_parser
    only_servers = add("servers", help="run only the servers, in the foreground")
    only_servers.add_argument("--instance", dest="name", default="dev")
    only_servers.add_argument(
        "--ephemeral", action="store_true", help="fast instead of durable, and removed at the end"
    )
    only_servers.add_argument("--until-eof", action="store_true", help="stop when standard input ends")
    supervise = add("supervise", help="what `up` runs in the background")
    supervise.add_argument("--instance", dest="name", required=True)
    supervise.add_argument("--report-fd", type=int, required=True)
    add("up", help="start the stack in the background")
    add("down", help="stop the stack")
    for name in ("ps",):
        add(name, help="show what runs").add_argument("--instance", dest="name", default="main")
    return parser


if __name__ == "__main__":
    sys.exit(main())
