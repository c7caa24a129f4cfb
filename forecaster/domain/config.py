"""Read YAML into frozen pydantic models and report each mistake by its full path.

Each package declares its own configuration models; this module only reads them.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from forecaster.domain.errors import ConfigError
from forecaster.domain.yaml_text import parse_yaml, read_text


class Config(BaseModel):
    """Base class of all configuration models: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def short_for(key: str) -> BeforeValidator:
    """Return a validator that reads a string as a mapping with this key: `quantile` as `{kind: quantile}`."""
    return BeforeValidator(lambda raw: {key: raw} if isinstance(raw, str) else raw)


# an error shows at most this many characters of a bad value
_MAX_SHOWN = 100
ConfigT = TypeVar("ConfigT", bound=Config)


def load_config(
    path: str | Path, model: type[ConfigT], overrides: Sequence[str] = (), section: str | None = None
) -> ConfigT:
    """Read a YAML file, or one of its sections, into `model`.

    Args:
        path: the YAML file.
        model: the configuration class.
        overrides: `dotted.key=value` strings, applied in order; the value is read as YAML.
        section: the section to read if the file has sections, that is, if every top-level value is a mapping.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or a key is unknown, missing or has a bad value.
    """
    raw = read_yaml(path)
    where = str(path)
    if section and _has_sections(raw):
        if section not in raw:
            raise ConfigError(f"{path}: has no section '{section}'; add it, or choose from {list(raw)}")
        raw, where = raw[section], f"{path}, {section}"
    for override in overrides:
        _override(raw, override)
    return build_config(raw, model, where)


def with_values(config: ConfigT, values: Mapping[str, Any], where: str) -> ConfigT:
    """Return a configuration with other values, by dotted key.

    Raises:
        ConfigError: as `build_config` raises it.
    """
    raw = config.model_dump(mode="json")
    for key, value in values.items():
        _set(raw, key, value, f"{where}, {key}")
    return build_config(raw, type(config), where)


def section_names(path: str | Path) -> set[str]:
    """Return the names of a YAML file's sections; empty if it has no sections.

    Raises:
        ConfigError: the file cannot be read or is not YAML.
    """
    raw = read_yaml(path)
    return set(raw) if _has_sections(raw) else set()


def _has_sections(raw: dict[str, Any]) -> bool:
    return bool(raw) and all(isinstance(value, dict) for value in raw.values())


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or its top level is not a mapping.
    """
    raw = parse_yaml(read_text(Path(path)), str(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: must be a mapping, not {type(raw).__name__}; write key: value lines")
    return raw


def build_config(raw: dict[str, Any], model: type[ConfigT], where: str) -> ConfigT:
    """Validate `raw` as a `model`; error messages start with `where`.

    Raises:
        ConfigError: a key is unknown, missing or has a bad value; the message lists all mistakes.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        mistakes = [f"{_path(raw, mistake['loc'])}: {_describe(mistake)}" for mistake in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(mistakes)) from error


# messages in place of pydantic's, by the type of the mistake
_MESSAGES = {
    "extra_forbidden": "unknown key; remove it or check its spelling",
    "missing": "missing; set it",
    "union_tag_not_found": "lacks {discriminator}, which says what the other keys belong to; set it",
}


def _describe(mistake: Any) -> str:
    if mistake["type"] in _MESSAGES:
        return _MESSAGES[mistake["type"]].format(**mistake.get("ctx", {}))
    message: str = mistake["msg"].removeprefix("Value error, ")
    given = mistake.get("input")
    if mistake["type"] == "string_type" and isinstance(given, bool | int | float | date):
        # such as the symbols ON, NO and 0700
        return f"must be text, but YAML reads it as {given}; put it in quotes"
    if mistake["type"] == "tuple_type" and isinstance(given, str):
        return f"must be a list; write [{given}]"
    if not isinstance(given, str | int | float | bool | None):
        return message
    shown = repr(given)
    return f"{message}, got {shown if len(shown) <= _MAX_SHOWN else shown[:_MAX_SHOWN] + '…'}"


def _path(raw: Any, location: tuple[str | int, ...]) -> str:
    """Return a mistake's path as in the file, without the union tags that pydantic adds."""
    parts: list[str] = []
    for position, part in enumerate(location):
        is_last = position == len(location) - 1
        try:
            raw, is_key = raw[part], True
        except (KeyError, IndexError, TypeError):
            is_key = False
        if is_key or is_last:
            parts.append(str(part))
        # show the name of a list item that has a name
        if isinstance(part, int) and isinstance(raw, dict) and isinstance(raw.get("name"), str):
            parts[-1] += f" ({raw['name']})"
    return ".".join(parts) or "(top level)"


def _override(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override}: write dotted.key=value")
    where = f"--set {key}"
    _set(raw, key, parse_yaml(text, where), where)


def _set(raw: dict[str, Any], key: str, value: Any, where: str) -> None:
    *parents, last = key.split(".")
    here: Any = raw
    for parent in parents:
        if isinstance(here, list):
            here = _item(here, parent, where)
        else:
            here = here.setdefault(parent, {})
        if not isinstance(here, dict | list):
            raise ConfigError(f"{where}: '{parent}' is a value, not a mapping; correct the dotted key")
    if isinstance(here, list):
        _item(here, last, where)
        here[int(last)] = value
    else:
        here[last] = value


def _item(items: list[Any], index: str, where: str) -> Any:
    if not (index.isdecimal() and len(index) < 10 and int(index) < len(items)):
        raise ConfigError(f"{where}: '{index}' is not an index of a list of {len(items)} items; count from 0")
    return items[int(index)]
