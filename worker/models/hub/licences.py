"""Licences of models as data: read from cards, and whether they permit commercial use."""

import re
from pathlib import Path

from worker.models.download_plans import DownloadPlan

MAX_CARD_BYTES = 64 << 10
_NAME = re.compile(r"[\w .,()+:/'-]{1,120}")
#: What licences permit, by their names or their ids on Hugging Face. Others, such as community licences with a limit of
#: revenue, are left open: only their text says who may use a model for what.
_PERMITTED = re.compile(
    r"apache-2\.0|mit|bsd(?:-\w+)*|cc0-1\.0|cc-by(?:-sa)?-[\d.]+|unlicense|wtfpl|isc|agpl-3\.0|l?gpl-[23][\d.]*"
    r"|(?:(?:bigscience|bigcode|creativeml)-)?open-?rail(?:\+\+)?(?:-m)?"
)
#: The last one is NVIDIA's, for research only.
_FORBIDDEN = re.compile(r".*(?:non-?commercial|cc-by-nc|-nc-|research-(?:only|license|licence)|nscl-).*")


def commercial_use_of(licence: str | None) -> bool | None:
    """None where the licence is unknown, or has conditions."""
    name = (licence or "").strip().lower().replace(" ", "-")
    if _FORBIDDEN.fullmatch(name):
        return False
    return True if _PERMITTED.fullmatch(name) else None


def licence_of_folder(folder: Path) -> str | None:
    """The licence that the hub has told, or that the front matter of the model's card names."""
    plan = DownloadPlan.read(folder)
    return (plan.licence if plan else None) or _licence_of_card(folder / "README.md")


def _licence_of_card(card: Path) -> str | None:
    try:
        with card.open("rb") as file:
            text = file.read(MAX_CARD_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
    front = re.match(r"\s*---\s*\n(.*?)\n---", text, re.DOTALL)
    fields = (
        dict(re.findall(r"^(license|license_name):[ \t]*['\"]?([^'\"\n#]+)", front[1], re.MULTILINE)) if front else {}
    )
    return licence_of_fields(fields.get("license"), fields.get("license_name"))


def licence_of_fields(licence: str | None, name: str | None) -> str | None:
    """From the fields of a card: licences that Hugging Face has no id for are `other`, with a name."""
    chosen = name if name and (licence or "other").strip() == "other" else licence
    text = (chosen or "").strip()
    return text if _NAME.fullmatch(text) else None
