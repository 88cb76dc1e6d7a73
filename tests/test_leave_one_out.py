"""Leave-one-out by importance weights against leaving each cell out."""

from __future__ import annotations

import numpy as np
import pytest

from analyses import leave_one_out

pytestmark = pytest.mark.usefixtures("unoptimised")


@pytest.mark.ledger
@pytest.mark.slow
def test_weights_agree_with_refits_where_k_hat_is_small(claim):
    found = leave_one_out.left_out()
    good, bad = found.good, found.table.drop(found.good.index)
    assert len(good) >= 12
    # The cell that was turned round is told, and ArviZ warns of it.
    assert found.warned
    assert found.table["refit"].idxmin() in bad.index
    # Weights do more than repeat the density of the posterior itself.
    assert np.corrcoef(good["weights"], good["refit"])[0, 1] > 0.95
    refits = f"{len(found.table)} refits without a cell each"
    claim(
        "PSIS-LOO of az.loo, cells of k-hat up to 0.7: gap of the sum, in its standard errors",
        refits,
        abs(found.gap) / found.se,
        1.0,
    )
    claim(
        "PSIS-LOO of az.loo, cells of k-hat up to 0.7: greatest gap of a cell, nats",
        refits,
        (good["weights"] - good["refit"]).abs().max(),
        0.25,
    )
