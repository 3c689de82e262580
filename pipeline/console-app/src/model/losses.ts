import type { Learning } from "../api/types";
import { exact } from "./format";

/** What was lost of the records, and how much of each. */
export const lost = (learning: Learning): string =>
  learning.losses
    .filter((loss) => loss.count > 0)
    .map((loss) => `${loss.what}: ${exact(loss.count)}`)
    .join("; ");
