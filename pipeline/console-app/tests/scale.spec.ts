import { appendFileSync, readdirSync, readFileSync } from "node:fs";
import { expect, test, type Page } from "@playwright/test";
import { logIn, open, settle } from "./console";

// Figures at scale, printed by bench/console.sh. They are measurements and not part of the tests: what is
// timed depends on the machine.
test.skip(!process.env.BULKHEAD_BENCH, "figures are taken by bench/console.sh");

const SECONDS = 4;
/** Where the figures go, one a line. */
const say = (line: string) => appendFileSync(process.env.BULKHEAD_BENCH ?? "", line + "\n");

test("figures at scale", async ({ page }) => {
  test.setTimeout(180_000);
  await page.goto("about:blank");
  const blank = memory();
  await logIn(page);
  const paints: Record<string, number[]> = { overview: [], map: [] };
  for (let run = 0; run < 5; run += 1) {
    paints.overview!.push(await paint(page, "/#/", ".figures .figure"));
    paints.map!.push(await paint(page, "/#/map", ".matrix canvas"));
  }
  for (const [name, times] of Object.entries(paints)) say(`${name}: first useful paint ${median(times).toFixed(0)} ms (median of ${times.length}, worst ${Math.max(...times).toFixed(0)})`);

  await open(page, "/map");
  await settle(page);
  const matrix = await frames(page, async () => {
    await page.mouse.move(700, 500);
    for (let i = 0; i < SECONDS * 20; i += 1) {
      await page.mouse.wheel(i % 40 < 20 ? 30 : -30, i % 40 < 20 ? 30 : -30);
      await page.mouse.move(700 + (i % 30) * 4, 500);
    }
  });
  say(`matrix: ${matrix.fps.toFixed(0)} frames/s while scrolling and pointing, slowest 5 % of frames over ${matrix.p95.toFixed(0)} ms`);

  await open(page, "/map?view=graph");
  await settle(page);
  const objects = await page.locator(".graph canvas").getAttribute("aria-label");
  const graph = await frames(page, async () => {
    await page.mouse.move(700, 500);
    await page.mouse.down();
    for (let i = 0; i < SECONDS * 20; i += 1) await page.mouse.move(700 + 200 * Math.sin(i / 9), 500 + 100 * Math.cos(i / 7));
    await page.mouse.up();
    for (let i = 0; i < 20; i += 1) await page.mouse.wheel(0, i < 10 ? -60 : 60);
  });
  say(`graph: ${graph.fps.toFixed(0)} frames/s while dragging and zooming, slowest 5 % of frames over ${graph.p95.toFixed(0)} ms (${objects?.split(".")[0]})`);

  for (const path of ["/devices", "/flows", "/policy", "/learn", "/map", "/"]) await open(page, path);
  const client = await page.context().newCDPSession(page);
  await client.send("HeapProfiler.collectGarbage");
  const heap = (await client.send("Runtime.getHeapUsage")).usedSize;
  say(`browser: ${(memory() / 1e6).toFixed(0)} MB in all its processes after every page, ${(blank / 1e6).toFixed(0)} MB of them with an empty page; ${(heap / 1e6).toFixed(0)} MB of JavaScript objects`);
  expect(matrix.fps).toBeGreaterThan(0);
});

/** Milliseconds from the navigation until the element is there and a frame with it is drawn. */
async function paint(page: Page, path: string, selector: string): Promise<number> {
  const client = await page.context().newCDPSession(page);
  await client.send("Network.setCacheDisabled", { cacheDisabled: true });
  await page.goto("about:blank");
  await page.goto(path, { waitUntil: "commit" });
  await page.waitForSelector(selector);
  const at = await page.evaluate(() => new Promise<number>((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())))));
  await client.detach();
  return at;
}

async function frames(page: Page, act: () => Promise<void>): Promise<{ fps: number; p95: number }> {
  await page.evaluate(() => {
    const kept: number[] = [];
    (window as unknown as { frames: number[] }).frames = kept;
    const tick = (t: number) => {
      kept.push(t);
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  });
  await act();
  const kept = await page.evaluate(() => (window as unknown as { frames: number[] }).frames);
  const gaps = kept.slice(1).map((t, i) => t - kept[i]!);
  return { fps: ((kept.length - 1) * 1000) / (kept.at(-1)! - kept[0]!), p95: quantile(gaps, 0.95) };
}

const quantile = (values: number[], q: number): number => [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * q))] ?? NaN;
const median = (values: number[]): number => quantile(values, 0.5);

/** What the browser's processes hold, shared pages counted once: the descendants of this process. */
function memory(): number {
  const parents = new Map<number, number>();
  const names = new Map<number, string>();
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const stat = readFileSync(`/proc/${entry}/stat`, "utf8");
      parents.set(Number(entry), Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]));
      names.set(Number(entry), stat.slice(stat.indexOf("(") + 1, stat.lastIndexOf(")")));
    } catch {
      // It ended meanwhile.
    }
  }
  const mine = (pid: number): boolean => pid === process.pid || (parents.has(pid) && pid > 1 && mine(parents.get(pid)!));
  let total = 0;
  for (const [pid, name] of names) {
    if (!/^chrom/.test(name) || !mine(pid)) continue;
    try {
      total += 1024 * Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))?.[1] ?? 0);
    } catch {
      // It ended meanwhile.
    }
  }
  return total;
}
