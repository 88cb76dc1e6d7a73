// Pictures of how far the fit may be trusted, from Vega-Lite specifications.
const views = [];

async function drawChart(id, spec, renderer) {
  const box = byId(id);
  const full = {
    width: Math.max(180, box.clientWidth - 8), height: 260, autosize: { type: "fit", contains: "padding" }, padding: 4, ...spec,
  };
  const view = await draw(id, full, "vega-lite", renderer);
  if (view) views.push(view);
}

const SHARES = { format: ".0%", values: [0, 0.25, 0.5, 0.75, 1], labelFlush: false };

function calibrationSpec() {
  const values = DATA.calibration.map((bin) => ({
    ...bin, off: 100 * (bin.observed - bin.predicted),
    low: 100 * ((bin.lower ?? bin.observed) - bin.predicted), high: 100 * ((bin.upper ?? bin.observed) - bin.predicted),
  }));
  const x = { field: "predicted", type: "quantitative", title: "fitted probability", scale: { domain: [0, 1] }, axis: SHARES };
  const y = { type: "quantitative", title: "observed less fitted, % points", axis: { tickCount: 5 } };
  const layers = [
    { data: { values: [{}] }, mark: { type: "rule", color: look("line-strong") }, encoding: { y: { datum: 0 } } },
    { mark: { type: "rule", color: look("accent-soft"), strokeWidth: 6, strokeCap: "round" }, encoding: { x, y: { field: "low", ...y }, y2: { field: "high" } } },
    { mark: { type: "point", filled: true, color: look("accent"), size: 45, opacity: 1 }, encoding: { x, y: { field: "off", ...y } } },
  ];
  return { data: { values }, layer: DATA.is_point ? [layers[0], layers[2]] : layers };
}

function widthSpec() {
  const b = state.benchmark;
  const values = DATA.models.map((_, m) => ({
    runs: runs(b, m), width: width(b, m) / 1000, kind: DATA.cold[m] ? "cold start" : "evaluated",
    // Results come in few amounts: without a little spread, models would hide one another.
    off: ((m * 0.618034) % 1) - 0.5,
  }));
  const kinds = DATA.cold.includes(1) ? ["evaluated", "cold start"] : ["evaluated"];
  return {
    data: { values },
    transform: [{ calculate: `datum.runs + datum.off * ${DATA.run_totals[b]} * 0.02`, as: "near" }],
    mark: { type: "point", filled: true, size: 14, opacity: 0.45 },
    encoding: {
      x: { field: "near", type: "quantitative", title: "items run (spread a little sideways)", axis: { tickCount: 5, format: "~s" } },
      y: { field: "width", type: "quantitative", title: "width of the interval", axis: { format: ".0%", tickCount: 5 }, scale: { domainMin: 0 } },
      color: { field: "kind", type: "nominal", title: null, scale: { domain: kinds, range: [look("accent"), look("warm")] }, legend: { orient: "top", symbolOpacity: 1 } },
    },
  };
}

function inheritanceSpec() {
  const axis = SHARES;
  return {
    data: { values: DATA.inheritance.map((line) => ({ ...line, label: `${line.relation} (${count(line.n_children)})` })) },
    height: 60 + 30 * DATA.inheritance.length,
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
  return Promise.all([
    drawChart("calibration-chart", calibrationSpec(), "svg"),
    DATA.is_point || drawChart("width-chart", widthSpec(), "canvas"),
    DATA.inheritance.length && drawChart("inheritance-chart", inheritanceSpec(), "svg"),
  ]);
}

setUpTheme();
setUpTable();
setUpFlags();
setUpTree();
document.addEventListener("DOMContentLoaded", async () => {
  const all = () => Promise.all([drawTree(), drawCharts()]);
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
  await all();
  document.documentElement.dataset.ready = "true";
});
