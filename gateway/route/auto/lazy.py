"""The classifier, made when it is first asked: a box without `auto` need not spend its memory and 20 ms."""

from __future__ import annotations

from gateway.dialects.prompt import Prompt
from gateway.route.auto.verdict import Classifier, Verdict


class LazyClassifier:
    """A `LexicalClassifier` from its first request on."""

    def __init__(self) -> None:
        self._made: Classifier | None = None

    def classify(self, prompt: Prompt) -> Verdict:
        """See Classifier."""
        if self._made is None:
            from gateway.route.auto.lexical import LexicalClassifier

            self._made = LexicalClassifier()
        return self._made.classify(prompt)
