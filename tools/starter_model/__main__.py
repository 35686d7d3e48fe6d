"""The command line: `python -m tools.starter_model --help`."""

import argparse
import sys
from pathlib import Path

from .errors import StarterModelError
from .fetch import fetch

MINUTES = {"autoencoder": 18.0, "text": 5.0, "unet": 90.0, "decoder": 7.0}
"""What each step was given on two CPU cores."""


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.pipeline and options.step != "evaluate":
        parser.error("--pipeline belongs to the step evaluate; the others work in --out")
    try:
        _run(options)
    except StarterModelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tools.starter_model", description="Train the starter model.")
    parser.add_argument(
        "step",
        nargs="?",
        default="all",
        choices=("fetch", "all", *MINUTES, "evaluate"),
        help="all, the default, is every step but fetch, in this order",
    )
    folders = (
        ("--pictograms", Path("build/pictograms"), "the unpacked package (%(default)s)"),
        ("--out", Path("build/starter"), "where the results go (%(default)s)"),
        ("--pipeline", None, "the model to evaluate (the folder pipeline in --out)"),
    )
    for name, default, text in folders:
        parser.add_argument(name, type=Path, metavar="PATH", default=default, help=text)
    time = parser.add_mutually_exclusive_group()
    time.add_argument("--minutes", type=positive, help="training time of all the steps to run together")
    time.add_argument("--scale", type=positive, default=1.0, help="factor on the usual training times")
    return parser


def positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number


def _run(options: argparse.Namespace) -> None:
    if options.step == "fetch":
        fetch(options.pictograms)
        return
    # Only here: torch takes seconds to load, and fetch does without it.
    from .recipe import Recipe

    recipe = Recipe.open(options.pictograms, options.out)
    for step, minutes in _schedule(options).items():
        recipe.train(step, minutes)
    if options.step in ("all", "evaluate"):
        recipe.evaluate(options.pipeline)


def _schedule(options: argparse.Namespace) -> dict[str, float]:
    """Minutes for each training step to run."""
    usual = {step: minutes for step, minutes in MINUTES.items() if options.step in ("all", step)}
    scale = options.minutes / sum(usual.values()) if options.minutes and usual else options.scale
    return {step: minutes * scale for step, minutes in usual.items()}


if __name__ == "__main__":
    sys.exit(main())
