"""SMURFF's Macau: Gibbs sampling with lineage as features; run by the peers' Python."""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import smurff
from scipy.special import ndtr

from analyses.bench.clock import Clock, peak_gigabytes, write_result

RANK = 16
_BURN_IN = 50
_SAMPLES = 100


def main(contestant: str, arrays: str, folder: str) -> None:
    """Sample and write ``result.json`` and ``draws.npz``: latents of cold models and of items."""
    out = Path(folder)
    data = np.load(arrays)
    n_models, n_items = data["responses"].shape
    n_cold = len(data["cold_models"])
    rows, cols = np.nonzero(data["responses"] >= 0)
    # Probit noise takes the sign; a zero could be taken for a cell without a response.
    y = np.where(data["responses"][rows, cols] > 0, 1.0, -1.0)
    shape = (n_models + n_cold, n_items)
    clock = Clock()
    kin = sp.csr_matrix(
        (data["kin_data"], data["kin_indices"], data["kin_indptr"]), shape=data["kin_shape"]
    )
    with tempfile.TemporaryDirectory() as saved:
        session = smurff.TrainSession(
            priors=["macau", "normal"],
            num_latent=RANK,
            burnin=_BURN_IN,
            nsamples=_SAMPLES,
            num_threads=int(os.environ["OMP_NUM_THREADS"]),
            seed=0,
            threshold=0.0,
            verbose=0,
            save_freq=1,
            save_name=str(Path(saved, "draws.hdf5")),
        )
        noise = smurff.ProbitNoise(0.0)
        session.addTrainAndTest(sp.csr_matrix((y, (rows, cols)), shape=shape), None, noise)
        session.addSideInfo(0, kin, direct=True)
        session.init()
        clock.note()
        while session.step() is not None:
            clock.note()
        end = clock.now()
        peak = peak_gigabytes()
        found = session.makePredictSession()
        latents = [sample.latents for sample in found.samples]
    held = data["held_rows"], data["held_cols"], data["held_y"]
    total = np.zeros(len(held[2]))
    first = len(clock.points) - len(latents)
    for at, (u, v) in enumerate(latents):
        total += ndtr((u[held[0]] * v[held[1]]).sum(1))
        p = np.clip(total / (at + 1), 1e-7, 1 - 1e-7)
        loss = -np.mean(np.where(held[2] > 0, np.log(p), np.log1p(-p)))
        clock.points[first + at]["held_out"] = float(loss)
    np.savez(
        out / "draws.npz",
        models=np.stack([u[n_models:] for u, _ in latents]).astype(np.float32),
        items=np.stack([v for _, v in latents]).astype(np.float32),
    )
    write_result(
        out,
        clock,
        compile_seconds=0.0,
        peak_gigabytes=peak,
        converged=True,
        seconds=end[0],
        twenty_draws=clock.points[20],
        version=f"smurff {version('smurff')}",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
