"""Step 2: the tokenizer, and a text encoder that knows what captions say before any image is trained.

The encoder learns alone to name things, colours, background and size. Trained only together with the image
model, it was not listened to: after 1,400 steps every prompt gave the same blob.
"""

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .folders import Folders
from .pictograms import Studio
from .scenes import Scene, compose_many
from .tokenizer import LENGTH, train_tokenizer
from .training import Descent, Moment, bfloat16, moments, report, warm_up
from .vocabulary import Vocabulary

WIDTH = 192
BATCH = 96
RATE = 1.5e-3
ABSENT = -100
"""The label that `cross_entropy` leaves out: there is no second thing."""


def train(studio: Studio, folders: Folders, minutes: float) -> None:
    torch.manual_seed(2)
    tokenizer = train_tokenizer(studio.vocabulary)
    tokenizer.save_pretrained(folders.tokenizer)
    encoder = new_encoder(tokenizer)
    quiz = Quiz(studio.vocabulary, tokenizer, encoder)
    rng = random.Random(1)
    parameters = [*encoder.parameters(), *quiz.head.parameters()]
    optimiser = torch.optim.AdamW(parameters, RATE, weight_decay=1e-3)
    descent = Descent(optimiser, list(encoder.parameters()))
    for moment in moments(minutes):
        loss = quiz.loss(rng)
        descent.step(loss, _rate(moment))
        report(moment, "loss", loss)
    encoder.save_pretrained(folders.text_encoder)


def new_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """1.4 million parameters; the embeddings of the tokens are a fifth of them."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH * 3,
        num_hidden_layers=3,
        num_attention_heads=6,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def tokenise(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """(captions, LENGTH), padded as the pipeline pads its prompts."""
    encoded = tokenizer(list(captions), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    ids: Tensor = encoded.input_ids
    return ids


class Quiz:
    """Asks the encoder six questions about captions: both things, their colours, the background, the size."""

    def __init__(self, vocabulary: Vocabulary, tokenizer: CLIPTokenizer, encoder: CLIPTextModel) -> None:
        things, colours = len(vocabulary.words), len(vocabulary.colours) + 1
        self.vocabulary, self.tokenizer, self.encoder = vocabulary, tokenizer, encoder
        self.choices = [things, things, colours, colours, colours, 2]
        """How many answers each question has."""
        self.head = torch.nn.Linear(WIDTH, sum(self.choices))

    def loss(self, rng: random.Random) -> Tensor:
        """The sum over the questions, for a batch of fresh captions."""
        scenes, captions = compose_many(self.vocabulary, rng, BATCH)
        answers = torch.split(self._answer(captions, rng), self.choices, 1)
        # Twice: once for the state at the end of the caption, once for the state in the padding.
        labels = torch.tensor([_labels(scene, self.vocabulary) for scene in scenes] * 2).unbind(1)
        pairs = [(a, b) for a, b in zip(answers, labels, strict=True) if (b != ABSENT).any()]
        return torch.stack([F.cross_entropy(a, b, ignore_index=ABSENT) for a, b in pairs]).sum()

    def _answer(self, captions: Sequence[str], rng: random.Random) -> Tensor:
        """(2 x captions, answers to all questions)."""
        ids = tokenise(self.tokenizer, captions)
        with bfloat16():
            states = self.encoder(ids).last_hidden_state
            end = (ids == self.tokenizer.eos_token_id).float().argmax(1)
            # The image model looks at the padding as well, and there too the whole caption is in sight.
            late = torch.tensor([rng.randint(int(e), LENGTH - 1) for e in end])
            rows = torch.arange(len(ids))
            answers: Tensor = self.head(torch.cat([states[rows, end], states[rows, late]]))
        return answers.float()


def _labels(scene: Scene, vocabulary: Vocabulary) -> tuple[int, ...]:
    """One for each question, in the order of `Quiz.choices`; colour 0 is none."""
    codes = {None: 0} | {name: code for code, name in enumerate(vocabulary.colours, start=1)}
    first, second = scene.things[0], scene.things[1] if len(scene.things) > 1 else None
    return (
        first.word,
        second.word if second else ABSENT,
        codes[first.colour],
        codes[second.colour] if second else ABSENT,
        codes[scene.background],
        int(scene.small),
    )


def _rate(moment: Moment) -> float:
    return RATE * warm_up(moment, 100) * max(0.05, 1 - moment.share)
