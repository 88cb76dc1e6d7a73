// The table of models: sorted, searched, filtered, a page at a time.
const table = { sort: "rank", down: false, page: 0, size: 50, words: [], filter: "all" };
const openRows = new Set();
const lowered = DATA.models.map((name) => name.toLowerCase());
const shownBenchmarks =
  DATA.benchmarks.length - 1 <= MANY_COLUMNS && DATA.benchmarks.length > 2
    ? DATA.benchmarks.map((_, b) => b).slice(1)
    : [];

const filters = {
  all: () => true,
  evaluated: (m) => !DATA.cold[m],
  cold: (m) => DATA.cold[m] === 1,
  flagged: (m) => flagsOf.has(m),
};

function columns() {
  const b = state.benchmark;
  return [
    { key: "name", label: "Model", class: "name", value: (m) => lowered[m] },
    { key: "rank", label: "Rank", class: "rank", value: (m) => rank(b, m)[0] },
    { key: "score", label: benchmarkName(b), class: "score", value: (m) => score(b, m)[0], down: true },
    ...shownBenchmarks.map((k) => ({
      key: `b${k}`,
      label: DATA.benchmarks[k],
      class: "extra",
      value: (m) => score(k, m)[0],
      down: true,
    })),
    ...(shownBenchmarks.length || DATA.is_point
      ? []
      : [{ key: "width", label: "Width", class: "width", value: (m) => width(b, m), down: true }]),
    { key: "runs", label: "Items run", class: "runs", value: (m) => runs(b, m), down: true },
  ];
}

function chosenModels() {
  const column = columns().find((c) => c.key === table.sort) || columns()[1];
  const kept = [];
  for (let m = 0; m < N; m += 1) {
    if (filters[table.filter](m) && table.words.every((word) => lowered[m].includes(word))) kept.push(m);
  }
  const values = kept.map(column.value);
  const order = kept.map((_, i) => i);
  const sign = table.down ? -1 : 1;
  order.sort((i, j) => {
    if (values[i] < values[j]) return -sign;
    if (values[i] > values[j]) return sign;
    return rank(state.benchmark, kept[i])[0] - rank(state.benchmark, kept[j])[0] || kept[i] - kept[j];
  });
  return order.map((i) => kept[i]);
}

function headCell(column) {
  const active = column.key === table.sort;
  const sorted = active ? (table.down ? "descending" : "ascending") : "none";
  const cell = make(
    "th",
    { scope: "col", class: column.class, "aria-sort": sorted },
    make(
      "button",
      { type: "button", "data-key": column.key, onclick: () => sortBy(column) },
      make("span", {}, ...broken(column.label)),
      make("span", { class: "arrow", "aria-hidden": "true" }, active ? (table.down ? "\u2193" : "\u2191") : "\u2195"),
    ),
  );
  if (column.key === "score") {
    cell.classList.add("with-axis");
    const [low, high] = barRange(state.benchmark);
    const ticks = [low, (low + high) / 2, high].map((v) => make("span", {}, String(Number((v / 10).toFixed(1)))));
    cell.append(make("div", { class: "axis", "aria-hidden": "true" }, ...ticks));
  }
  return cell;
}

function sortBy(column) {
  if (table.sort === column.key) table.down = !table.down;
  else {
    table.sort = column.key;
    table.down = Boolean(column.down);
  }
  table.page = 0;
  drawTable();
  byId("models").querySelector(`button[data-key="${column.key}"]`).focus();
}

function tags(m) {
  const out = [];
  if (DATA.cold[m]) out.push(make("span", { class: "tag cold" }, "cold start"));
  if (flagsOf.has(m)) out.push(make("span", { class: "tag flag" }, "flagged"));
  return out;
}

function bodyRow(m, all) {
  const b = state.benchmark;
  const [place, first, last] = rank(b, m);
  const [mean] = score(b, m);
  const whole = (value) => count(Math.round(value));
  const open = openRows.has(m);
  const button = make(
    "button",
    { type: "button", class: "model", "aria-expanded": String(open), "data-model": m },
    DATA.models[m],
  );
  button.addEventListener("click", () => {
    if (openRows.has(m)) openRows.delete(m);
    else openRows.add(m);
    drawTable();
    byId("models").querySelector(`button[data-model="${m}"]`).focus();
  });
  const row = make(
    "tr",
    { class: DATA.cold[m] ? "cold" : "" },
    make("th", { scope: "row", class: "name" }, button, ...tags(m)),
    make("td", { class: "rank" }, make("span", { class: "figure" }, whole(place)), " ",
      make("span", { class: "interval" }, intervalText(first, last, whole))),
    make("td", { class: "score" }, make("div", { class: "cell" }, make("span", { class: "figure" }, percent(mean)), " ",
      make("span", { class: "interval" }, scoreRange(b, m)), bar(b, m))),
    ...shownBenchmarks.map((k) => make("td", { class: "extra" }, percent(score(k, m)[0]))),
    ...(all.some((column) => column.key === "width") ? [make("td", { class: "width" }, percent(width(b, m)))] : []),
    make("td", { class: "runs" }, count(runs(b, m)), make("span", { class: "of" }, ` of ${count(DATA.run_totals[b])}`)),
  );
  return open ? [row, make("tr", { class: "detail" }, make("td", { colspan: all.length }, details(m)))] : [row];
}

function details(m) {
  const list = make("dl", { class: "scores" });
  DATA.benchmarks.forEach((name, b) => {
    if (b === 0) return;
    const [mean] = score(b, m);
    list.append(
      make(
        "div",
        {},
        make("dt", {}, ...broken(name)),
        make("dd", {}, make("span", { class: "figure" }, percent(mean)), " ",
          make("span", { class: "interval" }, scoreRange(b, m)),
          make("span", { class: "unseen" }, ` ${count(runs(b, m))} of ${count(DATA.run_totals[b])} items run`),
          bar(b, m, [0, THOUSAND])),
      ),
    );
  });
  const box = make("div", { class: "details" }, list);
  const marks = make("div", { class: "remarks" });
  for (const flag of flagsOf.get(m) || []) {
    const of = flag.benchmarks ? `, ${flagBenchmarks(flag)}` : "";
    marks.append(make("p", {}, make("strong", {}, `Flagged, ${flag.rule}${of}: `), flag.reason));
  }
  if (DATA.family[m] >= 0) {
    marks.append(make("button", { type: "button", class: "plain", onclick: () => showInTree(m) }, "Show in family tree"));
  }
  box.prepend(marks);
  return box;
}

function drawTable() {
  const all = columns();
  const chosen = chosenModels();
  const pages = Math.max(1, Math.ceil(chosen.length / table.size));
  table.page = Math.min(Math.max(table.page, 0), pages - 1);
  const start = table.page * table.size;
  const rows = chosen.slice(start, start + table.size);
  const head = byId("models").tHead;
  head.replaceChildren(make("tr", {}, ...all.map(headCell)));
  const body = rows.flatMap((m) => bodyRow(m, all));
  if (!rows.length) {
    body.push(make("tr", {}, make("td", { colspan: all.length, class: "empty" }, "No model matches.")));
  }
  byId("models").tBodies[0].replaceChildren(...body);
  const range = rows.length ? `${count(start + 1)}\u2013${count(start + rows.length)} of ` : "";
  byId("table-status").textContent = `${range}${count(chosen.length)} models`;
  byId("page-of").textContent = `Page ${count(table.page + 1)} of ${count(pages)}`;
  byId("first").disabled = byId("previous").disabled = table.page === 0;
  byId("last").disabled = byId("next").disabled = table.page >= pages - 1;
}

function turnTo(page) {
  table.page = page;
  drawTable();
}

function setUpTable() {
  const select = byId("benchmark");
  DATA.benchmarks.forEach((_, b) => select.append(make("option", { value: b }, benchmarkName(b))));
  select.addEventListener("change", () => {
    state.benchmark = Number(select.value);
    drawTable();
    document.dispatchEvent(new Event("benchmark"));
  });
  byId("search").addEventListener("input", laterOn(() => {
    table.words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    turnTo(0);
  }, 80));
  for (const radio of document.querySelectorAll('input[name="filter"]')) {
    let n = 0;
    for (let m = 0; m < N; m += 1) n += filters[radio.value](m) ? 1 : 0;
    radio.nextElementSibling.append(make("span", { class: "n" }, ` ${count(n)}`));
    radio.disabled = n === 0;
    radio.addEventListener("change", () => {
      table.filter = radio.value;
      turnTo(0);
    });
  }
  byId("first").addEventListener("click", () => turnTo(0));
  byId("previous").addEventListener("click", () => turnTo(table.page - 1));
  byId("next").addEventListener("click", () => turnTo(table.page + 1));
  byId("last").addEventListener("click", () => turnTo(Infinity));
  byId("page-size").addEventListener("change", (event) => {
    table.size = Number(event.target.value);
    turnTo(0);
  });
  byId("models").classList.toggle("stacked", shownBenchmarks.length > 0);
  drawTable();
}

function showInTable(m) {
  table.words = [];
  table.filter = "all";
  byId("search").value = "";
  document.querySelector('input[name="filter"][value="all"]').checked = true;
  table.page = Math.floor(chosenModels().indexOf(m) / table.size);
  openRows.add(m);
  drawTable();
  byId("models").querySelector(`button[data-model="${m}"]`).focus();
}
