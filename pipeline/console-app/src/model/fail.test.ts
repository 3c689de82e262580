import { expect, it } from "vitest";
import type { WireInfo } from "../api/types";
import { failWords, without } from "./fail";

const wire = (name: string, fail: string | null): WireInfo => ({ name, mode: "enforce", fail, ports: [] });

it("says how a wire fails as it really would", () => {
  expect(failWords(wire("a", "open: kernel"))).toBe("fails open");
  expect(failWords(wire("a", "open: none"))).toBe("fails closed: nothing can bypass it");
  expect(failWords(wire("a", "closed"))).toBe("fails closed");
  expect(failWords(wire("a", null))).toBeUndefined();
});

it("tells what passes from what is cut, and from what nobody knows", () => {
  const wires = [wire("a", "open: kernel"), wire("b", "closed"), wire("c", "open: none"), wire("d", null), wire("e", "open: command")];
  const by = { wires: ["a"], by: "the supervisor", why: "worker 0 stood still", since: "2026-11-23T03:12:05Z" };
  expect(without(wires, by)).toEqual({ passing: ["a"], cut: ["b", "c"], maybe: ["d", "e"] });
  expect(without(wires, undefined)).toEqual({ passing: [], cut: ["b", "c"], maybe: ["a", "d", "e"] });
});
