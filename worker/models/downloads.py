"""Models from Hugging Face, each into a folder of its own: what is needed, resumable, with progress."""

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

from huggingface_hub import HfApi, hf_hub_download, snapshot_download

from shared.errors import ConfigurationError
from worker.models.download_plans import (
    INCOMPLETE_DIR,
    INCOMPLETE_SUFFIX,
    DownloadPlan,
    OnProgress,
    PlannedFile,
    format_bytes,
)
from worker.models.hub_errors import HubUnreachable, translated_hub_errors
from worker.models.required_files import PIPELINE_INDEX, parts_of, read_index, select_files

logger = logging.getLogger(__name__)

#: How often progress is told.
TELL_SECONDS = 1.0
#: Hugging Face answers in well under a second; without the network, its own client would try for half a minute.
ANSWER_SECONDS = 10.0
#: Files at a time. Those that are not whole when a process is killed begin anew.
FILES_AT_ONCE = 4
#: What a disk should keep for everything else.
SPARE_BYTES = 256 << 20


@dataclass(frozen=True)
class Downloader:
    token: str | None
    dtype: str
    """What will compute with it: of weights that are there in several precisions, the fitting ones are taken."""
    on_progress: OnProgress
    """Called when it begins, about once a second, and when all is there."""
    index: str = PIPELINE_INDEX
    """The file that says what is in the model. It comes last: where it lies, the model is complete."""

    def fetch(self, name: str, folder: Path) -> None:
        """Make the folder hold the whole model; where another process is at it, wait for that.

        Raises ConfigurationError with what to do where the network, the token or the disk is missing. Files that are
        whole by then stay, and the next call fetches the others.
        """
        with _disk_errors(name, folder), _away(name, folder):
            folder.mkdir(parents=True, exist_ok=True)
            with _gone_if_empty(folder), _alone(name, folder):
                if not (folder / self.index).is_file():
                    self._fetch(name, folder)

    def _fetch(self, name: str, folder: Path) -> None:
        for left in (folder / INCOMPLETE_DIR).rglob(f"*{INCOMPLETE_SUFFIX}"):
            left.unlink()
        plan = self._plan(name, folder)
        _require_room(name, folder, plan.total_bytes - plan.complete_bytes(folder))
        parts = [file.path for file in plan.files if file.path != self.index]
        self.on_progress(name, plan.downloaded_bytes(folder), plan.total_bytes)
        with ThreadPoolExecutor(1) as beside:
            coming = beside.submit(self._receive, name, plan.commit, folder, parts)
            done = 0
            while not wait([coming], TELL_SECONDS).done:
                # A file that begins anew would take its progress back.
                done = max(done, plan.downloaded_bytes(folder))
                self.on_progress(name, done, plan.total_bytes)
            coming.result()
        self._require_undamaged(name, plan.commit, folder)
        self._receive(name, plan.commit, folder, [self.index])
        self.on_progress(name, plan.total_bytes, plan.total_bytes)

    def _plan(self, name: str, folder: Path) -> DownloadPlan:
        """That of the download that was cut, where there was one. The hub is asked whether it still has that."""
        before = DownloadPlan.read(folder)
        with translated_hub_errors(name):
            revision = before.commit if before else None
            info = HfApi(token=self.token).model_info(
                name, revision=revision, files_metadata=True, timeout=ANSWER_SECONDS
            )
        if before:
            return before
        commit, sizes = str(info.sha), {file.rfilename: file.size or 0 for file in info.siblings or ()}
        if self.index not in sizes:
            raise ConfigurationError(f"{name} on Hugging Face has no {self.index}: it is not in diffusers' format.")
        paths = select_files(sizes, self._parts(name, commit), name, self.dtype, self.index)
        plan = DownloadPlan(commit=commit, files=tuple(PlannedFile(path=path, size=sizes[path]) for path in paths))
        plan.write(folder)
        return plan

    def _parts(self, name: str, commit: str) -> Iterable[str]:
        with tempfile.TemporaryDirectory() as aside, translated_hub_errors(name):
            file = hf_hub_download(name, self.index, revision=commit, local_dir=aside, token=self.token)
            return parts_of(read_index(name, Path(file).read_bytes()), name, self.index)

    def _receive(self, name: str, commit: str, folder: Path, paths: list[str]) -> None:
        with translated_hub_errors(name):
            snapshot_download(
                name,
                revision=commit,
                local_dir=folder,
                allow_patterns=paths,
                token=self.token,
                max_workers=FILES_AT_ONCE,
            )

    def _require_undamaged(self, name: str, commit: str, folder: Path) -> None:
        """Against the hashes that the hub has, which its client does not look at by itself."""
        with translated_hub_errors(name):
            found = HfApi(token=self.token).verify_repo_checksums(name, revision=commit, local_dir=folder)
        for damaged in found.mismatches:
            (folder / damaged["path"]).unlink()
        if found.mismatches:
            paths = ", ".join(damaged["path"] for damaged in found.mismatches)
            raise ConfigurationError(f"{paths} of the model {name} came damaged; start again to retry.")


@contextmanager
def _alone(name: str, folder: Path) -> Iterator[None]:
    """Two processes that write the same files would spoil them. The lock ends with the process."""
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
def _gone_if_empty(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        # Neither goes where there is something in it.
        with suppress(OSError):
            folder.rmdir()
            folder.parent.rmdir()


def _require_room(name: str, folder: Path, missing: int) -> None:
    free = shutil.disk_usage(folder).free
    if missing and missing + SPARE_BYTES > free:
        raise _no_room(name, folder, f"{format_bytes(missing)} more are needed and {format_bytes(free)} are free")


@contextmanager
def _disk_errors(name: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(name, folder, "the disk is full") from error
        raise ConfigurationError(
            f"The model {name} cannot be kept in {folder.absolute()} ({error.strerror or error}): "
            "name another folder with SD_MODEL_DIR."
        ) from error


@contextmanager
def _away(name: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except HubUnreachable as error:
        kept = "; what has come is kept" if DownloadPlan.read(folder) else ""
        raise ConfigurationError(
            f"The model {name} is not in {folder.absolute()}, and Hugging Face cannot be reached ({error}): try again "
            f"when it can{kept}, or copy the folder from another machine."
        ) from None


def _no_room(name: str, folder: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"The model {name} does not fit into {folder.absolute()}: {why}. Make room, or name another disk with "
        "SD_MODEL_DIR."
    )
