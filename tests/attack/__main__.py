"""Attack the bar store, the service and the training, and print the outcomes: `python -m tests.attack`, `make attack`.

The exit status is 1 if an attack succeeds. All attacks are bounded in time and number, use only loopback, and limit the
memory of the attacked processes. `--checkout` attacks another revision. `--record` stores its outcomes, which the table
shows in the column `before`.
"""

import argparse
import json
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path

from tests.attack import bundles, configuration, market, traffic
from tests.attack.attack import Attack, Outcome
from tests.attack.target import Target
from tests.conftest import ROOT

BEFORE, REFERENCE = Path(__file__).with_name("before.json"), "056135e"
_WIDTHS = (2, 28, 44, 44)
# attacks on commands run in parallel; attacks on a service measure it, so they run one at a time
PARALLEL = (*market.ATTACKS, *configuration.ATTACKS)
SEQUENTIAL = (*bundles.ATTACKS, *traffic.ATTACKS)
_WORKERS = 2


def attack_all(target: Target, names: Iterable[str] = ()) -> dict[str, Outcome]:
    """Run the named attacks, or all of them; return the outcomes by name, ordered by requirement."""
    attacks = {attack.name: attack for attack in (*PARALLEL, *SEQUENTIAL)}
    selected = set(names) or set(attacks)
    parallel = [attack for attack in PARALLEL if attack.name in selected]
    sequential = [attack for attack in SEQUENTIAL if attack.name in selected]
    if sequential:
        # train the model before the first attack
        _ = target.store
    outcomes: dict[str, Outcome] = {}
    with ThreadPoolExecutor(_WORKERS) as pool:
        results = pool.map(lambda attack: _run(attack, target), parallel)
        outcomes |= {attack.name: outcome for attack, outcome in zip(parallel, results, strict=True)}
    outcomes |= {attack.name: _run(attack, target) for attack in sequential}
    return dict(sorted(outcomes.items(), key=lambda item: attacks[item[0]].requirement))


def _run(attack: Attack, target: Target) -> Outcome:
    start = time.monotonic()
    try:
        outcome = attack.run(target)
    # an attack that cannot run must not stop the others
    except Exception as error:
        outcome = Outcome(False, f"not carried out: {type(error).__name__}: {error}"[:300])
    word = "held" if outcome.held else "SUCCEEDED"
    seconds = time.monotonic() - start
    sys.stderr.write(f"{attack.requirement} {attack.name}: {word} in {seconds:.0f} s: {outcome.seen}\n")
    return outcome


def table(outcomes: dict[str, Outcome], before: dict[str, Outcome]) -> str:
    """Return a table of the outcomes: requirement, attack, outcome before, outcome now."""
    requirements = {attack.name: attack.requirement for attack in (*PARALLEL, *SEQUENTIAL)}
    rows = [("", "attack", f"before ({REFERENCE})", "now")]
    rows += [
        (requirements[name], name, _cell(before[name]) if name in before else "not measured", _cell(outcome))
        for name, outcome in outcomes.items()
    ]
    return "\n".join(_wrapped(row) for row in rows)


def _cell(outcome: Outcome) -> str:
    return f"{'held' if outcome.held else 'SUCCEEDED'}: {outcome.seen}"


def _wrapped(row: Sequence[str]) -> str:
    cells = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, _WIDTHS, strict=True)]
    return "\n".join(
        "  ".join(part.ljust(width) for part, width in zip(parts, _WIDTHS, strict=True)).rstrip()
        for parts in zip_longest(*cells, fillvalue="")
    )


def main() -> int:
    """Run the attacks and print the table; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.attack",
        description=__doc__,
        epilog="examples:\n  python -m tests.attack\n  python -m tests.attack --only 'a negative seed'",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkout", metavar="FOLDER", type=Path, default=ROOT, help="checkout to attack")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="attacks to run (default: all)")
    parser.add_argument("--record", action="store_true", help="store the outcomes as the column `before`")
    arguments = parser.parse_args()
    before = read_before()
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        outcomes = attack_all(Target(arguments.checkout, Path(folder)), arguments.only)
    if arguments.record:
        before |= outcomes
        text = json.dumps({name: asdict(outcome) for name, outcome in before.items()}, indent=1, ensure_ascii=False)
        BEFORE.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(table(outcomes, before) + "\n")
    succeeded = [name for name, outcome in outcomes.items() if not outcome.held]
    sys.stdout.write(f"{len(outcomes) - len(succeeded)} of {len(outcomes)} attacks held\n")
    return 1 if succeeded else 0


def read_before() -> dict[str, Outcome]:
    """Return the recorded outcomes of the reference revision."""
    if not BEFORE.exists():
        return {}
    return {name: Outcome(**fields) for name, fields in json.loads(BEFORE.read_text(encoding="utf-8")).items()}


if __name__ == "__main__":
    sys.exit(main())
