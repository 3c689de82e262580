import { get } from "./client";
import type { DeviceRow, Page } from "./types";

/** The id of the device that somebody means: by its id, MAC address or address exactly; else the only one of
 *  that name; else the only one that has the text in one of these. Names come last and alone, since a device
 *  may call itself by another's address. */
export async function findDevice(text: string): Promise<string | undefined> {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return undefined;
  const { items } = await get<Page<DeviceRow>>("/devices", { search: wanted, limit: 50 });
  return choose(items, wanted);
}

export function choose(items: Pick<DeviceRow, "id" | "name" | "mac" | "addresses">[], wanted: string): string | undefined {
  const only = (found: typeof items) => (found.length === 1 ? found[0]!.id : undefined);
  const exactly = items.filter((d) => d.id.toLowerCase() === wanted);
  if (exactly.length) return only(exactly);
  const addressed = items.filter((d) => [d.mac, ...d.addresses].some((address) => address?.toLowerCase() === wanted));
  if (addressed.length) return only(addressed);
  const named = items.filter((d) => d.name?.toLowerCase() === wanted);
  return only(named.length ? named : items);
}
