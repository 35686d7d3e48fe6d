"""What a backend with its model can do: the one source for checks, defaults and GET /api/backends."""

from typing import Any

from shared.errors import FieldError, InvalidRequest
from shared.schemas import Frozen, GenerationRequest


class Limits(Frozen):
    """What the operator allows, whatever the model could do."""

    max_pixels: int
    max_images: int


class Capabilities(Frozen):
    """Told by a worker once its model is loaded; kept after it is gone, so that jobs can wait for its return."""

    model: str
    width: int
    """Native size in pixels."""
    height: int
    multiple_of: int
    min_side: int
    max_side: int
    num_inference_steps: int
    guidance_scale: float
    schedulers: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    """Request fields that this backend cannot honour."""

    def check(self, request: GenerationRequest, limits: Limits) -> None:
        """Raises InvalidRequest naming every field that this backend would not take."""
        errors = [*self._side_errors("width", request.width), *self._side_errors("height", request.height)]
        width, height = request.width or self.width, request.height or self.height
        if width * height > limits.max_pixels:
            errors.append(FieldError("/width", f"width x height may be at most {limits.max_pixels} pixels"))
        if request.num_images > limits.max_images:
            errors.append(FieldError("/num_images", f"at most {limits.max_images} pictures per job"))
        if (
            request.scheduler is not None
            and "scheduler" not in self.ignored
            and request.scheduler not in self.schedulers
        ):
            errors.append(FieldError("/scheduler", f"must be one of {', '.join(self.schedulers)}"))
        if errors:
            raise InvalidRequest(f"The {self.model} model cannot make this picture.", errors)

    def resolve(self, request: GenerationRequest) -> tuple[GenerationRequest, tuple[str, ...]]:
        """The request with the model's defaults filled in, and a warning for each field that will be ignored."""
        defaults = {
            "width": self.width,
            "height": self.height,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
        }
        given = {name for name in self.ignored if getattr(request, name) is not None}
        missing = {name: value for name, value in defaults.items() if getattr(request, name) is None}
        warnings = tuple(f"{name} is ignored: {self.model} cannot honour it" for name in sorted(given))
        return request.model_copy(update=missing), warnings

    def request_schema(self, limits: Limits) -> dict[str, Any]:
        """JSON Schema of the request fields that this backend takes, with its defaults and limits."""
        schema = GenerationRequest.model_json_schema()
        fields = {name: field for name, field in schema["properties"].items() if name not in self.ignored}
        side = {
            "type": "integer",
            "minimum": self.min_side,
            "maximum": self.max_side,
            "multipleOf": self.multiple_of,
        }
        known: dict[str, dict[str, Any]] = {
            "width": {**side, "default": self.width},
            "height": {**side, "default": self.height},
            "num_inference_steps": {
                "type": "integer",
                "minimum": 1,
                "maximum": 150,
                "default": self.num_inference_steps,
            },
            "guidance_scale": {"type": "number", "minimum": 0, "maximum": 50, "default": self.guidance_scale},
            "num_images": {"type": "integer", "minimum": 1, "maximum": limits.max_images, "default": 1},
            "scheduler": {"type": "string", "enum": list(self.schedulers)},
        }
        fields |= {name: field for name, field in known.items() if name in fields}
        return {
            **schema,
            "title": f"{self.model} request",
            "properties": fields,
            "x-max-pixels": limits.max_pixels,
        }

    def _side_errors(self, name: str, side: int | None) -> list[FieldError]:
        if side is None or (self.min_side <= side <= self.max_side and side % self.multiple_of == 0):
            return []
        wanted = f"must be a multiple of {self.multiple_of} between {self.min_side} and {self.max_side}"
        return [FieldError(f"/{name}", wanted)]
