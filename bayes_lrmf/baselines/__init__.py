"""What is not Bayesian: each method returns probabilities of success, (models, items)."""

from bayes_lrmf.baselines.items import item_mean
from bayes_lrmf.baselines.kin import lineage_mean

__all__ = [
    "item_mean",
    "lineage_mean",
]
