"""Warnings about text that the model ignores."""

import json
from pathlib import Path

import pytest

from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.drawing import draw
from worker.engines.diffusers.engine import DiffusersEngine

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")

#: The tiny models have one token per letter and encode 75 of them.
LONG = " ".join(["a"] * 74 + ["b", "c", "d"])


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DiffusersEngine:
    save = {"sd": tiny.save_sd, "sdxl": tiny.save_sdxl}[request.param]
    return loaded(save(tmp_path_factory.mktemp(request.param)))


def said(model: DiffusersEngine, **fields: object) -> list[str]:
    """Without duplicates, as in jobs."""
    return list(dict.fromkeys(draw(model, **fields).watch.warnings))


def test_a_prompt_that_fits_gives_no_warning(model: DiffusersEngine) -> None:
    assert said(model, prompt=LONG[: 2 * 75 - 1], negative_prompt="b") == []


def test_a_warning_quotes_the_ignored_end_of_a_prompt(model: DiffusersEngine) -> None:
    assert said(model, prompt=LONG) == ["prompt is too long: the model ignores 'c d'"]


def test_a_warning_quotes_the_ignored_end_of_a_negative_prompt(model: DiffusersEngine) -> None:
    assert said(model, negative_prompt=LONG) == ["negative_prompt is too long: the model ignores 'c d'"]


def test_a_long_quote_is_shortened(model: DiffusersEngine) -> None:
    (sentence,) = said(model, prompt="a " * 1000)

    assert sentence.endswith("a a a...'")
    assert len(sentence) < 300


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2"])
def test_each_of_two_encoders_has_its_own_limit(part: str, tmp_path: Path) -> None:
    tiny.save_sdxl(tmp_path)
    _knows_a_double_a(tmp_path / part / "tokenizer.json")

    # 60 tokens for one tokenizer, more than the limit for the other.
    (sentence,) = said(loaded(tmp_path), prompt=" ".join(["aa"] * 60))

    assert sentence.startswith("prompt is too long: the model ignores ")


def _knows_a_double_a(file: Path) -> None:
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["vocab"]["aa</w>"] = tokenizer["model"]["vocab"].pop("z</w>")
    tokenizer["model"]["merges"].append(["a", "a</w>"])
    file.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("guidance", [0, 1])
def test_a_negative_prompt_without_guidance_gives_a_warning(model: DiffusersEngine, guidance: int) -> None:
    sentence = f"negative_prompt has no effect with a guidance_scale of {guidance}"

    assert said(model, negative_prompt="a", guidance_scale=guidance) == [sentence]
