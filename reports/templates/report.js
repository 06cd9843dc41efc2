"use strict";

const charts = JSON.parse(document.getElementById("charts").textContent);
const options = { renderer: "svg", actions: false, ast: true };
charts.forEach((chart, index) => vegaEmbed(`#chart-${index}`, chart, options));

// Click a heading to sort by it: numbers first falling, text first rising, empty cells always last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const column = heading.cellIndex;
    const body = heading.closest("table").tBodies[0];
    const key = (row) => row.cells[column].dataset.sort;
    const filled = [...body.rows].filter((row) => key(row) !== "");
    const numeric = filled.every((row) => !Number.isNaN(Number(key(row))));
    const first = numeric ? "descending" : "ascending";
    const second = numeric ? "ascending" : "descending";
    const order = heading.getAttribute("aria-sort") === first ? second : first;
    const sign = order === "ascending" ? 1 : -1;
    const compare = (a, b) => (numeric ? key(a) - key(b) : key(a).localeCompare(key(b)));
    filled.sort((a, b) => sign * compare(a, b));
    const empty = [...body.rows].filter((row) => key(row) === "");
    body.append(...filled, ...empty);
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
  });
}

// A link to a trial opens it; on paper all are open.
const openTarget = () => {
  const target = document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
};
addEventListener("hashchange", openTarget);
openTarget();
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const item of closed) item.open = true;
});
addEventListener("afterprint", () => {
  for (const item of closed) item.open = false;
});
