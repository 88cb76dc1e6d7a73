"""NumPyro's mean-field guide on the program of this package, as its users would run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.optim import Adam

from bayes_lrmf.design import Design
from bayes_lrmf.posterior import DrawsState, FitRecord, Posterior
from bayes_lrmf.program import program
from bayes_lrmf.spec import Spec

_STEP_SIZE = 0.03
_CHUNK = 50
_FLAT_STEPS, _FLAT_SHARE = 500, 1e-3
_MOST_STEPS = 6000
_DRAWS = 400

Noted = Callable[[int, float, Callable[[int], Posterior]], None]


def fit_autonormal(
    design: Design, spec: Spec, *, key: jax.Array, noted: Noted | None = None
) -> Posterior:
    """Fit until 500 steps raise the ELBO by less than 0.1 %.

    Parameters
    ----------
    design : Design
    spec : Spec
    key : jax key
    noted : callable, optional
        Told after every 50 steps how many these are, the ELBO, and what draws posteriors.
    """
    fit_key, draw_key = jax.random.split(key)
    guide = AutoNormal(program)
    svi = SVI(program, guide, Adam(_STEP_SIZE), Trace_ELBO())
    state = svi.init(fit_key, design, spec)

    @jax.jit
    def advance(state: Any) -> Any:
        return jax.lax.scan(
            lambda s, _: svi.stable_update(s, design, spec), state, None, length=_CHUNK
        )

    trace: list[float] = []
    converged = False

    def drawn(n_draws: int) -> Posterior:
        values = guide.sample_posterior(draw_key, svi.get_params(state), sample_shape=(n_draws,))
        values = {name: np.asarray(v, np.float32)[None] for name, v in values.items()}
        record = FitRecord("autonormal", converged, f"{len(trace)} steps", np.array(trace))
        return Posterior(design, spec, DrawsState(values), record)

    while len(trace) < _MOST_STEPS and not converged:
        state, losses = advance(state)
        trace.extend(np.asarray(losses, float))
        if len(trace) >= 2 * _FLAT_STEPS:
            before = np.mean(trace[-2 * _FLAT_STEPS : -_FLAT_STEPS])
            now = np.mean(trace[-_FLAT_STEPS:])
            converged = bool(before - now < _FLAT_SHARE * abs(now))
        if noted is not None:
            noted(len(trace), -float(np.mean(losses)), drawn)
    return drawn(_DRAWS)
