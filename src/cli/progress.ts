// What a long command shows meanwhile, on standard error: a bar on a terminal, a line now and then without one.
import cliProgress from "cli-progress";
import { formatBytes, formatCount, formatDuration } from "../base/units.ts";
import type { Counters } from "../replicate/job.ts";

const barMs = 200;
const lineMs = 10_000;

export interface Progress {
  /** A message between the lines of the progress. */
  notice(text: string): void;
  stop(): void;
}

const ratePerSecond = (bytes: number, ms: number) =>
  `${formatBytes(Math.round((1000 * bytes) / Math.max(1, ms)))}/s`;

/** Extents with which this pass has nothing more to do: what differs has to be shipped as well. */
const doneExtents = ({ compared, toShip, shippedExtents }: Counters) =>
  Math.max(0, compared - (toShip - shippedExtents));

/** The figures that both forms show. */
function figures(counters: Counters, extentBytes: number, beganMs: number) {
  const elapsedMs = performance.now() - beganMs;
  const total = Math.max(1, counters.extents);
  const done = doneExtents(counters);
  const etaSeconds = done === 0 ? undefined : ((elapsedMs / 1000) * (counters.extents - done)) / done;
  return {
    percent: ((100 * done) / total).toFixed(1),
    rate: ratePerSecond(done * extentBytes, elapsedMs),
    // Not `eta`: the bar has a field of its own by that name.
    left: etaSeconds === undefined ? "–" : formatDuration(etaSeconds),
    differing: formatCount(counters.differing),
    shipped: formatBytes(counters.shippedBytes),
    phase: counters.pass > 1 ? `${counters.phase}, pass ${counters.pass}` : counters.phase,
  };
}

function bar(counters: Counters, extentBytes: number): Progress {
  const beganMs = performance.now();
  const shown = new cliProgress.SingleBar({
    format: "{phase} [{bar}] {percent}%  {rate}  ETA {left}  differing {differing}  shipped {shipped}",
    barsize: 24,
    barCompleteChar: "=",
    barIncompleteChar: " ",
    hideCursor: true,
    clearOnComplete: true,
    stream: process.stderr,
    linewrap: false,
  });
  const payload = () => figures(counters, extentBytes, beganMs);
  shown.start(1, 0, payload());
  const update = () => {
    shown.setTotal(Math.max(1, counters.extents));
    shown.update(doneExtents(counters), payload());
  };
  const timer = setInterval(update, barMs);
  return {
    notice(text) {
      process.stderr.write(`\r\x1b[K${text}\n`);
      update();
    },
    stop() {
      clearInterval(timer);
      shown.stop();
    },
  };
}

function lines(counters: Counters, extentBytes: number): Progress {
  const beganMs = performance.now();
  const timer = setInterval(() => {
    const { phase, percent, rate, left, differing, shipped } = figures(counters, extentBytes, beganMs);
    process.stderr.write(
      `${phase}: ${percent}% at ${rate}, ETA ${left}, ${differing} extents differ, ${shipped} shipped\n`,
    );
  }, lineMs);
  timer.unref();
  return {
    notice: (text) => void process.stderr.write(`${text}\n`),
    stop: () => clearInterval(timer),
  };
}

export function showProgress(counters: Counters, extentBytes: number): Progress {
  return process.stderr.isTTY ? bar(counters, extentBytes) : lines(counters, extentBytes);
}
