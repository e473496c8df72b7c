// Loads the native addons: the one that everything needs at once, others when they are asked for.
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);

/** Node loads an addon once, however often it is asked for. */
export function loadAddon(name: string): Record<string, unknown> {
  try {
    return require(`../../build/Release/${name}.node`) as Record<string, unknown>;
  } catch (error) {
    throw new Error(
      `Cannot load lunsync's native addon (build/Release/${name}.node): ${(error as Error).message}; ` +
        "run ./scripts/setup",
      { cause: error },
    );
  }
}

/** The addon's functions; their types stand in the modules beside this one. */
export const native: Record<string, unknown> = loadAddon("lunsync");
