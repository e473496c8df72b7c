import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    pool: "forks",
    maxWorkers: 2,
    // Against what hangs. A machine that is slow takes its time.
    testTimeout: 600_000,
    hookTimeout: 600_000,
    reporters: ["default", "./test/reporter.ts"],
  },
});
