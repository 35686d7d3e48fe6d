"""Measure what is promised: `python -m bench [--full] [NAME ...]`.

Real processes on loopback; each ratio is of two things measured in the same rounds. Prints every figure beside its
goal, writes them as JSON, and exits with 1 when one misses.
"""

import argparse
import importlib
import os
import signal
import sys
import time
from pathlib import Path

from bench import report
from bench.figures import Figure, Scale

#: In the order of the table: modules with `measure(scale)`, and the folder of each. Imported when its turn comes: torch
#: in this process would be in the way of what is measured before.
MEASURES = {
    "rest": "worker",
    "starts": "worker",
    "first_image": "worker",
    "starter": "worker",
    "overhead": "worker",
    "throughput": "worker",
    "accepting": "api",
    "queue": "api",
    "delivery": "api",
    "webhooks": "api",
    "crowd": "api",
    "growth": "worker",
}
RESULTS = Path("bench/results.json")
#: What loads a model, here or in a process started from here, shows no bars and warnings between the figures.
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure what is promised.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these: {', '.join(MEASURES)}")
    parser.add_argument("--full", action="store_true", help="more rounds and 20 000 jobs; takes ten minutes")
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"where the results go (default: {RESULTS})")
    parser.add_argument("--publish", action="store_true", help="write the table and plots to docs/performance.md too")
    options = parser.parse_args()
    if unknown := set(options.names) - MEASURES.keys():
        parser.error(f"no such measure: {', '.join(sorted(unknown))}")
    os.environ.update(QUIET)
    # Ends what was started, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begin = time.monotonic()
    figures: list[Figure] = []
    for name in options.names or MEASURES:
        for figure in importlib.import_module(f"bench.{MEASURES[name]}.{name}").measure(_scale(options.full, begin)):
            figures.append(figure)
            _clear()
            print(report.line(figure), flush=True)
    _clear()
    report.write_json(options.json, figures)
    if options.publish:
        report.publish(figures)
    missed = [figure.name for figure in figures if not figure.met]
    goals = sum(figure.goal is not None for figure in figures)
    print(
        f"{goals - len(missed)} of {goals} goals met in {time.monotonic() - begin:.0f} s", *missed, sep="\n  missed: "
    )
    return 1 if missed else 0


def _scale(full: bool, begin: float) -> Scale:
    def say(what: str) -> None:
        if sys.stderr.isatty():
            _clear()
            print(f"{time.monotonic() - begin:5.0f} s  {what}", end="", file=sys.stderr, flush=True)

    if full:
        return Scale(rounds=15, jobs=20_000, seconds=60, thorough=True, say=say)
    return Scale(rounds=5, jobs=1_000, seconds=6, thorough=False, say=say)


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
