"""Probabilities of cells before over-dispersion: what truth of simulated tables says."""

from __future__ import annotations

import dataclasses

from bayes_lrmf.posterior import Posterior

__all__ = ["without_overdispersion"]

_SITES = ("overdispersion_sd", "concentration")


def without_overdispersion(posterior: Posterior) -> Posterior:
    """Return a posterior whose cells are as their log-odds say, for a comparison with the truth.

    What is predicted of a cell is the probability its trials are drawn with; `simulate` tells the
    one before that.
    """
    state = posterior.state
    kept = {name: value for name, value in state.values.items() if name not in _SITES}
    return dataclasses.replace(posterior, state=dataclasses.replace(state, values=kept))
