"""Recipes: ordered rules from tensor names to formats, read from TOML. The first rule that matches a tensor decides.

    schema = 1
    about = "int4 where it costs little"

    [[rules]]
    tensors = ["target.mlp.*", "per_layer_embedder"]
    layers = "0-14"
    format = "int4"
    algorithm = "octav"
    why = "..."

`tensors` are names, `*` standing for any part of one; `layers` are numbers and ranges, or one of LAYER_KINDS. Without
`algorithm`, the format's own default chooses the scales. A rule that decides nothing is an error, unless it is
`optional = true`, as for tensors that only some models have.

`keep_trained = true` before the rules is for checkpoints that hold codes: those keep their own bits, whatever the rules
say, and what training left unquantized beside them is stored in eight bits at least. A table `[price]` says what the
recipe was measured to cost; see price.py.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from ..runtime.errors import UserError
from ..runtime.fields import Fields, read_utf8, shown
from .formats import Storage, nearest, storage
from .price import KnownPrice, read_price

SCHEMA = 1
NAMED_FOLDER = Path(__file__).parent / "named"
# In the order in which they are shown.
NAMES = ("fp32", "fp16", "int8", "int4", "mixed", "mobile", "q4_0")
# Of those the ones that both backends run.
EVERYWHERE = tuple(name for name in NAMES if name != "q4_0")
DEFAULT, DEFAULT_FOR_CODES = "int8", "mobile"
# Layers with a KV cache of their own, those that read another's, those whose MLP is twice as wide.
LAYER_KINDS = ("own-kv", "shared-kv", "double-wide")
_RULE_KEYS = ("tensors", "layers", "format", "algorithm", "optional", "why")
_KEYS = ("schema", "about", "keep_trained", "price", "rules")
_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")


@dataclass(frozen=True)
class TensorName:
    """What rules see of a weight: its name, the layer it belongs to, and what kinds of layer that is."""

    name: str
    layer: int | None = None
    kinds: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.name if self.layer is None else f"{self.name} of layer {self.layer}"


@dataclass(frozen=True)
class Rule:
    """One rule. `layers` is None for all, and for what belongs to no layer; `place` names the rule in errors."""

    tensors: tuple[str, ...]
    stored_as: Storage
    layers: str | None = None
    optional: bool = False
    why: str = ""
    place: str = ""

    @cached_property
    def _numbers(self) -> frozenset[int]:
        found = [_RANGE.fullmatch(part.strip()) for part in (self.layers or "").split(",")]
        return frozenset(n for part in found if part for n in range(int(part[1]), int(part[2] or part[1]) + 1))

    def takes(self, tensor: TensorName, pattern: str) -> bool:
        """Whether `pattern`, one of the rule's, matches `tensor`, and the layer does."""
        if not fnmatchcase(tensor.name, pattern):
            return False
        if self.layers is None:
            return True
        return self.layers in tensor.kinds if self.layers in LAYER_KINDS else tensor.layer in self._numbers


@dataclass(frozen=True)
class Recipe:
    """How the large weights of a pair are stored; norms, scalars, rotary tables and token ids are always exact.

    `keep_trained`: codes of a checkpoint that holds those keep their own bits. `price`: what it was measured to cost.
    """

    name: str
    about: str
    rules: tuple[Rule, ...]
    keep_trained: bool = False
    price: KnownPrice | None = None

    def choose(self, tensors: Iterable[TensorName]) -> dict[TensorName, Rule]:
        """The rule that decides each of `tensors`.

        Raises:
            UserError: a tensor that no rule matches; or a rule, or one of its patterns, that decides nothing.
        """
        chosen: dict[TensorName, Rule] = {}
        matched: set[tuple[int, str]] = set()
        names = list(dict.fromkeys(tensors))
        for tensor in names:
            for index, rule in enumerate(self.rules):
                hits = [pattern for pattern in rule.tensors if rule.takes(tensor, pattern)]
                matched |= {(index, pattern) for pattern in hits}
                if hits:
                    chosen.setdefault(tensor, rule)
        for tensor in names:
            if tensor not in chosen:
                raise UserError(f'recipe {self.name}: no rule for {tensor}; add one, such as tensors = "*" at the end')
        deciding = {id(rule) for rule in chosen.values()}
        for index, rule in enumerate(self.rules):
            if rule.optional:
                continue
            for pattern in rule.tensors:
                if (index, pattern) not in matched:
                    layers = f" in layers {rule.layers}" if rule.layers else ""
                    raise UserError(
                        f"{rule.place}: {pattern!r} matches no tensor of this pair{layers}{_hint(pattern, names)}"
                    )
            if id(rule) not in deciding:
                raise UserError(f"{rule.place}: decides nothing, the rules before it match all of its tensors")
        return chosen

    def as_dict(self) -> dict[str, Any]:
        """Everything but places of files and the price, as plain JSON types."""
        rules = [
            {
                "tensors": list(rule.tensors),
                "layers": rule.layers,
                "format": rule.stored_as.format.name,
                "algorithm": rule.stored_as.algorithm,
            }
            for rule in self.rules
        ]
        return {"name": self.name, "about": self.about, "keep_trained": self.keep_trained, "rules": rules}


def read_recipe(given: str) -> Recipe:
    """The recipe called `given`, or in the file `given` if that ends with .toml.

    Raises:
        UserError: there is none, or the file holds none.
    """
    if given in NAMES:
        return _read(NAMED_FOLDER / f"{given}.toml", given)
    if given.lower().endswith(".toml"):
        return _read(Path(given), Path(given).stem)
    raise UserError(f"--weights: {given!r} is no recipe and no file that ends with .toml{nearest(given, NAMES)}")


def _read(path: Path, name: str) -> Recipe:
    where = str(path)
    try:
        values = tomllib.loads(read_utf8(path, "a recipe in TOML"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{where}: is not readable as TOML ({error}); expected a recipe") from error
    content = Fields(values, where)
    _refuse_unknown(values, _KEYS, where)
    content.integer("schema", least=SCHEMA, most=SCHEMA)
    rules = content.sequence("rules")
    if not rules:
        raise UserError(f"{where}: has no rules, expected at least one [[rules]]")
    return Recipe(
        name,
        content.text("about", ""),
        tuple(_rule(entry, f"{where}, rule {n}") for n, entry in enumerate(rules, 1)),
        content.flag("keep_trained", False),
        read_price(values["price"], where) if "price" in values else None,
    )


def _rule(entry: Any, place: str) -> Rule:
    if not isinstance(entry, dict):
        raise UserError(f"{place}: is {shown(entry)}, expected a table [[rules]]")
    _refuse_unknown(entry, _RULE_KEYS, place)
    fields = Fields(entry, place)
    patterns = entry.get("tensors")
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(patterns, list) or not patterns or not all(isinstance(part, str) and part for part in patterns):
        fields.refuse("tensors", "a name, or a list of names")
    layers = fields.text("layers") if "layers" in entry else None
    if layers is not None and layers not in LAYER_KINDS and not _is_ranges(layers):
        fields.refuse("layers", f'numbers and ranges such as "0-14,20", or one of {", ".join(LAYER_KINDS)}')
    algorithm = fields.text("algorithm") if "algorithm" in entry else None
    stored_as = storage(fields.text("format"), algorithm, place)
    return Rule(tuple(patterns), stored_as, layers, fields.flag("optional", False), fields.text("why", ""), place)


def _is_ranges(text: str) -> bool:
    parts = [_RANGE.fullmatch(part.strip()) for part in text.split(",")]
    return all(part and int(part[2] or part[1]) >= int(part[1]) for part in parts)


def _refuse_unknown(values: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in values:
        if key not in known:
            raise UserError(f"{where}: {shown(key)} is no key of a recipe{nearest(key, known)}")


def _hint(pattern: str, names: list[TensorName]) -> str:
    return nearest(pattern, list(dict.fromkeys(tensor.name for tensor in names)))
