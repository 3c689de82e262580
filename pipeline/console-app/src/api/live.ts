import { signal } from "@preact/signals";
import type { Overview, Staged } from "./types";

/** The newest numbers of the gateway; kept when it goes. */
export const overview = signal<Overview | undefined>(undefined);
export const staged = signal<Staged | undefined>(undefined);
/** The last ten minutes of what the events told, oldest first. */
export const recent = signal<Overview[]>([]);
/** Since when nothing is heard, and from whom; undefined while all is well. */
export const silence = signal<{ since: number; who: "gateway" | "console" } | undefined>(undefined);

const KEEP = 600;
/** A console that says nothing for so long is taken for gone, in milliseconds. */
const PATIENCE_MS = 5_000;

function parse<T>(event: Event): T | undefined {
  try {
    return JSON.parse((event as MessageEvent<string>).data) as T;
  } catch {
    return undefined;
  }
}

/** Follows the server's events until the returned function is called. */
export function follow(): () => void {
  const source = new EventSource("/api/v1/events");
  let heard = Date.now();
  const hear = () => {
    heard = Date.now();
    if (silence.value?.who === "console") silence.value = undefined;
  };
  source.addEventListener("overview", (event) => {
    hear();
    const now = parse<Overview>(event);
    if (!now) return;
    // Without the gateway its last numbers stay, greyed.
    if (now.gateway || !overview.value) overview.value = now;
    recent.value = [...recent.value.slice(-KEEP + 1), now];
    if (now.gateway) silence.value = undefined;
    else if (silence.value?.who !== "gateway") {
      silence.value = { since: now["unreachable-since"] ? Date.parse(now["unreachable-since"]) : Date.now(), who: "gateway" };
    }
  });
  source.addEventListener("staged", (event) => {
    hear();
    staged.value = parse<Staged>(event);
  });
  source.addEventListener("gone", () => {
    hear();
    if (silence.value?.who !== "gateway") silence.value = { since: Date.now(), who: "gateway" };
  });
  source.addEventListener("back", () => {
    hear();
    silence.value = undefined;
  });
  source.addEventListener("open", hear);
  const watch = setInterval(() => {
    if (Date.now() - heard > PATIENCE_MS && !silence.value) silence.value = { since: heard, who: "console" };
  }, 1_000);
  return () => {
    clearInterval(watch);
    source.close();
  };
}
