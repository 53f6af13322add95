"""A JSON value that fits a given JSON Schema, deterministically.

Honoured: type (also lists of types and `nullable`), enum, const, properties, required, additionalProperties,
min/maxProperties, items, prefixItems, min/maxItems, uniqueItems, min/maxLength, pattern, format, minimum, maximum,
the exclusive bounds, multipleOf, anyOf, oneOf, allOf, $ref into the same document. What could not be honoured
(`not`, `if`, `contains`, `dependentRequired`, `dependentSchemas`, `propertyNames`) is refused, as OpenAI refuses
keywords it does not support, rather than answered with a value that may not fit. Of `oneOf` the first branch that
can be met is taken; that no other branch fits too is left to the schema.

Depth is bounded: below `FULL_DEPTH` only what is required is made, by the branches that end soonest. Work is bounded by
`NODES_MAX`, so that no schema, however it refers to itself, costs more than some milliseconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import TypeVar

from gateway.sim.keywords import SchemaUnfitError, combined, number_within, of_types, text_within, types_of
from gateway.sim.text import Dice, word

FULL_DEPTH = 4
DEPTH_MAX = 48
NODES_MAX = 5_000
CHARACTERS_PER_NODE = 32
KEYWORDS_REFUSED = ("not", "if", "contains", "dependentRequired", "dependentSchemas", "propertyNames")
CONTAINERS = ("object", "array")
Node = dict[str, object]
C = TypeVar("C")


class SchemaTooLargeError(SchemaUnfitError):
    """The schema needs more than `NODES_MAX` values, or refers to itself without end."""


def fit_json(schema: object, dice: Dice) -> str:
    """The JSON text of a value that fits `schema`.

    Raises:
        SchemaUnfitError: no value fits, or the schema uses what is not honoured; the message says which.
    """
    try:
        return json.dumps(_Maker(schema, dice).make(schema, 0), ensure_ascii=False, separators=(",", ":"))
    except RecursionError as exc:
        raise SchemaTooLargeError("the schema is nested too deeply") from exc


class _Maker:
    """One generation: the document that `$ref` points into, the dice, and the work left."""

    def __init__(self, root: object, dice: Dice) -> None:
        self._root = root
        self._dice = dice
        self._nodes_left = NODES_MAX
        self._by_type: dict[str, Callable[[Node, int], object]] = {
            "object": self._object,
            "array": self._array,
            "string": lambda node, _: self._text(node),
            "integer": lambda node, _: number_within(node, dice, integer=True),
            "number": lambda node, _: number_within(node, dice, integer=False),
            "boolean": lambda _node, _: bool(dice.below(2)),
            "null": lambda _node, _: None,
        }

    def make(self, schema: object, depth: int) -> object:
        """A value for `schema`, which lies `depth` values below the root."""
        node = self._flat(schema, depth)
        if "const" in node:
            if "enum" in node and _key(node["const"]) not in map(_key, _list(node["enum"])):
                raise SchemaUnfitError("const is not among enum")
            return node["const"]
        for keyword in ("anyOf", "oneOf"):
            if keyword in node:
                return self._branch(node, keyword, depth)
        types = types_of(node)
        if "enum" in node:
            return self._dice.pick(of_types(_list(node["enum"]), types))
        if depth > FULL_DEPTH:
            types = sorted(types, key=CONTAINERS.__contains__)
        elif len(types) > 1:
            types = sorted(types, key=lambda name: name == "null")
        return self._first(types, lambda name: self._typed(node, name, depth))

    def _text(self, node: Node) -> str:
        text = text_within(node, self._dice)
        self._nodes_left -= len(text) // CHARACTERS_PER_NODE  # Long texts are work too.
        return text

    def _typed(self, node: Node, name: str, depth: int) -> object:
        if name not in self._by_type:
            raise SchemaUnfitError(f"type {name!r} is not a JSON type")
        return self._by_type[name](node, depth)

    def _flat(self, schema: object, depth: int) -> Node:
        """`schema` with its `$ref` and `allOf` merged in."""
        self._spend(depth)
        if isinstance(schema, bool):
            if schema:
                return {}
            raise SchemaUnfitError("a schema is false, which nothing fits")
        if not isinstance(schema, dict):
            raise SchemaUnfitError(f"a schema is {type(schema).__name__}; it has to be an object or a boolean")
        node: Node = dict(schema)
        refused = next((name for name in KEYWORDS_REFUSED if name in node), None)
        if refused:
            raise SchemaUnfitError(f"the keyword {refused!r} is not supported")
        if "$ref" in node:
            node = combined(self._flat(self._target(node.pop("$ref")), depth + 1), node)
        for part in _list(node.pop("allOf", [])):
            node = combined(node, self._flat(part, depth + 1))
        return node

    def _target(self, ref: object) -> object:
        if not isinstance(ref, str) or not ref.startswith("#"):
            raise SchemaUnfitError(f"$ref {ref!r} does not point into this schema; it has to begin with '#'")
        target = self._root
        for escaped in ref[1:].split("/")[1:]:
            step = escaped.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and step in target:
                target = target[step]
            elif isinstance(target, list) and step.isdecimal() and int(step) < len(target):
                target = target[int(step)]
            else:
                raise SchemaUnfitError(f"$ref {ref!r} points at nothing")
        return target

    def _branch(self, node: Node, keyword: str, depth: int) -> object:
        rest = {name: value for name, value in node.items() if name != keyword}
        branches = self._possible(rest, _list(node[keyword]), depth)
        if depth > FULL_DEPTH:
            branches.sort(key=lambda branch: self._height(branch, 0, frozenset()))
        else:
            branches.sort(key=lambda branch: types_of(branch) == ["null"])
        return self._first(branches, lambda branch: self.make(branch, depth + 1))

    def _possible(self, rest: Node, branches: list[object], depth: int) -> list[Node]:
        """Each branch with what stands beside it; one that cannot be met must not spoil the others."""
        kept = []
        for branch in branches:
            try:
                kept.append(combined(rest, self._flat(branch, depth)))
            except SchemaTooLargeError:
                raise
            except SchemaUnfitError:
                continue
        return kept

    def _first(self, candidates: list[C], attempt: Callable[[C], object]) -> object:
        why = SchemaUnfitError("no branch of it can be met")
        for candidate in candidates:
            try:
                return attempt(candidate)
            except SchemaTooLargeError:
                raise
            except SchemaUnfitError as exc:
                why = exc
        raise why

    def _object(self, node: Node, depth: int) -> object:
        properties = node.get("properties", {})
        required = _list(node.get("required", []))
        if not isinstance(properties, dict):
            raise SchemaUnfitError("properties is not an object")
        other = node.get("additionalProperties", True)
        most = _count(node, "maxProperties", 10_000)
        made: dict[str, object] = {}
        for name in [*required, *(name for name in properties if name not in required)]:
            if not isinstance(name, str):
                raise SchemaUnfitError("required holds something other than names")
            if name in required:
                made[name] = self.make(properties.get(name, other), depth + 1)
            elif depth < FULL_DEPTH and len(made) < most and self._nodes_left > NODES_MAX // 2:
                self._optional(made, name, properties[name], depth)
        while len(made) < _count(node, "minProperties", 0):
            made[f"{word(self._dice)}_{len(made) + 1}"] = self.make(other, depth + 1)
        if len(made) > most:
            raise SchemaUnfitError(f"required has more names than maxProperties, {most}, allows")
        order = {name: index for index, name in enumerate(properties)}
        return dict(sorted(made.items(), key=lambda item: order.get(item[0], len(order))))

    def _optional(self, made: dict[str, object], name: str, schema: object, depth: int) -> None:
        try:
            made[name] = self.make(schema, depth + 1)
        except SchemaTooLargeError:
            raise
        except SchemaUnfitError:
            return  # A property that nothing fits is one that must be left out.

    def _array(self, node: Node, depth: int) -> object:
        prefix = _list(node.get("prefixItems", []))
        items = node.get("items", True)
        least, most = _count(node, "minItems", 0), _count(node, "maxItems", NODES_MAX)
        if least > most:
            raise SchemaUnfitError(f"minItems {least} is above maxItems {most}")
        wish = 0 if depth >= FULL_DEPTH else max(1, len(prefix)) + self._dice.below(2)
        made: list[object] = []
        while len(made) < min(most, max(least, wish)):
            schema = prefix[len(made)] if len(made) < len(prefix) else items
            try:
                unlike = made if node.get("uniqueItems") else []
                made.append(self._unlike(unlike, schema, depth))
            except SchemaTooLargeError:
                raise
            except SchemaUnfitError:
                if len(made) >= least:
                    break
                raise
        return made

    def _unlike(self, others: list[object], schema: object, depth: int) -> object:
        seen = {_key(other) for other in others}
        for _ in range(64):
            value = self.make(schema, depth + 1)
            if _key(value) not in seen:
                return value
        raise SchemaUnfitError(f"no {len(others) + 1} different items were found for uniqueItems")

    def _height(self, schema: object, depth: int, open_refs: frozenset[str]) -> float:
        """The least depth of a value of `schema`; infinite when it can only refer to itself."""
        self._spend(0)
        if not isinstance(schema, dict):
            return 0
        if depth > DEPTH_MAX:
            return math.inf
        ref = schema.get("$ref")
        if isinstance(ref, str):
            if ref in open_refs:
                return math.inf
            return self._height(self._target(ref), depth + 1, open_refs | {ref})
        heights = [0.0, *(self._height(part, depth + 1, open_refs) for part in _list(schema.get("allOf", [])))]
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                options = [self._height(part, depth + 1, open_refs) for part in _list(schema[keyword])]
                heights.append(min(options, default=math.inf))
        heights += [1 + self._height(part, depth + 1, open_refs) for part in _needed(schema)]
        return max(heights)

    def _spend(self, depth: int) -> None:
        self._nodes_left -= 1
        if self._nodes_left < 0 or depth > DEPTH_MAX:
            raise SchemaTooLargeError("the schema refers to itself without end, or needs too many values")


def _needed(node: Node) -> list[object]:
    """The schemas of the values inside that every value of `node` must hold."""
    needed: list[object] = [node.get("items", True)] if _count(node, "minItems", 0) else []
    properties = node.get("properties")
    if isinstance(properties, dict) and "null" not in types_of(node):
        needed += [properties[name] for name in _list(node.get("required", [])) if name in properties]
    return needed


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise SchemaUnfitError(f"a keyword holds {type(value).__name__} where it has to hold a list")
    return value


def _count(node: Node, keyword: str, default: int) -> int:
    value = node.get(keyword, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise SchemaUnfitError(f"{keyword} has to be a whole number from 0")
    return value


def _key(value: object) -> str:
    return json.dumps(value, sort_keys=True)
