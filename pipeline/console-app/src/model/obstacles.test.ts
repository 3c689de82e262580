import { expect, it } from "vitest";
import { stagedNow } from "../../fixture/answers";
import type { Staged } from "../api/types";
import { share, standsInTheWay } from "./obstacles";

const tally = (hash: string, ...obstacles: string[]): Staged => ({ ...stagedNow(), staged: { source: "p", hash, rules: 1, "age-s": 3, unreviewed: [] }, obstacles });

it("knows the same obstacles while they count on, and others as others", () => {
  const first = standsInTheWay(tally("a", "staged for 12 s, and at least 3600 s are asked for"));
  expect(standsInTheWay(tally("a", "staged for 13 s, and at least 3600 s are asked for"))).toBe(first);
  expect(standsInTheWay(tally("b", "staged for 12 s, and at least 3600 s are asked for"))).not.toBe(first);
  expect(standsInTheWay(tally("a", "staged for 12 s, and at least 3600 s are asked for", "2 exceptions wait"))).not.toBe(first);
  expect(standsInTheWay(tally("a"))).not.toBe(first);
  expect(standsInTheWay(undefined)).not.toBe(standsInTheWay(tally("a")));
});

it("takes shares of what is counted, never of nothing", () => {
  expect([share(1, 4), share(0, 0), share(3, 0), share(5, 4)]).toEqual([0.25, 0, 1, 1]);
});
