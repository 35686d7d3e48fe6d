"""The supervisor and programs that cannot be executed."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compose.launcher.plan import Plan, Service, Stage
from tests.compose.conftest import STOP_SECONDS
from tests.support.process import Process

PROGRAM = "#!/bin/sh\necho ready $$\nexec sleep 600\n"


#: Goes on after SIGTERM, and counts.
BUSY_PROGRAM = """#!/bin/sh
trap 'terms=x$terms; echo term' TERM
trap 'echo hurried after $terms; exit' INT
echo ready
while :; do sleep 600 >/dev/null 2>&1 & wait; done
"""


@contextmanager
def supervising(program: Path, before: str = "") -> Iterator[Process]:
    """`before` is a command of the shell that starts it."""
    folder = program.parent
    service = Service("program", (str(program),), ready="ready", grace_seconds=30)
    plan = Plan((Stage((service,)),), str(folder / "data"), str(folder / "sockets"), "", "text")
    (folder / "plan.json").write_text(plan.to_json())
    process = Process(["sh", "-c", f"{before}exec {sys.executable} -m compose.launcher.main 3 3<plan.json"], folder)
    yield process
    process.kill()


def test_a_program_that_is_missing_for_a_moment_is_started_once_it_is_back(tmp_path: Path) -> None:
    program, replaced = tmp_path / "program", tmp_path / "replaced"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    with supervising(program) as launcher:
        launcher.wait_for("ready")
        pid = next(int(line.split()[-1]) for line in launcher.lines if "ready" in line)

        # As an update does it.
        program.rename(replaced)
        os.kill(pid, signal.SIGKILL)
        launcher.wait_for("cannot be started: No such file or directory")
        replaced.rename(program)

        launcher.wait_for("ready")
        launcher.send(signal.SIGTERM)
        assert launcher.wait(STOP_SECONDS) == 0, launcher.output


def test_a_program_that_may_not_be_executed_ends_the_start_in_a_sentence(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(PROGRAM)
    with supervising(program) as launcher:
        assert launcher.wait(STOP_SECONDS) == 1

    assert f"{program} cannot be started: Permission denied" in launcher.output
    assert launcher.lines[-1] == "program could not start (exit code 126); its last lines above say why."


def test_a_second_ctrl_c_ends_the_grace_period_and_other_signals_do_not(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(BUSY_PROGRAM)
    program.chmod(0o755)
    with supervising(program) as launcher:
        launcher.wait_for("ready")
        launcher.send(signal.SIGINT)
        launcher.wait_for("Ctrl-C again stops at once", "term")
        launcher.send(signal.SIGTERM)
        launcher.send(signal.SIGHUP)

        launcher.send(signal.SIGINT)

        launcher.wait_for("hurried after x")
        assert launcher.wait(STOP_SECONDS) == 0, launcher.output
    assert "xx" not in launcher.output


def test_a_service_outlives_its_terminal_under_nohup(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    with supervising(program, before="trap '' HUP; ") as launcher:
        launcher.wait_for("ready")

        launcher.send(signal.SIGHUP)

        os.kill(next(int(line.split()[-1]) for line in launcher.lines if "ready" in line), signal.SIGKILL)
        launcher.wait_for("ended unexpectedly")
        launcher.send(signal.SIGTERM)
        assert launcher.wait(STOP_SECONDS) == 0, launcher.output
