// Light, dark, or as the system says; charts take their colours from the style sheet.
const THEMES = ["automatic", "light", "dark"];

function look(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function chartConfig() {
  const text = look("text");
  const soft = look("soft");
  const line = look("line");
  const font = getComputedStyle(document.body).fontFamily;
  return {
    background: null,
    font,
    axis: {
      labelColor: soft, titleColor: soft, gridColor: line, domainColor: line, tickColor: line,
      labelFont: font, titleFont: font, titleFontWeight: "normal", labelFontSize: 12, titleFontSize: 12, titlePadding: 8,
    },
    legend: {
      labelColor: soft, titleColor: soft, labelFont: font, titleFont: font, titleFontWeight: "normal",
      labelFontSize: 12, titleFontSize: 12,
    },
    view: { stroke: null },
    text: { color: text, font },
    title: { color: text, font },
  };
}

// Draw a specification; only the last of several begun for one place returns its view.
const begun = new Map();
async function draw(id, spec, mode, renderer) {
  const turn = (begun.get(id) || 0) + 1;
  begun.set(id, turn);
  // What a picture says is in its label and its table: its marks are no more than ink.
  const place = make("div", {});
  const hidden = make("div", { "aria-hidden": "true" }, place);
  // Without the library's own tooltips, names stand in a title attribute, as text.
  const { view } = await vegaEmbed(place, spec, {
    mode, renderer, config: chartConfig(), actions: false, tooltip: false, defaultStyle: false, hover: mode === "vega-lite",
  });
  if (begun.get(id) !== turn) {
    view.finalize();
    return null;
  }
  byId(id).replaceChildren(hidden);
  return view;
}

function setUpTheme() {
  const button = byId("theme");
  let theme = 0;
  button.addEventListener("click", () => {
    theme = (theme + 1) % THEMES.length;
    if (theme) document.documentElement.dataset.theme = THEMES[theme];
    else delete document.documentElement.dataset.theme;
    button.textContent = `Theme: ${THEMES[theme]}`;
    document.dispatchEvent(new Event("theme"));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    document.dispatchEvent(new Event("theme"));
  });
}
