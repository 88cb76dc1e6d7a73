"""Bayesian lineage-regularised matrix factorisation of language-model evaluations."""
