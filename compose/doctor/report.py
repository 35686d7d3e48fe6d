"""Prints the findings: as text for people, as JSON for programs."""

import json
from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape

from compose.doctor.check_runner import CheckResult
from compose.doctor.findings import Finding, Level
from shared.access.secrets import Secrets

_MARKS = {Level.OK: "[green]✓[/]", Level.WARNING: "[yellow]![/]", Level.PROBLEM: "[bold red]✗[/]"}


def print_results(results: Iterable[CheckResult], console: Console, secrets: Secrets) -> bool:
    """Prints each result as it comes; returns whether there was no problem."""
    levels: list[Level] = []
    for result in results:
        for finding in result.findings:
            levels.append(finding.level)
            line = f"{_MARKS[finding.level]} {result.check:<9} {escape(secrets.redact(finding.detail))}"
            console.print(line, highlight=False, soft_wrap=True)
            if finding.remedy:
                line = f"            [dim]→[/] {escape(secrets.redact(finding.remedy))}"
                console.print(line, highlight=False, soft_wrap=True)
    console.print(f"\n{_summary(levels)}", highlight=False)
    return Level.PROBLEM not in levels


def print_json(results: Iterable[CheckResult], version: str, secrets: Secrets) -> bool:
    """Prints one object when all results are complete; returns whether there was no problem."""
    findings = [_entry(result.check, finding, secrets) for result in results for finding in result.findings]
    healthy = all(finding["level"] != Level.PROBLEM for finding in findings)
    print(json.dumps({"version": version, "healthy": healthy, "findings": findings}, indent=2, ensure_ascii=False))
    return healthy


def _entry(check: str, finding: Finding, secrets: Secrets) -> dict[str, str]:
    detail, remedy = secrets.redact(finding.detail), secrets.redact(finding.remedy)
    return {"check": check, "level": finding.level, "detail": detail, "remedy": remedy}


def _summary(levels: list[Level]) -> str:
    problems, warnings = levels.count(Level.PROBLEM), levels.count(Level.WARNING)
    if not problems + warnings:
        return "[green]All is well.[/]"
    return f"{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}."


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
