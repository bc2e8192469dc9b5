import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

export default defineConfig({
  root: here("."),
  resolve: {
    // The client has no packages of its own beside it.
    alias: { runcast: here("../../gateway/web"), react: here("node_modules/react") },
  },
  test: { include: ["*.test.js"], testTimeout: 60_000, hookTimeout: 60_000, unstubGlobals: true, maxWorkers: 2 },
});
