"""Bad input: broken neighbours of good files, bombs, and names that are code elsewhere."""

from __future__ import annotations

import ast
import gzip
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_lrmf.checks import InputError, printable
from bayes_lrmf.console import emit
from bayes_lrmf.features import read_features
from bayes_lrmf.item_space import mean_lengths
from bayes_lrmf.lineage import read_aliases, read_lineage
from bayes_lrmf.responses import read_responses, responses_from_frame, write_responses
from bayes_lrmf.sources.assembly import Trials, trials_of
from bayes_lrmf.sources.json_files import json_content
from bayes_lrmf.sources.mergekit import last_merge
from bayes_lrmf.sources.parquet_files import rows_of
from bayes_lrmf.spec import read_spec
from bayes_lrmf.tables import read_table
from bayes_lrmf.unpacking import decoded_size, refuse_bomb

ROOT = Path(__file__).resolve().parent.parent
SLOW = {"posterior edited", "posterior bytes", "costs", "command line"}

pytestmark = pytest.mark.filterwarnings("ignore:.*os.fork.*:RuntimeWarning")


@pytest.fixture(scope="module")
def fuzz():
    """Return the driver, its imports done."""
    pytest.importorskip("inspect_ai")
    from analyses import fuzz
    from analyses.fuzzing.readers import READERS

    return fuzz, READERS


def failures(fuzz, names, *, seed, n):
    driver, _ = fuzz
    found = []
    for name in names:
        for at, data in enumerate(driver.inputs(name, seed=seed, n=n)):
            # The first one may compile.
            verdict = driver.verdict(name, data, seconds=driver.SECONDS if at else 60.0)
            if verdict.outcome == "failed":
                found.append((name, data[:300], verdict.reason[-500:]))
    return found


def test_broken_files_are_read_or_refused(fuzz):
    names = [name for name in fuzz[1] if name not in SLOW]
    assert failures(fuzz, names, seed=7, n=10) == []


@pytest.mark.slow
def test_thousands_of_broken_files_are_read_or_refused(fuzz, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [name for name in fuzz[1] if name not in SLOW]
    assert failures(fuzz, names, seed=8, n=120) == []
    assert failures(fuzz, SLOW, seed=8, n=40) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["responses csv", "responses parquet", "spec toml", "inspect eval"]
)
def test_bombs_are_refused_before_they_fill_the_memory(fuzz, name):
    driver, readers = fuzz
    for bomb in readers[name].bombs():
        found = driver.verdict(name, bomb, seconds=60)
        assert found.outcome != "failed", found.reason


@pytest.mark.slow
def test_broken_command_lines_of_a_process_of_its_own(fuzz, tmp_path, monkeypatch):
    from analyses.fuzzing.commands import lay_inputs

    monkeypatch.chdir(tmp_path)
    lay_inputs(tmp_path)
    given = [json.loads(line) for line in fuzz[1]["command line"].seeds()]
    lines = [[*words[:-1], bad] for words in given[1:22:3] for bad in ("=cmd()", "\udce9", "-1")]
    lines += [["predict", "."], ["fit", "\udce9.csv", "-o", "q.nc"]]
    for words in lines:
        done = subprocess.run(
            [sys.executable, "-m", "bayes_lrmf", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        assert done.returncode in (0, 2, 3), (words, done.stderr)
        assert "Traceback" not in done.stderr
        assert done.returncode != 2 or done.stderr.splitlines()[-1].startswith("bayes-lrmf: ")


def test_the_driver_sees_failures(fuzz, monkeypatch):
    """A reader that raises, warns, hangs or speaks in lines is a failure; so it is not blind."""
    driver, readers = fuzz

    def raising(data, folder):
        raise KeyError("x")

    def warning(data, folder):
        warnings.warn("x", RuntimeWarning, stacklevel=1)

    def hanging(data, folder):
        while True:
            pass

    for broken, words in ((raising, "KeyError"), (warning, "RuntimeWarning"), (hanging, "0.2 s")):
        monkeypatch.setitem(readers, "broken", type(readers["aliases"])("csv", list, broken))
        found = driver.verdict("broken", b"", seconds=0.2)
        assert found.outcome == "failed"
        assert words in found.reason


# --- what the fuzzer found ---


def test_a_repeated_result_counts_once_for_the_trials_of_an_item(tmp_path):
    text = "model,benchmark,item,successes,trials\nm1,a,1,1,1\nm1,a,1,1,1\nm2,a,1,0,3\n"
    (tmp_path / "r.csv").write_text(text)
    table = read_responses(tmp_path / "r.csv")
    # One result of 1 trial and one of 3: the larger of equally common ones.
    assert table.items["trials"].tolist() == [3]
    write_responses(table, tmp_path / "again.csv")
    assert read_responses(tmp_path / "again.csv").fingerprint() == table.fingerprint()


def test_rows_of_one_model_are_merged_whatever_their_order(tmp_path):
    (tmp_path / "r.csv").write_text("model,a:1,a:2,a:3\nm2,1,,\nm1,0,,1\nm2,,0,\nm2,1,,0\n")
    table = read_responses(tmp_path / "r.csv")
    assert list(table.models) == ["m2", "m1"]
    assert table.dense.tolist() == [[1, 0, 0], [0, -1, 1]]
    (tmp_path / "r.csv").write_text("model,a:1,a:2\nm2,1,\nm1,0,1\nm2,,0\nm2,1,1\n")
    with pytest.raises(InputError, match=r"model m2, a:2: .* \(line 4 and line 5\)"):
        read_responses(tmp_path / "r.csv")


def test_trials_that_single_precision_does_not_hold(tmp_path):
    header = "model,benchmark,successes,trials\n"
    (tmp_path / "r.csv").write_text(f"{header}m,a,3,{2**24}\n")
    assert read_responses(tmp_path / "r.csv").items["trials"].tolist() == [2**24]
    (tmp_path / "r.csv").write_text(f"{header}m,a,3,{2**63}\n")
    with pytest.raises(InputError, match="too many; give 16,777,216 or less"):
        read_responses(tmp_path / "r.csv")


def test_more_columns_than_a_table_can_have(tmp_path):
    names = [f"a:{i}" for i in range(50_000)]
    path = tmp_path / "r.csv"
    path.write_text(f"model,{','.join(names)}\nm{',1' * len(names)}\n")
    with pytest.raises(
        InputError, match="50,001 columns are too many; keep 50,000, or write one row"
    ):
        read_responses(path)
    long = pd.DataFrame({"model": "m", "benchmark": "a", "item": names, "response": 1})
    table = responses_from_frame(long.astype({"item": "str"}))
    write_responses(table, path)
    assert read_responses(path).fingerprint() == table.fingerprint()


def test_parquet_that_is_no_plain_table(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"model": [{"a": 1}], "arc:1": [1]}), path)
    with pytest.raises(InputError, match="'model' holds lists or mappings"):
        read_responses(path)
    pq.write_table(pa.table({"child": ["a"], "parent": ["b"], "relation": [1]}), path)
    with pytest.raises(InputError, match="unknown relation '1'"):
        read_lineage(path)
    broken = pa.array([b"m\xff"], pa.binary()).view(pa.string())
    for name in ("model", "type"):
        pq.write_table(pa.table({"model": ["a"], "n": [1]} | {name: broken}), path)
        with pytest.raises(InputError, match="is not a Parquet file, or is damaged"):
            read_features(path)
    table = pa.table({"model": ["a"], "n": [1]}).replace_schema_metadata({"pandas": "{"})
    pq.write_table(table, path)
    with pytest.raises(InputError, match="is not a Parquet file, or is damaged"):
        read_features(path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("-inf", "rank is -inf"),
        ("9" * 400, "rank is 999"),
        ("9" * 5000, r"not valid TOML \(ValueError\)"),
        ("[" * 3000, r"not valid TOML \(RecursionError\)"),
    ],
)
def test_numbers_and_nesting_without_end_in_a_spec(tmp_path, value, words):
    (tmp_path / "s.toml").write_text(f'name = "s"\nrank = {value}\n')
    with pytest.raises(InputError, match=words) as caught:
        read_spec(tmp_path / "s.toml")
    assert len(str(caught.value)) < 2000


def test_json_of_halves_and_of_endless_numbers(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(r'{"a\ud800": ["\ud83e\udd17", "x\udfff"]}')
    assert json_content(path) == {"a\ufffd": ["\U0001f917", "x\ufffd"]}
    path.write_text("9" * 5000)
    with pytest.raises(InputError, match="thousands of digits"):
        json_content(path)


def test_long_chains_of_aliases_are_followed_in_no_time():
    chain = {str(i): str(i + 1) for i in range(20_000)}
    found = read_aliases(chain | {"x": "x", "y": "x"})
    assert set(found.values()) == {"20000", "x"}
    assert list(found)[:2] == ["0", "1"]
    with pytest.raises(InputError, match="a -> b -> c -> b; remove one"):
        read_aliases({"a": "b", "b": "c", "c": "b"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            f"merge_method: linear\nmodels: [{{model: a, parameters: {{weight: {'9' * 400}}}}}]\n",
            "weight is 9",
        ),
        ("--- a\n" * 20_000, "more than 50,000 values; divide it"),
        ("a: 1" + ":59" * 5_000, "more than 10,000 characters; shorten it"),
    ],
)
def test_recipes_with_numbers_out_of_range_or_long_to_read(tmp_path, text, words):
    (tmp_path / "y.yml").write_text(text)
    with pytest.raises(InputError, match=words):
        last_merge(tmp_path / "y.yml")


def test_a_spec_of_many_keys(tmp_path):
    (tmp_path / "s.toml").write_text("a." * 20_000 + "a = 1\n")
    with pytest.raises(InputError, match="larger than 32 kB"):
        read_spec(tmp_path / "s.toml")


@pytest.mark.parametrize("error", [1e308, 1e-320, 0.0, -1.0, float("nan"), float("inf")])
def test_no_number_of_samples_follows_from_a_strange_error(error):
    assert trials_of(None, 0.5, error) is None


def test_no_more_samples_than_tables_can_hold():
    assert trials_of(2**24, 0.5, None) == Trials(2**24)
    assert trials_of(2**24 + 1, 0.5, None) is None
    assert trials_of(10**400, 0.5, None) is None
    assert trials_of(None, 0.5, 1e-5) is None


def test_a_recipe_with_half_a_character(tmp_path):
    path = tmp_path / "y.yml"
    path.write_text('merge_method: linear\nmodels: [{model: "\\ud800"}]\n')
    with pytest.raises(InputError, match="is no model"):
        last_merge(path)


def test_numbers_among_dates(tmp_path):
    (tmp_path / "m.csv").write_text("model,date\na,2024-03-21\nb,-1e308\n")
    with pytest.raises(InputError, match="'-1e308' is not a date"):
        read_features(tmp_path / "m.csv")


# --- small files that unpack to large ones ---


def test_gzip_bomb(tmp_path):
    path = tmp_path / "r.csv.gz"
    path.write_bytes(gzip.compress(b"model,a:1\n" + b"m,1\n" * 10_000_000))
    with pytest.raises(InputError, match="unpacks from"):
        read_responses(path)
    path.write_bytes(gzip.compress(b"model,a:1\n" + b"m,1\n" * 10_000))
    assert read_responses(path).shape == (1, 1)


@pytest.mark.parametrize("column", ["model", "text"])
def test_parquet_bombs_by_rows_and_by_long_texts(tmp_path, column):
    path, zeros = tmp_path / "m.parquet", np.zeros(20_000_000, np.int32)
    pq.write_table(pa.table({"model": pa.DictionaryArray.from_arrays(zeros, ["m"])}), path)
    with pytest.raises(InputError, match="unpacks from"):
        read_features(path)
    long = pa.DictionaryArray.from_arrays(zeros[:10_000], pa.array(["x" * 50_000]))
    names = pa.array([str(i) for i in range(10_000)])
    pq.write_table(pa.table({"model": names, "n": names} | {column: long}), path)
    # Names are kept once however many rows bear them; there the table is wrong in another way.
    with pytest.raises(InputError, match="unpacks from" if column == "text" else "twice|more than"):
        read_features(path)


def test_long_names_on_many_rows_are_no_bomb(tmp_path):
    """Text of 280 MB by rows, in a file of less than one."""
    n_models, n_items = 1000, 700
    models = pa.array([f"{'m' * 300}{u}" for u in range(n_models)])
    items = pa.array([f"{'i' * 100}{i}" for i in range(n_items)])
    at = np.arange(n_models * n_items, dtype=np.int32)
    table = {
        "model": pa.DictionaryArray.from_arrays(at // n_items, models),
        "benchmark": pa.DictionaryArray.from_arrays(0 * at, ["b"]),
        "item": pa.DictionaryArray.from_arrays(at % n_items, items),
        "response": (at % 3 == 0).astype(np.int8),
    }
    path = tmp_path / "r.parquet"
    pq.write_table(pa.table(table), path)
    assert path.stat().st_size < 2_000_000
    assert read_responses(path).shape == (n_models, n_items)


def test_parquet_bomb_of_another_tool(tmp_path):
    path = tmp_path / "d.parquet"
    long = pa.DictionaryArray.from_arrays(np.zeros(10_000, np.int32), pa.array(["x" * 500_000]))
    nested = pa.StructArray.from_arrays([long], ["query"])
    for column in (long, nested):
        pq.write_table(pa.table({"doc": column}), path)
        with pytest.raises(InputError, match="unpacks from"):
            list(rows_of(path))
    few = pa.DictionaryArray.from_arrays(np.zeros(100, np.int32), pa.array(["x" * 50_000]))
    assert decoded_size(few) == 100 * 50_000
    assert decoded_size(pa.chunked_array([few, few])) == 200 * 50_000


def test_what_is_large_may_unpack_to_a_hundred_times_its_size(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(5 << 20))
    refuse_bomb(path, 500 << 20)
    with pytest.raises(InputError):
        refuse_bomb(path, (500 << 20) + 1)


# --- names that are code elsewhere ---

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).map(
    str.strip
)


@settings(max_examples=40)
@given(st.lists(NAMES.filter(bool), min_size=1, max_size=5, unique=True))
def test_names_are_written_and_read_back_the_same(tmp_path_factory, names):
    folder = tmp_path_factory.getbasetemp()
    for path in (folder / "names.csv", folder / "names.csv.gz", folder / "names.parquet"):
        emit(pd.DataFrame({"model": names, "n": 1}), str(path))
        table = read_table(path, key="model", text=("model",), what="names")
        codes, found, _ = table.names("model")
        assert [found[code] for code in codes] == names


@pytest.mark.parametrize("name", ["=cmd()", "+x", "-x", "@SUM(A1)"])
def test_formulas_are_kept_and_warned_of(tmp_path, capsys, name):
    emit(pd.DataFrame({"model": [name, "a"], "n": [-1, 2]}), str(tmp_path / "t.csv"))
    assert name in (tmp_path / "t.csv").read_text()
    assert f"warning: 1 names begin as a formula does, such as '{name}'" in capsys.readouterr().err
    emit(pd.DataFrame({"model": ["-1", "a"], "n": [-1, 2]}), str(tmp_path / "t.csv"))
    assert "warning" not in capsys.readouterr().err


def test_terminals_are_left_alone():
    assert printable("a\x1b[31m\nb\0\ud800\u202e") == r"a\x1b[31m b\x00\ud800\u202e"
    assert printable("m\u00e9 \U0001f917") == "m\u00e9 \U0001f917"
    line = str(InputError("x" * 10_000, where="f.csv", fix="mend it"))
    assert len(line) < 700
    assert line.endswith("; mend it")


def test_nothing_in_a_file_is_run():
    """No pickle, and nothing that makes code or other objects of what a file says."""
    forbidden = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "torch"}
    found = []
    for path in sorted((ROOT / "bayes_lrmf").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found += [a.name for a in node.names if a.name.partition(".")[0] in forbidden]
            elif isinstance(node, ast.ImportFrom):
                found += [m for m in [node.module or ""] if m.partition(".")[0] in forbidden]
            elif isinstance(node, ast.Call):
                found += _unsafe(node)
    assert found == []


def _unsafe(call: ast.Call) -> list[str]:
    name = ast.unparse(call.func)
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    unsafe_name = name in ("eval", "exec", "compile", "__import__", "os.system", "yaml.unsafe_load")
    unsafe_yaml = (
        name.startswith("yaml.")
        and "safe" not in name
        and given.get("Loader") not in ("yaml.SafeLoader", "yaml.CSafeLoader")
    )
    pickles = given.get("allow_pickle", "True" if name in ("np.load", "numpy.load") else "False")
    unsafe_numpy = pickles != "False"
    unsafe_pandas = name.endswith(("read_pickle", "to_pickle", "load_module"))
    bad = (
        unsafe_name or unsafe_yaml or unsafe_numpy or unsafe_pandas or given.get("shell") == "True"
    )
    return [f"{name} at line {call.lineno}"] if bad else []


@pytest.mark.parametrize(
    "code",
    ["eval(x)", "yaml.load(x)", "yaml.load_all(x, Loader=yaml.Loader)", "np.load(p)",
     "pd.read_pickle(p)", "f(allow_pickle=True)", "run(x, shell=True)"],
)  # fmt: skip
def test_the_search_for_unsafe_calls_sees_them(code):
    assert _unsafe(ast.parse(code, mode="eval").body)


def test_a_changed_posterior_is_refused(fuzz, tmp_path, kin_fit):
    import h5py

    from bayes_lrmf.storage import read_posterior, write_posterior

    path = tmp_path / "p.nc"
    write_posterior(kin_fit, path)
    read_posterior(path)
    with h5py.File(path, "a") as file:
        file["core/child"][0] = 10**6
    with pytest.raises(InputError, match="damaged or changed"):
        read_posterior(path)
    write_posterior(kin_fit, path)
    with h5py.File(path, "a") as file:
        file.attrs["spec"] = json.dumps({"name": "s", "rank": 1})
    with pytest.raises(InputError, match="damaged or changed"):
        read_posterior(path)
    write_posterior(kin_fit, path)
    with h5py.File(path, "a") as file:
        del file["core/weight"]
        file.create_dataset("core/weight", shape=(2**31,), dtype="f8", chunks=True)
    with pytest.raises(InputError, match="unpacks from"):
        read_posterior(path)


def test_lengths_of_no_steps():
    """A family in which every model has a recorded parent has no step to look for."""
    lengths = mean_lengths(np.zeros((2, 0, 3)), np.zeros((2, 3, 4)))
    assert lengths.shape == (0,)
