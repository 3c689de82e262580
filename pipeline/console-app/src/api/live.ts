import { signal } from "@preact/signals";
import { refreshSession, session } from "./client";
import type { Bypass, Overview, Staged } from "./types";

/** The newest numbers of the gateway; kept when it goes. */
export const overview = signal<Overview | undefined>(undefined);
export const staged = signal<Staged | undefined>(undefined);
/** The last ten minutes of what the events told, oldest first. */
export const recent = signal<Overview[]>([]);
/** Since when nothing is heard, and from whom; undefined while all is well. */
export const silence = signal<{ since: number; who: "gateway" | "console" } | undefined>(undefined);

/** What is alarming while the gateway does not answer, in the console's words. */
export const alarms = signal<string[]>([]);
/** Wires that pass everything unjudged, as far as was told last. */
export const bypassed = signal<Bypass | undefined>(undefined);

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

/** Waits before the events are asked for again, from the first to the longest, in milliseconds. */
const RETRY_MS = 1_000;
const LONGEST_RETRY_MS = 30_000;
/** A staged policy is told with every overview; after so many without one there is none any more. */
const STAGED_WITHIN = 2;

/** Follows the server's events until the returned function is called, which forgets what they told. In a
 *  hidden tab nothing is followed: browsers have six connections to a console for all tabs together. */
export function follow(): () => void {
  let source: EventSource | undefined;
  let retry: ReturnType<typeof setTimeout> | undefined;
  let wait = RETRY_MS;
  let heard = Date.now();
  let sinceStaged = 0;
  const hear = () => {
    heard = Date.now();
    wait = RETRY_MS;
    if (silence.value?.who === "console") silence.value = undefined;
  };
  const open = () => {
    clearTimeout(retry);
    source?.close();
    const mine = new EventSource("/api/v1/events");
    source = mine;
    mine.addEventListener("overview", (event) => {
      hear();
      const now = parse<Overview>(event);
      if (!now) return;
      sinceStaged += 1;
      if (sinceStaged > STAGED_WITHIN) staged.value = undefined;
      show(now);
    });
    mine.addEventListener("staged", (event) => {
      hear();
      sinceStaged = 0;
      staged.value = parse<Staged>(event);
    });
    mine.addEventListener("gone", () => {
      hear();
      staged.value = undefined;
      if (silence.value?.who !== "gateway") silence.value = { since: Date.now(), who: "gateway" };
    });
    mine.addEventListener("back", () => {
      hear();
      silence.value = undefined;
    });
    mine.addEventListener("open", hear);
    // A browser comes back by itself after a broken connection, never after an answer that refuses.
    mine.addEventListener("error", () => {
      if (mine.readyState !== EventSource.CLOSED || source !== mine) return;
      retry = setTimeout(again, wait);
      wait = Math.min(2 * wait, LONGEST_RETRY_MS);
    });
  };
  const again = () => {
    // Without a session this leads to the log-in, and nothing is followed any more.
    refreshSession(true).then(() => session.value && open(), open);
  };
  const look = () => {
    if (document.visibilityState === "visible") {
      if (source) return;
      heard = Date.now();
      open();
    } else {
      clearTimeout(retry);
      source?.close();
      source = undefined;
    }
  };
  look();
  document.addEventListener("visibilitychange", look);
  const watch = setInterval(() => {
    if (source && Date.now() - heard > PATIENCE_MS && !silence.value) silence.value = { since: heard, who: "console" };
  }, 1_000);
  return () => {
    document.removeEventListener("visibilitychange", look);
    clearTimeout(retry);
    clearInterval(watch);
    source?.close();
    forget();
  };
}

function show(now: Overview): void {
  bypassed.value = now.bypassed ?? undefined;
  alarms.value = now.gateway ? [] : now.decisions.filter((decision) => decision.kind === "alarm").map((decision) => decision.what);
  // Without the gateway its last numbers stay, greyed.
  if (now.gateway || !overview.value) overview.value = now;
  recent.value = [...recent.value.slice(-KEEP + 1), now];
  if (now.gateway) silence.value = undefined;
  else if (silence.value?.who !== "gateway") {
    silence.value = { since: now["unreachable-since"] ? Date.parse(now["unreachable-since"]) : Date.now(), who: "gateway" };
  }
}

/** The next person who logs in here sees nothing of the one before. */
function forget(): void {
  overview.value = undefined;
  staged.value = undefined;
  bypassed.value = undefined;
  silence.value = undefined;
  alarms.value = [];
  recent.value = [];
}
