// One request at a time, every two seconds while the page is seen; slower and slower while the API is away.

import { Unreachable } from "./api.js";

const EVERY_MS = 2_000;
const LONGEST_MS = 30_000;

const backOff = (failures, error) =>
  Math.max(
    1000 * error.retryAfterSeconds,
    Math.min(LONGEST_MS, EVERY_MS * 2 ** (failures - 1)) * (0.8 + 0.4 * Math.random()),
  );

// A page that the browser had put aside is shown as it was then; where polling has ended it would stay so for ever.
window.addEventListener("pageshow", ({ persisted }) => persisted && window.location.reload());

/**
 * Run `task(signal)` now and again until it returns false, is refused, or stop() is called.
 * @param {(signal: AbortSignal) => Promise<boolean|void>} task
 * @param {{up: () => void, down: (error: Error, retry: () => void) => void, refused: (error: Error) => void}} health
 */
export function poll(task, health) {
  const controller = new AbortController();
  const { signal } = controller;
  const wake = { timer: 0, busy: false, seen: false, failures: 0 };

  /** One turn; returns the pause before the next in milliseconds, or null at the end. */
  async function turn() {
    try {
      const more = await task(signal);
      wake.failures = 0;
      health.up();
      return more === false ? null : EVERY_MS;
    } catch (error) {
      if (signal.aborted) return null;
      if (!(error instanceof Unreachable)) {
        health.refused(error);
        return null;
      }
      wake.failures += 1;
      health.down(error, run);
      return backOff(wake.failures, error);
    }
  }

  async function run() {
    clearTimeout(wake.timer);
    if (signal.aborted || wake.busy || (document.hidden && wake.seen)) return;
    wake.busy = true;
    wake.seen = true;
    const pause = await turn();
    wake.busy = false;
    if (pause === null) controller.abort();
    else if (!signal.aborted) wake.timer = setTimeout(run, pause);
  }

  const whenSeen = () => document.hidden || run();
  document.addEventListener("visibilitychange", whenSeen, { signal });
  window.addEventListener("online", whenSeen, { signal });
  signal.addEventListener("abort", () => clearTimeout(wake.timer));
  run();
  return { stop: () => controller.abort(), now: run };
}
