"""How many CPUs this process may use, and how the threads of OpenMP share them with other programs."""

import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

#: How long idle OpenMP threads wait by spinning, in turns of a loop. While another program has the CPU of one thread,
#: all others wait for it at every parallel region, and spinning takes the time that the program should have used.
#: A whole image of the starter model on two cores takes, alone and beside two busy programs: with 100 spins 0.84 and
#: 1.29 s, with 1000 0.78 and 1.71, with 3000 0.73 and 2.5, with 10000 0.78 and 2.3 to 6.4. Half an image at a load of 9
#: to 15: with 100 0.7 to 3 s, with 1000 0.9 to 3.7, with 30000 20 to 22.
SPINS = "1000"


def set_threads(environment: MutableMapping[str, str], wanted: str) -> None:
    """Before torch is loaded. `wanted` is a number or `auto`; what the operator set for OpenMP itself stays."""
    environment.setdefault("GOMP_SPINCOUNT", SPINS)
    if wanted != "auto":
        environment.setdefault("OMP_NUM_THREADS", wanted)
    elif (cpus := usable_cpus()) < affine_cpus():
        # Else OpenMP comes to the same number by itself.
        environment.setdefault("OMP_NUM_THREADS", str(cpus))


def usable_cpus(root: Path = Path("/")) -> int:
    """Those that it may run on, but no more than its containers' quotas pay for: more threads would only be held up."""
    return max(1, min(affine_cpus(), *(int(quota) for quota in _quotas(root))))


def affine_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """In CPUs: of its control group and all groups around that, in both versions of Linux's control groups."""
    yield float(affine_cpus())
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in groups:
        names = controllers.split(",")
        if controllers == "":
            mount, read = root / "sys/fs/cgroup", _quota_v2
        elif "cpu" in names:
            mount, read = root / "sys/fs/cgroup" / controllers, _quota_v1
        else:
            continue
        folder = Path(path.lstrip("/"))
        # A container often sees its own group as the root, below which the path of the host is not there.
        for place in (mount / folder, *(mount / parent for parent in folder.parents)):
            try:
                yield from read(place)
            except (OSError, ValueError):
                continue


def _quota_v2(place: Path) -> Iterator[float]:
    quota, period = (place / "cpu.max").read_text().split()
    if quota != "max":
        yield int(quota) / int(period)


def _quota_v1(place: Path) -> Iterator[float]:
    quota, period = (int((place / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    if quota > 0:
        yield quota / period
