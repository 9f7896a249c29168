// Colours of amounts and number formats, the same in the graph and in the map.

const SCALES = {
  light: ["#eef0fb", "#c7cbf7", "#8f93f1", "#5a55e6", "#3a2fb8"],
  dark: ["#20253a", "#343a72", "#4e4fae", "#7578e6", "#a9aefc"],
};

function scaleOf(theme) {
  return SCALES[theme.dark ? "dark" : "light"];
}

// A colour for an amount between nothing and the most; roots keep small amounts apart.
function amountFill(theme, amount, most) {
  const steps = scaleOf(theme).map((each) => parseColour(each));
  const place = most > 0 ? Math.sqrt(Math.min(1, Math.max(0, amount) / most)) * (steps.length - 1) : 0;
  const low = Math.min(steps.length - 2, Math.floor(place));
  return mixed(steps[low], steps[low + 1], place - low);
}

function dtypeFill(theme, name, names) {
  return theme.fills[names.indexOf(name) % theme.fills.length];
}

function rampLegend(theme, label, mostText, note) {
  const ramp = make("i", { className: "ramp" });
  ramp.style.background = `linear-gradient(90deg, ${scaleOf(theme).join(", ")})`;
  return [make("span", { className: "note" }, `${label}: 0`), ramp, make("span", { className: "note" }, `${mostText}${note}`)];
}

function dtypeLegend(theme, names) {
  return names.map((name) => {
    const chip = make("i");
    chip.style.background = css(dtypeFill(theme, name, names));
    return make("span", { className: "note" }, chip, name);
  });
}
