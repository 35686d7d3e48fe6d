"""How many CPUs this process may use, and how OpenMP's threads share them with other programs."""

import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

#: How many loop turns idle OpenMP threads spin. While another program has the CPU of one thread, all others wait for
#: that thread at every parallel region, and spinning takes the time that the program should have used.
#: Measured on two cores of Intel: a whole image of the starter model takes, alone and beside two busy programs, 0.84
#: and 1.29 s with 100 spins, 0.78 and 1.71 with 1000, 0.73 and 2.5 with 3000, 0.78 and 2.3 to 6.4 with 10000. Half an
#: image at a load of 9 to 15 takes 0.7 to 3 s with 100, 0.9 to 3.7 with 1000, 20 to 22 with 30000.
SPINS = "1000"
#: A turn is a PAUSE, which takes less than half as long there. On two of its cores, an image takes 0.39 to 0.49 s alone
#: and 0.89 to 1.13 s beside two busy programs with 1000 spins, 0.33 to 0.39 and 0.85 with 3000; beside seven, as long.
SPINS_ON_AMD = "3000"


def set_threads(
    environment: MutableMapping[str, str], wanted: str, host_workers: int = 1, root: Path = Path("/")
) -> None:
    """Call before torch is imported. `wanted` is a number or `auto`; variables that the operator set stay."""
    environment.setdefault("GOMP_SPINCOUNT", SPINS_ON_AMD if _is_amd(root) else SPINS)
    if wanted != "auto":
        environment.setdefault("OMP_NUM_THREADS", wanted)
    elif (cpus := max(1, usable_cpus() // host_workers)) < affine_cpus():
        # Otherwise OpenMP arrives at the same number.
        environment.setdefault("OMP_NUM_THREADS", str(cpus))


def usable_cpus(root: Path = Path("/")) -> int:
    """Count the CPUs that it may run on, up to its containers' quotas: more threads would only be throttled."""
    return max(1, min(affine_cpus(), *(int(quota) for quota in _quotas(root))))


def encoding_threads(wanted: str, cpus: int, host_workers: int = 1) -> int:
    """How many threads may encode one image. `wanted` is SD_CPU_THREADS."""
    cpus = max(1, cpus // host_workers)
    return cpus if wanted == "auto" else min(cpus, int(wanted))


def affine_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_amd(root: Path) -> bool:
    try:
        return "AuthenticAMD" in (root / "proc/cpuinfo").read_text()
    except OSError:
        return False


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas, in CPUs, of its control group and all parent groups; cgroups v1 and v2."""
    yield float(affine_cpus())
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in groups:
        names = controllers.split(",")
        if controllers == "":
            mount, quotas = root / "sys/fs/cgroup", _quota_v2
        elif "cpu" in names:
            mount, quotas = root / "sys/fs/cgroup" / controllers, _quota_v1
        else:
            continue
        group = Path(path.lstrip("/"))
        # A container often sees its own group as the root; the host's path does not exist below it.
        for folder in (mount / group, *(mount / parent for parent in group.parents)):
            try:
                yield from quotas(folder)
            except (OSError, ValueError):
                continue


def _quota_v2(folder: Path) -> Iterator[float]:
    quota, period = (folder / "cpu.max").read_text().split()
    if quota != "max":
        yield int(quota) / int(period)


def _quota_v1(folder: Path) -> Iterator[float]:
    quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    if quota > 0:
        yield quota / period
