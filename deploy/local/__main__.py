"""The command line: `python -m deploy.local <command>`."""

import argparse
import os
import signal
import sys

from deploy.local import commands
from deploy.local.errors import LocalError


def main() -> int:
    """Do one command; a failure is one sentence and a non-zero status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments = vars(_parser().parse_args())
    command = arguments.pop("command").replace("-", "_")
    try:
        status: int = getattr(commands, command)(**arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has enough, as `head` soon has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except LocalError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    commands_of = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, purpose: str, *, instance: str | None = "main") -> argparse.ArgumentParser:
        command = commands_of.add_parser(name, help=purpose)
        if instance:
            command.add_argument("--instance", dest="name", default=instance, help=f"({instance})")
        return command

    add("up", "start the stack in the background", instance=None)
    add("down", "stop the stack", instance=None)
    add("demo", "start a stack, run tasks of all tiers against it, stop it", instance=None)
    add("has-docker", "succeed if the stack can run by docker-compose.yml", instance=None)
    add("ps", "show what runs")
    add("topology", "apply the topology again")
    _add_logs(add("logs", "show the logs"))
    for name in ("start", "stop", "restart", "kill", "scale"):
        add(name, f"{name} a server or service").add_argument("child")
    commands_of.choices["stop"].add_argument("signal", nargs="?", help="KILL for a crash that is not repaired")
    commands_of.choices["kill"].add_argument("signal", nargs="?", default="KILL")
    commands_of.choices["scale"].add_argument("count", type=int)
    add("rabbitmqctl", "run the broker's tool").add_argument("arguments", nargs=argparse.REMAINDER)
    _add_foreground(add("servers", "run only the servers, in the foreground", instance="dev"))
    _add_background(add("supervise", "what `up` runs in the background"))
    return parser


def _add_logs(command: argparse.ArgumentParser) -> None:
    command.add_argument("child", nargs="?")
    command.add_argument("-f", "--follow", action="store_true")


def _add_foreground(command: argparse.ArgumentParser) -> None:
    command.add_argument("--ephemeral", action="store_true", help="removed at the end, and fast instead of durable")
    command.add_argument("--durable", action="store_true", help="as durable as those of `up`, also where ephemeral")
    command.add_argument("--until-eof", action="store_true", help="stop when standard input ends")


def _add_background(command: argparse.ArgumentParser) -> None:
    command.add_argument("--report-fd", type=int, required=True)
    command.add_argument("--until-eof", action="store_true")


if __name__ == "__main__":
    sys.exit(main())
