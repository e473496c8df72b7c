// Prints `N passed, N failed` as the last line of a test run.
//
// What never became a test counts as failed: a file that can't be imported, a hook that throws, an error outside any
// test, a run that found no test at all. scripts/test wants the counts in a file, and prints the line itself.
import { writeFileSync } from "node:fs";
import type { Reporter, SerializedError, TestCase, TestModule } from "vitest/node";

export default class CountReporter implements Reporter {
  #passed = 0;
  #failed = 0;
  #skipped = 0;
  #tests = 0;

  onTestCaseResult(test: TestCase): void {
    this.#tests++;
    const { state } = test.result();
    if (state === "passed") this.#passed++;
    else if (state === "skipped") this.#skipped++;
    else this.#failed++;
  }

  onTestRunEnd(modules: readonly TestModule[], errors: readonly SerializedError[]): void {
    for (const module of modules) {
      this.#failed += module.errors().length;
      for (const suite of module.children.allSuites()) this.#failed += suite.errors().length;
    }
    this.#failed += errors.length;
    if (this.#tests === 0) this.#failed = Math.max(1, this.#failed);
    process.exitCode = this.#failed > 0 ? 1 : (process.exitCode ?? 0);
    const counts = process.env.LUNSYNC_TEST_COUNTS;
    if (counts !== undefined) {
      writeFileSync(counts, `${this.#passed} ${this.#failed} ${this.#skipped}\n`);
      return;
    }
    const skipped = this.#skipped > 0 ? `, ${this.#skipped} skipped` : "";
    const line = `${this.#passed} passed, ${this.#failed} failed${skipped}\n`;
    // The other reporter still prints when this one is called.
    process.once("exit", () => void process.stdout.write(line));
  }
}
