"""Every setting: read from the environment and `.env`, prefix `SD_`. Each field's sentence is its documentation."""

import base64
import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared import envfile, logs
from shared.addresses import Url
from shared.allowlist import Entry, receiver_headers
from shared.bfl import DEFAULT_MODEL, MODELS
from shared.doors import DoorSettings, http_url, is_loopback, split
from shared.egress import Proxy
from shared.errors import ConfigurationError, ForbiddenUrl
from shared.mistakes import explained
from shared.schemas import Backend
from shared.stores import Folder, StoreSettings, home_expanded

PREFIX = "SD_"
#: In the environment of what `imagegen up` starts: it has warned of unknown settings already.
SUPERVISED = "IMAGEGEN_SUPERVISED"


def _key(value: SecretStr) -> SecretStr:
    # What cannot stand in a header would be quoted in the error of whoever puts it there.
    key = value.get_secret_value().strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError("there are characters in it that no key has")
    return SecretStr(key)


def _webhook_secret(value: SecretStr) -> SecretStr:
    signing_keys(value)
    return value


def signing_keys(secret: SecretStr) -> list[bytes]:
    """What webhooks are signed with. Raises ValueError."""
    entries = secret.get_secret_value().replace(",", " ").split()
    try:
        keys = [base64.b64decode(entry.removeprefix("whsec_"), validate=True) for entry in entries]
    except ValueError:
        keys = []
    sound = all(entry.startswith("whsec_") for entry in entries) and all(24 <= len(key) <= 64 for key in keys)
    if not keys or not sound:
        raise ValueError("must be whsec_ and 24 to 64 bytes as base64, e.g. of: openssl rand -base64 32")
    return keys


def _header(value: SecretStr, info: ValidationInfo) -> SecretStr:
    receiver_headers(value.get_secret_value(), info.data.get("webhook_allow", ()))
    return value


def _api_url(value: str) -> str:
    try:
        url = Url.parse(value)
    except ForbiddenUrl:
        url = None
    if url is None or (url.scheme == "http" and not is_loopback(url.host)):
        raise ValueError("must be an https address, because the key goes there; http is for tests on this machine")
    return value.rstrip("/")


def _receiver(value: str) -> str:
    entry = Entry.parse(value)
    return entry.origin + entry.path


def _proxy(value: SecretStr) -> SecretStr:
    Proxy.parse(value.get_secret_value())
    return value


def _backends(value: object) -> object:
    names = split(value)
    known = [str(backend) for backend in Backend]
    for name in names if isinstance(value, str) and isinstance(names, list) else ():
        if name not in known:
            near = get_close_matches(name.lower().replace("_", "-"), known, n=1)
            meant = f"; you may mean {near[0]}" if near else ""
            raise ValueError(f"an entry is none of {', '.join(known)}{meant}")
    return names


def _bfl_model(value: str) -> str:
    if value not in MODELS:
        raise ValueError(f"must be one of {', '.join(MODELS)}")
    return value


class Settings(StoreSettings):
    """What every process needs."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )

    backends: Annotated[tuple[Backend, ...], NoDecode, BeforeValidator(_backends), Field(min_length=1)] = (Backend.SD,)
    """Engines of this installation, comma-separated: sd, flux-local, flux-api; null makes patterns without a model.
    `imagegen up` starts a worker for each."""
    bfl_api_key: Annotated[SecretStr, AfterValidator(_key)] | None = None
    """Key of Black Forest Labs (https://dashboard.bfl.ai), for flux-api."""
    bfl_default_model: Annotated[str, AfterValidator(_bfl_model)] = DEFAULT_MODEL
    """Model of flux-api for requests without `bfl_model`."""
    max_pixels: Annotated[int, Field(ge=4096)] = 4_194_304
    """Largest width x height of a picture."""
    max_image_pixels: Annotated[int, Field(ge=4096)] = 25_000_000
    """Largest width x height of a picture that comes with a request."""
    job_timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] = 600
    """A job that runs longer is stopped and fails with `timed-out`."""
    shutdown_grace_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """Grace period on SIGTERM, in which a worker may finish its job before the job is requeued."""
    job_retention_days: Annotated[int, Field(ge=0)] = 7
    """Records of finished jobs are kept so long; 0 keeps them."""
    output_retention_days: Annotated[int, Field(ge=0)] = 0
    """Pictures are kept so long; 0 keeps them."""
    output_max_bytes: Annotated[int, Field(ge=0)] = 0
    """Most that all pictures together may take, the oldest go first; 0 sets no limit."""
    webhook_allow: Annotated[
        tuple[Annotated[str, AfterValidator(_receiver)], ...], NoDecode, BeforeValidator(split)
    ] = ()
    """Receivers in your own network, comma-separated, each an origin such as http://n8n:5678 or what lies below a path
    of it such as http://n8n:5678/webhook/images: webhooks may go there and images of requests may come from there.
    All others must be public, and on port 80 or 443."""
    egress_proxy: Annotated[SecretStr, AfterValidator(_proxy)] | None = None
    """Proxy through which webhooks are sent and images of requests are fetched, such as http://proxy:3128 or
    http://user:password@proxy:3128, by CONNECT to ports 80 and 443. It looks names up, and has to refuse private
    addresses. Receivers of SD_WEBHOOK_ALLOW at private addresses are asked directly. Empty: all are."""
    alive_file: Path | None = None
    """File that a worker or housekeeper touches every two seconds while it serves, for health checks of containers."""
    log_format: logs.Format = "text"
    """One line of text or one JSON object per log entry."""

    @property
    def egress(self) -> Proxy | None:
        return Proxy.parse(self.egress_proxy.get_secret_value()) if self.egress_proxy else None


class LinkSettings(Settings):
    """What those need who tell where pictures are."""

    link_secret: Annotated[SecretStr, Field(min_length=16)] | None = None
    """What picture links are signed with where keys are set. Empty: made once and kept in Redis."""
    link_lifetime_seconds: Annotated[int, Field(ge=1, le=31_536_000)] = 86_400
    """How long a picture link works without a key."""


class ApiSettings(DoorSettings, LinkSettings):
    """What the API needs."""

    output_public_url: Annotated[str, AfterValidator(http_url)] = ""
    """Address at which clients reach the storage of SD_OUTPUT_URL, such as https://s3.eu-central-1.amazonaws.com. Set:
    picture links lead on to signed ones there. Empty: the API hands the pictures out."""
    default_backend: Backend | None = None
    """Engine of requests that name none. Empty: flux-api where SD_BACKENDS has it and SD_BFL_API_KEY is set, else the
    first of SD_BACKENDS."""
    sync_timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 110
    """How long /api/txt2img waits for the picture before it answers 202 and lets the job go on. Most clients give
    up at 120."""
    max_queued_jobs: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Jobs that may wait; one more is answered 429."""
    max_queued_jobs_per_backend: Annotated[int, Field(ge=0)] = 0
    """Jobs that may wait for one engine; 0 sets no limit of its own."""
    min_free_bytes: Annotated[int, Field(ge=0)] = 268_435_456
    """Free space on the disk of SD_OUTPUT_DIR below which no more jobs are taken."""
    max_image_bytes: Annotated[int, Field(ge=1024)] = 20_971_520
    """Largest file of a picture that comes with a request."""
    max_request_pixels: Annotated[int, Field(ge=4096)] = 200_000_000
    """Most pixels of all pictures of a request together, its mask among them."""
    max_body_bytes: Annotated[int, Field(ge=131_072)] = 67_108_864
    """Largest request with all its pictures. In JSON they are base64, and take a third more than their files."""
    max_images_per_job: Annotated[int, Field(ge=1, le=64)] = 4
    """Largest num_images of a request."""
    max_pixel_steps: Annotated[int, Field(ge=1)] = 500_000_000
    """Most work of a request: width x height x num_inference_steps x num_images."""

    @property
    def fallback_backend(self) -> Backend:
        """The backend of requests that name none."""
        if self.default_backend is not None:
            return self.default_backend
        cloud = Backend.FLUX_API in self.backends and self.bfl_api_key is not None
        return Backend.FLUX_API if cloud else self.backends[0]


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
    model_id: Annotated[str, Field(min_length=1), AfterValidator(home_expanded)] = "starter"
    """Model of the sd backend: starter (bundled), a Hugging Face id such as stabilityai/stable-diffusion-xl-base-1.0,
    or a local folder in diffusers' format."""
    flux_model_id: Annotated[str, Field(min_length=1), AfterValidator(home_expanded)] = (
        "black-forest-labs/FLUX.2-klein-4B"
    )
    """Model of the flux-local backend: a FLUX.2 Klein of Hugging Face, or a local folder in diffusers' format."""
    model_dir: Folder = Path("models")
    """Where downloaded models are kept, each as <owner>/<name>."""
    lora_dir: Folder = Path("models/loras")
    """LoRAs of the sd backend: .safetensors files there and in subfolders, which requests choose by their paths. Read
    when the worker starts."""
    safety_checker: bool = True
    """Whether pictures of local models are checked, and withheld where the checker objects."""
    safety_checker_id: Annotated[str, Field(min_length=1), AfterValidator(home_expanded)] = (
        "CompVis/stable-diffusion-safety-checker"
    )
    """Checker for models that bring none: a Hugging Face id or a local folder."""
    huggingface_token: SecretStr | None = None
    """Token of Hugging Face for models that need a login. Empty: the one of `hf auth login`, if any."""
    max_batch_size: Annotated[int, Field(ge=1, le=64)] = 4
    """Most pictures that are rendered in one go: those of one job, and of queued jobs that have the same size and
    options. A job that is alone in the queue waits for nobody."""
    optimize: Literal["off", "safe", "max"] = "safe"
    """How sd saves time: safe renders several images in one go and caches prompt embeddings, which changes no pixel on
    CPUs and at most the last bits on GPUs; max also takes bfloat16 on CPUs that compute with it and SD_COMPILE_SIZES,
    which changes images a little; off does nothing."""
    compile_sizes: Annotated[
        tuple[Annotated[str, Field(pattern=r"^\d{2,4}x\d{2,4}$")], ...], NoDecode, BeforeValidator(split)
    ] = ()
    """Sizes such as 1024x1024, comma-separated, that sd compiles its model for when it starts, with SD_OPTIMIZE=max.
    Takes a minute or so, and a C++ compiler; all other sizes are made without."""
    reuse_pictures: bool = False
    """Whether an exact repeat, which is the same request of the same key with the same seed, is answered with the
    pictures that the same local model made of it before. `reused_from` of the job tells so."""
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


class HousekeeperSettings(LinkSettings):
    """What the housekeeper needs."""

    webhook_secret: Annotated[SecretStr, AfterValidator(_webhook_secret)] | None = None
    """Signs webhooks: whsec_ and 24 to 64 random bytes as base64. Several, comma-separated, sign side by side, for a
    change of secret. Empty: webhooks are not signed."""
    webhook_header: Annotated[SecretStr, AfterValidator(_header)] | None = None
    """A header that webhooks carry, as `Name: value`, e.g. for Header Auth in n8n; or one for each entry of
    SD_WEBHOOK_ALLOW, as JSON: {"http://n8n:5678/webhook/images": "Name: value"}. Sent below the paths of these entries
    alone, and of entries without a path to n8n's Wait nodes (/webhook-waiting): callers choose all other addresses."""
    webhook_inline_max_bytes: Annotated[int, Field(ge=0, le=16_777_216)] = 2_097_152
    """Most bytes of pictures that a webhook carries itself, where its caller asks for that."""
    webhook_concurrency: Annotated[int, Field(ge=1, le=256)] = 32
    """Webhooks that one housekeeper sends at a time, to all receivers together."""


class LauncherSettings(ApiSettings, WorkerSettings, HousekeeperSettings):
    """What `imagegen up` needs: everything."""

    data_dir: Folder = Path("data")
    """Where the embedded Redis keeps the queue and the job records, and `imagegen up` what its processes say."""
    flower_port: Annotated[int, Field(ge=0, le=65_535)] = 5555
    """Port of the Flower dashboard, on SD_HOST; 0 starts none."""
    flower_basic_auth: SecretStr | None = None
    """user:password for Flower. Needed unless SD_HOST is a loopback address."""

    def require_login(self) -> None:
        """Raises ConfigurationError where the dashboard would be open to the network."""
        if self.flower_basic_auth is None and not is_loopback(self.reachable_at):
            raise ConfigurationError(
                f"SD_FLOWER_BASIC_AUTH is empty, and with SD_HOST={self.reachable_at} everybody could see the "
                "dashboard: set it to user:password, or SD_FLOWER_PORT=0 to start none."
            )


S = TypeVar("S", bound=BaseSettings)


def load(family: type[S]) -> S:
    """Read the settings. Raises ConfigurationError with one sentence that names the variable, never its value."""
    written = envfile.read()
    for name, value in written.items():
        # The library that reaches buckets reads these variables itself, and knows nothing of `.env`.
        if name.startswith("AWS_"):
            os.environ.setdefault(name, value)
    # What the environment has comes first.
    chosen = {name.upper() for name, value in os.environ.items() if value}
    own = {name.upper(): value for name, value in written.items() if name.upper() not in chosen}
    fields: dict[str, Any] = {
        field: own[name] for field in family.model_fields if (name := f"{PREFIX}{field}".upper()) in own
    }
    try:
        return family(**fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = f"{PREFIX}{first['loc'][0]}".upper() if first["loc"] else "The settings"
        raise ConfigurationError(f"{name} is wrong: {explained(first)}.") from None


def unknown() -> list[str]:
    """A sentence for each variable that looks like a setting and is none. Raises ConfigurationError."""
    known = [f"{PREFIX}{field}".upper() for field in LauncherSettings.model_fields]
    strange = sorted({name for name in (*os.environ, *envfile.read()) if _is_own(name) and name.upper() not in known})
    return [f"{name} is no setting and has no effect{_meant(name.upper(), known)}." for name in strange]


def _is_own(name: str) -> bool:
    return name.upper().startswith(PREFIX)


def _meant(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.75)
    return f": you may mean {near[0]}" if near else ": docs/configuration.md lists them all"
