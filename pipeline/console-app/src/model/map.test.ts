import { expect, it } from "vitest";
import { makePlant } from "../../fixture/plant";
import { layout } from "./layout";
import { emphasised, index, order, tally } from "./matrix";

const plant = makePlant(10_000);
const matrix = { groups: plant.groups, cells: [...plant.cells.values()], "new-since": "", staged: false, at: "", "left-out": 0 };

it("finds every cell of the matrix at its row and column, and no other", () => {
  const { groups, at, byId } = index(matrix);
  expect(at.filter(Boolean)).toHaveLength(matrix.cells.length);
  for (const cell of matrix.cells) {
    expect(at[byId.get(cell.from)! * groups.length + byId.get(cell.to)!]).toBe(cell);
  }
});

it("leaves cells of groups that it does not know away instead of drawing them elsewhere", () => {
  const stray = { ...matrix.cells[0]!, from: "gone" };
  expect(index({ ...matrix, cells: [stray] }).at.filter(Boolean)).toHaveLength(0);
});

it("orders groups the same whatever order they come in", () => {
  const names = order(plant.groups).map((group) => group.name);
  expect(order([...plant.groups].reverse()).map((group) => group.name)).toEqual(names);
  expect(names.at(-1)).toBe("unknown");
});

it("emphasises what each overlay speaks of", () => {
  const cell = { ...matrix.cells[0]!, state: "unused" as const, new: 0, denied: 0 };
  expect(emphasised(cell, "unused")).toBe(true);
  expect(emphasised(cell, "staged")).toBe(false);
  expect(emphasised({ ...cell, new: 3 }, "new")).toBe(true);
  expect(emphasised(cell, "blast", new Set([cell.from]))).toBe(cell.from === cell.to);
  expect(emphasised(cell, "blast", new Set([cell.from, cell.to]))).toBe(true);
  expect([...tally(matrix.cells).values()].reduce((a, b) => a + b)).toBe(matrix.cells.length);
});

it("lays the same graph out the same, whatever order it comes in, without two groups in one place", () => {
  const nodes = plant.devices.slice(0, 2_000).map((d) => ({ id: d.id, label: d.id, group: d.groups[0]!, devices: 1 }));
  const edges = nodes.slice(1).map((node, i) => ({ from: nodes[i]!.id, to: node.id, state: "used" as const, weight: 1 }));
  const first = layout(nodes, edges);
  const again = layout([...nodes].reverse(), edges);
  const where = (placed: typeof first) => new Map(placed.nodes.map((n) => [n.id, [n.x, n.y]]));
  expect(where(again)).toEqual(where(first));
  expect(first.nodes).toHaveLength(2_000);
  for (const a of first.hulls) {
    for (const b of first.hulls) {
      if (a !== b) expect(Math.hypot(a.x - b.x, a.y - b.y)).toBeGreaterThan((a.r + b.r) * 0.8);
    }
  }
});
