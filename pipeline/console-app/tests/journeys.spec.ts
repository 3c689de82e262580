import { expect, test } from "@playwright/test";
import { axe, FIXTURE, logIn, open, settle, watch } from "./console";

// What an operator does, by keyboard and by pointer, over the generated plant.
test.skip(!FIXTURE, "these know the generated plant; story.spec.ts goes through a real one");

test.beforeEach(async ({ page }) => {
  await logIn(page);
});

test("from the matrix to the rule that decided, by keyboard alone", async ({ page }) => {
  const faults = watch(page);
  await open(page, "/map");
  await page.getByRole("application").focus();
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowUp");
  await expect(page.locator("#matrix-at")).toContainText("→");
  await page.keyboard.press("Enter");
  await expect(page).toHaveURL(/a=.*&b=/);
  await settle(page);
  const rule = page.locator(".side table a[href*='policy/rules']").first();
  await expect(rule).toBeVisible();
  const name = (await rule.textContent()) ?? "";
  await rule.focus();
  await page.keyboard.press("Enter");
  await expect(page.getByRole("heading", { name: `Rule ${name}` })).toBeVisible();
  await expect(page.getByRole("heading", { name: "Evidence: what it decides" })).toBeVisible();
  expect(faults).toEqual([]);
});

test("the palette finds pages and devices", async ({ page }) => {
  await page.keyboard.press("/");
  const input = page.getByRole("combobox", { name: "Go to a page or a device" });
  await expect(input).toBeFocused();
  await input.fill("plc-1-7");
  await expect(page.getByRole("option").filter({ hasText: "plc-1-7" }).first()).toBeVisible();
  await page.keyboard.press("Enter");
  await expect(page).toHaveURL(/devices\/02/);
  await page.keyboard.press("/");
  await page.getByRole("combobox", { name: "Go to a page or a device" }).fill("history");
  await page.keyboard.press("Enter");
  await expect(page.getByRole("heading", { name: "Versions that were in force" })).toBeVisible();
});

test("a key goes to what is shown, however fast it follows", async ({ page }) => {
  // In the page itself: between two keys that come from outside is time enough to paint.
  const shown = await page.evaluate(async () => {
    const press = async (key: string) => {
      (document.activeElement ?? document.body).dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
      await new Promise((done) => setTimeout(done));
      return { dialogs: document.querySelectorAll("dialog[open]").length, at: document.activeElement?.getAttribute("role") };
    };
    return [await press("/"), await press("Enter"), await press("/")];
  });
  const open = { dialogs: 1, at: "combobox" };
  expect(shown[0]).toEqual(open);
  expect(shown[1]?.dialogs).toBe(0);
  expect(shown[2]).toEqual(open);
});

test("quarantine asks for a reason, and the audit log has it", async ({ page }) => {
  await open(page, "/devices?search=plc-2-");
  await page.getByRole("table", { name: "Devices" }).getByRole("link").first().click();
  await page.getByRole("button", { name: "Quarantine" }).click();
  const dialog = page.getByRole("dialog");
  const act = dialog.getByRole("button", { name: "Quarantine" });
  await expect(act).toBeDisabled();
  await dialog.getByRole("textbox").fill("scans line 2, INC-7");
  await act.click();
  await expect(page.getByRole("button", { name: "Release" })).toBeVisible();
  await open(page, "/access?tab=audit");
  await expect(page.getByText("scans line 2, INC-7").first()).toBeVisible();
});

test("the editor shows what the parser says while one types", async ({ page }) => {
  const faults = watch(page);
  await open(page, "/policy/editor");
  await expect(page.getByText("the parser accepts it")).toBeVisible();
  await page.locator(".editor .cm-content").click();
  await page.keyboard.press("Control+End");
  await page.keyboard.type("  - name: x\n    action: alow\n");
  await expect(page.getByText("1 error")).toBeVisible();
  await expect(page.getByRole("table", { name: "Diagnostics" })).toContainText("alow");
  await expect(page.locator(".editor .mark-error")).toBeVisible();
  await expect(page.getByRole("button", { name: "Stage" })).toBeDisabled();
  expect(faults).toEqual([]);
});

test("when the gateway goes, the last numbers stay and say since when", async ({ page }) => {
  // A stream of the gateway's going, in the place of the server's events.
  await page.route("**/api/v1/events", (route) =>
    route.fulfill({ status: 200, contentType: "text/event-stream", body: "event: gone\ndata: {}\n\n" }),
  );
  await page.reload();
  await settle(page);
  await expect(page.getByRole("alert")).toContainText("The gateway does not answer since");
  await expect(page.locator(".head")).toContainText("gateway silent since");
  await expect(page.locator(".panel.stale").first()).toBeVisible();
  await expect(page.getByText("Throughput", { exact: true })).toBeVisible();
});

test("wires that pass unjudged are said on every page, with who, since when and what ends it", async ({ page }) => {
  const now = await (await page.request.get("/api/v1/overview")).json();
  const since = new Date(Date.now() - 200_000).toISOString();
  const dead = { ...now, gateway: null, "unreachable-since": since, decisions: [{ kind: "alarm", what: "the gateway does not answer: connection refused", link: "/overview" }], bypassed: { wires: ["line-1", "line-2"], by: "the supervisor", why: "worker 0 stood still", since } };
  const events = [now, dead].map((data) => `event: overview\ndata: ${JSON.stringify(data)}\n\n`).join("");
  await page.route("**/api/v1/events", (route) => route.fulfill({ status: 200, contentType: "text/event-stream", body: events }));
  await page.reload();
  await settle(page);
  const alarm = page.getByRole("alert").filter({ hasText: "UNJUDGED" });
  await expect(alarm).toContainText("line-1, line-2 pass everything UNJUDGED since");
  await expect(alarm).toContainText("By the supervisor: worker 0 stood still.");
  await expect(page.getByRole("alert").filter({ hasText: "does not answer" })).toContainText("Cut: line-3, line-4, line-5, line-6.");
  await expect(page.getByRole("alert").filter({ hasText: "does not answer since" })).toContainText("connection refused");
  await expect(page.locator(".wires > li").first()).toContainText("unjudged");
  await expect(page.locator(".head")).toContainText("unjudged");
  await open(page, "/devices");
  // The page is loaded when it is first asked for: before that it has no heading, of which axe would complain.
  await expect(page.getByRole("heading", { level: 1, name: "Devices" })).toBeVisible();
  await expect(alarm).toBeVisible();
  expect(await axe(page)).toEqual([]);
});

test("time plays over the map, from piece to piece, without moving a row", async ({ page }) => {
  const faults = watch(page);
  const asked: string[] = [];
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.pathname.endsWith("/map/matrix")) asked.push(url.search);
  });
  await open(page, "/map");
  await page.getByRole("button", { name: "Play" }).click();
  await expect(page.getByRole("button", { name: "Pause" })).toBeVisible();
  await expect.poll(() => asked.filter((search) => search.includes("to=")).length, { timeout: 60_000 }).toBeGreaterThan(2);
  expect(new Set(asked).size).toBeGreaterThan(2);
  await page.getByRole("button", { name: "Pause" }).click();
  await expect(page.getByRole("button", { name: "Play" })).toBeVisible();
  const at = page.url();
  expect(at).toMatch(/[?&]to=/);
  await page.waitForTimeout(1_500);
  expect(page.url()).toBe(at);
  await page.getByRole("button", { name: "All time" }).click();
  await expect(page).not.toHaveURL(/[?&](from|to)=/);
  expect(faults).toEqual([]);
});

test("the blast radius of a device stands side by side for every policy", async ({ page }) => {
  await open(page, "/map?overlay=blast");
  await page.getByLabel(/^Device that is taken over/).fill("hmi-1-1");
  await page.getByRole("button", { name: "Show", exact: true }).click();
  const reach = page.getByRole("list", { name: "Devices that it reaches" });
  await expect(reach).toContainText("9,999");
  await expect(reach).toContainText("443");
  await expect(reach).toContainText("88");
  await reach.getByRole("button", { name: "proposed" }).click();
  await expect(page.getByText("Under the policy proposed it reaches 88 devices")).toBeVisible();
  await reach.getByRole("button", { name: "staged" }).click();
  await expect(page.getByText("No policy is staged.")).toBeVisible();
  expect(await axe(page)).toEqual([]);
});

test("a panel whose question fails says so, and asks again", async ({ page }) => {
  let refuse = true;
  await page.route("**/api/v1/devices?*", (route) =>
    refuse
      ? route.fulfill({ status: 503, contentType: "application/problem+json", body: JSON.stringify({ title: "The store cannot be read", status: 503, detail: "it is damaged", remedy: "bulkhead doctor" }) })
      : route.continue(),
  );
  await open(page, "/devices");
  const alert = page.getByRole("alert");
  await expect(alert).toContainText("The store cannot be read");
  await expect(alert).toContainText("bulkhead doctor");
  refuse = false;
  await page.getByRole("button", { name: "Try again" }).click();
  await expect(page.getByRole("table", { name: "Devices" })).toBeVisible();
});

test("a session that ends leads to the log-in, not to an error", async ({ page }) => {
  await page.route("**/api/v1/flows?*", (route) => route.fulfill({ status: 401, contentType: "application/problem+json", body: '{"title":"Log in first","status":401}' }));
  await page.evaluate(() => (location.hash = "/flows"));
  await expect(page.getByRole("heading", { name: "Log in" })).toBeVisible();
});

test("on a phone what is chosen on the map comes into view", async ({ page }) => {
  await page.setViewportSize({ width: 390, height: 844 });
  await open(page, "/map");
  await page.getByRole("table", { name: "Pairs of groups" }).getByRole("button").nth(20).click();
  await settle(page);
  await expect(page.locator(".side .panel h2")).toBeInViewport();
});
