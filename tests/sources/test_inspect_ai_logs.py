"""Logs of Inspect, as it wrote them, as tables."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.sources.inspect_ai_logs import read_inspect

LOGS = Path(__file__).parent / "data" / "inspect"


def test_without_inspect_the_message_says_what_to_install():
    # A module that is None cannot be imported, whether it is installed or not.
    code = (
        "import sys\n"
        "sys.modules['inspect_ai'] = None\n"
        "from bayes_lrmf.cli import main\n"
        f"main(['import', 'inspect', {str(LOGS)!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        "bayes-lrmf: Inspect is not installed; pip install 'bayes-lrmf[inspect]'\n"
    )


def test_missing_paths_and_other_files(tmp_path):
    for place, word in [
        (tmp_path / "none", "no such file or folder"),
        (tmp_path, "no logs of Inspect"),
        (Path(__file__), "unknown kind of log '.py'"),
    ]:
        with pytest.raises(InputError, match=word):
            read_inspect(place)


@pytest.fixture
def log():
    """Return the module that reads and writes logs, or skip."""
    return pytest.importorskip("inspect_ai.log", reason="inspect-ai is not installed")


@pytest.fixture
def edited(log, tmp_path):
    """Return a function that changes the samples of a log and returns its new file."""

    def write(name: str, change, to: str | None = None) -> Path:
        content = log.read_eval_log(str(LOGS / name))
        change(content)
        file = tmp_path / (to or name)
        log.write_eval_log(content, str(file))
        return file

    return write


def test_means_are_those_inspect_reports(log):
    for name in ("quiet_words", "loud_words", "quiet_again", "loud_again"):
        file = LOGS / f"{name}.eval"
        imported = read_inspect(file)
        scores = log.read_eval_log(str(file)).results.scores[0]
        accuracy = scores.metrics["accuracy"].value
        assert imported.responses["response"].mean() == accuracy, name
        who, task = name.split("_")
        assert set(imported.responses["model"]) == {f"toy/{who}"}
        assert set(imported.responses["benchmark"]) == {task}


def test_errors_are_skipped_and_counted_and_later_logs_win(log):
    imported = read_inspect(LOGS)
    words = imported.responses.query("benchmark == 'words' and model == 'toy/quiet'")
    assert list(words["item"]) == ["w0", "w1", "w2", "w4"]
    assert "2 samples that ended in an error passed over" in imported.notes
    assert "scorer includes: again, words" in imported.notes
    [note] = [note for note in imported.notes if "repeated" in note]
    assert "toy/loud" in note
    assert "2 overlapping items" in note
    assert imported.counts.empty


def test_another_scorer(log):
    imported = read_inspect(LOGS, metric={"words": "exact"})
    assert "scorer exact: words" in imported.notes
    assert (imported.responses.query("benchmark == 'words'")["response"] == 0).all()
    with pytest.raises(InputError, match="unknown metric 'exakt'; did you mean 'exact'"):
        read_inspect(LOGS, metric="exakt")


@pytest.mark.parametrize(
    ("value", "response"),
    [("C", 1), ("I", 0), ("P", 0.5), ("N", 0), (0.25, 0.25), (True, 1), ("0.75", 0.75), ("no", 0)],
)
def test_values(edited, value, response):
    def change(content):
        content.samples[1].scores["includes"].value = value

    responses = read_inspect(edited("quiet_words.eval", change)).responses
    assert responses.set_index("item")["response"]["w1"] == response


def test_epochs_are_averaged(edited):
    def change(content):
        [one] = [s for s in content.samples if (s.id, s.epoch) == ("w0", 2)]
        one.scores["includes"].value = "I"

    responses = read_inspect(edited("quiet_again.eval", change)).responses
    assert responses.set_index("item")["response"].to_dict() == {"w0": 0.5, "w1": 1}


def test_scores_with_parts(edited):
    def change(content):
        for sample in content.samples:
            if sample.scores:
                sample.scores["includes"].value = {"form": 1, "content": 0.5}

    file = edited("quiet_words.eval", change)
    assert set(read_inspect(file, metric="includes.content").responses["response"]) == {0.5}
    assert "scorer includes.form: words" in read_inspect(file).notes


def test_scores_that_are_none(edited):
    def change(content):
        content.samples[0].scores["includes"].value = float("nan")
        content.samples[1].scores = {}

    imported = read_inspect(edited("quiet_words.eval", change))
    assert list(imported.responses["item"]) == ["w2", "w4"]
    assert "2 samples without the score passed over" in imported.notes


def test_scores_outside_0_to_1_are_refused(edited):
    def change(content):
        content.samples[2].scores["includes"].value = 7

    file = edited("quiet_words.eval", change)
    with pytest.raises(InputError, match=r"sample w2: includes of words is 7, outside \[0, 1\]"):
        read_inspect(file, metric="includes")


def test_names_lose_package_and_provider(edited):
    def change(content):
        content.eval.task = "inspect_evals/words"
        content.eval.model = "hf/org/name"

    imported = read_inspect(edited("quiet_words.eval", change))
    assert set(imported.responses["benchmark"]) == {"words"}
    assert set(imported.responses["model"]) == {"org/name"}
    assert read_inspect(LOGS, aliases={"toy/loud": "org/l"}).renamed == {"toy/loud": "org/l"}


def test_other_questions_under_one_id_are_told_apart(edited):
    def change(content):
        content.samples[0].input = "Say something else"
        content.eval.model = "toy/other"

    edited("quiet_words.eval", change, "a.eval")
    shutil.copy(LOGS / "quiet_words.eval", edited("loud_words.eval", lambda c: None).parent)
    folder = edited("loud_words.eval", lambda c: None).parent
    imported = read_inspect(folder)
    assert any("words: 1 of 4 items" in note for note in imported.notes)
    assert imported.responses["item"].nunique() == 5


def test_unfinished_runs_are_named(edited):
    def change(content):
        content.status = "cancelled"

    [note] = [n for n in read_inspect(edited("quiet_words.eval", change)).notes if "unfin" in n]
    assert "quiet_words.eval (cancelled)" in note


@pytest.mark.parametrize("name", ["quiet_words.eval", "loud_words.json"])
def test_what_is_no_log(log, tmp_path, name):
    for content in ((LOGS / name).read_bytes()[:-900], b"{}", b"", b"\xff\xfe\x00"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="is no log of Inspect, or is cut short") as caught:
            read_inspect(tmp_path)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_log_where_all_failed(edited):
    def change(content):
        content.samples = [s for s in content.samples if s.error]

    with pytest.raises(InputError, match="no sample with a score"):
        read_inspect(edited("quiet_words.eval", change))
