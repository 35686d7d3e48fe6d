"""Loads the configured engine with its model. Only that engine is imported."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from shared.errors import ConfigurationError
from shared.jobs.types import Backend
from shared.redis.concurrency_slots import ConcurrencySlots
from shared.redis.store import Operation, Store
from shared.settings.worker import WorkerSettings
from shared.workers.devices import DeviceMemory
from shared.workers.models import ModelRecords
from worker.engines.base import EngineSource, SingleEngine
from worker.images.scaling import Scale, scaled
from worker.models.catalogue import Catalogue
from worker.models.download_plans import OnProgress
from worker.models.required_files import MODEL_CONFIG
from worker.models.sources import ModelSource
from worker.process.model_pools import create_pool, measured_bytes
from worker.process.more_models import download_in_background
from worker.records.concurrency_slots import RedisConcurrencySlots
from worker.records.heartbeat import Heartbeat
from worker.records.model_reports import ModelUpkeep, source_name
from worker.records.recovery import WorkerIdentity

if TYPE_CHECKING:
    from worker.engines.bfl.engine import FluxApi

#: The folder in SD_DATA_DIR for compiled models.
COMPILED = "compiled"


@dataclass(frozen=True)
class WorkerEngines:
    source: EngineSource
    upkeep: ModelUpkeep | None = None
    """None for a source with one engine."""
    memory: Callable[[], DeviceMemory | None] | None = None
    """Reads how full the device is."""
    is_elsewhere: Callable[[str], Operation[bool]] | None = None
    """Asks whether another machine has a model."""
    scale: Scale = scaled
    """Scales finished images."""


def load_engines(
    settings: WorkerSettings, store: Store, worker: WorkerIdentity, heartbeat: Heartbeat, on_download: OnProgress
) -> WorkerEngines:
    """Load the engine that SD_BACKEND names, with its default model.

    Raise ConfigurationError if that is not possible.
    """
    match settings.backend:
        case Backend.SD | Backend.FLUX_LOCAL:
            return _diffusers(settings, store, worker, heartbeat, on_download)
        case Backend.FLUX_API:
            return WorkerEngines(SingleEngine(_flux_api(settings, store)))
        case Backend.NULL:
            return _null(settings, store, worker, heartbeat)
        case _:
            assert_never(settings.backend)


def _null(settings: WorkerSettings, store: Store, worker: WorkerIdentity, heartbeat: Heartbeat) -> WorkerEngines:
    from worker.engines.null import NullModels

    return WorkerEngines(*create_pool(settings, store, worker, heartbeat, NullModels()))


@contextmanager
def _importing() -> Iterator[None]:
    """Exempt everything that the block imports from garbage collection, now and later.

    Importing creates hundreds of thousands of objects and hardly any garbage. Scanning them repeatedly took a quarter
    of the import time of torch and diffusers, and would later pause rendering for 0.4 s now and then.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _diffusers(
    settings: WorkerSettings, store: Store, worker: WorkerIdentity, heartbeat: Heartbeat, on_download: OnProgress
) -> WorkerEngines:
    model = ModelSource.for_backend(settings, settings.backend).ensure_downloaded(on_download)
    # Imported late, because it takes seconds, so a wrong SD_MODEL_ID is reported first.
    with _importing():
        from worker.engines.diffusers.loading.local_models import LocalModels
        from worker.engines.diffusers.memory.devices import choose_device, choose_dtype, device_memory
        from worker.engines.diffusers.memory.placement import usable_bytes
        from worker.engines.diffusers.options import DiffusersOptions, Level
        from worker.engines.upscaling.engine import HALF
        from worker.engines.upscaling.enlarging import Enlarger
        from worker.engines.upscaling.upscalers import ModelsAndUpscalers

    options = DiffusersOptions(
        device=settings.device,
        dtype=settings.dtype,
        safety_checker=_safety_checker(settings, on_download),
        lora_dir=settings.lora_dir,
        embedding_dir=settings.embedding_dir,
        max_batch_size=settings.max_batch_size,
        level=Level[settings.optimize.upper()],
        quantize=settings.quantize,
        compile_sizes=settings.compile_sizes,
        data_dir=settings.data_dir / COMPILED,
        suggest_cloud=_has_cloud(settings),
    )
    device, records = choose_device(settings.device), ModelRecords(settings.redis_prefix)
    models = LocalModels(
        Catalogue.of(settings),
        model,
        options,
        settings.backend,
        lambda name: measured_bytes(store, records, settings.backend, name),
        settings.commercial_only,
    )
    offered = ModelsAndUpscalers(models, settings.model_dir, settings.backend, settings.device, settings.dtype)
    pool, upkeep = create_pool(settings, store, worker, heartbeat, offered, partial(usable_bytes, device))
    elsewhere = partial(records.is_elsewhere, settings.backend, source_name(settings.model_dir, model.name))
    download_in_background(settings, on_download)
    scale = Enlarger(device, choose_dtype(settings.dtype, device, HALF))
    return WorkerEngines(pool, upkeep, partial(device_memory, device), elsewhere, scale)


def _flux_api(settings: WorkerSettings, store: Store) -> "FluxApi":
    from worker.engines.bfl.engine import FluxApi
    from worker.images.memory_budget import return_freed_memory

    if settings.bfl_api_key is None:
        raise ConfigurationError("SD_BFL_API_KEY is empty: flux-api needs a key from https://dashboard.bfl.ai.")
    return_freed_memory()
    slots = ConcurrencySlots(settings.redis_prefix, settings.backend, settings.bfl_concurrency)
    return FluxApi(
        settings.bfl_base_url,
        settings.bfl_api_key,
        settings.bfl_default_model,
        settings.job_timeout_seconds,
        RedisConcurrencySlots(store, slots),
        settings.bfl_memory_bytes,
        image_proxy=settings.parsed_egress_proxy,
    )


def _has_cloud(settings: WorkerSettings) -> bool:
    return Backend.FLUX_API in settings.backends and settings.bfl_api_key is not None


def _safety_checker(settings: WorkerSettings, on_download: OnProgress) -> Callable[[], Path] | None:
    """Returns the folder of the safety checker for models without their own; None if checking is switched off."""
    source = ModelSource.for_model(settings, settings.safety_checker_id, "SD_SAFETY_CHECKER_ID", MODEL_CONFIG)

    def find() -> Path:
        try:
            return source.ensure_downloaded(on_download).folder
        except ConfigurationError as error:
            raise ConfigurationError(
                f"The safety checker is missing: {error.detail} Set SD_SAFETY_CHECKER_ID to another checker (a Hugging "
                "Face id or a local folder), or SD_SAFETY_CHECKER=false to run without one."
            ) from None

    return find if settings.safety_checker else None
