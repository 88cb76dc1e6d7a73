"""The page of a fit: what it says, that nothing in it can act or call out, and how it works."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
import time
from html.parser import HTMLParser

import jax
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from bayes_lrmf import report as module
from bayes_lrmf.checks import InputError
from bayes_lrmf.commands.deciding import flag as flag_command
from bayes_lrmf.commands.reporting import report as command
from bayes_lrmf.design import make_design
from bayes_lrmf.flag import flag
from bayes_lrmf.inference import fit_map
from bayes_lrmf.intervals import equal_tailed
from bayes_lrmf.lineage_quality import recorded_parents
from bayes_lrmf.predict import AVERAGE, predict_benchmarks, predict_ranks, score_draws
from bayes_lrmf.report import render_report, write_report
from bayes_lrmf.report_data import report_data
from bayes_lrmf.retrodiction import calibration
from bayes_lrmf.spec import read_spec
from bayes_lrmf.storage import write_posterior

pytest.importorskip("jinja2", reason="needs the extra report")
pytest.importorskip("vl_convert", reason="needs the extra report")

KEY = jax.random.key(4)
LIMITS = {"max_width": 0.3, "threshold": 0.5, "top_k": 5}
HOSTILE = [
    "<script>alert(1)</script>",
    '=cmd()|"/C calc"!A0',
    "</script><img src=x onerror=alert(2)>",
    "a\u2028b & <b>c</b>",
]


class Page(HTMLParser):
    """Elements with their attributes, and the text of each script by its identity."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data

    @property
    def payload(self):
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def data(kin_fit):
    return report_data(kin_fit, key=KEY)


@pytest.fixture(scope="module")
def page(data):
    return render_report(data, title="A <title>")


@pytest.fixture(scope="module")
def flagged_page(kin_fit):
    return render_report(report_data(kin_fit, key=KEY, **LIMITS))


@pytest.fixture(scope="module")
def point(kin_data):
    spec = read_spec("laplacian")
    return fit_map(
        make_design(kin_data.responses, spec, lineage=kin_data.lineage),
        spec,
        key=jax.random.key(0),
    )


def hostile(data):
    """Return the data with hostile names, in every table that names models."""
    names = data.models["model"].tolist()
    new = dict(zip(names, [*HOSTILE, *names[len(HOSTILE) :]], strict=True))
    change = {}
    for field in ("models", "scores", "steps", "flags", "edges"):
        table = getattr(data, field)
        columns = [c for c in ("model", "child", "parent") if c in table]
        change[field] = table.assign(**{c: table[c].replace(new) for c in columns})
    return dataclasses.replace(data, **change)


def enlarged(data, n):
    """Return the data with rows repeated under new names, n models in all, in one family."""
    old = data.models["model"].tolist()
    origin = np.arange(n) % len(old)
    names = [f"lab{i % 97}/model-{i:05d}-instruct" for i in range(n)]
    by_model = dict(iter(data.scores.groupby("model", sort=False)))
    scores = pd.concat(
        [by_model[old[o]].assign(model=m) for o, m in zip(origin, names, strict=True)]
    )
    models = data.models.iloc[origin].assign(model=names, family=0, row=np.arange(n), depth=1)
    models.iloc[0, models.columns.get_loc("depth")] = 0
    edges = pd.DataFrame({"child": names[1:], "parent": names[0], "relation": "finetune"})
    return dataclasses.replace(
        data,
        models=models.reset_index(drop=True),
        scores=scores.reset_index(drop=True),
        edges=edges,
        steps=data.steps.iloc[:0],
        flags=data.flags.iloc[:0],
    )


def test_scores_are_those_of_predict(kin_fit, data):
    models = data.models["model"].tolist()
    expected = predict_benchmarks(kin_fit, key=KEY, models=models)
    columns = list(expected.columns.drop(["sd", "kind"]))
    own = data.scores[data.scores["benchmark"] != AVERAGE].reset_index(drop=True)
    pd.testing.assert_frame_equal(own[columns], expected[columns], check_exact=False)
    mean = score_draws(kin_fit, key=KEY, models=models).scores.mean(-1)
    average = data.scores[data.scores["benchmark"] == AVERAGE]
    np.testing.assert_allclose(average["mean"], mean.mean(0), rtol=1e-5)
    np.testing.assert_allclose(average["upper"], equal_tailed(mean, 0.9)[1], rtol=1e-6)
    total = own.groupby("model", sort=False)["n_observed"].sum()
    assert average["n_observed"].tolist() == total.tolist()
    ranks = predict_ranks(kin_fit, key=KEY, models=models)
    own = data.scores[["rank", "rank_lower", "rank_upper"]].to_numpy()
    np.testing.assert_allclose(own, ranks[["mean", "lower", "upper"]].to_numpy())


def test_numbers_in_the_page_are_those_of_predict(kin_fit, data, page):
    payload = Page(page).payload
    table = predict_benchmarks(kin_fit, key=KEY, models=data.models["model"].tolist())
    for b, benchmark in enumerate(payload["benchmarks"]):
        if benchmark == AVERAGE:
            continue
        own = table[table["benchmark"] == benchmark]
        assert own["model"].tolist() == payload["models"]
        for name in ("mean", "lower", "upper"):
            shown = np.array(payload["scores"][b][name]) / 1000
            np.testing.assert_allclose(shown, own[name], atol=0.0005 + 1e-9)
        runs = np.array(payload["run_patterns"])[payload["run_pattern"], b]
        assert runs.tolist() == own["n_observed"].tolist()
        assert payload["run_totals"][b] == own["n_items"].max()


def test_evaluated_and_cold_models_stand_in_one_table(kin_fit, data):
    n = kin_fit.design.n_evaluated
    status = data.models["status"]
    assert (status == "evaluated").sum() == n
    cold = data.models.loc[status == "cold", "model"]
    assert len(cold) > 0
    results = data.scores[data.scores["benchmark"] == AVERAGE].set_index("model")["n_observed"]
    assert (results[cold] == 0).all()
    # One without results or kin is shown only where it is named, and the page says so.
    assert "nobody/knows" not in set(cold)
    [note] = data.notes
    assert note.startswith("models left out: 1 without results or recorded kin; name them")
    named = report_data(kin_fit, key=KEY, models=["nobody/knows", "sim/model-5"])
    assert named.models["model"].tolist() == ["sim/model-5", "nobody/knows"]
    assert named.flags["rule"].unique().tolist() == ["no kin"]


def test_a_limit_keeps_those_with_most_results_and_room_for_cold_ones(kin_fit):
    few = report_data(kin_fit, key=KEY, most=20)
    assert len(few.models) == 20
    n_cold = (few.models["status"] == "cold").sum()
    assert n_cold == 4
    run = np.bincount(kin_fit.design.responses.to_cells().rows)
    kept = few.models.loc[few.models["status"] == "evaluated", "model"]
    index = kin_fit.design.periphery.index
    left = np.delete(run, [index[m] for m in kept])
    assert run[[index[m] for m in kept]].min() >= left.max()
    assert few.notes[0].startswith(f"models left out: {len(left)} evaluated, with fewest results")


def test_families_and_places(kin_fit, data):
    place = data.models.set_index("model")
    child, parent = place.loc[data.edges["child"]], place.loc[data.edges["parent"]]
    assert (child["family"].to_numpy() == parent["family"].to_numpy()).all()
    assert (child["depth"].to_numpy() > parent["depth"].to_numpy()).all()
    kin = data.models[data.models["family"] >= 0]
    for _, family in kin.groupby("family"):
        assert sorted(family["row"]) == list(range(len(family)))
        assert len(family) > 1
    sizes = kin["family"].value_counts().sort_index()
    assert sizes.is_monotonic_decreasing
    alone = data.models[data.models["family"] < 0]["model"]
    assert not set(alone) & {*data.edges["child"], *data.edges["parent"]}


def test_steps_are_distances_to_recorded_parents(kin_fit, data):
    expected = recorded_parents(kin_fit, key=KEY).set_index("model")
    own = data.steps.set_index("model")
    assert set(own.index) == set(expected.index)
    expected = expected.loc[own.index]
    # Both are means over 100 draws: 4.5 errors of a difference, for 50 of them.
    sd = (expected["upper"] - expected["lower"]) / 3.29
    apart = (own["step"] - expected["distance"]).abs()
    assert (apart < 4.5 * sd * np.sqrt(2 / 100)).all()


def test_flags_are_those_of_flag(kin_fit, data):
    expected = flag(kin_fit, key=KEY, models=data.models["model"].tolist())
    assert data.flags[["model", "rule"]].equals(expected[["model", "rule"]])
    assert data.limits == {}


def test_flags_in_the_page_are_those_of_flag(kin_fit, flagged_page):
    payload = Page(flagged_page).payload
    expected = flag(kin_fit, key=KEY, models=payload["models"], **LIMITS)
    # By `flag` itself: its draws, its numbers, its words, for each score.
    assert {*expected["rule"]} >= {"threshold", "rank", "width"}
    given = payload["flags"]
    found = [
        (payload["models"][m], payload["benchmarks"][b], given["rules"][r], given["reasons"][w])
        for m, r, w, at in zip(
            *(given[c] for c in ("model", "rule", "reason", "benchmarks")), strict=True
        )
        for b in (range(1, len(payload["benchmarks"])) if at is None else at)
    ]
    columns = ["model", "benchmark", "rule", "reason"]
    assert len(found) == len(expected)
    assert set(found) == set(expected[columns].itertuples(index=False, name=None))
    # Of each rule the least certain stand first.
    width = [model for model, _, rule, _ in found if rule == "width"]
    assert width[0] == expected.loc[expected["rule"] == "width", "model"].iloc[0]
    text = flagged_page[flagged_page.index('<section id="flags"') :]
    for words in ("above or below 0.5;", "the 5 best of this page", "is wider than 0.3;"):
        assert words in text
    assert f"{expected['model'].nunique()} of {len(payload['models'])} models" in text


def test_the_command_flags_as_flag_does(kin_fit, data, tmp_path):
    options = [
        {p.name: (p.opts, p.type.name, p.default, p.help) for p in c.params if p.name in LIMITS}
        for c in (command, flag_command)
    ]
    assert options[0] == options[1]
    assert set(options[0]) == set(LIMITS)
    fitted, names = tmp_path / "fit.nc", tmp_path / "names.txt"
    write_posterior(kin_fit, fitted)
    names.write_text("\n".join(data.models["model"]))
    common = [str(fitted), "--models", f"@{names}", "--top-k", "5", "--seed", "4"]
    for run, output in ((command, "r.html"), (flag_command, "f.csv")):
        done = CliRunner().invoke(run, [*common, "-o", str(tmp_path / output)])
        assert done.exit_code == 0, done.output
    payload = Page((tmp_path / "r.html").read_text(encoding="utf-8")).payload["flags"]
    table = pd.read_csv(tmp_path / "f.csv")
    rank = payload["rules"].index("rank")
    rows = zip(payload["rule"], payload["reason"], strict=True)
    shown = [payload["reasons"][reason] for rule, reason in rows if rule == rank]
    assert shown == table.loc[table["rule"] == "rank", "reason"].tolist()
    assert len(shown) > 3


def test_calibration_against_sums_by_hand(kin_fit):
    table = calibration(kin_fit, key=KEY, n_bins=4)
    cells = kin_fit.design.responses.to_cells()
    assert table["n_trials"].sum() == len(cells.rows)
    share = np.average(table["observed"], weights=table["n_trials"])
    np.testing.assert_allclose(share, cells.successes.mean())
    assert (table["lower"] <= table["predicted"]).all()
    assert (table["upper"] >= table["predicted"]).all()
    draws = kin_fit.draws(400, key=jax.random.key(9))
    p = 1 / (1 + np.exp(-kin_fit.psi(draws, cells.rows, cells.cols).astype(float)))
    mean = np.average(table["predicted"], weights=table["n_trials"])
    assert abs(mean - p.mean()) < 0.01


def test_the_page_asks_for_nothing(page):
    found = Page(page)
    for tag, attributes in found.tags:
        for name in ("src", "srcset", "action", "data", "poster"):
            assert name not in attributes, (tag, attributes)
        if "href" in attributes:
            assert attributes["href"].startswith(("#", "data:,"))
        assert not any(name.startswith("on") for name in attributes)
    [policy] = [a["content"] for t, a in found.tags if a.get("http-equiv")]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in re.search(r"script-src[^;]*", policy).group()
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    own = found.scripts[1]
    assert "http" not in own
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", own)


def test_hostile_names_stay_text(data):
    html = render_report(hostile(data), title=HOSTILE[0])
    found = Page(html)
    assert [tag for tag, _ in found.tags].count("script") == 3
    assert "img" not in {tag for tag, _ in found.tags}
    assert found.payload["models"][: len(HOSTILE)] == HOSTILE
    for character in "<>&\u2028\u2029":
        assert character not in found.scripts[0]
    assert "<title>&lt;script&gt;" in html


def test_the_page_says_what_it_knows(kin_fit, page):
    assert "<title>A &lt;title&gt;</title>" in page
    assert "GOOD: vb converged" in page or "NOT CONVERGED" in page
    assert f"{kin_fit.design.n_evaluated:,} evaluated" in page
    assert "90\N{NO-BREAK SPACE}% predictive interval" in page
    assert "confidence" not in page[: page.index('id="data"')].lower()
    assert "BSD 3-clause" in page
    assert "Redistribution and use" in page


def test_a_point_shows_points(point):
    data = report_data(point, key=KEY)
    assert data.scores[["lower", "upper", "rank_lower"]].isna().all(axis=None)
    assert data.flags.empty
    html = render_report(data)
    payload = Page(html).payload
    assert payload["scores"][0]["lower"] is None
    assert "point estimate" in html
    assert "width-chart" not in Page(html).scripts[0]


def test_what_made_the_numbers_is_told(kin_fit, page):
    told = page.split("What made these numbers")[1].split("</table>")[0]
    for name, value in kin_fit.provenance.items():
        assert f'<th scope="row">{name}</th><td>{value}</td>' in told
    assert kin_fit.design.responses.fingerprint() in told


@pytest.mark.slow
def test_three_thousand_models_fit_in_five_megabytes(data):
    assert len(render_report(enlarged(data, 3000)).encode()) < 5_000_000


def test_write_report_and_its_command(kin_fit, tmp_path, monkeypatch):
    fitted, output = tmp_path / "fit.nc", tmp_path / "r.html"
    write_posterior(kin_fit, fitted)
    done = CliRunner().invoke(
        command, [str(fitted), "-o", str(output), "--most", "10", "--title", "Mine", "--seed", "4"]
    )
    assert done.exit_code == 0, done.output
    assert "10 models written to" in done.stderr
    assert "note: models left out: " in done.stderr
    payload = Page(output.read_text(encoding="utf-8")).payload
    assert len(payload["models"]) == 10
    again = tmp_path / "again.html"
    write_report(kin_fit, again, key=KEY, most=10, title="Mine")
    assert again.read_bytes() == output.read_bytes()


def test_mistakes_are_named(kin_fit, point, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="did you mean 'nobody/knows'"):
        report_data(kin_fit, key=KEY, models=["nobody/know"])
    with pytest.raises(InputError, match="ci_prob"):
        report_data(kin_fit, key=KEY, ci_prob=1.0)
    with pytest.raises(InputError, match="top_k is 4, of 4 models"):
        report_data(kin_fit, key=KEY, most=4, top_k=4)
    with pytest.raises(InputError, match="a point estimate knows no uncertainty"):
        report_data(point, key=KEY, threshold=0.5)
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(InputError, match=r"pip install 'bayes-lrmf\[report\]'"):
        write_report(kin_fit, tmp_path / "r.html", key=KEY)
    assert not list(tmp_path.iterdir())


def test_every_script_of_the_folder_is_used():
    folder = module.resources.files("bayes_lrmf") / "report_assets"
    kept = {f.name for f in folder.iterdir()}
    assert kept == {f"{name}.js" for name in module._SCRIPTS} | {"report.css", "report.html.j2"}


@pytest.fixture
def browser(tmp_path):
    """Return a function that opens a page in a headless Chromium, with what it wrote."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs Selenium")
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    chromium, driver = next(filter(None, found), None), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        f"user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(driver)
    window = webdriver.Chrome(options=options, service=service)

    def opened(html: str, *, width: int = 1280, dark: bool = False):
        path = tmp_path / "page.html"
        path.write_text(html, encoding="utf-8")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        calm = {"name": "prefers-reduced-motion", "value": "reduce"}
        window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, calm]})
        window.get(path.as_uri())
        until(lambda: window.execute_script("return document.documentElement.dataset.ready"))
        return window

    yield opened
    window.quit()


def until(condition, seconds: float = 30.0):
    """Wait for a condition to hold, on a machine that may be busy."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


def shown(window) -> list[str]:
    script = "return [...document.querySelectorAll('#models .model')].map(e => e.textContent)"
    return window.execute_script(script)


def fill(window, identity: str, text: str) -> None:
    field = window.find_element("id", identity)
    field.clear()
    field.send_keys(text)


@pytest.mark.slow
def test_the_table_sorts_searches_and_filters(browser, data, page):
    window = browser(page)
    average = data.scores[data.scores["benchmark"] == AVERAGE].set_index("model")
    assert (
        shown(window)[:10]
        == average["rank"].round(1).sort_values(kind="stable").index[:10].tolist()
    )
    window.find_element("css selector", 'button[data-key="name"]').click()
    names = sorted(average.index, key=str.lower)
    assert shown(window)[:10] == names[:10]
    cell = "return document.querySelector('th.name[aria-sort]').getAttribute('aria-sort')"
    assert window.execute_script(cell) == "ascending"
    window.find_element("css selector", 'button[data-key="name"]').click()
    assert shown(window)[:10] == names[::-1][:10]
    assert window.execute_script(cell) == "descending"
    assert window.execute_script("return document.activeElement.dataset.key") == "name"
    fill(window, "search", "BASE-1")
    until(lambda: shown(window) == [n for n in names[::-1] if "base-1" in n])
    fill(window, "search", " ")
    until(lambda: len(shown(window)) > 5)
    window.find_element("css selector", 'input[value="cold"]').click()
    cold = data.models.loc[data.models["status"] == "cold", "model"]
    assert set(shown(window)) == set(cold)
    assert "cold start" in window.find_element("id", "models").text
    benchmark = data.scores["benchmark"].iloc[1]
    window.find_element("css selector", '#benchmark option[value="2"]').click()
    row = (
        data.scores[data.scores["benchmark"] == benchmark].set_index("model").loc[shown(window)[0]]
    )
    text = window.find_element("css selector", "#models tbody tr").text
    assert f"{100 * row['mean']:.1f}" in text
    window.find_element("css selector", "#models .model").click()
    assert len(window.find_elements("css selector", ".detail dt")) == 3
    assert window.get_log("browser") == []
    assert window.execute_script("return performance.getEntriesByType('resource').length") == 0


@pytest.mark.slow
def test_flags_say_which_score_and_why(browser, kin_fit, flagged_page):
    window = browser(flagged_page, width=390)
    models = Page(flagged_page).payload["models"]
    expected = flag(kin_fit, key=KEY, models=models, **LIMITS)
    for rule in ("width", "threshold"):
        window.find_element("css selector", f'#rule option[value="{rule}"]').click()
        own = expected[expected["rule"] == rule]
        first = own.iloc[0]
        row = window.find_element("css selector", "#flag-table tbody tr").text
        for part in (first["model"], rule, first["benchmark"], first["reason"]):
            assert part in row
    window.find_element("css selector", '#rule option[value=""]').click()
    own = expected[expected["model"] == first["model"]]
    n = len(own.drop_duplicates(["rule", "reason"]))
    fill(window, "flag-search", first["model"] + " ")
    until(lambda: window.find_element("id", "flag-status").text == f"{n} of {n} flags")
    window.find_element("css selector", "#flag-table .model").click()
    detail = window.find_element("css selector", "#models .detail").text
    assert all(reason in detail for reason in own["reason"])
    assert f"Flagged, {rule}, {first['benchmark']}: {first['reason']}" in detail
    wide = "return document.documentElement.scrollWidth - innerWidth"
    assert window.execute_script(wide) <= 0
    assert window.get_log("browser") == []


@pytest.mark.slow
def test_the_tree_finds_and_colours(browser, data, page):
    window = browser(page)
    pixels = "return document.querySelector('#tree canvas').toDataURL()"
    before = window.execute_script(pixels)
    model = data.models.loc[data.models["family"] == data.models["family"].max(), "model"].iloc[-1]
    fill(window, "tree-search", model + "\n")
    assert model in until(lambda: window.find_element("id", "tree-status").text)
    assert window.find_element("css selector", "#tree-chosen h3").text == model
    family = data.models.set_index("model")["family"][model]
    assert window.find_element("id", "family").get_attribute("value") == str(family)
    until(lambda: window.execute_script(pixels) != before)
    before = window.execute_script(pixels)
    window.find_element("css selector", '#colour option[value="width"]').click()
    until(lambda: window.execute_script(pixels) != before)
    assert "Width" in until(lambda: window.find_element("id", "tree-what").text)
    for identity in ("zoom-in", "zoom-out", "zoom-fit"):
        before = window.execute_script(pixels)
        window.find_element("id", identity).click()
        until(lambda old=before: window.execute_script(pixels) != old)
    fill(window, "tree-search", "no such model\n")
    until(lambda: "No such model" in window.find_element("id", "tree-status").text)
    assert window.get_log("browser") == []


@pytest.mark.slow
def test_keys_reach_and_work_the_table_and_the_tree(browser, page):
    from selenium.webdriver.common.keys import Keys

    window = browser(page)
    window.execute_script("document.body.focus()")

    def press(key):
        window.switch_to.active_element.send_keys(key)
        return window.execute_script(
            "const e = document.activeElement; return e.id || e.dataset.key || e.className"
        )

    body = window.find_element("css selector", "body")
    body.send_keys(Keys.TAB)
    reached = [window.switch_to.active_element.get_attribute("class")]
    assert reached == ["skip"]
    for _ in range(400):
        reached.append(press(Keys.TAB))
        if reached[-1] == "zoom-fit":
            break
    order = ["theme", "search", "benchmark", "name", "rank", "score", "model", "page-size"]
    order += ["family", "colour", "tree-search", "zoom-out", "zoom-in", "zoom-fit"]
    places = [reached.index(name) for name in order]
    assert places == sorted(places)
    assert press(Keys.TAB) == "tree"
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert window.execute_script(outline) == "solid"
    press(Keys.ARROW_DOWN)
    first = window.find_element("css selector", "#tree-chosen h3").text
    press(Keys.ARROW_DOWN)
    assert window.find_element("css selector", "#tree-chosen h3").text != first
    press(Keys.HOME)
    assert window.find_element("css selector", "#tree-chosen h3").text == first


@pytest.mark.slow
def test_dark_light_and_narrow(browser, page):
    colour = "return getComputedStyle(document.body).backgroundColor"
    wide = "return document.documentElement.scrollWidth - innerWidth"
    seen = {}
    for dark in (False, True):
        for width in (1280, 390):
            window = browser(page, width=width, dark=dark)
            seen[dark] = window.execute_script(colour)
            window.find_element("css selector", "#models .model").click()
            assert window.execute_script(wide) <= 0, width
    assert seen[False] != seen[True]
    button = window.find_element("id", "theme")
    button.click()
    assert button.text == "Theme: light"
    assert window.execute_script(colour) == seen[False]
    button.click()
    assert window.execute_script(colour) == seen[True]


@pytest.mark.slow
def test_hostile_names_do_nothing_in_a_browser(browser, data):
    window = browser(render_report(hostile(data), title=HOSTILE[0]))
    fill(window, "search", HOSTILE[0])
    until(lambda: shown(window) == [HOSTILE[0]])
    window.find_element("css selector", "#models .model").click()
    place = data.models["family"].to_numpy()
    for name, family in zip(HOSTILE, place, strict=False):
        if family >= 0 and "\u2028" not in name:
            fill(window, "tree-search", name + "\n")
            until(lambda name=name: window.find_element("css selector", "#tree-chosen").text)
    assert (
        window.execute_script("return document.querySelectorAll('main img, main script').length")
        == 0
    )
    assert window.get_log("browser") == []


@pytest.mark.slow
def test_a_point_has_no_intervals_in_a_browser(browser, point):
    window = browser(render_report(report_data(point, key=KEY)))
    assert window.find_elements("css selector", "#models .range") == []
    assert window.find_element("css selector", "#models .score .figure").text
    assert window.get_log("browser") == []


@pytest.mark.slow
def test_first_paint_of_three_thousand_models(browser, data, record_property):
    window = browser(render_report(enlarged(data, 3000)))
    script = "return performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
    seconds = window.execute_script(script)
    record_property("first_paint_seconds", seconds)
    sys.stdout.write(f"first paint of 3,000 models: {seconds:.2f} s\n")
    assert seconds < 6
    assert "3,000 models" in window.find_element("id", "table-status").text
    window.find_element("id", "last").click()
    assert window.find_element("id", "page-of").text == "Page 60 of 60"
