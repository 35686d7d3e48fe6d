"""What a measurement results in, and how two things are measured against each other."""

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

#: Fewer rounds give a median that one hiccup of the machine can move.
LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Goal:
    limit: float
    at_least: bool = False

    def holds(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"


@dataclass(frozen=True)
class Figure:
    """One measured value; without a unit it is a ratio."""

    name: str
    value: float
    unit: str = ""
    goal: Goal | None = None
    rounds: tuple[float, ...] = ()
    """The value of each round; `value` is their median."""
    noise: float | None = None
    """By how much the same thing, measured against itself in the same rounds, was off: a fraction."""
    detail: str = ""

    @property
    def met(self) -> bool:
        return self.goal is None or self.goal.holds(self.value)


@dataclass(frozen=True)
class Scale:
    """How much is measured, and who hears how far it is."""

    rounds: int
    jobs: int
    """For what has to be done many times: growth, memory of a job."""
    seconds: float
    """For what has to be watched for a while: rest, crowds."""
    thorough: bool
    """Whether what only shows where the limits are is measured too."""
    say: Callable[[str], None]


@dataclass(frozen=True)
class Comparison:
    """Two things in turns, ABAB: a round is one of each."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        return tuple(a / b for a, b in zip(self.ours, self.theirs, strict=True))

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def noise(self) -> float:
        """The larger of both medians of |one / the next - 1|: what a ratio of this run may be off by."""
        return max(
            statistics.median(abs(a / b - 1) for a, b in itertools.pairwise(values))
            for values in (self.ours, self.theirs)
        )

    @property
    def our_median(self) -> float:
        return statistics.median(self.ours)

    @property
    def their_median(self) -> float:
        return statistics.median(self.theirs)

    def figure(self, name: str, goal: Goal | None, detail: str) -> Figure:
        return Figure(name, self.ratio, goal=goal, rounds=self.ratios, noise=self.noise, detail=detail)


def compare(
    ours: Callable[[], float], theirs: Callable[[], float], scale: Scale, what: str, times: int = 1
) -> Comparison:
    """Each call measures once and returns what it measured: seconds, or jobs per second. `times` as many rounds."""
    all_ours, all_theirs, count = list[float](), list[float](), max(LEAST_ROUNDS, scale.rounds) * times
    for number in range(1, count + 1):
        scale.say(f"{what}: round {number} of {count}")
        all_ours.append(ours())
        all_theirs.append(theirs())
    return Comparison(tuple(all_ours), tuple(all_theirs))


def seconds_of(work: Callable[[], object], times: int = 1) -> float:
    """The mean of some runs in a row."""
    begin = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - begin) / times


def percentile(values: list[float], percent: float) -> float:
    """By nearest rank: a value that was measured."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
