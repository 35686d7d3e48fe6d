"""What an `imagegen.json` in a model's folder, or beside its file, sets."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from shared.errors import ConfigurationError
from shared.jobs.types import FrozenModel

OVERRIDES_FILE = "imagegen.json"
MAX_BYTES = 64 << 10
_SIDE = Field(ge=64, le=8192, multiple_of=8)
_CLASS = Field(pattern=r"^[A-Z][A-Za-z0-9]{2,80}Pipeline$")


def _relative_path(value: str) -> str:
    parts = value.split("/")
    if "\\" in value or "\0" in value or not all(parts) or any(part in (".", "..") for part in parts):
        raise ValueError("must be a path below the folder")
    return value


_Path = Annotated[str, Field(min_length=1, max_length=400), AfterValidator(_relative_path)]
_Line = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class ModelOverrides(FrozenModel):
    """None, and an empty list, leave what the model itself says."""

    num_inference_steps: Annotated[int | None, Field(ge=1, le=150)] = None
    guidance_scale: Annotated[float | None, Field(ge=0, le=50)] = None
    strength: Annotated[float | None, Field(gt=0, le=1)] = None
    width: Annotated[int | None, _SIDE] = None
    height: Annotated[int | None, _SIDE] = None
    only_native_size: bool = False
    """Whether images of other sizes are no good."""
    distilled: bool | None = None
    """Whether the model was distilled for a few steps without guidance."""
    family: Annotated[str | None, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,60}$")] = None
    """Key of a family, for models that are not recognised."""
    pipeline_class: Annotated[str | None, _CLASS] = None
    """A pipeline of diffusers, in place of the one that the index names."""
    base: _Path | None = None
    """The model that gives a file the parts and the configurations that it lacks; a path below SD_MODEL_DIR."""
    transformer: _Path | None = None
    """A .safetensors or .gguf file with the transformer, below the folder of this imagegen.json."""
    title: _Line | None = None
    licence: _Line | None = None
    commercial_use: bool | None = None
    trigger_words: Annotated[tuple[_Line, ...], Field(max_length=64)] = ()

    @model_validator(mode="after")
    def _check_pair(self) -> Self:
        if self.transformer and not self.base:
            raise ValueError("a transformer needs a base")
        return self

    @classmethod
    def read(cls, file: Path, name: str) -> "ModelOverrides":
        """Those of the model with this name; none if the file does not exist. Raises ConfigurationError."""
        try:
            with file.open("rb") as stream:
                text = stream.read(MAX_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return NO_OVERRIDES
        except OSError as error:
            raise ConfigurationError(f"The {file.name} of {name} cannot be read: {error.strerror}.") from None
        if len(text) > MAX_BYTES:
            raise ConfigurationError(f"The {file.name} of {name} is larger than {MAX_BYTES >> 10} kB.")
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = " ".join(
                [*filter(None, [".".join(map(str, first["loc"]))]), first["msg"].removeprefix("Value error, ")]
            )
            raise ConfigurationError(f"The {file.name} of {name} is invalid: {where}.") from None


def sidecar_of(file: Path) -> Path | None:
    """Beside the file: `<its name>.imagegen.json`, or else the imagegen.json of its folder."""
    names = (f"{file.stem}.{OVERRIDES_FILE}", OVERRIDES_FILE)
    return next((file.parent / name for name in names if (file.parent / name).is_file()), None)


NO_OVERRIDES = ModelOverrides()
