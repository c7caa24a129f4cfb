"""YAML as people write configurations in it: each key once, numbers of 64 bits, and a bounded size, however written.

YAML itself allows a key twice, and a short text of aliases that expands to more than any memory holds.
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
        ConfigError: it is missing, no plain file, larger than a configuration is, or not UTF-8.
    """
    try:
        # a FIFO would keep us waiting, and a device never ends
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: is not a plain file; give the path of a YAML file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path}: is larger than {MAX_BYTES // 2**20} MiB; a configuration names data, no more")
        return content.decode("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give the path of a YAML file") from error


def parse_yaml(text: str, where: str) -> Any:
    """Return what a YAML text holds; `where` names its origin in an error.

    Raises:
        ConfigError: it is not YAML, has a key twice, a value that cannot be read, or too many values.
    """
    try:
        # the loader is PyYAML's safe one, and stricter
        content = yaml.load(text, _Loader)  # noqa: S506
    except _Refusal as error:
        raise ConfigError(f"{where}: {_in_a_line(error)}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML: {_in_a_line(error)}") from error
    _check_size(content, where)
    return content


class _Refusal(yaml.MarkedYAMLError):
    """It is YAML, and no configuration."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, whose every complaint is a `YAMLError` that says where."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._n_values = self._level = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._n_values += 1
        self._level += 1
        if self._n_values > _MAX_VALUES:
            raise self._complaint(f"more than {_MAX_VALUES} values")
        if self._level > _MAX_DEPTH:
            raise self._complaint(f"nested more than {_MAX_DEPTH} levels deep")
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
                raise self._complaint(f"the key '{key.value}' is there twice; remove one", key)
            seen.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge what `<<` names, which grows with each level of merging."""
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge" and len(value.value) > _MAX_MERGED:
                raise self._complaint(f"<< merges more than {_MAX_MERGED} mappings", key)
        super().flatten_mapping(node)
        if len(node.value) > _MAX_VALUES:
            raise self._complaint(f"<< merges more than {_MAX_VALUES} keys", node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        # such as 2026-02-30, !!int x, and an integer of 5,000 digits
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._complaint(f"'{str(node.value)[:40]}' cannot be read ({str(error)[:80]})", node) from error
        if isinstance(value, int) and abs(value) >= _INTEGER_LIMIT:
            raise self._complaint(f"'{str(node.value)[:40]}' is beyond 64 bits", node)
        return value

    def _complaint(self, what: str, node: yaml.Node | None = None) -> _Refusal:
        return _Refusal(problem=what, problem_mark=node.start_mark if node else self.get_mark())


def _in_a_line(error: yaml.YAMLError) -> str:
    """Return what is wrong and where, without the lines that PyYAML quotes."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    context = f"{error.context}: " if error.context else ""
    return f"{context}{error.problem} (line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1})"


def _check_size(content: Any, where: str) -> None:
    """Raise ConfigError where aliases expand to too much: each is one object here, and copied by whoever reads it."""
    left, waiting = _MAX_VALUES, [content]
    while waiting:
        value = waiting.pop()
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        left -= 1 + len(inner)
        if left < 0:
            raise ConfigError(f"{where}: its aliases (*name) expand to more than {_MAX_VALUES} values; write fewer")
        waiting.extend(one for one in inner if isinstance(one, dict | list))
