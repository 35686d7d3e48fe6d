"""From settings to an engine with its model; of all engines, only the one that is named is imported."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import assert_never

from shared.errors import ConfigurationError
from shared.jobs.types import Backend
from shared.redis.concurrency_slots import ConcurrencySlots
from shared.redis.store import Store
from shared.settings.worker import WorkerSettings
from worker.engines.base import Engine
from worker.models.download_plans import OnProgress
from worker.models.required_files import MODEL_CONFIG
from worker.models.sources import ModelSource
from worker.records.concurrency_slots import RedisConcurrencySlots


def load_engine(settings: WorkerSettings, store: Store, on_download: OnProgress) -> Engine:
    """The engine that SD_BACKEND names. Raises ConfigurationError."""
    match settings.backend:
        case Backend.SD:
            return _stable_diffusion(settings, on_download)
        case Backend.FLUX_LOCAL:
            return _flux_local(settings, on_download)
        case Backend.FLUX_API:
            return _flux_api(settings, store)
        case Backend.NULL:
            from worker.engines.null import NullEngine

            return NullEngine()
        case _:
            assert_never(settings.backend)


@contextmanager
def _importing() -> Iterator[None]:
    """Keeps Python's garbage collector off what the block imports, then and later.

    An import makes hundreds of thousands of objects and next to no garbage. Looking through them again and again was a
    quarter of the time that torch and diffusers take to import, and would later stop an image for 0.4 s now and then.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _stable_diffusion(settings: WorkerSettings, on_download: OnProgress) -> Engine:
    model = ModelSource.for_backend(settings, Backend.SD).ensure_downloaded(on_download)
    # Takes seconds: a wrong SD_MODEL_ID is told before.
    with _importing():
        from worker.engines.diffusers.stable_diffusion import StableDiffusion, StableDiffusionOptions

    options = StableDiffusionOptions(
        device=settings.device,
        dtype=settings.dtype,
        safety_checker=_checker(settings, on_download),
        lora_dir=settings.lora_dir,
        max_batch_size=settings.max_batch_size,
        optimize=settings.optimize,
        compile_sizes=settings.compile_sizes,
        cloud=_has_cloud(settings),
    )
    return StableDiffusion.load(model, options)


def _flux_local(settings: WorkerSettings, on_download: OnProgress) -> Engine:
    model = ModelSource.for_backend(settings, Backend.FLUX_LOCAL).ensure_downloaded(on_download)
    with _importing():
        from worker.engines.diffusers.flux_local import FluxLocal, FluxOptions

    options = FluxOptions(
        device=settings.device,
        dtype=settings.dtype,
        safety_checker=_checker(settings, on_download),
        cloud=_has_cloud(settings),
    )
    return FluxLocal.load(model, options)


def _flux_api(settings: WorkerSettings, store: Store) -> Engine:
    from worker.engines.bfl.engine import FluxApi
    from worker.images.memory_budget import return_freed_memory

    if settings.bfl_api_key is None:
        raise ConfigurationError("SD_BFL_API_KEY is empty: flux-api needs a key from https://dashboard.bfl.ai.")
    return_freed_memory()
    places = ConcurrencySlots(settings.redis_prefix, settings.backend, settings.bfl_concurrency)
    return FluxApi(
        settings.bfl_base_url,
        settings.bfl_api_key,
        settings.bfl_default_model,
        settings.job_timeout_seconds,
        RedisConcurrencySlots(store, places),
        settings.bfl_memory_bytes,
    )


def _has_cloud(settings: WorkerSettings) -> bool:
    return Backend.FLUX_API in settings.backends and settings.bfl_api_key is not None


def _checker(settings: WorkerSettings, on_download: OnProgress) -> Callable[[], Path] | None:
    """Finds the safety checker for models that bring none; None where the operator wants none."""
    source = ModelSource.for_model(settings, settings.safety_checker_id, "SD_SAFETY_CHECKER_ID", MODEL_CONFIG)

    def find() -> Path:
        try:
            return source.ensure_downloaded(on_download).folder
        except ConfigurationError as error:
            raise ConfigurationError(
                f"Images cannot be checked: {error.detail} SD_SAFETY_CHECKER_ID names another checker, a local "
                "folder too; SD_SAFETY_CHECKER=false works without."
            ) from None

    return find if settings.safety_checker else None
