"""L-BFGS that can be left and gone on with: scipy's routine, and the whole state it works on."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize

from bayes_lrmf.inference.checkpoint import Saved

try:
    # What `scipy.optimize.minimize` calls. It offers no way to stop in the middle, and no other
    # search would give the same numbers.
    _scipy: Any = importlib.import_module("scipy.optimize._lbfgsb_py")
    _step = _scipy._lbfgsb.setulb
    _STATUS, _TASK = _scipy.status_messages, _scipy.task_messages
    _WHOLE = np.int64 if getattr(_scipy, "HAS_ILP64", False) else np.int32
except (ImportError, AttributeError):
    _step = None

__all__ = ["Found", "minimise"]

_PAIRS = 20
_GRADIENT_TOLERANCE = 1e-8
_LINE_STEPS = 20
# One iteration may gain little on a plateau that the next ones leave.
_WINDOW = 10
_SETTLED = "the mean gain of ten iterations is below the tolerance"
_AT_REST = "no step gains, and the gradient promises less than the tolerance"
# Places of what the routine says and counts.
_TASK_EVALUATE, _TASK_ITERATION, _TASK_CONVERGED, _TASK_STOP = 3, 1, 4, 5
_STOP_AT_EVALUATIONS, _STOP_AT_ITERATIONS = 502, 504
_N_ITERATIONS, _N_EVALUATIONS = 29, 33

Evaluate = Callable[[np.ndarray], tuple[float, np.ndarray]]


class Found(NamedTuple):
    """Where a search ended.

    Attributes
    ----------
    x : array, shape (n,)
    value : float
    trace : list of float
        Values by iteration.
    success : bool
    message : str
    """

    x: np.ndarray
    value: float
    trace: list[float]
    success: bool
    message: str


def minimise(
    evaluate: Evaluate,
    first: np.ndarray,
    *,
    tolerance: float,
    max_iterations: int,
    report: Callable[[int, float], None],
    saved: Saved,
    partial: Callable[[Found], Any],
    stage: str,
    loaded: dict[str, np.ndarray] | None,
    kept: dict[str, np.ndarray] | None = None,
) -> Found:
    """Minimise a function by L-BFGS (Liu & Nocedal 1989) with 20 pairs, from `first`.

    Parameters
    ----------
    evaluate : callable
        Returns value and gradient, shape (n,).
    first : array, shape (n,)
    tolerance : float
        Stops when ten iterations lower the value by less than this share of it each, on average.
        A search that no step leads on, as from a point that is as low as the arithmetic can tell,
        counts as ended where half the squared gradient, the gain of a Newton step in units of the
        curvature, is less than that too.
    max_iterations : int
    report : callable
        Called with the number of iterations and the value after each.
    saved : Saved
        Where the state goes.
    partial : callable
        Makes a posterior of a search that Ctrl-C ended.
    stage : str
        Name of the search among those of a fit.
    loaded : mapping of arrays or None
        The saved state to go on from.
    kept : mapping of arrays, optional
        Saved with the state.

    Returns
    -------
    Found
        The same numbers as those of `scipy.optimize.minimize` on its way, in one go or resumed.
    """
    if _step is None:
        return _in_one_go(evaluate, first, tolerance, max_iterations, report)
    search = _Search(first)
    if loaded is not None:
        search.restore(loaded)

    def state() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {}, search.arrays_now() | (kept or {})

    try:
        while search.goes_on(evaluate, max_iterations, report):
            if _is_settled(search.trace, tolerance):
                last = search.arrays["iterate"].copy()
                return Found(last, search.trace[-1], search.trace, True, _SETTLED)
            saved.offer(stage, state)
    except KeyboardInterrupt:
        saved.offer(stage, state, at_once=True)
        when = f"after {len(search.trace):,} iterations"
        # Not the point in mid-search along a line.
        value = search.trace[-1] if search.trace else float("nan")
        found = Found(search.arrays["iterate"], value, search.trace, False, "interrupted")
        made = (lambda: partial(found)) if found.trace else None
        raise saved.interrupted(when, made) from None
    return _judged(search.found(), evaluate, tolerance)


def _judged(found: Found, evaluate: Evaluate, tolerance: float) -> Found:
    if found.success or not found.message.startswith("ABNORMAL"):
        return found
    value, gradient = evaluate(found.x)
    if gradient @ gradient / 2 > _WINDOW * tolerance * max(abs(value), 1.0):
        return found
    return found._replace(success=True, message=_AT_REST)


def _is_settled(trace: list[float], tolerance: float) -> bool:
    if len(trace) <= _WINDOW:
        return False
    before, now = trace[-1 - _WINDOW], trace[-1]
    return before - now <= _WINDOW * tolerance * max(abs(before), abs(now), 1.0)


class _Search:
    """Everything between two calls of the routine, which works on these arrays in place."""

    def __init__(self, first: np.ndarray) -> None:
        n, m = len(first), _PAIRS
        self.arrays = {
            "x": np.array(first, float),
            "iterate": np.array(first, float),
            "workspace": np.zeros(2 * m * n + 5 * n + 11 * m * m + 8 * m),
            "whole_workspace": np.zeros(3 * n, _WHOLE),
            "task": np.zeros(2, _WHOLE),
            "flags": np.zeros(4, _WHOLE),
            "counts": np.zeros(44, _WHOLE),
            "numbers": np.zeros(29),
            "line_task": np.zeros(2, _WHOLE),
        }
        self.free = np.zeros(n, _WHOLE)
        self.no_bound = np.zeros(n)
        self.value: Any = np.array(0.0)
        self.gradient = np.zeros(n)
        self.trace: list[float] = []

    def arrays_now(self) -> dict[str, np.ndarray]:
        return {
            **self.arrays,
            "value": np.array(float(self.value)),
            "gradient": self.gradient,
            "trace": np.array(self.trace),
        }

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        for name, array in self.arrays.items():
            array[...] = arrays[name]
        self.value, self.gradient = float(arrays["value"]), arrays["gradient"]
        self.trace = arrays["trace"].tolist()

    def goes_on(
        self,
        evaluate: Evaluate,
        max_iterations: int,
        report: Callable[[int, float], None],
    ) -> bool:
        """Work up to the end of the iteration; return whether another one follows."""
        a = self.arrays
        task, counts = a["task"], a["counts"]
        while task[0] != _TASK_ITERATION or len(self.trace) == counts[_N_ITERATIONS]:
            if task[0] == _TASK_EVALUATE:
                self.value, self.gradient = evaluate(a["x"].copy())
            _step(
                _PAIRS, a["x"], self.no_bound, self.no_bound, self.free, self.value,
                self.gradient.astype(float), 0.0, _GRADIENT_TOLERANCE,
                a["workspace"], a["whole_workspace"], task, a["flags"], counts, a["numbers"],
                _LINE_STEPS, a["line_task"],
            )  # fmt: skip
            if task[0] not in (_TASK_EVALUATE, _TASK_ITERATION):
                return False
        self.trace.append(float(self.value))
        a["iterate"][:] = a["x"]
        report(len(self.trace), self.trace[-1])
        if len(self.trace) >= max_iterations:
            task[:] = _TASK_STOP, _STOP_AT_ITERATIONS
        elif counts[_N_EVALUATIONS] > 2 * max_iterations:
            task[:] = _TASK_STOP, _STOP_AT_EVALUATIONS
        return True

    def found(self) -> Found:
        task = [int(t) for t in self.arrays["task"]]
        return Found(
            self.arrays["x"],
            float(self.value),
            self.trace,
            task[0] == _TASK_CONVERGED,
            f"{_STATUS[task[0]]}: {_TASK[task[1]]}",
        )


def _in_one_go(
    evaluate: Evaluate,
    first: np.ndarray,
    tolerance: float,
    max_iterations: int,
    report: Callable[[int, float], None],
) -> Found:
    trace: list[float] = []

    def note(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        trace.append(float(intermediate_result.fun))
        report(len(trace), trace[-1])
        if _is_settled(trace, tolerance):
            raise StopIteration

    options: Any = {
        "maxcor": _PAIRS,
        "ftol": 0.0,
        "gtol": _GRADIENT_TOLERANCE,
        "maxiter": max_iterations,
        "maxfun": 2 * max_iterations,
    }
    function: Any = evaluate
    found = scipy.optimize.minimize(
        function, first, jac=True, method="L-BFGS-B", callback=note, options=options
    )
    if _is_settled(trace, tolerance):
        return Found(found.x, float(found.fun), trace, True, _SETTLED)
    ended = Found(found.x, float(found.fun), trace, bool(found.success), str(found.message))
    return _judged(ended, evaluate, tolerance)
