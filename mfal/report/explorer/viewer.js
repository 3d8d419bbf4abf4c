"use strict";
// A crystal on a canvas: discs, bonds and edges of the cell, from back to front. Without WebGL, which a browser on a
// login node seldom has.

// Colours much as VESTA's, and radii (Å) that leave room between the discs.
const ELEMENTS = {
  H: ["#d8d8d8", 0.25], Li: ["#7cc96b", 0.42], C: ["#6b6b6b", 0.35], N: ["#5a7fd6", 0.36], O: ["#e2453c", 0.36],
  F: ["#9ec9a4", 0.36], Na: ["#e3c22f", 0.5], Mg: ["#e08a3c", 0.45], Al: ["#81a1c9", 0.45], Si: ["#3d6fb0", 0.4],
  P: ["#c9a0d0", 0.4], S: ["#e6d445", 0.4], K: ["#9a5bc4", 0.55], Ca: ["#5b8fbf", 0.52], Ti: ["#78a6c9", 0.5],
  V: ["#d96a2b", 0.5], Cr: ["#3f5fa8", 0.5], Mn: ["#9a4fb0", 0.5], Fe: ["#b5713e", 0.5], Co: ["#3550c0", 0.5],
  Ni: ["#a9aeb6", 0.5], Cu: ["#2f63c9", 0.5], Zn: ["#8f8f9f", 0.5],
};
const look = (symbol) => ELEMENTS[symbol] ?? ["#a0a0a0", 0.45];
// Å; the longest bond to oxygen that is drawn. Alkali ions have none, which keeps the picture clear.
const bondTo = (symbol) => ({ Li: 0, Na: 0, K: 0, O: 0, P: 1.9, S: 1.8, Si: 1.9, H: 1.2, C: 1.6 })[symbol] ?? 2.55;

const mixed = (from, to, share) =>
  "rgb(" + [1, 3, 5].map((i) => {
    const [a, b] = [from, to].map((hex) => parseInt(hex.slice(i, i + 2), 16));
    return Math.round(a + share * (b - a));
  }) + ")";

const plus = (a, b, factor = 1) => a.map((x, i) => x + factor * b[i]);

// Half a bond from the surface of either end, so that one through a face of the cell points to where it goes.
function bonds({ cell, sites }) {
  const found = [];
  const oxygen = sites.filter((site) => site.symbol === "O");
  for (const site of sites) {
    const longest = bondTo(site.symbol);
    for (const other of longest ? oxygen : []) {
      for (let image = 0; image < 27; image++) {
        const shift = cell.reduce((sum, vector, i) => plus(sum, vector, (Math.floor(image / 3 ** i) % 3) - 1), [0, 0, 0]);
        const way = plus(plus(other.position, shift), site.position, -1);
        if (Math.hypot(...way) > longest) continue;
        found.push([site, way], [other, way.map((x) => -x)]);
      }
    }
  }
  return found.map(([site, way]) => {
    const [colour, radius] = look(site.symbol);
    return { from: plus(site.position, way, radius / Math.hypot(...way)), to: plus(site.position, way, 0.5), colour, width: 0.09 };
  });
}

// In pieces, each with its own depth.
function edges(cell) {
  const pieces = [];
  for (const [i, vector] of cell.entries()) {
    const [u, v] = cell.filter((_, j) => j !== i);
    for (const corner of [[0, 0, 0], u, v, plus(u, v)]) {
      for (let part = 0; part < 8; part++) pieces.push({ from: plus(corner, vector, part / 8), to: plus(corner, vector, (part + 1) / 8), edge: true });
    }
  }
  return pieces;
}

// `hovered` is told the number of the site under the pointer, or -1.
function viewer(canvas, hovered) {
  let crystal, lines, centre, reach, colourBy, marked;
  let axes = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]; // rows: the screen's right, up, and towards the eye
  let zoom = 1;
  let discs = []; // as drawn last, back to front

  function rotate(right, up) {
    const [c, s, d, t] = [Math.cos(right), Math.sin(right), Math.cos(up), Math.sin(up)];
    const [x, y, z] = axes;
    const [u, w] = [x.map((_, i) => c * x[i] + s * z[i]), x.map((_, i) => c * z[i] - s * x[i])];
    axes = [u, y.map((_, i) => d * y[i] - t * w[i]), w.map((_, i) => d * w[i] + t * y[i])];
    draw();
  }

  function draw() {
    if (!crystal || !canvas.clientWidth) return;
    const style = getComputedStyle(document.documentElement);
    const value = (name) => style.getPropertyValue(name).trim();
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const pixels = window.devicePixelRatio || 1;
    canvas.width = width * pixels;
    canvas.height = height * pixels;
    const ink = canvas.getContext("2d");
    ink.scale(pixels, pixels);
    ink.lineCap = "round";
    const scale = (zoom * (Math.min(width, height) / 2 - 14)) / reach;
    const seen = (point) => {
      const [x, y, z] = axes.map((axis) => axis.reduce((sum, a, i) => sum + a * (point[i] - centre[i]), 0));
      return [width / 2 + scale * x, height / 2 - scale * y, z];
    };
    const most = colourBy ? Math.max(...crystal.sites.map((site) => site.sigma[colourBy]), 1e-9) : 1;
    const colour = (site) =>
      colourBy ? mixed(value("--band"), value("--magnetic"), site.sigma[colourBy] / most) : look(site.symbol)[0];
    discs = crystal.sites.map((site, number) => ({ site, number, at: seen(site.position), radius: look(site.symbol)[1] * scale }));
    discs.sort((a, b) => a.at[2] - b.at[2]);
    const strokes = lines.map((line) => ({ line, from: seen(line.from), to: seen(line.to) }));
    const depth = (item) => (item.at ? item.at[2] : (item.from[2] + item.to[2]) / 2);
    for (const item of [...discs, ...strokes].sort((a, b) => depth(a) - depth(b))) {
      ink.beginPath();
      if (item.line) {
        ink.moveTo(item.from[0], item.from[1]);
        ink.lineTo(item.to[0], item.to[1]);
        ink.lineWidth = item.line.edge ? 1 : Math.max(1.5, item.line.width * scale);
        ink.strokeStyle = item.line.edge || colourBy ? value("--skip") : item.line.colour;
        ink.stroke();
        continue;
      }
      const [x, y] = item.at;
      ink.arc(x, y, item.radius, 0, 2 * Math.PI);
      ink.fillStyle = colour(item.site);
      ink.fill();
      const light = ink.createRadialGradient(x - item.radius / 3, y - item.radius / 3, 0, x, y, item.radius);
      light.addColorStop(0, "rgba(255,255,255,0.4)");
      light.addColorStop(0.6, "rgba(255,255,255,0)");
      light.addColorStop(1, "rgba(0,0,0,0.28)");
      ink.fillStyle = light;
      ink.fill();
      if (item.radius > 7) {
        ink.font = `600 ${Math.min(14, item.radius * 0.95)}px system-ui, sans-serif`;
        ink.textAlign = "center";
        ink.textBaseline = "middle";
        ink.fillStyle = colourBy ? value("--ink") : "#16181b";
        ink.fillText(item.site.symbol, x, y + 0.5);
      }
    }
    for (const { at, number, site, radius } of discs.filter((disc) => marked.includes(disc.number))) {
      ink.beginPath();
      ink.arc(at[0], at[1], radius + 4, 0, 2 * Math.PI);
      ink.lineWidth = 2;
      ink.strokeStyle = ink.fillStyle = value("--ink");
      ink.stroke();
      ink.font = "600 13px system-ui, sans-serif";
      ink.textAlign = "left";
      ink.lineWidth = 3;
      ink.strokeStyle = value("--page");
      const words = [`${site.symbol} ${number}`, at[0] + radius + 8, at[1] - radius - 2];
      ink.strokeText(...words);
      ink.fillText(...words);
    }
  }

  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons) return rotate(event.movementX / 120, event.movementY / 120);
    const hit = discs.findLast(({ at, radius }) => Math.hypot(at[0] - event.offsetX, at[1] - event.offsetY) < radius);
    hovered(hit ? hit.number : -1);
  });
  canvas.addEventListener("pointerleave", () => hovered(-1));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    enlarge(Math.exp(-event.deltaY / 600));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const move = VIEWER_KEYS[event.key];
    if (!move) return;
    event.preventDefault();
    move(view);
  });
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  function enlarge(factor) {
    zoom = Math.min(8, Math.max(0.4, zoom * factor));
    draw();
  }

  // Another crystal, seen from where the last one was. `kind` of sigma, or "" for the elements; `mark`: site numbers.
  function show(structure, kind, mark) {
    if (structure !== crystal) {
      crystal = structure;
      lines = [...edges(structure.cell), ...bonds(structure)];
      const diagonal = structure.cell.reduce((sum, vector) => plus(sum, vector), [0, 0, 0]);
      centre = diagonal.map((x) => x / 2);
      reach = Math.max(...[0, 1, 2].map((i) => Math.hypot(...plus(centre, structure.cell[i], -1))), Math.hypot(...centre));
    }
    [colourBy, marked] = [kind, mark];
    draw();
  }

  const view = { show, rotate, enlarge };
  rotate(-0.45, 0.3);
  return view;
}

const VIEWER_KEYS = {
  ArrowLeft: (view) => view.rotate(-0.2, 0), ArrowRight: (view) => view.rotate(0.2, 0),
  ArrowUp: (view) => view.rotate(0, -0.2), ArrowDown: (view) => view.rotate(0, 0.2),
  "+": (view) => view.enlarge(1.2), "-": (view) => view.enlarge(1 / 1.2),
};
