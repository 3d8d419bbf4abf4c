"use strict";
// Colours in the figures are names of CSS variables: plotly gets the values of the scheme that holds now.
const root = document.documentElement;

let figures = {}; // by the id of their element, as JSON

// Names from a campaign only ever become text.
function element(tag, properties = {}, ...children) {
  const { data, ...others } = properties;
  const made = Object.assign(document.createElement(tag), others);
  Object.assign(made.dataset, data);
  made.append(...children);
  return made;
}

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

// What `standalone.compressed` has made of bytes, and `packed` of text.
async function inflated(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function unpacked(id) {
  return new TextDecoder().decode(await inflated(id));
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
