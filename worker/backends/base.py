"""What a backend is to the rest of the worker: capabilities, and pictures for a request."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.capabilities import Capabilities
from shared.schemas import GenerationRequest

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Step:
    """One denoising step is done. `preview` makes a small picture of where it stands: costly, so only when wanted."""

    step: int
    steps: int
    preview: Callable[[], Pixels] | None = None


@dataclass(frozen=True)
class Picture:
    """`pixels` is RGB of shape (height, width, 3)."""

    pixels: Pixels
    seed: int


#: Called after each step, on the thread that renders. What it raises ends the rendering at once.
OnStep = Callable[[Step], None]


class Backend(Protocol):
    """An engine with its model loaded. One job at a time."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def device(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    def generate(self, request: GenerationRequest, on_step: OnStep) -> Sequence[Picture]:
        """Make the pictures of a resolved request (see Capabilities.resolve): picture i from seed + i.

        Raises JobFailure for what the caller should know, and whatever `on_step` raises.
        """
        ...
