"""The levels of SD_OPTIMIZE: what each does to a denoiser, what is kept over restarts, and what never waits."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from diffusers import Flux2Transformer2DModel

from shared.settings.worker import WorkerSettings
from tests.worker.engines.diffusers.acceleration.recording_graphs import RecordingGraphs
from worker.engines.diffusers.acceleration import attention, compiled_denoiser, eight_bit
from worker.engines.diffusers.acceleration.accelerator import Accelerator, DenoiserPlan
from worker.engines.diffusers.acceleration.decisions import Decision, Decisions
from worker.engines.diffusers.acceleration.sample_calls import SampleCall
from worker.engines.diffusers.acceleration.step_cache import MIN_STEPS, cached_steps
from worker.engines.diffusers.options import Level

CPU = torch.device("cpu")
TOKENS = {"64x64": 16, "96x96": 36}

pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)"),
]


@pytest.fixture
def denoiser() -> Flux2Transformer2DModel:
    torch.manual_seed(0)
    return Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        axes_dims_rope=[4] * 4,
        guidance_embeds=False,
    ).eval()


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything except the C++ compiler, which takes half a minute."""
    compile_with = compiled_denoiser._compile
    monkeypatch.setattr(
        compiled_denoiser,
        "_compile",
        lambda denoiser, device, _, shapes: compile_with(denoiser, device, "aot_eager", shapes),
    )


def call_of(size: str, images: int = 1) -> SampleCall:
    torch.manual_seed(1)
    tokens = TOKENS[size]
    return SampleCall(
        (),
        {
            "hidden_states": torch.randn(images, tokens, 16),
            "encoder_hidden_states": torch.randn(images, 8, 48),
            "timestep": torch.full((images,), 0.5),
            "img_ids": torch.zeros(images, tokens, 4),
            "txt_ids": torch.zeros(images, 8, 4),
            "return_dict": False,
        },
    )


def running(denoiser: torch.nn.Module) -> Callable[[str, int], object]:
    return lambda size, images: call_of(size, images)(denoiser)


def plan(denoiser: Any, level: Level, folder: Path | None = None, **fields: Any) -> DenoiserPlan:
    return DenoiserPlan(denoiser, CPU, level, ("model",), folder, **fields)


def compiled_graphs() -> int:
    count: int = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return count


def test_levels_have_the_names_of_the_setting() -> None:
    names = get_args(WorkerSettings.model_fields["optimize"].annotation)
    assert [Level[name.upper()] for name in names] == list(Level)


@pytest.mark.usefixtures("quick_compiler")
def test_fast_compiles_for_its_sizes_and_never_for_others(
    denoiser: Flux2Transformer2DModel, caplog: pytest.LogCaptureFixture
) -> None:
    usual = {size: call_of(size)(denoiser)[0] for size in TOKENS}
    fast = Accelerator(plan(denoiser, Level.FAST))

    with caplog.at_level(logging.INFO, "worker"):
        fast.prepare(["64x64"], [1], running(denoiser))
    compiled = compiled_graphs()
    assert compiled > 0
    results = {}
    for size in TOKENS:
        with fast.active((), steps=4):
            results[size] = call_of(size)(denoiser)[0]

    assert compiled_graphs() == compiled
    assert all(torch.allclose(results[size], usual[size], atol=1e-5) for size in TOKENS)
    assert "compiled for 64x64" in caplog.text
    assert fast.description.startswith("fast: compiled for 64x64 (")


@pytest.mark.usefixtures("quick_compiler")
def test_another_model_in_the_same_process_runs_as_its_own_level_says(denoiser: Flux2Transformer2DModel) -> None:
    other = copy.deepcopy(denoiser)
    fast, safe = Accelerator(plan(denoiser, Level.FAST)), Accelerator(plan(other, Level.SAFE))
    fast.prepare(["64x64"], [1], running(denoiser))
    compiled = compiled_graphs()

    with safe.active((), steps=4):
        call_of("96x96")(other)
    with fast.active((), steps=4):
        call_of("96x96")(denoiser)

    assert (safe.description, compiled_graphs()) == ("safe", compiled)


@pytest.mark.parametrize("level", [Level.OFF, Level.SAFE])
def test_lower_levels_compile_nothing(denoiser: Flux2Transformer2DModel, level: Level) -> None:
    accelerated = Accelerator(plan(denoiser, level))

    accelerated.prepare(["64x64"], [1], lambda *_: pytest.fail("ran"))

    assert accelerated.description == level.name.lower()


def test_parts_in_main_memory_are_not_accelerated(
    denoiser: Flux2Transformer2DModel, caplog: pytest.LogCaptureFixture
) -> None:
    backend = RecordingGraphs()
    accelerated = Accelerator(plan(denoiser, Level.FAST, is_resident=False), backend)

    accelerated.prepare(["64x64"], [1], lambda *_: pytest.fail("ran"))
    for _ in range(8):
        with accelerated.active((), steps=4):
            call_of("64x64")(denoiser)

    assert "parts of the model wait in main memory" in caplog.text
    assert backend.captures == 0


def test_a_compiler_that_fails_leaves_the_model_as_it_is(
    denoiser: Flux2Transformer2DModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no compiler\nmore")

    usual = call_of("64x64")(denoiser)[0]
    monkeypatch.setattr(compiled_denoiser, "_compile", fail)
    fast = Accelerator(plan(denoiser, Level.FAST))

    fast.prepare(["64x64"], [1], running(denoiser))

    assert "the model runs uncompiled; is there a C++ compiler? no compiler" in caplog.text
    with fast.active((), steps=4):
        assert torch.equal(call_of("64x64")(denoiser)[0], usual)
    assert fast.description == "fast"


def test_a_device_that_breaks_while_compiling_ends_the_start(
    denoiser: Flux2Transformer2DModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    compile_with = compiled_denoiser._compile
    monkeypatch.setattr(
        compiled_denoiser, "_compile", lambda denoiser, device, _, shapes: compile_with(denoiser, device, fail, shapes)
    )

    with pytest.raises(torch.AcceleratorError, match="an illegal memory access"):
        Accelerator(plan(denoiser, Level.FAST)).prepare(["64x64"], [1], running(denoiser))


def test_attention_is_timed_once_and_remembered(
    denoiser: Flux2Transformer2DModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[str] = []

    def seconds(call: SampleCall, forward: Any, _: torch.device) -> float:
        timed.append("timed")
        call(forward)
        return 1.0 / len(timed)

    monkeypatch.setattr(SampleCall, "seconds", seconds)
    for _ in range(2):
        chosen = attention.choose_attention(
            denoiser, call_of("64x64"), CPU, "_native_math", Decisions(tmp_path, "model")
        )
        assert chosen == "_native_math"

    assert len(timed) == 2


@pytest.mark.parametrize("candidate", ["flash", "no-such-backend"])
def test_attention_that_this_machine_lacks_is_not_chosen(denoiser: Flux2Transformer2DModel, candidate: str) -> None:
    chosen = attention.choose_attention(denoiser, call_of("64x64"), CPU, candidate, Decisions(None))

    assert chosen is None
    assert call_of("64x64")(denoiser)[0].isfinite().all()


def test_max_skips_steps_of_undistilled_models_that_take_many(denoiser: Flux2Transformer2DModel) -> None:
    def uses_cache(steps: int, *, distilled: bool) -> bool:
        with cached_steps(denoiser, steps, distilled=distilled) as cached:
            return cached

    assert uses_cache(MIN_STEPS, distilled=False)
    assert not uses_cache(MIN_STEPS - 1, distilled=False)
    assert not uses_cache(MIN_STEPS, distilled=True)
    # Afterwards the model is as before: a second time would be an error otherwise.
    assert uses_cache(MIN_STEPS, distilled=False)


def test_max_uses_eight_bits_only_where_they_are_faster(
    denoiser: Flux2Transformer2DModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantized = list[torch.nn.Module]()
    monkeypatch.setattr(eight_bit, "_quantize", quantized.append)
    for ratio, expected in ((0.8, 2), (1.1, 0)):
        quantized.clear()
        monkeypatch.setattr(eight_bit, "_measured", lambda *_, ratio=ratio, **__: Decision(ratio, chosen=ratio < 0.95))

        used = eight_bit.quantize_if_faster(
            denoiser, lambda: call_of("64x64")(denoiser), CPU, Decisions(None), compiled=False
        )

        assert (used, len(quantized)) == (expected > 0, expected)
