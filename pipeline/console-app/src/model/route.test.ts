import { expect, it } from "vitest";
import { href, parseRoute } from "./route";

it("reads back what it writes", () => {
  const written = href(["map", "cell", "a/b", "c d"], { overlay: "new", empty: "", at: 3 });
  expect(parseRoute(written)).toEqual({ parts: ["map", "cell", "a/b", "c d"], query: { overlay: "new", at: "3" } });
});

it("survives what nobody wrote", () => {
  expect(parseRoute("")).toEqual({ parts: [], query: {} });
  expect(parseRoute("#/devices/%zz?x=1?2")).toEqual({ parts: ["devices", "%zz"], query: { x: "1?2" } });
});
