"""Checkpoints: a fit goes on to the same result to the last bit, and no other fit from it."""

from __future__ import annotations

import dataclasses
import errno
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.cli import main
from bayes_lrmf.commands import fitting
from bayes_lrmf.design import make_design
from bayes_lrmf.files import locked
from bayes_lrmf.inference import checkpoint as module
from bayes_lrmf.inference import fit_map, fit_method, fit_nuts, fit_vb
from bayes_lrmf.inference.checkpoint import Checkpoint, Interrupted, Saved, leaves, restored
from bayes_lrmf.inference.vb import _start_values
from bayes_lrmf.inference.vb_fit import VariationalFit
from bayes_lrmf.lineage import Lineage, lineage_from_frame, write_lineage
from bayes_lrmf.progress import Progress
from bayes_lrmf.responses import write_responses
from bayes_lrmf.simulate import simulate
from bayes_lrmf.spec import read_spec
from bayes_lrmf.storage import read_posterior, write_posterior

ROOT = Path(__file__).resolve().parent.parent.parent
LAPLACIAN = dataclasses.replace(read_spec("laplacian"), rank=2)
COUNTS = dataclasses.replace(LAPLACIAN, likelihood="logit_normal")
LRMF = dataclasses.replace(read_spec("lrmf"), rank=2)
KEY = jax.random.key(5)


class Killed(Exception):
    """Stands for a process that ends."""


@pytest.fixture(scope="module")
def simulated():
    """Return a function that gives the design for a spec, always on the same simulated tables."""
    return designed


@functools.cache
def drawn(trials=1):
    return simulate(
        LAPLACIAN, key=jax.random.key(2), n_models=24, n_items=14, trials=trials, n_benchmarks=2
    )


def designed(spec, trials=1):
    data = drawn(trials)
    return make_design(data.responses, spec, lineage=data.lineage)


@functools.cache
def undisturbed(method):
    """Return the fit that nothing stops: by map of one spec, by vb of another."""
    spec = LAPLACIAN if method == "map" else LRMF
    return fit_method(method, designed(spec), spec, key=KEY)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "p.nc.checkpoint"


@pytest.fixture
def killed(monkeypatch, file):
    """Return a function that fits, and is killed after this write of this stage."""

    def fit(method, *arguments, stage, write, error=Killed, **options):
        offer, n = Saved.offer, [0]

        def fatal(self, at, state, *, at_once=False):
            offer(self, at, state, at_once=at_once)
            n[0] += at == stage and not at_once
            if n[0] == write and not at_once:
                raise error

        with monkeypatch.context() as patch:
            patch.setattr(Saved, "offer", fatal)
            with pytest.raises((error, Interrupted)) as caught:
                fit_saved(file, method, *arguments, **options)
        assert file.exists()
        return caught.value

    return fit


def fit_saved(file, method, design, spec, *, key=KEY, seconds=0, progress=None, **options):
    with Checkpoint(file, seconds=seconds) as checkpoint:
        return fit_method(
            method, design, spec, key=key, checkpoint=checkpoint, progress=progress, **options
        )


def assert_same(found, expected):
    assert found.record.message == expected.record.message
    assert found.record.converged == expected.record.converged
    np.testing.assert_array_equal(found.record.trace, expected.record.trace)
    assert set(found.state.values) == set(expected.state.values)
    for name, value in expected.state.values.items():
        np.testing.assert_array_equal(found.state.values[name], value, err_msg=name)
    for name, value in expected.record.sample_stats.items():
        np.testing.assert_array_equal(found.record.sample_stats[name], value, err_msg=name)


# --- to the last bit ---


@pytest.mark.parametrize("write", [pytest.param(1, marks=pytest.mark.slow), 6])
def test_map_goes_on(simulated, killed, file, write, capsys):
    design = simulated(LAPLACIAN)
    expected = undisturbed("map")
    killed("map", design, LAPLACIAN, stage="map", write=write)
    found = fit_saved(file, "map", design, LAPLACIAN, progress=Progress("map"))
    assert_same(found, expected)
    first = capsys.readouterr().err.splitlines()[0]
    assert first == f"resumed from iteration {write} ({file})"
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "trials", "kills"),
    [
        (LRMF, 1, [("vb", 1), ("vb", 9)]),
        pytest.param(LAPLACIAN, 1, [("map", 4), ("vb", 5)], marks=pytest.mark.slow),
        pytest.param(COUNTS, 9, [("vb", 2)], marks=pytest.mark.slow),
    ],
    ids=["lrmf", "laplacian", "counts"],
)
def test_vb_goes_on(simulated, killed, file, spec, trials, kills):
    design = simulated(spec, trials)
    options = {"max_sweeps": 15}
    expected = fit_vb(design, spec, key=KEY, **options)
    for stage, write in kills:
        killed("vb", design, spec, stage=stage, write=write, **options)
        assert_same(fit_saved(file, "vb", design, spec, **options), expected)


@pytest.mark.parametrize("spec", [LAPLACIAN, LRMF], ids=["laplacian", "lrmf"])
def test_arrays_hold_all_that_sweeps_renew(simulated, spec):
    """Every sweep passes through them: what they leave out would be lost without an error."""
    design = simulated(spec)
    fit = VariationalFit.start(
        design, spec, _start_values(design, spec, KEY, Progress("", enabled=False), None)
    )
    fit = fit.swept(learn=True)[0].swept(learn=True)[0]
    if spec is LRMF:
        fit = fit.integrated().swept(learn=True)[0]
    (whole, elbo), (back, again) = fit.swept(learn=True), fit.contiguous().swept(learn=True)
    assert again == pytest.approx(elbo, rel=1e-12)
    assert back.is_final
    for name, value in whole.arrays().items():
        np.testing.assert_allclose(back.arrays()[name], value, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.slow
def test_killed_again_and_again(simulated, killed, file):
    design = simulated(LRMF)
    expected = undisturbed("vb")
    for _ in range(2):
        killed("vb", design, LRMF, stage="vb", write=2)
    assert_same(fit_saved(file, "vb", design, LRMF), expected)


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimised")
def test_svi_goes_on(simulated, killed, file):
    design = simulated(LAPLACIAN)
    options = {"max_steps": 500}
    expected = fit_method("svi", design, LAPLACIAN, key=KEY, **options)
    for stage, write in (("map", 3), ("svi", 1), ("svi", 17), ("svi", 20)):
        killed("svi", design, LAPLACIAN, stage=stage, write=write, **options)
        assert_same(fit_saved(file, "svi", design, LAPLACIAN, **options), expected)
    stop = killed(
        "svi", design, LAPLACIAN, stage="svi", write=3, error=KeyboardInterrupt, **options
    )
    partial = stop.posterior()
    assert partial.record.message.endswith("after 75 steps, interrupted")
    assert not partial.record.converged
    assert_same(fit_saved(file, "svi", design, LAPLACIAN, **options), expected)


SHORT = {"num_warmup": 12, "num_samples": 12, "num_chains": 2, "max_tree_depth": 4}


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimised")
def test_nuts_goes_on_from_its_start_and_from_its_warm_up(simulated, killed, file, monkeypatch):
    spec = dataclasses.replace(LRMF, rank=1)
    design = simulated(spec, 5)
    expected = fit_nuts(design, spec, key=KEY, **SHORT)
    # Every call does one iteration from here on. What went on is killed again.
    monkeypatch.setattr("bayes_lrmf.inference.nuts._SECONDS", 0)
    for stage, write in (("vb", 3), ("nuts", 5)):
        killed("nuts", design, spec, stage=stage, write=write, **SHORT)
    assert_same(fit_saved(file, "nuts", design, spec, **SHORT), expected)


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimised")
def test_nuts_goes_on_among_its_draws(simulated, killed, file, monkeypatch):
    spec = dataclasses.replace(LAPLACIAN, rank=1)
    design = simulated(spec, 5)
    expected = fit_nuts(design, spec, key=KEY, **SHORT)
    assert expected.record.sample_stats["diverging"].shape == (2, 12)
    monkeypatch.setattr("bayes_lrmf.inference.nuts._SECONDS", 0)
    stop = killed("nuts", design, spec, stage="nuts", write=15, error=KeyboardInterrupt, **SHORT)
    partial = stop.posterior()
    assert partial.record.message == "interrupted after 3 draws a chain"
    for name, value in partial.state.values.items():
        np.testing.assert_array_equal(value, expected.state.values[name][:, :3], err_msg=name)
    assert_same(fit_saved(file, "nuts", design, spec, **SHORT), expected)


def test_trees_of_arrays_come_back():
    tree = {"key": jax.random.split(jax.random.key(3), 2), "a": (np.arange(3.0), np.int32(4))}
    back = restored(tree, leaves(tree))
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    np.testing.assert_array_equal(
        jax.random.key_data(back["key"]), jax.random.key_data(tree["key"])
    )
    np.testing.assert_array_equal(back["a"][0], tree["a"][0])
    assert back["a"][1].dtype == np.int32
    jax.random.normal(back["key"][0])


# --- of one fit alone ---


def other_lineage(design):
    edges = pd.DataFrame(
        {"child": design.core.nodes[1:2], "parent": design.core.nodes[0], "relation": "merge"}
    )
    tree: Lineage = lineage_from_frame(edges)
    return make_design(design.responses, LAPLACIAN, lineage=tree)


def other_response(design):
    dense = design.responses.dense.copy()
    at = tuple(np.argwhere(dense == 1)[0])
    dense[at] = 0
    return dataclasses.replace(design, responses=dataclasses.replace(design.responses, dense=dense))


def test_another_fit_is_refused_and_the_file_stays(simulated, killed, file):
    design = simulated(LAPLACIAN)
    killed("vb", design, LAPLACIAN, stage="vb", write=1)
    before = file.read_bytes()
    wide = dataclasses.replace(LAPLACIAN, rank=3)
    changes = {
        "method": ("map", design, LAPLACIAN, {}),
        "data": ("vb", other_response(design), LAPLACIAN, {}),
        "lineage": ("vb", other_lineage(design), LAPLACIAN, {}),
        "spec": ("vb", design, wide, {}),
        "seed": ("vb", design, LAPLACIAN, {"key": jax.random.key(6)}),
        "options": ("vb", design, LAPLACIAN, {"tolerance": 1e-3}),
    }
    for named, (method, d, spec, options) in changes.items():
        with pytest.raises(InputError, match=f"a checkpoint of another fit .*{named}") as caught:
            fit_saved(file, method, d, spec, **options)
        assert "\n" not in str(caught.value)
        assert file.read_bytes() == before
    fit_saved(file, "vb", design, LAPLACIAN)


def test_other_versions_and_features_are_refused(simulated, killed, file, monkeypatch):
    design = simulated(LRMF)
    killed("vb", design, LRMF, stage="vb", write=1)
    known = design.covariates
    other = dataclasses.replace(known, values=known.values + 1)
    with pytest.raises(InputError, match=r"another fit \(features differ\)"):
        fit_saved(file, "vb", dataclasses.replace(design, covariates=other), LRMF)
    with monkeypatch.context() as patch:
        patch.setattr(module, "FORMAT_VERSION", module.FORMAT_VERSION + 1)
        with pytest.raises(InputError, match=r"another fit \(format differ\)"):
            fit_saved(file, "vb", design, LRMF)
    monkeypatch.setattr(module, "package_versions", lambda: {"jax": "0.0"})
    with pytest.raises(InputError, match=r"another fit \(versions differ\)"):
        fit_saved(file, "vb", design, LRMF)


def test_a_start_is_an_option(simulated, killed, file):
    design = simulated(LAPLACIAN)
    start = fit_map(design, LAPLACIAN, key=KEY, max_iterations=3)
    killed("vb", design, LAPLACIAN, stage="vb", write=1, start=start)
    with pytest.raises(InputError, match=r"options differ"):
        fit_saved(file, "vb", design, LAPLACIAN)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half of it", b"words"])
def test_no_checkpoint(simulated, file, content):
    file.write_bytes(content)
    with pytest.raises(InputError, match="not a checkpoint; remove it"):
        fit_saved(file, "map", simulated(LAPLACIAN), LAPLACIAN)


def test_two_fits_at_once(simulated, file):
    with Checkpoint(file), pytest.raises(InputError, match=f"process {os.getpid()} is writing it"):
        fit_saved(file, "map", simulated(LAPLACIAN), LAPLACIAN)
    assert list(file.parent.iterdir()) == []


def test_outside_of_its_context(simulated, file):
    with pytest.raises(InputError, match="not open; use it as `with checkpoint:`"):
        fit_map(simulated(LAPLACIAN), LAPLACIAN, key=KEY, checkpoint=Checkpoint(file))
    with pytest.raises(InputError, match="seconds is -1"):
        Checkpoint(file, seconds=-1)


# --- when it is written ---


def test_a_short_fit_writes_nothing_and_reads_no_data(simulated, file, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr(module, "written_whole", refuse)
    for name in ("digest", "design_digests"):
        monkeypatch.setattr(module, name, refuse)
    fit_saved(file, "map", simulated(LAPLACIAN), LAPLACIAN, seconds=1000.0)


def test_seconds_between_writes_and_their_share_of_the_time(file, monkeypatch):
    now, cost, written = [0.0], [0.1], []
    monkeypatch.setattr(module, "monotonic", lambda: now[0])

    def state():
        now[0] += cost[0]
        written.append(now[0])
        return {}, {"a": np.zeros(3)}

    saved = Saved(file, 30.0, dict, Progress("vb", enabled=False))

    def run(seconds):
        stop = now[0] + seconds
        while now[0] < stop:
            now[0] += 1.0
            saved.offer("vb", state)

    run(29.0)
    assert written == []
    run(70.0)
    assert len(written) == 3
    cost[0] = 10.0
    run(2000.0)
    # 5 % of the time at most.
    assert 8 <= len(written) - 3 <= 10
    n = len(written)
    saved.offer("vb", state, at_once=True)
    assert len(written) == n + 1


@pytest.mark.slow
def test_seconds_of_all_processes_are_counted(simulated, killed, file, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    design = simulated(LAPLACIAN)
    now[0] = 7.0
    offer = Saved.offer

    def slow(self, *arguments, **options):
        now[0] += 1.0
        offer(self, *arguments, **options)

    monkeypatch.setattr(Saved, "offer", slow)
    killed("map", design, LAPLACIAN, stage="map", write=5)
    now[0] = 1000.0
    found = fit_saved(file, "map", design, LAPLACIAN)
    # What ends the search is not saved.
    assert found.record.seconds == len(found.record.trace) - 1


def test_a_full_disk_does_not_end_the_fit(simulated, file, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    design = simulated(LAPLACIAN)
    expected = undisturbed("map")
    with monkeypatch.context() as patch:
        patch.setattr(module.np, "savez", full)
        found = fit_saved(file, "map", design, LAPLACIAN, progress=Progress("map"))
    assert_same(found, expected)
    notes = [line for line in capsys.readouterr().err.splitlines() if "note: " in line]
    assert len(notes) == 1
    assert "No space left on device" in notes[0]
    assert list(file.parent.iterdir()) == []


# --- Ctrl-C ---


def test_ctrl_c_leaves_the_posterior_so_far(simulated, killed, file):
    design = simulated(LRMF)
    stop = killed("vb", design, LRMF, stage="vb", write=4, error=KeyboardInterrupt)
    assert str(stop) == "interrupted after 4 sweeps"
    partial = stop.posterior()
    short = fit_vb(design, LRMF, key=KEY, max_sweeps=4)
    np.testing.assert_array_equal(partial.record.trace, short.record.trace)
    for name, value in short.state.values.items():
        np.testing.assert_array_equal(partial.state.values[name], value)
    assert partial.record.message.endswith("after 4 sweeps, interrupted")
    assert not partial.record.converged
    write_posterior(partial, file.with_name("partial.nc"))
    assert not read_posterior(file.with_name("partial.nc")).record.converged
    assert_same(fit_saved(file, "vb", design, LRMF), undisturbed("vb"))


def test_ctrl_c_in_a_stage_before_leaves_no_posterior(simulated, killed):
    design = simulated(LRMF)
    stop = killed("vb", design, LRMF, stage="map", write=4, error=KeyboardInterrupt)
    assert str(stop) == "interrupted after 4 iterations"
    assert stop.posterior is None


def test_ctrl_c_without_a_checkpoint(simulated, monkeypatch, tmp_path):
    def offer(self, stage, state, *, at_once=False):
        if not at_once:
            raise KeyboardInterrupt

    monkeypatch.setattr(Saved, "offer", offer)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Interrupted) as caught:
        fit_map(simulated(LAPLACIAN), LAPLACIAN, key=KEY)
    assert caught.value.posterior().record.message == "stopped after 1 iterations: interrupted"
    assert list(tmp_path.iterdir()) == []


# --- the command ---


@pytest.fixture
def tables(tmp_path, monkeypatch):
    data = drawn()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    write_responses(data.responses, "r.csv")
    write_lineage(data.lineage, "l.csv")
    return tmp_path


def command(*options):
    arguments = ["fit", "r.csv", "--lineage", "l.csv", "--spec", "laplacian", "--num-chains", "1"]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--method", "vb", "-o", "p.nc", *options])
    return caught.value.code


@pytest.mark.slow
def test_the_command_goes_on_after_ctrl_c(tables, monkeypatch, capsys):
    (tables / "p.nc").write_text("an old one")
    offer, n = Saved.offer, [0]

    def fatal(self, stage, state, *, at_once=False):
        offer(self, stage, state, at_once=at_once)
        n[0] += stage == "vb" and not at_once
        if n[0] == 5 and not at_once:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Saved, "offer", fatal)
        assert command() == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "bayes-lrmf: interrupted after 5 sweeps; the posterior so far, not converged, is in "
        "p.partial.nc; the same command goes on from p.nc.checkpoint"
    )
    assert (tables / "p.nc").read_text() == "an old one"
    partial = read_posterior("p.partial.nc")
    assert len(partial.record.trace) == 5
    assert partial.seed == 0
    assert command("--seed", "1") == 2
    assert "p.nc.checkpoint: a checkpoint of another fit (seed differ" in capsys.readouterr().err
    assert command("--seed", "1", "--no-checkpoint") in (0, 3)
    (tables / "p.nc").unlink()
    capsys.readouterr()
    (tables / ".p-being-written-abcd1234.nc").touch()
    assert command() in (0, 3)
    assert "resumed from sweep 5 (p.nc.checkpoint)" in capsys.readouterr().err
    resumed = (tables / "p.nc").read_bytes()
    assert sorted(p.name for p in tables.iterdir()) == ["l.csv", "p.nc", "p.partial.nc", "r.csv"]
    assert command("--no-checkpoint") in (0, 3)
    assert (tables / "p.nc").read_bytes() == resumed


def test_ctrl_c_before_there_is_anything(tables, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("bayes_lrmf.inference.vb._Run.advanced", interrupt)
    monkeypatch.setattr(Saved, "offer", lambda *_, **__: None)
    assert command("--no-checkpoint") == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "bayes-lrmf: interrupted after 0 sweeps; nothing was written"
    )
    assert sorted(p.name for p in tables.iterdir()) == ["l.csv", "r.csv"]


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_end_keeps_the_checkpoint(tables, monkeypatch, capsys):
    (tables / "p.nc").write_text("an old one")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert command("--checkpoint-seconds", "0") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("bayes-lrmf: p.nc: could not be written to its end (No space left on")
    assert (tables / "p.nc").read_text() == "an old one"
    names = ["l.csv", "p.nc", "p.nc.checkpoint", "r.csv"]
    assert sorted(p.name for p in tables.iterdir()) == names
    assert command() in (0, 3)
    assert "resumed from sweep" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(tables, monkeypatch, capsys):
    monkeypatch.setattr("bayes_lrmf.console.os.access", lambda *_: False)
    assert command() == 2
    assert capsys.readouterr().err == (
        "bayes-lrmf: p.nc: cannot write there; choose another folder\n"
    )


def test_ctrl_c_between_two_stages_keeps_the_checkpoint(tables, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bayes_lrmf.inference.vb_fit.VariationalFit.start", interrupt)
        assert command("--checkpoint-seconds", "0") == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "bayes-lrmf: interrupted between two steps; the same command goes on from p.nc.checkpoint"
    )
    assert (tables / "p.nc.checkpoint").exists()


def test_a_partial_posterior_that_cannot_be_written_is_said(tables, capsys):
    def broken():
        raise InputError("no room", where="p.partial.nc")

    fitting._interrupted(Interrupted("after 2 sweeps", broken), "p.nc", 0, goes_on=False)
    line = "interrupted after 2 sweeps; the posterior so far is lost: p.partial.nc: no room"
    assert capsys.readouterr().err.splitlines()[-1] == f"bayes-lrmf: {line}"


@pytest.mark.parametrize("options", [[], ["--no-checkpoint"]])
def test_two_fits_to_one_output_are_refused(tables, capsys, options):
    with locked("p.nc.checkpoint", fix="wait"):
        assert command(*options) == 2
    assert "name another output" in capsys.readouterr().err.splitlines()[-1]


NO_IDENTITY = '{"stage": "vb", "info": {}, "identity": 3, "seconds": 1}'


@pytest.mark.parametrize("header", ["[]", NO_IDENTITY, None])
def test_other_files_are_no_checkpoints(file, header):
    with file.open("wb") as stream:
        if header is None:
            np.save(stream, np.arange(3))
        else:
            np.savez(stream, header=np.array(header))
    with pytest.raises(InputError, match="not a checkpoint"), Checkpoint(file) as checkpoint:
        checkpoint.of(dict, Progress("t", enabled=False))


def test_the_interrupted_line_names_no_checkpoint_that_is_not_used(tables, capsys):
    (tables / "p.nc.checkpoint").write_text("of another fit")
    fitting._interrupted(Interrupted("after 1 sweep"), "p.nc", 0, goes_on=False)
    assert capsys.readouterr().err.endswith("after 1 sweep; nothing was written\n")


@pytest.mark.slow
def test_a_real_limit_on_the_size_of_files(tables):
    """The system refuses every file of more than 20 kB: the answer is a line, not a crash."""
    limited = (
        "import resource, sys\n"
        "from bayes_lrmf.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "main(sys.argv[1:])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, "fit", "r.csv", "--method", "map", "-o", "p.nc"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "could not be written to its end (File too large)" in done.stderr.splitlines()[-1]
    assert sorted(p.name for p in tables.iterdir()) == ["l.csv", "r.csv"]


@pytest.mark.slow
def test_a_real_process_that_is_stopped(tables):
    # Large enough not to be done before the signal comes.
    data = simulate(LAPLACIAN, key=jax.random.key(2), n_models=120, n_items=150)
    write_responses(data.responses, "r.csv")
    write_lineage(data.lineage, "l.csv")
    # Tests that run in the background inherit that Ctrl-C is ignored.
    listening = (
        "import signal, sys\n"
        "from bayes_lrmf.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "main(sys.argv[1:])\n"
    )
    fit = [
        sys.executable, "-c", listening, "fit", "r.csv", "--lineage", "l.csv", "--method", "vb",
        "--checkpoint-seconds", "0", "-o",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = {"env": environment, "text": True, "stderr": subprocess.PIPE}
    subprocess.run([*fit, "q.nc"], check=False, **options)
    for number in (signal.SIGKILL, signal.SIGINT):
        first = subprocess.Popen([*fit, "p.nc"], **options)
        while not Path("p.nc.checkpoint").exists() and first.poll() is None:
            time.sleep(0.01)
        first.send_signal(number)
        first.communicate()
        assert first.returncode == (130 if number == signal.SIGINT else -number)
        second = subprocess.run([*fit, "p.nc"], check=False, **options)
        assert "resumed from" in second.stderr
        assert Path("p.nc").read_bytes() == Path("q.nc").read_bytes()
        left = {p.name for p in tables.iterdir()} - {"p.partial.nc"}
        assert left == {"l.csv", "r.csv", "p.nc", "q.nc"}
        Path("p.nc").unlink()
