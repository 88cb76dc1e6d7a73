"""The real tools, from a plan to the table of what they ran."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bayes_lrmf.handover import write_hand_over
from bayes_lrmf.sources.every_eval_ever import read_every_eval_ever
from bayes_lrmf.sources.inspect_ai_logs import read_inspect
from bayes_lrmf.sources.lm_eval import read_lm_eval

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
TOY_TASKS = Path(__file__).parent / "data" / "toy_tasks.py"
CHOOSE = """task: sums
dataset_path: json
dataset_kwargs:
  data_files:
    test: {questions}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
"""
TELL = """task: sums_told
dataset_path: json
dataset_kwargs:
  data_files:
    test: {questions}
output_type: generate_until
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs:
  until: ["\\n"]
metric_list:
  - metric: exact_match
filter_list:
  - name: flexible-extract
    filter:
      - function: regex
        regex_pattern: "(-?[0-9]+)"
      - function: take_first
  - name: strict-match
    filter:
      - function: regex
        regex_pattern: "#### ([0-9]+)"
      - function: take_first
"""


def tool(name: str) -> str:
    """Return the path of a tool, beside Python, in $BAYES_LRMF_TOOLS or on PATH; or skip."""
    beside = os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("BAYES_LRMF_TOOLS", "")]
    )
    found = shutil.which(name, path=beside) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed (or name its folder in BAYES_LRMF_TOOLS)")
    return found


def call(*command: object, folder: Path) -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    # The tools may live in another environment than this package.
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(c) for c in command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture
def tasks(tmp_path) -> Path:
    questions = tmp_path / "questions.json"
    rows = [
        {
            "question": f"What is {i} plus {i}?",
            "choices": [str(2 * i), str(2 * i + 1), str(i * 3 + 5)],
            "answer": 0,
        }
        for i in range(1, 9)
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    for name, text in (("sums", CHOOSE), ("sums_told", TELL)):
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text.format(questions=questions))
    return tmp_path


def lm_eval(tasks: Path, *options: object, model: str = "org/alpha") -> None:
    call(
        tool("lm_eval"), "run", "--model", "dummy", "--model_args", f"pretrained={model}",
        "--include_path", "tasks", "--output_path", "out", *options, folder=tasks,
    )  # fmt: skip


def plan_of(model: str, *runs: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame([(model, *run) for run in runs], columns=["model", "benchmark", "item"])


def test_a_run_of_lm_eval_is_what_it_reports(tasks):
    lm_eval(tasks, "--tasks", "sums,sums_told", "--log_samples")
    imported = read_lm_eval(tasks / "out", metric={"sums": "acc"})
    [file] = tasks.rglob("results_*.json")
    reported = json.loads(file.read_text())["results"]
    means = imported.responses.groupby("benchmark")["response"].mean()
    assert means["sums"] == reported["sums"]["acc,none"]
    assert means["sums_told"] == reported["sums_told"]["exact_match,strict-match"]
    assert (imported.responses["model"] == "org/alpha").all()
    assert len(imported.responses) == 16
    # The same run without its samples.
    for samples in tasks.rglob("samples_*"):
        samples.unlink()
    counts = read_lm_eval(tasks / "out", metric={"sums": "acc"}).counts.set_index("benchmark")
    assert (counts["trials"] == 8).all()
    assert counts["successes"]["sums"] == 8 * means["sums"]


def test_a_run_that_every_eval_ever_converted_is_the_run(tasks):
    lm_eval(tasks, "--tasks", "sums_told", "--log_samples")
    call(
        tool("every_eval_ever"), "convert", "lm_eval", "--log_path", "out", "--output_dir", "data",
        "--source_organization_name", "toy", "--include_samples", folder=tasks,
    )  # fmt: skip
    converted, own = read_every_eval_ever(tasks / "data"), read_lm_eval(tasks / "out")
    pd.testing.assert_frame_equal(converted.responses, own.responses)


def test_lm_eval_runs_the_items_of_a_plan_and_they_come_back(tasks):
    plan = plan_of("org/alpha", ("sums", "6"), ("sums_told", "0"), ("sums", "2"), ("sums", "3"))
    [(_, file)] = write_hand_over(plan, str(tasks / "plan.json"), "lm-eval")
    lm_eval(tasks, "--tasks", "sums,sums_told", "--samples", file, "--log_samples")
    got = read_lm_eval(tasks / "out").responses
    columns = ["model", "benchmark", "item"]
    assert set(map(tuple, got[columns].to_numpy())) == set(map(tuple, plan[columns].to_numpy()))
    assert len(got) == len(plan)
    # A second plan adds to the first.
    again = plan_of("org/alpha", ("sums", "3"), ("sums", "7"))
    [(_, file)] = write_hand_over(again, str(tasks / "again.json"), "lm-eval")
    lm_eval(tasks, "--tasks", "sums", "--samples", file, "--log_samples")
    imported = read_lm_eval(tasks / "out")
    assert set(imported.responses.query("benchmark == 'sums'")["item"]) == {"2", "3", "6", "7"}
    assert any("1 overlapping item" in note for note in imported.notes)


def test_inspect_runs_the_items_of_a_plan_and_they_come_back(tmp_path):
    pytest.importorskip("inspect_ai", reason="inspect-ai is not installed")
    shutil.copy(TOY_TASKS, tmp_path)
    plan = plan_of("toy/loud", ("words", "w1"), ("again", "w0"), ("words", "w4"))
    [(_, file)] = write_hand_over(plan, str(tmp_path / "plan.txt"), "inspect")
    ids = file.read_text().strip()
    call(
        tool("inspect"), "eval", TOY_TASKS.name, "-T", "who=loud", "--sample-id", ids,
        "--log-dir", "logs", "--display", "none", folder=tmp_path,
    )  # fmt: skip
    got = read_inspect(tmp_path / "logs").responses
    columns = ["model", "benchmark", "item"]
    assert set(map(tuple, got[columns].to_numpy())) == set(map(tuple, plan[columns].to_numpy()))
    assert len(got) == len(plan)
    assert got.set_index(["benchmark", "item"])["response"].to_dict() == {
        ("words", "w1"): 1,
        ("words", "w4"): 0,
        ("again", "w0"): 0,
    }


def test_from_two_models_to_a_report_in_three_commands(tasks):
    """Import, fit, report: each as its own process, from what the real tool wrote."""
    for model in ("org/alpha", "org/beta"):
        lm_eval(tasks, "--tasks", "sums,sums_told", "--log_samples", model=model)
    command = [sys.executable, "-m", "bayes_lrmf"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for arguments, code in (
        (["import", "lm-eval", "out", "-o", "results.csv"], (0,)),
        (["fit", "results.csv", "-o", "fit.nc"], (0, 3)),
        (["report", "fit.nc", "-o", "report.html"], (0,)),
    ):
        done = subprocess.run(
            [*command, *arguments],
            cwd=tasks,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in code, done.stderr
    page = (tasks / "report.html").read_text(encoding="utf-8")
    assert "org/alpha" in page
    assert "org/beta" in page
    assert "sums_told" in page
