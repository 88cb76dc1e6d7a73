"""Fits: ``fit_<method>(design, spec, *, key, ...) -> Posterior``."""
