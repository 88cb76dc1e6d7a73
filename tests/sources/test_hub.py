"""Tests of the lineage of model cards: the real client, asking a server that answers as the Hub."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import click
import pandas as pd
import pytest

from bayes_lrmf.checks import InputError
from bayes_lrmf.commands.importing_lineage import hub
from bayes_lrmf.lineage import lineage_from_frame
from bayes_lrmf.sources import hub_cards
from bayes_lrmf.sources.hub import read_hub_lineage
from bayes_lrmf.sources.hub_cards import parents_of_card

pytest.importorskip("huggingface_hub")


def tagged(name: str, *tags: str, **card: object) -> dict[str, object]:
    return {"id": name, "modelId": name, "tags": ["safetensors", *tags], "cardData": card}


MODELS = {
    "o/root": tagged("o/root"),
    "o/tune": tagged("o/tune", "base_model:o/root", "base_model:finetune:o/root"),
    "o/merge": tagged(
        "o/merge", "base_model:o/tune", "base_model:o/old", "base_model:merge:o/tune",
        "base_model:merge:o/old",
    ),
    "o/new": tagged("o/new", "base_model:adapter:o/root", "base_model:o/root"),
    "o/card": tagged("o/card", base_model="o/merge", base_model_relation="quantized"),
    "o/list": tagged("o/list", base_model=["o/root", "o/tune"]),
    "o/self": tagged("o/self", "base_model:finetune:o/self", "base_model:finetune:o/root"),
    "o/orphan": tagged("o/orphan", "base_model:finetune:o/deleted"),
    "o/p": tagged("o/p", "base_model:finetune:o/q"),
    "o/q": tagged("o/q", "base_model:finetune:o/p"),
}  # fmt: skip
RENAMED = {"o/old": "o/new"}


class Hub:
    """A server with models, which counts what it is asked and may be told to refuse."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.refusals: list[tuple[int, dict[str, str]]] = []
        self.models = dict(MODELS)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                name = unquote(self.path.partition("?")[0]).removeprefix("/api/models/")
                outer.asked[name] += 1
                if outer.refusals:
                    status, headers = outer.refusals.pop(0)
                    self.answer(status, {"error": "no"}, headers)
                elif name in RENAMED:
                    self.answer(307, {}, {"Location": f"/api/models/{RENAMED[name]}"})
                elif name == "o/gated":
                    self.answer(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
                elif name in outer.models:
                    self.answer(200, outer.models[name], {})
                else:
                    self.answer(404, {"error": "none"}, {"X-Error-Code": "RepoNotFound"})

            def answer(self, status: int, body: object, headers: dict[str, str]) -> None:
                text = json.dumps(body).encode()
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(text))}.items():
                    self.send_header(key, value)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server():
    running = Hub()
    yield running
    running.server.shutdown()
    running.server.server_close()


@pytest.fixture
def waits(monkeypatch):
    """Return the waits that were made, without waiting."""
    made: list[float] = []
    monkeypatch.setattr(hub_cards.time, "sleep", made.append)
    return made


def edges_of(frame: pd.DataFrame) -> set[tuple[str, str, str]]:
    return set(frame.itertuples(index=False, name=None))


def test_parents_are_followed_to_the_root_and_each_model_is_asked_once(server):
    edges, notes = read_hub_lineage(["o/card", "o/tune"], endpoint=server.address, token=False)
    assert edges_of(edges) == {
        ("o/card", "o/merge", "quantized"),
        ("o/merge", "o/tune", "merge"),
        ("o/merge", "o/new", "merge"),
        ("o/new", "o/root", "adapter"),
        ("o/tune", "o/root", "finetune"),
    }
    once = ("o/card", "o/merge", "o/tune", "o/old", "o/new", "o/root")
    assert server.asked == dict.fromkeys(once, 1)
    assert notes == ("renamed on the Hub: 1 (o/old is now o/new)",)
    assert len(lineage_from_frame(edges).child) == 5


def test_a_model_keeps_the_name_it_was_asked_for_by(server):
    edges, _ = read_hub_lineage(["o/old", "o/merge"], endpoint=server.address, token=False)
    assert ("o/merge", "o/old", "merge") in edges_of(edges)
    assert ("o/old", "o/root", "adapter") in edges_of(edges)
    assert "o/new" not in set(edges["child"]) | set(edges["parent"])


def test_a_renamed_model_on_a_card_is_not_asked_again(server):
    server.models["o/kid"] = tagged("o/kid", "base_model:finetune:o/new")
    edges, _ = read_hub_lineage(["o/old", "o/kid"], endpoint=server.address, token=False)
    assert ("o/kid", "o/old", "finetune") in edges_of(edges)
    # Once, by the redirect of the old name.
    assert server.asked["o/new"] == 1


def test_a_list_on_the_card_is_a_merge_and_self_references_are_dropped(server):
    edges, notes = read_hub_lineage(["o/list", "o/self"], endpoint=server.address, token=False)
    assert edges_of(edges) == {
        ("o/list", "o/root", "merge"),
        ("o/list", "o/tune", "merge"),
        ("o/tune", "o/root", "finetune"),
        ("o/self", "o/root", "finetune"),
    }
    assert any("name themselves" in note for note in notes)


def test_missing_and_gated_models_are_noted_and_stay_parents(server):
    edges, notes = read_hub_lineage(
        ["o/orphan", "o/nowhere", "o/gated", "no name"], endpoint=server.address, token=False
    )
    assert edges_of(edges) == {("o/orphan", "o/deleted", "finetune")}
    found = " | ".join(notes)
    assert "not found (deleted, private or never there): 2, 1 of them asked for" in found
    assert "not to be seen with this token: 1, 1 of them asked for (o/gated)" in found
    assert "no name that the Hub could know: 1, 1 of them asked for (no name)" in found
    assert "no name" not in server.asked


def test_circles_are_broken(server):
    edges, notes = read_hub_lineage(["o/p"], endpoint=server.address, token=False)
    assert edges_of(edges) == {("o/p", "o/q", "finetune")}
    assert any("close a circle, left out: 1 (o/p -> o/q)" in note for note in notes)
    lineage_from_frame(edges)


def test_a_busy_hub_is_waited_for_as_long_as_it_asks(server, waits):
    server.refusals = [(429, {"Retry-After": "7"})]
    edges, _ = read_hub_lineage(["o/tune"], endpoint=server.address, token=False)
    assert edges_of(edges) == {("o/tune", "o/root", "finetune")}
    assert waits == [8]
    assert server.asked["o/tune"] == 2


def test_waits_have_a_limit_and_other_forms(server, waits):
    server.refusals = [
        (429, {"Retry-After": "100000"}),
        (429, {"RateLimit": '"api";r=0;t=55'}),
        (503, {}),
    ]
    read_hub_lineage(["o/root"], endpoint=server.address, token=False)
    assert waits == [300, 56, 4]


def test_a_hub_that_keeps_refusing_loses_no_answer(server, waits, tmp_path):
    server.models["o/two"] = tagged("o/two", "base_model:finetune:o/root")
    read_hub_lineage(["o/two"], endpoint=server.address, token=False, cache=tmp_path / "c")
    server.refusals = [(429, {})] * 99
    with pytest.raises(InputError, match="the Hub answers 429; try again later; answers so far"):
        read_hub_lineage(
            ["o/two", "o/tune"], endpoint=server.address, token=False, cache=tmp_path / "c"
        )
    assert len(waits) == 5
    server.refusals = []
    edges, _ = read_hub_lineage(
        ["o/two", "o/tune"], endpoint=server.address, token=False, cache=tmp_path / "c"
    )
    assert len(edges) == 2
    assert server.asked["o/two"] == 1
    assert server.asked["o/root"] == 1


def test_the_cache_answers_offline_and_damaged_files_are_asked_for_again(server, tmp_path):
    cache = tmp_path / "c"
    names = ["o/card", "o/nowhere"]
    first, _ = read_hub_lineage(names, endpoint=server.address, token=False, cache=cache)
    n_asked = server.asked.total()
    again, notes = read_hub_lineage(names, cache=cache, offline=True)
    pd.testing.assert_frame_equal(first, again)
    assert any("not found" in note for note in notes)
    assert server.asked.total() == n_asked
    (cache / "o%2Ftune.json").write_text("{")
    less, notes = read_hub_lineage(names, cache=cache, offline=True)
    assert ("o/tune", "o/root", "finetune") not in edges_of(less)
    assert any("not in the cache" in note and "o/tune" in note for note in notes)
    whole, _ = read_hub_lineage(names, endpoint=server.address, token=False, cache=cache)
    pd.testing.assert_frame_equal(first, whole)
    assert server.asked["o/tune"] == 2


def test_an_answer_to_another_name_is_not_taken(server, tmp_path):
    """On disks that ignore case the files of two names are one."""
    read_hub_lineage(["o/tune"], endpoint=server.address, token=False, cache=tmp_path)
    (tmp_path / "o%2Ftune.json").rename(tmp_path / "o%2FTune.json")
    edges, notes = read_hub_lineage(["o/Tune"], cache=tmp_path, offline=True)
    assert len(edges) == 0
    assert any("not in the cache" in note for note in notes)


def test_a_hub_out_of_reach(waits, tmp_path):
    with pytest.raises(InputError, match=r"^o/a: the Hub cannot be reached \(\w+\); try again"):
        read_hub_lineage(["o/a"], endpoint="http://127.0.0.1:9", token=False)
    assert len(waits) == 5
    assert not list(tmp_path.iterdir())


def test_refused_token(server):
    server.refusals = [
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"})
    ] * 9
    with pytest.raises(InputError, match="refuses the access token; log in anew"):
        read_hub_lineage(["o/a"], endpoint=server.address, token="hf_wrong")


def test_mistakes(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no model named"):
        read_hub_lineage([" "])
    with pytest.raises(InputError, match="no cache to answer from"):
        read_hub_lineage(["o/a"], offline=True, cache=tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the cache cannot be made"):
        read_hub_lineage(["o/a"], cache=tmp_path / "file")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="huggingface_hub is not installed; pip install"):
        read_hub_lineage(["o/a"])


CARDS = {
    "relation beside the bare tag": (
        ["base_model:a/b", "base_model:quantized:a/b"], {}, [("a/b", "quantized")],
    ),
    "one bare tag": (["base_model:a/b"], {}, [("a/b", "finetune")]),
    "several bare tags": (
        ["base_model:a/b", "base_model:c/d"], {}, [("a/b", "merge"), ("c/d", "merge")],
    ),
    "bare tag, relation on the card": (
        ["base_model:a/b"], {"base_model_relation": "adapter"}, [("a/b", "adapter")],
    ),
    "unknown relation on the card": (
        [], {"base_model": "a/b", "base_model_relation": "cousin"}, [("a/b", "finetune")],
    ),
    "an address": ([], {"base_model": "https://huggingface.co/a/b/"}, [("a/b", "finetune")]),
    "the same twice": ([], {"base_model": ["a/b", "a/b"]}, [("a/b", "finetune")]),
    "tags before the card": (
        ["base_model:merge:a/b"], {"base_model": "c/d"}, [("a/b", "merge")],
    ),
    "old names without owner": ([], {"base_model": "gpt2"}, [("gpt2", "finetune")]),
    "nothing": (["license:mit"], {"base_model": None}, []),
    "no list": ([], {"base_model": {"a": 1}}, []),
}  # fmt: skip


@pytest.mark.parametrize(("tags", "card", "parents"), CARDS.values(), ids=list(CARDS))
def test_parents_of_cards(tags, card, parents):
    assert list(parents_of_card(tags, card)[0]) == parents


def test_base_models_that_are_no_names():
    found, strange = parents_of_card([], {"base_model": ["./local model", "a/b"]})
    assert found == (("a/b", "finetune"),)
    assert strange == ("./local model",)


def run(command: click.Command, *arguments: object) -> None:
    command.main([str(a) for a in arguments], standalone_mode=False)


def test_command(server, tmp_path, monkeypatch, capsys):
    read_hub_lineage(["o/card"], endpoint=server.address, token=False, cache=tmp_path / "c")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("o/card\n")
    run(hub, "@names.txt", "-o", "e.csv", "--cache", "c", "--offline")
    assert len(pd.read_csv("e.csv")) == 5
    err = capsys.readouterr().err
    assert "note: renamed on the Hub: 1" in err
    assert "5 edges of 5 models, 4 of them not asked for" in err.splitlines()
    assert "asked for: 1 of 1 models have a recorded parent; 0 are connected" in err.splitlines()
    (tmp_path / "l.csv").write_text("child,parent,relation\no/card,o/merge,quantized\n")
    (tmp_path / "r.csv").write_text("model,b:1\no/tune,1\no/root,0\n")
    run(hub, "o/card", "-o", "e.csv", "--cache", "c", "--offline", "--lineage", "l.csv",
        "--responses", "r.csv")  # fmt: skip
    lines = capsys.readouterr().err.splitlines()
    assert "1 of 1 model known" in lines
    assert "with results: 1 of 2 models have a recorded parent; 2 are connected" in lines
    assert "1 of 5 edges known, 4 new" in lines
    with pytest.raises(InputError, match="--offline: no cache to answer from; give --cache"):
        run(hub, "o/card", "-o", "e.csv", "--offline")
