import { copyFileSync, mkdirSync, statSync } from "node:fs";
import { expect, test } from "@playwright/test";
import { axe, logIn, open, watch } from "./console";

// Every page at two widths and in both themes: nothing broken, axe finds nothing, and a picture of each.

const PICTURES = "test-results/pictures";
/** Those that stand beside the README, renewed with UPDATE_PICTURES=1. */
const KEPT = new Set([
  "overview-1440-light",
  "overview-390-light",
  "map-1440-light",
  "map-1440-dark",
  "map-graph-390-light",
  "devices-1440-light",
  "policy-1440-light",
  "policy-editor-1440-dark",
  "learn-1440-light",
  "flows-1440-light",
  "denied-390-dark",
  "report-1440-light",
  "access-audit-390-light",
]);
const MAX_KEPT_BYTES = 200_000;

const PAGES: [name: string, path: string][] = [
  ["overview", "/"],
  ["map", "/map"],
  ["map-table", "/map?view=table"],
  ["map-graph", "/map?view=graph"],
  ["devices", "/devices"],
  ["policy", "/policy"],
  ["policy-warnings", "/policy/warnings"],
  ["policy-editor", "/policy/editor"],
  ["policy-grants", "/policy/grants"],
  ["policy-history", "/policy/history"],
  ["learn", "/learn"],
  ["flows", "/flows"],
  ["denied", "/denied"],
  ["report", "/report"],
  ["access", "/access"],
  ["access-users", "/access?tab=users"],
  ["access-tokens", "/access?tab=tokens"],
  ["access-audit", "/access?tab=audit"],
];
const WIDTHS = [1440, 390];
const THEMES = ["light", "dark"] as const;
/** Each width and each theme once; all four with BULKHEAD_FULL, and when pictures are renewed. */
const ALL = Boolean(process.env.BULKHEAD_FULL || process.env.UPDATE_PICTURES);

for (const width of WIDTHS) {
  for (const theme of THEMES) {
    if (!ALL && (width === 1440) !== (theme === "light")) continue;
    test(`every page at ${width} pixels, ${theme}`, async ({ browser }) => {
      test.setTimeout(180_000);
      const context = await browser.newContext({ viewport: { width, height: width > 1000 ? 860 : 844 }, colorScheme: theme, reducedMotion: "reduce" });
      const page = await context.newPage();
      const faults = watch(page);
      mkdirSync(PICTURES, { recursive: true });
      await page.goto("/");
      await expect(page.getByRole("heading", { level: 1 })).toBeVisible();
      const found: string[] = (await axe(page)).map((line) => `log-in: ${line}`);
      await logIn(page);
      for (const [name, path] of PAGES) {
        await open(page, path);
        await expect(page.getByRole("heading", { level: 1 })).toBeVisible();
        await expect(page.getByRole("alert"), name).toHaveCount(0);
        found.push(...(await axe(page)).map((line) => `${name}: ${line}`));
        const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        if (overflow > 0) found.push(`${name}: ${overflow} pixels wider than the screen`);
        const title = `${name}-${width}-${theme}`;
        const picture = `${PICTURES}/${title}.png`;
        await page.screenshot({ path: picture });
        if (KEPT.has(title) && process.env.UPDATE_PICTURES) {
          expect(statSync(picture).size, title).toBeLessThanOrEqual(MAX_KEPT_BYTES);
          copyFileSync(picture, `docs/${title}.png`);
        }
      }
      expect(found).toEqual([]);
      expect(faults).toEqual([]);
      await context.close();
    });
  }
}
