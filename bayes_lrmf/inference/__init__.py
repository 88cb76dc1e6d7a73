"""Fits: ``fit_<method>(design, spec, *, key, ...) -> Posterior``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from bayes_lrmf.checks import one_of
from bayes_lrmf.design import Design
from bayes_lrmf.inference.map import fit_map
from bayes_lrmf.inference.nuts import fit_nuts
from bayes_lrmf.inference.svi import fit_svi
from bayes_lrmf.inference.vb import fit_vb
from bayes_lrmf.posterior import Posterior
from bayes_lrmf.spec import Spec

__all__ = ["fit_map", "fit_method", "fit_nuts", "fit_svi", "fit_vb"]

_FITS: dict[str, Callable[..., Posterior]] = {
    "map": fit_map,
    "svi": fit_svi,
    "nuts": fit_nuts,
    "vb": fit_vb,
}


def fit_method(
    method: str,
    design: Design,
    spec: Spec,
    *,
    key: jax.Array,
    seed: int | None = None,
    **options: Any,
) -> Posterior:
    """Fit by the method of this name; `seed`, where given, goes into the provenance."""
    one_of(method, _FITS, name="method")
    posterior = _FITS[method](design, spec, key=key, **options)
    return dataclasses.replace(posterior, seed=seed)
