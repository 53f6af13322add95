"""What every classifier of requests has in common: the ten classes, its verdict, and how it is asked. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from gateway.config import AUTO_CLASSES
from gateway.dialects.prompt import Prompt

CLASSES: Final = AUTO_CLASSES
"""What each of them means: the labeller's guide in bench/auto/README.md."""


class Verdict(NamedTuple):
    """A class of `CLASSES`, and what spoke for each of them, best first; equal ones in the order of `CLASSES`."""

    name: str
    scores: tuple[tuple[str, float], ...]


class Classifier(Protocol):
    """Decides what a prompt asks for. The same prompt always has the same verdict."""

    def classify(self, prompt: Prompt) -> Verdict:
        """The class of the last user message of `prompt`."""
        ...
