"""The keywords of JSON Schema that need no recursion: types, bounds, formats, and two nodes made one."""

from __future__ import annotations

import json
import math
from fractions import Fraction

from gateway.sim.pattern import PatternError, matching
from gateway.sim.text import Dice, word

LENGTH_MAX = 100_000
FORMATS = {
    "date-time": "2026-01-{day:02}T09:30:00Z",
    "date": "2026-01-{day:02}",
    "time": "09:30:{day:02}Z",
    "duration": "P{day}D",
    "email": "reader{day}@example.com",
    "hostname": "host{day}.example.com",
    "ipv4": "192.0.2.{day}",
    "ipv6": "2001:db8::{day}",
    "uri": "https://example.com/{day}",
    "uuid": "3f2504e0-4f89-41d3-9a0c-0305e82c33{day:02}",
}
_TELLING = {
    "object": ("properties", "required", "additionalProperties", "minProperties"),
    "array": ("items", "prefixItems", "minItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_LARGEST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_SMALLEST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


class SchemaUnfitError(ValueError):
    """No value fits the schema, or it uses something that is not honoured."""


def types_of(node: dict[str, object]) -> list[str]:
    """The types `node` allows, inferred from its other keywords where it does not say."""
    given = node.get("type")
    if isinstance(given, str):
        return [given, "null"] if node.get("nullable") is True else [given]
    if isinstance(given, list):
        return [name for name in given if isinstance(name, str)]
    if "enum" in node:
        return []
    for name, keywords in _TELLING.items():
        if any(keyword in node for keyword in keywords):
            return [name]
    return ["string"]


def of_types(values: list[object], types: list[str]) -> list[object]:
    """Those of `values` that have one of `types`; all when there are no types."""
    kept = [value for value in values if not types or any(_is(value, name) for name in types)]
    if not kept:
        raise SchemaUnfitError("enum holds no value of the type asked")
    return kept


def _is(value: object, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, _PYTHON_TYPES.get(name, ()))


def text_within(node: dict[str, object], dice: Dice) -> str:
    """A string for `pattern`, else `format`, else words; within minLength and maxLength."""
    least, most = _length(node, "minLength", 0), _length(node, "maxLength", LENGTH_MAX)
    pattern, form = node.get("pattern"), node.get("format")
    if isinstance(pattern, str):
        try:
            return matching(pattern, dice, least, most)
        except PatternError as exc:
            raise SchemaUnfitError(f"pattern {pattern!r}: {exc}") from exc
    if isinstance(form, str) and form in FORMATS:
        text = FORMATS[form].format(day=dice.below(28) + 1)
    else:
        text = word(dice)
        while len(text) < least:
            text += " " + word(dice)
        text = text[:most]
    if not least <= len(text) <= most:
        raise SchemaUnfitError(f"minLength {least} and maxLength {most} leave no room for a string")
    return text


def number_within(node: dict[str, object], dice: Dice, *, integer: bool) -> int | float:
    """A number within the bounds. Exact: the sums are fractions."""
    low, low_open = _bound(node, "minimum", "exclusiveMinimum", max)
    high, high_open = _bound(node, "maximum", "exclusiveMaximum", min)
    step = _fraction(node["multipleOf"], "multipleOf") if "multipleOf" in node else None
    if step is not None and step <= 0:
        raise SchemaUnfitError("multipleOf has to be above 0")
    if integer:
        step = Fraction(1) if step is None else Fraction(step.numerator)  # The whole multiples of p/q are those of p.
    span = 100 * (step or 1)
    if low is None:
        low, low_open = (Fraction(0), False) if high is None or high > 0 else (high - span, False)
    if high is None:
        high, high_open = low + span, False
    if step is None:
        return float(_between(low, high, low_open or high_open, dice))
    first = math.floor(low / step) + 1 if low_open else math.ceil(low / step)
    last = math.ceil(high / step) - 1 if high_open else math.floor(high / step)
    if first > last:
        raise SchemaUnfitError(f"no multiple of {float(step)} lies between the bounds")
    value = step * (first + dice.below(min(1000, last - first + 1)))
    return int(value) if value.denominator == 1 else float(value)


def combined(one: dict[str, object], two: dict[str, object]) -> dict[str, object]:
    """A node that asks for what both ask for."""
    node = dict(one)
    for name, value in two.items():
        node[name] = _both(name, node[name], value) if name in node and node[name] != value else value
    return node


def _both(name: str, one: object, two: object) -> object:
    if name == "properties" and isinstance(one, dict) and isinstance(two, dict):
        return one | two | {key: {"allOf": [one[key], two[key]]} for key in one if key in two}
    if name in ("items", "additionalProperties"):
        return {"allOf": [one, two]}
    if isinstance(one, list) and isinstance(two, list):
        return _both_lists(name, one, two)
    if name == "type":
        return _both_lists(name, one if isinstance(one, list) else [one], two if isinstance(two, list) else [two])
    if isinstance(one, int | float) and isinstance(two, int | float):
        if name in _LARGEST:
            return max(one, two)
        if name in _SMALLEST:
            return min(one, two)
    if name in ("const", "pattern", "multipleOf"):
        raise SchemaUnfitError(f"two values of {name} are asked at once")
    return two


def _both_lists(name: str, one: list[object], two: list[object]) -> list[object]:
    if name == "required":
        return one + [item for item in two if item not in one]
    if name in ("anyOf", "oneOf"):
        return [{"allOf": [left, right]} for left in one for right in two]
    if name not in ("enum", "type"):
        return two
    seen = {json.dumps(item, sort_keys=True) for item in two}
    shared = [item for item in one if json.dumps(item, sort_keys=True) in seen]
    if name == "type" and "number" in one + two:
        shared += ["integer"] if "integer" in one + two and "integer" not in shared else []
    if not shared:
        raise SchemaUnfitError(f"two lists of {name} share nothing")
    return shared


def _bound(node: dict[str, object], name: str, exclusive: str, tighter: object) -> tuple[Fraction | None, bool]:
    closed = _fraction(node[name], name) if name in node else None
    if node.get(exclusive) is True:  # JSON Schema draft 4 marks `minimum` itself as exclusive.
        return closed, True
    strict = _fraction(node[exclusive], exclusive) if node.get(exclusive, False) is not False else None
    if closed is None or strict is None:
        return (strict, True) if closed is None else (closed, False)
    inner = max(closed, strict) if tighter is max else min(closed, strict)
    return inner, inner == strict


def _between(low: Fraction, high: Fraction, strict: bool, dice: Dice) -> Fraction:
    if low > high or (strict and low == high):
        raise SchemaUnfitError("no number lies between the bounds")
    value = low + (high - low) * (dice.below(998) + 1) / 1000
    rounded = Fraction(round(value, 2))
    return rounded if low < rounded < high else value


def _fraction(value: object, name: str) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SchemaUnfitError(f"{name} has to be a number")
    return Fraction(str(value))


def _length(node: dict[str, object], name: str, default: int) -> int:
    value = node.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SchemaUnfitError(f"{name} has to be a whole number from 0")
    if name == "minLength" and value > LENGTH_MAX:
        raise SchemaUnfitError(f"minLength {value} is above {LENGTH_MAX}")
    return value
