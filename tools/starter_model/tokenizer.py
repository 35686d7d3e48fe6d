"""The tokenizer: byte-level byte-pair encoding in the manner of CLIP, learned from captions."""

import json
import random

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from .scenes import compose
from .vocabulary import Vocabulary

LENGTH = 32
"""Tokens in a prompt, with the first and the last one."""
CAPTIONS = 60_000
MOST_ENTRIES = 2600
"""More than the captions of 298 words have pairs for."""
START, END, END_OF_WORD = "<|startoftext|>", "<|endoftext|>", "</w>"
# The expression by which CLIPTokenizer cuts text into words.
WORD = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def train_tokenizer(vocabulary: Vocabulary) -> CLIPTokenizer:
    merges = _learn_merges(vocabulary)
    # CLIP's own order. The order in which the trainer numbers its entries changes from run to run.
    pieces = (*_every_byte(), *("".join(merge) for merge in merges), START, END)
    vocab = {token: index for index, token in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def _learn_merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Pairs of pieces that are read as one, the most frequent first."""
    rng = random.Random(7)
    bpe = _untrained()
    trainer = trainers.BpeTrainer(
        vocab_size=MOST_ENTRIES,
        min_frequency=2,
        end_of_word_suffix=END_OF_WORD,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((compose(vocabulary, rng)[1] for _ in range(CAPTIONS)), trainer)
    return [(left, right) for left, right in json.loads(bpe.to_str())["model"]["merges"]]


def _untrained() -> Tokenizer:
    """Reads text exactly as CLIPTokenizer will, or the merges would not fit."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD, unk_token=END))
    one_space = normalizers.Replace(Regex(r"\s+"), " ")
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), one_space, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return bpe


def _every_byte() -> list[str]:
    """Inside a word and at its end, so that any text can be read."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return alphabet + [byte + END_OF_WORD for byte in alphabet]
