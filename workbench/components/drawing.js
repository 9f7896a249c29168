// Shared by the timeline and the flame graph: theme, colours, words, small parts of a page.

const GREY = "#94a3b8";
const PALETTE = ["#6366f1", "#14b8a6", "#f59e0b", "#ef4444", "#8b5cf6", "#0ea5e9", "#84cc16"];
const MORE = ["#ec4899", "#10b981", "#f97316", "#06b6d4", "#a3a3e8", "#d4a017", "#64a0d8"];
// Where in the palette each kind stands, so that it has the same colour in every picture.
const KINDS = {
  cpu_op: 0, kernel: 1, gpu_memcpy: 2, gpu_memset: 2, communication: 3, user_annotation: 4,
  gpu_user_annotation: 4, runtime: 5, cuda_runtime: 5, cuda_driver: 5, python_function: 6, data_loading: 7,
};
const KIND_WORDS = {
  cpu_op: "operators", kernel: "kernels", gpu_memcpy: "memory copies", gpu_memset: "memory fills",
  communication: "communication", user_annotation: "annotations", runtime: "runtime calls", cuda_runtime: "runtime calls",
  gpu_user_annotation: "annotations on the device", cuda_driver: "driver calls",
  python_function: "Python functions", data_loading: "data loading", "": "other",
};

function kindWords(kind) {
  return KIND_WORDS[kind] ?? kind.replaceAll("_", " ");
}

function parseColour(text, otherwise) {
  const hex = /^#([0-9a-f]{3}|[0-9a-f]{6})\b/i.exec(text);
  if (hex) {
    const digits = hex[1].length === 3 ? [...hex[1]].map((each) => each + each).join("") : hex[1];
    return [0, 2, 4].map((at) => parseInt(digits.slice(at, at + 2), 16));
  }
  const parts = /rgba?\(([^)]+)\)/.exec(text);
  return parts ? parts[1].split(/[ ,/]+/).slice(0, 3).map(Number) : otherwise;
}

function mixed(first, second, share) {
  return first.map((each, index) => Math.round(each * (1 - share) + second[index] * share));
}

function css(colour, alpha = 1) {
  return `rgb(${colour[0]} ${colour[1]} ${colour[2]} / ${alpha})`;
}

// As the pixels of an image hold it: red in the lowest byte.
function packed(colour) {
  return (255 << 24 | colour[2] << 16 | colour[1] << 8 | colour[0]) >>> 0;
}

function luminance(colour) {
  const [r, g, b] = colour.map((each) => {
    const part = each / 255;
    return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function themeOf(element) {
  const style = getComputedStyle(element);
  const value = (name) => style.getPropertyValue(name).trim();
  const background = parseColour(value("--st-background-color"), [255, 255, 255]);
  const dark = luminance(background) < 0.3;
  const text = parseColour(value("--st-text-color"), dark ? [230, 233, 242] : [30, 35, 51]);
  const given = value("--st-chart-categorical-colors").split(/,(?![^(]*\))/);
  const base = (given.length >= PALETTE.length ? given.slice(0, PALETTE.length) : PALETTE).map(
    (each, index) => parseColour(each.trim(), parseColour(PALETTE[index])),
  );
  const palette = [...base, ...MORE.map((each) => parseColour(each))];
  const softened = (colour) => mixed(colour, background, dark ? 0.34 : 0.42);
  return {
    dark, background, text,
    second: parseColour(value("--st-secondary-background-color"), mixed(background, text, 0.04)),
    border: parseColour(value("--st-border-color"), mixed(background, text, 0.14)),
    primary: parseColour(value("--st-primary-color"), base[0]),
    muted: mixed(text, background, 0.35),
    fills: palette.map(softened),
    grey: softened(parseColour(GREY)),
    font: value("--st-font") || "sans-serif",
  };
}

// Black or white, whichever reads better on a fill.
function inkOn(colour) {
  return luminance(colour) > 0.24 ? "#10131f" : "#ffffff";
}

function kindFill(theme, kind) {
  return kind in KINDS ? theme.fills[KINDS[kind]] : theme.grey;
}

function nameFill(theme, name) {
  let hash = 2166136261;
  for (let at = 0; at < name.length; at++) {
    hash = Math.imul(hash ^ name.charCodeAt(at), 16777619);
  }
  return theme.fills[(hash >>> 0) % theme.fills.length];
}

function digits(value) {
  const size = Math.abs(value);
  return value.toLocaleString("en", {
    maximumFractionDigits: size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3,
  });
}

function timeText(ns) {
  const size = Math.abs(ns);
  if (size < 1e3) return `${digits(ns)} ns`;
  if (size < 1e6) return `${digits(ns / 1e3)} µs`;
  if (size < 1e9) return `${digits(ns / 1e6)} ms`;
  return `${digits(ns / 1e9)} s`;
}

function counted(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

function shareText(part, whole) {
  return whole > 0 ? `${digits((100 * part) / whole)} %` : "–";
}

// A name that fits a line: names of kernels carry all their template's arguments.
function shortened(name) {
  return name.length > 64 ? `${name.slice(0, 62)}…` : name;
}

// An element with properties and children; texts are never read as markup.
function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((each) => each !== null && each !== undefined));
  return made;
}

function listed(pairs) {
  const list = make("dl");
  for (const [word, value] of pairs) {
    if (value !== null && value !== undefined && value !== "") {
      list.append(make("dt", {}, word), make("dd", {}, value));
    }
  }
  return list;
}

// The names that hold every typed word, as a table over name codes; null where nothing is typed.
function namesWith(names, typed) {
  const words = typed.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  const table = new Uint8Array(names.length);
  names.forEach((name, code) => {
    const lower = name.toLowerCase();
    if (words.every((word) => lower.includes(word))) table[code] = 1;
  });
  return table;
}

// A text cut to a width; widths of names are measured once.
class Cutter {
  constructor(context) {
    this.context = context;
    this.widths = new Map();
  }

  cut(text, room) {
    let width = this.widths.get(text);
    if (width === undefined) {
      if (this.widths.size > 20000) this.widths.clear();
      width = this.context.measureText(text).width;
      this.widths.set(text, width);
    }
    if (width <= room) return text;
    const kept = Math.floor((text.length * (room - 7)) / width);
    return kept >= 2 ? `${text.slice(0, kept)}…` : "";
  }
}

// Calls back when the colours of the page change: a transition of a hidden element tells.
function onTheme(root, changed) {
  const probe = make("span", { className: "probe" });
  probe.addEventListener("transitionend", changed);
  root.append(probe);
}

function placeTip(tip, stage, x, y) {
  tip.hidden = false;
  const right = x + 16 + tip.offsetWidth > stage.clientWidth;
  const below = y + 18 + tip.offsetHeight > stage.clientHeight + stage.scrollTop;
  tip.style.left = `${Math.max(4, right ? x - tip.offsetWidth - 12 : x + 16)}px`;
  tip.style.top = `${Math.max(4, below ? y - tip.offsetHeight - 10 : y + 18)}px`;
}

// One picture for each place on the page: made once, then told what has changed.
function mounted(Kind) {
  return (component) => {
    const { parentElement, data, setTriggerValue } = component;
    const root = parentElement.querySelector(".mw");
    const send = (name) => setTriggerValue("clicked", name);
    if (root.picture?.url !== data.url) {
      root.picture?.remove();
      root.picture = new Kind(root, data, send);
    }
    root.picture.send = send;
    root.picture.update(data);
    return () => {
      // The same place is often drawn again at once; what is gone for good is let go.
      setTimeout(() => { if (!root.isConnected) root.picture?.remove(); }, 1000);
    };
  };
}

async function fetched(url) {
  const answer = await fetch(url, { credentials: "same-origin" });
  if (!answer.ok) throw new Error(`the file is not there any more (${answer.status})`);
  return answer;
}
