"""Models compute with one thread per usable CPU."""

from pathlib import Path

import pytest

from worker.process.cpus import affine_cpus, set_threads, usable_cpus


def machine(root: Path, groups: str, **files: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name.replace("__", ".").replace("_SLASH_", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "cpus"),
    [
        ("0::/\n", {"cpu__max": "max 100000\n"}, None),
        ("0::/\n", {"cpu__max": "150000 100000\n"}, 1),
        ("0::/\n", {"cpu__max": "50000 100000\n"}, 1),
        ("0::/a/b\n", {"a_SLASH_b_SLASH_cpu__max": "max 100000\n", "a_SLASH_cpu__max": "100000 100000\n"}, 1),
        ("0::/not/seen/from/here\n", {"cpu__max": "100000 100000\n"}, 1),
        (
            "4:cpu,cpuacct:/x\n1:name=systemd:/x\n",
            {
                "cpu,cpuacct_SLASH_x_SLASH_cpu__cfs_quota_us": "100000\n",
                "cpu,cpuacct_SLASH_x_SLASH_cpu__cfs_period_us": "100000\n",
            },
            1,
        ),
        (
            "4:cpu,cpuacct:/\n",
            {"cpu,cpuacct_SLASH_cpu__cfs_quota_us": "-1\n", "cpu,cpuacct_SLASH_cpu__cfs_period_us": "100000\n"},
            None,
        ),
    ],
    ids=str,
)
def test_a_cgroup_quota_limits_the_cpus(tmp_path: Path, groups: str, files: dict[str, str], cpus: int | None) -> None:
    assert usable_cpus(machine(tmp_path, groups, **files)) == (cpus or affine_cpus())


def test_affinity_decides_if_there_are_no_control_groups(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path) == affine_cpus()


def test_the_setting_is_used_unless_openmp_variables_are_set() -> None:
    chosen: dict[str, str] = {}
    set_threads(chosen, "3")
    assert chosen["OMP_NUM_THREADS"] == "3"

    existing = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "7"}
    set_threads(existing, "3")
    assert existing == {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "7"}


@pytest.mark.parametrize(("vendor", "spins"), [("GenuineIntel", "1000"), ("AuthenticAMD", "3000"), (None, "1000")])
def test_idle_threads_spin_as_long_on_every_processor(tmp_path: Path, vendor: str | None, spins: str) -> None:
    (tmp_path / "proc").mkdir()
    if vendor is not None:
        (tmp_path / "proc/cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    chosen: dict[str, str] = {}

    set_threads(chosen, "3", root=tmp_path)

    assert chosen["GOMP_SPINCOUNT"] == spins
