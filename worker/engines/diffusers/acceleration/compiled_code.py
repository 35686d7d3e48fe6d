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
from torch.compiler._cache import CacheInfo

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
        self._file = folder / f"compiled-{digest}.bin" if folder else None
        self._known: set[tuple[str, str]] | None = None

    def load(self) -> bool:
        """Whether the compiler now has what an earlier start compiled."""
        if self._file is None or not self._file.is_file():
            return False
        try:
            _require_ours(self._file)
            loaded = _give_to_compiler(self._file.read_bytes())
            os.utime(self._file)
            # The compiler records what the whole process compiles, so its other models as well.
            self._known = loaded | _recorded()[1]
        # A damaged file raises whatever the readers of its parts raise.
        except Exception as error:
            logger.warning("compiled code that was kept cannot be used, so it is compiled again: %s", error)
            with suppress(OSError):
                self._file.unlink()
            return False
        return True

    def save(self) -> bool:
        """Keep what this process has compiled. Returns whether there was anything that `load` had not found.

        There is after an upgrade of this project that compiles the same model in another way.
        """
        try:
            code, names = _recorded()
            if self._known is not None and names <= self._known:
                return False
            if self._file is not None and code:
                self._write(self._file, code)
        except Exception as error:
            logger.warning("compiled code cannot be kept: %s", error)
        return True

    def _write(self, file: Path, code: bytes) -> None:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Processes of two containers may have the same number.
        staged = file.with_suffix(f".{platform.node()}-{os.getpid()}")
        # Loading it runs code, so nobody else may write it.
        with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as staging:
            staging.write(code)
        staged.replace(file)
        _prune(file.parent)


def _give_to_compiler(code: bytes) -> set[tuple[str, str]]:
    if (loaded := torch.compiler.load_cache_artifacts(code)) is None:
        raise ValueError("it is damaged")
    return _names(loaded)


def _recorded() -> tuple[bytes, set[tuple[str, str]]]:
    """The code that this process has compiled or taken from what was kept, and its names."""
    saved = torch.compiler.save_cache_artifacts()
    return (saved[0], _names(saved[1])) if saved else (b"", set())


def _names(info: CacheInfo) -> set[tuple[str, str]]:
    return {(kind, key) for kind, keys in info.artifacts.items() for key in keys}


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
