"""Compiled code in SD_DATA_DIR: by PyTorch's own compiler, for functions that need no C++ compiler."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache
from torch.compiler._cache import CacheArtifactManager

from worker.engines.diffusers.acceleration.accelerator import Accelerator, DenoiserPlan
from worker.engines.diffusers.acceleration.compiled_code import CompiledCode
from worker.engines.diffusers.acceleration.compiled_denoiser import CompiledDenoiser, compile_denoiser
from worker.engines.diffusers.options import Level

CPU = torch.device("cpu")

pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.filterwarnings("ignore::Warning:torch"),
]


class Denoiser(torch.nn.Module):
    """Multiplies matrices, for which the compiler calls a library."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.power = power

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        result = sample
        for _ in range(self.power):
            result = result @ sample
        return result

    def compile_repeated_blocks(self, **options: object) -> None:
        self.compile(**options)


@contextmanager
def new_process() -> Iterator[None]:
    """Nothing is known of what was compiled before."""
    torch.compiler.reset()
    counters.clear()
    with fresh_cache(), CacheArtifactManager.with_fresh_cache():
        yield


def start(folder: Path, power: int = 1, model: str = "model") -> CompiledDenoiser:
    denoiser = Denoiser(power)
    code = CompiledCode(folder, CPU, model)
    return compile_denoiser(denoiser, [lambda: denoiser(torch.eye(8))], CPU, code, sizes=["64x64"])


def found() -> int:
    count: int = counters["inductor"]["fxgraph_cache_hit"]
    return count


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "compiled"


@pytest.fixture
def kept(folder: Path) -> Path:
    with new_process():
        start(folder)
    (file,) = folder.iterdir()
    return file


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    with caplog.at_level(logging.INFO, "worker"):
        yield lambda: caplog.text


def test_a_process_that_starts_again_has_the_code_of_the_last_one(
    kept: Path, log: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    written = kept.stat().st_ino
    with new_process():
        start(kept.parent)
        assert found() == 1

    assert "from kept code" in log()
    assert kept.stat().st_ino == written


def test_it_is_loaded_for_exactly_what_it_was_compiled_for(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with new_process():
        assert not CompiledCode(kept.parent, CPU, "another model").load()
        assert CompiledCode(kept.parent, CPU, "model").load()
        monkeypatch.setattr(torch, "__version__", "99")
        assert not CompiledCode(kept.parent, CPU, "model").load()


def test_code_that_another_release_compiled_in_another_way_is_replaced(
    kept: Path, log: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    with new_process():
        start(kept.parent, power=2)
        assert found() == 0
    assert "from kept code" not in log()
    with new_process():
        start(kept.parent, power=2)
        assert found() == 1
    assert "from kept code" in log()


def test_code_of_another_model_of_the_process_is_not_taken_for_new_code(
    kept: Path, log: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    written = kept.stat().st_ino
    with new_process():
        start(kept.parent, power=2, model="another model")
        assert "from kept code" not in log()
        start(kept.parent)

    assert "from kept code" in log()
    assert kept.stat().st_ino == written


def test_any_number_of_models_of_one_class_is_compiled(folder: Path) -> None:
    with new_process():
        for power in range(1, 11):
            model = Denoiser(power)
            accelerator = Accelerator(DenoiserPlan(model, CPU, Level.FAST, (power,), folder))
            accelerator.prepare(["64x64"], [1], lambda *_, model=model: model(torch.eye(8)))
            assert "compiled for 64x64" in accelerator.description


def test_only_its_owner_may_read_or_write_it(kept: Path) -> None:
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_file_that_others_may_write_is_not_loaded(kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept.chmod(0o666)

    with new_process():
        assert not CompiledCode(kept.parent, CPU, "model").load()
    assert "may be changed by, another user" in caplog.text


def test_a_damaged_file_is_removed_and_compiled_again(kept: Path) -> None:
    kept.write_bytes(os.urandom(100))

    with new_process():
        assert not CompiledCode(kept.parent, CPU, "model").load()
        assert not kept.exists()
        start(kept.parent)
    with new_process():
        assert CompiledCode(kept.parent, CPU, "model").load()


def test_old_files_make_room(folder: Path) -> None:
    with new_process():
        start(folder)
        for number in range(30):
            CompiledCode(folder, CPU, number).save()

    assert len(list(folder.iterdir())) == 16


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()

    with new_process():
        start(tmp_path / "file")

    assert "compiled code cannot be kept" in caplog.text
