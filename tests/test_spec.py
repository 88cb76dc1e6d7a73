"""Specs: the named ones, round trips through plain values, and strictness about every key."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.spec import HyperPrior, Penalty, Spec, default_spec, named_specs, read_spec

MODELS = Path(__file__).resolve().parent.parent / "models"
DIRECT = {"finetune": 1.0, "merge": 1.0, "adapter": 1.0, "quantized": 1.0, "ancestor": 1.0}
PENALTY = {"models": 3, "items": 0, "ridge": 0.5}


@pytest.fixture
def read(tmp_path):
    """Return a function that writes TOML and reads it as a spec."""

    def write_and_read(text: str | bytes) -> Spec:
        path = tmp_path / "s.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_spec(path)

    return write_and_read


def test_named_specs_are_the_files_of_models():
    assert named_specs() == sorted(p.stem for p in MODELS.glob("*.toml"))
    assert {"irt", "lrmf", "mf", "paper"} <= set(named_specs())


@pytest.mark.parametrize("name", named_specs())
def test_named_spec_loads_under_its_own_name(name):
    spec = read_spec(name)
    assert spec.name == name
    assert spec.description
    assert spec == read_spec(MODELS / f"{name}.toml")


@pytest.mark.parametrize("name", named_specs())
def test_named_spec_round_trips_through_plain_values(name):
    spec = read_spec(name)
    assert Spec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize("name", named_specs())
def test_named_spec_says_what_its_file_says(name):
    """Read values against the file itself, so that a default cannot stand in for one of them."""
    spec = read_spec(name)
    for key, value in tomllib.loads((MODELS / f"{name}.toml").read_text()).items():
        got = getattr(spec, key)
        if isinstance(got, HyperPrior):
            want = value if isinstance(value, dict) else {"median": value, "log_sd": 0.0}
            assert dataclasses.asdict(got) == want
        else:
            got = list(got) if isinstance(got, tuple) else got
            assert (dataclasses.asdict(got) if isinstance(got, Penalty) else got) == value


def test_meaning_of_the_named_specs():
    names = ("laplacian", "mf", "irt", "paper", "lrmf", "directed")
    laplacian, mf, irt, paper, lrmf, directed = (read_spec(name) for name in names)
    assert laplacian.lineage == "laplacian"
    assert laplacian.likelihood == "beta_binomial"
    # mf is laplacian without the family tree, and nothing else.
    same = dataclasses.replace(
        mf,
        name="laplacian",
        description=laplacian.description,
        lineage="laplacian",
        kappa=laplacian.kappa,
    )
    assert same == laplacian
    # lrmf is directed with other steps and more factors, and nothing else.
    changed = {n: getattr(lrmf, n) for n in ("name", "description", "rank", "step_shape", "tail")}
    assert dataclasses.replace(directed, **changed) == lrmf
    assert (directed.step_shape, lrmf.step_shape) == ("student_t", "mixture")
    assert (irt.rank, irt.lineage, irt.benchmark_effects) == (1, "none", False)
    assert paper.penalty is not None
    assert (paper.intercept, paper.ability, paper.benchmark_effects) == (False, False, False)
    assert all(spec.penalty is None for spec in (lrmf, laplacian, mf, irt))


def test_the_spec_meant_when_none_is_named_is_one_that_the_method_fits():
    assert {m: default_spec(m) for m in ("map", "svi", "nuts", "vb")} == {
        "map": "laplacian", "svi": "laplacian", "nuts": "laplacian", "vb": "lrmf"
    }  # fmt: skip


def test_values_are_read(read):
    spec = read(
        """
        name = "mine"
        rank = 3
        likelihood = "binomial"
        lineage = "none"
        intercept = false
        kappa = 0.5
        factor_sd = { median = 2, log_sd = 0.25 }
        intercept_sd = { median = 1.5, log_sd = 0 }
        [relation_strength]
        merge = 2
        ancestor = 0.25
        """
    )
    assert (spec.rank, spec.likelihood, spec.lineage) == (3, "binomial", "none")
    assert spec.intercept is False
    assert spec.kappa == HyperPrior(0.5, 0.0)
    assert spec.factor_sd == HyperPrior(2.0, 0.25)
    assert [p.learned for p in (spec.kappa, spec.factor_sd, spec.intercept_sd)] == [0, 1, 0]
    assert spec.relation_strength == DIRECT | {"merge": 2.0, "ancestor": 0.25}
    assert Spec.from_dict(spec.to_dict()) == spec


def test_penalty_is_read_and_round_trips():
    spec = Spec.from_dict({"name": "p", "rank": 2, "penalty": PENALTY})
    assert spec.penalty == Penalty(3.0, 0.0, 0.5)
    plain = spec.to_dict()
    assert plain["penalty"] == {"models": 3.0, "items": 0.0, "ridge": 0.5}
    assert Spec.from_dict(plain) == spec
    assert "penalty" not in Spec("a", 2).to_dict()


def test_spec_is_frozen_and_shares_nothing():
    spec = read_spec("laplacian")
    for target, name in (
        (spec, "rank"),
        (spec.kappa, "median"),
        (read_spec("paper").penalty, "ridge"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(target, name, 9)
    Spec("a", 1).relation_strength["merge"] = 7.0
    spec.to_dict()["relation_strength"]["merge"] = 7.0
    spec.to_dict()["kappa"]["median"] = 7.0
    assert Spec("b", 1).relation_strength == DIRECT
    assert spec == read_spec("laplacian")


BROKEN = {
    "unknown key, nearest": ({"likelyhood": "binomial"}, ["'likelyhood'", "'likelihood'"]),
    "unknown key, none near": ({"zzzz": 1}, ["unknown key 'zzzz'"]),
    "key in another case": ({"Kappa": 1.0}, ["'Kappa'", "'kappa'"]),
    "rank zero": ({"rank": 0}, ["rank is 0", "at least 1"]),
    "rank broken": ({"rank": 2.5}, ["rank is 2.5"]),
    "rank a text": ({"rank": "2"}, ["rank is '2'"]),
    "rank a truth value": ({"rank": True}, ["rank is True"]),
    "rank nan": ({"rank": float("nan")}, ["rank is nan"]),
    "name a number": ({"name": 3}, ["name is 3", "quotes"]),
    "description a list": ({"description": ["a"]}, ["description", "quotes"]),
    "likelihood unknown": ({"likelihood": "binomal"}, ["'binomal'", "'binomial'"]),
    "likelihood a number": ({"likelihood": 1}, ["unknown likelihood", "bernoulli"]),
    "lineage unknown": ({"lineage": "laplace"}, ["unknown lineage", "'laplacian'"]),
    "item prior unknown": ({"item_prior": "x"}, ["unknown item_prior", "independent"]),
    "switch a number": ({"ability": 1}, ["ability is 1", "true or false"]),
    "switch a text": ({"intercept": "false"}, ["intercept is 'false'", "true or false"]),
    "scale negative": ({"factor_sd": -1.0}, ["factor_sd is -1.0", "above 0"]),
    "scale zero": ({"kappa": 0}, ["kappa is 0"]),
    "scale infinite": ({"kappa": float("inf")}, ["kappa is inf"]),
    "scale a text": ({"kappa": "big"}, ["kappa is 'big'"]),
    "scale a truth value": ({"kappa": True}, ["kappa is True"]),
    "median zero": ({"kappa": {"median": 0}}, ["kappa.median is 0"]),
    "median missing": ({"kappa": {"log_sd": 1.0}}, ["kappa has no 'median'", "add median"]),
    "spread negative": ({"kappa": {"median": 1, "log_sd": -1}}, ["kappa.log_sd is -1"]),
    "spread a truth value": ({"kappa": {"median": 1, "log_sd": False}}, ["kappa.log_sd is False"]),
    "part unknown": ({"kappa": {"median": 1, "logsd": 1}}, ["'logsd'", "'log_sd'"]),
    "relation unknown": ({"relation_strength": {"finetuned": 1}}, ["'finetuned'", "'finetune'"]),
    "relation strength zero": (
        {"relation_strength": {"merge": 0}},
        ["relation_strength.merge is 0", "above 0"],
    ),
    "relation strengths a number": ({"relation_strength": 2}, ["relation_strength is 2", "table"]),
    "penalty a number": ({"penalty": 2}, ["penalty is 2", "[penalty]"]),
    "penalty incomplete": ({"penalty": {"models": 1, "items": 1}}, ["penalty has no 'ridge'"]),
    "penalty part unknown": ({"penalty": PENALTY | {"item": 1}}, ["'item'", "'items'"]),
    "penalty negative": ({"penalty": PENALTY | {"models": -1}}, ["penalty.models is -1"]),
    "ridge zero": ({"penalty": PENALTY | {"ridge": 0}}, ["penalty.ridge is 0"]),
    "penalty beside a scale": (
        {"penalty": PENALTY, "kappa": 1.0},
        ["kappa does not apply beside [penalty]", "remove"],
    ),
}


@pytest.mark.parametrize(("change", "words"), BROKEN.values(), ids=list(BROKEN))
def test_broken_value_is_named(change, words):
    with pytest.raises(InputError) as caught:
        Spec.from_dict({"name": "s", "rank": 2} | change, where="s.toml")
    line = str(caught.value)
    assert line.startswith("s.toml: ")
    assert "\n" not in line
    assert caught.value.fix
    for word in words:
        assert word in line


@pytest.mark.parametrize("missing", ["name", "rank"])
def test_missing_key_is_named(missing):
    table = {"name": "s", "rank": 2}
    del table[missing]
    with pytest.raises(InputError, match=f"no '{missing}'; add a line {missing} ="):
        Spec.from_dict(table)


def test_broken_toml_names_the_line(read):
    with pytest.raises(InputError, match=r"s\.toml: not valid TOML .*line 2"):
        read('name = "s"\nrank = = 2\n')


def test_repeated_key_is_refused(read):
    with pytest.raises(InputError, match="not valid TOML"):
        read('name = "s"\nrank = 2\nrank = 3\n')


def test_other_encoding_is_refused(read):
    with pytest.raises(InputError, match="UTF-8"):
        read('name = "é"\nrank = 2\n'.encode("latin-1"))


def test_missing_file_and_unknown_name(tmp_path):
    with pytest.raises(InputError, match="spec file not found"):
        read_spec(tmp_path / "none.toml")
    with pytest.raises(InputError, match="spec file not found"):
        read_spec("none.toml")
    with pytest.raises(InputError, match="unknown spec 'lrfm'; did you mean 'lrmf'"):
        read_spec("lrfm")
    with pytest.raises(InputError, match=r"unknown spec 'zzz'; valid: .*lrmf"):
        read_spec("zzz")
