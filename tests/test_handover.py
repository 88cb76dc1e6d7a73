"""Plans as files for those who run them."""

from __future__ import annotations

import json

import jax
import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.handover import expanded, inspect_ids, lm_eval_samples, write_hand_over
from bayes_lrmf.plan import make_plan


@pytest.fixture
def plan():
    return pd.DataFrame(
        {
            "model": ["org/a", "org/b", "org/a", "org/a"],
            "benchmark": ["arc_easy", "arc_easy", "gsm8k", "arc_easy"],
            "item": ["10", "3", "0", "2"],
            "gain": [4.0, 3.0, 2.0, 1.0],
            "reason": ["", "", "", ""],
            "rank": [1, 2, 3, 4],
        }
    )


def test_a_plan_of_one_model_is_what_lm_eval_takes(plan, tmp_path):
    target = tmp_path / "plan.json"
    one = plan[plan["model"] == "org/a"]
    assert write_hand_over(one, str(target), "lm-eval") == [("org/a", target)]
    assert json.loads(target.read_text()) == {"arc_easy": [2, 10], "gsm8k": [0]}


def test_several_models_have_a_file_each(plan, tmp_path):
    twins = pd.concat([plan, plan.assign(model=plan["model"].str.replace("/", "__"))])
    written = dict(write_hand_over(twins, str(tmp_path / "plan.json"), "lm-eval"))
    names = ["plan.org__a.json", "plan.org__a_.json", "plan.org__b.json", "plan.org__b_.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert json.loads(written["org/b"].read_text()) == {"arc_easy": [3]}
    assert len(set(written.values())) == 4


def test_inspect_takes_ids_with_their_task(plan, tmp_path):
    assert inspect_ids(plan)["org/a"] == "arc_easy:10,gsm8k:0,arc_easy:2"
    target = tmp_path / "ids.txt"
    write_hand_over(plan[:1], str(target), "inspect")
    assert target.read_text() == "arc_easy:10\n"


@pytest.mark.parametrize("item", ["q12", "1.0", "-1", "", chr(0x661)])
def test_items_that_are_no_documents_are_refused(plan, item, tmp_path):
    plan.loc[1, "item"] = item
    with pytest.raises(InputError, match="no index of a document"):
        lm_eval_samples(plan)
    with pytest.raises(InputError):
        write_hand_over(plan, str(tmp_path / "x.json"), "lm-eval")
    assert not list(tmp_path.iterdir())


def test_commas_and_empty_plans_are_refused(plan, tmp_path):
    plan.loc[1, "item"] = "a,b"
    with pytest.raises(InputError, match="has a comma"):
        inspect_ids(plan)
    with pytest.raises(InputError, match="plan is empty"):
        write_hand_over(plan[:0], str(tmp_path / "x.txt"), "inspect")


def test_a_whole_benchmark_becomes_its_items_that_were_not_run(kin_fit):
    design = kin_fit.design
    models = list(design.responses.models[:4])
    plan = make_plan(
        kin_fit, key=jax.random.key(0), budget=40, models=models, whole_benchmarks=True
    )
    assert (plan["item"] == "").all()
    full = expanded(plan, design)
    assert list(full.columns) == list(plan.columns)
    for (model, benchmark), part in full.groupby(["model", "benchmark"]):
        trials = design.responses.matrices([model])[1][0]
        here = (design.items["benchmark"] == benchmark).to_numpy()
        left = design.items["item"].to_numpy()[here & (trials == 0)]
        np.testing.assert_array_equal(np.sort(part["item"]), np.sort(left))
    items = make_plan(kin_fit, key=jax.random.key(0), budget=3, models=models)
    assert expanded(items, design) is items
