"""Keeps compiled code on disk, so that a worker that starts again has it within seconds."""

import hashlib
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_IWGRP, S_IWOTH

import diffusers
import torch

logger = logging.getLogger(__name__)

#: The least recently used files go first.
MAX_FILES, MAX_BYTES = 16, 2 << 30


class CompiledCode:
    """The code for one model: for exactly these versions, this device, precision and these sizes.

    Losing a file costs compiling again, so no error of it stops anything.
    """

    def __init__(self, folder: Path | None, device: torch.device, *identity: object) -> None:
        """Without a folder, nothing is kept."""
        versions = (torch.__version__, torch.version.cuda, torch.version.hip, diffusers.__version__)
        parts = (*versions, platform.python_version(), platform.machine(), *_hardware(device), *identity)
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
        self._folder = folder
        self._file = folder / f"compiled-{digest}.bin" if folder else None

    def load(self) -> bool:
        """Whether the compiler now has what an earlier start compiled."""
        if self._file is None or not self._file.is_file():
            return False
        try:
            _require_ours(self._file)
            _give_to_compiler(self._file.read_bytes())
            os.utime(self._file)
        # A damaged file raises whatever the readers of its parts raise.
        except Exception as error:
            logger.warning("compiled code that was kept cannot be used, so it is compiled again: %s", error)
            with suppress(OSError):
                self._file.unlink()
            return False
        return True

    def save(self) -> None:
        """Keep what this process has compiled."""
        if self._file is None or self._folder is None:
            return
        try:
            saved = torch.compiler.save_cache_artifacts()
            if saved is None:
                return
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Processes of two containers may have the same number.
            staged = self._file.with_suffix(f".{platform.node()}-{os.getpid()}")
            # Loading it runs code, so nobody else may write it.
            with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(saved[0])
            staged.replace(self._file)
            _prune(self._folder)
        except Exception as error:
            logger.warning("compiled code cannot be kept: %s", error)


def _give_to_compiler(code: bytes) -> None:
    if torch.compiler.load_cache_artifacts(code) is None:
        raise ValueError("it is damaged")


def _require_ours(file: Path) -> None:
    """Raises PermissionError for a file that another user could have written."""
    for path in (file, file.parent):
        status = path.stat()
        if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & (S_IWGRP | S_IWOTH)):
            raise PermissionError(f"{path} belongs to, or may be changed by, another user")


def _prune(folder: Path) -> None:
    files = sorted(folder.glob("compiled-*.bin"), key=lambda file: file.stat().st_mtime, reverse=True)
    size = 0
    for number, file in enumerate(files):
        size += file.stat().st_size
        # The newest one stays, however large it is.
        if number and (number >= MAX_FILES or size > MAX_BYTES):
            file.unlink()


def _hardware(device: torch.device) -> Iterator[object]:
    yield device.type
    if device.type == "cuda":
        yield torch.cuda.get_device_name(device)
        yield torch.cuda.get_device_capability(device)
    else:
        yield sorted(torch.cpu.get_capabilities().items())
