import { expect, it } from "vitest";
import { overview } from "../../fixture/answers";
import type { Overview } from "../api/types";
import { health, modes } from "./health";

const well = (mode = "enforce"): Overview => {
  const now = structuredClone(overview());
  for (const wire of now.gateway!.wires) {
    wire.mode = mode;
    for (const port of wire.ports) port.link = "up";
  }
  for (const worker of now.workers) worker["busy-ratio"] = 0.3;
  return now;
};

it("says nothing is wrong only where every wire enforces and nothing is wrong", () => {
  expect(health(well())).toEqual({ tone: "good", headline: "Guarding: 6 wires enforce the policy.", doing: "good", problems: [] });
  expect(health(well("observe"))).toMatchObject({ tone: "warn", headline: "Observing: 6 wires forward everything, and nothing is blocked." });
  const part = well();
  part.gateway!.wires[0]!.mode = "observe";
  expect(health(part)).toMatchObject({ tone: "warn", headline: "Guarding in part: 5 wires enforce the policy, 1 only observes." });
  expect(modes(part.gateway!.wires)).toEqual([{ mode: "enforce", wires: 5 }, { mode: "observe", wires: 1 }]);
});

it("names each thing that is wrong, the worst first", () => {
  const now = well();
  now.gateway!["clock-synchronised"] = false;
  now.gateway!.policy!.fallback = true;
  now.gateway!.wires[4]!.ports[1]!.link = "no carrier";
  now.workers[0]!.hung = true;
  now.workers[1]!["busy-ratio"] = 0.97;
  now.flows = { used: 95, capacity: 100 };
  const said = health(now)!;
  expect([said.tone, said.doing]).toEqual(["bad", "good"]);
  expect(said.problems.map((problem) => problem.tone)).toEqual(["bad", "bad", "bad", "warn", "warn", "warn"]);
  const text = said.problems.map((problem) => problem.text).join(" ");
  for (const word of ["core 2 hangs", "97 %", "line-5 carries nothing: out-5 no carrier", "last accepted policy", "nearly full", "clock"]) expect(text).toContain(word);
});

it("says of a gateway that judges nothing that it does not guard, and nothing of one that is gone", () => {
  const now = well();
  now.gateway!.ready = false;
  expect(health(now)).toMatchObject({ tone: "bad", headline: "Not guarding: no worker judges packets." });
  expect(health({ ...now, gateway: null })).toBeUndefined();
});
