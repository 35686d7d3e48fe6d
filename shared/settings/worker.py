"""Settings of a worker."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from shared.errors import ForbiddenUrl
from shared.jobs.requests import Backend
from shared.net.url import Url
from shared.settings.http_server import is_loopback, split_commas
from shared.settings.infrastructure import Folder, expand_home
from shared.settings.service import Settings


def _api_url(value: str) -> str:
    try:
        url = Url.parse(value)
    except ForbiddenUrl:
        url = None
    if url is None or (url.scheme == "http" and not is_loopback(url.host)):
        raise ValueError("must be an https address, because the key goes there; http is for tests on this machine")
    return value.rstrip("/")


class WorkerSettings(Settings):
    """What a worker needs."""

    backend: Backend = Backend.SD
    """The one engine this worker serves. `imagegen up` sets it for each worker it starts."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """auto, cpu, cuda, cuda:N or mps; auto takes CUDA, then Apple's GPU, then the CPU."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision of the model; auto takes what is safe on the device."""
    cpu_threads: Annotated[str, Field(pattern=r"^(auto|[1-9]\d{0,3})$")] = "auto"
    """Threads that a model computes with on a CPU: a number, or auto for as many as there are CPUs for this process, by
    its affinity and the quotas of its containers. Fewer leave more to other programs."""
    model_id: Annotated[str, Field(min_length=1), AfterValidator(expand_home)] = "starter"
    """Model of the sd backend: starter (bundled), a Hugging Face id such as stabilityai/stable-diffusion-xl-base-1.0,
    or a local folder in diffusers' format."""
    flux_model_id: Annotated[str, Field(min_length=1), AfterValidator(expand_home)] = (
        "black-forest-labs/FLUX.2-klein-4B"
    )
    """Model of the flux-local backend: a FLUX.2 Klein of Hugging Face, or a local folder in diffusers' format."""
    model_dir: Folder = Path("models")
    """Where downloaded models are kept, each as <owner>/<name>."""
    lora_dir: Folder = Path("models/loras")
    """LoRAs of the sd backend: .safetensors files there and in subfolders, which requests choose by their paths. Read
    when the worker starts."""
    safety_checker: bool = True
    """Whether images of local models are checked, and withheld where the checker objects."""
    safety_checker_id: Annotated[str, Field(min_length=1), AfterValidator(expand_home)] = (
        "CompVis/stable-diffusion-safety-checker"
    )
    """Checker for models that bring none: a Hugging Face id or a local folder."""
    huggingface_token: SecretStr | None = None
    """Token of Hugging Face for models that need a login. Empty: the one of `hf auth login`, if any."""
    max_batch_size: Annotated[int, Field(ge=1, le=64)] = 4
    """Most images that are rendered in one go: those of one job, and of queued jobs that have the same size and
    options. A job that is alone in the queue waits for nobody."""
    optimize: Literal["off", "safe", "max"] = "safe"
    """How sd saves time: safe renders several images in one go and caches prompt embeddings, which changes no pixel on
    CPUs and at most the last bits on GPUs; max also takes bfloat16 on CPUs that compute with it and SD_COMPILE_SIZES,
    which changes images a little; off does nothing."""
    compile_sizes: Annotated[
        tuple[Annotated[str, Field(pattern=r"^\d{2,4}x\d{2,4}$")], ...], NoDecode, BeforeValidator(split_commas)
    ] = ()
    """Sizes such as 1024x1024, comma-separated, that sd compiles its model for when it starts, with SD_OPTIMIZE=max.
    Takes a minute or so, and a C++ compiler; all other sizes are made without."""
    reuse_pictures: bool = False
    """Whether an exact repeat, which is the same request of the same key with the same seed, is answered with the
    images that the same local model made of it before. `reused_from` of the job tells so."""
    restart_backoff_seconds: Annotated[int, Field(ge=0, le=3600)] = 0
    """Longest pause before a worker that cannot load its model ends; pauses grow with each failure in a row. For what
    starts it again at once, such as Docker: compose.yaml sets 300. 0: it ends at once."""
    bfl_base_url: Annotated[str, AfterValidator(_api_url)] = "https://api.bfl.ai"
    """Where flux-api sends its requests; https://api.eu.bfl.ai and https://api.us.bfl.ai keep them in one region."""
    bfl_concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Jobs of flux-api at a time, of all its workers together. Black Forest Labs takes 24 of an account, 6 of
    flux-kontext-max."""
    bfl_memory_bytes: Annotated[int, Field(ge=1 << 26)] = 402_653_184
    """What images of all jobs at once may take in a worker of flux-api; jobs wait for each other rather than take
    more."""
