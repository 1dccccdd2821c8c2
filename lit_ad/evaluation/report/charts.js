"use strict";
const { runs, images, pictures } = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const digits = value => value === null || Number.isNaN(value) ? "unknown" : String(Number(Number(value).toPrecision(4)));
const percent = value => Number.isNaN(value) ? "unknown" : Number((100 * value).toPrecision(3)) + " %";
const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const several = runs.length > 1;
const categories = new Set(images.map(image => image.category));
const PAGE = 60;                    // cards that are added at once
const RUN_COLOURS = ["#06c", "#d60", "#818", "#297", "#a33", "#666"];
const state = { row: "pooled", run: 0, moved: runs.map(() => ({})), open: null };

/* The chosen row, run and threshold */

// A row is "pooled", "CATEGORY/", or "CATEGORY/DEFECT" with the category's good images; no folder's name has a slash.
const categoryOf = row => row === "pooled" ? (categories.size === 1 ? [...categories][0] : null) : row.split("/", 1)[0];

function inRow(image, row) {
  if (row === "pooled") return true;
  const slash = row.indexOf("/"), defect = row.slice(slash + 1);
  return image.category === row.slice(0, slash) && (!defect || [defect, "good"].includes(image.defect));
}

const chosen = (run = state.run) => images.filter(image => inRow(image, state.row) && image.scores[run] !== null);

function shippedThreshold(run = state.run) {
  const category = categoryOf(state.row);
  return category === null ? runs[run].threshold : runs[run].thresholds[category] ?? null;
}

// The moved threshold of a category; the key "" has that of all categories together.
const movedThreshold = (run = state.run) => state.moved[run][categoryOf(state.row) ?? ""] ?? null;
const threshold = (run = state.run) => movedThreshold(run) ?? shippedThreshold(run);

function thresholdOf(image, run) {
  if (categoryOf(state.row) !== null) return threshold(run);
  return movedThreshold(run) ?? runs[run].thresholds[image.category] ?? null;
}

function verdict(image, run) {
  const limit = thresholdOf(image, run);
  return limit === null || image.scores[run] === null ? null : image.scores[run] > limit;
}

const wrong = (image, run) => verdict(image, run) !== null && verdict(image, run) !== Boolean(image.label);

/* Counts at the threshold */

function confusion(run = state.run, judge = image => verdict(image, run)) {
  const counts = { tn: 0, fp: 0, fn: 0, tp: 0 };
  for (const image of chosen(run)) counts[image.label ? (judge(image) ? "tp" : "fn") : (judge(image) ? "fp" : "tn")]++;
  return counts;
}

// Wilson's interval, as in lit_ad/evaluation/rows.py.
function wilson(count, total) {
  const z = 1.959963984540054, share = count / total, weight = z * z / total;
  const middle = (share + weight / 2) / (1 + weight);
  const half = z * Math.sqrt(share * (1 - share) / total + weight / (4 * total)) / (1 + weight);
  return [count === 0 ? 0 : middle - half, count === total ? 1 : middle + half];
}

function rate(count, total) {
  if (!total) return "no such image";
  return `${count} of ${total}: ${percent(count / total)} (${wilson(count, total).map(percent).join(" to ")})`;
}

// The p-value of the lowest score that is called anomalous is at most this.
function pValue(limit, run = state.run) {
  const held = runs[run].heldOut, category = categoryOf(state.row);
  const scores = category !== null && held[category] ? held[category] : Object.values(held).flat();
  return { p: (1 + scores.filter(score => score > limit).length) / (scores.length + 1), count: scores.length };
}

const quoted = text => /^[\w@%+=:,./-]+$/.test(text) ? text : "'" + text.replaceAll("'", `'"'"'`) + "'";

// The command that ships the moved threshold. A model of one category does not need its name.
function shipping() {
  const run = runs[state.run], category = categoryOf(state.row), known = Object.keys(run.heldOut);
  const which = category !== null && known.length > 1 ? ` --category=${quoted(category)}` : "";
  return `lit-ad recalibrate ${run.checkpoint ?? "CHECKPOINT"} --threshold=${movedThreshold()}${which}`;
}

function showCounts() {
  const limit = threshold(), counts = confusion(), own = categoryOf(state.row) === null && movedThreshold() === null;
  const judged = limit !== null, byHand = runs[state.run].byHand;
  const how = byHand.includes(categoryOf(state.row)) || (byHand.includes(null) && Object.keys(runs[state.run].heldOut).length < 2) ? ", set by hand" : "";
  for (const name of ["tn", "fp", "fn", "tp"]) at(name).textContent = judged ? counts[name] : "–";
  at("fp").className = counts.fp && judged ? "wrong" : "";
  at("fn").className = counts.fn && judged ? "wrong" : "";
  at("alarms").textContent = judged ? "False alarms: " + rate(counts.fp, counts.fp + counts.tn) : "There is no threshold: move the slider to set one.";
  at("misses").textContent = judged ? "Misses: " + rate(counts.fn, counts.fn + counts.tp) : "";
  at("precision").textContent = judged ? `Precision ${percent(counts.tp / (counts.tp + counts.fp))}, recall ${percent(counts.tp / (counts.tp + counts.fn))}` : "";
  const { p, count } = judged ? pValue(limit) : { p: 1, count: 0 };
  at("pvalue").textContent = count ? `p-value above the threshold: at most ${digits(p)}, from ${counted(count, "held-out image")}` : judged ? "p-value: the run has no held-out scores" : "";
  at("whose").textContent = own && judged ? "Each category has its own shipped threshold. A threshold that you set here holds for all of them." :
    movedThreshold() !== null ? `Moved: the shipped threshold is ${digits(shippedThreshold())}${how}.` : `This is the shipped threshold${how}.`;
  at("ship").hidden = movedThreshold() === null || !count;
  if (!at("ship").hidden) at("command").textContent = shipping();
  at("shipped").disabled = movedThreshold() === null;
  if (document.activeElement !== at("number")) at("number").value = judged ? Number(limit.toPrecision(7)) : "";
  if (judged) at("threshold").value = limit;
}

/* Charts */

Chart.defaults.animation = false;
Chart.defaults.maintainAspectRatio = false;
Chart.defaults.font.family = "system-ui, sans-serif";
const titled = text => ({ display: true, text, font: { size: 13, weight: "bold" }, color: "#222" });
const named = text => ({ display: true, text });
const legend = { labels: { boxWidth: 12, boxHeight: 8, filter: item => item.text !== "" } };

const thresholdLine = {
  id: "thresholdLine",
  afterDatasetsDraw(chart) {
    const { ctx, chartArea: area, scales: { x } } = chart;
    for (const [value, colour, dash] of [[shippedThreshold(), "#888", [4, 4]], [threshold(), "#000", []]]) {
      if (value === null || value < x.min || value > x.max) continue;
      ctx.save();
      ctx.strokeStyle = colour; ctx.lineWidth = 2; ctx.setLineDash(dash);
      ctx.beginPath(); ctx.moveTo(x.getPixelForValue(value), area.top); ctx.lineTo(x.getPixelForValue(value), area.bottom); ctx.stroke();
      ctx.restore();
    }
  },
};
const bars = (label, backgroundColor) => ({ label, backgroundColor, data: [], grouped: false, barPercentage: 1, categoryPercentage: 1 });
const histogram = new Chart(at("histogram"), {
  type: "bar",
  data: { datasets: [bars("nominal", "#66667799"), bars("anomalous", "#c2222299")] },
  options: {
    scales: { x: { type: "linear", offset: false, title: named("image score"), ticks: { maxRotation: 0, includeBounds: false } }, y: { title: named("images"), suggestedMax: 5, ticks: { precision: 0, callback: value => Number.isInteger(value) ? value : null } } },
    plugins: { legend, tooltip: { callbacks: { title: items => items.length ? `score near ${digits(items[0].parsed.x)}` : "" } } },
  },
  plugins: [thresholdLine],
});

function showHistogram() {
  const mine = chosen(), scores = mine.map(image => image.scores[state.run]), limit = shippedThreshold();
  const ends = [...scores, ...(limit === null ? [] : [limit])];
  if (!ends.length) ends.push(0, 1);  // the run has no image of this row
  const low = ends.reduce((a, b) => Math.min(a, b)), high = ends.reduce((a, b) => Math.max(a, b));
  const pad = (high - low || Math.abs(high) || 1) * .02, count = 40, step = (high - low + 2 * pad) / count;
  for (const label of [0, 1]) {
    const bins = new Array(count).fill(0);
    for (const image of mine) if (image.label === label) bins[Math.min(count - 1, Math.floor((image.scores[state.run] - low + pad) / step))]++;
    histogram.data.datasets[label].data = bins.map((y, i) => ({ x: low - pad + (i + .5) * step, y }));
  }
  Object.assign(histogram.options.scales.x, { min: low - pad, max: high + pad });
  Object.assign(at("threshold"), { min: low - pad, max: high + pad });
  histogram.update();
}

function curveChart(id, x, y, title, logarithmic = false) {
  const unit = { type: "linear", min: 0, max: 1, ticks: { stepSize: .2 } };
  const powers = { type: "logarithmic", ticks: { maxRotation: 0, callback: value => Number.isInteger(Math.round(1e6 * Math.log10(value)) / 1e6) ? value : null } };
  return new Chart(at(id), {
    type: "scatter", data: { datasets: [] },
    options: {
      clip: false, interaction: { mode: "nearest", axis: "x", intersect: false },
      scales: { x: { ...(logarithmic ? powers : unit), title: named(x) }, y: { ...unit, title: named(y) } },
      plugins: { title: titled(title), legend: { ...legend, display: several }, tooltip: { callbacks: { label: item => `${x} ${digits(item.parsed.x)}, ${y} ${digits(item.parsed.y)}` } } },
    },
  });
}
const charts = {
  roc: curveChart("image-ROC", "false positive rate", "true positive rate", "ROC curve of images"),
  pr: curveChart("image-precision-and-recall", "recall", "precision", "Precision and recall of images"),
  pixelRoc: curveChart("pixel-ROC", "false positive rate", "true positive rate", "ROC curve of pixels"),
  pixelPr: curveChart("pixel-precision-and-recall", "recall", "precision", "Precision and recall of pixels"),
  pro: curveChart("PRO", "false positive rate", "overlap", "PRO curve"),
  pimo: curveChart("PIMO", "false positive rate of nominal images", "overlap", "PIMO curve, mean over anomalous images", true),
  instances: curveChart("defects-by-size", "pixels of a defect, at most", "share found", "Defects found by size", true),
};

const colourOf = run => RUN_COLOURS[run % RUN_COLOURS.length];
const line = (run, data) => ({ label: runs[run].name, data, showLine: true, pointRadius: 0, borderWidth: 2, borderColor: colourOf(run), backgroundColor: colourOf(run) });
const mark = (run, point, ring) => ({ label: "", data: point.every(Number.isFinite) ? [{ x: point[0], y: point[1] }] : [], pointRadius: ring ? 7 : 4, borderWidth: 2, borderColor: colourOf(run), backgroundColor: ring ? "#0000" : colourOf(run), order: -1 });

// Numbers of nominal and anomalous images at or above each score, the highest first: [[0, 0], ...].
function steps(run) {
  const sorted = chosen(run).toSorted((a, b) => b.scores[run] - a.scores[run]), found = [[0, 0]];
  sorted.forEach((image, i) => {
    const last = found.at(-1), next = [last[0] + (image.label === 0), last[1] + (image.label === 1)];
    if (i && sorted[i - 1].scores[run] === image.scores[run]) found[found.length - 1] = next; else found.push(next);
  });
  return found;
}

// Points on a straight line between their neighbours are not drawn.
const corners = points => points.filter(({ x, y }, i) => {
  const before = points[i - 1], after = points[i + 1];
  return !before || !after || !((before.x === x && x === after.x) || (before.y === y && y === after.y));
});

function showImageCurves() {
  const roc = [], pr = [];
  runs.forEach((run, number) => {
    const points = steps(number), [nominal, anomalous] = points.at(-1);
    if (!nominal || !anomalous) return;
    roc.push(line(number, corners(points.map(([false_, true_]) => ({ x: false_ / nominal, y: true_ / anomalous })))));
    pr.push(line(number, corners(points.slice(1).map(([false_, true_]) => ({ x: true_ / anomalous, y: true_ / (true_ + false_) })))));
    if (threshold(number) === null) return;
    const shipped = image => image.scores[number] > (categoryOf(state.row) === null ? run.thresholds[image.category] : shippedThreshold(number));
    for (const [ring, { fp, tp }] of [[true, shippedThreshold(number) === null ? {} : confusion(number, shipped)], [false, confusion(number)]]) {
      roc.push(mark(number, [fp / nominal, tp / anomalous], ring));
      pr.push(mark(number, [tp / anomalous, tp / (tp + fp)], ring));
    }
  });
  for (const [chart, datasets] of [[charts.roc, roc], [charts.pr, pr]]) { chart.data.datasets = datasets; chart.update(); }
}

// The height of a curve, [xs, ys] with x ascending, at x.
function heightAt([xs, ys], x) {
  const after = xs.findIndex(value => value >= x);
  if (after <= 0) return after === 0 ? ys[0] : ys.at(-1);
  const share = (x - xs[after - 1]) / (xs[after] - xs[after - 1]);
  return ys[after - 1] + share * (ys[after] - ys[after - 1]);
}

function showPixelCurves() {
  runs.forEach((run, number) => {
    const { pixel_roc: roc, pro } = run.curves, pixels = run.pixels;
    for (const name of ["pimo", "instances"])
      if (run.curves[name]) charts[name].data.datasets.push(line(number, run.curves[name][0].map((x, i) => ({ x, y: run.curves[name][1][i] }))));
    const x = pixels.pixel_false_positive_rate ?? NaN, recall = pixels.pixel_recall ?? NaN;
    const precision = (false_, true_) => true_ * pixels.anomalous_pixels / (true_ * pixels.anomalous_pixels + false_ * pixels.nominal_pixels);
    const drawn = curve => curve[0].map((x, i) => ({ x, y: curve[1][i] }));
    if (roc && roc[0].every(value => value !== null) && roc[1].every(value => value !== null)) {
      charts.pixelRoc.data.datasets.push(line(number, drawn(roc)), mark(number, [x, recall], true));
      const points = roc[0].map((false_, i) => ({ x: roc[1][i], y: precision(false_, roc[1][i]) })).filter(point => Number.isFinite(point.y));
      charts.pixelPr.data.datasets.push(line(number, points), mark(number, [recall, precision(x, recall)], true));
    }
    if (pro && pro[0].every(value => value !== null) && pro[1].every(value => value !== null))
      // One rate of false positives is one threshold only if all categories have the same.
      charts.pro.data.datasets.push(line(number, drawn(pro)), mark(number, [x, categories.size > 1 ? NaN : heightAt(pro, x)], true));
  });
  for (const chart of [charts.pixelRoc, charts.pixelPr, charts.pro, charts.pimo, charts.instances]) {
    if (chart.data.datasets.length) chart.update(); else chart.canvas.closest(".chart").parentElement.hidden = true;
  }
}
