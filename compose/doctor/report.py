"""How findings are told: to people, and as JSON to programs."""

import json
from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape

from compose.doctor.examination import Result
from compose.doctor.findings import Finding, Level
from compose.doctor.secrets import Secrets

_MARKS = {Level.OK: "[green]✓[/]", Level.WARNING: "[yellow]![/]", Level.PROBLEM: "[bold red]✗[/]"}


def print_results(results: Iterable[Result], console: Console, secrets: Secrets) -> bool:
    """Each as it comes. Whether there was no problem."""
    levels: list[Level] = []
    for result in results:
        for finding in result.findings:
            levels.append(finding.level)
            told = f"{_MARKS[finding.level]} {result.check:<9} {escape(secrets.hide(finding.detail))}"
            console.print(told, highlight=False, soft_wrap=True)
            if finding.remedy:
                told = f"            [dim]→[/] {escape(secrets.hide(finding.remedy))}"
                console.print(told, highlight=False, soft_wrap=True)
    console.print(f"\n{_summary(levels)}", highlight=False)
    return Level.PROBLEM not in levels


def print_json(results: Iterable[Result], version: str, secrets: Secrets) -> bool:
    """All at once. Whether there was no problem."""
    findings = [_entry(result.check, finding, secrets) for result in results for finding in result.findings]
    healthy = all(finding["level"] != Level.PROBLEM for finding in findings)
    print(json.dumps({"version": version, "healthy": healthy, "findings": findings}, indent=2, ensure_ascii=False))
    return healthy


def _entry(check: str, finding: Finding, secrets: Secrets) -> dict[str, str]:
    detail, remedy = secrets.hide(finding.detail), secrets.hide(finding.remedy)
    return {"check": check, "level": finding.level, "detail": detail, "remedy": remedy}


def _summary(levels: list[Level]) -> str:
    problems, warnings = levels.count(Level.PROBLEM), levels.count(Level.WARNING)
    if not problems + warnings:
        return "[green]All is well.[/]"
    return f"{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}."


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
