"""The starter model in the service, compared with a bare script; and several jobs at once."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from bench.figures import Figure, Goal, Scale, compare, seconds_of
from bench.service import STARTER_REQUEST, UNLIMITED, VALKEY, BareScript
from bench.worker.batching import batches
from bench.worker.overhead import caller
from tests.stack import Stack, valkey_server
from tests.support.process import Process

FIRST = "worker start to first image / bare script start to first image"
#: One image each: they alternate so quickly that changes of the machine's speed affect both.
ROUNDS_OF_IMAGES = 4


def measure(scale: Scale) -> Iterator[Figure]:
    with ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="imagegen-bench-")))
        url = exits.enter_context(valkey_server(folder, *VALKEY))
        stack = exits.enter_context(Stack(url, folder, SD_BACKENDS="sd", SD_MAX_BATCH_SIZE="1", **UNLIMITED))
        call = caller(stack.start_api(), STARTER_REQUEST)
        workers, scripts = list[Process](), list[BareScript]()

        def our_first() -> float:
            for worker in workers[-1:]:
                worker.kill()
            begin = time.perf_counter()
            workers.append(stack.start_worker("sd", ready=False))
            call()
            return time.perf_counter() - begin

        def their_first() -> float:
            for script in scripts[-1:]:
                script.stop()
            begin = time.perf_counter()
            scripts.append(BareScript())
            exits.callback(scripts[-1].stop)
            return time.perf_counter() - begin

        first = compare(our_first, their_first, scale, "start to first image beside a bare script")
        yield first.figure(FIRST, Goal(1.15), f"{first.our_median:.2f} s, bare {first.their_median:.2f} s")
        # Both processes of the last round still run.
        bare = scripts[-1].image
        what = "starter model beside a bare script"
        result = compare(lambda: seconds_of(call), bare, scale, what, times=ROUNDS_OF_IMAGES)
        detail = f"{result.our_median * 1000:.0f} ms, bare {result.their_median * 1000:.0f} ms"
        yield result.figure("sync request, starter model / bare script", Goal(1.05), detail)
        scripts[-1].stop()
        yield from batches(stack, scale)
