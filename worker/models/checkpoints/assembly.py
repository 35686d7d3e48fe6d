"""Describes a single file as a model: alone with the bundled configurations, or on a base model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.models.checkpoints import configurations
from worker.models.checkpoints.header import read_header
from worker.models.checkpoints.recognition import NotACheckpoint, Recognised, UnknownFamily, recognise
from worker.models.checkpoints.tensor_names import Role
from worker.models.local_model import LocalModel, ModelFormat
from worker.models.overrides import ModelOverrides

GGUF = ".gguf"
BUNDLED = configurations.TOKENIZERS.parent
#: For messages.
FAMILY_NAMES = {
    "sd15": "Stable Diffusion 1.5",
    "sd2": "Stable Diffusion 2",
    "sdxl": "Stable Diffusion XL",
    "sd3": "Stable Diffusion 3",
    "flux1": "FLUX.1",
    "chroma": "Chroma",
    "z-image": "Z-Image",
}


class NeedsBase(Exception):
    """The file lacks parts that a base has; the message is one sentence. `pipelines` are those of usable bases."""

    def __init__(self, message: str, pipelines: frozenset[str] = frozenset()) -> None:
        super().__init__(message)
        self.pipelines = pipelines


def describe_file(
    name: str, path: Path, overrides: ModelOverrides, base: LocalModel | None, revision: str
) -> tuple[LocalModel, Recognised | None]:
    """The model in a file, and what its header says; None for files that only their base describes.

    Raises NotACheckpoint, NeedsBase, InvalidHeader and OSError.
    """
    if path.suffix == GGUF:
        return _gguf(name, path, overrides, base, revision), None
    header = read_header(path)
    try:
        recognised = recognise(header, path.stem)
    except UnknownFamily:
        if base is None:
            raise
        return _on_base(name, path, overrides, base, revision, {}, ModelFormat.TRANSFORMER), None
    return _recognised(name, path, overrides, base, revision, recognised), recognised


def _recognised(
    name: str, path: Path, overrides: ModelOverrides, base: LocalModel | None, revision: str, found: Recognised
) -> LocalModel:
    lacking = [part for part in found.missing if base is None or part not in base.parts]
    if lacking:
        raise NeedsBase(_lacking_sentence(found, lacking, base), frozenset({configurations.pipeline_of(found.family)}))
    bundled = configurations.names_of_parts(found.family)
    tokenizers = {part: value for part, value in bundled.items() if configurations.is_tokenizer(value)}
    index: dict[str, Any] = dict(found.index)
    configs: Mapping[str, Mapping[str, Any]] = found.configs
    if base is not None:
        tokenizers = {part: value for part, value in tokenizers.items() if part not in base.parts}
        index |= {part: list(value) for part, value in base.parts.items() if part not in found.roles}
        configs = {part: config for part, config in configs.items() if part in found.roles}
    present = {part for part, value in index.items() if isinstance(value, list) and None not in value}
    return LocalModel(
        name=name,
        path=path,
        format=ModelFormat.TRANSFORMER if found.missing else ModelFormat.CHECKPOINT,
        folder=base.folder if base else BUNDLED,
        base=base.name if base else None,
        index=index,
        overrides=overrides,
        family_key=found.variant.family_key,
        revision=revision,
        configs=configs,
        file_parts={part: str(role) for part, role in found.roles.items()},
        tokenizers={part: value for part, value in tokenizers.items() if part in present},
    )


def _gguf(name: str, path: Path, overrides: ModelOverrides, base: LocalModel | None, revision: str) -> LocalModel:
    with path.open("rb") as file:
        magic = file.read(8)
    if magic[:4] != b"GGUF" or int.from_bytes(magic[4:], "little") not in (2, 3):
        raise NotACheckpoint("This is not a GGUF file of version 2 or 3.")
    if base is None:
        raise NeedsBase(
            f"A GGUF file holds only the transformer: name its base model in {path.stem}.imagegen.json beside it, as "
            '{"base": "owner/name"}.'
        )
    return _on_base(name, path, overrides, base, revision, {}, ModelFormat.TRANSFORMER)


def _on_base(
    name: str,
    path: Path,
    overrides: ModelOverrides,
    base: LocalModel,
    revision: str,
    configs: Mapping[str, Mapping[str, Any]],
    kind: ModelFormat,
) -> LocalModel:
    part = next((part for part in ("transformer", "unet") if part in base.parts), None)
    if part is None:
        raise NotACheckpoint(f"Its base {base.name} has no transformer.")
    return LocalModel(
        name=name,
        path=path,
        format=kind,
        folder=base.folder,
        base=base.name,
        index=base.index,
        overrides=overrides,
        family_key=base.family_key,
        revision=revision,
        configs=configs,
        file_parts={part: str(Role.DENOISER)},
    )


def _lacking_sentence(found: Recognised, lacking: list[str], base: LocalModel | None) -> str:
    family, parts = FAMILY_NAMES[found.family], " and ".join(lacking)
    if base is not None:
        return f"The file lacks {parts} of {family}, and so does its base {base.name}."
    return (
        f"The file lacks {parts} of {family}: put a folder of that model in diffusers' format into SD_MODEL_DIR, or "
        "name one as `base` in an imagegen.json beside the file."
    )
