"""Measures a CUDA device: `python -m bench.gpu [--quick] [--seconds N] [NAME ...]`, or `make gpu`.

Runs the tests marked `gpu`, then the measures. Needs no network: models have random weights of the real sizes, made on
the device. Prints each figure beside its goal, writes all as JSON, and exits with 1 if a test fails. Without a CUDA
device it says so and exits with 0. `--tiny` runs the same code with tiny models on the CPU.
"""

import argparse
import importlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from bench import report
from bench.figures import Figure
from bench.gpu.device_tests import FAILED
from bench.gpu.machine import Machine
from bench.gpu.surviving import run_limited, until_failure

#: In the order in which time is spent on them. Each is imported when it begins, because the machine may lack what one
#: of them needs.
MEASURES = {"tests": "device_tests", "service": "whole_service", "denoisers": "denoisers"}
RESULTS = Path("bench/gpu-results.json")
#: Nothing starts after this; with the grace, `make gpu` takes six minutes at most.
SECONDS = 310
#: For a measure to end by itself once time is up.
GRACE_SECONDS = 45
#: If a test fails: that is a defect on each card, and goals are for one kind of it.
FAILED_EXIT = 1


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if not (options.tiny or torch.cuda.is_available()):
        print("There is no CUDA device here: nothing to measure.")
        return 0
    names = options.names or list(MEASURES)
    # A kernel that fails takes its process's device away, and a hung one never returns.
    measure = _measure_here if options.tiny or len(names) == 1 else _measure_apart
    begin = time.monotonic()
    code = measure(names, options)
    result = json.loads(options.json.read_text("utf-8"))
    missed = [figure["name"] for figure in result["figures"] if not figure["met"]]
    print(
        *(f"not measured: {what}" for what in result["not_measured"]), *(f"missed: {name}" for name in missed), sep="\n"
    )
    print(f"{len(result['figures'])} figures in {time.monotonic() - begin:.0f} s, in {options.json}", flush=True)
    return code


def _measure_here(names: Sequence[str], options: argparse.Namespace) -> int:
    # What the worker's modules decide is part of the record.
    logging.basicConfig(format="%(name)s: %(message)s")
    logging.getLogger("worker").setLevel(logging.INFO)
    ends_at = time.monotonic() + options.seconds
    device = "cpu" if options.tiny else "cuda"
    machine = Machine.of(device, options.quick, ends_at, tuple(options.models), tuple(options.tests))
    print(machine.description, flush=True)
    figures: list[Figure] = []
    skipped: list[str] = []

    def write() -> None:
        report.write_json(options.json, figures, device=machine.facts(), not_measured=skipped)

    for name in names:
        print(f"== {name}, {machine.seconds_left():.0f} s left", flush=True)
        for figure in until_failure(name, _measured(name, machine, skipped.append), skipped.append):
            figures.append(figure)
            print(report.line(figure), flush=True)
            # After each, because a device may be taken away.
            write()
    write()
    return FAILED_EXIT if any(figure.name == FAILED and figure.value for figure in figures) else 0


def _measured(name: str, machine: Machine, skip: Callable[[str], None]) -> Iterator[Figure]:
    module = importlib.import_module(f"bench.gpu.{MEASURES[name]}")
    yield from module.measure(machine, skip)


def _measure_apart(names: Sequence[str], options: argparse.Namespace) -> int:
    """Each in a process of its own, which prints as it goes; their results together."""
    ends_at, code = time.monotonic() + options.seconds, 0
    together: dict[str, object] = {}
    figures: list[object] = []
    skipped: list[str] = []
    flags = ["--quick"] if options.quick else []
    for flag, values in (("--models", options.models), ("--tests", options.tests)):
        flags += [flag, *values] if values else []
    for name in names:
        left, file = ends_at - time.monotonic(), options.json.with_suffix(f".{name}.json")
        file.unlink(missing_ok=True)
        own = [f"--seconds={left:.0f}", f"--json={file}", *flags, "--", name]
        ended = run_limited([sys.executable, "-u", "-m", "bench.gpu", *own], left + GRACE_SECONDS)
        if ended not in (0, FAILED_EXIT):
            skipped.append(
                f"the rest of {name}: its process {'was stopped' if ended is None else f'ended with {ended}'}"
            )
        if file.exists():
            together = json.loads(file.read_text("utf-8"))
            figures += together.pop("figures")  # type: ignore[arg-type]
            skipped += together.pop("not_measured")  # type: ignore[arg-type]
            file.unlink()
        code = max(code, FAILED_EXIT if ended == FAILED_EXIT else 0)
        content = {**together, "not_measured": skipped, "figures": figures}
        options.json.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    return code


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
