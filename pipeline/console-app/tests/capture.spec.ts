import { readFileSync } from "node:fs";
import { expect, test } from "@playwright/test";
import { axe, FIXTURE, logIn, open, watch } from "./console";

// Packets as evidence: from a row of Flows or Denied to a file.
test.skip(!FIXTURE, "story.spec.ts captures over a real gateway");

test.beforeEach(async ({ page }) => {
  await logIn(page);
});

test("a denied connection is captured into a file, with a reason", async ({ page }) => {
  const faults = watch(page);
  let end: () => void = () => undefined;
  const captured = new Promise<void>((done) => (end = done));
  await page.route("**/api/v1/captures", async (route) => {
    const answer = await route.fetch();
    await captured;
    await route.fulfill({ response: answer });
  });
  await open(page, "/denied");
  await page.getByRole("table", { name: "Denied" }).getByRole("button", { name: /^Capture/ }).first().click();
  const dialog = page.getByRole("dialog");
  await expect(dialog.getByLabel(/^Which packets/)).toHaveValue(/^tcp \S+ <-> \S+ port \d+ wire \S+$/);
  const act = dialog.getByRole("button", { name: "Capture", exact: true });
  await expect(act).toBeDisabled();
  await dialog.getByLabel(/^Reason/).fill("scans line 2, INC-7");
  const asked = page.waitForRequest("**/api/v1/captures");
  const saved = page.waitForEvent("download");
  await act.click();
  await expect(dialog.getByRole("progressbar")).toBeVisible();
  expect(await axe(page)).toEqual([]);
  expect((await asked).postDataJSON()).toMatchObject({ seconds: 30, packets: 1_000, reason: "scans line 2, INC-7" });
  expect((await asked).postDataJSON()).not.toHaveProperty("payload-bytes");
  end();
  const file = await saved;
  expect(file.suggestedFilename()).toMatch(/^bulkhead-\d{8}T\d{6}Z\.pcapng$/);
  expect(readFileSync(await file.path()).readUInt32LE(0)).toBe(0x0a0d0d0a);
  await expect(dialog.getByRole("status")).toContainText("42 packets");
  expect(faults).toEqual([]);
});

test("what matches nothing saves nothing, and what is refused says how to write it", async ({ page }) => {
  await open(page, "/flows");
  await page.getByRole("button", { name: "Capture packets" }).click();
  const dialog = page.getByRole("dialog");
  let saved = 0;
  page.on("download", () => (saved += 1));
  await dialog.getByLabel(/^Which packets/).fill("203.0.113.9");
  await dialog.getByLabel(/^Reason/).fill("INC-8");
  await dialog.getByRole("button", { name: "Capture", exact: true }).click();
  await expect(dialog.getByRole("status")).toContainText("No packet matched");
  await dialog.getByLabel(/^Which packets/).fill("nonsense");
  await dialog.getByRole("button", { name: "Capture again" }).click();
  await expect(dialog.getByRole("alert")).toContainText("write it as for `bulkhead trace`");
  expect(saved).toBe(0);
});

test("leaving the dialog ends the capture", async ({ page }) => {
  await page.route("**/api/v1/captures", () => undefined);
  await open(page, "/flows");
  await page.getByRole("button", { name: "Capture packets" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel(/^Reason/).fill("INC-9");
  const ended = page.waitForEvent("requestfailed", (request) => request.url().endsWith("/captures"));
  await dialog.getByRole("button", { name: "Capture", exact: true }).click();
  await expect(dialog.getByRole("progressbar")).toBeVisible();
  await page.keyboard.press("Escape");
  await ended;
  await expect(dialog).toBeHidden();
});
