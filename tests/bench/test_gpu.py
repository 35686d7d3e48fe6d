"""`make gpu`: its own code, with tiny models on the CPU, so that it works on the day when there is a device."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu import __main__ as gpu
from bench.gpu import device_tests, whole_service
from bench.gpu.machine import Machine
from bench.gpu.models import DENOISERS, save_klein, save_sdxl
from bench.gpu.surviving import run_limited

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|accelerate)"),
]


def measured(folder: Path, *arguments: str) -> dict[str, Any]:
    file = folder / "results.json"
    assert gpu.main(["--tiny", "--seconds", "100000", "--json", str(file), *arguments]) == 0
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def names(result: dict[str, Any]) -> list[str]:
    return [figure["name"] for figure in result["figures"]]


def test_without_a_device_it_says_so_and_ends_with_0(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert gpu.main([]) == 0

    assert capsys.readouterr().out == "There is no CUDA device here: nothing to measure.\n"


def test_each_way_to_compute_a_denoiser_is_a_figure_with_its_difference(tmp_path: Path) -> None:
    result = measured(tmp_path, "--quick", "--models", "Klein 4B", "--", "denoisers")

    assert names(result) == [
        "Klein 4B: plain call",
        *(f"Klein 4B: {way} / plain" for way in ("CUDA graph", "attention by native", "compiled")),
    ]
    assert "greatest difference 0" in result["figures"][1]["detail"]
    assert result["not_measured"] == ["Klein 4B in eight bits: this card or installation has no such arithmetic"]
    assert result["device"]["card"] == "none (CPU)"


@pytest.mark.parametrize("model", DENOISERS, ids=lambda model: model.name)
def test_every_random_denoiser_can_be_called_as_often_as_wanted(model: Any) -> None:
    module, call = model.create(True)

    assert call.seconds(module, torch.device("cpu")) > 0


def test_the_models_are_as_large_as_the_real_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[str, float] = {}

    def count(pipe: Any, folder: Path) -> Path:
        parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
        sizes[type(pipe).__name__] = sum(weight.numel() for part in parts for weight in part.parameters()) / 1e9
        return folder

    monkeypatch.setattr("bench.gpu.models._saved", count)
    nowhere = Machine.of("meta", quick=False, ends_at=0)
    for save in (save_sdxl, save_klein):
        save(Path("unused"), nowhere)

    assert sizes == {
        "StableDiffusionXLPipeline": pytest.approx(3.47, abs=0.01),
        "Flux2KleinPipeline": pytest.approx(7.98, abs=0.01),
    }


def test_the_whole_service_is_compared_with_a_bare_script_at_each_level(tmp_path: Path) -> None:
    result = measured(tmp_path, "--models", "SDXL", "--", "service")

    assert names(result) == [
        "SDXL: worker start to ready, safe",
        "SDXL: lone image at safe / bare script",
        "SDXL: added to rendering, safe",
        "SDXL: queue of 16, seconds an image / bare batch of 4",
        "SDXL: device idle between two batches",
        "SDXL: lone image at fast / bare script",
        "SDXL: added to rendering, fast",
        "SDXL: worker start to ready, fast, kept code / none",
    ]
    assert result["not_measured"] == []


def test_a_measure_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(whole_service, "measure", fail)
    monkeypatch.setattr(device_tests, "test_files", lambda _: [])

    result = measured(tmp_path, "--models", "SDXL", "--", "service", "tests")

    assert names(result)[-1] == device_tests.FAILED
    assert result["not_measured"] == ["the rest of service: RuntimeError: no such kernel"]


def test_time_that_is_up_is_not_exceeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "has_seconds", lambda *_: False)

    result = measured(tmp_path, "denoisers", "service")

    assert result["figures"] == []
    assert result["not_measured"] == [
        *(f"{model.name}: there was no time left" for model in DENOISERS),
        *(f"the service with {subject.name}: there was no time left" for subject in whole_service.SUBJECTS),
    ]


def test_every_file_with_tests_for_a_device_is_found() -> None:
    files = device_tests.test_files(Path("tests"))

    assert "tests/worker/engines/diffusers/test_on_each_device.py" in files
    assert "tests/worker/engines/diffusers/acceleration/test_cuda_graphs.py" in files
    assert "tests/worker/images/test_png.py" not in files


def test_a_failing_test_is_named_with_its_reason() -> None:
    xml = """<testsuites><testsuite>
        <testcase name="test_a" time="1.5"/>
        <testcase name="test_b" time="0.5"><failure message="no such kernel"/></testcase>
        <testcase name="test_c" time="0"><skipped/></testcase>
    </testsuite></testsuites>"""

    passed, failed = device_tests.figures(xml)

    assert (passed.value, passed.detail) == (1, "2 s, 1 skipped")
    assert (failed.value, failed.detail, failed.met) == (1, "test_b: no such kernel", False)


def test_a_process_that_takes_too_long_is_interrupted(tmp_path: Path) -> None:
    script = "import sys, time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: open(sys.argv[1], 'w')"

    assert run_limited([sys.executable, "-S", "-c", script, str(tmp_path / "ended")], 1.0) is None

    assert (tmp_path / "ended").exists()
