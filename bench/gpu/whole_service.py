"""Images through the whole service, beside a bare script with the same model."""

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.figures import MIN_ROUNDS, Comparison, Figure, Goal, Scale, compare
from bench.gpu.bare import PROMPT
from bench.gpu.machine import Machine
from bench.gpu.models import save_klein, save_sdxl
from bench.gpu.surviving import until_failure
from bench.service import UNLIMITED, VALKEY
from tests.stack import Stack, valkey_server

JOBS, BATCH = 16, 4
#: A worker reads several gigabytes, and compiles.
START_SECONDS = 320.0


@dataclass(frozen=True)
class Subject:
    """A model, and the goals for it as shares of the bare script's time."""

    name: str
    backend: str
    setting: str
    save: Callable[[Path, Machine], Path]
    gigabytes: float
    dtype: str
    steps: int
    guidance: float
    goals: dict[str, float]
    has_batches: bool = False
    fast_seconds: float = 90.0
    """About how long the measures of the level `fast` take."""


SUBJECTS = (
    Subject("Klein", "flux-local", "SD_FLUX_MODEL_ID", save_klein, 17, "bfloat16", 4, 1.0, {"safe": 0.75, "fast": 0.6}),
    Subject("SDXL", "sd", "SD_MODEL_ID", save_sdxl, 7, "float16", 10, 5.0, {"safe": 0.65, "fast": 0.55}, True, 330.0),
)


def measure(machine: Machine, skip: Callable[[str], None]) -> Iterator[Figure]:
    for subject in (subject for subject in SUBJECTS if machine.wants(subject.name)):
        if not machine.has_seconds(60):
            skip(f"the service with {subject.name}: there was no time left")
            continue
        yield from until_failure(f"the service with {subject.name}", _measure(subject, machine, skip), skip)


def _measure(subject: Subject, machine: Machine, skip: Callable[[str], None]) -> Iterator[Figure]:
    with ExitStack() as exits:
        print(f"{subject.name}: writing {subject.gigabytes:g} GB, {machine.seconds_left():.0f} s left", flush=True)
        model = subject.save(Path(exits.enter_context(machine.model_folder(subject.gigabytes))), machine)
        machine.free_memory()
        bench = _Bench(subject, machine, model, exits)
        try:
            yield from bench.measure(skip)
        except Exception:
            print(*bench.last_lines(), sep="\n", flush=True)
            raise


class _Bench:
    def __init__(self, subject: Subject, machine: Machine, model: Path, exits: ExitStack) -> None:
        self.subject = subject
        self.machine = machine
        self.model = model
        self.folder = Path(exits.enter_context(machine.model_folder(1)))
        url = exits.enter_context(valkey_server(self.folder, *VALKEY))
        device = {"SD_DEVICE": machine.device.type, "SD_SAFETY_CHECKER": "false", "SD_DTYPE": "auto"}
        named = {"SD_BACKENDS": subject.backend, subject.setting: str(model), "SD_MAX_BATCH_SIZE": str(BATCH)}
        data = {"SD_DATA_DIR": str(self.folder / "data")}
        self.stack = exits.enter_context(Stack(url, self.folder, **UNLIMITED, **device, **named, **data))
        self.exits = exits
        self.side, self.steps = (64, 2) if machine.is_tiny else (1024, subject.steps)

    def measure(self, skip: Callable[[str], None]) -> Iterator[Figure]:
        subject, machine = self.subject, self.machine
        # Both load the model at the same time, because minutes are short.
        bare = self.exits.enter_context(_BareScript(self))
        self.stack.start_api()
        seconds = self._start("safe")
        yield Figure(f"{subject.name}: worker start to ready, safe", seconds, "s", detail="beside the bare script")
        bare.wait_until_ready()
        yield from until_failure(f"{subject.name} at safe", self._lone("safe", bare), skip)
        if subject.has_batches:
            yield from until_failure(f"{subject.name}: queue", self._queue(bare), skip)
        if machine.quick or not machine.has_seconds(subject.fast_seconds):
            missing = (
                "--quick" if machine.quick else f"it may take {subject.fast_seconds:.0f} s; see --models and --seconds"
            )
            skip(f"{subject.name} at fast: {missing}")
            return
        self.stack.worker.stop(60)
        without = self._start("fast")
        yield from until_failure(f"{subject.name} at fast", self._lone("fast", bare), skip)
        self.stack.workers[-1].stop(60)
        kept = self._start("fast")
        detail = f"{kept:.1f} s, without {without:.1f} s"
        yield Figure(
            f"{subject.name}: worker start to ready, fast, kept code / none",
            kept / without,
            "",
            Goal(0.4),
            detail=detail,
        )

    def last_lines(self) -> list[str]:
        """What the service has said last."""
        return [line for worker in self.stack.workers[-1:] for line in worker.lines[-40:]]

    def _start(self, level: str) -> float:
        print(
            f"{self.subject.name}: starting a worker at {level}, {self.machine.seconds_left():.0f} s left", flush=True
        )
        begin = time.monotonic()
        # The compiler's own folder would keep code, too: each start gets a new one.
        worker = self.stack.start_worker(
            self.subject.backend,
            ready=False,
            SD_OPTIMIZE=level,
            TORCHINDUCTOR_CACHE_DIR=str(self.folder / f"inductor-{begin}"),
            TRITON_CACHE_DIR=str(self.folder / f"triton-{begin}"),
        )
        worker.wait_for("ready.", seconds=START_SECONDS)
        seconds = time.monotonic() - begin
        print(*(line for line in worker.lines if "INFO" in line or "WARN" in line), sep="\n", flush=True)
        return seconds

    def _lone(self, level: str, bare: "_BareScript") -> Iterator[Figure]:
        # The first calls decide what is used: graphs are captured within them.
        for _ in range(2):
            self._image()
        added, encoding = list[float](), list[float]()

        def ours() -> float:
            begin = time.perf_counter()
            timings = self._image()["timings"]
            seconds = time.perf_counter() - begin
            added.append(seconds * 1000 - timings["generate_ms"])
            encoding.append(timings["encode_ms"])
            return seconds

        name, scale = self.subject.name, Scale(MIN_ROUNDS, 0, 0, thorough=False, show_progress=lambda _: None)
        result = compare(ours, lambda: bare.seconds(1), scale, name)
        did = self._image()["timings"].get("acceleration")
        detail = f"{result.our_median:.3f} s, bare {result.their_median:.3f} s; {did}"
        yield result.figure(f"{name}: lone image at {level} / bare script", Goal(self.subject.goals[level]), detail)
        rounds, detail = tuple(added), f"of it {statistics.median(encoding):.0f} ms to encode and store"
        median = statistics.median(rounds)
        yield Figure(f"{name}: added to rendering, {level}", median, "ms", Goal(25), rounds, detail=detail)

    def _image(self) -> dict[str, Any]:
        response = self.stack.api.http.post(f"{self.stack.api.url}/api/txt2img", json=self._body(0), timeout=200)
        assert response.status_code == 200, response.text
        job: dict[str, Any] = response.json()
        return job

    def _body(self, seed: int) -> dict[str, object]:
        subject = self.subject
        sizes = {"width": self.side, "height": self.side, "num_inference_steps": self.steps}
        return {"prompt": PROMPT, "seed": seed, "guidance_scale": subject.guidance, "backend": subject.backend, **sizes}

    def _queue(self, bare: "_BareScript") -> Iterator[Figure]:
        self._queued()
        rounds = [
            (self._queued(), bare.seconds(BATCH) / BATCH)
            for _ in range(1 if self.machine.is_tiny or self.machine.quick else 2)
        ]
        ours, theirs = [queue.seconds_per_image for queue, _ in rounds], [seconds for _, seconds in rounds]
        result = Comparison(tuple(ours), tuple(theirs))
        name = self.subject.name
        yield Figure(
            f"{name}: queue of {JOBS}, seconds an image / bare batch of {BATCH}",
            result.ratio,
            "",
            Goal(1.08),
            result.ratios,
            detail=f"{result.our_median:.3f} s, bare {result.their_median:.3f} s",
        )
        gaps = tuple(gap for queue, _ in rounds for gap in queue.idle_ms)
        if gaps:
            yield Figure(f"{name}: device idle between two batches", statistics.median(gaps), "ms", Goal(15), gaps)

    def _queued(self) -> "_Queue":
        api, begin = self.stack.api, time.perf_counter()
        jobs = [api.post("/api/jobs", self._body(seed)).json()["id"] for seed in range(JOBS)]
        ended = [api.wait_until_done(job) for job in jobs]
        return _Queue((time.perf_counter() - begin) / JOBS, tuple(_idle_ms(ended)))


@dataclass(frozen=True)
class _Queue:
    seconds_per_image: float
    idle_ms: tuple[float, ...]


def _idle_ms(jobs: list[dict[str, Any]]) -> Iterator[float]:
    """From the end of rendering a batch to the claim of the next."""
    starts = sorted((datetime.fromisoformat(job["started_at"]), job["timings"]["generate_ms"]) for job in jobs)
    for (start, milliseconds), (following, _) in itertools.pairwise(starts):
        gap = (following - start).total_seconds() * 1000 - milliseconds
        # Jobs of one batch start together.
        if gap > -milliseconds / 2:
            yield gap


class _BareScript:
    """bench.gpu.bare as a process."""

    def __init__(self, bench: _Bench) -> None:
        subject, machine = bench.subject, bench.machine
        dtype = "float32" if machine.is_tiny else subject.dtype
        arguments = (machine.device.type, dtype, bench.steps, subject.guidance, bench.side)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.gpu.bare", str(bench.model), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "_BareScript":
        return self

    def wait_until_ready(self) -> None:
        self._read("ready")

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def seconds(self, images: int) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{images}\n")
        self._process.stdin.flush()
        return float(self._read())

    def _read(self, expected: str | None = None) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the bare script ended"
        assert expected in (None, line), f"the bare script said {line!r}"
        return line
