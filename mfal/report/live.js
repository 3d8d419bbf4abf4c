"use strict";
// Follows the round under way: `mfal serve` sends where the campaign stands each time that it changes.
const panel = document.getElementById("live");

function progress(words, found) {
  const row = document.createElement("tr");
  row.append(element("th", { scope: "row" }, words));
  const done = Object.values(found.by_status).reduce((sum, n) => sum + n, 0);
  const bad = Object.entries(found.by_status).filter(([status, n]) => status !== "ok" && n);
  const bar = element("progress", { max: Math.max(found.asked ?? done, done, 1), value: done });
  bar.setAttribute("aria-label", words);
  const told = found.asked === null ? "to be decided" : `${done} of ${found.asked}`;
  const trouble = bad.map(([status, n]) => `${n} ${status.replace("_", " ")}`).join(", ");
  const cost = `${found.core_hours.toPrecision(2)} core-hours`;
  row.append(element("td", {}, bar), element("td", {}, told), element("td", {}, cost), element("td", { className: "bad" }, trouble));
  return row;
}

function phase(now) {
  if (!now.frames) return "exploring";
  if (!now.scored) return "scoring " + now.frames + " frames";
  for (const [fidelity, words] of [["nonmagnetic", "non-magnetic"], ["magnetic", "magnetic"]]) {
    const found = now.calculations[fidelity];
    if (found.asked === null) return "deciding on magnetic calculations";
    if (Object.values(found.by_status).reduce((sum, n) => sum + n, 0) < found.asked) return words + " calculations";
  }
  return now.trained ? "evaluating" : "training the committee";
}

function show(now) {
  const shown = panel.dataset.round === "" ? -1 : Number(panel.dataset.round);
  const state = now.ended ? `The campaign has ended: ${now.next_step}` : `Round ${now.round} is under way: ${phase(now)}`;
  const parts = [element("p", { className: "state" }, state)];
  if (now.finished !== null && now.finished > shown) {
    if (shown < 0) return location.reload();
    const link = element("a", { href: panel.dataset.home }, `The report of round ${now.finished} is there: show it`);
    parts.push(element("p", {}, link));
  }
  if (!now.ended) {
    const table = document.createElement("table");
    table.append(progress("non-magnetic", now.calculations.nonmagnetic), progress("magnetic", now.calculations.magnetic));
    parts.push(table);
    if (now.newest.length) {
      const list = document.createElement("ul");
      for (const label of now.newest) {
        const when = new Date(label.finished_at).toLocaleTimeString();
        const cost = `${Math.round(3600 * label.core_hours)} core-s`;
        list.append(element("li", {}, `${when}  ${label.frame_id} ${label.fidelity.replace("non", "non-")}: ${label.status.replace("_", " ")}, ${label.status === "ok" ? cost : label.reason}`));
      }
      const details = element("details", {}, element("summary", {}, "Newest labels"));
      details.open = panel.querySelector("details")?.open ?? false;
      details.append(list);
      parts.push(details);
    }
  }
  panel.replaceChildren(...parts);
}

const source = new EventSource(panel.dataset.events);
source.onmessage = (event) => show(JSON.parse(event.data));
source.onerror = () => {
  panel.replaceChildren(element("p", { className: "state" }, "No connection to mfal serve: trying again. What is below is as it was."));
};
