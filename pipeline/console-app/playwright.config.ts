import { existsSync } from "node:fs";
import { defineConfig } from "@playwright/test";

// Against the console that CONSOLE_URL names, else against the built application over the fixture. The
// browser is the system's own: CHROMIUM, or Debian's.
const url = process.env.CONSOLE_URL;
const PORT = 4173;
const chromium = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(
  (path) => path && existsSync(path),
);
if (!chromium) throw new Error("no Chromium: apt-get install chromium, or name one in CHROMIUM");

export default defineConfig({
  testDir: "tests",
  outputDir: "test-results",
  // The tests change one gateway: one after the other.
  workers: 1,
  fullyParallel: false,
  retries: 0,
  // What these tests ask is whether, not how fast: bench/console.sh measures. A busy machine is no defect.
  timeout: 120_000,
  expect: { timeout: 20_000 },
  reporter: [["list"], ["json", { outputFile: "test-results/report.json" }]],
  use: {
    baseURL: url ?? `http://127.0.0.1:${PORT}`,
    ignoreHTTPSErrors: true,
    actionTimeout: 20_000,
    timezoneId: "UTC",
    locale: "en-GB",
    launchOptions: { executablePath: chromium, args: process.getuid?.() === 0 ? ["--no-sandbox"] : [] },
  },
  webServer: url
    ? undefined
    : { command: `npx vite preview --strictPort --port ${PORT} --host 127.0.0.1`, url: `http://127.0.0.1:${PORT}`, reuseExistingServer: false },
});
