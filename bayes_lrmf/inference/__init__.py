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
from bayes_lrmf.responses import Responses
from bayes_lrmf.spec import Spec

__all__ = ["best_method", "fit_map", "fit_method", "fit_nuts", "fit_svi", "fit_vb"]

_AFFORDABLE_CELLS, _AFFORDABLE_MODELS = 30_000, 1000

_FITS: dict[str, Callable[..., Posterior]] = {
    "map": fit_map,
    "svi": fit_svi,
    "nuts": fit_nuts,
    "vb": fit_vb,
}


def best_method(responses: Responses, spec: Spec | None = None) -> str:
    """Return the best sound method for a table, and for a spec where one is named.

    Counts go to nuts where it takes minutes, which cells and models both decide; `default_spec`
    names the spec that is meant where none is.
    """
    counts = bool((responses.items["trials"] > 1).any())
    few = responses.n_observed <= _AFFORDABLE_CELLS and responses.n_models <= _AFFORDABLE_MODELS
    affordable = counts and few
    if spec is None:
        return "nuts" if affordable else "vb"
    if spec.penalty is not None:
        return "map"
    if spec.lineage == "directed" or (counts and spec.likelihood == "logit_normal"):
        return "vb"
    return "nuts" if affordable else "svi"


def fit_method(
    method: str,
    design: Design,
    spec: Spec,
    *,
    key: jax.Array,
    seed: int | None = None,
    **options: Any,
) -> Posterior:
    """Fit by the method of this name.

    Parameters
    ----------
    method : {"map", "svi", "nuts", "vb"}
    design : Design
    spec : Spec
    key : jax key
    seed : int, optional
        What the key was made of, for the provenance.
    **options
        Those of `fit_map`, `fit_svi`, `fit_nuts` or `fit_vb`.

    Raises
    ------
    InputError
        For an unknown method, or a spec that it does not take.
    """
    one_of(method, _FITS, name="method")
    posterior = _FITS[method](design, spec, key=key, **options)
    return dataclasses.replace(posterior, seed=seed)
