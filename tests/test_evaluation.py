"""What an evaluation found: differences by hand and by resampling, marks of the best."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from bayes_lrmf.checks import InputError
from bayes_lrmf.comparison import paired_difference
from bayes_lrmf.evaluation import Evaluation, readable_table


def made(rng, *, n_models=30, n_families=12, seeds=(0, 1)) -> Evaluation:
    """Return an evaluation of methods good and bad, of made-up numbers."""
    losses, scores, metrics = [], [], []
    for seed in seeds:
        models = [f"m{i}" for i in rng.choice(60, n_models, replace=False)]
        family = [int(m[1:]) % n_families for m in models]
        for b in ("x", "y"):
            observed = rng.uniform(0.2, 0.8, n_models)
            for method, noise in (("good", 0.1), ("bad", 0.3)):
                scores.append(
                    pd.DataFrame(
                        {
                            "holdout": "cold",
                            "seed": seed,
                            "method": method,
                            "model": models,
                            "family": family,
                            "benchmark": b,
                            "observed": observed,
                            "predicted": observed + rng.normal(0, noise, n_models),
                        }
                    )
                )
        for method, mean in (("good", 0.4), ("bad", 0.6)):
            values = {"log_loss": mean, "auc": 1 - mean, "coverage_90": 1.3 - mean}
            values["pearson"] = np.nan if method == "bad" else 0.5
            metrics += [("cold", seed, method, k, v + 0.1 * seed) for k, v in values.items()]
            losses.append(
                pd.DataFrame(
                    {
                        "holdout": "cold",
                        "seed": seed,
                        "method": method,
                        "model": models,
                        "family": family,
                        "log_loss": rng.normal(mean, 0.1, n_models),
                        "abs_error": rng.uniform(0, mean, n_models),
                    }
                )
            )
    columns = ["holdout", "seed", "method", "metric", "value"]
    return Evaluation(
        pd.DataFrame(metrics, columns=columns),
        pd.concat(losses, ignore_index=True),
        pd.concat(scores, ignore_index=True),
        pd.DataFrame(columns=["holdout", "seed", "method", "settings"]),
    )


def test_difference_of_losses_is_the_paired_one_by_hand(rng):
    found = made(rng)
    estimate, error = found.difference("good", "bad", holdout="cold", metric="log_loss")
    by = found.losses.set_index(["seed", "model"])
    good = by.loc[by["method"] == "good"].sort_index()
    bad = by.loc[by["method"] == "bad"].sort_index()
    d = good["log_loss"] - bad["log_loss"]
    assert estimate == pytest.approx(d.mean())
    # Sandwich error of a ratio of sums over families, which resampling estimates.
    sums = (d - d.mean()).groupby(good["family"]).sum()
    assert error == pytest.approx(np.sqrt((sums**2).sum()) / len(d), rel=0.25)
    once = paired_difference(good["log_loss"], bad["log_loss"], good["family"], seed=0)
    assert error == pytest.approx(once.standard_error, rel=1e-6)


def test_difference_of_correlations_is_the_mean_over_seeds_and_benchmarks(rng):
    found = made(rng)
    r = {
        key: scipy.stats.pearsonr(part["observed"], part["predicted"])[0]
        for key, part in found.scores.groupby(["method", "seed", "benchmark"])
    }
    means = {m: np.mean([v for key, v in r.items() if key[0] == m]) for m in ("good", "bad")}
    estimate, error = found.difference("good", "bad", holdout="cold", metric="pearson")
    assert estimate == pytest.approx(means["good"] - means["bad"])
    assert found.estimate("bad", holdout="cold", metric="pearson")[0] == pytest.approx(means["bad"])
    back, same = found.difference("bad", "good", holdout="cold", metric="pearson")
    assert back == pytest.approx(-estimate)
    assert same == pytest.approx(error)
    # Rough size: error of r is (1 - r^2) / sqrt(n) for each of four independent sets of 30.
    rough = np.sqrt(sum((1 - m**2) ** 2 for m in means.values()) / 30 / 4)
    assert rough / 2 < error < rough * 2


def test_a_method_differs_from_itself_by_nothing(rng):
    found = made(rng)
    for metric in ("log_loss", "abs_error", "pearson"):
        assert found.difference("good", "good", holdout="cold", metric=metric) == (0, 0)


def test_estimate_of_a_loss_has_the_error_of_a_mean_of_families(rng):
    found = made(rng, n_models=60, n_families=60, seeds=(0,))
    estimate, error = found.estimate("good", holdout="cold", metric="abs_error")
    values = found.losses.loc[found.losses["method"] == "good", "abs_error"]
    assert estimate == pytest.approx(values.mean())
    # Every model its own family; 500 resampled tables know an error to about 3 %.
    assert error == pytest.approx(values.std() / np.sqrt(60), rel=0.15)


def test_a_single_family_has_no_standard_error(rng):
    found = made(rng, n_families=1)
    for metric in ("log_loss", "pearson"):
        estimate, error = found.difference("good", "bad", holdout="cold", metric=metric)
        assert np.isfinite(estimate)
        assert np.isnan(error)


def test_models_of_one_method_alone_do_not_count(rng):
    found = made(rng, seeds=(0,))
    gone = set(found.scores["model"][:5])
    keep = ~(found.scores["model"].isin(gone) & (found.scores["method"] == "bad"))
    fewer = Evaluation(found.metrics, found.losses, found.scores[keep], found.settings)
    both = found.scores[~found.scores["model"].isin(gone)]
    cut = Evaluation(found.metrics, found.losses, both, found.settings)
    one = fewer.difference("good", "bad", holdout="cold", metric="pearson")
    assert one == cut.difference("good", "bad", holdout="cold", metric="pearson")


def test_mistakes_are_named(rng):
    found = made(rng)
    with pytest.raises(InputError, match=r"unknown metric 'mae'.*log_loss, abs_error, pearson"):
        found.difference("good", "bad", holdout="cold", metric="mae")
    for metric in ("log_loss", "pearson"):
        with pytest.raises(InputError, match="no model to compare on"):
            found.difference("good", "other", holdout="cold", metric=metric)


def test_readable_table_marks_the_best_of_means_over_seeds(rng):
    table = readable_table(made(rng), "cold").set_index("method")
    assert table.loc["good", "log_loss"] == "0.450*"
    assert table.loc["bad", "log_loss"] == "0.650 "
    assert table.loc["good", "auc"] == "0.650*"
    # Coverage of 0.95 is nearer to 90 % than 0.75, though not higher is better.
    assert table.loc["good", "coverage_90"] == "0.950*"
    assert table.loc["bad", "coverage_90"] == "0.750 "
    assert table.loc["bad", "pearson"] == ""
    assert table.loc["good", "log_loss - best"] == ""
    assert table.loc["bad", "log_loss - best"].startswith("+0.")
    assert "mae" not in table


def test_readable_table_compares_with_a_reference(rng):
    found = made(rng)
    table = readable_table(
        found, "cold", ("auc",), reference="bad", compared=("pearson", "log_loss")
    )
    assert list(table) == ["method", "auc", "pearson - bad", "log_loss - bad"]
    gap, error = found.difference("good", "bad", holdout="cold", metric="pearson")
    assert table.loc[0, "pearson - bad"] == f"{gap:+.3f} ± {error:.3f}"
    assert table.loc[1, "pearson - bad"] == ""
