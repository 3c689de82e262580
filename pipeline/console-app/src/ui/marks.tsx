import type { CellState } from "../api/types";
import { href } from "../model/route";

/** The states of a pair of groups: name, glyph and colour token, in the order of the legend. */
export const STATES: { state: CellState; name: string; glyph: string; token: string; meaning: string }[] = [
  { state: "used", name: "permitted and used", glyph: "●", token: "cell-used", meaning: "rules permit it and it happens" },
  { state: "unused", name: "permitted, unused", glyph: "○", token: "cell-unused", meaning: "rules permit it and nobody used it" },
  { state: "would-block", name: "would be blocked", glyph: "▲", token: "cell-would", meaning: "it happens, and enforcing would cut it" },
  { state: "blocked", name: "blocked", glyph: "✕", token: "cell-blocked", meaning: "it is attempted and dropped" },
  { state: "mixed", name: "in part", glyph: "◆", token: "cell-mixed", meaning: "some of it passes, some does not" },
];
const BY_STATE = new Map(STATES.map((s) => [s.state, s]));

export const stateOf = (state: CellState) => BY_STATE.get(state) ?? STATES[4]!;

export function State({ state }: { state: CellState }) {
  const shown = stateOf(state);
  return (
    <span class="nowrap">
      <Glyph state={state} /> {shown.name}
    </span>
  );
}

export function Glyph({ state }: { state: CellState }) {
  const shown = stateOf(state);
  return (
    <span class={`glyph ${shown.token}`} aria-hidden="true">
      {shown.glyph}
    </span>
  );
}

/** The rule, with a way to it where it is one of the policy's. */
export function RuleLink({ name }: { name: string }) {
  return !name || name === "default" || name === "observe" ? (
    <span class="muted">{name || "–"}</span>
  ) : (
    <a class="wrap" href={href(["policy", "rules", name])}>
      {name}
    </a>
  );
}

/** What a wire or the gateway does: observe forwards everything, enforce does what the policy says. */
export function Mode({ mode, wires }: { mode: string; wires?: number | undefined }) {
  const tone = mode === "enforce" ? "accent" : mode === "observe" ? "warn" : "";
  const title = mode === "enforce" ? "What the policy does not permit is dropped" : mode === "observe" ? "Everything is forwarded; what the policy would drop is recorded" : undefined;
  return (
    <span class={`badge ${tone}`} title={title}>
      {mode}
      {wires !== undefined && ` ${wires}`}
    </span>
  );
}
