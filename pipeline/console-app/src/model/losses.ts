import type { Learning } from "../api/types";
import { exact } from "./format";

/** What was lost of the records, and how much of each. */
export const lost = (learning: Learning): string =>
  learning.losses
    .filter((loss) => loss.count > 0)
    .map((loss) => `${loss.what}: ${exact(loss.count)}`)
    .join("; ");

/** Does this counter of the store count what was lost? The others count what was read. */
export const isLoss = (name: string): boolean => /(lost|dropped|unstored|pruned)$/.test(name);
