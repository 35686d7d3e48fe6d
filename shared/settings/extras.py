"""How to install packages that only some installations need: the extras in pyproject.toml."""


def install_command(extra: str) -> str:
    """For the folder of the repository. Never by name: the package `imagegen` on PyPI is another project."""
    return f".venv/bin/python -m pip install -c constraints.txt -e '.[{extra}]'"
