import type { Edge } from "../api/types";

/** What one capture may take; the server holds to the same. */
export const MAX_SECONDS = 60;
export const MAX_PACKETS = 10_000;
/** The longest filter, in characters. */
export const MAX_FILTER = 1_000;
/** All of a packet, where its payload is wanted. */
export const WHOLE_PACKET = 65_535;

const HOST = /^([0-9a-f]{2}(:[0-9a-f]{2}){5}|[0-9.]+|[0-9a-f]*:[0-9a-f:.]+)$/i;

/** The words of `bulkhead trace` for the packets of a connection, both ways; what it has no words for is
 *  left out, so that rather more is captured than less. */
export function captureFilter(edge: Pick<Edge, "client" | "server" | "protocol" | "port" | "service" | "wire">): string {
  const words: string[] = [];
  if (/^(tcp|udp|sctp|icmp|icmpv6)$/.test(edge.protocol)) words.push(edge.protocol);
  else if (/^(ip|eth)\/(0x[0-9a-f]+|\d+)$/i.test(edge.service)) words.push(edge.service.toLowerCase());
  const end = (host: string) => (HOST.test(host) ? host : "any");
  words.push(end(edge.client), "<->", end(edge.server));
  if (edge.port) words.push("port", String(edge.port));
  if (/^\S+$/.test(edge.wire)) words.push("wire", edge.wire);
  return words.join(" ");
}

/** The same for what a search asks for: a device, and a service where it is written with its number. */
export function searchFilter(query: { device?: string | undefined; service?: string | undefined }): string {
  const words: string[] = [];
  if (query.service && /^(tcp|udp|sctp)\/\d+$/.test(query.service)) words.push(query.service);
  if (query.device && HOST.test(query.device)) words.push(query.device);
  return words.join(" ");
}

const ENDS: Record<string, string> = {
  count: "the number of packets was reached",
  seconds: "the time was over",
  bytes: "the file was full (16 MiB)",
  stopping: "the gateway stopped",
};

/** Why a capture ended, as a sentence's end. */
export const endsWhy = (why: string | null): string => (why ? (ENDS[why] ?? why) : "it was over");
