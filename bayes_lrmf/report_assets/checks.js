// Pictures of how far the fit may be trusted, from Vega-Lite specifications.
const views = [];

function drawChart(id, spec, renderer) {
  const box = byId(id);
  if (!box || !window.vegaLite) return;
  const full = {
    width: Math.max(180, box.clientWidth - 8), height: 260, autosize: { type: "fit", contains: "padding" }, padding: 4, ...spec,
  };
  const compiled = vegaLite.compile(full, { config: chartConfig() }).spec;
  views.push(new vega.View(vega.parse(compiled), { renderer, container: box }).run());
}

function calibrationSpec() {
  const values = DATA.calibration;
  const share = { type: "quantitative", scale: { domain: [0, 1] }, axis: { format: ".0%", tickCount: 5 } };
  const layers = [
    { data: { values: [{ a: 0, b: 0 }, { a: 1, b: 1 }] }, mark: { type: "line", color: look("line-strong"), strokeDash: [4, 4], strokeWidth: 1 },
      encoding: { x: { field: "a", ...share }, y: { field: "b", ...share } } },
    { mark: { type: "point", filled: true, color: look("accent"), size: 45, opacity: 1 },
      encoding: { x: { field: "predicted", ...share, title: "predicted probability" }, y: { field: "observed", ...share, title: "share observed" },
        tooltip: [{ field: "predicted", format: ".3f" }, { field: "observed", format: ".3f" }, { field: "n_trials", format: ",", title: "trials" }] } },
  ];
  if (!DATA.is_point) {
    layers.splice(1, 0, { mark: { type: "rule", color: look("warm"), strokeWidth: 4, opacity: 0.75 },
      encoding: { x: { field: "predicted", ...share, title: "predicted probability" }, y: { field: "lower", ...share, title: "share observed" }, y2: { field: "upper" } } });
  }
  return { data: { values }, layer: layers };
}

function widthSpec() {
  const b = state.benchmark;
  const values = DATA.models.map((_, m) => ({
    runs: runs(b, m), width: width(b, m) / 1000, kind: DATA.cold[m] ? "cold start" : "evaluated",
    // Results come in few amounts: without a little spread, models would hide one another.
    off: ((m * 0.618034) % 1) - 0.5,
  }));
  return {
    data: { values },
    transform: [{ calculate: `datum.runs + datum.off * ${DATA.run_totals[b]} * 0.02`, as: "near" }],
    mark: { type: "point", filled: true, size: 14, opacity: 0.45 },
    encoding: {
      x: { field: "near", type: "quantitative", title: "items run (spread a little sideways)", axis: { tickCount: 5, format: "~s" } },
      y: { field: "width", type: "quantitative", title: "width of the interval", axis: { format: ".0%", tickCount: 5 }, scale: { domainMin: 0 } },
      color: { field: "kind", type: "nominal", title: null, scale: { domain: ["evaluated", "cold start"], range: [look("accent"), look("warm")] }, legend: { orient: "top", symbolOpacity: 1 } },
    },
  };
}

function inheritanceSpec() {
  const order = DATA.inheritance.map((line) => line.relation);
  const axis = { format: ".0%", tickCount: 5 };
  return {
    data: { values: DATA.inheritance.map((line) => ({ ...line, label: `${line.relation} (${count(line.n_children)})` })) },
    height: 40 + 34 * order.length,
    encoding: { y: { field: "label", type: "nominal", title: null, sort: null, axis: { labelLimit: 160, ticks: false, domain: false, labelPadding: 8 } } },
    layer: [
      { mark: { type: "rule", strokeWidth: 6, color: look("accent"), opacity: 0.4, strokeCap: "round" },
        encoding: { x: { field: "lower", type: "quantitative", title: "share of the variance of log-odds", axis, scale: { domainMax: 1, domainMin: Math.min(0, ...DATA.inheritance.map((line) => line.lower)) } }, x2: { field: "upper" } } },
      { mark: { type: "point", filled: true, size: 60, color: look("accent"), opacity: 1 }, encoding: { x: { field: "inherited", type: "quantitative" } } },
    ],
  };
}

function drawCharts() {
  views.splice(0).forEach((view) => view.finalize());
  drawChart("calibration-chart", calibrationSpec(), "svg");
  if (!DATA.is_point) drawChart("width-chart", widthSpec(), "canvas");
  if (DATA.inheritance.length) drawChart("inheritance-chart", inheritanceSpec(), "svg");
}

setUpTheme();
setUpTable();
setUpFlags();
setUpTree();
document.addEventListener("DOMContentLoaded", () => {
  const all = () => {
    drawTree();
    drawCharts();
  };
  all();
  document.addEventListener("theme", all);
  document.addEventListener("benchmark", () => {
    all();
    if (state.selected >= 0) drawChosen();
  });
  let seen = innerWidth;
  addEventListener("resize", laterOn(() => {
    if (innerWidth === seen) return;
    seen = innerWidth;
    all();
  }, 200));
  document.documentElement.dataset.ready = "true";
});
