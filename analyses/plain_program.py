"""A program as NumPyro alone sees it: the table is an argument, coordinates are NumPyro's own.

Nothing here shares the coordinates of `fit_nuts`, so that what it samples is a second opinion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpyro import handlers
from numpyro.infer.hmc import hmc
from numpyro.infer.util import constrain_fn, potential_energy, unconstrain_fn

from bayes_lrmf.design import Design
from bayes_lrmf.kernels import BinaryTable, CountTable
from bayes_lrmf.program import program
from bayes_lrmf.spec import Spec


@dataclass(frozen=True, eq=False)
class PlainProgram:
    """The program of a spec whose table is an argument that JAX may trace.

    Attributes
    ----------
    design : Design
        Of a dense table, counts or 0/1.
    spec : Spec
    """

    design: Design
    spec: Spec

    def table(self) -> Any:
        """Return the table of the design as `potential` takes it."""
        table = self.design.table
        if isinstance(table, BinaryTable):
            return np.asarray(table.values)
        assert isinstance(table, CountTable)
        return np.stack([table.successes, table.trials])

    def _holding(self, table: Any) -> Design:
        own = self.design.table
        if isinstance(own, BinaryTable):
            return self.design.holding(BinaryTable(table))
        assert isinstance(own, CountTable)
        if self.spec.likelihood == "beta_binomial":
            # What trials are distinct is worked out before tracing.
            return self.design.holding(CountTable(table[0], own.trials))
        return self.design.holding(CountTable(table[0], table[1]))

    def potential(self, z: Mapping[str, Any], table: Any) -> jax.Array:
        """Return the negative log density of unconstrained sites, up to a constant.

        Parameters
        ----------
        z : mapping
        table : array
            0/1 with -1 where not run, (n_models, n_items), or successes and trials, (2, n_models,
            n_items), without trials where not run; for Beta-Binomial counts trials are those of
            the design.
        """
        return potential_energy(program, (self._holding(table), self.spec), {}, z)

    def unconstrained(self, values: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Return the coordinates of sites."""
        return unconstrain_fn(program, (self.design, self.spec), {}, dict(values))

    def values(self, z: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Return the sites at coordinates, and what is made of them."""
        made = constrain_fn(
            program, (self.design, self.spec), {}, dict(z), return_deterministic=True
        )
        return {name: value for name, value in made.items() if name != "responses"}

    def sites(self) -> list[str]:
        """Return the names of the sites that are sampled."""
        found: list[str] = []

        def names() -> None:
            seeded = handlers.seed(program, jax.random.key(0))
            trace = handlers.trace(seeded).get_trace(self.design, self.spec)
            found.extend(
                n for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]
            )

        jax.eval_shape(names)
        return found

    def sampler(self, algo: str) -> tuple[Any, Any]:
        """Return NumPyro's `init_kernel` and `sample_kernel`, of ``model_args=(table,)``."""
        return hmc(potential_fn_gen=lambda table: lambda z: self.potential(z, table), algo=algo)
