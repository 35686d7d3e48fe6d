"""Reports figures: as a line in the terminal, as JSON, and as a page with plots."""

import json
import os
import platform
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.figures import Figure

PAGE, PLOTS = Path("docs/performance.md"), Path("docs/images")
BEGIN, END = "<!-- figures: written by `make bench` -->", "<!-- end of figures -->"


def line(figure: Figure) -> str:
    mark = " " if figure.goal is None else "ok" if figure.met else "MISSED"
    goal = str(figure.goal) if figure.goal else ""
    return f"{mark:7}{_value(figure):>12}  {goal:9}{_spread(figure):22}{figure.name}  {figure.detail}".rstrip()


def _value(figure: Figure) -> str:
    return f"{_number(figure.value)} {figure.unit}" if figure.unit else f"{figure.value:.3f}"


def _number(value: float) -> str:
    """Three digits, and all before the decimal point."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _spread(figure: Figure) -> str:
    """The lowest and the highest round, and the noise."""
    spread = f"{_number(min(figure.rounds))}..{_number(max(figure.rounds))}" if figure.rounds else ""
    return f"{spread} ±{figure.noise:.1%}" if figure.noise is not None else spread


def machine() -> dict[str, str | int | None]:
    libraries = ("torch", "diffusers", "celery", "redis", "fastapi", "uvicorn")
    versions = {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()}
    return versions | {name: _version(name) for name in libraries}


def _version(library: str) -> str | None:
    """None if it is not installed: not every machine with a GPU can run the whole service."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def write_json(path: Path, figures: Sequence[Figure], **facts: object) -> None:
    """`facts` say more about where and how the figures were measured."""
    rows = [
        {**asdict(figure), "goal": str(figure.goal) if figure.goal else None, "met": figure.met} for figure in figures
    ]
    measured_at = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"measured_at": measured_at, "machine": machine(), **facts, "figures": rows}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def publish(figures: Sequence[Figure]) -> None:
    """Write the table and the plots into docs/performance.md, between its two markers."""
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    environment = ", ".join(f"{name} {value}" for name, value in machine().items())
    table = "\n".join([f"Measured {datetime.now(UTC):%Y-%m-%d} on: {environment}.", "", *_table(figures)])
    plot(figures, PLOTS / "performance.png")
    image = "![Each figure as a share of its goal, with the spread of its rounds](images/performance.png)"
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{image}\n\n{END}{after}", encoding="utf-8")


def _table(figures: Sequence[Figure]) -> list[str]:
    rows = ["| measure | figure | goal | rounds, ± noise | |", "|---|---|---|---|---|"]
    for figure in figures:
        goal = f"{figure.goal}{'' if figure.met else ' **missed**'}" if figure.goal else ""
        rows.append(f"| {figure.name} | {_value(figure)} | {goal} | {_spread(figure)} | {figure.detail} |")
    return rows


def plot(figures: Sequence[Figure], path: Path) -> None:
    """The share of its goal that each figure uses: 1 is the limit, whichever direction is better."""
    import matplotlib.pyplot as plt

    with_goal = [figure for figure in figures if figure.goal and figure.goal.limit > 0][::-1]
    fig, axes = plt.subplots(figsize=(9, 0.42 * len(with_goal) + 1), layout="constrained")
    for row, figure in enumerate(with_goal):
        shares = [_share(figure, value) for value in figure.rounds or (figure.value,)]
        axes.plot(shares, [row] * len(shares), "|", color="#9aa5b1", markersize=11)
        axes.plot(statistics.median(shares), row, "o", color="#1f6f54" if figure.met else "#b3261e")
    axes.axvline(1, color="#b3261e", linewidth=1)
    axes.set_yticks(
        range(len(with_goal)), ["\n".join(textwrap.wrap(figure.name, 60)) for figure in with_goal], fontsize=7
    )
    axes.set_xlim(left=0)
    axes.set_xlabel("share of the goal that is used (the line is the goal)")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def _share(figure: Figure, value: float) -> float:
    assert figure.goal is not None
    return figure.goal.limit / value if figure.goal.at_least else value / figure.goal.limit
