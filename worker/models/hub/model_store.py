"""Lists downloaded models, and removes models."""

import shutil
from pathlib import Path

from shared.errors import ConfigurationError
from worker.models.download_plans import PLAN_FILE
from worker.models.local_model import MODULAR_INDEX
from worker.models.overrides import OVERRIDES_FILE, ModelOverrides
from worker.models.required_files import MODEL_CONFIG, PIPELINE_INDEX
from worker.models.weight_files import ALL_SUFFIXES

#: Files that mark a folder as a model, or as the start of one.
_MARKERS = (PIPELINE_INDEX, MODULAR_INDEX, MODEL_CONFIG, PLAN_FILE)


def stored_models(model_dir: Path) -> dict[str, int]:
    """Bytes of each downloaded model, complete or not, by its name."""
    folders = (folder for folder in sorted(model_dir.glob("*/*/")) if _has_marker(folder))
    return {"/".join(folder.parts[-2:]): _size_of(folder) for folder in folders}


def remove_model(model_dir: Path, name: str) -> int:
    """Returns how many bytes it had. Raises ConfigurationError if there is no such model."""
    path = _path_of(model_dir, name)
    if path is None:
        raise ConfigurationError(f"{name} is not a model in {model_dir.absolute()}.")
    if (transformer := _transformer_in(path)) is not None:
        # Other files of the folder may be models of their own.
        (path / OVERRIDES_FILE).unlink()
        path = transformer
    if path.is_symlink() or path.is_file():
        size = path.lstat().st_size
        path.unlink()
        path.with_name(f"{path.stem}.{OVERRIDES_FILE}").unlink(missing_ok=True)
    else:
        size = _size_of(path)
        # The files that mark it as complete go first, in case the removal is interrupted.
        for index in (PIPELINE_INDEX, MODULAR_INDEX, MODEL_CONFIG):
            (path / index).unlink(missing_ok=True)
        shutil.rmtree(path)
    if path.parent != model_dir and not any(path.parent.iterdir()):
        path.parent.rmdir()
    return size


def _path_of(model_dir: Path, name: str) -> Path | None:
    """The folder or the file of a model by the name that the catalogue gives it."""
    if not all(part and part not in (".", "..") for part in name.split("/")) or "\0" in name:
        return None
    path = model_dir / name
    if not path.parent.resolve().is_relative_to(model_dir.resolve()):
        return None
    if (_has_marker(path) and not path.is_symlink()) or _transformer_in(path):
        return path
    files = (path.with_name(f"{path.name}{suffix}") for suffix in ("", *ALL_SUFFIXES))
    return next(
        (file for file in files if file.is_symlink() or (file.is_file() and file.name.endswith(ALL_SUFFIXES))), None
    )


def _transformer_in(folder: Path) -> Path | None:
    """The file of a folder that is a model because its imagegen.json names a transformer. Raises ConfigurationError."""
    if folder.is_symlink() or _has_marker(folder):
        return None
    name = ModelOverrides.read(folder / OVERRIDES_FILE, folder.name).transformer
    file = folder / name if name else None
    return file if file and file.is_file() and file.parent.resolve().is_relative_to(folder.resolve()) else None


def _has_marker(folder: Path) -> bool:
    return any((folder / marker).is_file() for marker in _MARKERS)


def _size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
