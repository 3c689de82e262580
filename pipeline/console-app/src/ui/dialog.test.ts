import { expect, it } from "vitest";
import { notes } from "./dialog";

it("keeps what a person must read of a change that was made", () => {
  expect(notes("Done.")).toEqual([]);
  expect(notes({ done: true, what: "x", findings: [], obstacles: [], "stalled-worker": null })).toEqual([]);
  const said = notes({
    done: true,
    what: "x",
    "stalled-worker": 0,
    obstacles: ["staged for 3 s"],
    findings: [{ severity: "warning", message: "a restart will not know it", file: "80-learned.yaml", line: 7, help: "look at the disk" }],
  });
  expect(said).toHaveLength(3);
  expect(said[0]).toContain("Worker 0 hangs");
  expect(said[1]).toBe("80-learned.yaml:7: a restart will not know it; look at the disk");
  expect(said[2]).toBe("Done nevertheless: staged for 3 s");
});
