"""What lies in the folder of models, under which name, and in which state."""

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from shared.models.catalogue import ModelState
from shared.settings.worker import WorkerSettings
from tests.worker.models.checkpoints.headers import flux_shapes, sd15_shapes, write_header, write_raw
from worker.models.catalogue import Catalogue, CatalogueModel
from worker.models.sources import STARTER, ModelSource


def scanned(folder: Path, *names: str, settling_seconds: float = 0) -> Mapping[str, CatalogueModel]:
    sources = [ModelSource("SD_MODELS", name, folder) for name in names]
    return Catalogue(folder, sources, settling_seconds=settling_seconds).scan()


def states(folder: Path, *names: str) -> dict[str, ModelState]:
    return {name: entry.state for name, entry in scanned(folder, *names).items()}


def only(folder: Path) -> CatalogueModel:
    (entry,) = scanned(folder).values()
    return entry


def starter_copy(folder: Path) -> Path:
    return shutil.copytree(STARTER, folder)


def test_names_are_paths_below_the_folder_without_the_ending(tmp_path: Path) -> None:
    write_header(tmp_path / "dream.shaper v8.safetensors", sd15_shapes())
    write_header(tmp_path / "sd" / "ätsch" / "model.safetensors", sd15_shapes())
    starter_copy(tmp_path / "owner" / "name")

    models = scanned(tmp_path)

    assert list(models) == ["dream.shaper v8", "owner/name", "sd/ätsch/model"]
    assert {entry.state for entry in models.values()} == {ModelState.AVAILABLE}


def test_parts_of_a_model_and_single_parts_are_not_models(tmp_path: Path) -> None:
    starter_copy(tmp_path / "owner" / "name")
    shutil.copytree(STARTER / "unet", tmp_path / "owner" / "safety-checker")

    assert list(scanned(tmp_path)) == ["owner/name"]


def test_loras_embeddings_and_upscalers_are_not_models(tmp_path: Path) -> None:
    for folder in ("loras", "embeddings", "upscalers"):
        write_header(tmp_path / folder / "file.safetensors", sd15_shapes())
    settings = WorkerSettings(model_dir=tmp_path, lora_dir=tmp_path / "loras", embedding_dir=tmp_path / "embeddings")

    assert list(Catalogue.of(settings).scan()) == ["starter"]


def test_hidden_and_unprintable_names_are_ignored(tmp_path: Path) -> None:
    for name in (".hidden", "new\nline", "bell\x07"):
        write_header(tmp_path / f"{name}.safetensors", sd15_shapes())

    assert scanned(tmp_path) == {}


def test_models_of_the_same_name_keep_their_endings_apart(tmp_path: Path) -> None:
    starter_copy(tmp_path / "same")
    write_header(tmp_path / "same.safetensors", sd15_shapes())
    (tmp_path / "same.ckpt").touch()

    assert states(tmp_path) == {
        "same": ModelState.AVAILABLE,
        "same.safetensors": ModelState.AVAILABLE,
        "same.ckpt": ModelState.BROKEN,
    }


@pytest.mark.parametrize("ending", ["ckpt", "pt", "pth", "bin"])
def test_pickles_are_refused_by_name(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"model.{ending}").touch()

    assert only(tmp_path).reason == (
        f"It is a pickle (.{ending}), which can run code and is never loaded; convert it to .safetensors."
    )


def test_links_that_lead_outside_are_broken_and_others_are_followed(tmp_path: Path) -> None:
    models, outside = tmp_path / "models", tmp_path / "outside"
    write_header(outside / "secret.safetensors", sd15_shapes())
    write_header(models / "sd" / "real.safetensors", sd15_shapes())
    (models / "file.safetensors").symlink_to(outside / "secret.safetensors")
    (models / "folder").symlink_to(outside)
    (models / "nowhere.safetensors").symlink_to(models / "gone")
    (models / "inside.safetensors").symlink_to(models / "sd" / "real.safetensors")
    (models / "sd" / "loop").symlink_to(models)

    assert states(models) == {
        "file": ModelState.BROKEN,
        "folder": ModelState.BROKEN,
        "inside": ModelState.AVAILABLE,
        "nowhere": ModelState.BROKEN,
        "sd/real": ModelState.AVAILABLE,
    }


def test_a_file_that_is_being_copied_becomes_available_when_it_is_whole(tmp_path: Path) -> None:
    file = write_header(tmp_path / "model.safetensors", sd15_shapes())
    whole = file.stat().st_size
    os.truncate(file, whole // 2)
    catalogue = Catalogue(tmp_path, settling_seconds=0)

    during = catalogue.scan()["model"]
    os.truncate(file, whole)
    after = catalogue.scan()["model"]

    assert (during.state, after.state) == (ModelState.DOWNLOADING, ModelState.AVAILABLE)
    assert during.reason == (
        f"The file is incomplete: it has {whole // 2:,} of {whole:,} bytes. It is still being copied."
    )


def test_a_file_that_was_cut_off_long_ago_is_broken(tmp_path: Path) -> None:
    file = write_header(tmp_path / "model.safetensors", sd15_shapes())
    os.truncate(file, file.stat().st_size - 1)
    os.utime(file, (0, 0))

    assert only(tmp_path).state is ModelState.BROKEN
    assert str(only(tmp_path).reason).endswith("bytes. Copy or download it again.")


def test_a_file_that_has_just_changed_waits_until_it_settles(tmp_path: Path) -> None:
    file = write_header(tmp_path / "model.safetensors", sd15_shapes())
    catalogue = Catalogue(tmp_path, settling_seconds=30)

    before = catalogue.scan()["model"].state
    os.utime(file, (time.time() - 31, time.time() - 31))

    assert (before, catalogue.scan()["model"].state) == (ModelState.DOWNLOADING, ModelState.AVAILABLE)


def test_a_file_beside_a_mark_of_a_download_is_downloading(tmp_path: Path) -> None:
    file = write_header(tmp_path / "model.safetensors", sd15_shapes())
    file.with_name(f"{file.name}.aria2").touch()

    assert only(tmp_path).state is ModelState.DOWNLOADING


def test_a_file_that_is_replaced_gets_another_revision(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path, settling_seconds=0)
    write_header(tmp_path / "model.safetensors", sd15_shapes())
    before = catalogue.scan()["model"].model
    write_header(tmp_path / "new", sd15_shapes()).rename(tmp_path / "model.safetensors")
    after = catalogue.scan()["model"].model

    assert before is not None
    assert after is not None
    assert before.revision != after.revision


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "It is a pointer of Git LFS, not the"),
        ((100 << 20).to_bytes(8, "little"), "The header would have 104,857,600 bytes, more than the limit of 16 MB"),
        (b"\x05\0\0\0\0\0\0\0{oops", "The header is not valid JSON"),
        (b"\x02\0\0\0\0\0\0\0[]", "The header is not valid JSON"),
        (b"\x02\0\0\0\0\0\0\0{}", "The file holds no tensors."),
    ],
)
def test_nonsense_is_one_sentence(header: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(header)

    assert only(tmp_path).state is ModelState.BROKEN
    assert str(only(tmp_path).reason).startswith(reason)


@pytest.mark.parametrize(
    "tensor",
    [
        {"dtype": "F16", "shape": [2], "data_offsets": [0, 3]},
        {"dtype": "F16", "shape": [-1], "data_offsets": [0, 0]},
        {"dtype": "F16", "shape": [1 << 60], "data_offsets": [0, 4]},
        {"dtype": "NEW", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F16"},
        "nothing",
    ],
)
def test_a_wrong_tensor_is_named(tensor: object, tmp_path: Path) -> None:
    write_raw(tmp_path / "model.safetensors", {"some.weight": tensor}, 4)

    assert only(tmp_path).reason == "The header describes the tensor 'some.weight' wrongly; the file is damaged."


def test_a_folder_that_lacks_weights_shards_or_parts_says_which(tmp_path: Path) -> None:
    folders = [starter_copy(tmp_path / name) for name in ("weights", "shards", "parts", "cut", "pickle")]
    weights = [folder / "unet" / "diffusion_pytorch_model.safetensors" for folder in folders]
    weights[0].unlink()
    weights[1].rename(weights[1].with_name("diffusion_pytorch_model-00001-of-00002.safetensors"))
    shutil.rmtree(folders[2] / "scheduler")
    os.truncate(weights[3], 1_000_000)
    os.utime(weights[3], (0, 0))
    for file in folders[3].rglob("*"):
        os.utime(file, (0, 0))
    weights[4].rename(weights[4].with_suffix(".bin"))

    reasons = {name: entry.reason for name, entry in scanned(tmp_path).items()}

    assert str(reasons.pop("cut")).startswith("unet/diffusion_pytorch_model.safetensors: The file is incomplete")
    assert reasons == {
        "weights": "The weights of its part unet are missing.",
        "shards": "The shard unet/diffusion_pytorch_model-00002-of-00002.safetensors is missing.",
        "parts": "Its part scheduler is missing.",
        "pickle": "The weights of its part unet are a pickle, which is never loaded.",
    }


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("{", "model_index.json of the model name is not valid JSON."),
        ('{"_class_name": "a.b", "unet": ["os", "system"]}', "The model name needs its own code"),
        ('{"_class_name": "os; rm"}', "Its model_index.json names no pipeline class."),
    ],
)
def test_a_wrong_index_is_one_sentence(index: str, reason: str, tmp_path: Path) -> None:
    folder = starter_copy(tmp_path / "name")
    (folder / "model_index.json").write_text(index)

    assert only(tmp_path).state is ModelState.BROKEN
    assert str(only(tmp_path).reason).startswith(reason)


def test_a_modular_pipeline_is_listed(tmp_path: Path) -> None:
    folder = starter_copy(tmp_path / "name")
    (folder / "model_index.json").rename(folder / "modular_model_index.json")

    assert only(tmp_path).state is ModelState.AVAILABLE


def test_models_of_the_settings_are_listed_wherever_they_are(tmp_path: Path) -> None:
    elsewhere = starter_copy(tmp_path / "elsewhere")
    (tmp_path / "models").mkdir()

    models = scanned(tmp_path / "models", "starter", str(elsewhere), "owner/name", "/nothing")

    assert {name: entry.state for name, entry in models.items()} == {
        "starter": ModelState.AVAILABLE,
        str(elsewhere): ModelState.AVAILABLE,
        "owner/name": ModelState.MISSING,
        "/nothing": ModelState.MISSING,
    }
    assert models["owner/name"].reason == "It is not downloaded: `imagegen models pull owner/name`."
    assert models["owner/name"].setting == "SD_MODELS"


def test_a_pair_takes_a_transformer_and_a_base(tmp_path: Path) -> None:
    starter_copy(tmp_path / "owner" / "base")
    write_header(tmp_path / "pair" / "unet.safetensors", {"down_blocks.0.resnets.0.conv1.weight": (4, 4, 3, 3)})
    pair = {"base": "owner/base", "transformer": "unet.safetensors", "title": "Mine", "commercial_use": False}
    (tmp_path / "pair" / "imagegen.json").write_text(json.dumps(pair))

    models = scanned(tmp_path)
    entry = models["pair"]

    assert list(models) == ["owner/base", "pair"]
    assert (entry.state, entry.title, entry.commercial_use) == (ModelState.AVAILABLE, "Mine", False)
    assert entry.model is not None
    assert (entry.model.path.name, entry.model.base) == ("unet.safetensors", "owner/base")


def test_a_file_that_lacks_parts_finds_a_folder_of_its_family(tmp_path: Path) -> None:
    write_header(tmp_path / "flux.safetensors", flux_shapes())
    catalogue = Catalogue(tmp_path, settling_seconds=0)

    before = catalogue.scan()["flux"]
    folder = starter_copy(tmp_path / "owner" / "flux")
    parts = {part: ["diffusers", "AutoencoderKL"] for part in ("transformer", "vae", "text_encoder", "text_encoder_2")}
    for part in parts:
        shutil.copytree(STARTER / "vae", folder / part, dirs_exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline", **parts}))
    after = catalogue.scan()["flux"]

    assert before.state is ModelState.MISSING
    assert after.state is ModelState.AVAILABLE
    assert after.model is not None
    assert after.model.base == "owner/flux"


@pytest.mark.parametrize("base", ["../../etc", "/etc", "a//b", "a/./b", "a\\b"])
def test_an_imagegen_json_reaches_nothing_outside(base: str, tmp_path: Path) -> None:
    write_header(tmp_path / "model.safetensors", flux_shapes())
    (tmp_path / "model.imagegen.json").write_text(json.dumps({"base": base}))

    assert only(tmp_path).reason == (
        "The model.imagegen.json of model is invalid: base must be a path below the folder."
    )
