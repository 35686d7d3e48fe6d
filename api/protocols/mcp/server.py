"""The MCP server and its tools. Importing this module loads the SDK."""

from typing import Annotated, Any, Literal

from fastapi.exceptions import RequestValidationError
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, InputRequiredResult, TextContent, ToolAnnotations
from pydantic import Field, ValidationError

from api.field_errors import near_field, request_error
from api.intake.submissions import MAX_UNKNOWN, NAME
from api.problems import invalid_request, problem_of
from api.protocols.mcp import calls, results
from api.services import Services
from shared.errors import ImagegenError

INSTRUCTIONS = """Makes and edits images. A tool waits up to 45 seconds for its job. A job that takes longer goes on:
call wait_for_job with its id. Results show small previews and link to the full images."""

# Some language models refuse every call that comes with a tool whose schema they cannot use: llama.cpp one with a
# maxLength of thousands, Gemini one with an exclusiveMinimum. Admission has the exact limits.
Prompt = Annotated[str, Field(description="What the image shows, in at most 4000 characters", min_length=1)]
Model = Annotated[str | None, Field(description="A name from list_models; default: the service's default model")]
Negative = Annotated[str | None, Field(description="What the image should not show")]
Side = Annotated[int | None, Field(description="Pixels; default: the model's native size", ge=16, le=8192)]
Steps = Annotated[int | None, Field(description="Denoising steps; default: the model's", ge=1, le=150)]
Guidance = Annotated[float | None, Field(description="How closely the image follows the prompt", ge=0, le=100)]
Seed = Annotated[int | None, Field(description="Reproduces an image; default: random", ge=0, le=2**32 - 1)]
NumImages = Annotated[int, Field(description="How many images to make from the one prompt", ge=1, le=64)]
Strength = Annotated[float | None, Field(description="How much may change: 1 is everything", ge=0, le=1)]
JobId = Annotated[str, Field(description="The id of a job, from an earlier result")]
Seconds = Annotated[int, Field(description="How long to wait", ge=0, le=calls.WAIT_SECONDS)]
Source = Annotated[
    str, Field(description="The id of an earlier job, JOB_ID/INDEX, an http(s) URL, a data: URL, or base64")
]
Mask = Annotated[str | None, Field(description="As `image`; white is repainted, black stays")]

_NEW = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
_READ = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_CANCEL = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)


class _Server(MCPServer[Any]):
    """Tells the model what is wrong, also of arguments that a tool does not have; the SDK ignores them."""

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Raises ToolError also for a misspelt argument. Some clients add arguments of their own to every call."""
        # Some models fill in every argument: null or an empty text stands for what they leave out.
        arguments = {name: value for name, value in arguments.items() if value not in (None, "")}
        tools = {tool.name: tool.input_schema["properties"].keys() for tool in await self.list_tools()}
        known = tools.get(name, arguments.keys())
        unknown = [argument for argument in arguments if argument not in known and NAME.fullmatch(argument)]
        for argument in unknown[:MAX_UNKNOWN]:
            if (near := near_field(argument, known)) is not None:
                raise ToolError(f"{argument} is not a known argument; perhaps you mean {near} (invalid-request)")
        try:
            result = await super().call_tool(name, arguments, context)
        except ToolError as error:
            cause = error.__cause__
            if isinstance(cause, ValidationError):
                raise ToolError(_text(request_error(cause))) from cause
            # The SDK hides the text of all errors but its own.
            if isinstance(cause, ImagegenError | RequestValidationError):
                raise ToolError(f"Error executing tool {name}: {_text(cause)}") from cause
            raise
        if isinstance(result, CallToolResult) and unknown:
            text = f"Warning: this tool has no argument {', '.join(unknown[:MAX_UNKNOWN])}."
            result.content.append(TextContent(type="text", text=text))
        return result


def create_server(services: Services) -> MCPServer[Any]:
    server = _Server("imagegen", title="Image generation", version=services.version, instructions=INSTRUCTIONS)
    tools = _Tools(services)
    for tool, title, annotations in (
        (tools.generate_image, "Generate an image", _NEW),
        (tools.edit_image, "Change an image", _NEW),
        (tools.get_image, "Show an image", _READ),
        (tools.wait_for_job, "Wait for a job", _READ),
        (tools.cancel_job, "Cancel a job", _CANCEL),
        (tools.list_models, "List models", _READ),
    ):
        server.add_tool(tool, title=title, annotations=annotations, structured_output=False)
    return server


class _Tools:
    """One method for each tool; its docstring is what models read."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def generate_image(
        self,
        ctx: Context[Any, Any],
        prompt: Prompt,
        model: Model = None,
        negative_prompt: Negative = None,
        width: Side = None,
        height: Side = None,
        num_inference_steps: Steps = None,
        guidance_scale: Guidance = None,
        seed: Seed = None,
        num_images: NumImages = 1,
    ) -> CallToolResult:
        """Make images from a text. Returns previews, links, the seed and the id of the job."""
        fields = {
            "prompt": prompt,
            "model": model,
            "negative_prompt": negative_prompt,
            "width": width,
            "height": height,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "seed": seed,
            "num_images": num_images,
        }
        return await self._generate(ctx, fields)

    async def edit_image(
        self,
        ctx: Context[Any, Any],
        prompt: Prompt,
        image: Source,
        mask: Mask = None,
        strength: Strength = None,
        model: Model = None,
        negative_prompt: Negative = None,
        num_inference_steps: Steps = None,
        guidance_scale: Guidance = None,
        seed: Seed = None,
        num_images: NumImages = 1,
    ) -> CallToolResult:
        """Change an image: one of an earlier job, or one from a URL. Returns what generate_image returns."""
        fields = {
            "prompt": prompt,
            "image": image,
            "mask": mask,
            "strength": strength,
            "model": model,
            "negative_prompt": negative_prompt,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "seed": seed,
            "num_images": num_images,
        }
        return await self._generate(ctx, fields)

    async def get_image(
        self,
        ctx: Context[Any, Any],
        job_id: JobId,
        index: Annotated[int, Field(description="Which image of the job, from 0", ge=0, le=63)] = 0,
        size: Annotated[
            Literal["preview", "full"], Field(description="`full` may be larger than a client accepts")
        ] = "preview",
    ) -> CallToolResult:
        """Show one image of a finished job."""
        call = calls.Call.of(ctx, self._services)
        return await results.image_result(call, await call.find(job_id), index, full=size == "full")

    async def wait_for_job(
        self,
        ctx: Context[Any, Any],
        job_id: JobId,
        seconds: Seconds = calls.WAIT_SECONDS,
    ) -> CallToolResult:
        """Wait for a job, and return its images once it has finished."""
        call = calls.Call.of(ctx, self._services)
        return await results.job_result(call, await call.wait(job_id, seconds))

    async def cancel_job(self, ctx: Context[Any, Any], job_id: JobId) -> CallToolResult:
        """Cancel a queued job at once, or a running one at its next step."""
        call = calls.Call.of(ctx, self._services)
        return await results.job_result(call, await call.cancel(job_id))

    async def list_models(self) -> CallToolResult:
        """List the models, with what each can do and how it is best used."""
        return results.models_result(await self._services.models())

    async def _generate(self, ctx: Context[Any, Any], fields: dict[str, Any]) -> CallToolResult:
        call = calls.Call.of(ctx, self._services)
        given = {name: value for name, value in fields.items() if value is not None}
        return await results.job_result(call, await call.generate(given))


def _text(raised: ImagegenError | RequestValidationError) -> str:
    error = invalid_request(raised) if isinstance(raised, RequestValidationError) else raised
    return f"{problem_of(error).detail} ({error.code})"
