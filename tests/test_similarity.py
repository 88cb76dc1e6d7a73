"""Nearest-neighbour graphs against brute force."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from bayes_lrmf import similarity
from bayes_lrmf.checks import InputError
from bayes_lrmf.similarity import item_graph, knn_graph, read_item_texts, text_graph


def brute_force(x, k):
    n = len(x)
    joined = np.zeros((n, n))
    for i in range(n):
        if not x[i].any():
            continue
        cosines = [
            (-(x[i] @ x[j]) / np.linalg.norm(x[i]) / np.linalg.norm(x[j]), j)
            for j in range(n)
            if j != i and x[j].any() and x[i] @ x[j] > 0
        ]
        for _, j in sorted(cosines)[:k]:
            joined[i, j] = joined[j, i] = 1
    return joined


@pytest.mark.parametrize("k", [1, 3, 50])
def test_equals_brute_force_in_blocks(rng, monkeypatch, k):
    monkeypatch.setattr(similarity, "_BLOCK", 7)
    x = rng.normal(size=(30, 4))
    x[4] = 0
    expected = brute_force(x, k)
    np.testing.assert_array_equal(knn_graph(x, k=k).toarray(), expected)
    np.testing.assert_array_equal(knn_graph(sp.csr_array(x), k=k).toarray(), expected)


def test_texts_alike_are_joined_and_empty_ones_alone():
    texts = ["a cat sat down", "a cat sat up", "prime numbers divide", "prime numbers add", ""]
    graph = text_graph(texts, k=1).toarray()
    assert graph[0, 1] == graph[2, 3] == 1
    assert graph[0, 2] == 0
    assert not graph[4].any()
    np.testing.assert_array_equal(graph, graph.T)


def test_items_without_a_shared_word_are_strangers():
    graph = text_graph(
        ["red apple", "red pear", "prime sum", "x + 1", "x + 2", "?!"], k=5
    ).toarray()
    expected = np.zeros((6, 6))
    expected[0, 1] = expected[1, 0] = expected[3, 4] = expected[4, 3] = 1
    np.testing.assert_array_equal(graph, expected)


def test_texts_without_words_have_no_neighbours():
    assert text_graph(["?", "!", ""]).nnz == 0


def test_a_prompt_that_all_share_weighs_nothing():
    prompt = "answer the question with care and think step by step " * 5
    own = ["red apple pie", "green apple tart", "prime number sum", "odd number product"]
    with_prompt = text_graph([prompt + text for text in own], k=1).toarray()
    np.testing.assert_array_equal(with_prompt, text_graph(own, k=1).toarray())
    assert with_prompt[0, 1] == with_prompt[2, 3] == 1


def test_embeddings_match_by_name_and_must_be_whole(tmp_path):
    items = pd.DataFrame({"benchmark": ["b"] * 4, "item": ["1", "2", "3", "4"]})
    table = pd.DataFrame({"item_id": ["b:4", "b:2", "b:1"], "e1": [1.0, 0, 1], "e2": [0.1, 1, 0]})
    graph, note = item_graph(items, table, k=1)
    assert "embeddings" in note
    assert graph[0, 3] == 1
    assert not graph[[2]].nnz
    table.loc[1, "e2"] = np.nan
    with pytest.raises(InputError, match="item b:2 lacks a number"):
        item_graph(items, table)


def test_item_table_is_matched_by_name(tmp_path):
    items = pd.DataFrame({"benchmark": ["b", "b", "b"], "item": ["1", "2", "3"]})
    path = tmp_path / "items.csv"
    path.write_text("item_id,prompt\nb:3,blue sky\nb:1,blue sky above\nx:9,other\n")
    graph, note = item_graph(items, read_item_texts(path), k=1)
    assert "2 of 3 items matched" in note
    assert graph[0, 2] == 1
    assert graph.sum() == 2
    columns = path.read_text().replace(":", ",").replace("item_id", "benchmark,item")
    for suffix in ("csv", "parquet"):
        other = tmp_path / f"columns.{suffix}"
        (tmp_path / "columns.csv").write_text(columns)
        if suffix == "parquet":
            pd.read_csv(tmp_path / "columns.csv").to_parquet(other)
        again, _ = item_graph(items, read_item_texts(other), k=1)
        assert (again != graph).nnz == 0


def test_tables_that_do_not_help_are_refused(tmp_path):
    items = pd.DataFrame({"benchmark": ["b"], "item": ["1"]})
    with pytest.raises(InputError, match="none of the items"):
        item_graph(items, pd.DataFrame({"item_id": ["c:1"], "prompt": ["x"]}))
    with pytest.raises(InputError, match="no text"):
        item_graph(items, pd.DataFrame({"item_id": ["b:1"]}))
    (tmp_path / "t.csv").write_text("name,prompt\na,b\n")
    with pytest.raises(InputError, match="item_id"):
        read_item_texts(tmp_path / "t.csv")


@pytest.mark.slow
def test_real_item_texts_match_the_table(data_dir):
    from bayes_lrmf.responses import read_responses

    responses = read_responses(data_dir / "oll_v1/responses.parquet")
    graph, note = item_graph(responses.items, read_item_texts(data_dir / "oll_v1/items.csv"))
    assert "1,075 of 1,480" in note
    assert graph.shape == (1480, 1480)
