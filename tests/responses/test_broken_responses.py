"""Broken tables are refused in one line that says where and how to mend it."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
from response_tables import LONG_HEADER, WIDE, one_line, random_table

from bayes_lrmf.checks import InputError
from bayes_lrmf.responses import read_responses, responses_from_frame

COUNTS_HEADER = "model,benchmark,successes,trials\n"
BROKEN = {
    "empty file": (b"", ["empty"]),
    "blank file": (b"\n \n", ["empty"]),
    "binary": (bytes(range(256)) * 8, ["UTF-8"]),
    "zeros": (b"\0" * 64, ["not CSV text"]),
    "parquet inside": (b"PAR1 and so on\n", ["not CSV text"]),
    "utf-16": (WIDE.encode("utf-16"), ["UTF-8"]),
    "latin-1 header": ("modèl,a:1\nm,1\n".encode("latin-1"), ["UTF-8"]),
    "latin-1 model": ("model,a:1\nmé,1\n".encode("latin-1"), ["UTF-8"]),
    "semicolons": (WIDE.replace(",", ";").encode(), ["semicolons", "commas"]),
    "tabs": (WIDE.replace(",", "\t").encode(), ["tabs", "commas"]),
    "header only": (b"model,a:1\n", ["header", "no rows"]),
    "short row": (b"model,a:1,a:2\nm,1,0\n\nn,1\n", ["line 4", "2 cells", "3 columns"]),
    "long row": (b"model,a:1\nm,1,0\n", ["line 2", "3 cells", "2 columns"]),
    "open quote": (b'model,a:1\n"m,1\n', ["1 cells", "2 columns"]),
    "no model column": (b"name,a:1\nm,1\n", ["no column 'model'", "name the column"]),
    "model column by another name": (b"Model,a:1\nm,1\n", ["no column 'model'", "'Model'"]),
    "model column misspelt": (b"modle,a:1\nm,1\n", ["no column 'model'", "'modle'"]),
    "model column with a prefix": (b"model_name,a:1\nm,1\n", ["'model'", "'model_name'"]),
    "no column like model": (b"MoE,moderate:1\nm,1\n", ["no column 'model'", "name the column"]),
    "columns like model": (
        b"Base Model,Model sha\nm,1\n",
        ["no column 'model'", "name the column"],
    ),
    "index without a name": (b",a:1\nm,1\n", ["no column 'model'", "name the column"]),
    "only models": (b"model\nm\n", ["no column but 'model'", "benchmark:item"]),
    "wide column without colon": (b"model,arc:1,arc2\nm,1,0\n", ["'arc2'", "'arc:1'"]),
    "scores without colon": (b"model,arc,gsm8k\nm,.1,.2\n", ["'arc'", "model, benchmark, succ"]),
    "wide column without item": (b"model,arc:\nm,1\n", ["'arc:'", "benchmark:item"]),
    "wide column without benchmark": (b"model,:1\nm,1\n", ["':1'", "benchmark:item"]),
    "wide column without name": (b"model,a:1,\nm,1,0\n", ["''", "benchmark:item", "delete"]),
    "numbers of the rows": (b",model,a:1\n0,m,1\n", ["column ''", "delete it"]),
    "column twice": (b"model,a:1,a:2,a:1\nm,1,0,1\n", ["2 columns are named 'a:1'"]),
    "model column twice": (b"model,a:1, model\nm,1,m\n", ["2 columns are named 'model'"]),
    "column twice but for blanks": (b"model,a:1,a: 1\nm,1,1\n", ["'a:1' and 'a: 1'", "same"]),
    "misspelt response": (
        b"model,benchmark,item,respnse\nm,a,1,1\n",
        ["unknown column 'respnse'", "'response'"],
    ),
    "misspelt trials": (
        b"model,benchmark,successes,trails\nm,a,1,2\n",
        ["unknown column 'trails'", "'trials'"],
    ),
    "unknown long column": (
        b"model,benchmark,item,response,date\nm,a,1,1,x\n",
        ["unknown column 'date'", "valid: model, benchmark, item, response"],
    ),
    "response and successes": (
        b"model,benchmark,item,response,successes\nm,a,1,1,1\n",
        ["unknown column 'successes'"],
    ),
    "no trials": (b"model,benchmark,successes\nm,a,1\n", ["no column 'trials'", "counts"]),
    "no item": (b"model,benchmark,response\nm,a,1\n", ["no column 'item'", "long"]),
    "no benchmark": (b"model,item,response\nm,a,1\n", ["no column 'benchmark'", "long"]),
    "no model name, wide": (b"model,a:1\nm,1\n,0\n", ["model name is missing", "line 3"]),
    "blank model name": (b"model,a:1\nm,1\n  ,0\n", ["model name is missing", "line 3"]),
    "no benchmark name": (LONG_HEADER + "m,,1,1\n", ["benchmark name is missing", "line 2"]),
    "no item name": (LONG_HEADER + "m,a,1,1\nm,a,,1\n", ["item name is missing", "line 3"]),
    "word": (b"model,a:1\nm,1\nn,yes\n", ["'yes'", "column a:1", "line 3", "model n", "empty"]),
    "word, long": (LONG_HEADER + "m,a,1,1\nm,a,2,x\n", ["'x'", "column response", "line 3"]),
    "dash": (b"model,a:1\nm,1\nn,-\n", ["'-'", "column a:1", "line 3"]),
    "nan": (b"model,a:1\nm,1\nn,nan\n", ["'nan'", "column a:1", "line 3", "model n", "empty"]),
    "NaN beside fractions": (b"model,a:1\nm,\nn,NaN\no,.5\n", ["'nan'", "line 3", "model n"]),
    "NA": (b"model,a:1\nm,1\nn,NA\n", ["'NA'", "column a:1", "line 3"]),
    "nan, long": (LONG_HEADER + "m,a,1,nan\n", ["'nan'", "column response", "line 2"]),
    "inf": (b"model,a:1\nm,1\nn,inf\n", ["response inf", "outside [0, 1]", "line 3"]),
    "date": (b"model,a:1\nm,2024-01-01\n", ["'2024-01-01'", "not a number"]),
    "negative": (b"model,a:1\nm,-1\n", ["response -1", "outside [0, 1]", "column a:1"]),
    "a little negative": (b"model,a:1\nm,-0.001\n", ["outside [0, 1]"]),
    "a little above 1": (b"model,a:1\nm,1.0001\n", ["outside [0, 1]"]),
    "percentage": (b"model,a:1\nm,53.2\n", ["response 53.2", "percentages by 100"]),
    "two": (LONG_HEADER + "m,a,1,2\n", ["response 2", "column response", "line 2", "model m"]),
    "k above n": (
        COUNTS_HEADER + "m,a,1,2\nm,b,5,4\n",
        ["successes 5 exceed", "line 3", "model m"],
    ),
    "negative k": (COUNTS_HEADER + "m,a,-1,4\n", ["successes -1 are negative", "column succ"]),
    "no k": (COUNTS_HEADER + "m,a,,4\nm,b,1,2\n", ["successes are missing", "line 2"]),
    "no n": (COUNTS_HEADER + "m,b,1,2\nm,a,3,\n", ["trials are missing", "line 3"]),
    "zero trials": (COUNTS_HEADER + "m,a,0,0\n", ["trials 0 are below 1", "column trials"]),
    "negative trials": (COUNTS_HEADER + "m,a,0,-3\n", ["trials -3 are below 1"]),
    "broken trials": (COUNTS_HEADER + "m,a,1,4.5\n", ["trials 4.5 are not whole"]),
    "broken successes": (COUNTS_HEADER + "m,a,0.53,100\n", ["successes 0.53 are not whole"]),
    "infinite trials": (COUNTS_HEADER + "m,a,1,inf\n", ["trials are infinite"]),
    "infinite successes": (COUNTS_HEADER + "m,a,inf,3\n", ["successes inf exceed"]),
    "nan trials": (COUNTS_HEADER + "m,a,1,nan\n", ["'nan'", "column trials"]),
    "word for trials": (COUNTS_HEADER + "m,a,1,many\n", ["'many'", "column trials", "a count"]),
    "k above n by item": (
        "model,benchmark,item,successes,trials\nm,a,q,3,2\n",
        ["successes 3 exceed"],
    ),
    "rows that differ": (
        b"model,a:1,a:2\nm,1,0\nn,1,1\nm,1,1\n",
        ["model m", "a:2", "line 2 and line 4", "keep one"],
    ),
    "cells that differ": (
        LONG_HEADER + "m,a,1,1\nn,a,1,0\nm,a,1,0\n",
        ["model m", "a:1", "line 2 and line 4", "keep one"],
    ),
    "cells that differ in trials only": (
        COUNTS_HEADER + "m,a,2,4\nm,a,2,5\n",
        ["model m", "a:all", "line 2 and line 3"],
    ),
    "cells that differ after stripping": (
        LONG_HEADER + "m,a,1,1\n m,a,1,0\n",
        ["model m", "line 2 and line 3"],
    ),
    "no result, wide": (b"model,a:1\nm,\nn,\n", ["no result"]),
    "no result, long": (LONG_HEADER + "m,a,1,\n", ["no result"]),
    "no result, counts": (COUNTS_HEADER + "m,a,,\n", ["no result"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_csv(tmp_path, case):
    content, words = BROKEN[case]
    path = tmp_path / "broken.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        read_responses(path)
    line = one_line(error)
    for word in [*words, str(path)]:
        assert word in line, f"{word!r} not in {line!r}"
    assert error.value.fix


def test_broken_paths(tmp_path):
    cases = {
        "nowhere.csv": ["not found"],
        "folder.csv": ["folder"],
        "table.xlsx": [".xlsx", ".parquet"],
        "table": ["''", ".csv.gz"],
        "text.parquet": ["not a Parquet file"],
        "cut.parquet": ["not a Parquet file"],
        "plain.csv.gz": ["gzip"],
        "cut.csv.gz": ["gzip"],
        "packed.csv": ["UTF-8"],
    }
    (tmp_path / "folder.csv").mkdir()
    for name in ("table.xlsx", "table", "text.parquet", "plain.csv.gz"):
        (tmp_path / name).write_text(WIDE)
    random_table(0.5).to_frame().to_parquet(tmp_path / "cut.parquet")
    whole = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-20])
    packed = gzip.compress(WIDE.encode() * 1000)
    (tmp_path / "packed.csv").write_bytes(packed)
    (tmp_path / "cut.csv.gz").write_bytes(packed[:-30])
    for name, words in cases.items():
        with pytest.raises(InputError) as error:
            read_responses(tmp_path / name)
        for word in [*words, name]:
            assert word in one_line(error)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame({"model": [], "a:1": []}), ["no rows"]),
        (
            pd.DataFrame({"model": ["m"], "a:1": ["yes"]}),
            ["my frame, column a:1, row 1", "model m"],
        ),
        (pd.DataFrame({"model": ["m", None], "a:1": [1, 1]}), ["row 2", "model name is missing"]),
        (pd.DataFrame([["m", 1, 1]], columns=["model", "a:1", "a:1"]), ["2 columns"]),
        (pd.DataFrame({"a:1": [1, 0]}), ["no column 'model'"]),
        (pd.DataFrame({"model": ["m"], 3: [1]}), ["'3'", "benchmark:item"]),
        (pd.DataFrame({"model": ["m"], "a:1": [np.inf]}), ["inf", "outside"]),
        (pd.DataFrame({"model": ["m"], "a:1": [[1]]}), ["'[1]'", "not a number"]),
        (pd.DataFrame({"model": ["m"], "a:1": ["nan"]}), ["'nan'", "not a number"]),
        (pd.DataFrame({"model": ["m"], "a:1": [1j]}), ["1j", "not a number"]),
    ],
)
def test_broken_frames(frame, words):
    with pytest.raises(InputError) as error:
        responses_from_frame(frame, where="my frame")
    for word in [*words, "my frame"]:
        assert word in one_line(error)
    with pytest.raises(InputError):
        responses_from_frame(frame)


def test_broken_parquet_names_its_row(tmp_path):
    frame = pd.DataFrame({"model": ["m", "n"], "a:1": [1, 7]})
    frame.to_parquet(tmp_path / "r.parquet")
    with pytest.raises(InputError, match=r"r\.parquet, column a:1, row 2, model n: response 7 is"):
        read_responses(tmp_path / "r.parquet")
