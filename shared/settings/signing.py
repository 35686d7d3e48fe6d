"""The secrets that sign image links and webhooks."""

import base64
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from shared.settings.groups import Group
from shared.settings.service import Settings


def _webhook_secret(value: SecretStr) -> SecretStr:
    parse_signing_keys(value)
    return value


def parse_signing_keys(secret: SecretStr) -> list[bytes]:
    """Decode the keys that sign webhooks. Raises ValueError."""
    entries = secret.get_secret_value().replace(",", " ").split()
    try:
        keys = [base64.b64decode(entry.removeprefix("whsec_"), validate=True) for entry in entries]
    except ValueError:
        keys = []
    has_prefixes = all(entry.startswith("whsec_") for entry in entries)
    if not keys or not has_prefixes or not all(24 <= len(key) <= 64 for key in keys):
        raise ValueError("must be whsec_ followed by 24 to 64 bytes as base64, such as from: openssl rand -base64 32")
    return keys


class SigningSettings(Settings):
    """Settings of what signs image links and webhooks, and of what shows receivers of webhooks how to verify them."""

    link_secret: Annotated[Annotated[SecretStr, Field(min_length=16)] | None, Group.NETWORK] = None
    """Secret that signs image links if API keys are set. If empty, one is generated and stored in Redis."""
    link_lifetime_seconds: Annotated[int, Group.NETWORK, Field(ge=1, le=31_536_000)] = 86_400
    """How long an image link works without an API key."""
    webhook_secret: Annotated[Annotated[SecretStr, AfterValidator(_webhook_secret)] | None, Group.WEBHOOKS] = None
    """Secret that signs webhooks: whsec_ followed by 24 to 64 random bytes as base64. To change it, list the new and
    the old one, comma-separated: webhooks then carry a signature of each. If empty, webhooks are not signed."""
