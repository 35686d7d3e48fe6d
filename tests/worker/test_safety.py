"""What the safety checker says, and what is said when there is none."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from shared.errors import ConfigurationError
from tests.worker import tiny
from tests.worker.bench import speckled
from worker.backends.safety import SafetyChecker

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_checker(tmp_path_factory.mktemp("strict"), strict=True)


@pytest.fixture(scope="module")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_checker(tmp_path_factory.mktemp("lenient"), strict=False)


def checker(folder: Path) -> SafetyChecker:
    return SafetyChecker.load(folder, torch.device("cpu"))


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        checker(folder)
    return caught.value.detail


def test_every_picture_has_a_verdict_of_its_own(strict: Path, lenient: Path) -> None:
    pictures = [speckled(64, 48), speckled(32, 32)]

    assert checker(strict).flags(pictures) == [True, True]
    assert checker(lenient).flags(pictures) == [False, False]


def test_a_verdict_leaves_the_picture_as_it_is(strict: Path) -> None:
    picture = speckled(64, 64)

    checker(strict).flags([picture])

    assert np.array_equal(picture, speckled(64, 64))


def test_a_checker_that_is_part_of_a_model_is_found_in_it(strict: Path, tmp_path: Path) -> None:
    for part, files in {"safety_checker": "*", "feature_extractor": "preprocessor_config.json"}.items():
        (tmp_path / part).mkdir()
        for file in strict.glob(files):
            shutil.copy(file, tmp_path / part)

    assert checker(tmp_path).flags([speckled(64, 64)]) == [True]


def test_a_checker_that_is_not_there_is_refused_by_saying_how_to_go_on(tmp_path: Path) -> None:
    sentence = refusal(tmp_path / "nothing")

    assert "SD_SAFETY_CHECKER_ID names another one" in sentence
    assert sentence.endswith("SD_SAFETY_CHECKER=false works without.")


def test_a_checker_with_weights_missing_is_refused(lenient: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(lenient, tmp_path / "partial")
    weights = load_file(folder / "model.safetensors")
    del weights["concept_embeds"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    assert "its weights are not complete: concept_embeds is missing" in refusal(folder)


def test_pickled_weights_are_refused(lenient: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(lenient, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    assert "could not be loaded" in refusal(folder)
