import type { Group, Matrix } from "../api/types";

/** A piece of the stored time: the first and the last bucket of it. */
export interface Window {
  start: number;
  end: number;
}

/** Pieces that the whole time is played in, where nobody chose one. */
const PIECES = 24;

/** Where playing begins: with the piece that is chosen, else with the first of 24. One that stands at the
 *  end begins again at the start. */
export function firstWindow(buckets: number, { start, end }: Window): Window {
  const isWhole = start === 0 && end === buckets - 1;
  const width = isWhole ? Math.max(1, Math.ceil(buckets / PIECES)) : end - start + 1;
  return isWhole || end === buckets - 1 ? { start: 0, end: width - 1 } : { start, end };
}

/** The piece after this one, as long; undefined at the end. The last may overlap the one before. */
export function nextWindow(buckets: number, { start, end }: Window): Window | undefined {
  if (end >= buckets - 1) return undefined;
  const width = end - start + 1;
  const last = Math.min(buckets - 1, end + width);
  return { start: last - width + 1, end: last };
}

/** A matrix with all the groups of the whole time, so that rows and columns stay where they are while
 *  time passes. */
export function withGroups(matrix: Matrix, whole: Matrix | undefined): Matrix {
  if (!whole || whole === matrix) return matrix;
  const groups = new Map<string, Group>(whole.groups.map((group) => [group.id, group]));
  for (const group of matrix.groups) groups.set(group.id, group);
  return { ...matrix, groups: [...groups.values()] };
}
