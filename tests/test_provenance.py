"""Files of every format open for good and say what they said; what made them is told apart."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from analyses import kept_posteriors
from analyses.kept_posteriors import CASES, N_DRAWS, path_of, told
from bayes_lrmf.cli import main
from bayes_lrmf.design import make_design
from bayes_lrmf.provenance import design_digests, package_versions, spec_digest
from bayes_lrmf.spec import read_spec
from bayes_lrmf.storage import FORMAT_VERSION, read_posterior, write_posterior

FILES = [(n, v) for v in range(1, FORMAT_VERSION + 1) for n in CASES]


@pytest.mark.parametrize(("name", "version"), FILES)
def test_files_of_every_format_say_what_they_said(name, version, tmp_path):
    path = path_of(name, version)
    then = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    posterior = read_posterior(path)
    now = json.loads(json.dumps(told(posterior)))
    assert now["provenance"] == then["provenance"]
    assert now["parameters"] == then["parameters"]
    assert (now["converged"], now["message"]) == (then["converged"], then["message"])
    old, new = (pd.DataFrame(one["scores"]) for one in (then, now))
    assert new[["model", "benchmark"]].equals(old[["model", "benchmark"]])
    # Later versions of JAX may draw other random numbers.
    error = 0 if name == "point" else 8 * 0.5 / N_DRAWS**0.5
    for column in old.columns.drop(["model", "benchmark"]):
        np.testing.assert_allclose(new[column], old[column], rtol=0, atol=1e-4 + error)
    write_posterior(posterior, tmp_path / "again.nc")
    assert told(read_posterior(tmp_path / "again.nc"))["provenance"] == then["provenance"]


def test_kept_files_are_of_all_kinds_and_take_little_room():
    posteriors = {name: read_posterior(path_of(name)) for name in CASES}
    assert {p.state.group for p in posteriors.values()} == {
        "point", "gaussian", "draws", "variational",
    }  # fmt: skip
    sizes = [path.stat().st_size for path in kept_posteriors.FOLDER.iterdir()]
    assert sum(sizes) < 600_000


def test_digests_tell_data_lineage_features_and_spec_apart(kin_data):
    spec = read_spec("directed")
    names = kin_data.lineage.nodes
    features = pd.DataFrame({"params_b": np.arange(1.0, len(names) + 1)}, index=names)

    def digests(responses=kin_data.responses, lineage=kin_data.lineage, features=features):
        return design_digests(make_design(responses, spec, lineage=lineage, features=features))

    first = digests()
    assert first["data"] == kin_data.responses.fingerprint()
    assert digests() == first
    seen = kin_data.responses.to_cells()
    fewer = kin_data.responses.hide(cells=(seen.rows[:1], seen.cols[:1]))
    wrong = kin_data.lineage.shuffled(np.random.default_rng(0))
    for other, changed in (
        (digests(responses=fewer), {"data"}),
        # Features of models are taken in the order that the lineage puts them in.
        (digests(lineage=wrong), {"lineage", "features"}),
        (digests(features=features + 1), {"features"}),
    ):
        assert {name for name in first if other[name] != first[name]} == changed
    other = dataclasses.replace(spec, rank=spec.rank + 1)
    assert len({spec_digest(one) for one in (spec, other, read_spec("lrmf"))}) == 3
    assert spec_digest(read_spec("directed")) == spec_digest(spec)


def test_code_is_told_by_its_version_and_its_source(monkeypatch, tmp_path):
    from bayes_lrmf import provenance

    versions = package_versions()
    assert set(versions) >= {"bayes-lrmf", "jax", "numpyro"}
    (tmp_path / "one.py").write_text("x = 1\n")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "one.py"))
    digests = []
    for text in ("x = 1\n", "x = 2\n"):
        (tmp_path / "one.py").write_text(text)
        provenance._source_digest.cache_clear()
        digests.append(package_versions()["bayes-lrmf source"])
    provenance._source_digest.cache_clear()
    assert len({versions["bayes-lrmf source"], *digests}) == 3


def test_the_command_prints_what_made_a_file(capsys):
    path = path_of("variational")
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", str(path), "--provenance"])
    assert ended.value.code == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[:3])
    assert lines == {"method": "vb", "seed": "7", "spec": "directed"}
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", str(path), "--provenance", "--lineage"])
    assert ended.value.code == 2
    assert "two answers" in capsys.readouterr().err
