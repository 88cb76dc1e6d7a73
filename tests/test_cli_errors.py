"""Mistakes on the command line: exit code 2, one line that says how to fix it, nothing left."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from bayes_lrmf.cli import main

WIDE = "model,arc:1,arc:2,gsm8k:1\nm1,1,0,1\nm2,,1,0\nm3,0,1,\n"
COUNTS = "model,benchmark,successes,trials\n"
LONG = "model,benchmark,item,response\n"
TREE = "child,parent,relation\nm2,m1,finetune\nm3,m1,merge\nm3,m2,merge\nkid-of-m1,m1,adapter\n"
WEIGHTED = "child,parent,relation,weight\n"
SPEC = 'name = "s"\nrank = 1\n'


def run(*arguments: object) -> int:
    """Return the exit code."""
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    return caught.value.code


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Return a folder with good inputs and a posterior from a search that was cut short."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "r.csv").write_text(WIDE)
    (folder / "l.csv").write_text(TREE)
    (folder / "s.toml").write_text(SPEC)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        # The number of devices is set for the process; keep it to this one fit.
        patch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
        with (folder / "stderr").open("w") as stream, contextlib.redirect_stderr(stream):
            code = run(
                "fit", "r.csv", "--lineage", "l.csv", "--spec", "s.toml", "--method", "map",
                "--max-steps", 1, "--num-chains", 1, "-o", "p.nc",
            )  # fmt: skip
    (folder / "code").write_text(str(code))
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return an empty working folder with good inputs in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    Path("r.csv").write_text(WIDE)
    Path("l.csv").write_text(TREE)
    Path("s.toml").write_text(SPEC)
    return tmp_path


@pytest.fixture
def refused(folder, capsys):
    """Return a function that runs a command and checks all that every mistake must do."""

    def check(*arguments: object, alone: bool = True) -> str:
        before = contents(folder)
        code = run(*arguments)
        out, err = capsys.readouterr()
        assert code == 2, err
        assert out == ""
        assert "Traceback" not in err
        assert err.endswith("\n")
        *notes, line = err.splitlines()
        assert line.startswith("bayes-lrmf: ")
        assert not any(note.startswith("bayes-lrmf: ") for note in notes)
        assert not (alone and notes), notes
        # What is wrong, and after a semicolon what to do about it.
        assert len(line.rpartition("; ")[0]) > len("bayes-lrmf: ")
        assert ".;" not in line
        assert contents(folder) == before
        return line

    return check


def assert_words(line: str, words: tuple[str, ...]) -> None:
    for word in words:
        assert word in line


# --- responses ---

RESPONSES = {
    "empty": (b"", ("r.csv", "empty", "write a header")),
    "header alone": (b"model,arc:1\n", ("no rows", "add the rows")),
    "no model": (b"modle,arc:1\nm1,1\n", ("no column 'model'", "'modle'")),
    "models alone": (b"model\nm1\n", ("no column but 'model'", "benchmark:item")),
    "column not an item": (b"model,arc1,arc:2\nm1,1,0\n", ("'arc1'", "benchmark:item", "'arc:2'")),
    "percentages": (b"model,arc:1\nm1,71.5\n", ("71.5", "line 2", "model m1", "by 100")),
    "a benchmark as the mean of all": (b"model,average:1\nm1,1\n", ("'average'", "another name")),
    "negative": (b"model,arc:1\nm1,1\nm2,-1\n", ("-1", "line 3", "model m2", "arc:1")),
    "word": (b"model,arc:1\nm1,yes\n", ("'yes' is not a number", "line 2")),
    "nan": (b"model,arc:1\nm1,nan\n", ("'nan'", "leave the cell empty")),
    "ragged": (b"model,arc:1\nm1,1\nm2,1,0\n", ("line 3", "3 cells", "2 columns")),
    "no result": (b"model,arc:1\nm1,\n", ("no result", "fill in")),
    "item twice": (b"model,arc:1,arc:1\nm1,1,0\n", ("'arc:1'", "keep one")),
    "rows that differ": (b"model,arc:1\nm1,1\nm1,0\n", ("line 2 and line 3", "m1", "keep one")),
    "nameless model": (b"model,arc:1\nm1,1\n ,0\n", ("model name is missing", "line 3")),
    "latin-1": ("model,arc:1\né,1\n".encode("latin-1"), ("UTF-8",)),
    "semicolons": (b"model;arc:1\nm1;1\n", ("semicolons", "commas")),
    "binary": (b"PAR1\x00\x15\x04PAR1\n", ("not CSV", "write it as CSV")),
    "long, column misspelt": (
        (LONG + "m1,arc,1,1\n").replace("response", "respones").encode(),
        ("'respones'", "'response'"),
    ),
    "long, results that differ": (
        (LONG + "m1,arc,1,1\nm1,arc,1,0\n").encode(),
        ("differ", "line 2 and line 3", "arc:1"),
    ),
    "more successes than trials": (
        (COUNTS + "m1,arc,3,2\n").encode(),
        ("successes 3 exceed trials", "line 2"),
    ),
    "no trials": ((COUNTS + "m1,arc,3,\n").encode(), ("trials are missing", "give both")),
    "broken successes": ((COUNTS + "m1,arc,1.5,2\n").encode(), ("1.5 are not whole",)),
    "zero trials": ((COUNTS + "m1,arc,0,0\n").encode(), ("trials 0 are below 1",)),
}


@pytest.mark.parametrize(("content", "words"), RESPONSES.values(), ids=list(RESPONSES))
def test_broken_responses(content, words, refused):
    Path("r.csv").write_bytes(content)
    assert_words(refused("fit", "r.csv", "--method", "map", "-o", "p.nc"), ("r.csv", *words))


def test_broken_parquet_responses(refused):
    def fit() -> str:
        return refused("fit", "r.parquet", "--method", "map", "-o", "p.nc")

    Path("r.parquet").write_text(WIDE)
    assert_words(fit(), ("r.parquet", "is not a Parquet file, or is damaged", "write it anew"))
    good = pd.DataFrame({"model": ["m1", "m2"], "arc:1": [1.0, 0.0]})
    good.to_parquet("r.parquet")
    whole = Path("r.parquet").read_bytes()
    Path("r.parquet").write_bytes(whole[: len(whole) // 2])
    assert_words(fit(), ("is not a Parquet file, or is damaged",))
    good.assign(**{"arc:1": [1.0, 7.0]}).to_parquet("r.parquet")
    assert_words(fit(), ("response 7", "column arc:1, row 2, model m2", "by 100"))
    good.head(0).to_parquet("r.parquet")
    assert_words(fit(), ("no rows",))


def test_missing_and_misnamed_responses(refused, folder):
    fit = ("--method", "map", "-o", "p.nc")
    assert_words(refused("fit", "none.csv", *fit), ("none.csv", "not found", "check the path"))
    assert_words(refused("fit", folder, *fit), (str(folder), "is a folder", "name a file"))
    Path("r.txt").write_text(WIDE)
    assert_words(refused("fit", "r.txt", *fit), ("r.txt", "unknown kind of file", ".csv"))


# --- lineage ---

LINEAGES = {
    "empty": ("", ("empty", "write a header")),
    "header alone": ("child,parent,relation\n", ("no rows",)),
    "cycle": (
        "child,parent,relation\nm2,m1,merge\nm1,m2,merge\n",
        ("cycle", "m1 -> m2", "remove one"),
    ),
    "unknown relation": (
        "child,parent,relation\nm2,m1,merge\nm3,m1,quantised\n",
        ("line 3", "child m3", "'quantised'", "'quantized'"),
    ),
    "missing column": ("child,parent\nm2,m1\n", ("no column 'relation'", "child, parent")),
    "misspelt column": ("child,parnet,relation\nm2,m1,merge\n", ("'parent'", "rename 'parnet'")),
    "weight zero": (WEIGHTED + "m2,m1,merge,0\n", ("line 2", "weight is 0", "above 0")),
    "weight a word": (WEIGHTED + "m2,m1,merge,half\n", ("line 2", "'half'", "above 0")),
    "weights for some": (WEIGHTED + "m3,m1,merge,1\nm3,m2,merge,\n", ("m3", "give all or none")),
    "nameless parent": ("child,parent,relation\nm2,,merge\n", ("parent name is missing",)),
    "ragged": ("child,parent,relation\nm2,m1\n", ("line 2", "2 cells", "3 columns")),
}


@pytest.mark.parametrize(("text", "words"), LINEAGES.values(), ids=list(LINEAGES))
def test_broken_lineage(text, words, refused):
    Path("l.csv").write_text(text)
    arguments = ("fit", "r.csv", "--lineage", "l.csv", "--method", "map", "-o", "p.nc")
    assert_words(refused(*arguments, alone=False), ("l.csv", *words))


def test_missing_lineage_and_broken_aliases(refused):
    def fit(*options: str) -> str:
        return refused("fit", "r.csv", *options, "--method", "map", "-o", "p.nc", alone=False)

    assert_words(fit("--lineage", "none.csv"), ("none.csv", "lineage file not found"))
    Path("a.csv").write_text("alias,name\np,q\nq,p\n")
    aliases = ("--lineage", "l.csv", "--aliases", "a.csv")
    assert_words(fit(*aliases), ("aliases go in a circle: p -> q -> p", "remove one"))
    Path("a.csv").write_text("alias,names\np,q\n")
    assert_words(fit(*aliases), ("a.csv", "no column 'name'", "rename 'names'"))
    Path("a.csv").write_text("alias,name\np,q\np,r\n")
    assert_words(fit(*aliases), ("a.csv", "'p' stands for both 'q' and 'r'", "keep one"))


# --- spec ---

SPECS = {
    "broken TOML": ("name = \n", ("not valid TOML", "line 1")),
    "unknown key": (SPEC + "likelyhood = 'binomial'\n", ("'likelyhood'", "'likelihood'")),
    "wrong type": (SPEC + "ability = 'no'\n", ("ability is 'no'", "true or false")),
    "wrong rank": ("name = 's'\nrank = 'six'\n", ("rank is 'six'", "whole number")),
    "no rank": ("name = 's'\n", ("no 'rank'", "add a line rank")),
    "negative scale": (SPEC + "kappa = -1\n", ("kappa is -1", "above 0")),
    "unknown likelihood": (SPEC + "likelihood = 'beta'\n", ("unknown likelihood 'beta'",)),
    "unknown relation": (SPEC + "[relation_strength]\nmerged = 1\n", ("'merged'", "'merge'")),
    "half a penalty": (SPEC + "[penalty]\nmodels = 1\n", ("penalty has no", "add")),
}


@pytest.mark.parametrize(("text", "words"), SPECS.values(), ids=list(SPECS))
def test_broken_spec(text, words, refused):
    Path("s.toml").write_text(text)
    line = refused("fit", "r.csv", "--spec", "s.toml", "--method", "map", "-o", "p.nc")
    assert_words(line, ("s.toml: ", *words))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lrfm", ("unknown spec 'lrfm'", "did you mean 'lrmf'?")),
        ("qwerty", ("unknown spec 'qwerty'", "valid: ", "irt", "paper")),
        ("none.toml", ("none.toml", "spec file not found", "check the path")),
    ],
)
def test_unknown_spec(name, words, refused):
    assert_words(refused("fit", "r.csv", "--spec", name, "-o", "p.nc"), words)


# --- posterior files ---


def _truncated(good: Path, path: Path) -> None:
    path.write_bytes(good.read_bytes()[: good.stat().st_size // 2])


def _without_version(good: Path, path: Path) -> None:
    shutil.copy(good, path)
    with h5py.File(path, "a") as file:
        del file.attrs["format_version"]


def _netcdf(engine: str):
    def write(good: Path, path: Path) -> None:
        xr.Dataset({"a": ("x", np.arange(3.0))}).to_netcdf(path, engine=engine)

    return write


POSTERIORS = {
    "text": lambda good, path: path.write_text("no posterior\n"),
    "empty": lambda good, path: path.write_bytes(b""),
    "truncated": _truncated,
    "other netCDF 4": _netcdf("h5netcdf"),
    "other netCDF 3": _netcdf("scipy"),
    "no version": _without_version,
}


@pytest.mark.parametrize("command", ["predict", "diagnose"])
@pytest.mark.parametrize("make", POSTERIORS.values(), ids=list(POSTERIORS))
def test_what_is_no_posterior(make, command, refused, fitted):
    make(fitted / "p.nc", Path("p.nc"))
    assert_words(
        refused(command, "p.nc"),
        ("p.nc: not a posterior file", "give what `bayes-lrmf fit -o` wrote"),
    )


@pytest.mark.parametrize("command", ["predict", "diagnose"])
def test_newer_format_missing_file_and_folder(command, refused, fitted, folder):
    shutil.copy(fitted / "p.nc", "p.nc")
    with h5py.File("p.nc", "a") as file:
        file.attrs["format_version"] = 99
    assert_words(refused(command, "p.nc"), ("p.nc", "format 99 is newer", "upgrade bayes-lrmf"))
    assert_words(refused(command, "q.nc"), ("q.nc: posterior file not found", "check the path"))
    assert_words(refused(command, folder), ("is a folder", "name a file"))


def test_lineage_quality_of_a_point_and_a_verdict_as_a_file(refused, fitted):
    shutil.copy(fitted / "p.nc", "p.nc")
    line = refused("diagnose", "p.nc", "--lineage")
    assert_words(line, ("a point estimate has no draws", "fit with method vb"))
    line = refused("diagnose", "p.nc", "-o", "t.csv")
    assert_words(line, ("t.csv", "a verdict is not a table", "add --lineage"))


# --- commands and options ---

USAGE = {
    "no command": ([], ("no command", "--help")),
    "unknown command": (["prdict"], ("unknown command 'prdict'", "did you mean 'predict'?")),
    "unknown command, none near": (["zzz"], ("unknown command 'zzz'", "valid: ", "simulate")),
    "unknown option": (
        ["fit", "r.csv", "--methd", "map", "-o", "p.nc"],
        ("'--methd'", "did you mean --method?"),
    ),
    "unknown option, none near": (["fit", "r.csv", "--zzz", "-o", "p.nc"], ("'--zzz'", "--help")),
    "option before the command": (["--zzz", "fit"], ("'--zzz'", "--help")),
    "no argument": (["fit", "-o", "p.nc"], ("Missing argument 'RESPONSES'", "--help")),
    "one argument too many": (["fit", "r.csv", "l.csv", "-o", "p.nc"], ("l.csv", "--help")),
    "no output": (["fit", "r.csv"], ("'-o'", "--help")),
    "no output to simulate": (["simulate"], ("'-o'", "--help")),
    "output without a name": (["fit", "r.csv", "-o"], ("'-o' requires an argument",)),
    "unknown method": (
        ["fit", "r.csv", "--method", "nutz", "-o", "p.nc"],
        ("unknown method 'nutz'", "did you mean 'nuts'?"),
    ),
    "output folder missing": (
        ["fit", "r.csv", "-o", "none/p.nc"],
        ("none/p.nc", "folder of the output does not exist", "create it"),
    ),
    "output a folder": (["fit", "r.csv", "-o", "."], ("output is a folder", "name a file")),
    "output of another kind": (
        ["fit", "r.csv", "-o", "p.pkl"],
        ("p.pkl", "unknown kind of output", "end it in .nc"),
    ),
    "seed negative": (["fit", "r.csv", "--seed", "-1", "-o", "p.nc"], ("'--seed'", "-1")),
    "seed too large": (["fit", "r.csv", "--seed", 2**70, "-o", "p.nc"], ("'--seed'",)),
    "seed a word": (["fit", "r.csv", "--seed", "one", "-o", "p.nc"], ("'--seed'", "'one'")),
    "no steps": (["fit", "r.csv", "--max-steps", 0, "-o", "p.nc"], ("'--max-steps'", "x>=1")),
    "one model": (["simulate", "-o", "d", "--models", 1], ("'--models'", "x>=2")),
    "density zero": (["simulate", "-o", "d", "--density", 0], ("density is 0", "between 0 and 1")),
    "density nan": (["simulate", "-o", "d", "--density", "nan"], ("density is nan",)),
    "rank zero": (["simulate", "-o", "d", "--rank", 0], ("'--rank'", "x>=1")),
    "simulate into a file": (["simulate", "-o", "r.csv"], ("r.csv", "is a file", "name a folder")),
    "simulate below a file": (
        ["simulate", "-o", "r.csv/d", "--models", 3, "--items", 2, "--density", 1],
        ("r.csv/d", "inside a file", "name a folder"),
    ),
}


@pytest.mark.parametrize(("arguments", "words"), USAGE.values(), ids=list(USAGE))
def test_wrong_usage(arguments, words, refused):
    assert_words(refused(*arguments), words)


PREDICT = {
    "ci-prob above 1": (["--ci-prob", 90], ("ci_prob is 90", "between 0 and 1")),
    "ci-prob 1": (["--ci-prob", 1], ("ci_prob is 1.0", "between 0 and 1")),
    "ci-prob nan": (["--ci-prob", "nan"], ("ci_prob is nan",)),
    "ci-prob a word": (["--ci-prob", "wide"], ("'--ci-prob'", "'wide'")),
    "level": (["--level", "benchmrk"], ("unknown level 'benchmrk'", "'benchmark'")),
    "one draw": (["--draws", 1], ("'--draws'", "x>=2")),
    "unknown model": (
        ["--models", "m1,kid-of-m2"],
        ("unknown model 'kid-of-m2'", "did you mean 'kid-of-m1'?"),
    ),
    "unknown model, none near": (["--models", "zzzzz"], ("unknown model 'zzzzz'", "valid: m1")),
    "no model": (["--models", " , "], ("--models", "no model named")),
    "no model file": (["--models", "@names.txt"], ("names.txt", "not found", "check the path")),
    "empty model file": (["--models", "@empty.txt"], ("no model named",)),
    "binary model file": (["--models", "@binary.txt"], ("binary.txt", "UTF-8")),
    "model file a folder": (["--models", "@."], ("is a folder", "name a file")),
    "output folder missing": (["-o", "none/t.csv"], ("none/t.csv", "does not exist")),
    "output a folder": (["-o", "."], ("output is a folder",)),
    "output of another kind": (["-o", "t.xlsx"], ("t.xlsx", "end it in .csv")),
}


@pytest.mark.parametrize(("options", "words"), PREDICT.values(), ids=list(PREDICT))
def test_wrong_options_of_predict(options, words, refused, fitted):
    Path("empty.txt").write_text("\n \n")
    Path("binary.txt").write_bytes(b"\xff\xfe\x00m1")
    if "-o" not in options:
        options = [*options, "-o", "t.csv"]
    assert_words(refused("predict", fitted / "p.nc", *options), words)


def test_a_wrong_fit_leaves_the_old_posterior_alone(refused):
    """`refused` compares the contents of every file."""
    Path("p.nc").write_text("the old one")
    Path("l.csv").write_text("child,parent,relation\nm2,m1,merge\nm1,m2,merge\n")
    refused("fit", "r.csv", "--lineage", "l.csv", "--method", "map", "-o", "p.nc", alone=False)


# --- what is no mistake ---


def test_fit_that_did_not_converge_writes_the_file_and_exits_with_3(fitted, capsys):
    assert (fitted / "code").read_text() == "3"
    lines = (fitted / "stderr").read_text().splitlines()
    assert "stopped after 1 iteration" in lines[-2]
    assert "written to p.nc" in lines[-2]
    assert lines[-1] == "not converged; `bayes-lrmf diagnose p.nc` says what to do"
    assert {p.name for p in fitted.iterdir()} == {
        "r.csv",
        "l.csv",
        "s.toml",
        "p.nc",
        "stderr",
        "code",
    }
    assert run("diagnose", fitted / "p.nc") == 3
    out, _ = capsys.readouterr()
    assert out.startswith("NOT CONVERGED: run longer: --max-steps\n")


def test_a_model_twice_in_the_models_table(refused):
    Path("m.csv").write_text("model,params_b\nm1,7\nm2,8\nm1,9\n")
    line = refused(
        "fit", "r.csv", "--lineage", "l.csv", "--spec", "directed", "--models-table", "m.csv",
        "-o", "p.nc", alone=False,
    )  # fmt: skip
    assert_words(line, ("m.csv", "the model stands twice", "keep one"))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--shots", "0,2.5", ("'0,2.5' is not all whole", "--shots")),
        ("--seeds", "x", ("'x' is no list of numbers", "--seeds")),
        ("--density", "-1", ("'-1' holds a number out of range", "--density")),
        ("--methods", "vbb", ("unknown method 'vbb'", "choose among item_mean")),
        ("--holdout", "clod", ("'clod'", "'cold'")),
    ],
)
def test_wrong_options_of_evaluate(option, value, words, refused):
    # A density is noted as not used before it is refused.
    command = ("evaluate", "r.csv", "--lineage", "l.csv", option, value, "-o", "m.csv")
    assert_words(refused(*command, alone=option != "--density"), words)


def test_outputs_that_are_one_file_are_refused(refused):
    Path("t.csv").write_text("fullname,Base Model\norg/a,org/b\n")
    for command, words in (
        (("leaderboard", "t.csv", "-o", "t.csv"), ("would replace an input", "name them apart")),
        (
            ("leaderboard", "t.csv", "-o", "o.csv", "--models-out", "./o.csv"),
            ("--models-out and -o",),
        ),
        (("lm-eval", "r.csv", "-o", "o.csv", "--counts", "o.csv"), ("--counts and -o",)),
    ):
        assert_words(refused("import", *command), words)


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "./r.csv", "--lineage", "l.csv", "-o", "r.csv"),
        ("evaluate", "r.csv", "--lineage", "l.csv", "-o", "l.csv"),
        ("predict", "p.nc", "--models", "@l.csv", "-o", "l.csv"),
        ("flag", "p.nc", "--budget", "5", "--costs", "r.csv", "-o", "r.csv"),
    ],
)
def test_outputs_that_would_replace_an_input_are_refused(refused, command):
    assert_words(refused(*command), ("would replace an input", command[-1], "name them apart"))


@pytest.mark.parametrize(
    "command",
    [
        ("fit", "r\0.csv", "-o", "q.nc"),
        ("import", "lighteval", "r.csv", "\0"),
        ("simulate", "-o", "x\0"),
    ],
)
def test_null_characters_are_refused(refused, command):
    assert_words(refused(*command), ("null character", "correct it"))


def test_aliases_need_a_lineage(refused):
    line = refused("fit", "r.csv", "--aliases", "none.csv", "-o", "p.nc", alone=False)
    assert_words(line, ("--aliases", "give --lineage"))


def test_a_damaged_posterior_is_called_so(refused, fitted):
    whole = (fitted / "p.nc").read_bytes()
    Path("p.nc").write_bytes(whole[: len(whole) // 2])
    assert "not a posterior file, or a damaged one" in refused("diagnose", "p.nc")


def test_a_lineage_of_others_is_told(folder, capsys):
    Path("o.csv").write_text(
        TREE.replace("m1", "org/m1").replace("m2", "org/m2").replace("m3", "org/m3")
    )
    code = run(
        "fit", "r.csv", "--lineage", "o.csv", "--spec", "s.toml", "--method", "map",
        "--max-steps", 1, "--num-chains", 1, "-o", "p.nc",
    )  # fmt: skip
    assert code in (0, 3)
    assert "warning: the lineage knows no model of the table" in capsys.readouterr().err


def test_what_is_piped_is_in_utf_8(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", out)
    assert run("--help") == 0
    assert out.encoding == "utf-8"


def test_names_in_a_file_may_begin_with_a_mark_of_bytes(fitted, folder):
    Path("names.txt").write_text("m1\nm3\n", encoding="utf-8-sig")
    assert run("predict", fitted / "p.nc", "--models", "@names.txt", "-o", "t.csv") == 0
    assert set(pd.read_csv("t.csv")["model"]) == {"m1", "m3"}


def test_good_predict_writes_the_table(fitted, folder, capsys):
    """The inputs that the mistakes above differ from are right."""
    Path("names.txt").write_text("kid-of-m1\n\n m3 \n")
    options = ("--models", "@names.txt", "--ci-prob", 0.8, "-o", "t.csv")
    assert run("predict", fitted / "p.nc", *options) == 0
    table = pd.read_csv("t.csv")
    assert list(table["model"].unique()) == ["kid-of-m1", "m3"]
    assert (table["kind"] == "point").all()
    assert table[["sd", "lower", "upper"]].isna().all(axis=None)
    out, err = capsys.readouterr()
    assert out == ""
    assert "4 rows written to t.csv" in err
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["r.csv", "l.csv", "s.toml", "names.txt", "t.csv"]
    )


def test_help_of_every_command_is_quick():
    """No help may import what takes seconds to import."""
    code = """
import contextlib, io, sys
from bayes_lrmf.cli import _cli, main
for command in ["", *_cli.commands]:
    shown = io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            main([*command.split(), "--help"])
    except SystemExit as leave:
        assert leave.code == 0, command
    assert f"Usage: bayes-lrmf {command}".strip() in shown.getvalue(), command
    assert "--help" in shown.getvalue()
slow = {"jax", "numpyro", "arviz", "pandas", "networkx", "xarray"} & set(sys.modules)
assert not slow, slow
print(*_cli.commands)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert {"simulate", "fit", "diagnose", "predict"} <= set(done.stdout.split())


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted; no output was written"),
        (
            MemoryError(),
            2,
            "not enough memory; choose fewer models with --models, fewer --draws, or a lower rank",
        ),
        (
            OSError(28, "No space left on device", "p.nc"),
            2,
            "p.nc: cannot be read or written (No space left on device); make room, or check it",
        ),
        (OSError("odd"), 2, "cannot be read or written (odd); make room, or check it"),
        (
            UnicodeEncodeError("utf-8", "\udce9.csv", 0, 1, "surrogates not allowed"),
            2,
            "'\\udce9.csv' is no text in UTF-8; give names and paths in UTF-8",
        ),
    ],
)
def test_what_ends_a_command_is_one_line(error, code, line, monkeypatch, capsys):
    def ends(*_, **__):
        raise error

    monkeypatch.setattr("bayes_lrmf.cli._cli.main", ends)
    with pytest.raises(SystemExit) as ended:
        main(["fit"])
    assert ended.value.code == code
    assert capsys.readouterr().err == f"bayes-lrmf: {line}\n"
