"""What a model would be on this machine, before it is downloaded or loaded."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from shared.errors import ConfigurationError
from worker.models.catalogue.entries import CatalogueModel
from worker.models.checkpoints.header import InvalidHeader, ModelSpec, count_parameters, read_header
from worker.models.download_plans import DownloadPlan
from worker.models.families import Family, family_of
from worker.models.hub.licences import licence_of_folder
from worker.models.local_model import LocalModel, index_name
from worker.models.placements import (
    HALF_PRECISION,
    WIDTHS,
    Placement,
    Quantization,
    choose_placement,
    choose_quantization,
    working_bytes,
)
from worker.models.sources import ModelSource, folder_model
from worker.models.weight_files import SUFFIX, weights_in

if TYPE_CHECKING:
    from worker.models.hub.downloads import Downloader


@dataclass(frozen=True)
class Prospect:
    family: Family
    licence: str | None
    commercial_use: bool | None
    total_bytes: int
    missing_bytes: int
    """Still to download."""
    parameters: Mapping[str, float]
    """How many numbers each part with weights has."""
    pixels: int
    """Of an image of the native size."""
    denoiser: str
    is_compressed: bool
    """Whether the weights of the denoiser stay as small as they are on disk."""

    def precision(self, setting: str, device: str) -> str:
        """`setting` is SD_DTYPE, `device` the kind of a device."""
        if setting != "auto":
            return setting
        return HALF_PRECISION[self.family.is_safe_in_float16].get(device, "float32")

    def sizes(self, precision: str, step: Quantization = Quantization.NONE) -> dict[str, int]:
        """Bytes of each part in memory; of quantized ones, about so many: a few of their numbers stay as they are."""
        usual, width = WIDTHS[precision], step.width
        changed = set(step.parts(self.parameters, self.denoiser) if width else ())
        if self.is_compressed:
            changed.discard(self.denoiser)
        return {
            part: int(count * (width if width and part in changed else usual))
            for part, count in self.parameters.items()
        }

    def on_device(self, precision: str, quantize: str, device: str, free: int | None) -> "OnDevice":
        """`quantize` is SD_QUANTIZE, and `free` are the free bytes of a device with memory of its own."""
        working = working_bytes(self.parameters, self.pixels, WIDTHS[precision])

        def sizes_of(step: Quantization) -> dict[str, int]:
            return self.sizes(precision, step)

        def obstacle_to(step: Quantization) -> str | None:
            return step.obstacle(device, in_bfloat16=precision == "bfloat16", is_compressed=self.is_compressed)

        step, obstacles = choose_quantization(quantize, sizes_of, obstacle_to, free, working)
        sizes = sizes_of(step)
        return OnDevice(step, sizes, choose_placement(sizes, free, working), obstacles)


@dataclass(frozen=True)
class OnDevice:
    """How a worker on this machine would hold a model."""

    quantization: Quantization
    sizes: Mapping[str, int]
    placement: Placement
    obstacles: Mapping[Quantization, str]
    """Why formats that the setting requests, or in which all of it would fit, cannot be used."""


def prospect_of(source: ModelSource) -> Prospect:
    """Downloads configurations at most. Raises ConfigurationError with advice."""
    if source.is_remote and index_name(source.folder, source.index) is None:
        return _remote(source)
    return _local(source.ensure_downloaded())


def _local(model: LocalModel) -> Prospect:
    try:
        parameters = _parameters_in_file(model) if model.file_parts else _parameters_in_folder(model)
    except (InvalidHeader, OSError) as error:
        raise ConfigurationError(f"The model {model.name} cannot be read: {error}") from None
    size = sum(file.stat().st_size for file in _files_of(model))
    return _prospect(model, licence_of_folder(model.folder), parameters, size, 0)


def _files_of(model: LocalModel) -> list[Path]:
    return [model.path] if model.path.is_file() else [file for file in model.path.rglob("*") if file.is_file()]


def _parameters_in_folder(model: LocalModel) -> dict[str, float]:
    return {
        part: float(sum(count_parameters(read_header(file).tensors.values()) for file in files))
        for part in model.parts
        if (files := weights_in(model.folder / part, "auto"))
    }


def _parameters_in_file(model: LocalModel) -> dict[str, float]:
    base = {part: count for part, count in _parameters_in_folder(model).items() if part not in model.file_parts}
    if model.path.suffix != SUFFIX:
        # Its weights stay compressed in memory.
        size = model.path.stat().st_size / WIDTHS["bfloat16"]
        return base | dict.fromkeys(model.file_parts, float(size))
    held = read_header(model.path).parts
    return base | {
        part: float(count_parameters(held.get(role, {}).values())) for part, role in model.file_parts.items()
    }


def _remote(source: ModelSource) -> Prospect:
    # Imported late: workers without local models do not have the hub's client installed.
    from worker.models.hub.downloads import Downloader
    from worker.models.hub.errors import HubUnreachable, validate_model_id

    name = source.repository
    validate_model_id(name)
    downloader = Downloader(source.token, source.dtype, lambda *_: None, source.index)
    try:
        with TemporaryDirectory() as temporary:
            plan = downloader.plan(name, source.folder)
            downloader.fetch_configurations(name, plan, Path(temporary))
            index = index_name(Path(temporary), source.index) or source.index
            model = folder_model(source.model_id, Path(temporary), index)
            missing = plan.total_bytes - plan.complete_bytes(source.folder)
            parameters = _planned_parameters(name, plan, downloader)
            return _prospect(model, plan.licence, parameters, plan.total_bytes, missing)
    except HubUnreachable as error:
        raise ConfigurationError(f"Hugging Face is unreachable ({error}), and {name} is not on this machine.") from None


def _planned_parameters(name: str, plan: DownloadPlan, downloader: "Downloader") -> dict[str, float]:
    """From the sizes of the files, and the precision of the first file of each part."""
    weights: dict[str, list[tuple[str, int]]] = {}
    for file in plan.files:
        part, _, last = file.path.rpartition("/")
        if last.endswith(SUFFIX):
            weights.setdefault(part, []).append((file.path, file.size))
    return {
        part: sum(size for _, size in files) / downloader.stored_width(name, plan.commit, files[0][0])
        for part, files in weights.items()
    }


def _prospect(
    model: LocalModel, licence: str | None, parameters: Mapping[str, float], total: int, missing: int
) -> Prospect:
    family = family_of(model)
    entry = CatalogueModel.available(model, ModelSpec(licence=licence))
    return Prospect(
        family=family,
        licence=entry.licence,
        commercial_use=entry.commercial_use,
        total_bytes=total,
        missing_bytes=missing,
        parameters=parameters,
        pixels=math.prod(family.native_size(model)),
        denoiser=model.denoiser,
        is_compressed=bool(model.file_parts) and model.path.suffix != SUFFIX,
    )
