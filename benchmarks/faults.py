"""Faults that must not pass in silence: what is tried, noticed, mended and lost.

    python benchmarks/faults.py bits --tries 300 --seed 0
    python benchmarks/faults.py adapters --executor ray
    python benchmarks/faults.py kills --tries 40

bits: flip one bit of a file of a run directory, of each file equally often. `harness verify` has to name the
file, readers have to refuse the run, and the command that made it has to mend it: then nothing is wrong, and
all accuracy figures are the old ones. Timings that were made again differ.

adapters: run adapters that misbehave (tests/thirdparty/misbehaving.py) between two that behave. The faults
have to fail their own trial with a reason, or do no harm, and the figures of the others are the usual ones.

kills: kill processes of a run on a cluster in mid-prediction (fault_kills.py).

Exit code 1 if a fault passed in silence, was not mended, or ended a command in another way than documented.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "thirdparty"))  # fake adapters
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))

from rich.console import Console

from harness.driver.progress import RunProgress
from harness.driver.run import run
from harness.driver.settings import RunSettings
from harness.driver.verify import verify
from harness.errors import HarnessError, InfrastructureError
from harness.executors.inline import InlineExecutor
from harness.rundir.digests import SUMS
from harness.rundir.results import Results
from harness.rundir.store import read_run
from harness.suite.loading import load_suite

SUITE = {
    "name": "faults",
    "datasets": {
        "words": {"dataset": "phrases", "options": {"size": 12, "max_tokens": 12}},
        "shapes": {"dataset": "scenes", "options": {"size": 6}},
    },
    "adapters": {
        "copy": {"adapter": "fake-translation", "batch_size": 4},
        "shorter": {"adapter": "fake-translation", "batch_size": 4, "options": {"drop": 2}},
        "guess": {"adapter": "fake-detection", "batch_size": 2},
    },
    "benchmarks": {
        "translation": {
            "dataset": "words",
            "adapters": ["copy", "shorter"],
            "metrics": ["bleu", "chrf"],
        },
        "timed": {"dataset": "words", "adapters": ["copy"], "metrics": ["bleu"], "speed": ["offline"]},
        "detection": {"dataset": "shapes", "task": "detection", "adapters": ["guess"], "metrics": ["coco"]},
    },
    "speed": {"samples": 4, "threads": 1},
}
DERIVED = {"report", "run.lock"}
HARMLESS = {"tried", "noticed", "mended", "missed", "did no harm"}  # outcomes; all others are defects


def main() -> int:
    """Apply the faults that the command line names, and print a line per fault that was not handled."""
    from fault_kills import VICTIMS, kill_in_mid_prediction  # imports Ray, which takes seconds

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kind", choices=("bits", "adapters", "kills"))
    parser.add_argument("--tries", type=int, help="bits: 300; kills: 40; adapters: all of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--together", type=int, help="faults per run; bits: 1, adapters: 8")
    parser.add_argument("--executor", choices=("inline", "ray"), default="inline", help="for adapters")
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=VICTIMS, help="for kills")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, seed = Path(temporary), options.seed
        if options.kind == "bits":
            outcomes = flip_bits(folder, options.tries or 300, seed, options.together or 1)
        elif options.kind == "adapters":
            from fault_adapters import misbehave

            outcomes = misbehave(folder, options.tries, seed, options.together or 8, options.executor)
        else:
            outcomes = kill_in_mid_prediction(folder, options.tries or 40, seed, options.victims)
    print(", ".join(f"{name} {count}" for name, count in outcomes.items()))
    return int(any(count for name, count in outcomes.items() if name not in HARMLESS))


def flip_bits(folder: Path, tries: int, seed: int, together: int = 1) -> Counter[str]:
    """Flip one bit of a file per try in a copy of a small run, and count how it ended.

    Args:
        together: Number of files that are damaged one after another before the run mends them all.

    Returns:
        Outcome → tries: tried, noticed, mended; silent, not mended, crashed, figures changed.
    """
    sound, suite = folder / "sound", folder / "faults.yaml"
    suite.write_text(yaml.safe_dump(SUITE))
    before = figures(run_inline(suite, sound))
    if not verify(sound).ok:
        raise SystemExit(f"the sound run is not: {verify(sound)}")
    files = sorted(file for file in stored_files(sound) if (sound / file).stat().st_size)
    generator = random.Random(seed)
    generator.shuffle(files)
    outcomes: Counter[str] = Counter(dict.fromkeys(("tried", "noticed", "mended", "silent"), 0))
    for first in range(0, tries, together):
        damaged = Path(shutil.copytree(sound, folder / "damaged"))
        batch = [files[number % len(files)] for number in range(first, min(first + together, tries))]
        if "run.json" in batch and len(batch) > 1:  # a directory that lost both is not known to be a run
            batch = [file for file in batch if file != "suite.yaml"]
        endings = []
        for file in batch:
            bit = generator.randrange(8 * (damaged / file).stat().st_size)
            flip(damaged / file, bit)
            endings.append((f"{file}, bit {bit}", noticed(damaged, file)))
        endings += [(f"after {', '.join(batch)}", mended(suite, damaged, before))] * len(batch)
        for what, outcome in endings:
            outcomes[outcome.partition(":")[0]] += 1
            if outcome not in ("noticed", "mended"):
                print(f"{what}: {outcome}", flush=True)
        outcomes["tried"] += len(batch)
        shutil.rmtree(damaged)
    return outcomes


def flip(file: Path, bit: int) -> None:
    """Flip one bit of a file."""
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def noticed(damaged: Path, file: str) -> str:
    """Return whether `harness verify` names the damaged file, and whether readers refuse the run."""
    try:
        findings = verify(damaged).damaged
    except Exception as error:
        return f"crashed: verify: {error!r:.200}"
    named = any(line.startswith(f"{file} ") for line in findings)
    with contextlib.suppress(InfrastructureError):
        read_run(damaged)
        named = False
    return "noticed" if named or (Path(file).name == SUMS and findings) else "silent"


def mended(suite: Path, damaged: Path, before: object) -> str:
    """Return whether the command that made the run makes what was damaged again."""
    try:
        after = run_inline(suite, damaged)
        verification = verify(damaged)
    except HarnessError as error:
        return f"not mended: {error}"
    except Exception as error:
        return f"crashed: run: {error!r:.200}"
    if figures(after) != before:
        return f"figures changed: {figures(after)}"
    return "mended" if verification.ok else f"not mended: {verification}"


def run_inline(suite: Path, out: Path) -> Results:
    """Run a suite as `harness run --executor inline` does."""
    progress = RunProgress(Console(file=io.StringIO()))
    return run(load_suite(suite), RunSettings(out, "harness run"), InlineExecutor, progress)


def figures(results: Results) -> object:
    """Return the status, the accuracy figures and the timed scenarios of each trial."""
    return {
        trial.id: (
            trial.status,
            {name: repr(figure) for name, figure in trial.metrics.items()},
            [*trial.speed],
        )
        for trial in results.trials
    }


def stored_files(path: Path) -> Iterator[str]:
    """Yield the files of a run directory that are not derived from others at every run."""
    for file in path.rglob("*"):
        name = file.relative_to(path)
        if file.is_file() and name.parts[0] not in DERIVED:
            yield name.as_posix()


if __name__ == "__main__":
    sys.exit(main())
