"""One posterior file: written whole, read back as it was."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
import xarray as xr

from bayes_lrmf.checks import InputError
from bayes_lrmf.covariates import Covariates
from bayes_lrmf.design import Design
from bayes_lrmf.files import existing_file, written_whole
from bayes_lrmf.gmrf import LaplacianGraph
from bayes_lrmf.lineage import Lineage
from bayes_lrmf.posterior import (
    DrawsState,
    FitRecord,
    GaussianState,
    PointState,
    Posterior,
    VariationalState,
)
from bayes_lrmf.responses import Cells, Responses
from bayes_lrmf.spec import Spec
from bayes_lrmf.unpacking import refuse_bomb

__all__ = ["read_posterior", "write_posterior"]

_N_DRAWS = 200
FORMAT_VERSION = 1
_HDF5 = b"\x89HDF\r\n\x1a\n"


def _strings(values: Any) -> np.ndarray:
    return np.array([str(v) for v in values], dtype=object)


def _lineage_dataset(lineage: Lineage, prefix: str) -> dict[str, Any]:
    return {
        "node": ("node", _strings(lineage.nodes)),
        "child": ("edge", lineage.child),
        "parent": ("edge", lineage.parent),
        "relation": ("edge", _strings(lineage.relation)),
        "weight": ("edge", lineage.weight),
    }


def _lineage_of(data: xr.Dataset) -> Lineage:
    return Lineage(
        nodes=np.asarray(data["node"].values, dtype=object),
        child=data["child"].values.astype(np.int32),
        parent=data["parent"].values.astype(np.int32),
        relation=np.asarray(data["relation"].values, dtype=object),
        weight=data["weight"].values.astype(float),
    )


def _responses_dataset(responses: Responses) -> xr.Dataset:
    variables: dict[str, Any] = {
        "model": ("model", _strings(responses.models)),
        "item_benchmark": ("item_index", _strings(responses.items["benchmark"])),
        "item_name": ("item_index", _strings(responses.items["item"])),
        "item_trials": ("item_index", responses.items["trials"].to_numpy()),
        "unevaluated": ("unevaluated_index", _strings(responses.unevaluated)),
    }
    if responses.dense is not None:
        variables["dense"] = (("model", "item_index"), responses.dense)
    else:
        cells = responses.to_cells()
        for name in ("rows", "cols", "successes", "trials"):
            value = getattr(cells, name)
            if value is not None:
                variables[name] = ("observed", value)
    return xr.Dataset(variables)


def _responses_of(data: xr.Dataset) -> Responses:
    items = pd.DataFrame(
        {
            "benchmark": [str(v) for v in data["item_benchmark"].values],
            "item": [str(v) for v in data["item_name"].values],
            "trials": data["item_trials"].values,
        }
    )
    dense, cells = None, None
    if "dense" in data:
        dense = data["dense"].values
    else:
        trials = data["trials"].values if "trials" in data else None
        cells = Cells(data["rows"].values, data["cols"].values, data["successes"].values, trials)
    return Responses(
        models=np.asarray(data["model"].values, dtype=object),
        items=items,
        dense=dense,
        cells=cells,
        unevaluated=tuple(str(v) for v in data["unevaluated"].values),
    )


def _covariates_of(data: xr.Dataset) -> Covariates:
    return Covariates(
        names=tuple(str(v) for v in data["column"].values),
        values=data["value"].values.astype(float),
        kinds=tuple(str(v) for v in data["kind_name"].values),
        kind=data["kind"].values.astype(np.int32),
    )


def write_posterior(posterior: Posterior, path: str | os.PathLike[str]) -> None:
    """Write one self-contained netCDF file: labels, data, graph, spec, parameters, provenance.

    ``xarray.open_datatree(path)`` opens it; its ``posterior`` group suits ArviZ.

    Parameters
    ----------
    posterior : Posterior
    path : str or path-like

    Raises
    ------
    InputError
        For a folder that cannot be written, or a full disk; a file that stood there stays.
    """
    d = posterior.design
    groups: dict[str, Any] = {
        "/responses": _responses_dataset(d.responses),
        "/core": xr.Dataset(_lineage_dataset(d.core, "core")),
        "/periphery": xr.Dataset(_lineage_dataset(d.periphery, "periphery")),
        "/record": xr.Dataset({"trace": ("iteration", posterior.record.trace)}),
    }
    if d.item_graph is not None:
        g = d.item_graph
        groups["/item_graph"] = xr.Dataset(
            {"row": ("edge", g.rows), "col": ("edge", g.cols), "weight": ("edge", g.weights)}
        )
    if d.covariates is not None:
        c = d.covariates
        groups["/covariates"] = xr.Dataset(
            {
                "column": ("column_index", _strings(c.names)),
                "value": (("model", "column_index"), c.values),
                "kind_name": ("kind_index", _strings(c.kinds)),
                "kind": ("model", c.kind),
            }
        )
    if not posterior.is_point:
        for group, data in posterior.datatree(n_draws=_N_DRAWS).children.items():
            # ArviZ notes the time, and the file is the same for the same seed.
            groups[f"/{group}"] = data.to_dataset().drop_attrs(deep=False)
    state = {
        name: ([f"{name}_{axis}" for axis in range(np.ndim(v))], _compact(v))
        for name, v in posterior.state.values.items()
    }
    groups[f"/{posterior.state.group}"] = xr.Dataset(state)
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = {
        "format_version": FORMAT_VERSION,
        "method": posterior.record.method,
        "converged": int(posterior.record.converged),
        "message": posterior.record.message,
        "spec": json.dumps(posterior.spec.to_dict()),
        "relation_strength": json.dumps(d.strengths),
        "seed": -1 if posterior.seed is None else posterior.seed,
        "versions": json.dumps(dict(posterior.versions)),
        "data_sha256": d.responses.fingerprint(),
    }
    encoding: dict[str, Any] = {}
    for node in tree.subtree:
        numeric = [n for n, v in node.data_vars.items() if v.dtype.kind in "fiu" and v.size > 1000]
        if numeric:
            encoding[node.path] = {n: {"zlib": True, "complevel": 1} for n in numeric}
    tree.attrs["content_sha256"] = _content_digest(tree)
    # In memory first: on a full disk HDF5 ends the process.
    content = io.BytesIO()
    tree.to_netcdf(content, engine="h5netcdf", encoding=encoding)
    with written_whole(path) as temporary:
        temporary.write_bytes(content.getvalue())


def _content_digest(tree: xr.DataTree) -> str:
    """Return the SHA-256, in hex, of all values and of the attributes of the file."""
    digest = hashlib.sha256()
    for node in sorted(tree.subtree, key=lambda node: str(node.path)):
        for name, variable in sorted(node.to_dataset(inherit=False).variables.items(), key=str):
            values = np.asarray(variable.values)
            digest.update(f"{node.path}\0{name}\0{values.shape}\0".encode())
            if values.dtype.kind in "fiub":
                digest.update(np.ascontiguousarray(values).tobytes())
            else:
                digest.update("\0".join(map(str, values.ravel())).encode("utf-8", "replace"))
    known = {k: str(v) for k, v in tree.attrs.items() if k != "content_sha256"}
    digest.update(json.dumps(known, sort_keys=True).encode())
    return digest.hexdigest()


def _packed_size(file: Path) -> float:
    """Return bytes of all arrays of a file once unpacked."""
    sizes = []
    with h5py.File(file) as stream:
        stream.visititems(
            lambda _, thing: sizes.append(thing.nbytes) if isinstance(thing, h5py.Dataset) else None
        )
    return float(sum(sizes))


def _compact(value: np.ndarray) -> np.ndarray:
    value = np.asarray(value)
    return value.astype(np.float32) if value.dtype == np.float64 and value.ndim > 2 else value


def read_posterior(path: str | os.PathLike[str]) -> Posterior:
    """Read a file written by `write_posterior`.

    Parameters
    ----------
    path : str or path-like

    Raises
    ------
    InputError
        If the file is missing, is not a posterior, is of a later format, or is not as it was
        written.
    """
    file, where = existing_file(path, what="posterior file"), str(path)
    try:
        refuse_bomb(file, _packed_size(file))
        with xr.open_datatree(file, engine="h5netcdf", phony_dims="access") as opened:
            tree = opened.load()
        version = int(tree.attrs["format_version"])
    except InputError:
        raise
    except Exception as error:  # what libraries raise on a damaged file they do not say
        with file.open("rb") as opened_file:
            is_hdf5 = opened_file.read(len(_HDF5)) == _HDF5
        what = "not a posterior file, or a damaged one" if is_hdf5 else "not a posterior file"
        raise InputError(what, where=where, fix="give what `bayes-lrmf fit -o` wrote") from error
    if version > FORMAT_VERSION:
        raise InputError(
            f"format {version} is newer than this version reads ({FORMAT_VERSION})",
            where=where,
            fix="upgrade bayes-lrmf",
        )
    try:
        # Files of earlier releases do not hold the digest.
        if tree.attrs.get("content_sha256") not in (None, _content_digest(tree)):
            raise ValueError("another content")
        return _posterior_of(tree)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        StopIteration,
        TypeError,
        ValueError,
    ) as error:
        raise InputError(
            "is a posterior that was damaged or changed",
            where=where,
            fix="fit again, or copy it anew",
        ) from error


def _posterior_of(tree: xr.DataTree) -> Posterior:
    spec_table = json.loads(tree.attrs["spec"])
    spec = Spec.from_dict({k: v for k, v in spec_table.items() if _is_given(k, v, spec_table)})
    responses = _responses_of(tree["responses"].to_dataset())
    core = _lineage_of(tree["core"].to_dataset())
    periphery = _lineage_of(tree["periphery"].to_dataset())
    strengths = json.loads(tree.attrs["relation_strength"])
    graph = LaplacianGraph(core.adjacency(core.strengths(strengths)))
    item_graph = None
    if "item_graph" in tree:
        g = tree["item_graph"].to_dataset()
        n = responses.n_items
        upper = sp.coo_array((g["weight"].values, (g["row"].values, g["col"].values)), shape=(n, n))
        item_graph = LaplacianGraph(upper + upper.T)
    known = _covariates_of(tree["covariates"].to_dataset()) if "covariates" in tree else None
    design = Design(responses, core, periphery, strengths, graph, item_graph, covariates=known)
    if spec.likelihood == "bernoulli":
        design = design.once_per_cell()
    states = (PointState, GaussianState, DrawsState, VariationalState)
    kinds: dict[str, Any] = {s.group: s for s in states}
    group = next(g for g in kinds if g in tree)
    state = kinds[group]({str(n): v.values for n, v in tree[group].data_vars.items()})
    stats = {}
    if "sample_stats" in tree:
        stats = {str(n): v.values for n, v in tree["sample_stats"].data_vars.items()}
    record = FitRecord(
        method=tree.attrs["method"],
        converged=bool(tree.attrs["converged"]),
        message=tree.attrs["message"],
        trace=tree["record"].to_dataset()["trace"].to_numpy(),
        sample_stats=stats,
    )
    seed = int(tree.attrs["seed"])
    versions = json.loads(tree.attrs["versions"])
    return Posterior(design, spec, state, record, None if seed < 0 else seed, versions)


def _is_given(key: str, value: Any, table: Mapping[str, Any]) -> bool:
    # Beside a penalty the hyper-priors are defaults that do not apply.
    return "penalty" not in table or not (isinstance(value, dict) and "median" in value)
