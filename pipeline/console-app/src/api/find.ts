import { get } from "./client";
import type { DeviceRow, Page } from "./types";

/** The id of the device that somebody means: by its id, name, address or MAC address exactly, else the only
 *  one that has the text in one of these. */
export async function findDevice(text: string): Promise<string | undefined> {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return undefined;
  const { items } = await get<Page<DeviceRow>>("/devices", { search: wanted, limit: 50 });
  const exactly = items.find((d) => [d.id, d.name, d.mac, ...d.addresses].some((name) => name?.toLowerCase() === wanted));
  return (exactly ?? (items.length === 1 ? items[0] : undefined))?.id;
}
