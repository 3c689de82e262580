import type { Bypass, WireInfo } from "../api/types";

/** Would this wire pass everything while no gateway judges? Undefined where that is not known. */
export function failsOpen(wire: WireInfo): boolean | undefined {
  if (!wire.fail) return undefined;
  return wire.fail.startsWith("open") && wire.fail !== "open: none";
}

/** How a wire fails, in two words. */
export function failWords(wire: WireInfo): string | undefined {
  if (wire.fail === "open: none") return "fails closed: nothing can bypass it";
  const open = failsOpen(wire);
  return open === undefined ? undefined : open ? "fails open" : "fails closed";
}

/** Which wires pass everything and which pass nothing, while the gateway does not answer; those whose way
 *  of failing is not known are in neither. */
export function without(wires: WireInfo[], bypassed: Bypass | undefined): { passing: string[]; cut: string[]; maybe: string[] } {
  const passing = bypassed?.wires ?? [];
  const rest = wires.filter((wire) => !passing.includes(wire.name));
  return {
    passing,
    cut: rest.filter((wire) => failsOpen(wire) === false).map((wire) => wire.name),
    maybe: rest.filter((wire) => failsOpen(wire) !== false).map((wire) => wire.name),
  };
}
