import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { ApiError, get, type Query, withQuery } from "./client";

/** What a panel shows: nothing yet, what is known now, or what was known when it last answered. */
export interface Resource<T> {
  data: T | undefined;
  error: ApiError | undefined;
  loading: boolean;
  /** When `data` arrived, in milliseconds since 1970. */
  at: number | undefined;
  reload: () => void;
}

/** Fetches `path` now, when it or its query changes, and every `every` milliseconds if given. What is
 *  known is kept while the same is asked again and when that fails, never under another address; with
 *  `keep` it stays until another query of the same path is answered or fails. A null path asks nothing. */
export function useResource<T>(path: string | null, query?: Query, every?: number, keep = false): Resource<T> {
  const url = path === null ? null : withQuery(path, query);
  const [state, setState] = useState<{ url: string | null; data?: T; error?: ApiError; at?: number; loading: boolean }>({
    url: null,
    loading: url !== null,
  });
  const [turn, setTurn] = useState(0);
  const reload = useCallback(() => setTurn((n) => n + 1), []);
  useEffect(() => {
    if (url === null) return;
    const abort = new AbortController();
    const ask = (background: boolean) => {
      get<T>(url, undefined, abort.signal, background).then(
        (data) => setState({ url, data, at: Date.now(), loading: false }),
        (cause: unknown) => {
          if (abort.signal.aborted) return;
          const error = cause instanceof ApiError ? cause : new ApiError(0, "The answer could not be read", String(cause));
          setState((old) => (old.url === url ? { ...old, error, loading: false } : { url, error, loading: false }));
        },
      );
    };
    setState((old) => ({ ...old, loading: true }));
    ask(false);
    // What nobody looks at is not asked for.
    const timer = every ? setInterval(() => document.visibilityState === "visible" && ask(true), every) : undefined;
    return () => {
      abort.abort();
      clearInterval(timer);
    };
  }, [url, turn, every]);
  const mine = state.url === url;
  const kept = mine || (keep && state.error === undefined && samePath(state.url, url));
  return {
    data: kept ? state.data : undefined,
    error: mine ? state.error : undefined,
    loading: url !== null && (state.loading || !mine),
    at: kept ? state.at : undefined,
    reload,
  };
}

const samePath = (a: string | null, b: string | null): boolean => a !== null && b !== null && a.split("?")[0] === b.split("?")[0];

/** Answers that are made in the background: so long after a refusal because one is still being made, it is
 *  asked for again, in milliseconds. */
const AGAIN_MS = 10_000;

/** Asks again where the server says that an answer is still being made, or another one is. */
export function useAgain(resource: Resource<unknown>): boolean {
  const { error, loading, reload } = resource;
  const waits = error !== undefined && [429, 503].includes(error.status);
  useEffect(() => {
    if (!waits || loading) return;
    const timer = setTimeout(reload, AGAIN_MS);
    return () => clearTimeout(timer);
  }, [waits, loading]);
  return waits;
}

/** A list that is fetched page by page. */
export interface Paged<T> extends Resource<T[]> {
  total: number | undefined;
  more: (() => void) | undefined;
}

export function usePaged<T>(path: string | null, query: Query = {}): Paged<T> {
  const url = path === null ? null : withQuery(path, query);
  const [state, setState] = useState<{ url: string | null; items?: T[]; next?: string; total?: number; error?: ApiError; at?: number; loading: boolean }>({
    url: null,
    loading: true,
  });
  const [turn, setTurn] = useState(0);
  const current = useRef(url);
  current.current = url;
  const load = useCallback((from: string, cursor: string | undefined, abort?: AbortSignal) => {
    setState((old) => ({ ...old, loading: true }));
    get<{ items: T[]; "next-cursor"?: string | null; total?: number | null }>(cursor ? `${from}${from.includes("?") ? "&" : "?"}cursor=${encodeURIComponent(cursor)}` : from, undefined, abort).then(
      (page) => {
        if (current.current !== from) return;
        setState((old) => ({
          url: from,
          items: cursor && old.url === from ? [...(old.items ?? []), ...page.items] : page.items,
          next: page["next-cursor"] ?? undefined,
          total: page.total ?? undefined,
          at: Date.now(),
          loading: false,
        }));
      },
      (cause: unknown) => {
        if (abort?.aborted || current.current !== from) return;
        const error = cause instanceof ApiError ? cause : new ApiError(0, "The answer could not be read", String(cause));
        setState((old) => (old.url === from ? { ...old, error, loading: false } : { url: from, error, loading: false }));
      },
    );
  }, []);
  useEffect(() => {
    if (url === null) return;
    const abort = new AbortController();
    load(url, undefined, abort.signal);
    return () => abort.abort();
  }, [url, turn, load]);
  const mine = state.url === url;
  const { next } = state;
  return {
    data: mine ? state.items : undefined,
    error: mine ? state.error : undefined,
    loading: state.loading || !mine,
    at: mine ? state.at : undefined,
    total: mine ? state.total : undefined,
    reload: useCallback(() => setTurn((n) => n + 1), []),
    more: mine && next && url !== null ? () => load(url, next) : undefined,
  };
}
