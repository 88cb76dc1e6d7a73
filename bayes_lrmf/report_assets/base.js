// The embedded data, its units, and how numbers and elements are made. Text enters as text nodes only.
const DATA = JSON.parse(document.getElementById("data").textContent);
const N = DATA.models.length;
const MANY_COLUMNS = 6;
const THOUSAND = 1000;
const level = `${Number((100 * DATA.ci_prob).toFixed(1))}\u202f%`;
const state = { benchmark: 0, selected: -1 };
const flags = DATA.flags.model.map((model, i) => ({
  model,
  rule: DATA.flags.rules[DATA.flags.rule[i]],
  reason: DATA.flags.reasons[DATA.flags.reason[i]],
  benchmarks: DATA.flags.benchmarks[i],
}));
const flagsOf = new Map();
flags.forEach((flag) => {
  if (!flagsOf.has(flag.model)) flagsOf.set(flag.model, []);
  flagsOf.get(flag.model).push(flag);
});

const byId = (id) => document.getElementById(id);
const count = (n) => n.toLocaleString("en-GB");
const percent = (thousandths) => (thousandths / 10).toFixed(1);

// Rows that a narrow screen lays out as blocks would else lose their roles in some browsers.
const ROLES = { tr: "row", td: "cell", col: "columnheader", row: "rowheader" };

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  const role = ROLES[tag === "th" ? attributes.scope : tag];
  if (role) element.setAttribute("role", role);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

// A score is [mean, lower, upper] in thousandths; lower and upper are null for a point estimate.
function score(benchmark, model) {
  const of = DATA.scores[benchmark];
  return [of.mean[model], of.lower ? of.lower[model] : null, of.upper ? of.upper[model] : null];
}
function rank(benchmark, model) {
  const of = DATA.ranks[benchmark];
  return [of.mean[model], of.lower ? of.lower[model] : null, of.upper ? of.upper[model] : null];
}
const runs = (benchmark, model) => DATA.run_patterns[DATA.run_pattern[model]][benchmark];
const width = (benchmark, model) => {
  const [, lower, upper] = score(benchmark, model);
  return lower === null ? null : upper - lower;
};
const benchmarkName = (benchmark) =>
  benchmark === 0 ? "Mean over benchmarks" : DATA.benchmarks[benchmark];

function intervalText(lower, upper, format) {
  return lower === null ? "" : `${format(lower)}\u2013${format(upper)}`;
}
const isKnown = (benchmark, model) => runs(benchmark, model) === DATA.run_totals[benchmark];
const scoreRange = (benchmark, model) =>
  isKnown(benchmark, model) ? "observed" : intervalText(...score(benchmark, model).slice(1), percent);

// The range that bars of a benchmark share, in thousandths, out to whole twentieths.
const ranges = new Map();
function barRange(benchmark) {
  if (!ranges.has(benchmark)) {
    const of = DATA.scores[benchmark];
    let low = THOUSAND;
    let high = 0;
    for (const list of [of.mean, of.lower || of.mean, of.upper || of.mean]) {
      for (const value of list) {
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
    low = Math.max(0, 50 * Math.floor(low / 50));
    high = Math.min(THOUSAND, Math.max(low + 50, 50 * Math.ceil(high / 50)));
    ranges.set(benchmark, [low, high]);
  }
  return ranges.get(benchmark);
}

function bar(benchmark, model, range) {
  const [mean, lower, upper] = score(benchmark, model);
  const [low, high] = range || barRange(benchmark);
  const at = (value) => `${(100 * (value - low)) / (high - low)}%`;
  const box = make("div", { class: `bar${isKnown(benchmark, model) ? " known" : ""}`, "aria-hidden": "true" });
  if (lower !== null && upper > lower) {
    const range_ = make("span", { class: "range" });
    range_.style.left = at(lower);
    range_.style.width = `${(100 * (upper - lower)) / (high - low)}%`;
    box.append(range_);
  }
  const dot = make("span", { class: "dot" });
  dot.style.left = at(mean);
  box.append(dot);
  return box;
}

function scoreWords(benchmark, model) {
  const range = scoreRange(benchmark, model);
  return `${percent(score(benchmark, model)[0])}\u202f%${range ? `, ${range}` : ""}`;
}

// Long names may break after their separators.
function broken(name) {
  return name.split(/(?<=[_/.])/).flatMap((part, i) => (i ? [make("wbr"), part] : [part]));
}

function laterOn(action, milliseconds) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, milliseconds);
  };
}
