"""The models on this machine: those of the settings, and everything that lies in SD_MODEL_DIR."""

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from shared.models.catalogue import ModelState
from shared.settings.worker import WorkerSettings
from worker.models.catalogue.entries import CatalogueModel
from worker.models.catalogue.inspection import SETTLING_SECONDS, Inspector
from worker.models.catalogue.scan import MAX_FILES, Candidate, CandidateKind, FolderScan
from worker.models.contents.fingerprint import revision_of_files
from worker.models.local_model import LocalModel
from worker.models.sources import STARTER_NAME, UPSCALERS_FOLDER, ModelSource

logger = logging.getLogger(__name__)

_ORDER = tuple(CandidateKind)


@dataclass(frozen=True)
class _Inspected:
    candidate: Candidate
    bases: str
    """A fingerprint of the folders that a file can have as its base."""
    entry: CatalogueModel | None

    def holds(self, candidate: Candidate, bases: str) -> bool:
        """Whether inspecting again would give the same entry."""
        return self.candidate == candidate and (self.bases == bases or not self._depends_on_base)

    @property
    def _depends_on_base(self) -> bool:
        if self.entry is None or self.candidate.kind not in (CandidateKind.PAIR, CandidateKind.FILE):
            return False
        return self.entry.state is ModelState.MISSING or (
            self.entry.model is not None and self.entry.model.base is not None
        )


class Catalogue:
    """Scans when asked, and reads only files that changed since. Safe to use from several threads."""

    def __init__(
        self,
        model_dir: Path,
        sources: Iterable[ModelSource] = (),
        skipped: Iterable[Path] = (),
        settling_seconds: float = SETTLING_SECONDS,
    ) -> None:
        self._model_dir, self._sources, self._skipped = model_dir.absolute(), tuple(sources), tuple(skipped)
        self._inspector = Inspector(self._find_base, settling_seconds=settling_seconds)
        self._lock = threading.Lock()
        self._inspected: dict[Path, _Inspected] = {}
        self._models: dict[str, CatalogueModel] = {}

    @classmethod
    def of(cls, settings: WorkerSettings) -> Self:
        """Of the models that the settings name, and of SD_MODEL_DIR."""
        return cls(
            settings.model_dir,
            [*ModelSource.all_named(settings), ModelSource.for_model(settings, STARTER_NAME, "")],
            [settings.lora_dir, settings.embedding_dir, settings.model_dir / UPSCALERS_FOLDER],
        )

    def scan(self) -> Mapping[str, CatalogueModel]:
        """By name, sorted. Raises nothing: what is wrong with a model is in its entry."""
        with self._lock:
            candidates, missing = self._candidates()
            before, self._inspected, self._models = self._inspected, {}, {}
            taken: set[Path] = set()
            bases = ""
            for candidate in candidates:
                if candidate.kind is not CandidateKind.FOLDER and not bases:
                    bases = revision_of_files((base.name, base.revision) for base in self._bases())
                if candidate.path not in taken:
                    taken |= self._add(candidate, bases, before)
            for entry in missing:
                self._models.setdefault(entry.name, entry)
            settings = {source.model_id: source.setting for source in reversed(self._sources)}
            return {
                name: replace(entry, setting=settings.get(name) or None) for name, entry in sorted(self._models.items())
            }

    def _candidates(self) -> tuple[list[Candidate], list[CatalogueModel]]:
        """Those on disk, in the order of inspection, and entries for models of the settings that are not."""
        scan = FolderScan(self._model_dir, self._skipped)
        found, missing = [], []
        for source in dict.fromkeys(self._sources):
            candidate = scan.candidate_at(source.folder.absolute(), source.model_id)
            if candidate is not None:
                found.append(candidate)
            else:
                missing.append(CatalogueModel(source.model_id, ModelState.MISSING, _missing_sentence(source)))
        candidates = sorted([*found, *scan.candidates()], key=lambda candidate: _ORDER.index(candidate.kind))
        if not scan.is_complete:
            logger.warning("%s has more than %d files; the others are ignored", self._model_dir, MAX_FILES)
        return candidates, missing

    def _add(self, candidate: Candidate, bases: str, before: Mapping[Path, _Inspected]) -> set[Path]:
        """Returns the paths that need not be looked at any more."""
        known = before.get(candidate.path)
        if known is None or not known.holds(candidate, bases):
            known = _Inspected(candidate, bases, self._inspector.inspect(candidate))
        if self._inspector.is_final(candidate, known.entry):
            self._inspected[candidate.path] = known
        if known.entry is None:
            return set()
        entry = known.entry
        if entry.name in self._models:
            entry = _renamed(entry, candidate.full_name)
        self._models.setdefault(entry.name, entry)
        return {candidate.path} | ({entry.model.path} if entry.model else set())

    def _bases(self) -> list[LocalModel]:
        """The folders that files may need, by name."""
        models = (entry.model for _, entry in sorted(self._models.items()))
        return [model for model in models if model and not model.file_parts and not model.is_modular]

    def _find_base(self, name: str | None, pipeline: str | None) -> LocalModel | None:
        return next((base for base in self._bases() if name == base.name or pipeline == base.pipeline_class), None)


def _renamed(entry: CatalogueModel, name: str) -> CatalogueModel:
    return replace(entry, name=name, model=replace(entry.model, name=name) if entry.model else None)


def _missing_sentence(source: ModelSource) -> str:
    if source.is_remote:
        return f"It is not downloaded: `imagegen models pull {source.model_id}`."
    return f"{source.setting} names it, but {source.folder} is neither a model's folder nor a file."
