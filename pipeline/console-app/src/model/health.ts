import type { Overview, WireInfo } from "../api/types";
import { count } from "./format";

export type Tone = "good" | "warn" | "bad";
export interface Problem {
  tone: "warn" | "bad";
  text: string;
  /** The page where more of it stands. */
  link?: string;
}
export interface Health {
  /** The worst of all. */
  tone: Tone;
  /** What the gateway does now, in one sentence. */
  headline: string;
  /** How good that alone is. */
  doing: Tone;
  problems: Problem[];
}

/** Shares above which something runs out. */
const BUSY = 0.9;
const FULL = 0.9;

/** Is it well? What the numbers of now say, worst first; undefined while no gateway tells. */
export function health(now: Overview): Health | undefined {
  const gateway = now.gateway;
  if (!gateway) return undefined;
  const problems: Problem[] = [];
  const bad = (text: string, link?: string) => problems.push({ tone: "bad", text, ...(link ? { link } : {}) });
  const warn = (text: string, link?: string) => problems.push({ tone: "warn", text, ...(link ? { link } : {}) });
  for (const worker of now.workers) {
    const name = `The worker on core ${worker.core ?? "–"}`;
    if (worker.hung) bad(`${name} hangs: its packets are not judged.`);
    else if (worker["busy-ratio"] > BUSY) warn(`${name} is busy ${Math.round(100 * worker["busy-ratio"])} % of the time: packets will be lost when more come.`);
  }
  for (const wire of gateway.wires) {
    const down = wire.ports.filter((port) => port.link !== "up");
    if (down.length) bad(`${wire.name} carries nothing: ${down.map((port) => `${port.name} ${port.link}`).join(", ")}.`);
  }
  if (!gateway.policy) bad("No policy is in force.", "#/policy");
  else if (gateway.policy.fallback) bad("The policy’s files are bad: the last accepted policy is in force.", "#/policy");
  if (now.flows.capacity && now.flows.used / now.flows.capacity > FULL) warn("The flow tables are nearly full: new connections will be refused.");
  if (!gateway["clock-synchronised"]) warn("The clock is not synchronised: times are the machine’s own, and rules with a time may not hold.");
  problems.sort((a, b) => (a.tone === b.tone ? 0 : a.tone === "bad" ? -1 : 1));
  const state = doing(gateway.ready, gateway.wires);
  const tone = problems[0]?.tone === "bad" || state.tone === "bad" ? "bad" : problems.length || state.tone === "warn" ? "warn" : "good";
  return { tone, headline: state.text, doing: state.tone, problems };
}

/** How many wires are in each mode, enforcing ones first. */
export function modes(wires: WireInfo[]): { mode: string; wires: number }[] {
  const counts = new Map<string, number>();
  for (const wire of wires) counts.set(wire.mode, (counts.get(wire.mode) ?? 0) + 1);
  return [...counts].sort(([a], [b]) => (a < b ? -1 : 1)).map(([mode, n]) => ({ mode, wires: n }));
}

function doing(ready: boolean, wires: WireInfo[]): { tone: Tone; text: string } {
  const enforcing = wires.filter((wire) => wire.mode === "enforce").length;
  if (!ready) return { tone: "bad", text: "Not guarding: no worker judges packets." };
  if (wires.length === 0) return { tone: "bad", text: "Not guarding: the gateway has no wire." };
  if (enforcing === wires.length) return { tone: "good", text: `Guarding: ${count(enforcing, "wire enforces", "wires enforce")} the policy.` };
  if (enforcing > 0) return { tone: "warn", text: `Guarding in part: ${count(enforcing, "wire enforces", "wires enforce")} the policy, ${wires.length - enforcing} only ${wires.length - enforcing === 1 ? "observes" : "observe"}.` };
  return { tone: "warn", text: `Observing: ${count(wires.length, "wire forwards", "wires forward")} everything, and nothing is blocked.` };
}
