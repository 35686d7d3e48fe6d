"""Measures the performance promises: `python -m bench [--full] [NAME ...]`.

Uses real processes on loopback; ratios compare two things in alternating rounds. Prints each figure beside its goal,
writes all as JSON, and exits with 1 if one misses its goal.
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

#: Modules with `measure(scale)` and their folders, in the order of the table. Imported only when they run: torch in
#: this process would disturb the measures before it.
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
    "polls": "api",
    "studio": "api",
    "crowd": "api",
    "switching": "worker",
    "engine": "worker",
    "growth": "worker",
}
RESULTS = Path("bench/results.json")
#: No progress bars and warnings of model libraries between the figures, also from child processes.
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the performance promises.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"measure only these: {', '.join(MEASURES)}")
    parser.add_argument("--full", action="store_true", help="more rounds and jobs, and a queue of 100 000")
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"file for the results (default: {RESULTS})")
    parser.add_argument("--publish", action="store_true", help="also write the table and plots to docs/performance.md")
    options = parser.parse_args()
    if unknown := set(options.names) - MEASURES.keys():
        parser.error(f"no such measure: {', '.join(sorted(unknown))}")
    os.environ.update(QUIET)
    # Ends the started processes, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started_at = time.monotonic()
    figures: list[Figure] = []
    for name in options.names or MEASURES:
        for figure in importlib.import_module(f"bench.{MEASURES[name]}.{name}").measure(
            _scale(options.full, started_at)
        ):
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
        f"{goals - len(missed)} of {goals} goals met in {time.monotonic() - started_at:.0f} s",
        *missed,
        sep="\n  missed: ",
    )
    return 1 if missed else 0


def _scale(full: bool, started_at: float) -> Scale:
    def show(text: str) -> None:
        if sys.stderr.isatty():
            _clear()
            print(f"{time.monotonic() - started_at:5.0f} s  {text}", end="", file=sys.stderr, flush=True)

    if full:
        return Scale(rounds=15, jobs=20_000, seconds=60, thorough=True, show_progress=show)
    return Scale(rounds=5, jobs=1_000, seconds=6, thorough=False, show_progress=show)


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
