"""What a training image shows, and the caption that says so."""

import random
from dataclasses import dataclass

from .vocabulary import Vocabulary

# How often a scene has each feature. Plain things on white come most, because people ask for them most.
SHAPE_SHARE = 0.14
COLOURED_SHAPE_SHARE = 0.85
COLOURED_THING_SHARE = 0.2
BACKGROUND_SHARE = 0.4
PAIR_SHARE = 0.1
SMALL_SHARE = 0.06


@dataclass(frozen=True)
class Thing:
    word: int
    """Index into the words of the vocabulary."""
    colour: str | None = None
    """None leaves the pictogram its own colours."""


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]
    """One, or two side by side."""
    background: str | None = None
    """None is plain white that the caption does not mention."""
    small: bool = False


def compose(vocabulary: Vocabulary, rng: random.Random) -> tuple[Scene, str]:
    """A scene and its caption."""
    background = rng.choice(tuple(vocabulary.colours)) if rng.random() < BACKGROUND_SHARE else None
    count = 2 if rng.random() < PAIR_SHARE else 1
    small = count == 1 and rng.random() < SMALL_SHARE
    scene = Scene(tuple(_choose(vocabulary, rng) for _ in range(count)), background, small)
    return scene, _caption(scene, vocabulary, rng)


def compose_many(vocabulary: Vocabulary, rng: random.Random, count: int) -> tuple[list[Scene], list[str]]:
    """Scenes, and their captions in the same order."""
    composed = [compose(vocabulary, rng) for _ in range(count)]
    return [scene for scene, _ in composed], [caption for _, caption in composed]


def _choose(vocabulary: Vocabulary, rng: random.Random) -> Thing:
    if rng.random() < SHAPE_SHARE:
        word = vocabulary.thing_count + rng.randrange(vocabulary.shape_count)
        colours, share = vocabulary.shape_colours, COLOURED_SHAPE_SHARE
    else:
        word = rng.randrange(vocabulary.thing_count)
        colours, share = vocabulary.thing_colours, COLOURED_THING_SHARE
    return Thing(word, rng.choice(colours) if rng.random() < share else None)


def _caption(scene: Scene, vocabulary: Vocabulary, rng: random.Random) -> str:
    first, *others = [_name(thing, vocabulary) for thing in scene.things]
    subject = f"small {first}" if scene.small else first
    for other in others:
        subject += " and " + rng.choice(("", "a ")) + other
    opening = rng.choice(vocabulary.openings)
    return opening + subject + _setting(scene.background, rng) + rng.choice(vocabulary.endings)


def _name(thing: Thing, vocabulary: Vocabulary) -> str:
    word = vocabulary.words[thing.word]
    return f"{thing.colour} {word}" if thing.colour else word


def _setting(background: str | None, rng: random.Random) -> str:
    if background is None:
        return ""
    return rng.choice(
        (f" on a {background} background", f", {background} background", f" on {background}"),
    )
