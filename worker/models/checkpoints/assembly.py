"""Describes a single file as a model: alone with the bundled configurations, or on a base model."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from worker.models.checkpoints import configurations
from worker.models.checkpoints.header import ModelSpec, read_header
from worker.models.checkpoints.recognition import Recognised, UnknownFamily, recognise
from worker.models.checkpoints.rejections import NotACheckpoint
from worker.models.checkpoints.tensor_names import Role
from worker.models.contents.fingerprint import revision_of_files
from worker.models.local_model import LocalModel
from worker.models.overrides import ModelOverrides

GGUF = ".gguf"
BUNDLED = configurations.TOKENIZERS.parent
#: The base of this name, or else one with this pipeline; None if there is none.
FindBase = Callable[[str | None, str | None], LocalModel | None]
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
    """The file lacks parts that a base has; the message is one sentence."""


def describe_file(
    name: str, path: Path, overrides: ModelOverrides, find_base: FindBase, revision: str
) -> tuple[LocalModel, ModelSpec]:
    """The model in a file, and what its header says of it.

    `revision` is that of the file. Raises NotACheckpoint, NeedsBase, InvalidHeader, OSError, and what `find_base`
    raises.
    """
    base, spec = _named_base(overrides, find_base), ModelSpec()
    if path.suffix == GGUF:
        model = _gguf(name, path, overrides, base)
    else:
        try:
            found = recognise(read_header(path), path.stem)
        except UnknownFamily:
            if base is None:
                raise
            # Only its base describes it.
            model = _on_base(name, path, overrides, base)
        else:
            if found.missing and base is None:
                base = find_base(None, configurations.pipeline_of(found.family))
            model, spec = _recognised(name, path, overrides, base, found), found.spec
    if base is not None:
        revision = revision_of_files([(base.name, base.revision), (path.name, revision)])
    return replace(model, revision=revision), spec


def _named_base(overrides: ModelOverrides, find_base: FindBase) -> LocalModel | None:
    if overrides.base is None:
        return None
    base = find_base(overrides.base, None)
    if base is None:
        raise NeedsBase(f"Its base {overrides.base} is not available: `imagegen models pull {overrides.base}`.")
    return base


def _recognised(
    name: str, path: Path, overrides: ModelOverrides, base: LocalModel | None, found: Recognised
) -> LocalModel:
    lacking = [part for part in found.missing if base is None or part not in base.parts]
    if lacking:
        raise NeedsBase(_lacking_sentence(found, lacking, base))
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
        folder=base.folder if base else BUNDLED,
        base=base.name if base else None,
        index=index,
        overrides=overrides,
        family_key=found.variant.family_key,
        configs=configs,
        file_parts=found.roles,
        tokenizers={part: value for part, value in tokenizers.items() if part in present},
    )


def _gguf(name: str, path: Path, overrides: ModelOverrides, base: LocalModel | None) -> LocalModel:
    with path.open("rb") as file:
        magic = file.read(8)
    if magic[:4] != b"GGUF" or int.from_bytes(magic[4:], "little") not in (2, 3):
        raise NotACheckpoint("This is not a GGUF file of version 2 or 3.")
    if base is None:
        raise NeedsBase(
            f"A GGUF file holds only the transformer: name its base model in {path.stem}.imagegen.json beside it, as "
            '{"base": "owner/name"}.'
        )
    return _on_base(name, path, overrides, base)


def _on_base(name: str, path: Path, overrides: ModelOverrides, base: LocalModel) -> LocalModel:
    if base.denoiser not in base.parts:
        raise NotACheckpoint(f"Its base {base.name} has no transformer.")
    parts = {base.denoiser: Role.DENOISER}
    return replace(base, name=name, path=path, base=base.name, overrides=overrides, file_parts=parts)


def _lacking_sentence(found: Recognised, lacking: list[str], base: LocalModel | None) -> str:
    family, parts = FAMILY_NAMES[found.family], " and ".join(lacking)
    if base is not None:
        return f"The file lacks {parts} of {family}, and so does its base {base.name}."
    return (
        f"The file lacks {parts} of {family}: put a folder of that model in diffusers' format into SD_MODEL_DIR, or "
        "name one as `base` in an imagegen.json beside the file."
    )
