"""Weighted prompts become the embeddings that AUTOMATIC1111's web UI makes of them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from shared.jobs.types import PromptSyntax
from shared.jobs.web_ui.prompt_weights import parse_weights
from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.drawing import draw
from worker.engines.diffusers.engine import DiffusersEngine
from worker.engines.diffusers.prompts.clip_encoding import MAX_CHUNKS, Chunker, encode_text

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DiffusersEngine:
    save = {"sd": tiny.save_sd, "sdxl": tiny.save_sdxl}[request.param]
    return loaded(save(tmp_path_factory.mktemp(request.param)))


def pipe(model: DiffusersEngine) -> Any:
    return model._pipelines.text


def embedding(model: DiffusersEngine, prompt: str, clip_skip: int | None = None) -> torch.Tensor:
    return encode_text(pipe(model), prompt, PromptSyntax.WEIGHTED, clip_skip)[0]


def plain(model: DiffusersEngine, prompt: str) -> list[torch.Tensor]:
    tensors = pipe(model).encode_prompt(
        prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return [tensor for tensor in tensors if tensor is not None]


def chunks(model: DiffusersEngine, prompt: str) -> list[str]:
    """The tiny models have a token for each letter."""
    chunker = Chunker(pipe(model).tokenizer)
    return [chunker.tokenizer.decode([token for token, _ in chunk]) for chunk in chunker.chunks(parse_weights(prompt))]


def chunk_lengths(model: DiffusersEngine, prompt: str) -> list[int]:
    return [len(chunk) for chunk in Chunker(pipe(model).tokenizer).chunks(parse_weights(prompt))]


def test_without_weights_the_embedding_is_that_of_the_plain_prompt(model: DiffusersEngine) -> None:
    weighted = encode_text(pipe(model), "a b c", PromptSyntax.WEIGHTED, None)

    for ours, theirs in zip(weighted, plain(model, "a b c"), strict=True):
        assert torch.equal(ours, theirs)


def test_a_weight_multiplies_its_word_and_the_mean_stays(model: DiffusersEngine) -> None:
    (before, *_), after = plain(model, "a b c"), embedding(model, "a (b:1.5) c")

    # The embeddings of both encoders of Stable Diffusion XL lie side by side.
    encoders = [
        pipe(model).components[name] for name in ("text_encoder", "text_encoder_2") if hasattr(pipe(model), name)
    ]
    widths = [encoder.config.hidden_size for encoder in encoders]
    for old, new in zip(before.split(widths, 2), after.split(widths, 2), strict=True):
        expected = old.clone()
        expected[:, 2] *= 1.5
        expected *= old.mean() / expected.mean()
        assert torch.allclose(new, expected, atol=1e-5)


def test_a_long_prompt_is_encoded_in_chunks_of_75(model: DiffusersEngine) -> None:
    first, second = "a " * 75, "b " * 10
    assert embedding(model, first + second).shape[1] == 2 * 77

    assert torch.equal(embedding(model, first + second)[:, 77:], embedding(model, second))


def with_commas(folder: Path) -> DiffusersEngine:
    """A model whose tokenizer knows the comma."""
    tiny.save_sd(folder)
    vocabulary = folder / "tokenizer" / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text().replace('"z</w>"', '",</w>"'))
    return loaded(folder)


def test_a_phrase_after_a_comma_near_the_end_of_a_chunk_moves_to_the_next(tmp_path: Path) -> None:
    model = with_commas(tmp_path)

    assert chunk_lengths(model, "a " * 70 + ", " + "b " * 10) == [71, 10]
    assert chunk_lengths(model, "a " * 50 + ", " + "b " * 30) == [75, 6]


def test_a_prompt_without_weights_ends_at_the_limit_of_the_encoder(tmp_path: Path) -> None:
    model, prompt = with_commas(tmp_path), "a " * 70 + ", " + "b " * 10

    usual, skipping = (encode_text(pipe(model), prompt, None, clip_skip)[0] for clip_skip in (None, 1))

    assert torch.equal(usual, plain(model, prompt)[0])
    assert torch.equal(usual, skipping)


def test_break_ends_a_chunk(model: DiffusersEngine) -> None:
    assert chunks(model, "a b BREAK c") == ["a b", "c"]
    assert chunks(model, "a BREAK") == ["a"]
    assert torch.equal(embedding(model, "a BREAK c")[:, 77:], embedding(model, "c"))


def test_texts_of_different_length_are_used_together(model: DiffusersEngine) -> None:
    long = draw(model, prompt="a BREAK b BREAK c", negative_prompt="d", prompt_syntax="weighted", guidance_scale=4)
    negative = draw(model, prompt="a", negative_prompt="b BREAK c", prompt_syntax="weighted", guidance_scale=4)

    assert long.watch.warnings == negative.watch.warnings == []
    assert (long.pixels != negative.pixels).any()


def test_only_weighted_prompts_are_read_for_weights(model: DiffusersEngine) -> None:
    images = [draw(model, prompt="a (b:1.9)", prompt_syntax=syntax).pixels for syntax in (None, "plain", "weighted")]

    assert (images[0] == images[1]).all()
    assert (images[0] != images[2]).any()


def test_a_warning_quotes_what_follows_the_longest_prompt(model: DiffusersEngine) -> None:
    prompt = "a " * 75 * MAX_CHUNKS + "b c"

    assert draw(model, prompt=prompt, prompt_syntax="weighted").watch.warnings[0].endswith("the model ignores 'b c'")


def test_clip_skip_chooses_an_earlier_layer(tmp_path: Path) -> None:
    model = loaded(tiny.save_sd(tmp_path))
    encoder = pipe(model).text_encoder
    tokens = pipe(model).tokenizer("a b", padding="max_length", return_tensors="pt").input_ids
    states = encoder(tokens, output_hidden_states=True).hidden_states

    assert torch.equal(embedding(model, "a b", 2), encoder.final_layer_norm(states[-2]))
    assert torch.equal(embedding(model, "a b", 1), embedding(model, "a b"))
    first, last = (draw(model, prompt="a (b)", clip_skip=skip).pixels for skip in (1, 2))
    assert (first != last).any()


def test_clip_skip_beyond_the_first_layer_uses_the_first(tmp_path: Path) -> None:
    model = loaded(tiny.save_sd(tmp_path))
    layers = pipe(model).text_encoder.config.num_hidden_layers

    assert torch.equal(embedding(model, "a", 12), embedding(model, "a", layers))
