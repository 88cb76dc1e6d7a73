"""The point estimate in PyTorch, as its users write it; run by the peers' Python."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from analyses.bench.clock import Clock, peak_gigabytes, write_result

TOLERANCE = 5e-7
_CHUNK = 25
_ADAM_STEPS = 600
_ADAM_RATE = 0.1
_EPOCHS = 12
_BATCHES_PER_EPOCH = 100
_BATCH_RATE = 0.02


class Fit:
    """Table, parameters and the objective, full batch.

    The objective is ``sum BCE + lambda sum_edges w |m_a - m_b|^2 + ridge (|M|^2 + |X|^2)``.
    """

    def __init__(self, data: Any, seed: int) -> None:
        torch.manual_seed(seed)
        responses = torch.from_numpy(data["responses"])
        # One table in place of answers and a mask: 1 right, -1 wrong, 0 not run.
        self.sign = torch.where(responses < 0, 0, 2 * responses - 1).to(torch.int8)
        self.a, self.b = (torch.from_numpy(data[n].astype(np.int64)) for n in ("edge_a", "edge_b"))
        self.weight = torch.from_numpy(data["edge_weight"]).float()[:, None]
        self.strength, self.ridge = float(data["lambda_models"]), float(data["ridge"])
        rank, n_core = int(data["rank"]), int(data["n_core"])
        self.n_models, self.n_items = responses.shape
        self.factor = torch.nn.Parameter(0.1 * torch.randn(n_core, rank))
        self.loading = torch.nn.Parameter(0.5 * torch.randn(self.n_items, rank))
        held = (torch.from_numpy(data[n].astype(np.int64)) for n in ("held_rows", "held_cols"))
        self.held_rows, self.held_cols = held
        self.held_y = torch.from_numpy(data["held_y"]).double()

    def penalty(self, factor: torch.Tensor, loading: torch.Tensor) -> torch.Tensor:
        """Return the lineage and the ridge term."""
        step = factor[self.a] - factor[self.b]
        lineage = self.strength * (self.weight * step.square()).sum()
        return lineage + self.ridge * (factor.square().sum() + loading.square().sum())

    def objective(self, factor: torch.Tensor, loading: torch.Tensor) -> torch.Tensor:
        """Return the objective of the whole table."""
        sign = self.sign.to(torch.float32)
        psi = factor[: self.n_models] @ loading.T
        cross_entropy = -(F.logsigmoid(sign * psi) * sign.abs()).sum()
        return cross_entropy + self.penalty(factor, loading)

    @torch.no_grad()
    def held_out(self) -> float:
        """Return the log loss of the held-out cells."""
        psi = (self.factor[self.held_rows] * self.loading[self.held_cols]).sum(1).double()
        return F.binary_cross_entropy_with_logits(psi, self.held_y).item()


class Done(Exception):
    """The objective has settled."""


def compiled(fit: Fit) -> tuple[Callable[[], torch.Tensor], float]:
    """Return the objective with gradients, compiled, and how long compiling took."""
    function = torch.compile(fit.objective)

    def closure() -> torch.Tensor:
        fit.factor.grad = fit.loading.grad = None
        value = function(fit.factor, fit.loading)
        value.backward()
        return value

    started = time.perf_counter()
    closure()
    return closure, time.perf_counter() - started


def lbfgs(fit: Fit, clock: Clock, closure: Callable[[], torch.Tensor]) -> bool:
    """Run L-BFGS with a strong Wolfe line search until `TOLERANCE` per iteration."""
    optimiser = torch.optim.LBFGS(
        [fit.factor, fit.loading],
        max_iter=_CHUNK,
        max_eval=4 * _CHUNK,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    best, n_calls, due = np.inf, 0, 4

    def watched() -> torch.Tensor:
        nonlocal best, n_calls, due
        value = closure()
        n_calls += 1
        reached = value.item()
        if reached < best:
            best = reached
            point = clock.note(objective=reached)
            if n_calls >= due:
                due = int(1.2 * n_calls) + 1
                with clock.paused():
                    point["held_out"] = fit.held_out()
        return value

    before = np.inf
    for _ in range(40):
        optimiser.step(watched)
        if before - best < _CHUNK * TOLERANCE * abs(best):
            return True
        before = best
    return False


def adam(fit: Fit, clock: Clock, closure: Callable[[], torch.Tensor]) -> bool:
    """Run Adam on the whole table with a rate that falls to nothing along a cosine."""
    optimiser = torch.optim.Adam([fit.factor, fit.loading], lr=_ADAM_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _ADAM_STEPS)
    for step in range(_ADAM_STEPS):
        value = closure()
        point = clock.note(objective=value.item())
        if step % 10 == 9:
            with clock.paused():
                point["held_out"] = fit.held_out()
        optimiser.step()
        schedule.step()
    return True


def mini_batches(fit: Fit, clock: Clock) -> bool:
    """Run Adam over shuffled cells, `_BATCHES_PER_EPOCH` of them a pass, eagerly."""
    rows, cols = torch.nonzero(fit.sign, as_tuple=True)
    y = (fit.sign[rows, cols] > 0).float()
    optimiser = torch.optim.Adam([fit.factor, fit.loading], lr=_BATCH_RATE)
    size = -(-len(rows) // _BATCHES_PER_EPOCH)
    n_steps = _EPOCHS * -(-len(rows) // size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    for _ in range(_EPOCHS):
        for part in torch.randperm(len(rows)).split(size):
            psi = (fit.factor[rows[part]] * fit.loading[cols[part]]).sum(1)
            loss = F.binary_cross_entropy_with_logits(psi, y[part], reduction="sum")
            share = len(part) / len(rows)
            optimiser.zero_grad()
            (loss + share * fit.penalty(fit.factor, fit.loading)).backward()
            optimiser.step()
            schedule.step()
        point = clock.note()
        with clock.paused(), torch.no_grad():
            point["objective"] = fit.objective(fit.factor, fit.loading).item()
            point["held_out"] = fit.held_out()
    return True


def main(contestant: str, arrays: str, folder: str) -> None:
    """Fit and write ``result.json`` and ``point.npz``; "compile" fills the compiler's cache."""
    out = Path(folder)
    data = np.load(arrays)
    seed = 0
    clock = Clock()
    fit = Fit(data, seed)
    compile_seconds = 0.0
    if contestant == "torch-minibatch":
        converged = mini_batches(fit, clock)
    else:
        closure, compile_seconds = compiled(fit)
        if contestant == "compile":
            write_result(out, clock, compile_seconds=compile_seconds)
            return
        method = {"torch-lbfgs": lbfgs, "torch-adam": adam}[contestant]
        converged = method(fit, clock, closure)
    point = clock.note()
    peak = peak_gigabytes()
    with torch.no_grad():
        point["objective"] = fit.objective(fit.factor, fit.loading).item()
    point["held_out"] = fit.held_out()
    values = {name: getattr(fit, name).detach().numpy().T for name in ("factor", "loading")}
    np.savez(out / "point.npz", **values)
    write_result(
        out,
        clock,
        compile_seconds=compile_seconds,
        peak_gigabytes=peak,
        converged=converged,
        version=f"torch {torch.__version__}, {torch.get_num_threads()} threads",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
