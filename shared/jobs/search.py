"""Searching jobs by what no index covers: words of the prompt and the label, and the model."""

import json
from dataclasses import dataclass
from functools import cached_property

from shared.jobs.job import Job


@dataclass(frozen=True)
class JobSearch:
    """Every word of `text` must occur in the prompt or the label; case does not matter."""

    text: str = ""
    model: str | None = None

    def __bool__(self) -> bool:
        return bool(self._words) or self.model is not None

    @cached_property
    def _words(self) -> tuple[str, ...]:
        return tuple(self.text.casefold().split())

    @cached_property
    def _fragments(self) -> tuple[str, ...]:
        """What the record of a matching job contains."""
        words = [*self._words, *([self.model.casefold()] if self.model else [])]
        return tuple(json.dumps(word, ensure_ascii=False)[1:-1] for word in words)

    def may_match(self, doc: str) -> bool:
        """Whether to parse the record: a quick test without false negatives."""
        folded = doc.casefold() if self._fragments else ""
        return all(fragment in folded for fragment in self._fragments)

    def matches(self, job: Job) -> bool:
        if self.model is not None and self.model != job.model:
            return False
        text = f"{job.request.prompt}\n{job.request.label or ''}".casefold()
        return all(word in text for word in self._words)
