"""The supervisor's process entry: reads a plan from a pipe and carries it out. It imports little, because it stays."""

import os
import signal
import sys
from contextlib import closing
from pathlib import Path

from compose.launcher.console import BOLD, RED, ConsoleOutput, ProcessOutput, paint
from compose.launcher.data_folder import locked, published_redis_url, removed
from compose.launcher.log_files import FOLDER, LogWriter
from compose.launcher.plan import STOP_SIGNALS, Plan
from compose.launcher.process_group import ProcessGroup
from compose.launcher.supervisor import Events, StartFailed, StopRequested, Supervisor
from shared.errors import ConfigurationError


def main() -> None:
    with os.fdopen(int(sys.argv[1])) as pipe:
        plan = Plan.from_json(pipe.read())
    events = Events()
    # Whoever starts it with `nohup` wants it to outlive the terminal.
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    for number in {*STOP_SIGNALS} - ignored:
        signal.signal(number, lambda number, _: events.put(StopRequested(number == signal.SIGINT)))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    with ConsoleOutput() as console:
        try:
            _run(plan, console, events)
        except (ConfigurationError, StartFailed) as error:
            console.print(paint(str(error), BOLD, RED))
            code = 1
        else:
            code = 0
    # Not sys.exit: a thread may hang in a write that nobody reads, and standard output may be closed.
    os._exit(code)


def _run(plan: Plan, console: ConsoleOutput, events: Events) -> None:
    """Raises ConfigurationError and StartFailed."""
    data = Path(plan.data_dir)
    with (
        removed(Path(plan.socket_dir)),
        locked(data),
        closing(LogWriter(data / FOLDER)) as log,
        published_redis_url(data, plan.embedded_redis_url),
        ProcessGroup() as group,
    ):
        output = ProcessOutput(console, log, plan.log_format)
        output.show("imagegen", f"starting {', '.join(service.name for service in plan.services)}")
        for warning in plan.warnings:
            output.show("imagegen", warning)
        Supervisor(plan, group, output, events).run()
    output.show("imagegen", "Stopped; nothing is left running.")


if __name__ == "__main__":
    main()
