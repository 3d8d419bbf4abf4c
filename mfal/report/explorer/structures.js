"use strict";
// What `structures.py` has packed, by row of the table: `{cell, sites}` in Å and eV/Å, as `viewer.js` draws them.
async function structures() {
  const bytes = await inflated("structures");
  const end = bytes.indexOf(10);
  const { step, cell, smallest, factor, groups } = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
  let at = end + 1;
  for (const group of groups) {
    group.symbols = group.species.flatMap(([symbol, count]) => Array(count).fill(symbol));
    group.cells = group.frames.length * 9;
    group.places = group.frames.length * group.symbols.length * 3;
  }

  // Both planes of bytes, and each frame on top of the one before it.
  function summed(size) {
    const total = groups.reduce((sum, group) => sum + group[size], 0);
    const values = new Int32Array(total);
    let start = 0;
    for (const group of groups) {
      const width = group[size] / group.frames.length;
      for (let i = 0; i < group[size]; i++) {
        const packed = bytes[at + start + i] | (bytes[at + total + start + i] << 8);
        values[start + i] = (packed & 1 ? -(packed + 1) / 2 : packed / 2) + (i < width ? 0 : values[start + i - width]);
      }
      start += group[size];
    }
    at += 2 * total;
    return values;
  }

  const cells = summed("cells");
  const places = summed("places");
  const sigma = (byte) => (byte ? smallest * factor ** (byte - 1) : 0);
  const found = new Map();
  let [nextCell, nextPlace] = [0, 0];
  for (const { frames, symbols, sigmas } of groups) {
    for (const row of frames) {
      const [a, b, c] = [nextCell, nextPlace, at];
      found.set(row, () => ({
        cell: [0, 3, 6].map((i) => Array.from(cells.subarray(a + i, a + i + 3), (x) => x * cell)),
        sites: symbols.map((symbol, i) => ({
          symbol,
          position: Array.from(places.subarray(b + 3 * i, b + 3 * i + 3), (x) => x * step),
          sigma: sigmas ? { nonmagnetic: sigma(bytes[c + i]), delta: sigma(bytes[c + symbols.length + i]) } : null,
        })),
      }));
      nextCell += 9;
      nextPlace += 3 * symbols.length;
      at += sigmas ? 2 * symbols.length : 0;
    }
  }
  return (row) => found.get(row)?.();
}
