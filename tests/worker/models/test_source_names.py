"""Machines that share a host name publish their models apart."""

from pathlib import Path

import pytest

from worker.records import model_reports
from worker.records.model_reports import source_name


def test_two_folders_at_the_same_path_are_two_sources(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    name = source_name(folder, "starter")
    assert source_name(folder, "starter") == name

    # What another container has at this path.
    folder.rename(tmp_path / "others")
    folder.mkdir()

    assert source_name(folder, "starter") != name


def test_a_copy_of_a_machine_is_another_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = source_name(tmp_path, "starter")

    monkeypatch.setattr(model_reports, "_running_system", lambda: "another start")

    assert source_name(tmp_path, "starter") != name
