import { expect, it } from "vitest";
import type { Matrix } from "../api/types";
import { firstWindow, nextWindow, withGroups, type Window } from "./playback";

it("plays every bucket, in pieces of one length, and ends", () => {
  for (const [buckets, chosen] of [[72, { start: 0, end: 71 }], [50, { start: 3, end: 9 }], [2, { start: 0, end: 1 }], [5, { start: 4, end: 4 }]] as [number, Window][]) {
    let window: Window | undefined = firstWindow(buckets, chosen);
    const width = window.end - window.start;
    const seen = new Set<number>();
    let steps = 0;
    const first = window.start;
    for (; window && steps < 1_000; window = nextWindow(buckets, window), steps += 1) {
      expect(window.end - window.start).toBe(width);
      for (let i = window.start; i <= window.end; i += 1) seen.add(i);
    }
    expect(steps).toBeLessThan(1_000);
    expect(seen.size).toBe(buckets - first);
  }
});

it("plays what is chosen, and from the start where that is the end", () => {
  expect(firstWindow(72, { start: 0, end: 71 })).toEqual({ start: 0, end: 2 });
  expect(firstWindow(72, { start: 10, end: 11 })).toEqual({ start: 10, end: 11 });
  expect(firstWindow(72, { start: 70, end: 71 })).toEqual({ start: 0, end: 1 });
});

it("keeps the groups of the whole time, with the numbers of the piece", () => {
  const group = (id: string, devices: number) => ({ id, name: id, kind: "learned" as const, devices });
  const matrix = { groups: [group("b", 1), group("c", 4)], cells: [] } as unknown as Matrix;
  const whole = { groups: [group("a", 2), group("b", 3)], cells: [] } as unknown as Matrix;
  expect(withGroups(matrix, whole).groups).toEqual([group("a", 2), group("b", 1), group("c", 4)]);
  expect(withGroups(matrix, undefined)).toBe(matrix);
});
