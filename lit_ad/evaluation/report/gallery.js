/* The gallery, and one image at a time */

function element(name, kind, text = "") {
  const made = document.createElement(name);
  made.className = kind;
  made.textContent = text;          // names of files are text, never HTML
  return made;
}

function layer(kind, data, type) {
  const image = element("img", kind);
  image.src = `data:image/${type};base64,${data}`;
  image.alt = kind;
  return image;
}

// The image, with the heatmap of a run (none: null) and the truth over it.
function stack(number, run) {
  const picture = pictures[number], made = element("div", "stack");
  if (picture === null) { made.append(element("div", "missing", "no picture")); return made; }
  made.append(layer("image", picture.image, "jpeg"));
  if (run !== null && picture.heats[run]) made.append(layer("heat", picture.heats[run], "jpeg"));
  if (picture.truth) made.append(layer("truth", picture.truth, "png"));
  return made;
}

function figure(number, run, text) {
  const made = element("figure", "");
  const kind = several && run !== null && wrong(images[number], run) ? "wrong" : "";
  made.append(stack(number, run), element("figcaption", kind, text));
  return made;
}

function said(image, run) {
  if (image.scores[run] === null) return "not tested";
  const word = { null: "no threshold", true: "anomalous", false: "nominal" }[verdict(image, run)];
  return `${digits(image.scores[run])}, ${word}`;
}

const defectOf = image => (categories.size > 1 ? image.category + ", " : "") + image.defect;
const wrongBy = image => {
  const limit = thresholdOf(image, state.run), score = image.scores[state.run];
  return limit === null || score === null ? -Infinity : image.label ? limit - score : score - limit;
};
const differ = image => new Set(runs.map((_, run) => verdict(image, run)).filter(value => value !== null)).size > 1;
const spread = image => {
  const ranks = image.ranks.filter(rank => rank !== null);
  return Number(differ(image)) + Math.max(...ranks) - Math.min(...ranks);
};
const score = image => image.scores[state.run] ?? -Infinity;
const order = {
  score: (a, b) => score(b) - score(a) || 0,
  lowest: (a, b) => score(a) - score(b) || 0,
  error: (a, b) => wrongBy(b) - wrongBy(a) || 0,
  defect: (a, b) => a.category.localeCompare(b.category) || a.defect.localeCompare(b.defect) || score(b) - score(a) || 0,
  disagreement: (a, b) => spread(b) - spread(a),
};
const filters = {
  all: () => true,
  wrong: image => wrong(image, state.run),
  alarms: image => wrong(image, state.run) && !image.label,
  misses: image => wrong(image, state.run) && image.label,
  disagree: differ,
};

let listed = [];                    // numbers of images, in the order shown

function card(place) {
  const number = listed[place], image = images[number], made = element("button", "");
  const known = verdict(image, state.run) !== null;
  made.className = known ? (wrong(image, state.run) ? "wrong" : "right") : "";
  made.dataset.number = number;
  made.title = image.path;
  const stacks = element("div", "stacks");
  for (const run of runs.keys()) stacks.append(figure(number, run, several ? `${runs[run].name}: ${said(image, run)}` : ""));
  made.append(stacks, element("span", "name", several ? `${defectOf(image)} · ${image.file}` : `${defectOf(image)}: ${said(image, 0)} · ${image.file}`));
  made.addEventListener("click", () => view(place));
  return made;
}

function more(count = PAGE) {
  const shown = at("gallery").children.length;
  at("gallery").append(...listed.slice(shown, shown + count).map((_, i) => card(shown + i)));
}

function showGallery() {
  const numbers = images.map((_, number) => number).filter(number => inRow(images[number], state.row) && filters[at("filter").value](images[number]));
  listed = numbers.sort((a, b) => order[at("sort").value](images[a], images[b]));
  at("howMany").textContent = `${listed.length} of ${counted(images.length, "image")}.`;
  at("gallery").replaceChildren();
  more();
}

new IntersectionObserver(seen => { if (seen.some(one => one.isIntersecting)) more(); }, { rootMargin: "800px" }).observe(at("end"));

function view(place) {
  state.open = Math.min(Math.max(place, 0), listed.length - 1);
  const number = listed[state.open], image = images[number];
  at("viewed").textContent = `${state.open + 1} of ${listed.length}: ${image.file} (${defectOf(image)})`;
  at("viewed").title = image.path;
  const figures = [figure(number, null, "the image")];
  runs.forEach((run, i) => {
    const p = image.pValues[i] === null ? "" : `, p-value ${digits(image.pValues[i])}`;
    const told = image.scores[i] === null ? "not tested" : `score ${said(image, i)}${p}${wrong(image, i) ? ": wrong" : ""}`;
    figures.push(figure(number, i, (several ? run.name + ": " : "") + told));
  });
  at("large").replaceChildren(...figures);
  if (!at("viewer").open) at("viewer").showModal();
}

function opacity(value) {
  const bounded = Math.min(Math.max(value, 0), 1);
  document.documentElement.style.setProperty("--opacity", bounded);
  at("opacity").value = at("opacityToo").value = bounded;
}

function truth(shown) {
  document.documentElement.style.setProperty("--truth", shown ? "visible" : "hidden");
  at("outlines").checked = shown;
}

// The card left, right, above or below a card in the grid.
function neighbour(of, key) {
  const cards = [...at("gallery").children], place = cards.indexOf(of);
  const columns = Math.max(1, cards.findIndex(one => one.offsetTop > cards[0].offsetTop) === -1 ? cards.length : cards.findIndex(one => one.offsetTop > cards[0].offsetTop));
  const next = place + { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -place, End: cards.length - 1 - place }[key];
  if (next >= cards.length) more();
  return at("gallery").children[next];
}

document.addEventListener("keydown", event => {
  const key = event.key, typing = event.target.matches("select, input:not([type=checkbox])");
  if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
  const moves = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"].includes(key);
  if ("+=-".includes(key)) opacity(Number(at("opacity").value) + (key === "-" ? -.1 : .1));
  else if (key === "t") truth(!at("outlines").checked);
  else if (at("viewer").open && moves)
    view({ ArrowLeft: state.open - 1, ArrowUp: state.open - 1, Home: 0, End: listed.length - 1 }[key] ?? state.open + 1);
  else if (moves && event.target.closest("#gallery button")) neighbour(event.target.closest("#gallery button"), key)?.focus();
  else return;
  event.preventDefault();
});

at("viewer").addEventListener("close", () => {
  while (at("gallery").children.length <= state.open) more();
  at("gallery").children[state.open].focus();
});
at("before").addEventListener("click", () => view(state.open - 1));
at("after").addEventListener("click", () => view(state.open + 1));
at("close").addEventListener("click", () => at("viewer").close());
for (const id of ["opacity", "opacityToo"]) at(id).addEventListener("input", event => opacity(Number(event.target.value)));
at("outlines").addEventListener("change", event => truth(event.target.checked));
for (const id of ["sort", "filter"]) at(id).addEventListener("change", showGallery);

/* Update the complete page */

// While the user drags a threshold, the gallery waits; it is drawn again when the threshold rests.
let waiting = 0;
function thresholdChanged() {
  showCounts();
  histogram.draw();
  showImageCurves();
  clearTimeout(waiting);
  waiting = setTimeout(showGallery, 150);
}

function move(value) {
  if (!Number.isFinite(value)) return;
  state.moved[state.run][categoryOf(state.row) ?? ""] = value;
  thresholdChanged();
}

function show() {
  showHistogram();
  showCounts();
  showImageCurves();
  showGallery();
  for (const row of document.querySelectorAll("tr[data-row]")) row.classList.toggle("chosen", row.dataset.row === state.row);
}

at("copy").addEventListener("click", async () => {
  try { await navigator.clipboard.writeText(at("command").textContent); at("copy").textContent = "copied"; }
  catch { getSelection().selectAllChildren(at("command")); at("copy").textContent = "selected: press Ctrl+C"; }
  setTimeout(() => { at("copy").textContent = "copy"; }, 2000);
});
at("threshold").addEventListener("input", event => move(Number(event.target.value)));
at("number").addEventListener("input", event => { if (event.target.value !== "") move(Number(event.target.value)); });
at("shipped").addEventListener("click", () => { delete state.moved[state.run][categoryOf(state.row) ?? ""]; thresholdChanged(); });
const drag = event => {
  const { left } = at("histogram").getBoundingClientRect(), { x } = histogram.scales;
  move(Math.min(Math.max(x.getValueForPixel(event.clientX - left), x.min), x.max));
};
at("histogram").addEventListener("pointerdown", event => { at("histogram").setPointerCapture(event.pointerId); drag(event); });
at("histogram").addEventListener("pointermove", event => { if (at("histogram").hasPointerCapture(event.pointerId)) drag(event); });
at("row").addEventListener("change", event => { state.row = event.target.value; show(); });
at("run")?.addEventListener("change", event => { state.run = Number(event.target.value); show(); });
for (const button of document.querySelectorAll(".metrics button")) button.addEventListener("click", () => {
  at("row").value = state.row = button.closest("tr").dataset.row;
  show();
});
if (several) at("sort").value = "disagreement";
showPixelCurves();
show();
