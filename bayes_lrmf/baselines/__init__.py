"""What is not Bayesian: each method returns probabilities of success, (models, items)."""

from bayes_lrmf.baselines.items import item_mean
from bayes_lrmf.baselines.kin import lineage_mean
from bayes_lrmf.baselines.neighbours import nearest_models

__all__ = [
    "item_mean",
    "lineage_mean",
    "nearest_models",
]
