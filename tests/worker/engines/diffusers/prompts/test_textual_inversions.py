"""Textual inversion embeddings: used by their name in a prompt, with the pixels of diffusers alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from shared.jobs.requests import GenerationRequest
from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.drawing import draw
from tests.worker.images.image_checks import Pixels
from tests.worker.recording_watch import RecordingWatch
from worker.engines.diffusers.engine import DiffusersEngine
from worker.engines.diffusers.prompts import textual_inversions
from worker.engines.diffusers.prompts.textual_inversions import find_embeddings
from worker.images.values import Inputs

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")

#: Of the tiny models' text encoders: Stable Diffusion has one, Stable Diffusion XL two.
SD_WIDTH, XL_WIDTHS = 8, (8, 8)
OPTIONS = {"num_inference_steps": 2, "guidance_scale": 5.0}


def vectors(count: int, width: int = SD_WIDTH, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * 5


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Embeddings as different tools write them, and one for another model."""
    (tmp_path / "negative").mkdir()
    save_file({"emb_params": vectors(3)}, tmp_path / "negative" / "bad-hands v2.safetensors")
    save_file({"<style>": vectors(1, seed=2)[0]}, tmp_path / "style.safetensors")
    save_file({"emb_params": vectors(2, width=24)}, tmp_path / "large.safetensors")
    save_file({"clip_l": vectors(2), "clip_g": vectors(2)}, tmp_path / "for-xl.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing of the kind")
    (tmp_path / "pickle.pt").write_bytes(b"code")
    return tmp_path


@pytest.fixture
def model(sd: Path, folder: Path) -> Iterator[DiffusersEngine]:
    engine = loaded(sd, embedding_dir=folder)
    yield engine
    engine.close()


def bare_pixels(model: Path, prompt: str, negative_prompt: str | None = None, **embeddings: Path) -> Pixels:
    pipe = diffusers.DiffusionPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    for token, file in embeddings.items():
        pipe.load_textual_inversion(str(file), token=token)
    return drawn_by(pipe, prompt, negative_prompt)


def drawn_by(pipe: Any, prompt: str, negative_prompt: str | None = None) -> Pixels:
    generator = torch.Generator().manual_seed(1)
    return np.asarray(pipe(prompt, negative_prompt=negative_prompt, generator=generator, **OPTIONS).images[0])


def test_a_name_in_a_prompt_gives_the_pixels_of_diffusers_with_the_embedding(
    sd: Path, folder: Path, model: DiffusersEngine
) -> None:
    files = {"zzone": folder / "style.safetensors", "zztwo": folder / "negative" / "bad-hands v2.safetensors"}

    drawn = draw(model, prompt="a cat, style", negative_prompt="bad-hands v2, dog", **OPTIONS)

    assert np.array_equal(drawn.pixels, bare_pixels(sd, "a cat, zzone", "zztwo, dog", **files))
    assert not np.array_equal(drawn.pixels, bare_pixels(sd, "a cat, style", "bad-hands v2, dog"))
    assert drawn.watch.warnings == []


@pytest.mark.parametrize("prompt", ["a cat, STYLE", "a cat, embedding:style"])
def test_spellings_of_other_tools_are_understood(prompt: str, model: DiffusersEngine) -> None:
    expected = draw(model, prompt="a cat, style", **OPTIONS).pixels

    assert np.array_equal(draw(model, prompt=prompt, **OPTIONS).pixels, expected)


@pytest.mark.parametrize("prompt", ["a cat, stylesheet", "a cat, my-style", "a cat <embedding-0>", "a cat"])
def test_texts_without_the_name_as_a_word_are_drawn_as_ever(prompt: str, sd: Path, model: DiffusersEngine) -> None:
    draw(model, prompt="style", **OPTIONS)

    plain = prompt.replace("<embedding-0>", "<embedding 0>")
    assert np.array_equal(draw(model, prompt=prompt, **OPTIONS).pixels, bare_pixels(sd, plain))


def test_a_weight_applies_to_an_embedding(model: DiffusersEngine) -> None:
    fields = {**OPTIONS, "prompt_syntax": "weighted"}
    plain, weighted, unused = (
        draw(model, prompt=prompt, **fields).pixels for prompt in ("a cat, style", "a cat, (style:1.5)", "a cat")
    )

    assert not np.array_equal(plain, weighted)
    assert not np.array_equal(plain, unused)
    assert np.array_equal(plain, draw(model, prompt="a cat, style", **OPTIONS).pixels)


def test_stable_diffusion_xl_has_vectors_for_both_of_its_encoders(tmp_path: Path) -> None:
    folder, embeddings = tiny.save_sdxl(tmp_path / "xl"), tmp_path / "embeddings"
    embeddings.mkdir()
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    widths = [encoder.config.hidden_size for encoder in (pipe.text_encoder, pipe.text_encoder_2)]
    weights = {name: vectors(2, width, seed=3) for name, width in zip(("clip_l", "clip_g"), widths, strict=True)}
    save_file(weights, embeddings / "style.safetensors")
    for (_, tensor), end in zip(weights.items(), ("", "_2"), strict=True):
        parts = {"tokenizer": getattr(pipe, f"tokenizer{end}"), "text_encoder": getattr(pipe, f"text_encoder{end}")}
        pipe.load_textual_inversion({"it": tensor}, token="zzone", **parts)

    drawn = draw(loaded(folder, embedding_dir=embeddings), prompt="a cat, style", negative_prompt="a dog", **OPTIONS)

    assert np.array_equal(drawn.pixels, drawn_by(pipe, "a cat, zzone", "a dog"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("large", "the embedding large was read as a word: it does not fit the model"),
        ("for-xl", "the embedding for-xl was read as a word: it does not fit the model"),
        ("damaged", "the embedding damaged was read as a word: its file is damaged"),
    ],
)
def test_an_embedding_without_effect_is_a_warning(name: str, reason: str, sd: Path, model: DiffusersEngine) -> None:
    drawn = draw(model, prompt=f"a cat, {name}", **OPTIONS)

    assert drawn.watch.warnings == [reason]
    assert np.array_equal(drawn.pixels, bare_pixels(sd, f"a cat, {name}"))


def test_files_with_too_many_vectors_are_not_read(folder: Path, model: DiffusersEngine) -> None:
    save_file({"emb_params": vectors(76)}, folder / "style.safetensors")

    assert "1 to 75 vectors" in draw(model, prompt="a cat, style", **OPTIONS).watch.warnings[0]


def test_a_replaced_file_counts_for_the_next_job(sd: Path, folder: Path, model: DiffusersEngine) -> None:
    draw(model, prompt="a cat, style", **OPTIONS)

    save_file({"emb_params": vectors(2, seed=5)}, folder / "style.safetensors")
    drawn = draw(model, prompt="a cat, style", **OPTIONS)

    assert np.array_equal(drawn.pixels, bare_pixels(sd, "a cat, zzone", zzone=folder / "style.safetensors"))


def test_more_embeddings_than_are_kept_are_loaded_again(
    folder: Path, model: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(textual_inversions, "MAX_VECTORS", 4)
    save_file({"emb_params": vectors(1, seed=4)}, folder / "third.safetensors")
    first, other = (draw(model, prompt=text, **OPTIONS).pixels for text in ("style", "bad-hands v2"))

    # The room is full: this one takes the place of the first.
    third = draw(model, prompt="third", **OPTIONS).pixels
    assert not np.array_equal(third, first)
    assert np.array_equal(draw(model, prompt="bad-hands v2", **OPTIONS).pixels, other)
    assert np.array_equal(draw(model, prompt="style", **OPTIONS).pixels, first)


def test_jobs_of_a_batch_have_their_own_embeddings(model: DiffusersEngine) -> None:
    requests = [
        model.capabilities.resolve(GenerationRequest.model_validate({"prompt": prompt, "seed": 1, **OPTIONS}))[0]
        for prompt in ("a cat, style", "a cat, bad-hands v2", "a cat, large")
    ]

    class Watch(RecordingWatch):
        def for_job(self, job: int) -> "RecordingWatch":
            return watches[job]

    watches = [RecordingWatch() for _ in requests]
    images = model.generate_batch(requests, [Inputs()] * 3, Watch())

    for request, (image,) in zip(requests, images, strict=True):
        assert np.array_equal(image.pixels, draw(model, prompt=request.prompt, **OPTIONS).pixels)
    assert [len(watch.warnings) for watch in watches] == [0, 0, 1]


def test_a_warning_about_a_long_prompt_names_the_embedding(model: DiffusersEngine) -> None:
    drawn = draw(model, prompt=f"{'a ' * 80}bad-hands v2", **OPTIONS)

    (warning,) = drawn.watch.warnings
    assert "bad-hands v2" in warning
    assert "<embedding" not in warning


def test_names_are_those_of_files_in_every_folder_and_pickles_are_none(folder: Path, model: DiffusersEngine) -> None:
    names = ["bad-hands v2", "damaged", "for-xl", "large", "style"]

    assert list(find_embeddings(folder)) == names
    assert model.capabilities.embeddings == tuple(names)
    assert find_embeddings(folder / "nowhere") == {}


def test_a_new_file_changes_the_fingerprint_of_cached_images(folder: Path, model: DiffusersEngine) -> None:
    before = model.fingerprint()

    save_file({"emb_params": vectors(1)}, folder / "new.safetensors")

    assert model.fingerprint() != before
