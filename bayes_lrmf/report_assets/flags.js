// Flags with their reasons, by rule and by words.
const FLAG_STEP = 50;
let flagsShown = FLAG_STEP;

const flagBenchmarks = (flag) => (flag.benchmarks ? flag.benchmarks.map(benchmarkName).join(", ") : "all");

function drawFlags() {
  const rule = byId("rule").value;
  const words = byId("flag-search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = flags.filter((flag) => {
    const text = `${DATA.models[flag.model]} ${flagBenchmarks(flag)} ${flag.reason}`.toLowerCase();
    return (!rule || flag.rule === rule) && words.every((word) => text.includes(word));
  });
  const rows = chosen.slice(0, flagsShown).map((flag) =>
    make("tr", {},
      make("th", { scope: "row", class: "name" },
        make("button", { type: "button", class: "model", onclick: () => showInTable(flag.model) }, DATA.models[flag.model])),
      make("td", { class: "rule" }, flag.rule),
      make("td", { class: "about" }, flagBenchmarks(flag)),
      make("td", { class: "reason" }, flag.reason)));
  byId("flag-table").tBodies[0].replaceChildren(...rows);
  byId("flag-status").textContent = `${count(rows.length)} of ${count(chosen.length)} flags`;
  byId("more-flags").hidden = rows.length === chosen.length;
}

function setUpFlags() {
  if (!flags.length) return;
  for (const rule of DATA.flags.rules) {
    byId("rule").append(make("option", { value: rule }, rule));
  }
  const again = () => {
    flagsShown = FLAG_STEP;
    drawFlags();
  };
  byId("rule").addEventListener("change", again);
  byId("flag-search").addEventListener("input", laterOn(again, 80));
  byId("more-flags").addEventListener("click", () => {
    flagsShown += FLAG_STEP;
    drawFlags();
  });
  drawFlags();
}
