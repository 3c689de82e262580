import { expect, it } from "vitest";
import { choose } from "./find";

const device = (id: string, name: string, ...addresses: string[]) => ({ id, name, mac: id, addresses });

it("takes an address before a device that calls itself so", () => {
  const items = [device("02:00:00:00:00:01", "10.30.3.11", "10.30.3.99"), device("02:00:00:00:00:02", "plc-7", "10.30.3.11")];
  expect(choose(items, "10.30.3.11")).toBe("02:00:00:00:00:02");
  expect(choose(items, "plc-7")).toBe("02:00:00:00:00:02");
});

it("takes none where more than one is meant", () => {
  const items = [device("02:00:00:00:00:01", "hmi", "10.1.0.1"), device("02:00:00:00:00:02", "hmi", "10.1.0.2")];
  expect(choose(items, "hmi")).toBeUndefined();
  expect(choose(items, "10.1")).toBeUndefined();
  expect(choose([items[0]!], "10.1")).toBe("02:00:00:00:00:01");
  expect(choose([], "x")).toBeUndefined();
});
