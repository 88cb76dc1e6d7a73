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
        earlier item. Items without a positive cosine are never joined.

    Returns
    -------
    csr_array, shape (n_items, n_items)
    """
    k = whole_number(k, name="k")
    unit = _unit_rows(embeddings)
    n = unit.shape[0]
    starts, ends = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, n, _BLOCK):
        product: Any = unit[start : start + _BLOCK] @ unit.T
        # Rounding makes equals differ in the last bits, and ties must not hang on that.
        close = np.round(product.toarray() if hasattr(product, "toarray") else product, 12)
        at = np.arange(len(close))
        close[at, start + at] = 0
        worst = -np.partition(-close, min(k, n) - 1, axis=1)[:, min(k, n) - 1]
        for i, row in enumerate(close):
            near = np.flatnonzero((row >= worst[i]) & (row > 0))
            near = near[np.argsort(-row[near], kind="stable")[:k]]
            starts.append(np.full(len(near), start + i))
            ends.append(near)
    rows, cols = np.concatenate(starts), np.concatenate(ends)
    one_way = sp.coo_array((np.ones(len(rows)), (rows, cols)), shape=(n, n))
    return sp.csr_array(((one_way + one_way.T) > 0).astype(np.float64))


def _unit_rows(embeddings: Any) -> Any:
    sparse: bool = sp.issparse(embeddings)
    if sparse:
        rows: Any = sp.csr_array(embeddings, dtype=np.float64)
        norm = np.sqrt(rows.multiply(rows).sum(axis=1))
        return sp.csr_array(sp.diags_array(1 / np.where(norm > 0, norm, 1)) @ rows)
    dense = np.asarray(embeddings, np.float64)
    length = np.linalg.norm(dense, axis=1, keepdims=True)
    return dense / np.where(length > 0, length, 1)


def text_graph(texts: list[str], *, k: int = 10) -> sp.csr_array:
    """Return the `knn_graph` of TF-IDF vectors of item texts; an empty text has no neighbours.

    Weights are ``(1 + log tf) log((1 + n) / (1 + df))`` (Spaerck Jones 1972): a word of every
    text, such as one of a prompt that all items share, weighs nothing.

    Parameters
    ----------
    texts : list of str, length n_items
    k : int

    Returns
    -------
    csr_array, shape (n_items, n_items)

    Raises
    ------
    InputError
        If scikit-learn is not installed.
    """
    try:
        from sklearn.feature_extraction.text import CountVectorizer
    except ImportError as error:
        raise InputError(
            "item text needs scikit-learn", fix="pip install 'bayes-lrmf[text]'"
        ) from error
    # Single characters count: they are the numbers and the variables of mathematical items.
    vectorizer = CountVectorizer(token_pattern=r"(?u)\b\w+\b")
    analyse = vectorizer.build_analyzer()
    if not any(analyse(text) for text in texts):
        return sp.csr_array((len(texts), len(texts)))
    counts: Any = sp.csr_array(vectorizer.fit_transform(texts), dtype=np.float64)
    rarity = np.log((1 + len(texts)) / (1 + np.bincount(counts.indices, minlength=counts.shape[1])))
    counts.data = 1 + np.log(counts.data)
    return knn_graph(sp.csr_array(counts @ sp.diags_array(rarity)), k=k)


def read_item_texts(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table of items: ``item_id`` (benchmark:item) or ``benchmark, item``, and features.

    Features are a column ``prompt`` or ``text``, or numeric columns (an embedding).

    Parameters
    ----------
    path : str or path-like
        A file named .csv, .csv.gz, .parquet or .pq.

    Raises
    ------
    InputError
        If the file cannot be read, or its columns do not name the items.
    """
    text = ("item_id", "benchmark", "item", *_TEXT_COLUMNS)
    table = read_table(path, key="item_id", text=text, what="items table")
    frame = table.frame
    if "item_id" not in frame:
        if not {"benchmark", "item"} <= set(frame.columns):
            raise InputError(
                "no column 'item_id'", where=str(path), fix="name items as benchmark:item"
            )
        benchmark, item = (frame[name].astype(str) for name in ("benchmark", "item"))
        frame = frame.assign(item_id=benchmark + ":" + item)
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

    Returns
    -------
    graph : csr_array, shape (n_items, n_items)
    note : str
        How many items matched, and by what.

    Raises
    ------
    InputError
        If the table knows none of the items, has neither text nor numbers, or lacks a number.
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
    values = numbers.to_numpy(float)
    matched = names.isin(set(table["item_id"])).to_numpy()
    lacking = matched & ~np.isfinite(values).all(axis=1)
    if lacking.any():
        raise InputError(
            f"item {names[lacking.argmax()]} lacks a number of its embedding",
            fix="give every item all of them, or leave the item out",
        )
    return knn_graph(np.where(matched[:, None], values, 0), k=k), f"{note}; embeddings"
