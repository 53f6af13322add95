"""The auto router: which kind of request this is, so that its model can be chosen. Pure."""

from gateway.route.auto.lexical import LexicalClassifier
from gateway.route.auto.verdict import CLASSES, Classifier, Verdict

__all__ = ["CLASSES", "Classifier", "LexicalClassifier", "Verdict"]
