"use strict";
// The view of one frame: opened by a row's button, by any element with `data-frame`, and by a point of a figure.

// A formatter takes a while to make, and there are cells by the hundred.
const FORMATS = [];
const fixed = (value, decimals) =>
  (FORMATS[decimals] ??= new Intl.NumberFormat("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals })).format(value);

// `number` and `hours` as `standalone.py` has them.
function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const decimals = value === 0 ? 0 : Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value))));
  return fixed(value, decimals).replace("-", "−");
}

function hours(value) {
  if (value === null) return "–";
  return value >= 100 ? fixed(value, 0) : number(value, value >= 1 ? 3 : 2);
}

function mark(symbol, colour) {
  const made = element("span", { className: `mark ${symbol}` });
  made.style.color = colour;
  made.setAttribute("aria-hidden", "true");
  return made;
}

const SIGMA_WORDS = { nonmagnetic: "σ non-magnetic", delta: "σ Δ", magnetic: "σ magnetic", conditional: "σ left" };
const SITE_SIGMAS = ["nonmagnetic", "delta"];

// A link for a path on a disk of this machine; elsewhere it leads nowhere, so that the path stays to be read and copied.
function directory(path) {
  const said = element("span", { className: "said", role: "status" });
  const copy = element("button", { type: "button", textContent: "copy path" });
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(path);
      said.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(copy.parentNode.firstChild);
      said.textContent = "selected: copy it with the keyboard";
    }
  });
  const absolute = /^\/(?!\/)/.test(path);
  const href = "file://" + path.split("/").map(encodeURIComponent).join("/");
  const shown = absolute ? element("a", { href, rel: "noreferrer", textContent: path }) : element("span", { textContent: path });
  return element("div", { className: "path" }, shown, " ", copy, " ", said);
}

// `table`: columns and labels; `order()`: the rows as the table has them now; `structureOf(row)`: a promise.
function frameView(table, order, structureOf) {
  const dialog = document.getElementById("frame");
  const part = (name) => dialog.querySelector(`[data-part="${name}"]`);
  const column = table.columns;
  let shown = -1;
  let crystal = null;
  const view = viewer(part("canvas"), (site) => (part("site").textContent = site < 0 ? "" : told(site)));

  const moments = () => table.labels.findLast((label) => label.row === shown && label.moments)?.moments;
  const named = (site) => `${crystal.sites[site].symbol} ${site}`;

  function told(site) {
    const { sigma } = crystal.sites[site];
    const moment = moments()?.[site];
    return [
      named(site),
      ...(sigma ? SITE_SIGMAS.map((kind) => `${SIGMA_WORDS[kind]} ${number(sigma[kind], 2)} eV/Å`) : []),
      ...(moment === undefined ? [] : [`moment ${number(moment)} µB`]),
    ].join(", ");
  }

  const worst = (kind) => crystal.sites.reduce((most, { sigma }, i) => (sigma[kind] > crystal.sites[most].sigma[kind] ? i : most), 0);

  function paint() {
    const kind = dialog.querySelector("input[name=colour]:checked").value;
    const scored = crystal.sites.every((site) => site.sigma);
    const kinds = scored ? SITE_SIGMAS.filter((one) => !kind || one === kind) : [];
    view.show(crystal, scored ? kind : "", kinds.map(worst));
    part("colours").hidden = !scored;
    part("worst").textContent = scored
      ? "Most uncertain: " + kinds.map((one) => `${named(worst(one))}, ${SIGMA_WORDS[one]} ${number(crystal.sites[worst(one)].sigma[one], 2)} eV/Å`).join("; ") + ". Sites count from 0."
      : "No sigma of each atom is stored for this frame. Sites count from 0.";
    const counts = new Map();
    for (const { symbol } of crystal.sites) counts.set(symbol, (counts.get(symbol) ?? 0) + 1);
    const legend = scored && kind
      ? [element("li", {}, "0 ", element("span", { className: "ramp" }), ` ${number(crystal.sites[worst(kind)].sigma[kind], 2)} eV/Å`)]
      : [...counts].map(([symbol, count]) => element("li", {}, mark("circle", look(symbol)[0]), `${symbol} (${count})`));
    part("legend").replaceChildren(...legend);
  }

  function sites() {
    const heads = ["Site", "Position (Å)", ...SITE_SIGMAS.map((kind) => `${SIGMA_WORDS[kind]} (eV/Å)`), "Moment (µB)"];
    const rows = crystal.sites.map(({ position, sigma }, i) => element("tr", {},
      element("th", { scope: "row", textContent: named(i) }),
      ...[position.map((x) => x.toFixed(2)).join(", "), ...SITE_SIGMAS.map((kind) => number(sigma?.[kind], 2)), number(moments()?.[i])]
        .map((text) => element("td", { textContent: text.replaceAll("-", "−") }))));
    part("sites").replaceChildren(
      element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col", textContent: text })))),
      element("tbody", {}, ...rows));
  }

  function numbers() {
    const value = (name) => column[name][shown];
    const limit = (kind) => (table.thresholds[kind] === undefined ? "" : `, threshold ${number(table.thresholds[kind])}`);
    return [
      ...Object.entries(SIGMA_WORDS).map(([kind, words]) => [words, value(`sigma_${kind}`), ` eV/Å${limit(kind)}`, number]),
      ["expected gain", value("gain"), " eV/Å", number],
      ["atoms", value("atoms"), "", String],
      ["volume", value("volume"), " Å³/atom", (volume) => number(volume, 4)],
      ["core-hours expected", value("expected"), "", hours],
      ["core-hours spent", value("spent"), "", hours],
    ].filter(([, found]) => found !== null).flatMap(([words, found, unit, said]) => [
      element("dt", { textContent: words }),
      element("dd", { textContent: said(found) + unit }),
    ]);
  }

  function attempt(label) {
    const results = [
      label.energy !== null && `energy ${number(label.energy / column.atoms[shown], 5)} eV/atom`,
      label.force !== null && `largest force ${number(label.force)} eV/Å`,
      `${hours(label.core_hours)} core-hours`,
    ];
    return element("li", {},
      element("b", { textContent: `${table.words[label.fidelity]}, attempt ${label.attempt}: ` }),
      element("span", { className: label.good ? "status ok" : "status", textContent: label.status }),
      label.reason ? `: ${label.reason}` : "",
      element("small", { textContent: results.filter(Boolean).join(", ") }),
      label.directory ? directory(label.directory) : "");
  }

  async function fill(row) {
    shown = row;
    const route = table.routes[column.route[row]];
    part("title").textContent = column.formula[row] || column.frame_id[row];
    part("origin").textContent = [column.frame_id[row], column.source[row], column.parent[row] && `from ${column.parent[row]}`].filter(Boolean).join(", ");
    part("decision").replaceChildren(...(route ? [mark(route[2], route[1]), element("b", { textContent: route[0] })] : []), column.reason[row] ? `: ${column.reason[row]}.` : "");
    part("numbers").replaceChildren(...numbers());
    const labels = table.labels.filter((label) => label.row === row);
    part("labels").replaceChildren(...labels.map(attempt));
    part("none").hidden = labels.length > 0;
    const place = order().indexOf(row);
    part("place").textContent = place < 0 ? "" : `${(place + 1).toLocaleString("en-US")} of ${order().length.toLocaleString("en-US")}`;
    part("previous").disabled = place < 1;
    part("next").disabled = place < 0 || place === order().length - 1;
    const found = await structureOf(row);
    if (shown !== row) return; // another one meanwhile
    crystal = found ?? null;
    part("look").hidden = !crystal;
    part("absent").hidden = Boolean(crystal);
    part("command").textContent = `mfal query frames CAMPAIGN.yaml --where frame_id=${column.frame_id[row]} --format extxyz`;
    part("site").textContent = "";
    if (crystal) {
      paint();
      sites();
    }
  }

  const step = (by) => fill(order()[order().indexOf(shown) + by]);
  part("previous").addEventListener("click", () => step(-1));
  part("next").addEventListener("click", () => step(1));
  part("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("change", paint);
  for (const button of dialog.querySelectorAll("[data-key]")) {
    button.addEventListener("click", () => VIEWER_KEYS[button.dataset.key](view));
  }

  return (row) => {
    const back = document.activeElement;
    dialog.addEventListener("close", () => (back?.isConnected ? back : document.querySelector(".explorer")).focus({ preventScroll: true }), { once: true });
    dialog.showModal();
    dialog.scrollTop = 0;
    return fill(row);
  };
}
