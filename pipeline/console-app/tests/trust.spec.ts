import { expect, test, type Page } from "@playwright/test";
import { axe, FIXTURE, logIn, open, settle } from "./console";

// What a page must never do: show one thing under the name of another, offer what is over, or lose what a
// person has to know.
test.skip(!FIXTURE, "these know the generated plant; story.spec.ts goes through a real one");

test.beforeEach(async ({ page }) => {
  await logIn(page);
});

/** What the command line, or another person, does meanwhile. */
const elsewhere = (page: Page, path: string, body: object = { reason: "elsewhere" }) => page.request.post(`/api/v1${path}`, { data: body });
const problem = (status: number, title: string) => ({ status, contentType: "application/problem+json", body: JSON.stringify({ title, status, detail: "" }) });

test("lockdown is offered for the staged policy of now alone, and is bound to it", async ({ page }) => {
  await elsewhere(page, "/policy/stage");
  await open(page, "/learn");
  const lock = page.getByRole("button", { name: "Lock down", exact: true });
  const force = page.getByLabel("lock down nevertheless");
  await expect(page.getByText("Staged for", { exact: true })).toBeVisible();
  await force.check();
  await expect(lock).toBeEnabled();

  // Another policy is staged: what was overridden for the one before is not for this one.
  await elsewhere(page, "/policy/stage");
  await expect(force).not.toBeChecked();
  await expect(lock).toBeDisabled();
  await page.waitForTimeout(1_500);
  await force.check();
  await lock.click();
  const dialog = page.getByRole("dialog");
  await expect(dialog).toContainText("Nevertheless, although:");
  await dialog.getByRole("textbox").fill("INC-12\nby order of the shift");
  const sent = page.waitForRequest("**/api/v1/lockdown");
  await page.route("**/api/v1/lockdown", (route) => route.fulfill(problem(409, "Another policy is staged")));
  await dialog.getByRole("button", { name: "Lock down" }).click();
  expect((await sent).postDataJSON()).toMatchObject({ force: true, reason: "INC-12 by order of the shift", expect: expect.stringMatching(/^[0-9a-f]{64}$/) });
  await expect(dialog.getByRole("alert")).toContainText("Another policy is staged");
  await page.keyboard.press("Escape");

  // It is taken back: nothing is left to lock down.
  await elsewhere(page, "/policy/unstage");
  await expect(page.getByText("Staged for", { exact: true })).toBeHidden();
  await expect(lock).toBeDisabled();
  await expect(page.getByText("none is staged")).toBeVisible();
});

test("warnings of a change that was made stay until they are read", async ({ page }) => {
  await page.route("**/api/v1/policy/rollback", (route) =>
    route.fulfill({ json: { done: true, what: "Version 2 is in force again.", obstacles: [], "stalled-worker": 1, findings: [{ severity: "warning", code: "not-kept", message: "a restart will not know it", rendered: "" }] } }),
  );
  await open(page, "/policy/history");
  await page.getByRole("button", { name: "Roll back" }).first().click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("textbox").fill("INC-13");
  await dialog.getByRole("button", { name: "Roll back" }).click();
  await expect(dialog.getByRole("alert")).toContainText("Worker 1 hangs");
  await expect(dialog.getByRole("alert")).toContainText("a restart will not know it");
  await dialog.getByRole("button", { name: "I have read it" }).click();
  await expect(dialog).toBeHidden();
});

test("a change that still runs moves no other, and its refusal is not lost", async ({ page }) => {
  let refuse: () => void = () => undefined;
  const held = new Promise<void>((done) => (refuse = done));
  await page.route("**/api/v1/policy/rollback", async (route) => {
    await held;
    await route.fulfill(problem(503, "The gateway does not answer"));
  });
  await open(page, "/policy/history");
  await page.getByRole("button", { name: "Roll back" }).first().click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("textbox").fill("INC-14");
  await dialog.getByRole("button", { name: "Roll back" }).click();
  await dialog.getByRole("button", { name: "Leave it running" }).click();
  await page.getByRole("button", { name: "Roll back" }).last().click();
  await dialog.getByRole("textbox").fill("INC-15, the other one");
  refuse();
  await expect(page.locator(".toast")).toContainText("Roll back to version 2 failed: The gateway does not answer");
  await expect(dialog.getByRole("textbox")).toHaveValue("INC-15, the other one");
  await expect(dialog.getByRole("button", { name: "Roll back" })).toBeEnabled();
  await expect(dialog.getByRole("alert")).toHaveCount(0);
});

test("nothing is shown under another's name while that is on its way, or fails", async ({ page }) => {
  await open(page, "/map?view=table");
  const pairs = page.getByRole("table", { name: "Pairs of groups" }).getByRole("button");
  await pairs.nth(0).click();
  await settle(page);
  const rows = page.locator(".side tbody tr");
  await expect(rows.first()).toBeVisible();
  await page.route("**/api/v1/map/cell?*", (route) => route.fulfill(problem(503, "The store cannot be read")));
  await pairs.nth(1).click();
  await expect(page.locator(".side").getByRole("alert")).toContainText("The store cannot be read");
  await expect(rows).toHaveCount(0);
});

test("a stream that is refused is asked for again, and without a session leads to the log-in", async ({ page }) => {
  let refused = 0;
  await page.route("**/api/v1/events", (route) => {
    refused += 1;
    return refused < 3 ? route.fulfill(problem(503, "Too busy")) : route.continue();
  });
  await page.reload();
  await expect(page.locator(".head")).toContainText("live");
  await expect(page.getByText("Throughput", { exact: true })).toBeVisible();
  await expect.poll(() => refused, { timeout: 60_000 }).toBeGreaterThan(2);
  await page.route("**/api/v1/events", (route) => route.fulfill(problem(401, "Log in first")));
  await page.reload();
  await expect(page.getByText("Throughput", { exact: true })).toBeVisible();
  await page.route("**/api/v1/session", (route) => route.fulfill(problem(401, "Log in first")));
  await expect(page.getByRole("heading", { name: "Log in" })).toBeVisible({ timeout: 60_000 });
});

test("a log-out that failed says so", async ({ page }) => {
  await page.route("**/api/v1/logout", (route) => route.fulfill(problem(429, "The console has too much to do")));
  await page.locator(".account > button").click();
  await page.getByRole("button", { name: "Log out" }).click();
  await expect(page.getByRole("alert")).toContainText("You are still logged in: The console has too much to do");
  await expect(page.getByRole("heading", { name: "Overview" })).toBeVisible();
});

test("what is in quarantine by any name can be released", async ({ page }) => {
  await page.route("**/api/v1/grants", (route) =>
    route.fulfill({ json: { grants: [], quarantines: [{ device: "plc-7", reason: "INC-9", who: { name: "root" }, "since-unix-ms": Date.now() - 60_000 }] } }),
  );
  await open(page, "/policy/grants");
  await page.getByRole("button", { name: "Release" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("textbox").fill("it was the scanner");
  const sent = page.waitForRequest((request) => request.method() === "DELETE");
  await dialog.getByRole("button", { name: "Release" }).click();
  expect(new URL((await sent).url()).pathname).toBe("/api/v1/devices/plc-7/quarantine");
});

test("what a page asks for by itself does not count as use", async ({ page }) => {
  const polled = page.waitForRequest((request) => request.url().includes("/api/v1/devices/") && request.headers()["x-bulkhead-background"] === "1", { timeout: 60_000 });
  await open(page, "/devices");
  const first = page.waitForRequest((request) => request.url().includes("/api/v1/devices/"));
  await page.getByRole("table", { name: "Devices" }).getByRole("link").first().click();
  expect((await first).headers()["x-bulkhead-background"]).toBeUndefined();
  await polled;
});

test("from proposal to lockdown by keyboard alone, without losing the way", async ({ page }) => {
  // What was approved is seen to be after a second only: the focus waits for it.
  await page.route("**/api/v1/learning/proposals/*", async (route) => {
    await new Promise((done) => setTimeout(done, 1_000));
    await route.continue();
  });
  await open(page, "/learn");
  const go = async (reason: string) => {
    const dialog = page.getByRole("dialog");
    await expect(dialog.getByRole("textbox")).toBeFocused();
    await page.keyboard.type(reason);
    await page.keyboard.press("Control+Enter");
    await expect(dialog).toBeHidden();
  };
  await page.getByRole("button", { name: "Propose rules" }).focus();
  await page.keyboard.press("Enter");
  const approve = page.getByRole("table", { name: "Exceptions" }).getByRole("button", { name: "Approve" });
  await expect(approve.first()).toBeVisible();
  await approve.first().focus();
  for (let left = await approve.count(); left > 0; left -= 1) {
    await page.keyboard.press("Enter");
    await go("known, CHG-1042");
    await expect(approve).toHaveCount(left - 1);
    // The focus is on the next one to decide, and after the last one where it goes on.
    if (left > 1) await expect(approve.first()).toBeFocused();
  }
  await expect(page.locator("#step-3")).toBeFocused();
  await page.keyboard.press("Tab");
  await expect(page.getByRole("button", { name: "Stage the proposal" })).toBeFocused();
  await page.keyboard.press("Enter");
  await go("rehearsal");
  await page.getByLabel("lock down nevertheless").focus();
  await page.keyboard.press("Space");
  await page.keyboard.press("Tab");
  await expect(page.getByRole("button", { name: "Lock down", exact: true })).toBeFocused();
  await page.keyboard.press("Enter");
  await go("rehearsed, INC-12");
  await expect(page.locator(".head")).toContainText("enforce");
  await elsewhere(page, "/observe");
});

test("where only signed policies are taken, the manifest goes out and its signature comes in", async ({ page }) => {
  const bodies: Record<string, unknown>[] = [];
  await page.route("**/api/v1/policy/stage", (route) => {
    const body = route.request().postDataJSON() as Record<string, unknown>;
    bodies.push(body);
    if (body.envelope) return route.fulfill({ json: { done: true, what: "Staged.", obstacles: [], findings: [] } });
    const findings = [{ severity: "error", code: "unsigned", message: "the policy is not signed", rendered: "" }];
    return route.fulfill({ status: 422, contentType: "application/problem+json", body: JSON.stringify({ title: "The policy is refused", status: 422, findings }) });
  });
  await open(page, "/learn?proposal=1");
  await page.getByRole("button", { name: "Stage the proposal" }).click();
  const dialog = page.getByRole("dialog");
  await expect(dialog.getByText("takes only signed policies")).toHaveCount(0);
  await dialog.getByRole("textbox").fill("CHG-1060");
  await dialog.getByRole("button", { name: "Stage", exact: true }).click();
  const saved = page.waitForEvent("download");
  await dialog.getByRole("button", { name: "Save the manifest" }).click();
  expect((await saved).suggestedFilename()).toBe("policy.manifest");
  await expect(dialog).toContainText("ssh-keygen -Y sign");
  const file = dialog.getByLabel(/policy\.manifest\.sig/);
  await file.setInputFiles({ name: "policy.manifest", mimeType: "text/plain", buffer: Buffer.from("bulkhead policy manifest") });
  await expect(dialog.getByRole("alert").filter({ hasText: "That is no signature" })).toBeVisible();
  await file.setInputFiles({ name: "policy.manifest.sig", mimeType: "text/plain", buffer: Buffer.from("-----BEGIN SSH SIGNATURE-----\nU1NIU0lH\n-----END SSH SIGNATURE-----\n") });
  await expect(dialog.getByRole("status")).toContainText("is taken");
  expect(await axe(page)).toEqual([]);
  await dialog.getByRole("button", { name: "Stage", exact: true }).click();
  await expect(dialog).toBeHidden();
  expect(bodies[0]).not.toHaveProperty("envelope");
  expect(bodies[1]).toMatchObject({ "proposal-id": "1", envelope: { manifest: expect.stringContaining("manifest"), signature: expect.stringContaining("U1NIU0lH") } });
});
