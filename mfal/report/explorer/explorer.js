"use strict";
// The table of the round's frames: of any number of rows only those in view are elements of the page.
const ROW = 68; // pixels
const SPARE = 8; // rows beyond either edge, for the next step of the tab key
const PRINTED = 200;

async function explorer() {
  const box = document.querySelector(".explorer");
  if (!box) return;
  const table = JSON.parse(await unpacked("frames-table"));
  const column = table.columns;
  const count = column.frame_id.length;
  const body = box.querySelector("tbody");
  const thead = box.querySelector("thead");
  const [text, ...selects] = document.querySelectorAll(".filter :is(input, select)");
  const shown = document.getElementById("shown");
  box.style.setProperty("--row", ROW + "px");

  // The last attempt of a row at each fidelity.
  const last = Object.fromEntries(Object.keys(table.words).map((fidelity) => [fidelity, Array(count)]));
  for (const label of table.labels) last[label.fidelity][label.row] = label;
  const statuses = (row) => Object.values(last).flatMap((labels) => labels[row]?.status ?? []);
  const route = (row) => table.routes[column.route[row]]?.[0] ?? "";

  // What a column sorts by, and what a cell says.
  const keys = { frame: (row) => column.formula[row] + column.frame_id[row], decision: route };
  for (const name of Object.keys(column)) keys[name] = (row) => column[name][row];
  for (const [fidelity, labels] of Object.entries(last)) {
    keys[`${fidelity}-status`] = (row) => labels[row]?.status ?? "";
    keys[`${fidelity}-energy`] = (row) => (labels[row]?.energy == null ? null : labels[row].energy / column.atoms[row]);
    keys[`${fidelity}-force`] = (row) => labels[row]?.force ?? null;
  }
  const fields = {};
  for (const name of Object.keys(column)) {
    fields[name] = column[name].some((value) => typeof value === "string") ? (row) => [column[name][row]] : keys[name];
  }
  Object.assign(fields, { decision: (row) => [route(row)], status: statuses });
  const texts = [];
  const anywhere = (row) =>
    (texts[row] ??= typed([column.frame_id, column.formula, column.source, column.parent, column.reason].map((one) => one[row])
      .concat(route(row), table.labels.length ? Object.values(last).flatMap((labels) => (labels[row] ? [labels[row].status, labels[row].reason] : [])) : [])
      .join("\n")));

  let order = [...Array(count).keys()]; // of the rows that are shown
  const sorted = { column: "", way: 1 };
  let rows = new Map(); // elements by their place in the order
  let printing = false;

  const cells = [...thead.rows[1].cells].map((header) => header.dataset.column);
  function cell(name, row) {
    const value = keys[name](row);
    if (name === "frame") {
      const open = element("button", { type: "button", data: { frame: column.frame_id[row] } }, element("code", { textContent: column.frame_id[row] }));
      return element("th", { scope: "row" }, open, element("small", { textContent: column.formula[row] || "–" }));
    }
    if (name === "source") return element("td", {}, value || "–", element("small", { textContent: column.parent[row] }));
    if (name === "decision") {
      const [words, colour, symbol] = table.routes[column.route[row]] ?? ["–"];
      const reason = element("small", { className: "reason", textContent: column.reason[row], title: column.reason[row] });
      return element("td", {}, ...(symbol ? [mark(symbol, colour)] : []), words, reason);
    }
    if (name.endsWith("-status")) {
      const label = last[name.split("-")[0]][row];
      const className = label ? (label.good ? "status ok" : "status") : "zero";
      return element("td", {}, element("span", { className, textContent: value || "–", title: label?.reason ?? "" }));
    }
    const said = ["expected", "spent"].includes(name) ? hours(value) : number(value);
    return element("td", { className: "figure", textContent: said });
  }

  function made(place) {
    const row = element("tr", {}, ...cells.map((name) => cell(name, order[place])));
    row.setAttribute("aria-rowindex", place + thead.rows.length + 1);
    return row;
  }

  const [above, below] = [0, 1].map(() => element("tr", { className: "space", role: "presentation" }));
  body.replaceChildren(above, below);

  function render() {
    const seen = Math.ceil(box.clientHeight / ROW);
    const first = printing ? 0 : Math.max(0, Math.min(Math.floor(box.scrollTop / ROW), order.length - seen) - SPARE);
    const end = Math.min(order.length, first + (printing ? PRINTED : seen + 2 * SPARE));
    for (const [place, row] of rows) {
      if (place >= first && place < end) continue;
      if (row.contains(document.activeElement)) box.focus({ preventScroll: true });
      row.remove();
      rows.delete(place);
    }
    const kept = Math.min(...rows.keys()); // those there stay where they are: to move an element is to lose its focus
    const before = rows.get(kept) ?? below;
    for (let place = first; place < end; place++) {
      if (rows.has(place)) continue;
      const row = made(place);
      rows.set(place, row);
      body.insertBefore(row, place < kept ? before : below);
    }
    above.style.height = (printing ? 0 : first * ROW) + "px";
    below.style.height = (printing ? 0 : (order.length - end) * ROW) + "px";
  }

  function renew() {
    for (const row of rows.values()) row.remove();
    rows = new Map();
    box.querySelector("table").setAttribute("aria-rowcount", order.length + thead.rows.length);
    box.scrollTop = 0;
    render();
  }

  // Absent values come last either way. Texts are compared once each, not once a row.
  function sort() {
    if (!sorted.column) return;
    const key = keys[sorted.column];
    const collator = new Intl.Collator(undefined, { numeric: true });
    const distinct = [...new Set(order.map(key))].filter((value) => typeof value === "string" && value !== "").sort(collator.compare);
    const rank = new Map(distinct.map((value, i) => [value, i]));
    const values = Array.from({ length: count });
    for (const row of order) values[row] = typeof key(row) === "string" ? rank.get(key(row)) ?? null : key(row);
    order.sort((a, b) => {
      const [x, y] = [values[a], values[b]];
      return x === null || y === null ? (x === null) - (y === null) : sorted.way * (x - y) || a - b;
    });
  }

  function filter() {
    const { passes, words } = condition(text.value, fields, anywhere);
    const [decision, status] = selects.map((select) => select.value);
    const labelled = { "": () => true, any: (row) => statuses(row).length > 0, none: (row) => !statuses(row).length };
    const has = labelled[status] ?? ((row) => statuses(row).includes(status));
    order = [];
    for (let row = 0; row < count; row++) {
      if ((!decision || route(row) === decision) && has(row) && passes(row)) order.push(row);
    }
    sort();
    renew();
    const numbers = [order.length, count].map((n) => n.toLocaleString("en-US"));
    shown.textContent = `${numbers[0]} of ${numbers[1]} frames${words.length ? ": " + words.join(", and ") : ""}`;
  }

  thead.addEventListener("click", (event) => {
    const header = event.target.closest("button")?.closest("th");
    if (!header) return;
    sorted.way = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    sorted.column = header.dataset.column;
    for (const other of thead.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", sorted.way === 1 ? "ascending" : "descending");
    sort();
    renew();
  });
  for (const control of [text, ...selects]) control.addEventListener("input", filter);
  box.addEventListener("scroll", () => requestAnimationFrame(render), { passive: true });
  new ResizeObserver(render).observe(box);
  addEventListener("beforeprint", () => { printing = true; render(); });
  addEventListener("afterprint", () => { printing = false; render(); });

  let unpacking = null; // the structures, when the first one is asked for
  const open = frameView(table, () => order, async (row) => (await (unpacking ??= structures()))(row));
  const rowOf = new Map(column.frame_id.map((id, row) => [id, row]));
  const ask = (id) => { if (rowOf.has(id)) open(rowOf.get(id)); };
  document.addEventListener("click", (event) => {
    const asked = event.target.closest("[data-frame]");
    if (asked) ask(asked.dataset.frame);
  });
  // In figures an id is as plotly's hover needs it: escaped.
  const plain = (text) => String(text).replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
  const listen = () => {
    for (const plot of document.querySelectorAll(".js-plotly-plot")) {
      plot.on("plotly_click", ({ points }) => ask(plain([points[0].customdata].flat()[0])));
    }
  };
  document.addEventListener("drawn", listen);
  listen(); // those drawn before this table was unpacked
  filter();
  box.dataset.ready = "";
}

explorer().catch((error) => {
  document.getElementById("shown").textContent = "The table could not be made (" + error.message + "). It needs a browser of 2023 or later.";
});
