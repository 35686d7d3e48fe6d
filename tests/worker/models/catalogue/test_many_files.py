"""A folder with thousands of files costs little, and nothing of them is read twice."""

import builtins
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.models.catalogue import ModelState
from tests.worker.models.checkpoints.headers import sd15_shapes, write_header
from worker.models.catalogue import Catalogue, scan

FILES = 2_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for number in range(FILES):
        write_header(folder / f"{number % 20:02}" / f"model-{number:04}.safetensors", sd15_shapes())
    return folder


class CountingEntry:
    """A DirEntry that counts what is asked of the file system."""

    def __init__(self, entry: "os.DirEntry[str]", calls: "Counter[str]") -> None:
        self._entry, self._calls = entry, calls

    def stat(self) -> os.stat_result:
        self._calls["stat"] += 1
        return self._entry.stat()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry, name)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> "Counter[str]":
    counted: Counter[str] = Counter()
    scandir, stat, lstat, opened = os.scandir, os.stat, os.lstat, builtins.open

    class Listing:
        def __init__(self, folder: Path) -> None:
            self._folder = folder

        def __enter__(self) -> Iterator[CountingEntry]:
            with scandir(self._folder) as entries:
                return iter([CountingEntry(entry, counted) for entry in entries])

        def __exit__(self, *_: object) -> None:
            pass

    def counting(name: str, function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            counted[name] += 1
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(os, "scandir", Listing)
    monkeypatch.setattr(os, "stat", counting("stat", stat))
    monkeypatch.setattr(os, "lstat", counting("stat", lstat))
    monkeypatch.setattr("io.open", counting("open", opened))
    return counted


def test_a_rescan_looks_at_each_file_once_and_reads_none(folder: Path, calls: "Counter[str]") -> None:
    catalogue = Catalogue(folder, settling_seconds=0)
    first = catalogue.scan()
    assert calls["open"] >= FILES, "the counter counts"
    calls.clear()

    second = catalogue.scan()

    assert first == second
    assert {entry.state for entry in second.values()} == {ModelState.AVAILABLE}
    assert len(second) == FILES
    # A few more are for the folder itself.
    assert FILES <= calls["stat"] <= FILES + 20
    assert calls["open"] == 0


def test_a_rescan_takes_a_fraction_of_the_first_scan(folder: Path) -> None:
    catalogue = Catalogue(folder, settling_seconds=0)

    def seconds() -> float:
        started = time.process_time()
        catalogue.scan()
        return time.process_time() - started

    first = seconds()
    again = min(seconds() for _ in range(3))

    assert again < first / 3


def test_only_the_changed_file_is_read_again(folder: Path, calls: "Counter[str]") -> None:
    catalogue = Catalogue(folder, settling_seconds=0)
    catalogue.scan()
    os.utime(folder / "07" / "model-0007.safetensors", (1, 1))
    calls.clear()

    catalogue.scan()

    assert calls["open"] == 1


def test_files_beyond_the_limit_are_ignored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_FILES", 120)

    assert len(Catalogue(folder, settling_seconds=0).scan()) == 100
