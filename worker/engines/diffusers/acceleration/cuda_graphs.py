"""Replays the denoiser as a CUDA graph where launching its kernels takes longer than computing them."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from worker.engines.diffusers.acceleration.decisions import Decision, Decisions
from worker.engines.diffusers.acceleration.graph_backend import CapturedCall, CudaGraphBackend
from worker.engines.diffusers.acceleration.replaced_forward import replaced_forward
from worker.engines.diffusers.acceleration.tensor_trees import NotATree, mapped, signature_of, tensors_in
from worker.engines.diffusers.memory.errors import is_out_of_memory, reason_of

logger = logging.getLogger(__name__)

#: Shapes with a graph at the same time: the least recently used one is dropped first.
MAX_GRAPHS = 8
#: Shapes whose calls are counted.
MAX_SHAPES = 64
#: Captures that failed or whose graphs were dropped for others, after which this model gets no more.
MAX_WASTED = 16
#: The first call of a shape sets up libraries; the second and third are timed, and the fourth is captured.
TIMED_CALLS = (2, 3)

Forward = Callable[..., Any]


@dataclass
class _Shape:
    """Calls with arguments of the same shapes, with the same LoRAs."""

    calls: int = 0
    seconds: float = float("inf")
    """The fastest of the timed calls."""
    peak_bytes: int = 0
    graph: "_StaticCall | None" = None
    rejected: bool = False


@dataclass
class _StaticCall:
    """A graph reads its arguments where they were when it was captured."""

    graph: CapturedCall
    arguments: Any

    def __call__(self, arguments: Any) -> Any:
        for static, given in zip(tensors_in(self.arguments), tensors_in(arguments), strict=True):
            static.copy_(given)
        self.graph.replay()
        # Schedulers keep predictions over steps, and the next replay overwrites this one.
        return mapped(self.graph.output, torch.clone)


class CudaGraphs:
    """The graphs of one denoiser. Not thread-safe.

    They are valid only while its weights stay at their addresses. After any failure, calls run without graphs.
    """

    def __init__(self, backend: CudaGraphBackend, decisions: Decisions) -> None:
        self._backend = backend
        self._decisions = decisions
        self._shapes: OrderedDict[Hashable, _Shape] = OrderedDict()
        #: A hash of the addresses of all weights, by state.
        self._weights: dict[Hashable, int] = {}
        self._wasted = 0

    @contextmanager
    def active(self, module: torch.nn.Module, state: Hashable, forward: Forward | None = None) -> Iterator[None]:
        """Inside the block, `module` replays graphs of its forward, or of `forward`, where that is faster.

        `state` names what else determines results besides weights and arguments: the LoRAs in use and their scales.
        """
        usual = forward or module.forward
        # Once for all that is looked for in them: a denoiser has thousands.
        layers = list(module.modules())
        if self._wasted > MAX_WASTED or any("forward" in vars(layer) for layer in layers):
            # Offloading, step caches, or batches of invariant results wrap the forward of a layer.
            with replaced_forward(module, forward) if forward else nullcontext():
                yield
            return
        self._require_same_weights(layers, state)

        def replay(*args: Any, **kwargs: Any) -> Any:
            return self._call(usual, state, (args, kwargs))

        with replaced_forward(module, replay):
            yield

    def drop(self) -> None:
        """Free the memory of all graphs, for example because something else needs it."""
        had_graphs = any(shape.graph for shape in self._shapes.values())
        self._shapes.clear()
        if had_graphs:
            self._backend.release()

    @property
    def count(self) -> int:
        return sum(shape.graph is not None for shape in self._shapes.values())

    def _require_same_weights(self, layers: Sequence[torch.nn.Module], state: Hashable) -> None:
        """Graphs hold the addresses of weights, which change when parts are moved, converted, or given LoRAs."""
        tensors = (
            tensor for layer in layers for kind in (layer._parameters, layer._buffers) for tensor in kind.values()
        )
        weights = hash(tuple(tensor.data_ptr() for tensor in tensors if tensor is not None))
        if self._weights.setdefault(state, weights) != weights or len(self._weights) > MAX_SHAPES:
            self.drop()
            self._weights = {state: weights}

    def _call(self, forward: Forward, state: Hashable, arguments: Any) -> Any:
        args, kwargs = arguments
        if torch.is_grad_enabled():
            return forward(*args, **kwargs)
        try:
            key = (state, signature_of(arguments))
        except NotATree:
            return forward(*args, **kwargs)
        # The value of a number in main memory would become part of the graph.
        if any(tensor.device != self._backend.device for tensor in tensors_in(arguments)):
            return forward(*args, **kwargs)
        shape = self._shape(key)
        if shape.graph is not None:
            return shape.graph(arguments)
        shape.calls += 1
        if shape.rejected or shape.calls < TIMED_CALLS[0]:
            return forward(*args, **kwargs)
        if shape.calls <= TIMED_CALLS[-1]:
            return self._time(shape, lambda: forward(*args, **kwargs))
        return self._captured(forward, shape, key, arguments)

    def _shape(self, key: Hashable) -> _Shape:
        shape = self._shapes.pop(key, None) or _Shape()
        self._shapes[key] = shape
        if len(self._shapes) > MAX_SHAPES:
            self._shapes.popitem(last=False)
        return shape

    def _time(self, shape: _Shape, call: Callable[[], Any]) -> Any:
        def timed() -> Any:
            seconds, result = self._backend.seconds(call)
            shape.seconds = min(shape.seconds, seconds)
            return result

        shape.peak_bytes, result = self._backend.allocated_bytes(timed)
        return result

    def _captured(self, forward: Forward, shape: _Shape, key: Hashable, arguments: Any) -> Any:
        """The result of the call, after which a graph does it if that is faster."""
        known = self._decisions.get(key)
        # Warming up and capturing take as much memory each, and are not allowed to use what decoding needs.
        if (known and not known.chosen) or self._backend.room_bytes() < 2 * shape.peak_bytes:
            shape.rejected = True
        else:
            self._try_capture(forward, shape, key, arguments)
        args, kwargs = arguments
        return shape.graph(arguments) if shape.graph else forward(*args, **kwargs)

    def _try_capture(self, forward: Forward, shape: _Shape, key: Hashable, arguments: Any) -> None:
        self._make_room()
        call = self._capture(forward, key, mapped(arguments, torch.clone))
        if call is None:
            # After the handler, whose traceback holds the memory of the attempt. A second attempt would fail, too.
            self._wasted += 1
            self.drop()
            self._backend.require_working_device()
            shape.rejected = True
            self._shapes[key] = shape
            return
        seconds = min(self._backend.seconds(lambda: call(arguments))[0] for _ in TIMED_CALLS)
        decision = Decision.of(seconds / shape.seconds)
        self._decisions.put(decision, key)
        used = "" if decision.chosen else ": not used"
        logger.info("a graph takes %.2f of the time of this shape%s", decision.ratio, used)
        shape.rejected = not decision.chosen
        shape.graph = call if decision.chosen else None

    def _capture(self, forward: Forward, key: Hashable, static: Any) -> _StaticCall | None:
        """None for a model that a graph cannot hold, which many kinds of errors may show."""
        args, kwargs = static
        try:
            graph = self._backend.capture(lambda: forward(*args, **kwargs))
            # Refuses results that are no tensors.
            signature_of(mapped(graph.output, torch.clone))
        except Exception as error:
            logger.info("no graph for this shape: %s", reason_of(error))
            if not is_out_of_memory(error):
                # Nor after a restart: it costs time and memory, and may have been what broke the device.
                self._decisions.put(Decision(1.0, chosen=False), key)
            return None
        return _StaticCall(graph, static)

    def _make_room(self) -> None:
        captured = [shape for shape in self._shapes.values() if shape.graph]
        for shape in captured[: max(0, len(captured) - MAX_GRAPHS + 1)]:
            # The next call of this shape captures it again.
            shape.graph, shape.calls = None, TIMED_CALLS[-1]
            self._wasted += 1
