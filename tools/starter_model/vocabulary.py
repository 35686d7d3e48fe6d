"""What the model knows, from `vocabulary.json`: things and their words, colours, phrases around them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Vocabulary:
    """Order matters everywhere: the same seed draws the same scenes only from the same lists."""

    pictograms: tuple[str, ...]
    """The names in the package, things first and shapes last."""
    words: tuple[str, ...]
    """What people would type, one for each pictogram."""
    shape_count: int
    """How many pictograms, counted from the end, are plain shapes to be drawn in any colour."""
    colours: Mapping[str, RGB]
    thing_colours: tuple[str, ...]
    """The colours a thing may be painted in; white and black would hide its inner lines."""
    shape_colours: tuple[str, ...]
    """Pink stands here twice, and so comes twice as often: the shipped weights were trained so."""
    openings: tuple[str, ...]
    """Drawn evenly, so a phrase that stands twice comes twice as often; the same for `endings`."""
    endings: tuple[str, ...]

    @property
    def thing_count(self) -> int:
        return len(self.words) - self.shape_count


def load() -> Vocabulary:
    table = json.loads(Path(__file__).with_name("vocabulary.json").read_text(encoding="utf-8"))
    things = [name for group in table["things"].values() for name in group]
    pictograms = (*things, *table["shapes"])
    return Vocabulary(
        pictograms=pictograms,
        words=tuple(table["words"].get(name, name.replace("-", " ")) for name in pictograms),
        shape_count=len(table["shapes"]),
        colours={name: (red, green, blue) for name, (red, green, blue) in table["colours"].items()},
        thing_colours=tuple(table["thing_colours"]),
        shape_colours=tuple(table["shape_colours"]),
        openings=tuple(table["openings"]),
        endings=tuple(table["endings"]),
    )
