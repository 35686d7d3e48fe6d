"""The safety checker, and errors if it is missing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from shared.errors import ConfigurationError
from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.drawing import draw, speckled
from worker.engines.diffusers.decoding.safety_checker import SafetyChecker, flag_images
from worker.engines.diffusers.engine import DiffusersEngine
from worker.engines.diffusers.memory.shared_parts import SharedParts
from worker.models.sources import STARTER

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_checker(tmp_path_factory.mktemp("strict"), strict=True)


@pytest.fixture(scope="module")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_checker(tmp_path_factory.mktemp("lenient"), strict=False)


def checker(folder: Path) -> SafetyChecker:
    return SafetyChecker.load(folder, torch.device("cpu"), SharedParts())


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        checker(folder)
    return caught.value.detail


def test_every_image_is_judged_separately(strict: Path, lenient: Path) -> None:
    images = [speckled(64, 48), speckled(32, 32)]

    assert flag_images(checker(strict), images) == [True, True]
    assert flag_images(checker(lenient), images) == [False, False]


def test_checking_does_not_change_the_image(strict: Path) -> None:
    image = speckled(64, 64)

    checker(strict).is_flagged(image)

    assert np.array_equal(image, speckled(64, 64))


def test_the_checker_of_a_model_is_found(strict: Path, tmp_path: Path) -> None:
    for part, files in {"safety_checker": "*", "feature_extractor": "preprocessor_config.json"}.items():
        (tmp_path / part).mkdir()
        for file in strict.glob(files):
            shutil.copy(file, tmp_path / part)

    assert checker(tmp_path).is_flagged(speckled(64, 64))


def test_the_error_about_a_missing_checker_says_what_to_do(tmp_path: Path) -> None:
    sentence = refusal(tmp_path / "nothing")

    assert "Set SD_SAFETY_CHECKER_ID to another checker" in sentence
    assert sentence.endswith("SD_SAFETY_CHECKER=false to run without one.")


def test_a_checker_with_missing_weights_is_refused(lenient: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(lenient, tmp_path / "partial")
    weights = load_file(folder / "model.safetensors")
    del weights["concept_embeds"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    assert "its weights are incomplete: concept_embeds is missing" in refusal(folder)


def test_pickled_weights_are_refused(lenient: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(lenient, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    assert "could not be loaded" in refusal(folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without its own checker."""
    return tiny.save_sd(tmp_path_factory.mktemp("plain"))


def with_checker(model: Path, checker: Path, to: Path) -> Path:
    """A model that includes a checker, like Stable Diffusion 1.5."""
    folder = shutil.copytree(model, to)
    shutil.copytree(checker, folder / "safety_checker")
    (folder / "feature_extractor").mkdir()
    shutil.move(folder / "safety_checker" / "preprocessor_config.json", folder / "feature_extractor")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_every_image_of_a_model_without_a_checker_is_checked(plain: Path, strict: Path, lenient: Path) -> None:
    models = [loaded(plain, safety_checker=find) for find in (lambda: strict, lambda: lenient)]

    flags = [[image.flagged for image in draw(model, num_images=2).images] for model in models]

    assert flags == [[True, True], [False, False]]
    assert [model.capabilities.safety for model in models] == ["checked", "checked"]


def test_a_flagged_image_is_not_changed(plain: Path, strict: Path) -> None:
    checked, unchecked = loaded(plain, safety_checker=lambda: strict), loaded(plain)

    assert np.array_equal(draw(checked).pixels, draw(unchecked).pixels)


def test_the_models_own_checker_takes_precedence(plain: Path, strict: Path, lenient: Path, tmp_path: Path) -> None:
    model = loaded(with_checker(plain, strict, tmp_path / "own"), safety_checker=lambda: lenient)

    assert draw(model).images[0].flagged


def test_a_pickled_checker_of_a_model_is_replaced(plain: Path, strict: Path, lenient: Path, tmp_path: Path) -> None:
    folder = with_checker(plain, lenient, tmp_path / "own")
    (folder / "safety_checker" / "model.safetensors").rename(folder / "safety_checker" / "pytorch_model.bin")

    assert draw(loaded(folder, safety_checker=lambda: strict)).images[0].flagged


def test_without_its_checker_a_model_is_not_loaded(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="SD_SAFETY_CHECKER=false"):
        loaded(plain, safety_checker=lambda: tmp_path)


def test_the_operator_can_switch_checking_off(plain: Path, strict: Path, tmp_path: Path) -> None:
    model = loaded(with_checker(plain, strict, tmp_path / "own"), safety_checker=None)

    assert model.capabilities.safety == "off"
    assert not draw(model).images[0].flagged


def test_the_starter_model_is_exempt(starter: DiffusersEngine, strict: Path) -> None:
    assert starter.capabilities.safety == "exempt: the starter model was trained on a closed set of pictograms"
    assert loaded("starter", safety_checker=lambda: strict).capabilities.safety == starter.capabilities.safety


def test_a_copy_of_the_starter_model_is_not_exempt(strict: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(STARTER, tmp_path / "copy")

    assert loaded(copy, safety_checker=lambda: strict).capabilities.safety == "checked"


def test_models_with_the_same_checker_hold_it_once(tmp_path: Path) -> None:
    folder = tiny.save_checker(tmp_path / "one", strict=True)
    copied = shutil.copytree(folder, tmp_path / "copy")
    other = tiny.save_checker(tmp_path / "other", strict=False)
    shared, device = SharedParts(), torch.device("cpu")

    first, second, third = (SafetyChecker.load(path, device, shared) for path in (folder, copied, other))

    assert first._checker is second._checker
    assert first._checker is not third._checker
    assert [checker.is_flagged(speckled()) for checker in (first, second, third)] == [True, True, False]
