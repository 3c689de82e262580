import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { expect, type Page } from "@playwright/test";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Is it the fixture that answers? Else a real console with a real gateway behind it. */
export const FIXTURE = !process.env.CONSOLE_URL;
export const USER = process.env.CONSOLE_USER ?? "admin";
export const PASSWORD = process.env.CONSOLE_PASSWORD ?? "a long enough password";

/** What a page must never do: break the content security policy, throw, or ask another host. */
export function watch(page: Page): string[] {
  const faults: string[] = [];
  page.on("console", (message) => {
    if (message.type() !== "error") return;
    // A refused request is the test's own doing, and is shown by the page.
    if (/status of (401|403|404|409|422|429|503)/.test(message.text())) return;
    faults.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => faults.push(`error: ${error.message}`));
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.protocol.startsWith("http") && url.host !== new URL(page.url()).host && page.url() !== "about:blank") faults.push(`asked elsewhere: ${url}`);
  });
  return faults;
}

export async function logIn(page: Page): Promise<void> {
  await page.goto("/");
  const user = page.getByLabel("User");
  const heading = page.getByRole("heading", { name: "Overview" });
  await expect(user.or(heading).first()).toBeVisible();
  if (await heading.isVisible()) return;
  await user.fill(USER);
  await page.getByLabel("Password").fill(PASSWORD);
  await page.getByRole("button", { name: "Log in" }).click();
  await expect(heading).toBeVisible();
}

/** Goes to a page and waits until all its panels have what they show. */
export async function open(page: Page, path: string): Promise<void> {
  // Until the application has heard of it: before that the page that is left would be taken for the new one.
  await page.evaluate(
    (hash) =>
      new Promise<void>((heard) => {
        const before = location.hash;
        addEventListener("hashchange", () => heard(), { once: true });
        location.hash = hash;
        if (location.hash === before) heard();
      }),
    path,
  );
  await settle(page);
}

export async function settle(page: Page): Promise<void> {
  await expect(page.getByText(/^Loading( the editor)?$/)).toHaveCount(0);
  await expect(page.locator(".skeleton")).toHaveCount(0);
  // One frame for what is drawn on canvas.
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
}

/** What axe finds against WCAG 2.1 A and AA and its own best practices, one line each. */
export async function axe(page: Page): Promise<string[]> {
  await page.evaluate(AXE);
  return page.evaluate(async () => {
    interface Found {
      id: string;
      impact: string;
      help: string;
      nodes: { target: string[]; failureSummary?: string }[];
    }
    const engine = (window as unknown as { axe: { run: (root: Document) => Promise<{ violations: Found[] }> } }).axe;
    const { violations } = await engine.run(document);
    return violations.flatMap((found) => found.nodes.map((node) => `${found.id} (${found.impact}): ${found.help}: ${node.target.join(" ")}: ${node.failureSummary ?? ""}`));
  });
}
