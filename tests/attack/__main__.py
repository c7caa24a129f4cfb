"""The worst attacks on the bar store, the service and the gate, as a table: `python -m tests.attack`, `make attack`.

Exit status 1 if an attack succeeds. All of them are bounded in time and count, go to loopback alone, and limit the
memory of what they attack. `--checkout` attacks another revision; with `--record` its outcomes become the column
`before`.
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
# commands one beside another; a service is measured, so each is attacked alone
TOGETHER = (*market.ATTACKS, *configuration.ATTACKS)
ALONE = (*bundles.ATTACKS, *traffic.ATTACKS)
_WORKERS = 2


def attack_all(target: Target, chosen: Iterable[str] = ()) -> dict[str, Outcome]:
    """Carry out attacks, all where none is chosen, and return their outcomes by name, in the order of the lines."""
    wanted = set(chosen) or {one.name for one in (*TOGETHER, *ALONE)}
    if any(one.name in wanted for one in ALONE):
        _ = target.store
    found: dict[str, Outcome] = {}
    together = [one for one in TOGETHER if one.name in wanted]
    with ThreadPoolExecutor(_WORKERS) as pool:
        for one, outcome in zip(together, pool.map(lambda one: _carry_out(one, target), together), strict=True):
            found[one.name] = outcome
    for one in ALONE:
        if one.name in wanted:
            found[one.name] = _carry_out(one, target)
    lines = {one.name: one.line for one in (*TOGETHER, *ALONE)}
    return dict(sorted(found.items(), key=lambda item: lines[item[0]]))


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


def table(outcomes: dict[str, Outcome], before: dict[str, Outcome]) -> str:
    """Return the outcomes beside those before, as text: line, attack, before, now."""
    lines = {one.name: one.line for one in (*TOGETHER, *ALONE)}
    rows = [("", "attack", f"before ({REFERENCE})", "now")]
    rows += [
        (lines[name], name, _cell(before[name]) if name in before else "not measured", _cell(outcome))
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
    """Attack, print the table and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--checkout", type=Path, default=ROOT, help="the revision under attack")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="attacks by name")
    parser.add_argument("--record", action="store_true", help="keep what is seen as the column before")
    arguments = parser.parse_args()
    before = read_before()
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        outcomes = attack_all(Target(arguments.checkout, Path(folder)), arguments.only)
    if arguments.record:
        before |= outcomes
        text = json.dumps({name: asdict(one) for name, one in before.items()}, indent=1, ensure_ascii=False)
        BEFORE.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(table(outcomes, before) + "\n")
    succeeded = [name for name, outcome in outcomes.items() if not outcome.held]
    sys.stdout.write(f"{len(outcomes) - len(succeeded)} of {len(outcomes)} attacks held\n")
    return 1 if succeeded else 0


def read_before() -> dict[str, Outcome]:
    """Return what was seen when the reference was attacked."""
    if not BEFORE.exists():
        return {}
    return {name: Outcome(**one) for name, one in json.loads(BEFORE.read_text(encoding="utf-8")).items()}


if __name__ == "__main__":
    sys.exit(main())
