"""Figures with their goals, and the comparison of two things in alternating rounds."""

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

#: With fewer rounds, one hiccup of the machine can move the median.
MIN_ROUNDS = 5


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
    """A measured value; without a unit it is a ratio."""

    name: str
    value: float
    unit: str = ""
    goal: Goal | None = None
    rounds: tuple[float, ...] = ()
    """The value of each round; `value` is their median."""
    noise: float | None = None
    """By what fraction the same thing differs from itself in the next round."""
    detail: str = ""

    @property
    def met(self) -> bool:
        return self.goal is None or self.goal.holds(self.value)


@dataclass(frozen=True)
class Scale:
    """How much is measured, and where progress is shown."""

    rounds: int
    jobs: int
    """For measures that repeat something many times: growth, memory per job."""
    seconds: float
    """For measures that observe something for some time: rest, crowds."""
    thorough: bool
    """Whether measures without a goal, which show limits, are included."""
    show_progress: Callable[[str], None]


@dataclass(frozen=True)
class Comparison:
    """Two things in alternating order, ABAB: a round is one of each."""

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
        """The larger of both medians of |one / the next - 1|: the uncertainty of a ratio of this run."""
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
    """Each call measures once and returns seconds, or jobs per second. `times` multiplies the rounds."""
    all_ours, all_theirs, count = list[float](), list[float](), max(MIN_ROUNDS, scale.rounds) * times
    for number in range(1, count + 1):
        scale.show_progress(f"{what}: round {number} of {count}")
        all_ours.append(ours())
        all_theirs.append(theirs())
    return Comparison(tuple(all_ours), tuple(all_theirs))


def seconds_of(work: Callable[[], object], times: int = 1) -> float:
    """The mean of consecutive runs."""
    started_at = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - started_at) / times


def percentile(values: list[float], percent: float) -> float:
    """By nearest rank, so that it is a measured value."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
