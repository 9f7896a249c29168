// What the graph says in words: amounts with units, what a box is, what a choice of colour means.

// The measures that a box can be coloured by, with the words for one amount.
function measuresOf(data) {
  const timed = data.phases.map((phase, index) => ({
    id: `time ${phase}`, label: data.phases.length > 1 ? `Time, ${phase}` : "Time", amount: (box) => box.times[index],
    words: msText, none: "not measured",
  }));
  return [
    ...timed,
    { id: "flops", label: "FLOPs", amount: (box) => box.flops, words: flopsText, none: "no formula" },
    { id: "bytes", label: "Moved bytes", amount: (box) => box.bytes, words: bytesText, none: "0 B" },
    { id: "dtype", label: "dtype", amount: null, words: (box) => dtypesText(box) },
    { id: "none", label: "No colour", amount: null, words: () => "" },
  ];
}

function scaled(value, steps, units) {
  let index = 0;
  while (Math.abs(value) >= steps && index < units.length - 1) {
    value /= steps;
    index += 1;
  }
  return `${digits(value)} ${units[index]}`;
}

function flopsText(value) {
  return scaled(value, 1000, ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"]);
}

function bytesText(value) {
  return scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
}

function msText(value) {
  return timeText(value * 1e6);
}

function dtypesText(box) {
  return [...box.dtypes].sort((first, second) => second[1] - first[1]).map(([name]) => name).join(", ");
}

// An elementwise operator has no formula: that is not the same as zero.
function amountText(measure, box) {
  if (measure.amount === null) return measure.words(box);
  if (box.role === "view") return "view";
  if (measure.id === "flops" && !box.known && box.count) return measure.none;
  if (measure.id === "flops" && !box.flops && box.elementwise) return `${flopsText(box.elementwise)} elementwise`;
  return measure.words(measure.amount(box) ?? 0);
}

function subtitle(box, measure) {
  if (box.role === "input" || box.role === "output") return `${box.shape} ${box.dtype}`;
  const amount = amountText(measure, box);
  const kind = box.kind === "operator" ? box.shape : box.type;
  return amount && kind ? `${kind} · ${amount}` : amount || kind;
}

function titleOf(box) {
  if (box.kind === "stack") return `${box.label}  ×${box.members}`;
  return box.call ? `${box.label} (call ${box.call + 1})` : box.label;
}

function factsOf(box, data, root) {
  const whole = (value, total) => (total > 0 && box !== root ? ` · ${shareText(value, total)} of the model` : "");
  const isEnd = box.role === "input" || box.role === "output";
  const facts = [
    [box.kind === "operator" || box.isBundle ? "in module" : "module", box.name],
    ["type", box.type],
    ["holds", box.kind === "operator" ? "" : counted(box.count, "operator")],
    ["same block", box.kind === "stack" ? `${box.members} times, the same operators on the same shapes` : ""],
    ["output", [box.shape, box.dtype].filter(Boolean).join(" ")],
    ["dtype", box.kind === "operator" ? "" : dtypesText(box)],
  ];
  if (!isEnd) {
    facts.push(
      ["FLOPs", box.known ? flopsText(box.flops) + whole(box.flops, root.flops) : "no formula: unknown, not zero"],
      ["elementwise", box.elementwise ? flopsText(box.elementwise) : ""],
      ["moved bytes", bytesText(box.bytes) + whole(box.bytes, root.bytes)],
      ...data.phases.map((phase, index) => [`time, ${phase}`, msText(box.times[index]) + whole(box.times[index], root.times[index])]),
    );
  }
  return facts;
}
