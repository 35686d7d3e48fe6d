"""Settings of the housekeeper."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo

from shared.net.allowlist import parse_receiver_headers
from shared.settings.groups import Group
from shared.settings.signing import SigningSettings


def _header(value: SecretStr, info: ValidationInfo) -> SecretStr:
    parse_receiver_headers(value.get_secret_value(), info.data.get("webhook_allow", ()))
    return value


class HousekeeperSettings(SigningSettings):
    """Settings that the housekeeper needs."""

    webhook_header: Annotated[Annotated[SecretStr, AfterValidator(_header)] | None, Group.WEBHOOKS] = None
    """Extra header of webhooks, as `Name: value`, such as for Header Auth in n8n; or one per entry of SD_WEBHOOK_ALLOW,
    as JSON: {"http://n8n:5678/webhook/images": "Name: value"}. It is only sent to URLs below the paths of these
    entries, and for entries without a path to n8n's Wait nodes (/webhook-waiting), because callers choose all other
    URLs."""
    webhook_inline_max_bytes: Annotated[int, Group.WEBHOOKS, Field(ge=0, le=16_777_216)] = 2_097_152
    """Maximum total size of images that a webhook contains if the request sets webhook_inline_images."""
    webhook_concurrency: Annotated[int, Group.WEBHOOKS, Field(ge=1, le=256)] = 32
    """Maximum webhooks that a housekeeper sends at the same time, to all receivers together."""
