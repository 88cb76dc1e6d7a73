"""A plan in the words of those who run it: lm-evaluation-harness and Inspect."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd

from bayes_lrmf.checks import InputError
from bayes_lrmf.design import Design
from bayes_lrmf.files import written_whole

__all__ = ["FORMATS", "expanded", "inspect_ids", "lm_eval_samples", "write_hand_over"]

FORMATS = ("lm-eval", "inspect")


def expanded(plan: pd.DataFrame, design: Design) -> pd.DataFrame:
    """Return a plan with a row for every item: those of a whole benchmark that were not run.

    Parameters
    ----------
    plan : DataFrame
        From `make_plan`.
    design : Design
        Of the posterior that it was made from.
    """
    whole = plan["item"].isna() | (plan["item"].astype(str) == "")
    if not whole.any():
        return plan
    parts = []
    for line, is_whole in zip(plan.to_dict("records"), whole, strict=True):
        if not is_whole:
            parts.append(pd.DataFrame([line]))
            continue
        trials = design.responses.matrices([line["model"]])[1][0]
        left = design.items[(design.items["benchmark"] == line["benchmark"]) & (trials == 0)]
        parts.append(pd.DataFrame([line]).drop(columns="item").merge(left["item"], how="cross"))
    return pd.concat(parts, ignore_index=True)[list(plan.columns)]


def lm_eval_samples(plan: pd.DataFrame) -> dict[str, dict[str, list[int]]]:
    """Return by model what ``lm_eval --samples`` takes: documents by task, sorted.

    Benchmarks are tasks, and items are indices of documents, as ``doc_id`` in its sample files.

    Parameters
    ----------
    plan : DataFrame
        `expanded`.

    Raises
    ------
    InputError
        For an item that is no whole number.
    """
    found: dict[str, dict[str, list[int]]] = {}
    for model, task, item in zip(plan["model"], plan["benchmark"], plan["item"], strict=True):
        if not re.fullmatch(r"\d+", str(item), re.ASCII):
            raise InputError(
                f"item {task}:{item} is no index of a document",
                where="lm-eval",
                fix="name items by their doc_id in the responses, or hand over the CSV",
            )
        found.setdefault(str(model), {}).setdefault(str(task), []).append(int(item))
    return {
        model: {task: sorted(docs) for task, docs in tasks.items()}
        for model, tasks in found.items()
    }


def inspect_ids(plan: pd.DataFrame) -> dict[str, str]:
    """Return by model what ``inspect eval --sample-id`` takes: ``task:id,task:id``.

    Parameters
    ----------
    plan : DataFrame
        `expanded`.

    Raises
    ------
    InputError
        For an item with a comma, which separates items there.
    """
    found: dict[str, list[str]] = {}
    for model, task, item in zip(plan["model"], plan["benchmark"], plan["item"], strict=True):
        if "," in f"{task}{item}":
            raise InputError(
                f"item {task}:{item} has a comma", where="inspect", fix="hand over the CSV"
            )
        found.setdefault(str(model), []).append(f"{task}:{item}")
    return {model: ",".join(ids) for model, ids in found.items()}


def write_hand_over(plan: pd.DataFrame, path: str, form: str) -> list[tuple[str, Path]]:
    """Write what one run takes: to `path` for a plan of one model, else to a file for each.

    The file of a model has its name before the suffix, with ``__`` for a slash.

    Parameters
    ----------
    plan : DataFrame
        `expanded`.
    path : str
    form : {"lm-eval", "inspect"}

    Returns
    -------
    list of (model, path)

    Raises
    ------
    InputError
        For items that the format cannot name, or an empty plan.
    """
    if plan.empty:
        raise InputError("the plan is empty", where=path, fix="there is nothing to run")
    if form == "lm-eval":
        texts = {m: json.dumps(s, indent=1) + "\n" for m, s in lm_eval_samples(plan).items()}
    else:
        texts = {m: ids + "\n" for m, ids in inspect_ids(plan).items()}
    target = Path(path)
    written, used = [], set()
    for model, text in texts.items():
        place = target
        if len(texts) > 1:
            stem = re.sub(r"[^\w.\-]+", "_", model.replace("/", "__"))
            while stem.casefold() in used:
                stem += "_"
            used.add(stem.casefold())
            place = target.with_name(f"{target.stem}.{stem}{target.suffix}")
        with written_whole(place) as temporary:
            temporary.write_text(text, encoding="utf-8")
        written.append((model, place))
    return written
