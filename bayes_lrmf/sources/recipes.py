"""Slices, sources and parameters of a merge recipe, as mergekit looks them up."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bayes_lrmf.checks import InputError, nearest
from bayes_lrmf.sources.yaml_documents import read_documents

__all__ = ["Group", "Source", "Where", "documents_of", "number"]

_ASSUMED_LAYERS = 32
_MAX_LAYERS = 10_000
_MAX_DOCUMENTS = 100
# Matrices of a layer of Mistral 7B, by their size in squares of its width.
_MATRICES = {
    "self_attn.q_proj": 1.0,
    "self_attn.k_proj": 0.25,
    "self_attn.v_proj": 0.25,
    "self_attn.o_proj": 1.0,
    "mlp.gate_proj": 3.5,
    "mlp.up_proj": 3.5,
    "mlp.down_proj": 3.5,
}
_WHOLE = sum(_MATRICES.values())


@dataclass(frozen=True)
class Source:
    """A model in a group: what the recipe calls it, its name, and its own parameters.

    Attributes
    ----------
    model : tuple
        Name, revision and adapter: what tells it from others.
    parameters : mapping
    layers : tuple of int or None
        First layer, and the one after the last.
    """

    model: tuple[str, str | None, str | None]
    parameters: Mapping[str, Any]
    layers: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The model without revision and adapter."""
        return self.model[0]


@dataclass(frozen=True)
class Group:
    """Models that are mixed layer by layer: a slice, or all of the merge.

    Attributes
    ----------
    sources : tuple of Source
    base : tuple or None
        The base model, as `Source.model`.
    scopes : tuple of mapping
        Parameters of the slice, the module and the recipe: the first that has a value counts.
    where : str
        The place, for errors.
    """

    sources: tuple[Source, ...]
    base: tuple[str, str | None, str | None] | None
    scopes: tuple[Mapping[str, Any], ...]
    where: str

    @property
    def base_name(self) -> str:
        """Name of the base model."""
        return "" if self.base is None else self.base[0]

    @property
    def n_layers(self) -> int:
        """Number of layers, an assumed one where the recipe does not say."""
        layers = self.sources[0].layers
        return _ASSUMED_LAYERS if layers is None else layers[1] - layers[0]

    def with_base(self) -> tuple[Source, ...]:
        """Return the sources, and the base after them where whole models are merged."""
        listed = any(source.model == self.base for source in self.sources)
        if self.base is None or listed or self.sources[0].layers is not None:
            return self.sources
        return (*self.sources, Source(self.base, {}))

    def places(self) -> Iterator[tuple[float, tuple[str, float]]]:
        """Yield matrices of all layers: share of the layer, name, and position from 0 to 1."""
        first = (self.sources[0].layers or (0, 0))[0]
        for layer in range(self.n_layers):
            t = layer / (self.n_layers - 1) if self.n_layers > 1 else 1.0
            for matrix, size in _MATRICES.items():
                yield size / _WHOLE, (f"model.layers.{first + layer}.{matrix}.weight", t)

    def value(
        self, name: str, at: tuple[str, float], source: Source | None = None, default: Any = None
    ) -> Any:
        """Return a parameter at a matrix: that of the source, the slice, the module, the recipe."""
        for scope in ((source.parameters,) if source else ()) + self.scopes:
            if name in scope:
                found = _evaluated(scope[name], *at, name=name, where=self.where)
                if found is not None:
                    return found
        if default is None:
            raise InputError(f"no parameter {name}", where=self.where, fix=f"give {name}")
        return default

    def notes(self) -> list[str]:
        """Say which adapters and revisions are not told apart."""
        notes = []
        for model in [s.model for s in self.sources] + ([self.base] if self.base else []):
            name, revision, adapter = model
            if adapter is not None:
                notes.append(f"{name} carries the adapter {adapter}; counted as {name}")
            if revision is not None:
                notes.append(f"revision {revision} of {name} counted as {name}")
        return notes


@dataclass(frozen=True)
class Where:
    """A document of a file; reads what stands in it, and names the place of mistakes."""

    file: str
    document: int | None

    def __str__(self) -> str:
        return self.file if self.document is None else f"{self.file}, document {self.document}"

    def groups(self, recipe: Mapping[str, Any]) -> list[Group]:
        """Return the groups of a recipe, from its models, slices or modules."""
        given = [key for key in ("models", "slices", "modules") if recipe.get(key)]
        if len(given) != 1:
            what = "no models" if not given else " and ".join(given) + " together"
            raise InputError(what, where=str(self), fix="give models, slices or modules")
        base = recipe.get("base_model")
        base = None if base is None else _model(base, str(self))
        scopes = (_mapping(recipe.get("parameters"), "parameters", str(self)),)
        if not recipe.get("modules"):
            return self._groups(recipe, base, scopes, str(self))
        groups: list[Group] = []
        for name, module in _mapping(recipe["modules"], "modules", str(self)).items():
            place = f"{self}, module {name}"
            inside = _mapping(module, "the module", place)
            own = _mapping(inside.get("parameters"), "parameters", place)
            groups += self._groups(inside, base, (own, *scopes), place)
        return groups

    def _groups(
        self,
        holder: Mapping[str, Any],
        base: tuple[str, str | None, str | None] | None,
        scopes: tuple[Mapping[str, Any], ...],
        place: str,
    ) -> list[Group]:
        if bool(holder.get("models")) == bool(holder.get("slices")):
            raise InputError("no models", where=place, fix="give either models or slices")
        if holder.get("models"):
            sources = tuple(_source(m, place) for m in _list(holder["models"], "models", place))
            return [Group(sources, base, scopes, place)]
        groups = []
        for i, given in enumerate(_list(holder["slices"], "slices", place), 1):
            at = f"{place}, slice {i}"
            piece = _mapping(given, "the slice", at)
            listed = _list(piece.get("sources"), "sources", at)
            sources = tuple(_source(m, at, in_slice=True) for m in listed)
            lengths = {s.layers[1] - s.layers[0] for s in sources if s.layers}
            if len(lengths) > 1:
                raise InputError(
                    "its sources have different numbers of layers", where=at, fix="make them equal"
                )
            own = piece.get("base_model")
            own = base if own is None else _model(own, at)
            inside = _mapping(piece.get("parameters"), "parameters", at)
            groups.append(Group(sources, own, (inside, *scopes), at))
        if sum(group.n_layers * len(group.sources) for group in groups) > _MAX_LAYERS:
            raise InputError(
                f"its slices take more than {_MAX_LAYERS:,} layers",
                where=place,
                fix="correct layer_range",
            )
        return groups


def documents_of(path: str | os.PathLike[str]) -> list[tuple[Where, Mapping[str, Any]]]:
    """Read the recipes of a YAML file, each with its place.

    Raises
    ------
    InputError
        If the file cannot be read, holds nothing, or something else than mappings.
    """
    found = read_documents(path, what="merge recipe")
    if not found:
        raise InputError("the recipe is empty", where=str(path), fix="write models and a method")
    if len(found) > _MAX_DOCUMENTS:
        raise InputError(
            f"more than {_MAX_DOCUMENTS} documents", where=str(path), fix="divide the file"
        )
    several = len(found) > 1
    places = [Where(str(path), i if several else None) for i in range(1, len(found) + 1)]
    return [(p, _mapping(d, "the recipe", str(p))) for p, d in zip(places, found, strict=True)]


def number(value: Any, name: str, where: str) -> float:
    """Return a finite number; mergekit takes texts such as 1e-3 for numbers too."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"{name} is {value!r}", where=where, fix="give a number")
    return found


def _evaluated(setting: Any, tensor: str, t: float, *, name: str, where: str) -> Any:
    """Return a setting at a tensor and a position; None if no filter matches."""
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list):
        return setting
    if not setting:
        return None
    if any(isinstance(part, (list, Mapping)) for part in setting):
        for part in setting:
            if not isinstance(part, Mapping) or "value" not in part:
                raise InputError(
                    f"{name} mixes numbers with filters", where=where, fix="give filter and value"
                )
            wanted = part.get("filter")
            if wanted is None or wanted == "*" or str(wanted) in tensor:
                return _evaluated(part["value"], tensor, t, name=name, where=where)
        return None
    if all(isinstance(part, bool) for part in setting):
        return setting[int(t * (len(setting) - 1))]
    values = [number(part, name, where) for part in setting]
    low = min(int(t * (len(values) - 1)), max(len(values) - 2, 0))
    step = t * (len(values) - 1) - low
    high = min(low + 1, len(values) - 1)
    return (1 - step) * values[low] + step * values[high]


def _source(given: Any, where: str, *, in_slice: bool = False) -> Source:
    entry = _mapping(given, "a model", where)
    if "model" not in entry:
        close = nearest("model", [str(key) for key in entry])
        raise InputError(
            "an entry without model",
            where=where,
            fix=f"rename {close!r}" if close else "name the model",
        )
    model = _model(entry["model"], where)
    parameters = _mapping(entry.get("parameters"), f"parameters of {model[0]}", where)
    if not in_slice:
        return Source(model, parameters)
    layers: Any = entry.get("layer_range")
    pair = [x for x in layers if type(x) is int] if isinstance(layers, list) else []
    if len(pair) != 2 or len(pair) != len(layers) or not 0 <= pair[0] < pair[1] <= _MAX_LAYERS:
        raise InputError(
            f"layer_range of {model[0]} is {layers!r}",
            where=where,
            fix="give the first layer and the one after the last, such as [0, 32]",
        )
    return Source(model, parameters, (pair[0], pair[1]))


def _model(given: Any, where: str) -> tuple[str, str | None, str | None]:
    """Return name, revision and adapter of ``name@revision+adapter`` or of its long form."""
    adapter: Any = None
    if isinstance(given, Mapping):
        adapter, given = given.get("lora"), given.get("model", given.get("path"))
    revision: Any = None
    if isinstance(given, Mapping):
        given, revision = given.get("path"), given.get("revision")
    if isinstance(adapter, Mapping):
        adapter = adapter.get("path")
    text = given.strip() if isinstance(given, str) else ""
    if text.count("+") > 1 or text.partition("+")[0].count("@") > 1:
        text = ""
    name, _, plus = text.partition("+")
    name, _, at = name.partition("@")
    if not name.strip() or not name.isprintable():
        raise InputError(f"{given!r} is no model", where=where, fix="give a name as owner/name")
    adapter, revision = plus.strip() or adapter, at.strip() or revision
    return (
        name.strip(),
        None if revision is None else str(revision),
        None if adapter is None else str(adapter),
    )


def _mapping(given: Any, what: str, where: str) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"{what} is not a mapping", where=where, fix="write lines as key: value")
    return given


def _list(given: Any, what: str, where: str) -> Sequence[Any]:
    if not isinstance(given, list) or not given:
        raise InputError(f"{what} is not a list of models", where=where, fix="give a list")
    return given
