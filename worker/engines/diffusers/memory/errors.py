"""What errors of the libraries say."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from shared.errors import OutOfMemory

#: Found in the messages of errors that are not torch.OutOfMemoryError: of the CPU, of Apple's GPU, and of CUDA's own
#: libraries, which allocate past torch.
_OUT_OF_MEMORY_MESSAGES = (
    "can't allocate memory",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _OUT_OF_MEMORY_MESSAGES)


@contextmanager
def reported_out_of_memory() -> Iterator[None]:
    """Raises OutOfMemory for an error of the libraries, or with one as its cause, that says that memory is short."""
    try:
        yield
    except Exception as error:
        if any(is_out_of_memory(one) for one in (error, error.__cause__) if one is not None):
            raise OutOfMemory from error
        raise


def is_broken_device(error: BaseException) -> bool:
    """Whether this process can no longer trust any result from the device."""
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def reason_of(error: BaseException) -> str:
    """The first line of the message, for the end of a sentence."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def reason_to_do_without(error: Exception) -> str:
    """Why something that only makes a model faster is not possible. Raises the error of a broken device again."""
    # PyTorch's compiler puts an error of its own around each, whose message begins with the name of the compiler.
    while isinstance(inner := getattr(error, "inner_exception", None), Exception):
        error = inner
    if is_broken_device(error):
        raise error
    return reason_of(error)
