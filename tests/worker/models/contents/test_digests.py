"""Hashes of weights: files are read only when that may tell something, once, and again when they change."""

import json
import os
import struct
from pathlib import Path

import pytest

from worker.models.checkpoints.tensor_names import Role
from worker.models.contents import digests as module
from worker.models.contents.digests import FILE, Content, Digests


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read, in order."""
    names: list[str] = []
    digest = module._digest

    def noting(content: Content) -> str:
        names.append(content.path.name)
        return digest(content)

    monkeypatch.setattr(module, "_digest", noting)
    return names


def written(path: Path, content: bytes) -> Content:
    path.write_bytes(content)
    return Content.of(path)


def test_files_of_the_same_bytes_are_equal_and_others_are_not(tmp_path: Path) -> None:
    one, same, other = (written(tmp_path / str(n), text) for n, text in enumerate((b"abc", b"abc", b"abx")))

    digests = Digests(None)

    assert digests.are_equal(one, same)
    assert not digests.are_equal(one, other)


def test_links_and_files_of_other_sizes_are_told_without_reading(tmp_path: Path, hashed: list[str]) -> None:
    one = written(tmp_path / "one", b"abc")
    (tmp_path / "hard").hardlink_to(one.path)
    (tmp_path / "soft").symlink_to(one.path)
    digests = Digests(None)

    assert digests.are_equal(one, Content.of(tmp_path / "hard"))
    assert digests.are_equal(one, Content.of(tmp_path / "soft"))
    assert not digests.are_equal(one, written(tmp_path / "longer", b"abcd"))
    assert hashed == []


def test_a_file_is_read_once_also_over_restarts_and_again_when_it_changes(tmp_path: Path, hashed: list[str]) -> None:
    one, same = written(tmp_path / "one", b"abc"), written(tmp_path / "same", b"abc")
    for _ in range(2):
        assert Digests(tmp_path / "data").are_equal(one, same)
    assert sorted(hashed) == ["one", "same"]

    changed = written(tmp_path / "same", b"abx")
    os.utime(changed.path, ns=(1, 1))
    changed = Content.of(changed.path)

    assert not Digests(tmp_path / "data").are_equal(one, changed)
    assert sorted(hashed) == ["one", "same", "same"]


def test_a_file_that_is_no_longer_what_was_loaded_equals_nothing(tmp_path: Path) -> None:
    loaded, same = written(tmp_path / "one", b"abc"), written(tmp_path / "same", b"abc")
    loaded.path.write_bytes(b"abcd")
    gone = written(tmp_path / "gone", b"abc")
    gone.path.unlink()
    digests = Digests(None)

    assert not digests.are_equal(loaded, same)
    assert not digests.are_equal(gone, same)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 1}', json.dumps({"a": [1, 2]})])
def test_a_damaged_file_of_hashes_costs_nothing_but_reading_again(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    one, same = written(tmp_path / "one", b"abc"), written(tmp_path / "same", b"abc")

    assert Digests(tmp_path).are_equal(one, same)
    assert len(json.loads((tmp_path / FILE).read_text())) >= 2


def test_parts_of_files_are_compared_tensor_by_tensor_whatever_else_the_files_hold(tmp_path: Path) -> None:
    vae = {"first_stage_model.a": b"\1\2", "first_stage_model.b": b"\3"}
    one = checkpoint(tmp_path / "one", {"model.diffusion_model.out.2.bias": b"\0", **vae})
    same = checkpoint(tmp_path / "same", {**dict(reversed(vae.items())), "model.diffusion_model.out.2.bias": b"\7"})
    other = checkpoint(tmp_path / "other", {**vae, "first_stage_model.b": b"\4"})
    renamed = checkpoint(tmp_path / "renamed", {"first_stage_model.a": b"\1\2", "first_stage_model.c": b"\3"})
    digests = Digests(None)

    assert digests.are_equal(one, same)
    assert not digests.are_equal(one, other)
    assert not digests.are_equal(one, renamed)
    assert not digests.are_equal(one, Content.of(one.path))


def checkpoint(path: Path, tensors: dict[str, bytes]) -> Content:
    """The autoencoder in a file."""
    header, end = {}, 0
    for name, content in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(content)], "data_offsets": [end, end + len(content)]}
        end += len(content)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(tensors.values()))
    return Content.of(path, Role.VAE)
