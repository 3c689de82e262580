import type { Staged } from "../api/types";

/** What stands in the way of locking which policy down, apart from numbers: seconds and flows count on while
 *  one reads. Two that differ are to be decided anew. */
export function standsInTheWay(tally: Staged | undefined): string {
  const kinds = (tally?.obstacles ?? []).map((text) => text.replace(/\d+(\.\d+)?/g, "#"));
  return [tally?.staged?.hash ?? "none", ...kinds].join("\n");
}

/** A part of a whole: all of it where the whole is smaller, and nothing of nothing. */
export const share = (part: number, whole: number): number => (whole > 0 ? Math.min(1, part / whole) : part > 0 ? 1 : 0);
