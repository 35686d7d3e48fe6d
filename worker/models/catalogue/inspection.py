"""Finds out what a candidate on disk is: an available model, or a reason why it is not one."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from shared.errors import ConfigurationError
from shared.models.catalogue import ModelState
from worker.models import weight_files
from worker.models.catalogue.entries import CatalogueModel
from worker.models.catalogue.scan import Candidate, CandidateKind
from worker.models.checkpoints.assembly import FindBase, NeedsBase, describe_file
from worker.models.checkpoints.header import IncompleteFile, InvalidHeader, ModelSpec, read_header
from worker.models.checkpoints.rejections import NotACheckpoint
from worker.models.contents.fingerprint import revision_of_files
from worker.models.download_plans import DownloadPlan, format_bytes, is_downloading
from worker.models.hub.licences import commercial_use_of, licence_of_folder
from worker.models.local_model import LocalModel, index_name
from worker.models.overrides import NO_OVERRIDES, ModelOverrides
from worker.models.sources import folder_model

logger = logging.getLogger(__name__)

#: A file that changed within this time may still be changing.
SETTLING_SECONDS = 2.0
#: An incomplete file that has not grown for this time is broken.
COPYING_SECONDS = 60.0


@dataclass(frozen=True)
class Inspector:
    find_base: FindBase
    settling_seconds: float = SETTLING_SECONDS

    def inspect(self, candidate: Candidate) -> CatalogueModel | None:
        """None for a folder that is no model itself. Raises nothing about the candidate's content."""
        try:
            return self._inspect(candidate)
        except IncompleteFile as error:
            return self._incomplete(candidate, str(error))
        except NeedsBase as error:
            return _entry(candidate, ModelState.MISSING, str(error))
        except (NotACheckpoint, InvalidHeader) as error:
            return _entry(candidate, ModelState.BROKEN, str(error))
        except ConfigurationError as error:
            return _entry(candidate, ModelState.BROKEN, error.detail)
        except OSError as error:
            return _entry(candidate, ModelState.BROKEN, f"The files cannot be read: {error.strerror or error}.")
        except Exception:
            # Models are files of strangers: whatever is wrong with one must not hide the others.
            logger.exception("%s cannot be inspected", candidate.path)
            return _entry(candidate, ModelState.BROKEN, "It cannot be understood; the log of the worker says why.")

    def is_final(self, candidate: Candidate, entry: CatalogueModel | None) -> bool:
        """Whether the same files always give the same entry."""
        changing = entry is not None and entry.state is ModelState.DOWNLOADING
        return not changing and candidate.kind is not CandidateKind.PLANNED

    def _inspect(self, candidate: Candidate) -> CatalogueModel | None:
        match candidate.kind:
            case CandidateKind.OUTSIDE:
                reason = "It is a symbolic link to a place outside SD_MODEL_DIR, or to nothing; move the files here."
                return _entry(candidate, ModelState.BROKEN, reason)
            case CandidateKind.PICKLE:
                kind = candidate.path.suffix
                reason = f"It is a pickle ({kind}), which can run code and is never loaded; convert it to .safetensors."
                return _entry(candidate, ModelState.BROKEN, reason)
            case CandidateKind.FOLDER:
                return self._folder(candidate)
            case CandidateKind.PLANNED:
                return _planned(candidate)
            case CandidateKind.PAIR:
                return self._pair(candidate)
            case CandidateKind.FILE:
                return self._file(candidate)

    def _folder(self, candidate: Candidate) -> CatalogueModel:
        index = index_name(candidate.path)
        if index is None:
            return _entry(candidate, ModelState.BROKEN, "Its index is not a file.")
        model = replace(folder_model(candidate.name, candidate.path, index), revision=_revision(candidate))
        if not model.pipeline_class.isidentifier():
            return _entry(candidate, ModelState.BROKEN, f"Its {index} names no pipeline class.")
        if reason := _missing_weights(candidate, model):
            return _entry(candidate, ModelState.BROKEN, reason)
        _require_whole_files(candidate)
        return CatalogueModel.available(model, ModelSpec(licence=licence_of_folder(candidate.path)), candidate.size)

    def _pair(self, candidate: Candidate) -> CatalogueModel | None:
        overrides = _overrides(candidate)
        if overrides.transformer is None:
            return None
        path = candidate.path / overrides.transformer
        if not path.resolve().is_relative_to(candidate.path.resolve()):
            raise NotACheckpoint(f"Its transformer {overrides.transformer} is a link that leads outside.")
        if not path.is_file():
            raise NeedsBase(f"Its transformer {overrides.transformer} is not there.")
        return self._described(candidate, path, overrides)

    def _file(self, candidate: Candidate) -> CatalogueModel:
        overrides = _overrides(candidate)
        if candidate.downloading:
            return _entry(candidate, ModelState.DOWNLOADING, "It is being downloaded.")
        entry = self._described(candidate, candidate.path, _without_pair(overrides))
        if entry.state is ModelState.AVAILABLE and candidate.age < self.settling_seconds:
            return _entry(candidate, ModelState.DOWNLOADING, "It has just changed, and may still be changing.")
        return entry

    def _described(self, candidate: Candidate, path: Path, overrides: ModelOverrides) -> CatalogueModel:
        model, spec = describe_file(candidate.name, path, overrides, self.find_base, _revision(candidate))
        return CatalogueModel.available(model, spec, candidate.size)

    def _incomplete(self, candidate: Candidate, reason: str) -> CatalogueModel:
        if candidate.age < COPYING_SECONDS:
            return _entry(candidate, ModelState.DOWNLOADING, f"{reason} It is still being copied.")
        return _entry(candidate, ModelState.BROKEN, f"{reason} Copy or download it again.")


def _without_pair(overrides: ModelOverrides) -> ModelOverrides:
    """Without what belongs to the folder's pair only, for other files beside it."""
    return overrides.model_copy(update={"transformer": None, "title": None}) if overrides.transformer else overrides


def _overrides(candidate: Candidate) -> ModelOverrides:
    return ModelOverrides.read(candidate.sidecar, candidate.name) if candidate.sidecar else NO_OVERRIDES


def _revision(candidate: Candidate) -> str:
    return revision_of_files((path, f"{size} {modified}") for path, size, modified, _ in candidate.signature)


def _entry(candidate: Candidate, state: ModelState, reason: str) -> CatalogueModel:
    return CatalogueModel(candidate.name, state, reason, candidate.size)


def _planned(candidate: Candidate) -> CatalogueModel:
    plan = DownloadPlan.read(candidate.path)
    if plan is None:
        return _entry(candidate, ModelState.BROKEN, "Its download.json is damaged; remove the folder.")
    done, total = plan.downloaded_bytes(candidate.path), plan.total_bytes
    progress = f"{format_bytes(done)} of {format_bytes(total)} are downloaded"
    running = is_downloading(candidate.path)
    reason = f"{progress}." if running else f"{progress}; continue with `imagegen models pull {candidate.name}`."
    state = ModelState.DOWNLOADING if running else ModelState.MISSING
    licence = plan.licence
    return CatalogueModel(
        candidate.name, state, reason, total, licence=licence, commercial_use=commercial_use_of(licence)
    )


def _require_whole_files(candidate: Candidate) -> None:
    """Raises InvalidHeader or IncompleteFile, which name the file."""
    for path, *_ in candidate.signature:
        if path.endswith(weight_files.SUFFIX):
            try:
                read_header(candidate.path / path)
            except InvalidHeader as error:
                raise type(error)(f"{path}: {error}") from None


def _missing_weights(candidate: Candidate, model: LocalModel) -> str | None:
    """A sentence if a part that has a configuration has no weights, or shards are missing."""
    files: dict[str, list[str]] = {}
    for path, size, *_ in candidate.signature:
        part, _, name = path.rpartition("/")
        if size:
            files.setdefault(part, []).append(name)
    for part in model.parts:
        names = files.get(part, [])
        if not names:
            return f"Its part {part} is missing."
        if "config.json" in names and not any(name.endswith(weight_files.SUFFIX) for name in names):
            if any(name.endswith(weight_files.PICKLES) for name in names):
                return f"The weights of its part {part} are a pickle, which is never loaded."
            if "preprocessor_config.json" not in names and "tokenizer_config.json" not in names:
                return f"The weights of its part {part} are missing."
        if shard := weight_files.missing_shard(names):
            return f"The shard {part}/{shard} is missing."
    return None
