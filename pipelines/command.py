"""The common command line of the pipelines: arguments, logs and errors on stderr, JSON as the last line of stdout."""

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


def command_parser(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return the parser of `python -m pipelines.NAME`, or of `forecaster NAME`; `examples` has one example per line."""
    program = f"python -m pipelines.{name}"
    if is_installed_command():
        program = f"forecaster {name}"
        # `forecaster init` writes the example configurations into configs/
        examples = examples.replace("python -m pipelines.", "forecaster ").replace("pipelines/configs/", "configs/")
    heading = "examples" if "\n" in examples else "example"
    return _Parser(
        prog=program,
        description=description,
        epilog=f"{heading}:\n  {examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def is_installed_command() -> bool:
    """Return whether the program runs as `forecaster NAME`, and not as `python -m pipelines.NAME`."""
    return sys.argv[0].startswith("forecaster ")


class _Parser(argparse.ArgumentParser):
    """A parser with shell completion."""

    def parse_args(self, *arguments: Any, **options: Any) -> Any:
        """Parse the command line, or print completions if a shell requests them."""
        argcomplete.autocomplete(self)
        return super().parse_args(*arguments, **options)


def config_parser(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Return the parser of `python -m pipelines.NAME CONFIG.yaml [--set dotted.key=value …]`."""
    parser = command_parser(name, description, examples)
    parser.add_argument(
        "config", metavar="CONFIG.yaml", help="a pipeline's configuration, or a job with a section for each pipeline"
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        dest="overrides",
        nargs="+",
        default=[],
        action="extend",
        help="override configuration values by dotted key",
    )
    return parser


def run_config(
    parser: argparse.ArgumentParser,
    model: type[ConfigT],
    job: Callable[[ConfigT], dict[str, Any]],
    status: Callable[[dict[str, Any]], int] = lambda answer: 0,
) -> int:
    """Parse the command line, load the configuration and run the job; return the exit status."""
    arguments = parser.parse_args()
    section = re.split(r"[. ]", parser.prog)[-1]
    return run(lambda: job(load_config(arguments.config, model, arguments.overrides, section)), status)


def load_sections(arguments: argparse.Namespace, **models: type[Config]) -> tuple[Any, ...]:
    """Return several sections of a job's configuration, in the order of `models`.

    A key of `--set` that starts with a section's name overrides that section: `train.model.cell=gru`. Other keys
    override the last section.
    """
    last = [*models][-1]
    overrides: dict[str, list[str]] = {section: [] for section in models}
    for override in arguments.overrides:
        section, _, rest = override.partition(".")
        is_named = section in models and rest
        overrides[section if is_named else last].append(rest if is_named else override)
    return tuple(load_config(arguments.config, model, overrides[section], section) for section, model in models.items())


def run(job: Callable[[], dict[str, Any]], status: Callable[[dict[str, Any]], int] = lambda answer: 0) -> int:
    """Run a job and print its result as JSON; errors go to stderr.

    Returns:
        The exit status: `status` of the result, or that of the error.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    # alembic logs each migration of MLflow's tables; TensorFlow's advice on retracing does not apply here
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        result = job()
    except (ConfigError, UnreadableFile) as error:
        sys.stderr.write(f"error: {error}\n")
        return BAD_CONFIG
    except ForecasterError as error:
        sys.stderr.write(f"error: {error}\n")
        return FAILED
    except MemoryError as error:
        sys.stderr.write(f"error: out of memory ({error}); reduce the size of the job, or provide more memory\n")
        return FAILED
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; unfinished work was not registered; run the same command to continue\n")
        return INTERRUPTED
    sys.stdout.write(json.dumps(result) + "\n")
    return status(result)


def report_waiting(model: str) -> None:
    """Print that another process holds the training lock. A log line would be lost: MLflow disables loggers."""
    sys.stderr.write(f"model '{model}' is being trained by another process; waiting for it\n")


def add_database_option(parser: argparse.ArgumentParser) -> None:
    """Add `--database`, which defaults to the service's database."""
    parser.add_argument(
        "--database",
        metavar="URL",
        # not shown in the help, because it may contain a password
        default=default_database_url(),
        help="the service's database (default: FORECASTER_DATABASE_URL, or mlruns/service.db)",
    )


def add_tracking_option(parser: argparse.ArgumentParser) -> None:
    """Add `--tracking-uri`, which defaults to the service's MLflow."""
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        # not shown in the help, because it may contain a password
        default=default_tracking_uri(),
        help="MLflow's URI (default: FORECASTER_TRACKING_URI, or mlruns/mlflow.db)",
    )


def format_table(rows: list[dict[str, str]]) -> str:
    """Return rows as a table with left-aligned columns; all rows have the keys of the first."""
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    lines = [{name: name for name in widths}, *rows]
    return "\n".join("  ".join(line[name].ljust(width) for name, width in widths.items()).rstrip() for line in lines)
