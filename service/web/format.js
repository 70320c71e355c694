// How states, numbers and times read.

/** Every job state: its words, the tone of its badge, and whether it is final. Item states are a subset. */
export const STATES = {
  validating: { label: "validating", tone: "waiting" },
  queued: { label: "queued", tone: "waiting" },
  running: { label: "running", tone: "active" },
  paused: { label: "paused", tone: "held" },
  finalizing: { label: "finalizing", tone: "active" },
  cancelling: { label: "cancelling", tone: "active" },
  succeeded: { label: "succeeded", tone: "good", final: true },
  partially_succeeded: { label: "partially succeeded", tone: "mixed", final: true },
  failed: { label: "failed", tone: "bad", final: true },
  expired: { label: "expired", tone: "bad", final: true },
  cancelled: { label: "cancelled", tone: "ended", final: true },
};

export const stateLabel = (state) => STATES[state]?.label ?? String(state).replaceAll("_", " ");
export const stateTone = (state) => STATES[state]?.tone ?? "waiting";
export const isFinal = (state) => STATES[state]?.final === true;
/** Whether an item is never tried again, unless it is made of those that are. */
export const isSettled = ({ state }) => state === "succeeded" || state === "cancelled";
/** How many items are over; fewer than before once some are tried again. */
export const finished = ({ succeeded, failed, cancelled }) => succeeded + failed + cancelled;
export const canCancel = (state) => ["validating", "queued", "running", "paused"].includes(state);
export const canPause = (state) => ["queued", "running"].includes(state);
export const canResume = (state) => state === "paused";
/** Whether what failed of a job can be tried again. */
export const canRetry = (state) => !["cancelling", "cancelled", "expired"].includes(state);

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const threeDigits = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const ago = new Intl.RelativeTimeFormat("en", { numeric: "always" });

export const count = (value) => whole.format(value);
export const percent = (fraction) => `${Math.floor(100 * fraction)} %`;
export const accuracy = (fraction) => `${(100 * fraction).toFixed(1)} %`;
export const plural = (n, word, words = `${word}s`) => `${count(n)} ${n === 1 ? word : words}`;

/** A measured value to three significant digits; tiny and huge ones in powers of ten. */
export function measure(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size < 1e-12) return "0";
  if ((size < 1e-3 || size >= 1e6)) return value.toExponential(2).replace(/\.?0*e\+?/, "e");
  return threeDigits.format(value);
}

export function bytes(size) {
  if (size < 1024) return `${count(size)} B`;
  if (size < 1024 ** 2) return `${threeDigits.format(size / 1024)} KiB`;
  return `${threeDigits.format(size / 1024 ** 2)} MiB`;
}

export function duration(seconds) {
  if (seconds < 10) return `${threeDigits.format(Math.max(0, Math.round(10 * seconds) / 10))} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

/** "3 minutes ago". A server clock ahead of ours counts as now. */
export function sinceThen(iso, now = Date.now()) {
  const seconds = Math.max(0, (now - Date.parse(iso)) / 1000);
  if (seconds < 5) return "just now";
  if (seconds < 60) return ago.format(-Math.floor(seconds), "second");
  if (seconds < 3600) return ago.format(-Math.floor(seconds / 60), "minute");
  if (seconds < 86400) return ago.format(-Math.floor(seconds / 3600), "hour");
  return ago.format(-Math.floor(seconds / 86400), "day");
}

export const exactTime = (iso) => `${new Date(iso).toISOString().slice(0, 19).replace("T", " ")} UTC`;
export const clockTime = (iso) => new Date(iso).toISOString().slice(11, 19);

/** Items that will not change any more. */
export const itemsDone = (items) => items.succeeded + items.failed;
