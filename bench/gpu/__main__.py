"""Measures a CUDA device: `python -m bench.gpu [--quick] [--seconds N] [NAME ...]`, or `make gpu`.

Runs the tests marked `gpu`, then the measures. Needs no network: models have random weights of the real sizes, made on
the device. Prints each figure beside its goal, writes all as JSON, and exits with 1 if a test fails. Without a CUDA
device it says so and exits with 0. `--tiny` runs the same code with tiny models on the CPU.
"""

import argparse
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from bench import report
from bench.figures import Figure
from bench.gpu import denoisers, device_tests, whole_service
from bench.gpu.machine import Machine

MEASURES = {"tests": device_tests, "denoisers": denoisers, "service": whole_service}
RESULTS = Path("bench/gpu-results.json")
#: What `make gpu` may take.
SECONDS = 345


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if not (options.tiny or torch.cuda.is_available()):
        print("There is no CUDA device here: nothing to measure.")
        return 0
    # What the worker's modules decide is part of the record.
    logging.basicConfig(format="%(name)s: %(message)s")
    logging.getLogger("worker").setLevel(logging.INFO)
    ends_at = time.monotonic() + options.seconds
    machine = Machine.of(
        "cpu" if options.tiny else "cuda", options.quick, ends_at, tuple(options.models), tuple(options.tests)
    )
    print(machine.description, flush=True)
    figures: list[Figure] = []
    skipped: list[str] = []
    for name in options.names or MEASURES:
        for figure in _measured(name, machine, skipped):
            figures.append(figure)
            print(report.line(figure), flush=True)
            # After each, because a device may be taken away.
            report.write_json(options.json, figures, device=machine.facts(), not_measured=skipped)
    report.write_json(options.json, figures, device=machine.facts(), not_measured=skipped)
    missed = [figure.name for figure in figures if not figure.met]
    print(*(f"not measured: {what}" for what in skipped), *(f"missed: {name}" for name in missed), sep="\n")
    print(f"{len(figures)} figures in {options.seconds - machine.seconds_left():.0f} s, in {options.json}")
    # Goals are for one kind of card; a test that fails is a defect on each.
    return int(any(figure.name == device_tests.FAILED and figure.value for figure in figures))


def _measured(name: str, machine: Machine, skipped: list[str]) -> Iterator[Figure]:
    """What a measure yields until it fails: the others run anyway."""
    try:
        yield from MEASURES[name].measure(machine, skipped.append)
    except Exception as error:
        print(f"{name} failed: {error!r}"[:2000], file=sys.stderr, flush=True)
        skipped.append(f"the rest of {name}: {type(error).__name__}: {str(error)[:200]}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="Measure a CUDA device.")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *MEASURES], help=", ".join(MEASURES))
    parser.add_argument("--quick", action="store_true", help="without what has to be compiled for minutes")
    parser.add_argument("--models", nargs="+", default=(), metavar="MODEL", help="only these, such as SDXL")
    parser.add_argument("--tests", nargs="+", default=(), metavar="PART", help="only tests with this in their name")
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU, to try the bench itself")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"start nothing after this (default: {SECONDS})")
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"file for the results (default: {RESULTS})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
