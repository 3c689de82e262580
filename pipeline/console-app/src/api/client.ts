import { signal } from "@preact/signals";
import type { Session } from "./types";

/** Where the API lives; the application is served from the same origin. */
const BASE = "/api/v1";
/** A question that takes longer than this has failed, in milliseconds. */
const READ_MS = 20_000;
/** A change may have to wait for the gateway, which loads and proves a whole policy; so does a report. */
const CHANGE_MS = 150_000;
const SLOW = ["/report", "/drift"];

/** What went wrong, in the words of RFC 9457: what happened, and what to do about it. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly title: string,
    readonly detail: string,
    readonly remedy?: string,
    /** What stands in the way, or is wrong with a policy, one sentence each. */
    readonly obstacles: string[] = [],
    /** Nobody can log in yet: there is no user. */
    readonly setupNeeded = false,
    /** The stable names of what is wrong with a policy, such as `unsigned`. */
    readonly codes: string[] = [],
  ) {
    super(detail ? `${title}: ${detail}` : title);
  }
}

/** Who is logged in; null before the log-in, undefined until the server has been asked. */
export const session = signal<Session | null | undefined>(undefined);

export type Query = Record<string, string | number | boolean | null | undefined>;

/** The path with those parameters that have a value. */
export function withQuery(path: string, query: Query = {}): string {
  const parameters = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") parameters.set(key, String(value));
  }
  const text = parameters.toString();
  return text ? `${path}?${text}` : path;
}

async function problem(response: Response): Promise<ApiError> {
  let body: {
    title?: string;
    detail?: string;
    remedy?: string;
    obstacles?: string[];
    findings?: { code?: string; message: string; file?: string | null; line?: number | null }[];
    "setup-needed"?: boolean;
  } = {};
  try {
    body = await response.json();
  } catch {
    // A proxy in between may answer with a page of its own; the status still says enough.
  }
  return new ApiError(
    response.status,
    body.title ?? `The console answered ${response.status} ${response.statusText}`,
    body.detail ?? "",
    body.remedy,
    [...(body.obstacles ?? []), ...(body.findings ?? []).map((f) => (f.file ? `${f.file}:${f.line ?? 1}: ${f.message}` : f.message))],
    body["setup-needed"] === true,
    (body.findings ?? []).flatMap((finding) => finding.code ?? []),
  );
}

async function request(method: string, path: string, body?: unknown, signal?: AbortSignal, background = false): Promise<Response> {
  const headers: Record<string, string> = { Accept: "application/json, */*" };
  // Nobody pressed anything for it: it must not keep an unattended session alive.
  if (background) headers["X-Bulkhead-Background"] = "1";
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method !== "GET" && session.value?.csrf) headers["X-Bulkhead-CSRF"] = session.value.csrf;
  const limit = method === "GET" && !SLOW.includes(path.split("?")[0]!) ? READ_MS : CHANGE_MS;
  const timeout = AbortSignal.timeout(limit);
  let response: Response;
  try {
    response = await fetch(BASE + path, {
      method,
      headers,
      credentials: "same-origin",
      cache: "no-store",
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, timeout]) : timeout,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(
      0,
      "The console does not answer",
      timeout.aborted ? `No answer within ${limit / 1000} seconds.` : "The connection failed.",
      "Packets are not affected. On the gateway: systemctl status bulkhead-console",
    );
  }
  if (response.status === 401 && session.value && path !== "/login") session.value = null;
  if (!response.ok) throw await problem(response);
  return response;
}

export async function get<T>(path: string, query?: Query, signal?: AbortSignal, background = false): Promise<T> {
  return (await request("GET", withQuery(path, query), undefined, signal, background)).json() as Promise<T>;
}

/** A change. An empty answer is undefined. */
export async function send<T = unknown>(method: "POST" | "PATCH" | "DELETE", path: string, body?: unknown): Promise<T> {
  const text = await (await request(method, path, body)).text();
  return (text ? JSON.parse(text) : undefined) as T;
}

/** A file that the console makes: what is in it, what to call it, and what its headers tell. */
export interface MadeFile {
  content: Blob;
  name: string;
  headers: Headers;
}

/** Asks for a file; whoever aborts `signal` ends what makes it. */
export async function makeFile(path: string, body: unknown, signal: AbortSignal): Promise<MadeFile> {
  const response = await request("POST", path, body, signal);
  const name = /filename="([A-Za-z0-9._-]+)"/.exec(response.headers.get("Content-Disposition") ?? "")?.[1];
  return { content: await response.blob(), name: name ?? "bulkhead-download", headers: response.headers };
}

/** Is there no user yet? Then the log-in says how to make the first. */
export const setupNeeded = signal(false);

/** Asks who is logged in; `background` where nobody pressed anything for it. */
export async function refreshSession(background = false): Promise<void> {
  try {
    session.value = await get<Session>("/session", undefined, undefined, background);
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 401) throw error;
    setupNeeded.value = error.setupNeeded;
    session.value = null;
  }
}

/** May this user do what needs `role`? The server decides; this only spares a click. */
export function may(role: "operator" | "admin"): boolean {
  const mine = session.value?.role;
  return mine === "admin" || (mine === "operator" && role === "operator");
}
