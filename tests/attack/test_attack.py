"""The attacks detect planted defects, and programs that hold."""

from pathlib import Path

import pytest

from tests.attack import __main__ as command
from tests.attack.attack import Outcome
from tests.attack.target import Target

SHORT, SEED = "an answer of 13 bars for 15 years", "a negative seed"

FETCH = """
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

file = Path("mlruns/bars/ABC.parquet")
is_new = not file.exists()
file.parent.mkdir(parents=True, exist_ok=True)
count = 1000 if is_new or {keeps} else 13
if is_new or not {keeps}:
    days = np.datetime64("2020-01-01") + np.arange(count)
    pq.write_table(pa.table({{"session": days.astype("M8[ns]"), "close": np.ones(count)}}), file)
sys.stderr.write("error: ABC: the answer lacks 987 stored sessions\\n")
sys.exit(0 if is_new else {status})
"""


def _planted(folder: Path, **pipelines: str) -> Target:
    """Return a checkout whose pipelines are the given programs."""
    workspace = folder / "checkout" / "pipelines"
    workspace.mkdir(parents=True)
    for name, text in pipelines.items():
        (workspace / f"{name}.py").write_text(text)
    return Target(folder / "checkout", folder / "rooms")


@pytest.mark.parametrize(
    ("train", "held", "seen"),
    [
        ("", False, "exit 0, trained and registered"),
        ("raise ValueError('expected non-negative integer')", False, "exit 1, traceback: ValueError: expected"),
        ("import sys; sys.exit('error: data.seed: too small')", False, "exit 1, message: error: data.seed"),
        ("import sys; sys.stderr.write('error: data.seed: too small'); sys.exit(2)", True, "exit 2: error: data.seed"),
        ("x = bytearray(2**31)", False, "exit 1, traceback: MemoryError"),
    ],
)
def test_exit_of_a_bad_configuration_decides_the_outcome(tmp_path: Path, train: str, held: bool, seen: str) -> None:
    outcome = command.attack_all(_planted(tmp_path, train=train), [SEED])[SEED]
    assert outcome.held is held
    assert seen in outcome.seen


@pytest.mark.parametrize(
    ("keeps", "status", "held", "seen"),
    [
        (False, 0, False, "1000 stored bars, 987 of them lost, 13 left"),
        (False, 3, False, "1000 stored bars, 987 of them lost"),
        (True, 0, False, "all 1000 stored bars kept; exit 0"),
        (True, 3, True, "all 1000 stored bars kept; exit 3: error: ABC"),
    ],
)
def test_lost_bars_are_counted(tmp_path: Path, keeps: bool, status: int, held: bool, seen: str) -> None:
    target = _planted(tmp_path, fetch=FETCH.format(keeps=keeps, status=status))
    outcome = command.attack_all(target, [SHORT])[SHORT]
    assert outcome.held is held
    assert seen in outcome.seen


def test_attack_that_cannot_run_has_not_held(tmp_path: Path) -> None:
    target = _planted(tmp_path, fetch="import sys; sys.exit('no such thing')")
    outcome = command.attack_all(target, [SHORT])[SHORT]
    assert not outcome.held
    assert outcome.seen.startswith("not carried out: RuntimeError: pipelines.fetch cannot prepare")


def test_every_attack_is_unique_and_succeeded_before() -> None:
    names = [attack.name for attack in (*command.PARALLEL, *command.SEQUENTIAL)]
    assert len(set(names)) == len(names)
    before = command.read_before()
    assert set(before) == set(names)
    assert not any(outcome.held for outcome in before.values())


def test_table_shows_both_outcomes() -> None:
    text = command.table({SEED: Outcome(True, "exit 2")}, {SEED: Outcome(False, "exit 1, traceback")})
    assert "SUCCEEDED: exit 1, traceback" in text
    assert "held: exit 2" in text
    assert command.REFERENCE in text
