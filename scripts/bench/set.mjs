// A run of a replication set as a whole process, beside a synchronization of the same volumes.
import { closeSync, openSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import {
  lunsync,
  MiB,
  makeVolume,
  median,
  print,
  runs,
  seconds,
  times,
  volumeBytes,
  withTarget,
} from "./common.mjs";

const extentBytes = 64 * 1024;

/** One extent of a hundred holds something else than before. */
function change(path, round) {
  const file = openSync(path, "r+");
  const piece = Buffer.alloc(extentBytes, round + 1);
  for (let at = 0; at < volumeBytes; at += 100 * extentBytes)
    writeSync(file, piece, 0, Math.min(piece.length, volumeBytes - at), at);
  closeSync(file);
}

export async function set(folder) {
  const [source, replica, state] = ["source", "replica", "state"].map((name) => join(folder, name));
  makeVolume(source, 1);
  const ways = {
    "lunsync sync --verify": {
      begin: () => {},
      run: (url) => seconds(lunsync, ["sync", source, url, "--verify"]),
    },
    "lunsync set run": {
      begin: (url) =>
        seconds(lunsync, [
          "set",
          "create",
          "bench",
          "--source",
          source,
          "--replica",
          `a=${url}`,
          "--state-dir",
          state,
        ]),
      run: () => seconds(lunsync, ["set", "run", "bench", "--state-dir", state]),
    },
  };
  const measured = () => Object.fromEntries(Object.keys(ways).map((name) => [name, []]));
  const [all, some] = [measured(), measured()];
  for (let round = 0; round < runs; round++) {
    for (const [name, { begin, run }] of Object.entries(ways)) {
      makeVolume(replica, 2);
      rmSync(state, { recursive: true, force: true });
      await withTarget(
        replica,
        async (url) => {
          begin(url);
          all[name].push(run(url));
          change(source, 2 * round + Object.keys(ways).indexOf(name));
          some[name].push(run(url));
        },
        ["--state-dir", state],
      );
    }
  }
  for (const [what, each] of [
    ["all different", all],
    ["one extent of a hundred different", some],
  ]) {
    const yardstick = median(each["lunsync sync --verify"]);
    print(
      `A replica of ${volumeBytes / MiB} MiB over iSCSI, ${what}, flushed and proved, whole processes`,
      ["program", "seconds", "against sync --verify"],
      Object.entries(each).map(([name, taken]) => [
        name,
        median(taken).toFixed(3),
        times(yardstick / median(taken)),
      ]),
    );
  }
  rmSync(replica, { force: true });
}
