"""The methods that an evaluation compares, by name, each tuned on validation cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import pandas as pd
from scipy.special import expit, logit

from bayes_lrmf.baselines import (
    choose,
    item_mean,
    lineage_mean,
    nearest_models,
    scaling_law,
)
from bayes_lrmf.checks import InputError, one_of
from bayes_lrmf.conformal import conformal_forecast
from bayes_lrmf.design import make_design
from bayes_lrmf.forecast import Forecast, point_forecast, posterior_forecast
from bayes_lrmf.holdouts import Split, families
from bayes_lrmf.inference import fit_method
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.spec import HyperPrior, Penalty, read_spec

__all__ = ["DEFAULT_METHODS", "METHODS", "Background", "Method", "Run", "run_method"]

Settings = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Background:
    """What a method may know beside the responses.

    Attributes
    ----------
    lineage : Lineage
    features : DataFrame or None
        Features of models, indexed by model.
    item_adjacency : sparse array or None
        Item similarity, shape (n_items, n_items).
    """

    lineage: Lineage
    features: pd.DataFrame | None = None
    item_adjacency: Any = None


@dataclass(frozen=True)
class Method:
    """A method of the study.

    Attributes
    ----------
    predict : callable
        ``(split, background, settings, key) -> Forecast`` of the split's models.
    grid : sequence of mappings
        Settings to choose from on validation cells; a single one is used as it is.
    summary : str
    needs_features : bool
    conformal : bool
        Whether intervals are put around it, from its errors on the validation split.
    """

    predict: Callable[[Split, Background, Settings, jax.Array], Forecast]
    grid: Sequence[Settings]
    summary: str
    needs_features: bool = False
    conformal: bool = False

    @property
    def uses_validation(self) -> bool:
        """Whether it learns something from a validation split."""
        return self.conformal or len(self.grid) > 1


@dataclass(frozen=True, eq=False)
class Run:
    """What a method gave on a split: its forecast, and how its settings were chosen.

    Attributes
    ----------
    forecast : Forecast
    settings : mapping
        Those chosen.
    validation : DataFrame
        ``log_loss`` of every candidate; empty where there was nothing to choose.
    """

    forecast: Forecast
    settings: Settings
    validation: pd.DataFrame = field(default_factory=pd.DataFrame)


def run_method(
    name: str,
    split: Split,
    background: Background,
    *,
    key: jax.Array,
    validation: Split | None = None,
) -> Run:
    """Choose the settings of a method on a validation split of the training table, then predict.

    Parameters
    ----------
    name : str
        One of `METHODS`.
    split : Split
        What is predicted; nothing of its held-out cells is used.
    background : Background
    key : jax key
    validation : Split, optional
        Made from ``split.train`` alone. Without it the first settings are used, and a method whose
        intervals come from it has none.

    Raises
    ------
    InputError
        For an unknown method, or one that needs features where there are none.
    """
    method = METHODS[one_of(name, METHODS, name="method")]
    if method.needs_features and background.features is None:
        raise InputError(f"method {name} needs features of models", fix="give --models-table")
    settings, table = method.grid[0], pd.DataFrame()
    if validation is not None and len(method.grid) > 1:
        settings, table = choose(
            method.grid,
            lambda c: method.predict(validation, background, c, key).probabilities,
            validation.test,
            validation.models,
        )
    forecast = method.predict(split, background, settings, key)
    if validation is not None and method.conformal:
        known = method.predict(validation, background, settings, key)
        forecast = conformal_forecast(forecast, known, validation)
    return Run(forecast, settings, table)


def _posterior(
    spec_name: str, fit: str, *, with_features: bool = False, likelihood: str | None = None
) -> Callable[..., Forecast]:
    """Return the method that fits a named spec; settings replace its fields or its penalty."""

    def predict(
        split: Split, background: Background, settings: Settings, key: jax.Array
    ) -> Forecast:
        spec = read_spec(spec_name)
        if spec.penalty is not None:
            spec = dataclasses.replace(spec, penalty=Penalty(**settings))
        else:
            medians: dict[str, Any] = {
                n: HyperPrior(v, getattr(spec, n).log_sd) for n, v in settings.items()
            }
            spec = dataclasses.replace(spec, **medians)
        if likelihood is not None:
            spec = dataclasses.replace(spec, likelihood=likelihood)
        fit_key, draw_key = jax.random.split(key)
        design = make_design(
            split.train,
            spec,
            lineage=background.lineage,
            item_adjacency=background.item_adjacency,
            extra_models=split.models,
            features=background.features if with_features else None,
        )
        posterior = fit_method(fit, design, spec, key=fit_key)
        return posterior_forecast(posterior, split.models, key=draw_key)

    return predict


def _plain(predict: Callable[..., np.ndarray]) -> Callable[..., Forecast]:
    """Return the method whose probabilities are ``predict(split, background, settings, key)``."""

    def wrapped(
        split: Split, background: Background, settings: Settings, key: jax.Array
    ) -> Forecast:
        p = predict(split, background, settings, key)
        return point_forecast(p, split.train, split.models)

    return wrapped


def _scaling(split: Split, background: Background, settings: Settings, key: jax.Array) -> Any:
    assert background.features is not None
    known = list(dict.fromkeys([*split.train.models, *split.models]))
    label = families(known, background.lineage).to_numpy()
    family = {name: f"family {of}" for name, of in zip(known, label, strict=True)}
    return scaling_law(split.train, split.models, background.features, family, **settings)


def _blend(split: Split, background: Background, settings: Settings, key: jax.Array) -> Any:
    """Return the average of log-odds of lineage and of the scaling law, which gets `share`."""
    odds = [
        logit(p)
        for p in (
            _posterior("laplacian", "map")(split, background, {}, key).probabilities,
            _scaling(split, background, {}, key),
        )
    ]
    return expit(np.average(odds, axis=0, weights=[1 - settings["share"], settings["share"]]))


def _neural(with_features: bool) -> Callable[..., np.ndarray]:
    def predict(
        split: Split, background: Background, settings: Settings, key: jax.Array
    ) -> np.ndarray:
        from bayes_lrmf.baselines.neural import COLD_START, NeuralConfig, neural_cf

        cold = not set(split.models) & set(split.train.models)
        return neural_cf(
            split.train,
            split.models,
            key=key,
            features=background.features if with_features else None,
            config=dataclasses.replace(COLD_START if cold else NeuralConfig(), **settings),
        )

    return predict


def _product(**choices: Iterable[Any]) -> list[dict[str, Any]]:
    grid: list[dict[str, Any]] = [{}]
    for name, values in choices.items():
        grid = [{**chosen, name: value} for chosen in grid for value in values]
    return grid


METHODS: dict[str, Method] = {
    "item_mean": Method(
        _plain(lambda s, b, o, k: item_mean(s.train, s.models, **o)),
        [{}],
        "success rate of the item",
    ),
    "lineage_mean": Method(
        _plain(lambda s, b, o, k: lineage_mean(s.train, s.models, b.lineage, **o)),
        _product(distance=(1, 2), decay=(0.2, 0.35, 0.6), pull=(0.1, 0.3, 1.0)),
        "mean of kin, shrunk to the item mean",
    ),
    "nearest": Method(
        _plain(lambda s, b, o, k: nearest_models(s.train, s.models, **o)),
        _product(n_neighbours=(20, 100)),
        "mean of the models that respond most alike",
    ),
    "scaling": Method(
        _plain(_scaling),
        _product(ridge=(0.3, 1.0, 3.0)),
        "sigmoid of log parameters by benchmark, with family effects",
        needs_features=True,
    ),
    "irt": Method(_posterior("irt", "map"), [{}], "2PL, point"),
    "mf": Method(_posterior("mf", "map"), _product(factor_sd=(0.3, 0.6)), "factorisation, point"),
    "ncf": Method(
        _plain(_neural(with_features=False)), [{}], "neural collaborative filtering (NeuMF)"
    ),
    "ncf_factors": Method(
        _plain(_neural(with_features=True)),
        [{}],
        "NeuMF with features of models and benchmarks",
        needs_features=True,
    ),
    "paper": Method(
        _posterior("paper", "map"),
        [
            {"models": models, "items": items, "ridge": ridge}
            for models, items, ridge in (
                (30.0, 0.3, 0.3),
                (10.0, 0.3, 0.3),
                (30.0, 0.3, 1.0),
                (10.0, 0.3, 1.0),
            )
        ],
        "LRMF of arXiv:2504.19811, point",
    ),
    "lrmf_map": Method(
        _posterior("laplacian", "map"),
        [
            {"factor_sd": factor_sd, "kappa": kappa}
            for factor_sd, kappa in ((0.5, 0.2), (0.3, 0.2), (0.5, 0.1))
        ],
        "Laplacian lineage prior, point",
    ),
    "lrmf_scaling": Method(
        _plain(_blend),
        _product(share=(0.0, 0.2)),
        "average of lrmf_map and scaling in log-odds",
        needs_features=True,
    ),
    "mf_svi": Method(_posterior("mf", "svi"), [{}], "factorisation, variational"),
    "lrmf_svi": Method(
        _posterior("laplacian", "svi"), [{}], "Laplacian lineage prior, variational"
    ),
    "vb_laplacian": Method(
        _posterior("laplacian", "vb", likelihood="logit_normal"),
        [{}],
        "Laplacian lineage prior, variational in closed form",
    ),
    "vb_student": Method(
        _posterior("directed", "vb"), [{}], "directed prior, Student-t steps, lineage alone"
    ),
    "vb": Method(
        _posterior("lrmf", "vb"), [{}], "directed lineage prior, variational, lineage alone"
    ),
    "vb_features": Method(
        _posterior("lrmf", "vb", with_features=True),
        [{}],
        "directed lineage prior, variational, with features of models",
        needs_features=True,
    ),
}
"""Methods by name."""

METHODS |= {
    f"{name}_conformal": dataclasses.replace(
        METHODS[name], conformal=True, summary=f"{name}, split-conformal intervals"
    )
    for name in ("lineage_mean", "ncf_factors", "paper")
}

DEFAULT_METHODS = ("item_mean", "lineage_mean", "mf", "lrmf_map", "vb")
