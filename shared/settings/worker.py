"""Settings of a worker."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from shared.errors import ForbiddenUrl
from shared.jobs.types import Backend
from shared.net.url import Url
from shared.settings.groups import Group
from shared.settings.http_server import is_loopback, split_commas
from shared.settings.infrastructure import Folder, expand_home
from shared.settings.service import Settings, header_key


def _api_url(value: str) -> str:
    try:
        url = Url.parse(value)
    except ForbiddenUrl:
        url = None
    if url is None or (url.scheme == "http" and not is_loopback(url.host)):
        raise ValueError(
            "must be an https URL, because the API key is sent to it; only loopback addresses may use http"
        )
    return value.rstrip("/")


class WorkerSettings(Settings):
    """Settings that a worker needs."""

    backend: Annotated[Backend, Group.MODELS] = Backend.SD
    """Backend that this worker serves; `imagegen up` sets it for each worker that it starts."""
    device: Annotated[str, Group.MODELS, Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]+)?)$")] = "auto"
    """Device that models run on: auto, cpu, cuda, cuda:N or mps. auto prefers CUDA, then Apple's GPU, then the CPU;
    with several NVIDIA GPUs, each gets a worker."""
    dtype: Annotated[Literal["auto", "float32", "float16", "bfloat16"], Group.MODELS] = "auto"
    """Precision of models; auto chooses one that is safe on the device."""
    cpu_threads: Annotated[str, Group.PERFORMANCE, Field(pattern=r"^(auto|[1-9][0-9]{0,3})$")] = "auto"
    """Threads that a model uses on a CPU: a number, or auto for one per CPU that affinity and container quotas allow.
    Fewer leave more for other programs."""
    host_workers: Annotated[int, Group.PERFORMANCE, Field(ge=1, le=64)] = 1
    """Workers with the same backend on this machine. Each takes its share of the cores and of the main memory.
    `imagegen up` and the container set it where they start a worker for each GPU."""
    model_id: Annotated[str, Group.START, Field(min_length=1), AfterValidator(expand_home)] = "starter"
    """Model of the sd backend: starter (bundled), a Hugging Face id such as stabilityai/stable-diffusion-xl-base-1.0,
    a folder in diffusers' format, or a .safetensors file."""
    flux_model_id: Annotated[str, Group.START, Field(min_length=1), AfterValidator(expand_home)] = (
        "black-forest-labs/FLUX.2-klein-4B"
    )
    """Model of the flux-local backend: of any family, with the same values as SD_MODEL_ID."""
    models: Annotated[
        tuple[Annotated[str, Field(min_length=1), AfterValidator(expand_home)], ...],
        Group.MODELS,
        BeforeValidator(split_commas),
    ] = ()
    """More models that requests may choose, comma-separated: Hugging Face ids, folders in diffusers' format, or files.
    Models in SD_MODEL_DIR need not be listed."""
    data_dir: Annotated[Folder, Group.STORAGE] = Path("data")
    """Folder for the queue and the job records of the embedded Redis, for the logs of `imagegen up`, and for compiled
    models."""
    model_dir: Annotated[Folder, Group.MODELS] = Path("models")
    """Folder of models. Requests choose folders in diffusers' format and .safetensors files in it by their path.
    Downloads go to <owner>/<name> below it."""
    lora_dir: Annotated[Folder, Group.MODELS] = Path("models/loras")
    """Folder of LoRAs for local models: .safetensors files, also in subfolders. Requests choose them by path; new files
    can be used at once."""
    embedding_dir: Annotated[Folder, Group.MODELS] = Path("models/embeddings")
    """Folder of textual inversion embeddings for Stable Diffusion: .safetensors files, also in subfolders. A prompt
    uses one by its name without the extension; new files can be used at once."""
    model_keep_alive_seconds: Annotated[int, Group.MODELS, Field(ge=-1)] = -1
    """How long a worker keeps an unused model in memory; -1 keeps it until another model needs the space."""
    model_memory_bytes: Annotated[int, Group.PERFORMANCE, Field(ge=0)] = 0
    """Maximum device memory for the weights of all models in a worker. 0 uses the memory that is free."""
    model_affinity_seconds: Annotated[int, Group.PERFORMANCE, Field(ge=0, le=3600)] = 20
    """How much longer a job may wait because workers prefer jobs whose model they have in memory. 0 runs jobs strictly
    in the order of the queue."""
    safety_checker: Annotated[bool, Group.MODELS] = True
    """Check images of local models, and withhold unsafe ones."""
    safety_checker_id: Annotated[str, Group.MODELS, Field(min_length=1), AfterValidator(expand_home)] = (
        "CompVis/stable-diffusion-safety-checker"
    )
    """Safety checker for models that come without one: a Hugging Face id or a local folder."""
    huggingface_token: Annotated[Annotated[SecretStr, AfterValidator(header_key)] | None, Group.MODELS] = None
    """Hugging Face token for models that require a login. If empty, the token of `hf auth login` is used."""
    max_batch_size: Annotated[int, Group.PERFORMANCE, Field(ge=1, le=64)] = 4
    """Maximum images per batch. A batch holds the images of one job and of queued jobs with the same size and options.
    A job never waits for others to join its batch."""
    optimize: Annotated[Literal["off", "safe", "fast", "max"], Group.PERFORMANCE] = "safe"
    """Optimizations of local models. safe changes no pixel on CPUs and at most the last bits on GPUs: batches, cached
    prompts, CUDA graphs. fast, for GPUs, also compiles the model and decodes in bfloat16. max also computes in eight
    bits where that is faster, skips steps that change little, and uses bfloat16 on CPUs that support it; it changes
    images slightly. off disables all."""
    quantize: Annotated[Literal["off", "auto", "8bit", "4bit"], Group.PERFORMANCE] = "off"
    """Store weights of local models in fewer bits, which changes images slightly. auto does so only for a model that
    does not fit into the device's memory, and takes the first that makes it fit: fp8, 8bit, 4bit. 8bit and 4bit need
    the extra `quantize`, 4bit also an NVIDIA GPU. off keeps all weights as they are."""
    compile_sizes: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[0-9]{2,4}x[0-9]{2,4}$")], ...],
        Group.PERFORMANCE,
        BeforeValidator(split_commas),
    ] = ()
    """Image sizes, comma-separated, such as 832x1216, that models are compiled for at start, beside their own size on
    GPUs. Requires SD_OPTIMIZE=fast or max and a C++ compiler, and takes minutes, once for each version. Other sizes
    run uncompiled."""
    reuse_pictures: Annotated[bool, Group.PERFORMANCE] = False
    """Cache results of local models: if the same API key repeats a request with the same seed, the job gets the images
    of the earlier job, which `reused_from` names."""
    restart_backoff_seconds: Annotated[int, Group.OPERATIONS, Field(ge=0, le=3600)] = 0
    """Maximum pause before a worker that cannot load its model exits; pauses grow with each failure in a row. For
    supervisors that restart it at once, such as Docker; compose.yaml sets 300. 0 means no pause."""
    bfl_base_url: Annotated[str, Group.CLOUD, AfterValidator(_api_url)] = "https://api.bfl.ai"
    """API that flux-api calls; https://api.eu.bfl.ai and https://api.us.bfl.ai keep requests in one region."""
    bfl_concurrency: Annotated[int, Group.CLOUD, Field(ge=1, le=256)] = 8
    """Maximum running jobs of flux-api, in all its workers together. Black Forest Labs allows 24 per account, and 6 for
    flux-kontext-max."""
    bfl_memory_bytes: Annotated[int, Group.CLOUD, Field(ge=1 << 26)] = 402_653_184
    """Memory for the images of all running jobs in a flux-api worker; jobs wait while it is in use."""

    def warnings(self) -> Iterator[str]:
        yield from super().warnings()
        for field in ("model_dir", "lora_dir", "embedding_dir"):
            folder: Path = getattr(self, field)
            # The default folders need not exist.
            if field in self.model_fields_set and not folder.is_dir():
                yield f"SD_{field.upper()}={folder} is not a folder: create it, or correct the setting."
