"""A stricter YAML parser for configurations: unique keys, 64-bit integers and bounded size.

YAML itself allows duplicate keys, and a short text of aliases can expand beyond any memory.
"""

from pathlib import Path
from typing import Any

import yaml

from forecaster.domain.errors import ConfigError

MAX_BYTES = 2**20
_MAX_VALUES = 100_000
_MAX_DEPTH = 50
_MAX_MERGED = 20
_INTEGER_LIMIT = 2**63


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        ConfigError: the file is missing, not a plain file, larger than `MAX_BYTES`, or not UTF-8.
    """
    try:
        # reading a FIFO would block, and a device never ends
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: is not a plain file; give the path of a YAML file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path}: is larger than {MAX_BYTES // 2**20} MiB; keep data out of the configuration")
        return content.decode("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give the path of a YAML file") from error


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML; error messages start with `where`.

    Raises:
        ConfigError: the text is not YAML, has a duplicate key, an invalid value, or too many values.
    """
    try:
        # the loader derives from PyYAML's safe loader
        content = yaml.load(text, _Loader)  # noqa: S506
    except _Refusal as error:
        raise ConfigError(f"{where}: {_one_line(error)}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML: {_one_line(error)}") from error
    _check_size(content, where)
    return content


class _Refusal(yaml.MarkedYAMLError):
    """Valid YAML that is not allowed in a configuration."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with stricter rules; every error is a `YAMLError` with line and column."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._n_values = self._level = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._n_values += 1
        self._level += 1
        if self._n_values > _MAX_VALUES:
            raise self._refusal(f"more than {_MAX_VALUES} values")
        if self._level > _MAX_DEPTH:
            raise self._refusal(f"nested more than {_MAX_DEPTH} levels deep")
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise self._refusal(f"duplicate key '{key.value}'; remove one", key)
            seen.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge the mappings of `<<`, whose size can grow with each level of merging."""
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge" and len(value.value) > _MAX_MERGED:
                raise self._refusal(f"<< merges more than {_MAX_MERGED} mappings", key)
        super().flatten_mapping(node)
        if len(node.value) > _MAX_VALUES:
            raise self._refusal(f"<< merges more than {_MAX_VALUES} keys", node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        # such as 2026-02-30, !!int x, and an integer of 5,000 digits
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._refusal(f"'{str(node.value)[:40]}' cannot be read ({str(error)[:80]})", node) from error
        if isinstance(value, int) and abs(value) >= _INTEGER_LIMIT:
            raise self._refusal(f"'{str(node.value)[:40]}' is beyond 64 bits", node)
        return value

    def _refusal(self, problem: str, node: yaml.Node | None = None) -> _Refusal:
        return _Refusal(problem=problem, problem_mark=node.start_mark if node else self.get_mark())


def _one_line(error: yaml.YAMLError) -> str:
    """Return the problem with its line and column, without the source lines that PyYAML quotes."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    context = f"{error.context}: " if error.context else ""
    return f"{context}{error.problem} (line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1})"


def _check_size(content: Any, where: str) -> None:
    """Raise ConfigError if aliases expand to too many values; PyYAML shares the object, but validation copies it."""
    budget, pending = _MAX_VALUES, [content]
    while pending:
        value = pending.pop()
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        budget -= 1 + len(items)
        if budget < 0:
            raise ConfigError(f"{where}: its aliases (*name) expand to more than {_MAX_VALUES} values; use fewer")
        pending.extend(item for item in items if isinstance(item, dict | list))
