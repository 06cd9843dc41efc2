"use strict";

// Draw charts. Those in a folded section wait until it is opened: a page may have hundreds.
const charts = JSON.parse(document.getElementById("charts").textContent);
const views = new Map();

async function draw(element) {
  const name = element.dataset.chart;
  if (views.has(name)) return;
  views.set(name, null);
  const result = await vegaEmbed(element, charts[name], { renderer: "svg", actions: false, ast: true });
  views.set(name, result.view);
  if (name.startsWith("comparison/")) narrow(name);
}

const drawAll = (root) => {
  for (const element of root.querySelectorAll("[data-chart]")) draw(element);
};
for (const element of document.querySelectorAll("[data-chart]")) {
  if (!element.closest("details")) draw(element);
}
const opened = ({ target }) => {
  if (!target.open) return;
  fill(target);
  drawAll(target);
};
document.addEventListener("toggle", opened, true); // the event does not bubble

// The sections of trials come packed. They are unpacked once the rest is drawn, and put in when opened.
let sections = null;

function fill(root) {
  for (const item of root.querySelectorAll("[data-section]")) {
    if (sections && !item.firstElementChild) item.innerHTML = sections[item.dataset.section];
  }
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const content = JSON.parse(await new Response(stream).text());
  Object.assign(charts, content.charts);
  sections = content.sections;
  for (const item of document.querySelectorAll("details[open]")) {
    fill(item);
    drawAll(item);
  }
  packed.remove();
}
const packed = document.getElementById("packed");
if (packed) setTimeout(() => unpack(packed.textContent));

// Filter rows, sections and charts alike. The frontier is recomputed among what remains.
const selects = [...document.querySelectorAll("select[data-filter]")];
const items = [...document.querySelectorAll("[data-trial]")];
const shown = (item) => selects.every((s) => s.value === "" || item.dataset[s.dataset.filter] === s.value);

function narrow(name) {
  const left = new Set(items.filter(shown).map((item) => item.dataset.trial));
  const rows = charts[name].datasets.points.filter((row) => left.has(row.trial));
  const ranked = rows.filter((row) => row.rank !== "not ranked");
  const dominates = (a, b) => a.x >= b.x && a.quality >= b.quality && (a.x > b.x || a.quality > b.quality);
  for (const row of ranked) {
    row.rank = ranked.some((other) => dominates(other, row)) ? "dominated" : "on the frontier";
    row.Rank = row.rank;
    for (const item of document.querySelectorAll(`.trial[data-trial="${CSS.escape(row.trial)}"]`)) {
      item.classList.toggle("frontier", row.rank === "on the frontier");
    }
  }
  views.get(name)?.data("points", structuredClone(rows)).runAsync(); // a copy: Vega marks the rows it holds
}

function applyFilters() {
  for (const item of items) item.hidden = !shown(item);
  for (const row of document.querySelectorAll("tr:has(.trial)")) {
    row.hidden = !row.querySelector(".trial:not([hidden])");
  }
  for (const name of Object.keys(charts)) if (name.startsWith("comparison/")) narrow(name);
  const sections = items.filter((item) => item.tagName === "DETAILS");
  const left = sections.filter((item) => !item.hidden).length;
  document.querySelector(".filters output").value = `${left} of ${sections.length} trials shown`;
}
for (const select of selects) select.addEventListener("change", applyFilters);
document.querySelector(".filters")?.addEventListener("reset", () => setTimeout(applyFilters));
if (selects.some((select) => select.value)) applyFilters(); // a browser restores choices on reload

// Sort by a clicked heading: numbers descending first, text ascending first, empty cells last. A row of several
// trials counts with the first value in that order.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const column = heading.cellIndex;
    const body = heading.closest("table").tBodies[0];
    const values = (row) =>
      [row.cells[column], ...row.cells[column].querySelectorAll("[data-sort]")]
        .filter((item) => item.dataset.sort && !item.hidden)
        .map((item) => item.dataset.sort);
    const keys = new Map([...body.rows].map((row) => [row, values(row)]));
    const numeric = [...keys.values()].flat().every((value) => !Number.isNaN(Number(value)));
    const first = numeric ? "descending" : "ascending";
    const second = numeric ? "ascending" : "descending";
    const order = heading.getAttribute("aria-sort") === first ? second : first;
    const sign = order === "ascending" ? 1 : -1;
    const compare = (a, b) => sign * (numeric ? a - b : a.localeCompare(b));
    for (const list of keys.values()) list.sort(compare);
    const filled = [...body.rows].filter((row) => keys.get(row).length);
    const empty = [...body.rows].filter((row) => !keys.get(row).length);
    filled.sort((a, b) => compare(keys.get(a)[0], keys.get(b)[0]));
    body.append(...filled, ...empty);
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
  });
}

// Open the trial that a link points to, and all trials for print.
const openTarget = () => {
  const target = document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
};
addEventListener("hashchange", openTarget);
openTarget();
let closed = [];
addEventListener("beforeprint", () => {
  fill(document);
  drawAll(document);
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const item of closed) item.open = true;
});
addEventListener("afterprint", () => {
  for (const item of closed) item.open = false;
});
