"""How often the auto router's classifier is right on the evaluation set (bench/auto), and what one verdict costs.

Each request is read and classified as the gateway does it. The half `dev` is what word lists were tuned on; only the
figures of `heldout` count, and only counts are shown of it: neither its requests nor which of them went wrong. Chance
is 0.10; always answering the largest class too, for all are equally large. Back of the envelope: an automaton step is
about 6 ns a byte, views, tallies and the marks of code and formulas as much again: 2 KB in some 30 us.

`python -m bench.auto_router` prints the tables.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.cases import Figures
from bench.measure import machine
from gateway.dialects.prompt import Prompt, read_prompt
from gateway.route.auto.lexical import LexicalClassifier
from gateway.route.auto.verdict import CLASSES, Classifier

FOLDER = Path(__file__).parent / "auto"
SPLITS = ("dev", "heldout")
LANGS = ("en", "zh-Hant", "zh-Hans")
PROMPT_BYTES = 2048
CALLS, ROUNDS = 2000, 5
ENGLISH = (
    "We run a small bakery with two shops, and the second one has lost money since the tram line in front of it was "
    "closed. I have put the last three years into a spreadsheet. Compare moving out, sharing the rooms with a cafe and "
    "waiting for the line to open again; tell me what you would look at first and which figures I should ask the bank "
    "for. "
)
TRADITIONAL = (
    "我們在市區開了兩家麵包店、第二家自從門口的捷運開始施工以後就一直虧錢。我把過去三年的帳整理成一張表、"
    "想請你比較三種做法。提前解約、跟咖啡店分租、或是撐到完工。請說明你會先看什麼、還有我該跟銀行問哪些數字。"
)
SIMPLIFIED = (
    "我们在市区开了两家面包店、第二家自从门口的地铁开始施工以后就一直亏钱。我把过去三年的账整理成一张表、"
    "想请你比较三种做法。提前解约、跟咖啡店分租、或者撑到完工。请说明你会先看什么、还有我该向银行问哪些数字。"
)
CODE = (
    "    for name, shop in sorted(shops.items()):\n        if shop.rent > limit:\n            print(name, shop.rent)\n"
)


class Line(msgspec.Struct, frozen=True):
    """What the evaluation set says of one request besides the request."""

    lang: str
    label: str


class Outcome:
    """What a classifier made of one half of the set."""

    def __init__(self) -> None:
        self.pairs: Counter[tuple[str, str, str]] = Counter()  # label, language, verdict

    def count(self, label: str | None = None, lang: str | None = None) -> tuple[int, int]:
        """How many were right, and of how many."""
        chosen = [
            (one, name, number)
            for (one, tongue, name), number in self.pairs.items()
            if label in {None, one} and lang in {None, tongue}
        ]
        return sum(number for one, name, number in chosen if one == name), sum(number for *_, number in chosen)

    def accuracy(self, label: str | None = None, lang: str | None = None) -> float:
        """The share that was right."""
        right, of_all = self.count(label, lang)
        return right / of_all

    def confusions(self, label: str) -> Counter[str]:
        """What requests of a class were taken for instead, and how often."""
        found: Counter[str] = Counter()
        for (one, _, name), number in self.pairs.items():
            if one == label != name:
                found[name] += number
        return found


def judge(split: str, classifier: Classifier) -> Outcome:
    """Classify one half of the set."""
    outcome = Outcome()
    for text in (FOLDER / f"prompts_{split}.jsonl").read_bytes().splitlines():
        line = msgspec.json.decode(text, type=Line)
        prompt = read_prompt(msgspec.json.decode(text, type=dict[str, msgspec.Raw]))
        assert prompt is not None, f"a request of {split} cannot be read"
        outcome.pairs[line.label, line.lang, classifier.classify(prompt).name] += 1
    return outcome


def samples() -> dict[str, str]:
    """Texts of 2 KB to measure with."""
    return {
        "English": _filled(ENGLISH),
        "traditional Chinese": _filled(TRADITIONAL),
        "simplified Chinese": _filled(SIMPLIFIED),
        "code": "what does this print?\n```python\n" + _filled(CODE) + "\n```",
    }


def _filled(text: str) -> str:
    return (text * (PROMPT_BYTES // len(text.encode()) + 1)).encode()[:PROMPT_BYTES].decode(errors="ignore")


def microseconds(call: Callable[[], object], calls: int, rounds: int) -> float:
    """Microseconds of CPU a call, best of the rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.thread_time()
        for _ in range(calls):
            call()
        best = min(best, time.thread_time() - start)
    return best / calls * 1e6


def costs(classifier: Classifier, calls: int = CALLS, rounds: int = ROUNDS) -> dict[str, tuple[float, float]]:
    """Microseconds of a verdict and of reading the prompt before it, for each sample."""
    taken: dict[str, tuple[float, float]] = {}
    for name, text in samples().items():
        prompt = Prompt(text)
        body = msgspec.json.encode([{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}])
        fields = {"model": msgspec.Raw(b'"auto"'), "messages": msgspec.Raw(body)}
        taken[name] = (
            microseconds(lambda prompt=prompt: classifier.classify(prompt), calls, rounds),  # type: ignore[misc]
            microseconds(lambda fields=fields: read_prompt(fields), calls, rounds),  # type: ignore[misc]
        )
    return taken


def figures(calls: int = CALLS, rounds: int = ROUNDS) -> Figures:
    """Accuracy on either half, the lowest of a class and of a language, and the dearest sample's microseconds."""
    classifier = LexicalClassifier()
    found: Figures = {}
    for split in SPLITS:
        outcome = judge(split, classifier)
        found[f"{split}_accuracy"] = outcome.accuracy()
        found[f"{split}_lowest_class"] = min(map(outcome.accuracy, CLASSES))
        found |= {f"{split}_{label}": outcome.accuracy(label) for label in CLASSES}
        found |= {f"{split}_{lang}": outcome.accuracy(lang=lang) for lang in LANGS}
    taken = costs(classifier, calls, rounds).values()
    return found | {"classify_us": max(us for us, _ in taken), "read_us": max(us for _, us in taken)}


def table(split: str, outcome: Outcome) -> list[str]:
    """A line for each class: right of all, by language, and what the others were taken for, as counts."""
    lines = [f"{split:15} {'all':>14} {''.join(f'{lang:>9}' for lang in LANGS)}  taken for"]
    for label in (*CLASSES, None):
        right, of_all = outcome.count(label)
        shares = "".join("{:>9}".format("{}/{}".format(*outcome.count(label, lang))) for lang in LANGS)
        wrong = ", ".join(f"{name} {number}" for name, number in outcome.confusions(label or "").most_common())
        lines.append(f"{label or 'all':15} {right:>4}/{of_all:<3} {right / of_all:5.2f} {shares}  {wrong}".rstrip())
    return lines


def main() -> None:
    """Print both tables and the cost of a verdict."""
    print(machine())
    classifier = LexicalClassifier()
    for split in SPLITS:
        print("", *table(split, judge(split, classifier)), sep="\n")
    print()
    for name, (verdict_us, read_us) in costs(classifier).items():
        print(f"{verdict_us:5.1f} us a verdict, {read_us:4.1f} us to read the prompt: {PROMPT_BYTES} bytes of {name}")


if __name__ == "__main__":
    main()
