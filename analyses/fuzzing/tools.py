"""Readers of other tools' files: harnesses, leaderboards, model cards."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.fuzzing.forms import (
    DATA,
    Reader,
    bytes_of,
    csv_file,
    json_bombs,
    lay_parquet,
    listed,
    parquet_bombs,
)
from analyses.fuzzing.tables import WIDE
from bayes_lrmf.features import read_features
from bayes_lrmf.lineage import read_lineage
from bayes_lrmf.responses import responses_from_frame
from bayes_lrmf.sources.every_eval_ever import read_every_eval_ever
from bayes_lrmf.sources.hub import read_hub_lineage
from bayes_lrmf.sources.hub_cards import parents_of_card
from bayes_lrmf.sources.imported import Imported, reconciliation
from bayes_lrmf.sources.inspect_ai_logs import read_inspect
from bayes_lrmf.sources.leaderboard import BENCHMARKS, read_leaderboard
from bayes_lrmf.sources.leaderboard_details import read_leaderboard_details
from bayes_lrmf.sources.lighteval import read_lighteval
from bayes_lrmf.sources.lm_eval import read_lm_eval

_DATE = "2026-11-26T12-15-05.349374"


def _use(imported: Imported) -> None:
    known = responses_from_frame(pd.read_csv(io.BytesIO(WIDE)))
    reconciliation(imported, known=known)
    if len(imported.responses):
        responses_from_frame(imported.responses)
    if len(imported.counts):
        responses_from_frame(imported.counts)
    imported.responses.to_csv(io.BytesIO(), index=False)


def _lm_eval(role: str) -> Callable[[bytes, Path], None]:
    def attack(data: bytes, folder: Path) -> None:
        place = folder / "org__alpha"
        place.mkdir()
        if role != "results":
            results = (DATA / f"lm_eval/org__alpha/results_{_DATE}.json").read_bytes()
            (place / f"results_{_DATE}.json").write_bytes(results)
        name = {
            "results": f"results_{_DATE}.json",
            "samples": f"samples_sums_{_DATE}.jsonl",
            "array": f"samples_sums_{_DATE}.json",
            "parquet": f"samples_sums_{_DATE}.parquet",
        }[role]
        if role == "parquet":
            lay_parquet(data, place / name)
        else:
            (place / name).write_bytes(data)
        _use(read_lm_eval(folder))

    return attack


def _sample_rows(n: int = 4) -> list[bytes]:
    text = (DATA / f"lm_eval/org__alpha/samples_sums_{_DATE}.jsonl").read_text()
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
            good = (DATA / "lighteval/results_alpha.json").read_bytes()
            (results / f"results_{_DATE}.json").write_bytes(good)
            lay_parquet(data, details / f"details_sums|0_{_DATE}.parquet")
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
        lay_parquet(data, split / "0000.parquet")
    else:
        place = folder / "details_org__alpha" / _DATE
        place.mkdir(parents=True)
        lay_parquet(data, place / f"details_harness|arc:challenge|25_{_DATE}.parquet")
    _use(read_leaderboard_details(folder))


def _read_ever(data: bytes, folder: Path) -> None:
    record = next((DATA / "every_eval_ever/sums/org/alpha").glob("*5b.json"), None)
    if data.lstrip()[:1] in (b"{", b"[") and b'"evaluation_results"' in data:
        (folder / "record.json").write_bytes(data)
    else:
        (folder / "a_samples.jsonl").write_bytes(data)
        if record is not None:
            shutil.copy(record, folder / "record.json")
    _use(read_every_eval_ever(folder))


def _ever_seeds() -> list[bytes]:
    files = sorted((DATA / "every_eval_ever").rglob("*.json*"))
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


def leaderboard_seeds() -> list[bytes]:
    """Return the table of a leaderboard with three models."""
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


CARDS = (
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


READERS: dict[str, Reader] = {
    "lm-eval results": Reader(
        "json",
        bytes_of(f"lm_eval/org__alpha/results_{_DATE}.json", "lm_eval_0.4.2/results.json"),
        _lm_eval("results"),
        1.0,
        json_bombs,
    ),
    "lm-eval samples": Reader(
        "jsonl",
        bytes_of(f"lm_eval/org__alpha/samples_sums_{_DATE}.jsonl"),
        _lm_eval("samples"),
        1.0,
        json_bombs,
    ),
    "lm-eval array": Reader("json", _sample_rows, _lm_eval("array"), 0.5, json_bombs),
    "lm-eval parquet": Reader("json", _sample_rows, _lm_eval("parquet"), 0.5, parquet_bombs),
    "lighteval results": Reader(
        "json", bytes_of("lighteval/results_alpha.json"), _lighteval("results"), 1.0, json_bombs
    ),
    "lighteval details": Reader(
        "json",
        lambda: _detail_rows() + bytes_of("lighteval/sums.parquet")(),
        _lighteval("details"),
        1.0,
        parquet_bombs,
    ),
    "leaderboard details": Reader(
        "json", lambda: _detail_rows() + _sample_rows(), _read_details, 1.0, parquet_bombs
    ),
    "leaderboard table": Reader(
        "csv", leaderboard_seeds, csv_file("t.csv", _read_leaderboard), 1.0
    ),
    "every eval ever": Reader("jsonl", _ever_seeds, _read_ever, 1.0, json_bombs),
    "inspect json": Reader(
        "json", bytes_of("inspect/loud_words.json"), _read_inspect, 1.0, json_bombs
    ),
    "inspect eval": Reader(
        "bytes",
        bytes_of("inspect/loud_words.eval", "inspect/quiet_again.eval"),
        _read_inspect,
        0.5,
        _zip_bombs,
    ),
    "hub cards": Reader("json", listed(*CARDS), _read_cards, 1.0, json_bombs),
}
