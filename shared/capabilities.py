"""What a backend with its model can do: the one source for checks, defaults and GET /api/backends."""

from typing import Any

from shared.errors import FieldError, InvalidRequest
from shared.schemas import Frozen, GenerationRequest


class Limits(Frozen):
    """What the operator allows, whatever the model could do."""

    max_pixels: int
    max_images: int

    def check(self, request: GenerationRequest) -> None:
        """Raises InvalidRequest. For a backend whose model is not known yet: sides left out cannot be judged."""
        if errors := self.errors(request, request.width or 0, request.height or 0):
            raise InvalidRequest("This service does not make such pictures.", errors)

    def errors(self, request: GenerationRequest, width: int, height: int) -> list[FieldError]:
        errors = []
        if width * height > self.max_pixels:
            errors.append(FieldError("/width", f"width x height may be at most {self.max_pixels} pixels"))
        if request.num_images > self.max_images:
            errors.append(FieldError("/num_images", f"at most {self.max_images} pictures per job"))
        return errors


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
        errors += limits.errors(request, request.width or self.width, request.height or self.height)
        errors += self._scheduler_errors(request.scheduler)
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
        """JSON Schema of the requests that `check` accepts, with this backend's defaults and limits.

        What JSON Schema cannot say is in `x-max-pixels`. Fields marked `x-ignored` are taken, but change nothing.
        """
        schema = GenerationRequest.model_json_schema()
        fields: dict[str, dict[str, Any]] = schema["properties"]
        for name, known in self._known_fields(limits).items():
            sentence = fields[name].get("description")
            fields[name] = {**known, "description": sentence} if sentence else known
        for name in self.ignored:
            fields[name]["x-ignored"] = True
        return {**schema, "title": f"{self.model} request", "x-max-pixels": limits.max_pixels}

    def _known_fields(self, limits: Limits) -> dict[str, dict[str, Any]]:
        side = {
            "type": ["integer", "null"],
            "minimum": self.min_side,
            "maximum": self.max_side,
            "multipleOf": self.multiple_of,
        }
        steps = {"type": ["integer", "null"], "minimum": 1, "maximum": 150, "default": self.num_inference_steps}
        guidance = {"type": ["number", "null"], "minimum": 0, "maximum": 50, "default": self.guidance_scale}
        fields: dict[str, dict[str, Any]] = {
            "width": {**side, "default": self.width},
            "height": {**side, "default": self.height},
            "num_inference_steps": steps,
            "guidance_scale": guidance,
            "num_images": {"type": "integer", "minimum": 1, "maximum": limits.max_images, "default": 1},
        }
        if "scheduler" not in self.ignored:
            fields["scheduler"] = {"enum": [*self.schedulers, None], "default": None}
        return fields

    def _scheduler_errors(self, scheduler: str | None) -> list[FieldError]:
        if scheduler is None or "scheduler" in self.ignored or scheduler in self.schedulers:
            return []
        return [FieldError("/scheduler", f"must be one of {', '.join(self.schedulers)}")]

    def _side_errors(self, name: str, side: int | None) -> list[FieldError]:
        if side is None or (self.min_side <= side <= self.max_side and side % self.multiple_of == 0):
            return []
        wanted = f"must be a multiple of {self.multiple_of} between {self.min_side} and {self.max_side}"
        return [FieldError(f"/{name}", wanted)]
