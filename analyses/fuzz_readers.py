"""Every reader of the package behind one face: good files, and what to do with bad ones."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bayes_lrmf.checks import InputError
from bayes_lrmf.cli import main
from bayes_lrmf.features import read_features
from bayes_lrmf.lineage import read_aliases, read_lineage, write_lineage
from bayes_lrmf.plan import AT_RANDOM
from bayes_lrmf.responses import read_responses, responses_from_frame, write_responses
from bayes_lrmf.similarity import item_graph, read_item_texts
from bayes_lrmf.sources.every_eval_ever import read_every_eval_ever
from bayes_lrmf.sources.hub import read_hub_lineage
from bayes_lrmf.sources.hub_cards import parents_of_card
from bayes_lrmf.sources.imported import Imported, reconciliation
from bayes_lrmf.sources.inspect_ai_logs import read_inspect
from bayes_lrmf.sources.leaderboard import BENCHMARKS, read_leaderboard
from bayes_lrmf.sources.leaderboard_details import read_leaderboard_details
from bayes_lrmf.sources.lighteval import read_lighteval
from bayes_lrmf.sources.lm_eval import read_lm_eval
from bayes_lrmf.sources.mergekit import last_merge
from bayes_lrmf.spec import Spec, read_spec
from bayes_lrmf.storage import read_posterior

__all__ = ["READERS", "Reader", "lay_inputs", "posterior_file"]

_DATA = Path(__file__).resolve().parent.parent / "tests" / "sources" / "data"
_DATE = "2026-11-26T12-15-05.349374"
_NO_TABLE = (
    ValueError,
    TypeError,
    AttributeError,
    RecursionError,
    OverflowError,
    pa.ArrowException,
)


@dataclass(frozen=True)
class Reader:
    """What is attacked.

    Attributes
    ----------
    form : str
        What the input is, as `mutated` takes it.
    seeds : callable
        Returns good inputs.
    read : callable
        Takes an input and an empty folder, lays the input out as files there, reads them and uses
        what they give; may raise `InputError`.
    share : float
        Inputs relative to other readers: less where one takes long.
    bombs : callable
        Returns inputs that are read as they are.
    """

    form: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], None]
    share: float = 1.0
    bombs: Callable[[], list[bytes]] = list


# --- tables ---

_WIDE = b"model,arc:1,arc:2,gsm8k:1\nm1,1,0,1\nm2,,1,0\nm3,0.5,1,\n"
_LONG = b"model,benchmark,item,response\nm1,arc,1,1\nm1,arc,2,0\nm2,arc,1,0.25\nm2,b c,x,\n"
_COUNTS = b"model,benchmark,successes,trials\nm1,arc,3,10\nm2,arc,,\nm2,gsm8k,7,7\n"
_BOTH = b"model,benchmark,item,successes,trials\nm1,arc,1,1,1\nm1,arc,2,1.5,4\nm2,arc,1,0,3\n"
_TREE = (
    b"child,parent,relation,weight\nm2,m1,finetune,\nm3,m1,merge,0.25\nm3,m2,merge,0.75\n"
    b"m4,m3,quantized,1\nm4,m4,ancestor,1\n"
)
_ALIASES = b"alias,name\np,q\nq,r\nm9,m1\n"
_MODELS = (
    b"model,params_b,type,date,moe\nm1,7,base,2024-03-21,true\nm2,,chat,2024-03-21T06:05:50Z,false\n"
    b"m3,1.5,,,\n"
)
_ITEMS = b"item_id,prompt\narc:1,What is 2 + 2?\narc:2,\ngsm8k:1,Tom has 3 apples\n"
_VECTORS = b"benchmark,item,e1,e2\narc,1,0.5,1\narc,2,-1,2\ngsm8k,1,0,0\n"


def _csv(name: str, read: Callable[[Path], None]) -> Callable[[bytes, Path], None]:
    def attack(data: bytes, folder: Path) -> None:
        path = folder / (name + ".gz" if data[:2] == b"\x1f\x8b" else name)
        path.write_bytes(data)
        read(path)

    return attack


def _parquet(read: Callable[[Path], None]) -> Callable[[bytes, Path], None]:
    """Return an attack by a JSON mapping of columns, or by the bytes of a file."""

    def attack(data: bytes, folder: Path) -> None:
        path = folder / "t.parquet"
        _lay_parquet(data, path)
        read(path)

    return attack


def _lay_parquet(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    if data.startswith(b"PAR1"):
        return
    # Not every tree is a table; what is none stays the text it is.
    with contextlib.suppress(*_NO_TABLE):
        tree = json.loads(data)
        if isinstance(tree, list):
            table = pa.Table.from_pylist(tree)
        else:
            columns = {name: _arrow(values) for name, values in tree.items()}
            width = max((len(column) for column in columns.values()), default=0)
            table = pa.table(
                {
                    n: pa.concat_arrays([c, pa.nulls(width - len(c), c.type)])
                    for n, c in columns.items()
                }
            )
        pq.write_table(table, path)


def _arrow(values: Any) -> pa.Array:
    values = values if isinstance(values, list) else [values]
    if values and all(v is None or str(v)[:5] == "2024-" for v in values):
        with contextlib.suppress(ValueError):
            return pa.array(pd.to_datetime(pd.Series(values), format="ISO8601"))
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return pa.array([None if v is None else str(v) for v in values])


def _columns(*tables: bytes) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        frames = [pd.read_csv(io.BytesIO(table)) for table in tables]
        return [
            json.dumps(
                {c: [None if pd.isna(v) else v for v in f[c].tolist()] for c in f}, default=str
            ).encode()
            for f in frames
        ] + [f.to_parquet() for f in frames]

    return seeds


def _read_responses(path: Path) -> None:
    table = read_responses(path)
    repr(table)
    again = path.with_name("again.parquet" if path.suffix == ".parquet" else "again.csv")
    write_responses(table, again)
    found = read_responses(again)
    if found.fingerprint() != table.fingerprint():
        raise AssertionError("what was written is not read back")


def _read_lineage(path: Path) -> None:
    tree = read_lineage(path, aliases={"m9": "m1"})
    tree.summary(list(tree.nodes))
    tree.layout()
    write_lineage(tree, path.with_name("again.csv"))
    if len(tree.child):
        found = read_lineage(path.with_name("again.csv"))
        if sorted(found.nodes) != sorted(
            set(tree.nodes[tree.child]) | set(tree.nodes[tree.parent])
        ):
            raise AssertionError("what was written is not read back")


def _read_items(path: Path) -> None:
    known = responses_from_frame(pd.read_csv(io.BytesIO(_WIDE))).items
    item_graph(known, read_item_texts(path))


def _gzipped_bombs() -> list[bytes]:
    """Return files of some 500 KB that unpack to some 500 MB."""
    found = []
    for header, line in ((b"model,arc:1\n", b"m,1\n"), (b"", b"a"), (b"", b"\n"), (b"", b",")):
        out = io.BytesIO()
        with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=6) as stream:
            stream.write(header)
            for _ in range(500):
                stream.write(line * (1_000_000 // len(line)))
        found.append(out.getvalue())
    return found


def _parquet_bombs() -> list[bytes]:
    """Return files of some KB that hold up to 300 million rows."""
    zeros = np.zeros(10_000_000, np.int32)
    long = pa.array(["x" * 400_000])
    found = []
    for columns, times in (
        ({"model": pa.DictionaryArray.from_arrays(zeros, ["m"]), "arc:1": pa.array(zeros)}, 10),
        ({"model": pa.DictionaryArray.from_arrays(zeros[:500_000], long)}, 1),
        ({"doc": pa.DictionaryArray.from_arrays(zeros[:500_000], long), "acc": zeros[:500_000]}, 1),
        ({"child": pa.nulls(10_000_000, pa.string())}, 20),
        ({"model": pa.nulls(10_000_000), "arc:1": pa.nulls(10_000_000, pa.int8())}, 30),
    ):
        out, table = io.BytesIO(), pa.table(columns)
        with pq.ParquetWriter(out, table.schema, compression="zstd") as writer:
            for _ in range(times):
                writer.write_table(table)
        found.append(out.getvalue())
    return found


def _csv_bombs() -> list[bytes]:
    """Return plain files of 1 MB whose rows or columns are many."""
    return [
        b"model,"
        + b",".join(b"a:%d" % i for i in range(100_000))
        + b"\nm"
        + b",1" * 100_000
        + b"\n",
        b"model,arc:1\n" + b"m,1\n" * 240_000,
        b"model,arc:1\n" + b"".join(b"%d,\n" % i for i in range(120_000)) + b"m,1\n",
        b"model,benchmark,item,response\n"
        + b"".join(b"%d,%d,%d,1\n" % (i, i, i) for i in range(45_000)),
        b"model,benchmark,item,response\n" + b"m,a,b,1\n" * 120_000,
        b"child,parent,relation\n" + b"".join(b"%d,%d,merge\n" % (i + 1, i) for i in range(45_000)),
        b"child,parent,relation\n" + b"".join(b"m,%d,merge\n" % i for i in range(60_000)),
        b"alias,name\n" + b"".join(b"%d,%d\n" % (i, i + 1) for i in range(60_000)),
        b"model,n\n" + b'"' + b"a" * 900_000 + b'",1\n',
        b"model,n\n" + b'"' * 900_001 + b",1\n",
        b"," * 900_000,
        b"\n" * 900_000,
        b"\0" * 900_000,
    ]


def _table_bombs() -> list[bytes]:
    return _csv_bombs() + _gzipped_bombs()


# --- documents ---

_SPEC = b"""name = "s"
rank = 2
likelihood = "beta_binomial"
lineage = "directed"
features = ["params_b"]
kind = "type"
ability = true
kappa = 0.2
[factor_sd]
median = 0.5
log_sd = 0.7
[relation_strength]
merge = 0.5
"""
_PENALTY = b'name = "p"\nrank = 3\n[penalty]\nmodels = 1\nitems = 0.5\nridge = 0.1\n'
_RECIPES = (
    b"""merge_method: slerp
base_model: org/a
slices:
  - sources:
      - model: org/a
        layer_range: [0, 8]
      - model: org/b@main+lora
        layer_range: [0, 8]
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 1]
    - value: 0.5
""",
    b"""name: inner
merge_method: linear
models:
  - model: org/c
    parameters: {weight: 0.3}
  - model: org/d
---
merge_method: dare_ties
base_model: org/a
models:
  - model: inner
    parameters: {weight: [0.1, 0.9], density: 0.5}
  - model: {model: {path: org/b, revision: main}, lora: {path: org/l}}
    parameters: {weight: 1e-3}
parameters: {normalize: true, lambda: 1.0}
""",
)


def _documents(name: str, read: Callable[[Path], Any]) -> Callable[[bytes, Path], None]:
    def attack(data: bytes, folder: Path) -> None:
        (folder / name).write_bytes(data)
        read(folder / name)

    return attack


def _read_spec(path: Path) -> None:
    spec = read_spec(path)
    if Spec.from_dict(spec.to_dict()) != spec and spec.penalty is None:
        raise AssertionError("a spec is not what it says")


def _read_merge(path: Path) -> None:
    merge = last_merge(path)
    if abs(sum(merge.weights) - 1) > 1e-6 or min(merge.weights) <= 0:
        raise AssertionError(f"shares {merge.weights}")
    merge.edges("kid")


def _yaml_bombs() -> list[bytes]:
    laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    laughs += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    return [
        "\n".join(laughs).encode(),
        b"[" * 400_000,
        b"{a: " * 200_000,
        b"- " * 400_000,
        b"a: &a [*a]\n",
        b"&a " * 300_000,
        b"? " * 300_000,
        b"a: " + b"9" * 900_000,
        b'"' + b"\\x41" * 200_000,
        b"--- a\n" * 150_000,
        b"a: 1\n" * 150_000,
        b"<<: " * 200_000,
        b"{" + b", ".join(b"k%d: %d" % (i, i) for i in range(60_000)) + b"}",
        b"a: 1:" + b"59:" * 200_000 + b"1",
        b"a: " + b"1_" * 400_000,
    ]


def _toml_bombs() -> list[bytes]:
    return [
        b'name = "s"\nrank = ' + b"[" * 500_000,
        b'name = "s"\nrank = ' + b"9" * 900_000,
        b"a." * 400_000 + b"a = 1\n",
        b"[" + b"a." * 20_000 + b"a]\nb = 1\n",
        b"{a=" * 100_000,
        b"".join(b"k%d = 1\n" % i for i in range(80_000)),
        b"".join(b"[a%d]\n" % i for i in range(80_000)),
        b"x = " + b"{a = " * 10_000 + b"1" + b"}" * 10_000,
        b'name = "' + b"\\u0041" * 150_000 + b'"\nrank = 1\n',
        b"#" * 900_000,
        b"rank = 1e" + b"9" * 800_000,
        b"rank = " + b"1_" * 400_000 + b"1",
    ]


def _json_bombs() -> list[bytes]:
    return [
        b"[" * 500_000 + b"]" * 500_000,
        b'{"a":' * 150_000 + b"1" + b"}" * 150_000,
        b"9" * 900_000,
        b"1e" + b"9" * 900_000,
        b"[" + b"1," * 400_000 + b"1]",
        b'{"results": {' + b'"a": {}, ' * 100_000 + b'"b": 1}, "versions": {}}',
        b'"' + b"\\u0000" * 150_000 + b'"',
        b"\xff\xfe" + "[1]".encode("utf-16-le"),
    ]


# --- folders of other tools ---


def _use(imported: Imported) -> None:
    known = responses_from_frame(pd.read_csv(io.BytesIO(_WIDE)))
    reconciliation(imported, known=known)
    if len(imported.responses):
        responses_from_frame(imported.responses)
    if len(imported.counts):
        responses_from_frame(imported.counts)
    imported.responses.to_csv(io.BytesIO(), index=False)


def _bytes_of(*files: str) -> Callable[[], list[bytes]]:
    return lambda: [(_DATA / file).read_bytes() for file in files]


def _lm_eval(role: str) -> Callable[[bytes, Path], None]:
    def attack(data: bytes, folder: Path) -> None:
        place = folder / "org__alpha"
        place.mkdir()
        if role != "results":
            results = (_DATA / f"lm_eval/org__alpha/results_{_DATE}.json").read_bytes()
            (place / f"results_{_DATE}.json").write_bytes(results)
        name = {
            "results": f"results_{_DATE}.json",
            "samples": f"samples_sums_{_DATE}.jsonl",
            "array": f"samples_sums_{_DATE}.json",
            "parquet": f"samples_sums_{_DATE}.parquet",
        }[role]
        if role == "parquet":
            _lay_parquet(data, place / name)
        else:
            (place / name).write_bytes(data)
        _use(read_lm_eval(folder))

    return attack


def _sample_rows(n: int = 4) -> list[bytes]:
    text = (_DATA / f"lm_eval/org__alpha/samples_sums_{_DATE}.jsonl").read_text()
    return [b"[" + b",".join(line.encode() for line in text.splitlines()[:n]) + b"]"]


def _lighteval(role: str) -> Callable[[bytes, Path], None]:
    def attack(data: bytes, folder: Path) -> None:
        results = folder / "results" / "org" / "alpha"
        details = folder / "details" / "org" / "alpha" / _DATE
        results.mkdir(parents=True)
        details.mkdir(parents=True)
        if role == "results":
            (results / f"results_{_DATE}.json").write_bytes(data)
        else:
            good = (_DATA / "lighteval/results_alpha.json").read_bytes()
            (results / f"results_{_DATE}.json").write_bytes(good)
            _lay_parquet(data, details / f"details_sums|0_{_DATE}.parquet")
        _use(read_lighteval(folder))

    return attack


def _detail_rows() -> list[bytes]:
    plain = [
        {"example": "Which sinks?", "choices": ["wood", "iron"], "full_prompt": "Which sinks?",
         "gold": 1, "hash": "c0ffee", "metrics": {"acc": 1, "acc_norm": 0.0}},
        {"example": "Which burns?", "choices": ["wax", "ice"], "full_prompt": "Which burns?",
         "gold": 0, "hash": "beef", "metrics": {"acc": 0, "acc_norm": 1.0}},
    ]  # fmt: skip
    flat = [{"example": r["example"], "choices": r["choices"], "acc": 1, "em": 0.5} for r in plain]
    told = "{'acc': 1, 'f1': nan}"
    text = [{**one, "choices": str(one["choices"]), "metrics": told} for one in plain]
    new = [
        {
            "doc": {"query": one["example"], "choices": one["choices"], "id": str(i)},
            "metric": {"acc": i},
        }
        for i, one in enumerate(plain)
    ]
    return [json.dumps(rows).encode() for rows in (plain, flat, text, new)]


def _read_details(data: bytes, folder: Path) -> None:
    if b"doc_id" in data:
        split = folder / "org__beta__leaderboard_arc" / "2026_11_26T12_15_05.349374"
        split.mkdir(parents=True)
        _lay_parquet(data, split / "0000.parquet")
    else:
        place = folder / "details_org__alpha" / _DATE
        place.mkdir(parents=True)
        _lay_parquet(data, place / f"details_harness|arc:challenge|25_{_DATE}.parquet")
    _use(read_leaderboard_details(folder))


def _read_ever(data: bytes, folder: Path) -> None:
    record = next((_DATA / "every_eval_ever/sums/org/alpha").glob("*5b.json"), None)
    if data.lstrip()[:1] in (b"{", b"[") and b'"evaluation_results"' in data:
        (folder / "record.json").write_bytes(data)
    else:
        (folder / "a_samples.jsonl").write_bytes(data)
        if record is not None:
            shutil.copy(record, folder / "record.json")
    _use(read_every_eval_ever(folder))


def _ever_seeds() -> list[bytes]:
    files = sorted((_DATA / "every_eval_ever").rglob("*.json*"))
    return [b"\n".join(f.read_bytes().split(b"\n")[:6]) if f.suffix == ".jsonl" else f.read_bytes()
            for f in files]  # fmt: skip


def _read_inspect(data: bytes, folder: Path) -> None:
    (folder / ("log.eval" if data[:2] == b"PK" else "log.json")).write_bytes(data)
    _use(read_inspect(folder))


def _zip_bombs() -> list[bytes]:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("header.json", "samples/1_epoch_1.json", "summaries.json"):
            with archive.open(name, "w") as member:
                member.write(b'{"version": 2, "x": "')
                for _ in range(300):
                    member.write(b" " * 1_000_000)
                member.write(b'"}')
    return [out.getvalue()]


def _leaderboard_seeds() -> list[bytes]:
    rows = [
        {"fullname": f"org/m{i}", "Precision": "bfloat16", "Type": "\U0001f536 fine-tuned",
         "Architecture": "Llama", "#Params (B)": 7.2, "Flagged": False, "MoE": True,
         "Upload To Hub Date": "2024-04-13", "Base Model": f"org/m{i // 2} (Merge)",
         **{f"{name} Raw": i / 2 for name in BENCHMARKS}}
        for i in range(3)
    ]  # fmt: skip
    return [pd.DataFrame(rows).to_csv(index=False).encode()]


def _read_leaderboard(path: Path) -> None:
    found = read_leaderboard(path)
    responses_from_frame(found.responses)
    found.models.to_csv(path.with_name("models.csv"), index=False)
    read_features(path.with_name("models.csv"))
    if len(found.lineage):
        found.lineage.to_csv(path.with_name("lineage.csv"), index=False)
        read_lineage(path.with_name("lineage.csv"))


_CARDS = (
    b'{"asked": "org/a", "name": "org/a", "parents": [["org/b", "finetune"]],'
    b' "absence": "", "strange": []}',
    b'{"tags": ["base_model:merge:org/x", "base_model:org/y", "region:us"], "data": {}}',
    b'{"tags": [], "data": {"base_model": ["org/a", "https://hf.co/org/b"],'
    b' "base_model_relation": "merge"}}',
)


def _read_cards(data: bytes, folder: Path) -> None:
    (folder / "org%2Fa.json").write_bytes(data)
    edges, _ = read_hub_lineage(["org/a"], cache=folder, offline=True)
    edges.to_csv(io.BytesIO(), index=False)
    with contextlib.suppress(ValueError, RecursionError):
        tree = json.loads(data)
        if isinstance(tree, dict) and isinstance(tree.get("tags"), list):
            tags, head = tree["tags"], tree.get("data")
            parents, _ = _parents(tags, head if isinstance(head, dict) else {})
            assert all(isinstance(name, str) for name, _ in parents)


def _parents(tags: list[Any], head: dict[str, Any]) -> Any:
    try:
        return parents_of_card(tags, head)
    except ValueError as error:
        raise AssertionError("a card was refused") from error


# --- posteriors and commands ---


@cache
def posterior_file() -> bytes:
    """Return a small posterior of simulated data, kept under build/fuzz."""
    kept = Path("build/fuzz/posterior.nc")
    if kept.is_file():
        return kept.read_bytes()
    import dataclasses

    import jax

    from bayes_lrmf.design import make_design
    from bayes_lrmf.inference import fit_vb
    from bayes_lrmf.simulate import simulate
    from bayes_lrmf.storage import write_posterior

    spec = dataclasses.replace(read_spec("directed"), rank=1)
    drawn = simulate(spec, key=jax.random.key(0), n_models=6, n_items=4, n_benchmarks=2)
    design = make_design(drawn.responses, spec, lineage=drawn.lineage)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_posterior(fit_vb(design, spec, key=jax.random.key(0)), kept)
    return kept.read_bytes()


def _edits() -> list[bytes]:
    """Return lists of changes of a posterior: an action, a path, and a value."""
    found: list[list[Any]] = []
    with h5py.File(io.BytesIO(posterior_file())) as file:
        found += [["attr", name, 0] for name in file.attrs]
        found += [["no attr", name, 0] for name in file.attrs]

        def visit(path: str, thing: Any) -> None:
            found.append(["delete", path, 0])
            if isinstance(thing, h5py.Dataset):
                found.extend([action, path, value] for action, value in _ACTIONS)

        file.visititems(visit)
    return [json.dumps([edit]).encode() for edit in found]


_ACTIONS = (
    ("all", -1),
    ("all", 10**6),
    ("one", 99),
    ("shorter", 1),
    ("kind", "S"),
    ("huge", 2**31),
)


def _edited(data: bytes, path: Path) -> None:
    path.write_bytes(data if data[:4] == b"\x89HDF" else posterior_file())
    # Whatever an edit could not do is left undone.
    with contextlib.suppress(Exception), h5py.File(path, "a") as file:
        for action, place, value in json.loads(data):
            with contextlib.suppress(Exception):
                _edit(file, str(action), str(place), value)


def _edit(file: h5py.File, action: str, place: str, value: Any) -> None:
    if action == "attr":
        file.attrs[place] = value if isinstance(value, str | int | float) else json.dumps(value)
    elif action == "no attr":
        del file.attrs[place]
    elif action == "delete":
        del file[place]
    elif action == "all":
        file[place][...] = value
    elif action == "one":
        file[place][(0,) * file[place].ndim] = value
    else:
        old = file[place][...]
        del file[place]
        if action == "shorter":
            file[place] = old[: len(old) - int(value)]
        elif action == "huge":
            file.create_dataset(place, shape=(min(int(value), 2**33),), dtype="f8", chunks=True,
                                compression="gzip")  # fmt: skip
        else:
            file[place] = np.array([str(v) for v in old.ravel()], dtype="S8")


def _read_posterior(data: bytes, folder: Path) -> None:
    _edited(data, folder / "p.nc")
    posterior = read_posterior(folder / "p.nc")
    _run(["diagnose", str(folder / "p.nc")])
    repr(posterior.design.responses)


def _posterior_bombs() -> list[bytes]:
    edit = [["huge", "core/weight", 2**33]]
    return [
        json.dumps(edit).encode(),
        json.dumps([["huge", "responses/item_trials", 2**31]]).encode(),
    ]


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    with contextlib.chdir(folder):
        yield


def _run(arguments: list[str]) -> None:
    """Run a command in process; raise `InputError` for exit code 2, fail for a code unknown."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as stop:
            code = stop.code
    words = err.getvalue()
    if code not in (0, 2, 3) or "Traceback" in words:
        raise AssertionError(f"exit code {code}: {words[-500:]}")
    if code == 2:
        last = [line for line in words.split("\n") if line][-1:]
        if not last or not last[0].startswith("bayes-lrmf: ") or not words.endswith("\n"):
            raise AssertionError(f"not one line: {words[-500:]!r}")
        raise InputError(last[0])


_LINES = (
    "fit r.csv --lineage l.csv --spec irt --method map --max-steps 1 -o q.nc",
    "diagnose p.nc", "diagnose p.nc --lineage -o d.csv", "predict p.nc -o t.csv --draws 5",
    "predict p.nc --level rank --models sim/base-0,sim/model-2 --draws 4 --ci-prob 0.8",
    "predict p.nc --level item --draws 3 -o t.parquet --seed 3", "predict p.nc --merge y.yml",
    "predict p.nc --models @names.txt", "add p.nc --responses r.csv -o q.nc",
    "add p.nc --lineage l.csv --aliases a.csv -o q.nc", "flag p.nc --top-k 2 -o f.csv",
    "flag p.nc --threshold 0.5", "flag p.nc --budget 2 --costs c.csv -o plan.csv --lm-eval x.json",
    "add p.nc --responses r.csv --guard plan.csv -o q.nc", "import lm-eval lm -o t.csv",
    "import lm-eval lm --metric acc --filter none --counts c2.csv --responses p.nc",
    "import lighteval lm -o t.csv", "import inspect lm", "import details lm --metric sums=acc",
    "import every-eval-ever lm", "import mergekit y.yml --child org/kid -o e.csv",
    "import leaderboard t.csv -o b.csv", "import hub org/a,org/b --cache . --offline -o e.csv",
    "evaluate r.csv --lineage l.csv --methods nope --shots 0,1 -o m.csv", "report p.nc -o r.txt",
    "simulate -o r.csv --models 4 --items 3", "fit r.csv --spec s.toml -o p.txt", "--help", "",
)  # fmt: skip


def _lines() -> list[bytes]:
    return [json.dumps(line.split()).encode() for line in _LINES]


def _read_command(data: bytes, folder: Path) -> None:
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        given = data.decode("utf-8", "replace").split()
    words = [str(word)[:1000] for word in (given if isinstance(given, list) else [given])]
    # Nothing is written outside of the folder, and nothing asked of the Hub.
    words = [w for w in words if not w.startswith(("/", "~")) and ".." not in w and "=/" not in w]
    if "hub" in words and "--offline" not in words:
        words.append("--offline")
    lay_inputs(folder)
    environment = dict(os.environ)
    try:
        with _inside(folder):
            _run(words)
    finally:
        os.environ.clear()
        os.environ.update(environment)


def lay_inputs(folder: Path) -> None:
    """Write the good files that command lines of the fuzzing name."""
    good = {
        "r.csv": _WIDE.replace(b"arc:1,arc:2,gsm8k:1", b"bench1:q1,bench2:q3,bench1:q2"),
        "l.csv": _TREE,
        "a.csv": _ALIASES,
        "s.toml": _SPEC,
        "y.yml": _RECIPES[0]
        .replace(b"org/a", b"sim/base-0")
        .replace(b"org/b@main+lora", b"sim/model-1"),
        "c.csv": b"benchmark,cost\nbench1,1\nbench2,2\n",
        "names.txt": b"sim/base-0\n",
        "p.nc": posterior_file(),
        "t.csv": _leaderboard_seeds()[0],
        "org%2Fa.json": _CARDS[0],
        "plan.csv": _PLAN.replace(b"m1,arc,1,", b"m1,bench1,q1,"),
    }
    for name, data in good.items():
        (folder / name).write_bytes(data)
    (folder / "lm").mkdir()
    for file in (_DATA / "lm_eval/org__alpha").iterdir():
        shutil.copy(file, folder / "lm")


def _read_costs(data: bytes, folder: Path) -> None:
    (folder / "p.nc").write_bytes(posterior_file())
    (folder / "c.csv").write_bytes(data)
    with _inside(folder):
        _run(["flag", "p.nc", "--budget", "2", "--costs", "c.csv"])


def _read_plan(data: bytes, folder: Path) -> None:
    (folder / "plan.csv").write_bytes(data)
    from bayes_lrmf.commands.deciding import _table
    from bayes_lrmf.guard import at_random

    at_random(read_responses_of(_WIDE, folder), _table(str(folder / "plan.csv"), "plan"))


def read_responses_of(data: bytes, folder: Path) -> Any:
    """Return responses from the bytes of a CSV file."""
    (folder / "r.csv").write_bytes(data)
    return read_responses(folder / "r.csv")


_COSTS = (
    b"benchmark,cost\nbench1,1\nbench2,2\n",
    b"model,cost\nsim/base-0,1\nsim/model-2,0.5\n",
    b"cost\n3\n",
)
_PLAN = (
    b"model,benchmark,item,gain,reason,rank\nm1,arc,1,0.1,%b,1\nm1,gsm8k,1,0.1,best,2\n"
    b"m2,arc,,0.3,%b,3\n" % ((b'"' + AT_RANDOM.encode() + b'"',) * 2)
)


def _list(*seeds: bytes) -> Callable[[], list[bytes]]:
    return lambda: list(seeds)


READERS: dict[str, Reader] = {
    "responses csv": Reader(
        "csv",
        _list(_WIDE, _LONG, _COUNTS, _BOTH),
        _csv("t.csv", _read_responses),
        2.0,
        _table_bombs,
    ),
    "responses parquet": Reader(
        "json",
        _columns(_WIDE, _LONG, _COUNTS, _BOTH),
        _parquet(_read_responses),
        1.5,
        _parquet_bombs,
    ),
    "lineage csv": Reader("csv", _list(_TREE), _csv("l.csv", _read_lineage), 1.5, _table_bombs),
    "lineage parquet": Reader(
        "json", _columns(_TREE), _parquet(_read_lineage), 1.0, _parquet_bombs
    ),
    "aliases": Reader("csv", _list(_ALIASES), _csv("a.csv", read_aliases), 1.0, _csv_bombs),
    "models csv": Reader("csv", _list(_MODELS), _csv("m.csv", read_features), 1.5, _table_bombs),
    "models parquet": Reader(
        "json", _columns(_MODELS), _parquet(read_features), 1.0, _parquet_bombs
    ),
    "items": Reader("csv", _list(_ITEMS, _VECTORS), _csv("i.csv", _read_items)),
    "spec toml": Reader(
        "toml", _list(_SPEC, _PENALTY), _documents("s.toml", _read_spec), 1.0, _toml_bombs
    ),
    "mergekit yaml": Reader(
        "yaml", _list(*_RECIPES), _documents("y.yml", _read_merge), 1.5, _yaml_bombs
    ),
    "lm-eval results": Reader(
        "json",
        _bytes_of(f"lm_eval/org__alpha/results_{_DATE}.json", "lm_eval_0.4.2/results.json"),
        _lm_eval("results"),
        1.0,
        _json_bombs,
    ),
    "lm-eval samples": Reader(
        "jsonl",
        _bytes_of(f"lm_eval/org__alpha/samples_sums_{_DATE}.jsonl"),
        _lm_eval("samples"),
        1.0,
        _json_bombs,
    ),
    "lm-eval array": Reader("json", _sample_rows, _lm_eval("array"), 0.5, _json_bombs),
    "lm-eval parquet": Reader("json", _sample_rows, _lm_eval("parquet"), 0.5, _parquet_bombs),
    "lighteval results": Reader(
        "json", _bytes_of("lighteval/results_alpha.json"), _lighteval("results"), 1.0, _json_bombs
    ),
    "lighteval details": Reader(
        "json",
        lambda: _detail_rows() + _bytes_of("lighteval/sums.parquet")(),
        _lighteval("details"),
        1.0,
        _parquet_bombs,
    ),
    "leaderboard details": Reader(
        "json", lambda: _detail_rows() + _sample_rows(), _read_details, 1.0, _parquet_bombs
    ),
    "leaderboard table": Reader("csv", _leaderboard_seeds, _csv("t.csv", _read_leaderboard), 1.0),
    "every eval ever": Reader("jsonl", _ever_seeds, _read_ever, 1.0, _json_bombs),
    "inspect json": Reader(
        "json", _bytes_of("inspect/loud_words.json"), _read_inspect, 1.0, _json_bombs
    ),
    "inspect eval": Reader(
        "bytes",
        _bytes_of("inspect/loud_words.eval", "inspect/quiet_again.eval"),
        _read_inspect,
        0.5,
        _zip_bombs,
    ),
    "hub cards": Reader("json", _list(*_CARDS), _read_cards, 1.0, _json_bombs),
    "posterior edited": Reader("json", _edits, _read_posterior, 0.15, _posterior_bombs),
    "posterior bytes": Reader("bytes", lambda: [posterior_file()], _read_posterior, 0.15),
    "costs": Reader("csv", _list(*_COSTS), _read_costs, 0.1),
    "plan": Reader("csv", _list(_PLAN), _read_plan, 0.5),
    "command line": Reader("json", _lines, _read_command, 0.2),
}
