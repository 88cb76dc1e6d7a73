"""The state of a closed-form variational fit: one Gaussian of all models, one for each item."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import numpy as np

from bayes_lrmf.block_elimination import BlockFactor
from bayes_lrmf.design import Design

__all__ = ["VariationalState"]

Values = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class VariationalState:
    """Gaussians of models and items, and point estimates of hyper-parameters.

    Attributes
    ----------
    values : mapping of arrays
        ``model_layout`` (3,): numbers of factors, abilities and benchmark effects, together D.
        ``model_mean`` (n_core, D); ``model_root`` (n_core, D, D) and ``model_lower`` (n_entries, D,
        D), the factor of their joint precision on ``design.blocks``; ``item_mean`` (n_items, K + 1)
        of loading and intercept, and ``item_root``, the Cholesky factors of their covariances; any
        other is a site of the program or a hyper-parameter, fixed.
    """

    values: Values
    group = "variational"

    def _sites(self, models: np.ndarray, items: np.ndarray) -> Values:
        """Return sites from draws (n_core, D, n_draws) and (n_items, K + 1, n_draws)."""
        k, n_ability, n_effects = self.values["model_layout"].tolist()
        by_draw, of_items = models.transpose(2, 1, 0), items.transpose(2, 1, 0)
        n_draws = len(by_draw)
        out: Values = {"factor": by_draw[:, :k]}
        unit = np.ones(n_draws, np.float32)
        if n_ability:
            sd = self.values.get("ability_sd", np.asarray(1.0))
            out["ability_sd"] = sd * unit
            out["ability_unit"] = by_draw[:, k] / sd
        if n_effects:
            sd = self.values.get("benchmark_sd", np.asarray(1.0))
            out["benchmark_sd"] = sd * unit
            out["effect_unit"] = by_draw[:, k + n_ability :] / sd
        out |= {"loading": of_items[:, :k], "intercept": of_items[:, k]}
        for name, value in self.values.items():
            if not name.startswith(("model_", "item_", "step_")) and name not in out:
                out[name] = np.broadcast_to(value, (n_draws, *np.shape(value)))
        return out

    def centre(self) -> Values:
        """Return every site at its mean, without a dimension of draws."""
        sites = self._sites(
            self.values["model_mean"][..., None], self.values["item_mean"][..., None]
        )
        return {name: value[0] for name, value in sites.items()}

    def draw(self, n_draws: int, key: jax.Array, design: Design) -> Values:
        """Return `n_draws` independent draws of every site."""
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
        v = self.values
        factor = BlockFactor(v["model_root"], v["model_lower"])
        noise = rng.standard_normal((*v["model_mean"].shape, n_draws), dtype=np.float32)
        models = v["model_mean"][..., None].astype(np.float32) + design.blocks.color(factor, noise)
        noise = rng.standard_normal((*v["item_mean"].shape, n_draws), dtype=np.float32)
        items = v["item_mean"][..., None].astype(np.float32) + v["item_root"] @ noise
        return self._sites(models, items)
