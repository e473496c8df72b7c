// Loads the native addon, once.
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);

function load(): Record<string, unknown> {
  try {
    return require("../../build/Release/lunsync.node") as Record<string, unknown>;
  } catch (error) {
    throw new Error(
      `Cannot load lunsync's native addon (build/Release/lunsync.node): ${(error as Error).message}; ` +
        "run ./scripts/setup",
      { cause: error },
    );
  }
}

/** The addon's functions; their types stand in the modules beside this one. */
export const native: Record<string, unknown> = load();
