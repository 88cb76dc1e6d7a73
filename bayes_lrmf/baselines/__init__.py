"""What is not Bayesian: each method returns probabilities of success, (models, items)."""

from bayes_lrmf.baselines.items import item_mean
from bayes_lrmf.baselines.kin import lineage_mean
from bayes_lrmf.baselines.neighbours import nearest_models
from bayes_lrmf.baselines.scaling import ScalingLaw, fit_scaling_law, scaling_law
from bayes_lrmf.baselines.tuning import choose

__all__ = [
    "ScalingLaw",
    "choose",
    "fit_scaling_law",
    "item_mean",
    "lineage_mean",
    "nearest_models",
    "scaling_law",
]
