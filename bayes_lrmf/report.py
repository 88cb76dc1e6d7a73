"""A fit as one HTML file that needs nothing else: table, family tree, checks and flags."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from importlib import metadata, resources
from typing import Any

import jax
import numpy as np
import pandas as pd

from bayes_lrmf.checks import InputError
from bayes_lrmf.files import written_whole
from bayes_lrmf.lineage import RELATIONS
from bayes_lrmf.posterior import Posterior
from bayes_lrmf.progress import Progress
from bayes_lrmf.report_data import MOST_MODELS, ReportData, report_data
from bayes_lrmf.responses import AVERAGE

__all__ = ["render_report", "write_report"]

_SCRIPTS = ("base", "theme", "table", "flags", "tree", "gestures", "checks")
_FILTERS = (
    ("all", "All"),
    ("evaluated", "Evaluated"),
    ("cold", "Cold start"),
    ("flagged", "Flagged"),
)
_THOUSAND = 1000
_LIBRARY = "window.vegaEmbed = vegaEmbed;"


def write_report(
    posterior: Posterior,
    path: str | os.PathLike[str],
    *,
    key: jax.Array,
    models: Sequence[str] | None = None,
    ci_prob: float = 0.9,
    title: str | None = None,
    most: int = MOST_MODELS,
    max_width: float | None = None,
    threshold: float | None = None,
    top_k: int | None = None,
    progress: Progress | None = None,
) -> ReportData:
    """Write a report of a fit, whole or not at all, and return what is in it.

    Parameters
    ----------
    posterior : Posterior
    path : str or path-like
    key : jax key
    models, ci_prob, most, max_width, threshold, top_k, progress
        See `report_data`.
    title : str, optional

    Raises
    ------
    InputError
        For an unknown model, limits out of range or asked of a point estimate, a folder that
        cannot be written, or without the extra ``report``.
    """
    _libraries()
    data = report_data(
        posterior,
        key=key,
        models=models,
        ci_prob=ci_prob,
        most=most,
        max_width=max_width,
        threshold=threshold,
        top_k=top_k,
        progress=progress,
    )
    page = render_report(data, title=title)
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")
    return data


def render_report(data: ReportData, *, title: str | None = None) -> str:
    """Return the HTML of a report.

    Data enter the page as JSON that no HTML parser can leave, and from there as text alone; its
    content security policy runs no other scripts than its own and loads nothing.

    Raises
    ------
    InputError
        Without the extra ``report``.
    """
    jinja2, markupsafe, vl_convert = _libraries()
    assets = resources.files("bayes_lrmf") / "report_assets"
    parts = [(assets / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS]
    script = '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"
    # HTML parsers turn carriage returns into line feeds, which would change the hash.
    library = vl_convert.javascript_bundle(_LIBRARY).replace("\r\n", "\n").replace("\r", "\n")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((assets / "report.html.j2").read_text(encoding="utf-8"))
    scripts = {"script": script, "library": library}
    assert not any("</script" in text.lower() for text in scripts.values())
    trusted = {
        **scripts,
        "style": (assets / "report.css").read_text(encoding="utf-8"),
        "payload": _json(_payload(data)),
        "script_sources": " ".join(_source(text) for text in scripts.values()),
    }
    return str(
        template.render(
            **{name: markupsafe.Markup(text) for name, text in trusted.items()},
            **_words(data),
            data=data,
            title=title or "Predicted benchmark scores",
            filters=_FILTERS,
            n_flags=len(data.flags),
            maker=f"bayes-lrmf {metadata.version('bayes-lrmf')}",
            vega_version=vl_convert.get_vega_version(),
            vegalite_version=vl_convert.get_vegalite_versions()[-1],
            licence=_licence("vl-convert-python"),
        )
    )


def _libraries() -> tuple[Any, Any, Any]:
    try:
        import jinja2
        import markupsafe
        import vl_convert
    except ImportError as error:
        raise InputError(
            f"a report needs the package {error.name}", fix="pip install 'bayes-lrmf[report]'"
        ) from error
    return jinja2, markupsafe, vl_convert


def _licence(distribution: str) -> str:
    for file in metadata.files(distribution) or ():
        if file.name.startswith("LICENSE"):
            return file.read_text(encoding="utf-8")
    return ""


def _source(script: str) -> str:
    """Return the name of an inline script in a content security policy."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _json(value: Any) -> str:
    """Return JSON in which nothing ends a script element or a line of JavaScript."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _payload(data: ReportData) -> dict[str, Any]:
    """Return what the scripts of the page read: columns, models by position."""
    names = data.models["model"].tolist()
    index = {name: i for i, name in enumerate(names)}
    benchmarks = [AVERAGE, *(b for b in data.scores["benchmark"].unique() if b != AVERAGE)]
    by_benchmark = dict(iter(data.scores.groupby("benchmark", sort=False)))
    tables = [by_benchmark[b] for b in benchmarks]
    observed = np.stack([t["n_observed"].to_numpy() for t in tables], axis=1)
    patterns, pattern = np.unique(observed, axis=0, return_inverse=True)
    steps, relations = data.steps, list(RELATIONS)
    low, high = np.quantile(steps["step"], [0.05, 0.95]) if len(steps) else (0.0, 1.0)
    return {
        "ci_prob": data.ci_prob,
        "is_point": data.is_point,
        "models": names,
        "cold": (data.models["status"] == "cold").astype(int).tolist(),
        **{name: data.models[name].tolist() for name in ("family", "row", "depth")},
        "benchmarks": benchmarks,
        "scores": [_columns(t, ("mean", "lower", "upper"), _THOUSAND, data) for t in tables],
        "ranks": [_columns(t, ("rank", "rank_lower", "rank_upper"), 1, data) for t in tables],
        "run_totals": [int(t["n_items"].max()) for t in tables],
        "run_patterns": patterns.tolist(),
        "run_pattern": pattern.ravel().tolist(),
        "edges": {
            "child": [index[m] for m in data.edges["child"]],
            "parent": [index[m] for m in data.edges["parent"]],
            "relation": [relations.index(r) for r in data.edges["relation"]],
        },
        "relations": relations,
        "steps": [
            {"model": index[m], "step": round(s, 3), "lower": round(a, 3), "upper": round(b, 3)}
            for m, s, a, b in zip(*(steps[c] for c in steps), strict=True)
        ],
        "step_range": [float(low), max(float(high), float(low) + 1e-3)],
        "inheritance": _records(data.inheritance),
        "calibration": _records(data.calibration),
        "flags": _flags(data.flags, index, benchmarks),
    }


def _flags(flags: pd.DataFrame, index: dict[str, int], benchmarks: list[str]) -> dict[str, Any]:
    """Return flags in columns, words by position; benchmarks are None where all of them are."""
    place = {name: b for b, name in enumerate(benchmarks)}
    named = flags.assign(benchmark=flags["benchmark"].map(place))
    of_reason = named.groupby(["model", "rule", "reason"], sort=False)["benchmark"]
    rows = of_reason.agg(list).reset_index()
    rule, rules = pd.factorize(rows["rule"])
    reason, reasons = pd.factorize(rows["reason"])
    every = [b for name, b in place.items() if name != AVERAGE]
    return {
        "model": [index[name] for name in rows["model"]],
        "rule": rule.tolist(),
        "reason": reason.tolist(),
        "benchmarks": [None if at == every else at for at in rows["benchmark"]],
        "rules": list(rules),
        "reasons": list(reasons),
    }


def _columns(
    table: pd.DataFrame, names: tuple[str, str, str], unit: int, data: ReportData
) -> dict[str, list[int] | list[float] | None]:
    """Return a mean and its interval; whole numbers keep a page of thousands of models small."""
    mean, *interval = (table[name].to_numpy() * unit for name in names)
    whole = [None if data.is_point else np.rint(side).astype(int).tolist() for side in interval]
    # Expected ranks keep a digit, by which models of one whole rank stand in order.
    first = np.rint(mean).astype(int).tolist() if unit > 1 else np.round(mean, 1).tolist()
    return {"mean": first, "lower": whole[0], "upper": whole[1]}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    rounded = table.round(5).astype(object)
    return rounded.where(table.notna(), None).to_dict("records")  # type: ignore[return-value]


def _words(data: ReportData) -> dict[str, Any]:
    """Return the sentences and small tables of the page that depend on the data."""
    level, facts = f"{100 * data.ci_prob:g}\N{NO-BREAK SPACE}%", data.facts
    n_models = len(data.models)
    n_benchmarks = data.scores["benchmark"].nunique() - 1
    n_flagged = data.flags["model"].nunique()
    guide = (
        f"A score is that of a full run: results that exist count as they are, the others are "
        f"predicted. The {level} predictive interval would hold the full result in {level} of "
        f"cases if the fit were right. A filled dot is a result known in full; a cold-start model "
        f"has no result and is predicted from its relatives."
    )
    if data.is_point:
        guide = (
            "A score is that of a full run: results that exist count as they are, the others are "
            "predicted. This fit is a point estimate, so scores and ranks are points without "
            "intervals. A cold-start model has no result and is predicted from its relatives."
        )
    return {
        "level": level,
        "facts": (
            f"{n_models:,} models here, of {facts['n_evaluated']:,} evaluated and "
            f"{facts['n_models'] - facts['n_evaluated']:,} without results · "
            f"{n_benchmarks:,} benchmarks, {facts['n_items']:,} items, "
            f"{facts['n_responses']:,} responses · spec {facts['spec']}, method {facts['method']}"
        ),
        "verdict": data.verdict[0],
        "guide": guide,
        "caption": (
            f"Scores in per cent. Ranks are expected ranks among the {n_models:,} models of this "
            f"page"
            + ("." if data.is_point else f"; ranges are {level} predictive intervals.")
            + " Choose a model for all of its benchmarks."
        ),
        "tree_caption": (
            "A model stands below its first recorded parent; further parents of a merge are faint "
            "lines. Circles are evaluated models, diamonds are cold starts. "
            + (
                "Thick lines are small steps from parent to child in log-odds, dashed ones are not "
                "known from results."
                if len(data.steps)
                else "The sizes of steps are not known from this fit."
            )
        ),
        "calibration_caption": (
            "Observed responses in bins of their fitted probability. The fit has seen these "
            "responses and leans part of the way towards each, so dots somewhat below the line on "
            "the left and above it on the right are to be expected. This is no test of "
            "predictions: how often intervals hold new results is not known from a fit alone."
            + ("" if data.is_point else f" Bars hold {level} of what the fit itself would show.")
        ),
        "flags_text": (
            "Not available for a point estimate, which knows no uncertainty."
            if data.is_point
            else f"{n_flagged:,} of {n_models:,} models have predictions that should not be relied "
            f"on yet. {_asked(data, level)}"
        ),
        "calibration": _shown(data.calibration, ("predicted", "observed"), ".3f"),
        "inheritance": _shown(data.inheritance, ("inherited",), ".1%"),
        "hyperparameters": _shown(data.hyperparameters, ("mean",), ".3g"),
    }


def _asked(data: ReportData, level: str) -> str:
    """Return a sentence on what is flagged."""
    rules = {
        "threshold": "scores not known to be above or below {:g}",
        "top_k": "models not known to be among the {:g} best of this page, or not",
        "max_width": f"scores whose {level} interval is wider than {{:g}}",
    }
    parts = [text.format(data.limits[name]) for name, text in rules.items() if name in data.limits]
    parts.append("models without results and relatives")
    parts.append("models whose results contradict their recorded parents")
    parts.append("models that leave their kin on one benchmark")
    return f"Flagged are: {'; '.join(parts)}."


def _shown(table: pd.DataFrame, numbers: tuple[str, ...], form: str) -> list[dict[str, str]]:
    rows = []
    for line in table.to_dict("records"):
        row = {str(name): f"{v:,}" if isinstance(v, int) else str(v) for name, v in line.items()}
        row |= {name: format(line[name], form) for name in numbers}
        known = pd.notna(line["lower"])
        row["interval"] = f"{line['lower']:{form}} to {line['upper']:{form}}" if known else "none"
        rows.append(row)
    return rows
