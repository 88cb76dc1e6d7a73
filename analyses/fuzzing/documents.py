"""Readers of documents: specs and recipes of merges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from analyses.fuzzing.forms import Reader, listed
from bayes_lrmf.sources.mergekit import last_merge
from bayes_lrmf.spec import Spec, read_spec

SPEC = b"""name = "s"
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
RECIPES = (
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


READERS: dict[str, Reader] = {
    "spec toml": Reader(
        "toml", listed(SPEC, _PENALTY), _documents("s.toml", _read_spec), 1.0, _toml_bombs
    ),
    "mergekit yaml": Reader(
        "yaml", listed(*RECIPES), _documents("y.yml", _read_merge), 1.5, _yaml_bombs
    ),
}
