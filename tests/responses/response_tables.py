"""Small tables of every kind, and what each table promises."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.responses import Responses, responses_from_frame

WIDE = "model,arc:1,arc:2,gsm8k:1\nm1,1,0,\nm2,,1,0\n"
LONG = (
    "model,benchmark,item,response\nm1,arc,1,1\nm1,arc,2,0\nm2,arc,2,1\nm2,gsm8k,1,0\nm1,gsm8k,1,\n"
)
LONG_HEADER = "model,benchmark,item,response\n"
COUNTS = "model,benchmark,successes,trials\nm1,arc,3,10\nm1,gsm8k,0,5\nm2,arc,10,10\n"


def contents(responses: Responses) -> dict:
    """Return {(model, benchmark, item): (successes, trials)}."""
    frame = responses.to_frame()
    keys = zip(frame["model"], frame["benchmark"], frame["item"], strict=True)
    values = zip(frame["successes"].tolist(), frame["trials"].tolist(), strict=True)
    result = dict(zip(keys, values, strict=True))
    assert len(result) == len(frame) == responses.n_observed
    return result


def assert_same(a: Responses, b: Responses) -> None:
    assert list(a.models) == list(b.models)
    pd.testing.assert_frame_equal(a.items, b.items)
    assert a.unevaluated == b.unevaluated
    assert (a.dense is None) == (b.dense is None)
    left, right = a.to_cells(), b.to_cells()
    for name in ("rows", "cols", "successes", "trials"):
        x, y = getattr(left, name), getattr(right, name)
        assert (x is None) == (y is None)
        if x is not None:
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
    assert a.fingerprint() == b.fingerprint()


def assert_sound(responses: Responses) -> None:
    """Check what every table promises, whatever it holds."""
    assert (responses.dense is None) != (responses.cells is None)
    assert responses.models.dtype == object
    assert list(responses.items.columns) == ["benchmark", "item", "trials"]
    assert responses.items["trials"].dtype == np.int64
    assert isinstance(responses.items.index, pd.RangeIndex)
    assert responses.density == responses.n_observed / max(np.prod(responses.shape), 1)
    if responses.dense is not None:
        assert responses.dense.dtype == np.int8
        assert responses.dense.shape == responses.shape
        assert responses.dense.flags.c_contiguous
        assert responses.is_binary
        assert responses.density >= 0.2
    cells = responses.to_cells()
    assert cells.rows.dtype == cells.cols.dtype == np.int32
    flat = cells.rows.astype(int) * responses.n_items + cells.cols
    assert (np.diff(flat) > 0).all()
    if responses.is_binary:
        assert cells.successes.dtype == np.int8
        assert cells.trials is None
        assert set(cells.successes.tolist()) <= {0, 1}
        assert responses.dense is not None or responses.density < 0.2
    else:
        assert cells.successes.dtype == np.float32
        trials = 1 if cells.trials is None else cells.trials
        assert (cells.successes <= trials).all()
        if cells.trials is not None:
            assert cells.trials.dtype == np.float32
            assert (cells.trials != 1).any()


def random_table(density: float, n_models: int = 30, n_items: int = 20) -> Responses:
    rng = np.random.default_rng(7)
    values = rng.integers(0, 2, (n_models, n_items)).astype(float)
    values[rng.random(values.shape) > density] = np.nan
    values[np.arange(n_models), np.arange(n_models) % n_items] = 1
    columns = [f"b{j % 3}:q{j}" for j in range(n_items)]
    return responses_from_frame(
        pd.DataFrame(values, columns=columns).assign(model=[f"m{i}" for i in range(n_models)])
    )


def random_counts() -> Responses:
    rng = np.random.default_rng(8)
    trials = rng.integers(1, 50, 60)
    frame = pd.DataFrame(
        {
            "model": np.repeat([f"m{i}" for i in range(20)], 3),
            "benchmark": np.tile(["x", "y", "z"], 20),
            "successes": rng.integers(0, trials + 1),
            "trials": trials,
        }
    )
    return responses_from_frame(frame.sample(frac=0.8, random_state=1))


TABLES = {
    "dense": lambda: random_table(0.6),
    "sparse": lambda: random_table(0.05),
    "counts": random_counts,
}


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 400
    return line
