"""Downloads models from Hugging Face: only the needed files, resumable, with progress."""

import errno
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, ModelInfo, hf_hub_download, snapshot_download
from huggingface_hub.errors import SafetensorsParsingError

from shared.errors import ConfigurationError
from worker.models.checkpoints.header import BITS
from worker.models.download_plans import (
    INCOMPLETE_DIR,
    INCOMPLETE_SUFFIX,
    DownloadPlan,
    OnProgress,
    PlannedFile,
    format_bytes,
)
from worker.models.hub.errors import HubUnreachable, translated_hub_errors
from worker.models.hub.licences import licence_of_fields
from worker.models.local_model import index_name, index_names, read_json
from worker.models.required_files import PIPELINE_INDEX, parts_of, select_files

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL_SECONDS = 1.0
#: Hugging Face responds in well under a second. Without a network, its client would try for half a minute.
RESPONSE_TIMEOUT_SECONDS = 10.0
#: Files that are incomplete when the process is killed start again.
MAX_PARALLEL_FILES = 4
#: What describes the parts of a model without their weights.
CONFIGURATIONS = ("/config.json", "/scheduler_config.json")
#: Left free on the disk for everything else.
SPARE_BYTES = 256 << 20


@dataclass(frozen=True)
class Downloader:
    token: str | None
    dtype: str
    """Decides which variant of the weights is downloaded."""
    on_progress: OnProgress
    """Called at the start, about once a second, and at the end."""
    index: str = PIPELINE_INDEX
    """The file that lists the parts of the model; modular pipelines have another. It is downloaded last: its presence
    marks a complete model."""

    def fetch(self, name: str, folder: Path) -> None:
        """Download the model into the folder, or wait for another process that is downloading it.

        Raises ConfigurationError with advice if the network, the token or the disk fails. Complete files are kept, and
        the next call downloads the rest.
        """
        with _disk_errors(name, folder), _network_errors(name, folder):
            folder.mkdir(parents=True, exist_ok=True)
            with _removed_if_empty(folder), _locked(name, folder):
                if index_name(folder, self.index) is None:
                    self._fetch(name, folder)

    def _fetch(self, name: str, folder: Path) -> None:
        for leftover in (folder / INCOMPLETE_DIR).rglob(f"*{INCOMPLETE_SUFFIX}"):
            leftover.unlink()
        plan = self.plan(name, folder)
        plan.write(folder)
        _require_disk_space(name, folder, plan.total_bytes - plan.complete_bytes(folder))
        index, *parts = (file.path for file in plan.files)
        self.on_progress(name, plan.downloaded_bytes(folder), plan.total_bytes)
        with ThreadPoolExecutor(1) as executor:
            download = executor.submit(self._download_files, name, plan.commit, folder, parts)
            done = 0
            while not wait([download], PROGRESS_INTERVAL_SECONDS).done:
                # A file that starts again must not take back progress.
                done = max(done, plan.downloaded_bytes(folder))
                self.on_progress(name, done, plan.total_bytes)
            download.result()
        self._require_undamaged(name, plan.commit, folder)
        self._download_files(name, plan.commit, folder, [index])
        self.on_progress(name, plan.total_bytes, plan.total_bytes)

    def plan(self, name: str, folder: Path) -> DownloadPlan:
        """The plan of an interrupted download if the hub still has that version, or else a new one.

        Raises HubUnreachable and ConfigurationError.
        """
        interrupted = DownloadPlan.read(folder)
        with translated_hub_errors(name):
            revision = interrupted.commit if interrupted else None
            info = HfApi(token=self.token).model_info(
                name, revision=revision, files_metadata=True, timeout=RESPONSE_TIMEOUT_SECONDS
            )
        if interrupted:
            return interrupted
        commit, sizes = str(info.sha), {file.rfilename: file.size or 0 for file in info.siblings or ()}
        index = next((name for name in index_names(self.index) if name in sizes), None)
        if index is None:
            raise ConfigurationError(f"{name} on Hugging Face has no {self.index}: it is not in diffusers' format.")
        paths = select_files(sizes, self._parts(name, commit, index), name, self.dtype, index)
        files = tuple(PlannedFile(path=path, size=sizes[path]) for path in paths)
        return DownloadPlan(commit=commit, files=files, licence=_licence_of(info))

    def fetch_configurations(self, name: str, plan: DownloadPlan, folder: Path) -> None:
        """Download the index and the configurations of the parts only. Raises HubUnreachable and ConfigurationError."""
        index, *parts = (file.path for file in plan.files)
        wanted = [index, *(path for path in parts if path.endswith(CONFIGURATIONS))]
        self._download_files(name, plan.commit, folder, wanted)

    def stored_width(self, name: str, commit: str, path: str) -> float:
        """Bytes per number of a file of weights, from its header. Raises HubUnreachable and ConfigurationError."""
        with translated_hub_errors(name):
            try:
                header = HfApi(token=self.token).parse_safetensors_file_metadata(name, path, revision=commit)
            except SafetensorsParsingError:
                raise ConfigurationError(f"{path} of the model {name} is not a safetensors file.") from None
        counts = header.parameter_count
        return sum(count * BITS.get(dtype, 8) / 8 for dtype, count in counts.items()) / max(1, sum(counts.values()))

    def _parts(self, name: str, commit: str, index: str) -> Iterable[str]:
        with tempfile.TemporaryDirectory() as temporary, translated_hub_errors(name):
            file = hf_hub_download(name, index, revision=commit, local_dir=temporary, token=self.token)
            return parts_of(read_json(Path(file), name), name, index)

    def _download_files(self, name: str, commit: str, folder: Path, paths: list[str]) -> None:
        with translated_hub_errors(name):
            snapshot_download(
                name,
                revision=commit,
                local_dir=folder,
                allow_patterns=paths,
                token=self.token,
                max_workers=MAX_PARALLEL_FILES,
            )

    def _require_undamaged(self, name: str, commit: str, folder: Path) -> None:
        """Compare the files with the hub's hashes, which its client does not check itself."""
        with translated_hub_errors(name):
            result = HfApi(token=self.token).verify_repo_checksums(name, revision=commit, local_dir=folder)
        for damaged in result.mismatches:
            (folder / damaged["path"]).unlink()
        if result.mismatches:
            paths = ", ".join(damaged["path"] for damaged in result.mismatches)
            raise ConfigurationError(f"{paths} of the model {name} arrived damaged; start again to download it.")


def _licence_of(info: ModelInfo) -> str | None:
    card = info.card_data
    names = (card.get("license"), card.get("license_name")) if card else (None, None)
    return licence_of_fields(*(name if isinstance(name, str) else None for name in names))


@contextmanager
def _locked(name: str, folder: Path) -> Iterator[None]:
    """One process at a time downloads into a folder. The lock ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process is downloading %s; waiting for it", name)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _removed_if_empty(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        # Both calls fail if the folder is not empty.
        with suppress(OSError):
            folder.rmdir()
            folder.parent.rmdir()


def _require_disk_space(name: str, folder: Path, missing: int) -> None:
    free = shutil.disk_usage(folder).free
    if missing and missing + SPARE_BYTES > free:
        raise _disk_full(name, folder, f"it needs {format_bytes(missing)}, and {format_bytes(free)} are free")


@contextmanager
def _disk_errors(name: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(name, folder, "the disk is full") from error
        raise ConfigurationError(
            f"The model {name} cannot be stored in {folder.absolute()} ({error.strerror or error}): "
            "set SD_MODEL_DIR to another folder."
        ) from error


@contextmanager
def _network_errors(name: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except HubUnreachable as error:
        resume = "; the download will resume where it stopped" if DownloadPlan.read(folder) else ""
        raise ConfigurationError(
            f"The model {name} is not in {folder.absolute()}, and Hugging Face is unreachable ({error}). Try again "
            f"later{resume}, or copy the folder from another machine."
        ) from None


def _disk_full(name: str, folder: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"The disk has too little space for the model {name} in {folder.absolute()}: {reason}. Free some space, or set "
        "SD_MODEL_DIR to a folder on another disk."
    )
