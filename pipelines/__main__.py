# PYTHON_ARGCOMPLETE_OK
"""The command `forecaster`: each of its commands runs the module `pipelines.NAME`; `serve` runs `service`."""

import argparse
import os
import runpy
import sys

import argcomplete

import forecaster
from forecaster.domain.exits import BAD_CONFIG

# the help of each command, by group; a module is imported once its command is chosen, because some take seconds
GROUPS: dict[str, dict[str, str]] = {
    "Start": {
        "demo": "train, register, promote and serve a model, and plot its forecast",
        "init": "write the example configurations into a folder",
    },
    "Data": {
        "fetch": "download daily prices into the bar store",
        "synthesize": "write synthetic prices into the bar store",
    },
    "Models": {
        "train": "train, evaluate and register a version",
        "search": "find values for the keys of a recipe by trials",
        "backtest": "evaluate a recipe at many past cutoffs",
        "contest": "train several recipes and promote the best",
        "promote": "promote a version that passes the gate, or roll back",
        "retrain": "fetch, train and promote in one command",
        "fleet": "train or backtest a model for each of many symbols",
    },
    "Forecasts": {
        "serve": "serve forecasts over HTTP",
        "forecast": "forecast many series without a service",
        "score": "score served forecasts by new bars",
    },
    "Operations": {
        "schedule": "run pipelines when they are due",
        "keys": "create, list and revoke API keys",
        "migrate": "create or upgrade the database tables",
        "backup": "write a backup archive",
        "restore": "restore a backup archive",
        "forget": "delete forecasts from the ledger",
    },
}
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}


def main() -> int:
    """Run a command; return its exit status."""
    completed = _completed_command()
    if completed:
        # to argcomplete, the command is now the program whose options are completed
        os.environ["_ARGCOMPLETE"] = "2"
        return _run(completed, [])
    parser = _parser()
    argcomplete.autocomplete(parser)
    if len(sys.argv) < 2:
        parser.print_help()
        return 0
    command = parser.parse_args(sys.argv[1:2]).command
    return _run(command, sys.argv[2:])


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    groups = "\n\n".join(
        f"{title}:\n" + "\n".join(f"  {name:<{width}}  {text}" for name, text in commands.items())
        for title, commands in GROUPS.items()
    )
    parser = argparse.ArgumentParser(
        prog="forecaster",
        usage="forecaster COMMAND [ARGUMENTS ...]",
        description="Train, evaluate and serve recurrent time-series forecasts.",
        epilog=f"{groups}\n\nHelp on a command, with examples: forecaster COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"forecaster {forecaster.__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of the commands below")
    return parser


def _completed_command() -> str | None:
    """Return the command whose arguments a shell asks to complete, None while the command itself is typed."""
    if "_ARGCOMPLETE" not in os.environ:
        return None
    before_cursor = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    words = before_cursor.split()
    is_chosen = len(words) > 2 or (len(words) == 2 and before_cursor.endswith(" "))
    return words[1] if is_chosen and words[1] in COMMANDS else None


def _run(command: str, arguments: list[str]) -> int:
    module = "service" if command == "serve" else f"pipelines.{command}"
    # `pipelines.command` names the program in help texts by it
    sys.argv = [f"forecaster {command}", *arguments]
    try:
        runpy.run_module(module, run_name="__main__")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("forecaster", "service", "pipelines"):
            raise
        extra = "serve" if command == "serve" else "train"
        sys.stderr.write(
            f"error: forecaster {command} needs {error.name}, which is not installed; "
            f"run pip install 'forecaster[{extra}]'\n"
        )
        return BAD_CONFIG
    return 0


if __name__ == "__main__":
    sys.exit(main())
