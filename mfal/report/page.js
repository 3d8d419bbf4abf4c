"use strict";
// Colours in the figures are names of CSS variables: plotly gets the values of the scheme that holds now.
const root = document.documentElement;

let figures = {}; // by the id of their element, as JSON

function themed(text) {
  const style = getComputedStyle(root);
  return JSON.parse(text, (_, value) => {
    const name = typeof value === "string" && /^var\((--[\w-]+)\)$/.exec(value);
    return name ? style.getPropertyValue(name[1]).trim() : value;
  });
}

function draw() {
  const zoom = matchMedia("(pointer: fine)").matches ? "zoom" : false; // a finger scrolls the page
  for (const node of document.querySelectorAll(".plot")) {
    const figure = themed(figures[node.id]);
    figure.layout.dragmode = zoom;
    if (node.dataset.square) figure.layout.height = Math.min(node.clientWidth, 440);
    node.textContent = "";
    Plotly.newPlot(node, figure.data, figure.layout, { displayModeBar: false, responsive: true });
    node.style.height = figure.layout.height + "px";
  }
  document.dispatchEvent(new Event("drawn"));
}

// The text of an element that `standalone.packed` has filled.
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

async function start() {
  if (!document.getElementById("plotly")) return;
  for (const [name, figure] of Object.entries(JSON.parse(await unpacked("figures")))) figures[name] = JSON.stringify(figure);
  const script = document.createElement("script");
  script.textContent = await unpacked("plotly");
  document.head.append(script);
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", () => { root.dataset.print = ""; draw(); });
  addEventListener("afterprint", () => { delete root.dataset.print; draw(); });
}

start().catch((error) => {
  for (const node of document.querySelectorAll(".plot")) {
    node.textContent = "This figure could not be drawn (" + error.message + "). It needs a browser of 2023 or later.";
  }
});

// Sorting: a header's button orders the frames by its column; absent values stay last. A frame is a body of the table:
// its numbers, and below them the reason.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th");
    const table = header.closest("table");
    const column = Number(header.dataset.column);
    const way = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const key = (body) => {
      const cell = body.rows[0].cells[column];
      return cell.dataset.sort ?? cell.textContent.trim();
    };
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      return way * (header.dataset.numeric ? x - y : x.localeCompare(y, undefined, { numeric: true }));
    };
    for (const other of header.closest("thead").querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", way === 1 ? "ascending" : "descending");
    table.append(...[...table.tBodies].sort(compare));
  });
}
