"""The worst attacks on the bar store, the service and the gate, as a table: `python -m tests.attack`.

Exit status 1 if an attack succeeds. `--checkout` attacks another revision, `--record` keeps what was seen as the
column `before`.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.attack import bundles, configuration, market, traffic
from tests.attack.attack import Attack, Outcome
from tests.attack.target import Target
from tests.conftest import ROOT

BEFORE = Path(__file__).with_name("before.json")
# commands one beside another; a service is measured, so each is attacked alone
TOGETHER = (*market.ATTACKS, *configuration.ATTACKS)
ALONE = (*bundles.ATTACKS, *traffic.ATTACKS)
_WORKERS = 2


def attack_all(target: Target, chosen: Iterable[str] = ()) -> dict[str, Outcome]:
    """Carry out attacks, all where none is chosen, and return their outcomes by name, in the order of the lines."""
    wanted = set(chosen) or {one.name for one in (*TOGETHER, *ALONE)}
    found: dict[str, Outcome] = {}
    together = [one for one in TOGETHER if one.name in wanted]
    with ThreadPoolExecutor(_WORKERS) as pool:
        for one, outcome in zip(together, pool.map(lambda one: _carry_out(one, target), together), strict=True):
            found[one.name] = outcome
    for one in ALONE:
        if one.name in wanted:
            found[one.name] = _carry_out(one, target)
    return found


def _carry_out(attack: Attack, target: Target) -> Outcome:
    begin = time.monotonic()
    try:
        outcome = attack.run(target)
    # an attack that cannot be carried out shows nothing, and the others go on
    except Exception as error:
        outcome = Outcome(False, f"not carried out: {type(error).__name__}: {error}"[:300])
    word = "held" if outcome.held else "SUCCEEDED"
    sys.stderr.write(f"{attack.line} {attack.name}: {word} in {time.monotonic() - begin:.0f} s: {outcome.seen}\n")
    return outcome


def table(outcomes: dict[str, Outcome], before: dict[str, str]) -> str:
    """Return the outcomes beside what was seen before, as text."""
    lines = {one.name: one.line for one in (*TOGETHER, *ALONE)}
    rows = [("", "attack", "before (056135e)", "now")]
    for name, outcome in outcomes.items():
        now = f"{'held' if outcome.held else 'SUCCEEDED'}: {outcome.seen}"
        rows.append((lines[name], name, before.get(name, "not measured"), now))
    return "\n".join(" | ".join(cell.replace("\n", " ") for cell in row) for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--checkout", type=Path, default=ROOT, help="the revision under attack")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="attacks by name")
    parser.add_argument("--record", action="store_true", help="keep what is seen as the column before")
    arguments = parser.parse_args()
    before: dict[str, str] = json.loads(BEFORE.read_text()) if BEFORE.exists() else {}
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        outcomes = attack_all(Target(arguments.checkout, Path(folder)), arguments.only)
    if arguments.record:
        before |= {name: outcome.seen for name, outcome in outcomes.items()}
        BEFORE.write_text(json.dumps(before, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    sys.stdout.write(table(outcomes, before) + "\n")
    succeeded = [name for name, outcome in outcomes.items() if not outcome.held]
    sys.stdout.write(f"{len(outcomes) - len(succeeded)} of {len(outcomes)} attacks held\n")
    return 1 if succeeded else 0


if __name__ == "__main__":
    sys.exit(main())
