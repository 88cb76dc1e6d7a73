"""Which data, which spec and which code: digests and versions that make a fit."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from bayes_lrmf.design import Design
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.spec import Spec

__all__ = ["design_digests", "digest", "package_versions", "spec_digest"]

_PACKAGES = ("bayes-lrmf", "jax", "numpyro", "numpy", "scipy")


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that make a fit, and a digest of this one's source."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found | {"bayes-lrmf source": _source_digest()}


@functools.cache
def _source_digest() -> str:
    folder = Path(__file__).parent
    files = sorted(folder.rglob("*.py"))
    return digest(part for f in files for part in (f.relative_to(folder).as_posix(), f.read_text()))


def design_digests(design: Design) -> dict[str, str]:
    """Return SHA-256 digests, in hex, of the responses, the lineage and the features of a design.

    Equal tables have equal digests, whatever file they came from: that of the responses is
    `Responses.fingerprint`. Features are those of the models in the fit, in their order there.
    """
    graphs = [g for g in (design.graph, design.item_graph) if g is not None]
    lineage: list[Any] = [part for g in graphs for part in (g.rows, g.cols, g.weights)]
    for part in (design.core, design.periphery):
        lineage += _edges(part)
    c = design.covariates
    features = [] if c is None else [*_joined(c.names, c.kinds), c.values, c.kind]
    return {
        "data": design.responses.fingerprint(),
        "lineage": digest([*lineage, json.dumps(design.strengths)]),
        "features": digest(features),
    }


def spec_digest(spec: Spec) -> str:
    """Return the SHA-256 digest, in hex, of all in which a spec differs from the default one.

    So it stays the same where a later version has more to state.
    """
    default = Spec(name="", rank=0).to_dict()
    own = {k: v for k, v in spec.to_dict().items() if k == "rank" or v != default.get(k)}
    return digest([json.dumps(own, sort_keys=True)])


def _edges(lineage: Lineage) -> list[Any]:
    names = _joined(lineage.nodes, lineage.relation)
    return [*names, lineage.child, lineage.parent, lineage.weight]


def _joined(*lists: Iterable[Any]) -> list[str]:
    return ["\0".join(map(str, values)) for values in lists]


def digest(parts: Iterable[Any]) -> str:
    """Return the SHA-256, in hex, of texts and arrays in their order."""
    made = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            made.update(f"{len(part)}:{part}".encode())
        else:
            value = np.ascontiguousarray(part)
            made.update(f"{value.dtype.str}{value.shape}".encode() + value.tobytes())
    return made.hexdigest()
