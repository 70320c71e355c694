// Where an axis begins and ends, and which values it names.

/** About `n` round numbers within [low, high]. */
export function linearTicks(low, high, n) {
  const rough = (high - low) / n || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((m) => m * power >= rough) ?? 10);
  const ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k += 1) ticks.push(k * step + 0); // never -0
  return ticks;
}

/** Decades within [low, high]; with 2 and 5 between where there are few, and linear ones where there is hardly any. */
export function logTicks(low, high) {
  const decades = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e += 1) decades.push(10 ** e);
  const within = (factors) => decades.flatMap((d) => factors.map((f) => f * d)).filter((v) => v >= low && v <= high);
  const plain = within([1]);
  if (plain.length >= 3) return plain;
  const finer = within([1, 2, 5]);
  return finer.length >= 2 ? finer : linearTicks(low, high, 3);
}

function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return low < high ? [low, high] : [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
}

/** The reach of an axis over these values, with a little room at both ends; a linear one begins at zero if it can. */
export function valueRange(values, log) {
  const [low, high] = extent(log ? values.map(Math.log10) : values);
  const pad = 0.05 * (high - low);
  if (log) return [10 ** (low - pad), 10 ** (high + pad)];
  return [low < 0 ? low - pad : 0, high + pad];
}

/** The reach of an axis over steps, from the first to the last. */
export const stepRange = (steps, log) => {
  const [first, last] = [steps[0], steps.at(-1)];
  return log && first === last ? [first / 2, 2 * last] : extent(steps);
};
