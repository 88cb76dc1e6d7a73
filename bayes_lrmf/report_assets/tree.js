// The family tree: one family at a time, drawn by Vega; this file keeps the window on it and the choice.
const EDGES = DATA.edges.child.map((child, e) => ({
  child, parent: DATA.edges.parent[e], relation: DATA.relations[DATA.edges.relation[e]],
}));
const parentsOf = new Map();
const childrenOf = new Map();
EDGES.forEach((edge) => {
  // The first recorded parent is the one that a model stands below.
  edge.first = !parentsOf.has(edge.child);
  for (const [map, at] of [[parentsOf, edge.child], [childrenOf, edge.parent]]) {
    if (!map.has(at)) map.set(at, []);
    map.get(at).push(edge);
  }
});
const stepOf = new Map(DATA.steps.map((step) => [step.model, step]));
const families = new Map();
DATA.models.forEach((_, m) => {
  const f = DATA.family[m];
  if (f < 0) return;
  if (!families.has(f)) families.set(f, []);
  families.get(f).push(m);
});
families.forEach((members) => members.sort((a, b) => DATA.row[a] - DATA.row[b]));
const tree = { family: 0, colour: "score", view: null, x: null, y: null, found: [], at: -1, asked: "" };
const LABEL_GAP = 11;

function familyName(members) {
  let best = members[0];
  for (const m of members) {
    if ((childrenOf.get(m) || []).length > (childrenOf.get(best) || []).length) best = m;
  }
  return DATA.models[best];
}

function treeSpec(box) {
  const members = families.get(tree.family);
  const b = state.benchmark;
  const uncertain = tree.colour === "width";
  const value = (m) => (uncertain ? width(b, m) : score(b, m)[0]) / 10;
  const nodes = members.map((m) => ({
    m, name: DATA.models[m], x: DATA.depth[m], y: DATA.row[m], value: value(m), cold: DATA.cold[m],
    tip: `${DATA.models[m]}: ${scoreWords(b, m)}`,
  }));
  const steps = EDGES.filter((e) => DATA.family[e.child] === tree.family).map((e) => ({
    px: DATA.depth[e.parent], py: DATA.row[e.parent], cx: DATA.depth[e.child], cy: DATA.row[e.child],
    first: e.first, step: stepOf.has(e.child) ? stepOf.get(e.child).step : null,
  }));
  const rule = (x, y, x2, y2) => ({
    x: { scale: "x", field: x }, y: { scale: "y", field: y }, x2: { scale: "x", field: x2 }, y2: { scale: "y", field: y2 },
  });
  const strength = { signal: "thin * (datum.step === null ? 1 : scale('strength', datum.step))" };
  const opacity = { signal: "datum.step === null ? 0.4 : scale('clear', datum.step)" };
  const dash = { signal: "datum.step === null ? [3, 3] : [1, 0]" };
  return {
    width: box.clientWidth, height: box.clientHeight, padding: 0, autosize: "none", background: null,
    signals: [
      { name: "xd", value: tree.x }, { name: "yd", value: tree.y }, { name: "chosen", value: state.selected },
      { name: "gap", update: "height / (yd[1] - yd[0])" },
      { name: "dot", update: "clamp(gap * 6, 18, 90)" },
      { name: "thin", update: "clamp(gap / 10, 0.25, 1)" },
    ],
    data: [
      { name: "nodes", values: nodes },
      { name: "first", values: steps.filter((s) => s.first) },
      { name: "others", values: steps.filter((s) => !s.first) },
      { name: "one", source: "nodes", transform: [{ type: "filter", expr: "datum.m === chosen" }] },
    ],
    scales: [
      { name: "x", type: "linear", domain: { signal: "xd" }, range: [0, { signal: "width" }], zero: false, nice: false },
      { name: "y", type: "linear", domain: { signal: "yd" }, range: [0, { signal: "height" }], zero: false, nice: false },
      { name: "colour", type: "linear", domain: { data: "nodes", field: "value" }, nice: false, zero: false, range: { scheme: uncertain ? "cividis" : "viridis" } },
      { name: "strength", type: "linear", domain: DATA.step_range, range: [5, 1.2], clamp: true },
      { name: "clear", type: "linear", domain: DATA.step_range, range: [1, 0.35], clamp: true },
    ],
    marks: [
      { type: "rule", clip: true, from: { data: "first" }, encode: { update: { ...rule("px", "py", "px", "cy"), stroke: { value: look("line-strong") }, strokeWidth: { value: 1 } } } },
      { type: "rule", clip: true, from: { data: "others" }, encode: { update: { ...rule("px", "py", "cx", "cy"), stroke: { value: look("edge") }, strokeWidth: { value: 1.2 }, strokeOpacity: { value: 0.35 } } } },
      { type: "rule", clip: true, from: { data: "first" }, encode: { update: { ...rule("px", "cy", "cx", "cy"), stroke: { value: look("edge") }, strokeWidth: strength, strokeOpacity: opacity, strokeDash: dash } } },
      { type: "symbol", clip: true, from: { data: "one" }, encode: { update: { x: { scale: "x", field: "x" }, y: { scale: "y", field: "y" }, size: { signal: "dot * 5" }, fill: { value: look("accent") }, opacity: { value: 0.3 } } } },
      { type: "symbol", clip: true, name: "dots", from: { data: "nodes" }, encode: { update: {
        x: { scale: "x", field: "x" }, y: { scale: "y", field: "y" }, size: { signal: "dot" }, cursor: { value: "pointer" },
        shape: { signal: "datum.cold ? 'diamond' : 'circle'" }, fill: { scale: "colour", field: "value" },
        stroke: { value: look("soft") }, strokeWidth: { signal: "0.6 * thin" }, tooltip: { field: "tip" },
      } } },
      { type: "text", clip: true, from: { data: "nodes" }, encode: { update: {
        x: { scale: "x", field: "x", offset: 9 }, y: { scale: "y", field: "y" }, baseline: { value: "middle" },
        text: { field: "name" }, fontSize: { signal: "clamp(gap * 0.7, 9, 13)" }, font: { value: getComputedStyle(document.body).fontFamily },
        fill: { value: look("text") }, fontWeight: { signal: "datum.m === chosen ? 'bold' : 'normal'" },
        opacity: { signal: `gap >= ${LABEL_GAP} || datum.m === chosen ? 1 : 0` }, cursor: { value: "pointer" }, tooltip: { field: "tip" },
      } } },
    ],
  };
}

function fit(whole) {
  const box = byId("tree");
  const rows = families.get(tree.family).length;
  const most = Math.floor(box.clientHeight / 17);
  const shown = whole ? Math.max(rows, 6) : Math.min(Math.max(rows, 6), most);
  tree.y = [-1, shown];
  const deepest = Math.max(...families.get(tree.family).map((m) => DATA.depth[m]));
  // Without room for names, the steps take the width.
  tree.x = [-0.4, box.clientHeight / (shown + 1) < LABEL_GAP ? deepest + 0.6 : box.clientWidth / 46];
}

function showWindow() {
  if (tree.view) tree.view.signal("xd", tree.x).signal("yd", tree.y).signal("chosen", state.selected).run();
}

async function drawTree() {
  if (!families.size) return;
  if (!tree.y) fit(false);
  if (tree.view) tree.view.finalize();
  tree.view = null;
  const view = await draw("tree-canvas", treeSpec(byId("tree")), "vega", "canvas");
  if (!view) return;
  tree.view = view;
  view.addEventListener("click", (_, item) => {
    if (item && item.datum && item.datum.m !== undefined && !drag.moved) choose(item.datum.m, false);
  });
  showWindow();
  drawScale();
}

function drawScale() {
  const colour = tree.view.scale("colour");
  const [low, high] = colour.domain();
  const stops = Array.from({ length: 9 }, (_, i) => colour(low + (i / 8) * (high - low)));
  byId("tree-ramp").style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  byId("tree-low").textContent = low.toFixed(1);
  byId("tree-high").textContent = high.toFixed(1);
  byId("tree-what").textContent = tree.colour === "width"
    ? `Width of the ${level} interval, ${benchmarkName(state.benchmark)}` : `Score, ${benchmarkName(state.benchmark)}`;
}

function zoom(factor, fx = 0.3, fy = 0.5) {
  const gap = byId("tree").clientHeight / (tree.y[1] - tree.y[0]);
  const bounded = Math.min(Math.max(gap * factor, 0.4), 60) / gap;
  const around = ([low, high], share, by) => {
    const at = low + share * (high - low);
    return [at - (at - low) / by, at + (high - at) / by];
  };
  tree.y = around(tree.y, fy, bounded);
  tree.x = around(tree.x, fx, Math.sqrt(bounded));
  showWindow();
}

function pan(dx, dy) {
  const box = byId("tree");
  const move = ([low, high], by) => [low + by, high + by];
  tree.x = move(tree.x, (-dx * (tree.x[1] - tree.x[0])) / box.clientWidth);
  tree.y = move(tree.y, (-dy * (tree.y[1] - tree.y[0])) / box.clientHeight);
  showWindow();
}

function choose(m, centre) {
  if (DATA.family[m] < 0) return;
  state.selected = m;
  if (DATA.family[m] !== tree.family) {
    tree.family = DATA.family[m];
    byId("family").value = tree.family;
    fit(false);
    drawTree();
  }
  if (centre) {
    const box = byId("tree");
    const gap = box.clientHeight / (tree.y[1] - tree.y[0]);
    if (gap < LABEL_GAP) zoom(17 / gap);
    const tall = tree.y[1] - tree.y[0];
    const end = Math.max(families.get(tree.family).length - tall, -1);
    const top = Math.min(Math.max(DATA.row[m] - tall / 2, -1), end);
    tree.y = [top, top + tall];
    const wide = tree.x[1] - tree.x[0];
    const left = Math.max(-0.4, DATA.depth[m] - 0.3 * wide);
    tree.x = [left, left + wide];
  }
  showWindow();
  drawChosen();
}

function kinButtons(edges, end) {
  return edges.map((edge) => {
    const step = stepOf.get(edge.child);
    const far = step && end === "parent" ? `, step ${step.step.toFixed(2)} (${step.lower.toFixed(2)}\u2013${step.upper.toFixed(2)})` : "";
    return make("li", {},
      make("button", { type: "button", class: "model", onclick: () => { choose(edge[end], true); byId("tree-chosen").focus(); } }, DATA.models[edge[end]]),
      make("span", { class: "unseen" }, ` ${edge.relation}${far}`));
  });
}

function drawChosen() {
  const m = state.selected;
  const parents = parentsOf.get(m) || [];
  const children = childrenOf.get(m) || [];
  const b = state.benchmark;
  const most = 12;
  const lists = [];
  for (const [label, edges, end] of [["Parents", parents, "parent"], ["Children", children, "child"]]) {
    if (!edges.length) continue;
    const more = edges.length > most ? [make("li", { class: "unseen" }, `and ${count(edges.length - most)} more`)] : [];
    lists.push(make("h4", {}, `${label} (${count(edges.length)})`), make("ul", {}, ...kinButtons(edges.slice(0, most), end), ...more));
  }
  byId("tree-chosen").replaceChildren(
    make("h3", {}, DATA.models[m]), ...tags(m),
    make("p", {}, `${benchmarkName(b)}: ${scoreWords(b, m)}. `, `${count(runs(b, m))} of ${count(DATA.run_totals[b])} items run.`),
    ...lists,
    make("button", { type: "button", class: "plain", onclick: () => showInTable(m) }, "Show in table"));
}

function showInTree(m) {
  byId("family-tree").scrollIntoView();
  choose(m, true);
  byId("tree").focus({ preventScroll: true });
}

function findInTree() {
  const asked = byId("tree-search").value.trim().toLowerCase();
  if (!asked) return;
  if (asked !== tree.asked) {
    const short = (m) => lowered[m].slice(lowered[m].lastIndexOf("/") + 1);
    const order = (m) => [lowered[m] === asked, short(m) === asked, lowered[m].startsWith(asked) || short(m).startsWith(asked), true].indexOf(true);
    tree.asked = asked;
    tree.at = -1;
    tree.found = lowered.map((_, m) => m).filter((m) => DATA.family[m] >= 0 && lowered[m].includes(asked));
    tree.found.sort((a, c) => order(a) - order(c) || DATA.family[a] - DATA.family[c] || DATA.row[a] - DATA.row[c]);
  }
  const n = tree.found.length;
  if (!n) {
    const alone = lowered.findIndex((name) => name.includes(asked));
    byId("tree-status").textContent = alone < 0 ? "No such model in this report."
      : `${DATA.models[alone]} has no recorded relatives in this report.`;
    return;
  }
  tree.at = (tree.at + 1) % n;
  choose(tree.found[tree.at], true);
  byId("tree-status").textContent = `${count(tree.at + 1)} of ${count(n)}: ${DATA.models[tree.found[tree.at]]}`;
}
