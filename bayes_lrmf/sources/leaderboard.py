"""The Open LLM Leaderboard v2 as its table was published: results, models and roots."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from bayes_lrmf.checks import InputError, nearest
from bayes_lrmf.lineage import read_aliases
from bayes_lrmf.tables import Table, read_table

__all__ = ["BENCHMARKS", "Benchmark", "Leaderboard", "read_leaderboard"]

_KEY = "fullname"
_PRECISIONS = ("bfloat16", "float16")
# A sum of some dozen shares in double precision, times the steps of BBH.
_ROUNDING = 0.01


@dataclass(frozen=True)
class Benchmark:
    """What a published share is made of.

    Attributes
    ----------
    questions : int
        Questions of a full run, which are the trials.
    steps : int
        A full run gives a whole number of steps of 1 / `steps`.
    shown_as : str
        What the share is, if it is not that of questions answered right.
    """

    questions: int
    steps: int
    shown_as: str = ""


# IFEval: the mean of shares of 541 prompts and of the 834 instructions in them. BBH: of 24 tasks,
# 21 of 250 questions and those of 187, 178 and 146. MuSR: of tasks of 250, 256 and 250.
BENCHMARKS = {
    "IFEval": Benchmark(541, 2 * 541 * 834, "the mean of prompts and instructions obeyed"),
    "BBH": Benchmark(5_761, 24 * 303_734_750, "the mean over 24 tasks of 146 to 250 questions"),
    "MATH Lvl 5": Benchmark(1_324, 1_324),
    "GPQA": Benchmark(1_192, 1_192),
    "MUSR": Benchmark(756, 3 * 32_000, "the mean over 3 tasks of 250 or 256 questions"),
    "MMLU-PRO": Benchmark(12_032, 12_032),
}
_FEATURES = {
    "params_b": "#Params (B)",
    "type": "Type",
    "architecture": "Architecture",
    "precision": "Precision",
    "weight_type": "Weight type",
    "moe": "MoE",
    "merged": "Merged",
    "chat_template": "Chat Template",
    "official": "Official Providers",
    "generation": "Generation",
    "date": "Upload To Hub Date",
    "submission_date": "Submission Date",
}
_TEXTS = (_KEY, "Precision", "Type", "Weight type", "Architecture", "Base Model")


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """What the table says, a row for each model.

    Attributes
    ----------
    responses : DataFrame
        ``model, benchmark, successes, trials``, as `read_responses` takes it.
    models : DataFrame
        ``model, params_b, type, architecture, precision, date`` and more where the table has them,
        as `read_features` takes it.
    lineage : DataFrame
        ``child, parent, relation``, as `read_lineage` takes it. The base model of the table is the
        root of a chain, so every relation is ``ancestor``.
    notes : tuple of str
        What was left out or is not what it seems, and why.
    renamed : mapping
        Names of models in the table -> as the alias table has them.
    """

    responses: pd.DataFrame
    models: pd.DataFrame
    lineage: pd.DataFrame
    notes: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)


def read_leaderboard(
    path: str | os.PathLike[str], *, keep_flagged: bool = False, aliases: Any = None
) -> Leaderboard:
    """Read the table of the Open LLM Leaderboard v2.

    The columns called Raw hold shares from 0 to 1. Those of MATH Lvl 5, GPQA and MMLU-PRO are
    shares of questions answered right. That of IFEval is the mean of the shares of prompts and of
    instructions obeyed, those of BBH and MuSR are means over tasks of nearly equal size: successes
    are the share times the questions of a full run (541, 5,761 and 756), rounded. As a mean over
    tasks varies little more than a share, and that of prompts and instructions a little less, these
    trials are close to what the share is worth; the 1,192 of GPQA are worth less, as its questions
    stand in up to three of its subsets.

    A share that no full run could give is left out, and all of a row with several. Of several rows
    of a model the one with most results is kept, of these bfloat16 before float16 before others,
    then the first.

    Parameters
    ----------
    path : str or path-like
        A file named .csv, .csv.gz, .parquet or .pq, with ``fullname`` and the Raw columns.
    keep_flagged : bool
        Whether to keep models that the leaderboard flagged.
    aliases : path, DataFrame or mapping, optional
        Other names of models, as `read_lineage` takes them.

    Raises
    ------
    InputError
        If the file cannot be read, a column is missing, a share is outside 0..1, or no row is left.
    """
    table = read_table(path, key=_KEY, text=_TEXTS, what="leaderboard table")
    _check_columns(table)
    given, found, _ = table.names(_KEY)
    called = read_aliases(aliases)
    renamed = {name: called[name] for name in found if called.get(name, name) != name}
    merged, unique = pd.factorize(np.array([called.get(n, n) for n in found], dtype=object))
    codes, names = merged[given], list(unique)
    shares = pd.DataFrame({b: _share(table, f"{b} Raw") for b in BENCHMARKS})
    notes: list[str] = []
    keep = np.ones(len(codes), bool)
    if "Flagged" in table.frame and not keep_flagged:
        flagged = _yes(table, "Flagged")
        _note(notes, flagged, codes, names, "flagged by the leaderboard, left out")
        keep &= ~flagged
    n_empty = int(shares[keep].isna().to_numpy().sum())
    if n_empty:
        notes.append(f"{n_empty:,} shares are missing")
    shares = _without_part_runs(shares, keep, codes, names, notes)
    keep &= shares.notna().any(axis=1).to_numpy()
    keep = _one_row_each(table, shares, codes, keep, notes)
    if not keep.any():
        raise InputError(
            "no row holds a full run",
            where=table.name,
            fix="give the table as it was published, its shares unrounded",
        )
    model = np.array(names, dtype=object)[codes][keep]
    shares = shares[keep].reset_index(drop=True)
    for name, benchmark in BENCHMARKS.items():
        if benchmark.shown_as:
            steps = shares[name].dropna() * benchmark.questions
            n_off = int(((steps - steps.round()).abs() > _ROUNDING).sum())
            notes.append(
                f"{name} is {benchmark.shown_as}; {n_off:,} of {len(steps):,} rounded to whole "
                f"successes in {benchmark.questions:,} trials"
            )
    edges = _lineage(table, keep, model, called, notes)
    features = _models(table, keep, model)
    return Leaderboard(_counts(model, shares), features, edges, tuple(notes), renamed)


def _check_columns(table: Table) -> None:
    columns = [str(c) for c in table.frame.columns]
    for column in (_KEY, *(f"{b} Raw" for b in BENCHMARKS)):
        if column not in columns:
            close = nearest(column, columns)
            raise InputError(
                f"no column {column!r}",
                where=table.name,
                fix=f"rename {close!r}" if close else "give the table of Open LLM Leaderboard v2",
            )


def _share(table: Table, column: str) -> np.ndarray:
    values = table.numbers(column, valid="a share from 0 to 1")
    bad = ~np.isnan(values) & ~((values >= 0) & (values <= 1))
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f"{values[row]:g} is outside [0, 1]",
            where=table.place(row, column=column),
            fix="give the share that the leaderboard calls Raw",
        )
    return values


def _yes(table: Table, column: str) -> np.ndarray:
    return np.nan_to_num(table.numbers(column, valid="True or False")) > 0


def _without_part_runs(
    shares: pd.DataFrame, keep: np.ndarray, codes: np.ndarray, names: list[str], notes: list[str]
) -> pd.DataFrame:
    """Return the shares, empty where no run of all questions could give them."""
    off = np.zeros(shares.shape, bool)
    for at, benchmark in enumerate(BENCHMARKS.values()):
        steps = shares.iloc[:, at].to_numpy() * benchmark.steps
        off[:, at] = np.abs(steps - np.round(steps)) > _ROUNDING
    n_off = off.sum(axis=1)
    _note(
        notes,
        keep & (n_off == 1),
        codes,
        names,
        "with a share that no full run gives, which is left out",
    )
    _note(notes, keep & (n_off > 1), codes, names, "with several such shares, left out")
    # Several mean that the run was limited, and a limited run may give a good share by chance.
    off[n_off > 1] = True
    return shares.mask(off)


def _one_row_each(
    table: Table, shares: pd.DataFrame, codes: np.ndarray, keep: np.ndarray, notes: list[str]
) -> np.ndarray:
    rank = np.full(len(codes), len(_PRECISIONS))
    if "Precision" in table.frame:
        given = table.frame["Precision"].astype(object).map(str).str.strip()
        for at, precision in enumerate(_PRECISIONS):
            rank[(given == precision).to_numpy()] = at
    order = pd.DataFrame({"code": codes, "empty": shares.isna().sum(axis=1), "rank": rank})[keep]
    first = order.sort_values(["empty", "rank"], kind="stable").drop_duplicates("code").index
    n_again = len(order) - len(first)
    if n_again:
        notes.append(
            f"{n_again:,} further rows of models in other precisions or revisions left out; most "
            "results, then bfloat16, float16, others, then the first row kept"
        )
    found = np.zeros(len(codes), bool)
    found[first.to_numpy()] = True
    return found


def _note(
    notes: list[str], rows: np.ndarray, codes: np.ndarray, names: Iterable[str], what: str
) -> None:
    n = int(rows.sum())
    if n:
        known = list(names)
        some = [known[code] for code in dict.fromkeys(codes[rows].tolist())]
        shown = ", ".join(some[:3]) + (", ..." if len(some) > 3 else "")
        notes.append(f"{n:,} row{'s' if n > 1 else ''} {what} ({shown})")


def _counts(model: np.ndarray, shares: pd.DataFrame) -> pd.DataFrame:
    long = shares.assign(model=model).melt("model", var_name="benchmark", value_name="share")
    long = long.dropna(subset="share")
    trials = long["benchmark"].map({name: b.questions for name, b in BENCHMARKS.items()})
    successes = (long["share"] * trials).round().astype(np.int64)
    counts = long.assign(successes=successes, trials=trials.astype(np.int64))
    return counts.drop(columns="share").reset_index(drop=True)


def _models(table: Table, keep: np.ndarray, model: np.ndarray) -> pd.DataFrame:
    frame = table.frame[keep].reset_index(drop=True)
    found = {"model": pd.Series(model)}
    for name, column in _FEATURES.items():
        if column in frame:
            found[name] = frame[column]
    if "params_b" in found:
        # The leaderboard writes -1 where it does not know.
        values = table.numbers(_FEATURES["params_b"], valid="a number of billions")[keep]
        found["params_b"] = pd.Series(np.where(values > 0, values, np.nan))
    if "type" in found:
        texts = found["type"].astype(object).where(found["type"].notna(), "").map(str)
        found["type"] = texts.str.replace(r"^[^\w(]+", "", regex=True).str.strip()
    return pd.DataFrame(found)


def _lineage(
    table: Table, keep: np.ndarray, model: np.ndarray, called: Mapping[str, str], notes: list[str]
) -> pd.DataFrame:
    empty = pd.DataFrame({"child": [], "parent": [], "relation": []}, dtype=object)
    if "Base Model" not in table.frame:
        return empty
    given = table.frame["Base Model"][keep].astype(object)
    base = given.where(given.notna(), "").map(str).str.strip()
    merged = base.str.endswith("(Merge)").to_numpy()
    plain = base.str.removesuffix("(Merge)").str.strip()
    root = plain.map(lambda name: called.get(name, name)).to_numpy(object)
    if merged.any():
        notes.append(f"merges whose parents the table does not name: {int(merged.sum()):,}")
    removed = root == "Removed"
    if removed.any():
        notes.append(f"base models that were removed from the Hub: {int(removed.sum()):,}")
    own = np.array([a.casefold() == b.casefold() for a, b in zip(root, model, strict=True)])
    keep_edge = ~own & ~removed & (root != "")
    edges = pd.DataFrame({"child": model[keep_edge], "parent": root[keep_edge]})
    if len(edges) == 0:
        return empty
    return edges.assign(relation="ancestor")
