import { signal } from "@preact/signals";

/** Where the application is: the path's parts and its query, all behind the `#`, so that the server
 *  needs no route for a page and a one-time link's token never reaches a log. */
export interface Route {
  parts: string[];
  query: Record<string, string>;
}

export function parseRoute(hash: string): Route {
  const [path = "", text = ""] = hash.replace(/^#?\/?/, "").split(/\?(.*)/s);
  const parts = path.split("/").filter(Boolean).map(decode);
  return { parts, query: Object.fromEntries(new URLSearchParams(text)) };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The address of a page; parameters without a value are left out. */
export function href(parts: string[], query: Record<string, string | number | null | undefined> = {}): string {
  const parameters = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") parameters.set(key, String(value));
  }
  const text = parameters.toString();
  return `#/${parts.map(encodeURIComponent).join("/")}${text ? "?" + text : ""}`;
}

export const route = signal<Route>(parseRoute(typeof location === "undefined" ? "" : location.hash));

/** Follows the address bar. */
export function listen(): void {
  route.value = parseRoute(location.hash);
  addEventListener("hashchange", () => {
    route.value = parseRoute(location.hash);
  });
}

export function go(parts: string[], query: Record<string, string | number | null | undefined> = {}): void {
  location.hash = href(parts, query);
}

/** Changes parameters of the page that is shown, without an entry in the history. */
export function adjust(changes: Record<string, string | number | null | undefined>): void {
  const hash = href(route.value.parts, { ...route.value.query, ...changes });
  history.replaceState(null, "", hash);
  route.value = parseRoute(hash);
}
