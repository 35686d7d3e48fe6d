"""What a soak counts, and what is read from the counts."""

import json
import random
import statistics
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from tests.faults.invariant import Invariant


@dataclass
class Tally:
    answers: Counter[str] = field(default_factory=Counter)
    accepted: dict[int, str] = field(default_factory=dict)
    """Id of each job by its number."""
    ends: Counter[str] = field(default_factory=Counter)
    """How often each job was heard to end."""
    starts: dict[str, list[float]] = field(default_factory=dict)
    recoveries: dict[str, list[float]] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    ended_unasked: list[str] = field(default_factory=list)
    """Processes that died without having been killed."""
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
    """Of the process that lived longest, once it had warmed up."""
    samples = max(filter(None, processes.values()), key=lambda samples: samples[-1][0])
    warm = [size for age, size in samples if age > 20] or [size for _, size in samples]
    return f"{warm[0] / 1e6:.1f} MB -> {warm[-1] / 1e6:.1f} MB over {samples[-1][0]:.0f} s"


def broken(tally: Tally, invariant: Invariant) -> list[str]:
    found = list(invariant.violations(tally.accepted.values()))
    if tally.answers["another job for the same key"]:
        found.append("one key got two jobs")
    found += [f"{name} ended without having been killed" for name in tally.ended_unasked]
    found += [f"{job_id} was heard to end {count} times" for job_id, count in tally.ends.items() if count > 1]
    return found


#: Minutes in which fewer jobs started are the beginning, the end, or spent on getting up again.
LEAST_STARTS = 200
FAIR = 0.1


def _minutes(tally: Tally, invariant: Invariant) -> dict[int, Counter[str]]:
    """Starts by owner, of jobs that all take the same turn: normal priority, and the backend that everybody wants."""
    minutes: dict[int, Counter[str]] = {}
    jobs = invariant.jobs()
    for job_id, times in tally.starts.items():
        job = jobs.get(job_id)
        if job is not None and job.backend == "null" and job.request.priority == "normal":
            for moment in times:
                minutes.setdefault(int(moment / 60), Counter())[job.owner] += 1
    return {minute: owners for minute, owners in sorted(minutes.items()) if owners.total() >= LEAST_STARTS}


def shares(tally: Tally, invariant: Invariant) -> str:
    minutes = _minutes(tally, invariant).values()
    return ", ".join(f"{owners[min(owners)] / owners.total():.3f}" for owners in minutes)


def unfair(tally: Tally, invariant: Invariant) -> list[str]:
    found = []
    # While the last jobs are accepted, one owner may have none left.
    for minute, owners in list(_minutes(tally, invariant).items())[1:-1]:
        counts = sorted(owners.values())
        if len(counts) < 2 or counts[-1] > (1 + FAIR) * counts[0]:
            found.append(f"the owners did not share minute {minute}: {dict(owners)}")
    return found


def table(rows: Collection[tuple[str, str]]) -> str:
    return "\n".join(["| measured | result |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
