import type { Cell, CellState, Group, Matrix } from "../api/types";

/** What the map emphasises; the rest stays visible but faint. */
export type Overlay = "" | "new" | "staged" | "unused" | "blast";

export const OVERLAYS: { overlay: Overlay; name: string }[] = [
  { overlay: "", name: "Everything" },
  { overlay: "new", name: "New since baseline" },
  { overlay: "staged", name: "Would be blocked" },
  { overlay: "unused", name: "Unused permission" },
  { overlay: "blast", name: "Blast radius" },
];

/** A matrix whose cells are found by row and column: `at[row * n + column]`. */
export interface Indexed {
  groups: Group[];
  at: (Cell | undefined)[];
  byId: Map<string, number>;
}

const KIND_ORDER = { declared: 0, learned: 1, network: 2, unknown: 3 } as const;

/** Groups in one stable order: by kind, then by the site that the end of their name tells, then name, so
 *  that what belongs together stands together and nothing jumps between two looks. */
export function order(groups: Group[]): Group[] {
  return [...groups].sort((a, b) => KIND_ORDER[a.kind] - KIND_ORDER[b.kind] || compare(site(a.name), site(b.name)) || compare(a.name, b.name));
}

const site = (name: string): string => /[-_.]([a-z]*\d+)$/i.exec(name)?.[1] ?? "";
const compare = (a: string, b: string): number => a.localeCompare(b, "en", { numeric: true });

export function index(matrix: Matrix): Indexed {
  const groups = order(matrix.groups);
  const byId = new Map(groups.map((group, i) => [group.id, i]));
  const at = new Array<Cell | undefined>(groups.length * groups.length);
  for (const cell of matrix.cells) {
    const row = byId.get(cell.from);
    const column = byId.get(cell.to);
    if (row !== undefined && column !== undefined) at[row * groups.length + column] = cell;
  }
  return { groups, at, byId };
}

/** Does the overlay speak of this cell? For the blast radius: both ends among the groups reached. */
export function emphasised(cell: Cell, overlay: Overlay, reached?: ReadonlySet<string>): boolean {
  switch (overlay) {
    case "new":
      return cell.new > 0;
    case "staged":
      return cell.state === "would-block" || (cell.state === "mixed" && cell.denied > 0);
    case "unused":
      return cell.state === "unused";
    case "blast":
      return reached?.has(cell.from) === true && reached.has(cell.to) && cell.state !== "blocked";
    default:
      return true;
  }
}

/** How many cells there are of each state. */
export function tally(cells: Cell[]): Map<CellState, number> {
  const counts = new Map<CellState, number>();
  for (const cell of cells) counts.set(cell.state, (counts.get(cell.state) ?? 0) + 1);
  return counts;
}
