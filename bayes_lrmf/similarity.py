"""Item-similarity graphs: nearest neighbours by item text or by embeddings."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from bayes_lrmf.checks import InputError, whole_number
from bayes_lrmf.tables import read_table

__all__ = ["item_graph", "knn_graph", "read_item_texts", "text_graph"]

_BLOCK = 1024
_TEXT_COLUMNS = ("prompt", "text")


def knn_graph(embeddings: Any, *, k: int = 10) -> sp.csr_array:
    """Return the symmetric 0/1 graph of k nearest neighbours by cosine.

    Parameters
    ----------
    embeddings : dense or sparse array, shape (n_items, n_features)
        A row of zeros has no neighbours.
    k : int
        Two items are joined when either is among the k nearest of the other; ties go to the
        earlier item.

    Returns
    -------
    csr_array, shape (n_items, n_items)
    """
    k = whole_number(k, name="k")
    rows = sp.csr_array(embeddings, dtype=np.float64)
    norm = np.sqrt(rows.multiply(rows).sum(axis=1))
    unit = sp.csr_array(sp.diags_array(1 / np.where(norm > 0, norm, 1)) @ rows)
    n = rows.shape[0]
    pairs = []
    for start in range(0, n, _BLOCK):
        close = (unit[start : start + _BLOCK] @ unit.T).toarray()
        at = np.arange(len(close))
        close[at, start + at] = -np.inf
        close[:, norm == 0] = -np.inf
        # Rounding makes equals differ in the last bits, and ties must not hang on that.
        order = np.argsort(-np.round(close, 12), axis=1, kind="stable")[:, :k]
        near = np.take_along_axis(close, order, axis=1)
        keep = np.isfinite(near) & (norm[start : start + _BLOCK, None] > 0)
        pairs.append(np.column_stack([np.repeat(start + at, keep.sum(1)), order[keep]]))
    joined = np.concatenate(pairs) if pairs else np.empty((0, 2), int)
    one_way = sp.coo_array((np.ones(len(joined)), (joined[:, 0], joined[:, 1])), shape=(n, n))
    return sp.csr_array(((one_way + one_way.T) > 0).astype(np.float64))


def text_graph(texts: list[str], *, k: int = 10) -> sp.csr_array:
    """Return the `knn_graph` of TF-IDF vectors of item texts; an empty text has no neighbours.

    Raises
    ------
    InputError
        If scikit-learn is not installed.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise InputError(
            "item text needs scikit-learn", fix="pip install 'bayes-lrmf[text]'"
        ) from error
    if not any(text.strip() for text in texts):
        return sp.csr_array((len(texts), len(texts)))
    return knn_graph(TfidfVectorizer(sublinear_tf=True).fit_transform(texts), k=k)


def read_item_texts(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table of items: ``item_id`` (benchmark:item) or ``benchmark, item``, and features.

    Features are a column ``prompt`` or ``text``, or numeric columns (an embedding).
    """
    text = ("item_id", "benchmark", "item", *_TEXT_COLUMNS)
    table = read_table(path, key="item_id", text=text, what="items table")
    frame = table.frame
    if "item_id" not in frame:
        if not {"benchmark", "item"} <= set(frame.columns):
            raise InputError(
                "no column 'item_id'", where=str(path), fix="name items as benchmark:item"
            )
        frame = frame.assign(item_id=frame["benchmark"] + ":" + frame["item"])
    return frame


def item_graph(
    items: pd.DataFrame, table: pd.DataFrame, *, k: int = 10
) -> tuple[sp.csr_array, str]:
    """Return the similarity graph of `items`, and how many of them the table knows.

    Parameters
    ----------
    items : DataFrame
        Columns benchmark and item: the columns of the responses, in their order.
    table : DataFrame
        From `read_item_texts`.
    k : int

    Raises
    ------
    InputError
        If the table knows none of the items, or has neither text nor numbers.
    """
    names = items["benchmark"].astype(str) + ":" + items["item"].astype(str)
    known = table.drop_duplicates("item_id").set_index("item_id").reindex(names)
    n_known = int(names.isin(set(table["item_id"])).sum())
    if not n_known:
        raise InputError("the items table knows none of the items", fix="name them benchmark:item")
    note = f"{n_known:,} of {len(items):,} items matched"
    for column in _TEXT_COLUMNS:
        if column in known:
            texts = known[column].astype(object).where(known[column].notna(), "")
            return text_graph([str(t) for t in texts], k=k), f"{note}; TF-IDF of {column}"
    numbers = known.select_dtypes("number")
    if not numbers.shape[1]:
        raise InputError("the items table has no text", fix="add a column prompt or embeddings")
    return knn_graph(np.nan_to_num(numbers.to_numpy(float)), k=k), f"{note}; embeddings"
