"""Columns that are constant within each series: kinds, names, positions, and errors that name the row."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from forecaster.data.long_frame import read_static
from forecaster.domain.errors import ConfigError, SeriesError
from forecaster.domain.static import CATEGORY, StaticColumns, StaticKind
from forecaster.training.config import prepare
from tests.conftest import small_config
from tests.shops import shop_recipe, shops


def frame(**columns: list[Any]) -> pd.DataFrame:
    """Return two series of two rows each, which alternate."""
    return pd.DataFrame({"unique_id": ["b", "a", "b", "a"], **columns}, index=pd.RangeIndex(2, 6, name="line"))


@pytest.mark.parametrize(
    ("column", "kind", "expected"),
    [
        ([1, 2, 1, 2], None, [1.0, 2.0]),
        (["1.5", "-2", "1.5", "-2"], None, [1.5, -2.0]),
        (["x", "y", "x", "y"], None, ["x", "y"]),
        ([1, 2, 1, 2], CATEGORY, ["1", "2"]),
        ([1.0, 2.5, 1.0, 2.5], CATEGORY, ["1", "2.5"]),
        (["01", "02", "01", "02"], CATEGORY, ["01", "02"]),
        ([True, False, True, False], None, ["True", "False"]),
        (pd.Categorical(["x", "y", "x", "y"]), None, ["x", "y"]),
    ],
)
def test_columns_are_numbers_or_categories(column: list[Any], kind: StaticKind | None, expected: list[Any]) -> None:
    assert read_static(frame(size=column), {"size": kind}) == {"size": expected}


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([1.0, 2.0, 1.0, 3.0], r"f\.csv, line 5: size differs within its series; .*found np\.float64\(3\.0\)"),
        (["x", "", "x", ""], r"f\.csv, line 3: size is missing; .*2 such rows"),
        ([1.0, 2.0, None, 2.0], r"f\.csv, line 4: size is missing"),
        ([1.0, float("inf")] * 2, r"f\.csv, line 3: size is not a finite number"),
        (["1", "2x", "1", "2x"], r"f\.csv, line 3: size is not a number; correct it, or set kind: category for size"),
    ],
)
def test_invalid_values_are_named(column: list[Any], message: str) -> None:
    with pytest.raises(SeriesError, match=message):
        read_static(frame(size=column), {"size": None}, "f.csv")


def test_positions_are_those_of_the_names() -> None:
    columns = StaticColumns.learn(["b", "a"], {"kind": ["x", "y"], "size": [3.0, 4.0]}, is_embedded=True)
    assert columns.names == ("size", "unique_id", "kind")
    assert columns.sizes == (3, 3)
    rows = columns.encode_all(["a", "c"], {"kind": ["y", "z"], "size": [5.0, 6.0]})
    assert rows.tolist() == [[5.0, 1.0, 2.0], [6.0, 0.0, 0.0]]
    assert columns.decode(rows[0].tolist()) == {"size": 5.0, "unique_id": "a", "kind": "y"}
    fewer = columns.without([[1], []])
    assert fewer.encode("a", {"kind": "y", "size": 5.0}) == [5.0, 0.0, 2.0]
    assert fewer.encode("b", {"kind": "y", "size": 5.0}) == [5.0, 2.0, 2.0]


def test_each_position_without_a_name_has_a_warning() -> None:
    columns = StaticColumns(series=("a", None, "c"))
    for position, is_known in ((1, True), (3, True), (0, False), (2, False), (4, False), (-1, False)):
        warnings = list(columns.warnings(["s"], np.array([[float(position)]])))
        assert len(warnings) == (not is_known), position


def test_training_data_with_a_value_that_differs_name_file_and_line(tmp_path: Path) -> None:
    config = shop_recipe(tmp_path)
    table = shops()
    table.loc[40, "format"] = "hall"
    table.to_csv(tmp_path / "shops.csv", index=False)
    with pytest.raises(SeriesError, match=r"shops\.csv, line 42: format differs within its series"):
        prepare(config, config.load())


def test_configuration_without_the_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stat_exog: source sine has no columns \['area'\]"):
        small_config(tmp_path, stat_exog=["area"]).load()
    with pytest.raises(ConfigError, match=r"stat_exog: the bar store has no columns \['area'\]"):
        small_config(tmp_path, data={"source": "store", "symbols": ["SPY"]}, stat_exog=["area"]).load()
    with pytest.raises(ConfigError, match=r"stat_exog: .* are listed twice, or are one of unique_id, ds, y"):
        small_config(tmp_path, stat_exog=["unique_id"])
