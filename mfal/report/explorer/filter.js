"use strict";
// `sigma_delta>0.1 source~md "did not converge"`: terms that must all hold, as `mfal query --where` has them.
const TERM = /(?:([a-z_]+)(<=|>=|!=|<|>|=|~))?(?:"([^"]*)"?|(\S+))/gi;
const COMPARE = {
  "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
  "=": (a, b) => a === b, "!=": (a, b) => a !== b, "~": (a, b) => a.includes(b),
};

// Formulas have small digits, which nobody types.
const typed = (text) => text.toLowerCase().replace(/[₀-₉]/g, (digit) => String.fromCharCode(digit.charCodeAt(0) - 0x2050));

// `fields`: by name, of every row a number or null, or texts that any of may match; `anywhere`: all texts of a row in one.
// Returns what a row has to pass, and the terms as they were understood.
function condition(text, fields, anywhere) {
  const tests = [];
  const words = [];
  for (const [whole, name, sign, quoted, bare] of text.matchAll(TERM)) {
    const value = typed(quoted ?? bare);
    const key = name && ["", "sigma_"].map((start) => start + name.toLowerCase()).find((key) => key in fields);
    const field = fields[key];
    const numeric = typeof field?.(0) !== "object" || field(0) === null;
    if (field && numeric && sign !== "~" && value !== "" && Number.isFinite(+value)) {
      tests.push((row) => field(row) !== null && COMPARE[sign](field(row), +value));
      words.push(`${key} ${sign} ${value}`);
    } else if (field && !numeric && "!=~".includes(sign)) {
      const [some, found] = [sign === "!=" ? "every" : "some", COMPARE[sign]];
      tests.push((row) => field(row)[some]((one) => found(typed(one), value)));
      words.push(`${key} ${sign === "~" ? "contains" : sign} “${value}”`);
    } else {
      const anything = typed(quoted !== undefined && !name ? quoted : whole);
      tests.push((row) => anywhere(row).includes(anything));
      words.push(`“${anything}” anywhere`);
    }
  }
  return { passes: (row) => tests.every((test) => test(row)), words };
}
