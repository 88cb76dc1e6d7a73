"""Readers of tables: responses, lineages, aliases, features, items."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pandas as pd

from analyses.fuzzing.forms import Reader, columns_of, csv_file, listed, parquet_bombs, parquet_file
from bayes_lrmf.features import read_features
from bayes_lrmf.lineage import read_aliases, read_lineage, write_lineage
from bayes_lrmf.responses import read_responses, responses_from_frame, write_responses
from bayes_lrmf.similarity import item_graph, read_item_texts

WIDE = b"model,arc:1,arc:2,gsm8k:1\nm1,1,0,1\nm2,,1,0\nm3,0.5,1,\n"
_LONG = b"model,benchmark,item,response\nm1,arc,1,1\nm1,arc,2,0\nm2,arc,1,0.25\nm2,b c,x,\n"
_COUNTS = b"model,benchmark,successes,trials\nm1,arc,3,10\nm2,arc,,\nm2,gsm8k,7,7\n"
_BOTH = b"model,benchmark,item,successes,trials\nm1,arc,1,1,1\nm1,arc,2,1.5,4\nm2,arc,1,0,3\n"
TREE = (
    b"child,parent,relation,weight\nm2,m1,finetune,\nm3,m1,merge,0.25\nm3,m2,merge,0.75\n"
    b"m4,m3,quantized,1\nm4,m4,ancestor,1\n"
)
ALIASES = b"alias,name\np,q\nq,r\nm9,m1\n"
_MODELS = (
    b"model,params_b,type,date,moe\nm1,7,base,2024-03-21,true\nm2,,chat,2024-03-21T06:05:50Z,false\n"
    b"m3,1.5,,,\n"
)
_ITEMS = b"item_id,prompt\narc:1,What is 2 + 2?\narc:2,\ngsm8k:1,Tom has 3 apples\n"
_VECTORS = b"benchmark,item,e1,e2\narc,1,0.5,1\narc,2,-1,2\ngsm8k,1,0,0\n"


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
    known = responses_from_frame(pd.read_csv(io.BytesIO(WIDE))).items
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


READERS: dict[str, Reader] = {
    "responses csv": Reader(
        "csv",
        listed(WIDE, _LONG, _COUNTS, _BOTH),
        csv_file("t.csv", _read_responses),
        2.0,
        _table_bombs,
    ),
    "responses parquet": Reader(
        "json",
        columns_of(WIDE, _LONG, _COUNTS, _BOTH),
        parquet_file(_read_responses),
        1.5,
        parquet_bombs,
    ),
    "lineage csv": Reader("csv", listed(TREE), csv_file("l.csv", _read_lineage), 1.5, _table_bombs),
    "lineage parquet": Reader(
        "json", columns_of(TREE), parquet_file(_read_lineage), 1.0, parquet_bombs
    ),
    "aliases": Reader("csv", listed(ALIASES), csv_file("a.csv", read_aliases), 1.0, _csv_bombs),
    "models csv": Reader(
        "csv", listed(_MODELS), csv_file("m.csv", read_features), 1.5, _table_bombs
    ),
    "models parquet": Reader(
        "json", columns_of(_MODELS), parquet_file(read_features), 1.0, parquet_bombs
    ),
    "items": Reader("csv", listed(_ITEMS, _VECTORS), csv_file("i.csv", _read_items)),
}
