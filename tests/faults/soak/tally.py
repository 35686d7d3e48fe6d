"""Counts what happens in a soak, and reports it."""

import json
import random
import statistics
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

from tests.faults.invariant import Invariant


@dataclass
class Tally:
    answers: Counter[str] = field(default_factory=Counter)
    accepted: dict[int, str] = field(default_factory=dict)
    """Id of each job by its number."""
    ends: Counter[str] = field(default_factory=Counter)
    """Number of end events of each job."""
    starts: dict[str, list[float]] = field(default_factory=dict)
    recoveries: dict[str, list[float]] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    unexpected_ends: list[str] = field(default_factory=list)
    """Processes that ended without being killed."""
    memory: dict[str, dict[int, list[tuple[float, int]]]] = field(default_factory=dict)
    """Resident bytes over time, by role and process."""


def report(tally: Tally, invariant: Invariant, bytes_before: int) -> list[tuple[str, str]]:
    jobs = invariant.jobs()
    states = Counter(job.state for job in jobs.values())
    numbers = Counter((job.request.metadata or {}).get("number") for job in jobs.values())
    codes = Counter(job.error.code for job in jobs.values() if job.error)
    ids = set(tally.accepted.values())
    rows = [
        ("jobs in", str(len(tally.accepted))),
        ("jobs out", str(sum(states[state] for state in states if state.is_terminal))),
        ("ends", json.dumps({**states, **codes})),
        ("lost", str(len(ids - jobs.keys()))),
        ("doubled", str(sum(count - 1 for count in numbers.values()))),
        ("ended more than once", str(sum(count > 1 for count in tally.ends.values()))),
        ("run again", str(sum(job.attempt > 1 for job in jobs.values()))),
        ("killed", json.dumps(tally.kills)),
    ]
    for victim, times in sorted(tally.recoveries.items()):
        rows.append(
            (f"recovery from kill of {victim}", f"p50 {statistics.median(times):.1f} s, max {max(times):.1f} s")
        )
    for role, processes in sorted(tally.memory.items()):
        rows.append((f"memory of {role}", growth(processes)))
    used = int(invariant.redis.info("memory")["used_memory"])
    rows.append(("Redis bytes per finished job, all in", f"{(used - bytes_before) / max(1, len(jobs)):.0f}"))
    sample = random.Random(1).sample(sorted(jobs), min(500, len(jobs)))
    sizes = [invariant.redis.memory_usage(f"{invariant.prefix}job:{job_id}") or 0 for job_id in sample]
    rows.append(("of these the record", f"{statistics.mean(sizes):.0f}"))
    return rows


def growth(processes: dict[int, list[tuple[float, int]]]) -> str:
    """Growth of the longest-lived process after its warm-up."""
    samples = max(filter(None, processes.values()), key=lambda samples: samples[-1][0])
    warm = [size for age, size in samples if age > 20] or [size for _, size in samples]
    return f"{warm[0] / 1e6:.1f} MB -> {warm[-1] / 1e6:.1f} MB over {samples[-1][0]:.0f} s"


def broken(tally: Tally, invariant: Invariant) -> list[str]:
    found = list(invariant.violations(tally.accepted.values()))
    if tally.answers["another job for the same key"]:
        found.append("one key got two jobs")
    found += [f"{name} ended without being killed" for name in tally.unexpected_ends]
    found += [f"{job_id} ended {count} times" for job_id, count in tally.ends.items() if count > 1]
    return found


#: With fewer starts in a minute, a difference of one is not significant.
MIN_STARTS = 200
MAX_UNFAIRNESS = 0.1


def _minutes(invariant: Invariant) -> dict[int, Counter[str]]:
    """Starts by minute and owner while another owner's jobs waited, because only then do owners compete.

    Only jobs of the same queue and priority count, and none that ran again: its record has only the last start.
    """
    competing = [job for job in invariant.jobs().values() if job.backend == "null" and job.request.priority == "normal"]
    waits = [(job.created_at, job.started_at, job.owner) for job in competing if job.started_at and job.attempt == 1]
    # +1 when a job starts to wait, -1 when it stops.
    changes = sorted(
        [(created, 1, owner) for created, _, owner in waits] + [(end, -1, owner) for _, end, owner in waits]
    )
    waiting, minutes = Counter[str](), dict[int, Counter[str]]()
    for moment, group in groupby(changes, key=itemgetter(0)):
        started = Counter[str]()
        for _, change, owner in group:
            waiting[owner] += change
            started[owner] += change < 0
        for owner, count in started.items():
            others = waiting.keys() - {owner}
            if not any(waiting[other] for other in others):
                # Jobs of a batch start at the same moment. The others started as many in turn, and then had no more.
                count = min(count, max((started[other] for other in others), default=0))
            minutes.setdefault(int(moment.timestamp() / 60), Counter())[owner] += count
    return {minute: owners for minute, owners in minutes.items() if owners.total() >= MIN_STARTS}


def shares(invariant: Invariant) -> str:
    minutes = _minutes(invariant).values()
    return ", ".join(f"{owners[min(owners)] / owners.total():.3f}" for owners in minutes)


def unfair(invariant: Invariant) -> list[str]:
    found = []
    for minute, owners in _minutes(invariant).items():
        counts = sorted(owners.values())
        if len(counts) < 2 or counts[-1] > (1 + MAX_UNFAIRNESS) * counts[0]:
            found.append(f"the owners did not share minute {minute}: {dict(owners)}")
    return found


def table(rows: Collection[tuple[str, str]]) -> str:
    return "\n".join(["| measured | result |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
