"""Values that are kept in a file, which several containers may share."""

import platform
from pathlib import Path

import pytest

from worker.models.contents.kept_rows import KeptRows


def test_processes_of_two_containers_never_write_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staged = list[Path]()
    monkeypatch.setattr(Path, "replace", lambda path, _: staged.append(path))

    # Their numbers are the same: containers of one image start the same processes.
    for name in ("one", "other"):
        monkeypatch.setattr(platform, "node", lambda name=name: name)
        KeptRows(tmp_path / "rows.json").put([1], "subject")

    assert len(set(staged)) == 2
