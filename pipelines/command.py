"""What every pipeline's command line shares: arguments, logs on stderr, errors in words, JSON as stdout's last line."""

import argparse
import json
import logging
import re
import sys
from collections.abc import Callable
from typing import Any

import argcomplete

from forecaster.database.uris import default_database_url, default_tracking_uri
from forecaster.domain.config import Config, ConfigT, load_config
from forecaster.domain.errors import ConfigError, ForecasterError, UnreadableFile
from forecaster.domain.exits import BAD_CONFIG, FAILED, INTERRUPTED


def command_parser(name: str, what: str, example: str) -> argparse.ArgumentParser:
    """Return the parser of `python -m pipelines.NAME`, or `forecaster NAME`; its help ends with the example lines."""
    program = f"python -m pipelines.{name}"
    if sys.argv[0].startswith("forecaster "):
        program = f"forecaster {name}"
        # `forecaster init` writes the example configurations into configs/
        example = example.replace("python -m pipelines.", "forecaster ").replace("pipelines/configs/", "configs/")
    return _Parser(
        prog=program,
        description=what,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


class _Parser(argparse.ArgumentParser):
    """A parser whose options the shell can complete."""

    def parse_args(self, *arguments: Any, **options: Any) -> Any:
        """Parse the command line, or answer the shell that asks how it may go on."""
        argcomplete.autocomplete(self)
        return super().parse_args(*arguments, **options)


def config_parser(name: str, what: str, example: str) -> argparse.ArgumentParser:
    """Return the parser of `python -m pipelines.NAME CONFIG.yaml [--set dotted.key=value …]`."""
    parser = command_parser(name, what, example)
    parser.add_argument("config", metavar="CONFIG.yaml", help=f"the configuration, or a job's with a section {name}")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        dest="overrides",
        nargs="+",
        default=[],
        action="extend",
        help="change dotted keys of it",
    )
    return parser


def run_config(
    parser: argparse.ArgumentParser,
    model: type[ConfigT],
    job: Callable[[ConfigT], dict[str, Any]],
    status: Callable[[dict[str, Any]], int] = lambda answer: 0,
) -> int:
    """Parse the command line, read the configuration, run the job; return the exit status."""
    arguments = parser.parse_args()
    section = re.split(r"[. ]", parser.prog)[-1]
    return run(lambda: job(load_config(arguments.config, model, arguments.overrides, section)), status)


def load_sections(arguments: argparse.Namespace, **models: type[Config]) -> tuple[Any, ...]:
    """Return several sections of a job's file, in the order of `models`.

    A key of `--set` that begins with a section's name is that section's: `train.model.cell=gru`. Others are the last's.
    """
    last = [*models][-1]
    overrides: dict[str, list[str]] = {section: [] for section in models}
    for override in arguments.overrides:
        section, _, rest = override.partition(".")
        is_named = section in models and rest
        overrides[section if is_named else last].append(rest if is_named else override)
    return tuple(load_config(arguments.config, model, overrides[section], section) for section, model in models.items())


def run(job: Callable[[], dict[str, Any]], status: Callable[[dict[str, Any]], int] = lambda answer: 0) -> int:
    """Run a job, print its answer and return the exit status that `status` reads from it; errors go to stderr."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    # hundreds of lines on making the store's tables, and advice on retracing that does not apply to two networks
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        answer = job()
    except (ConfigError, UnreadableFile) as error:
        sys.stderr.write(f"error: {error}\n")
        return BAD_CONFIG
    except ForecasterError as error:
        sys.stderr.write(f"error: {error}\n")
        return FAILED
    except MemoryError as error:
        sys.stderr.write(f"error: out of memory ({error}); make the work smaller, or give it more\n")
        return FAILED
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what was not finished was not registered, and the same command continues\n")
        return INTERRUPTED
    sys.stdout.write(json.dumps(answer) + "\n")
    return status(answer)


def say_that_it_waits(model: str) -> None:
    """Say that another process has the turn; not by a logger, for making MLflow's tables silences those there are."""
    sys.stderr.write(f"model '{model}' is being trained by another process; waiting for it\n")


def database_option(parser: argparse.ArgumentParser) -> None:
    """Add `--database`, which is the service's where nothing is said."""
    parser.add_argument(
        "--database",
        metavar="URL",
        # not shown in the help, because it may contain a password
        default=default_database_url(),
        help="default: FORECASTER_DATABASE_URL, or mlruns/service.db",
    )


def tracking_option(parser: argparse.ArgumentParser) -> None:
    """Add `--tracking-uri`, which is the service's where nothing is said."""
    parser.add_argument(
        "--tracking-uri",
        metavar="URL",
        # not shown in the help, because it may contain a password
        default=default_tracking_uri(),
        help="default: FORECASTER_TRACKING_URI, or mlruns/mlflow.db",
    )


def left_table(rows: list[dict[str, str]]) -> str:
    """Return rows of words as a table whose columns begin at the left."""
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    lines = [{name: name for name in widths}, *rows]
    return "\n".join("  ".join(line[name].ljust(width) for name, width in widths.items()).rstrip() for line in lines)
