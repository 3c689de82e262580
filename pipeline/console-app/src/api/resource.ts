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
 *  known is kept while it is asked again and when that fails; a null path asks nothing. */
export function useResource<T>(path: string | null, query?: Query, every?: number): Resource<T> {
  const url = path === null ? null : withQuery(path, query);
  const [state, setState] = useState<{ url: string | null; data?: T; error?: ApiError; at?: number; loading: boolean }>({
    url: null,
    loading: url !== null,
  });
  const [turn, setTurn] = useState(0);
  const first = useRef(true);
  const reload = useCallback(() => setTurn((n) => n + 1), []);
  useEffect(() => {
    if (url === null) return;
    const abort = new AbortController();
    const ask = () => {
      get<T>(url, undefined, abort.signal).then(
        (data) => setState({ url, data, at: Date.now(), loading: false }),
        (cause: unknown) => {
          if (abort.signal.aborted) return;
          const error = cause instanceof ApiError ? cause : new ApiError(0, "The answer could not be read", String(cause));
          setState((old) => ({ ...old, url, error, loading: false }));
        },
      );
    };
    setState((old) => ({ ...old, loading: true }));
    ask();
    first.current = false;
    const timer = every ? setInterval(ask, every) : undefined;
    return () => {
      abort.abort();
      clearInterval(timer);
    };
  }, [url, turn, every]);
  return { data: state.data, error: state.error, loading: state.loading, at: state.at, reload };
}

/** A list that is fetched page by page. */
export interface Paged<T> extends Resource<T[]> {
  total: number | undefined;
  more: (() => void) | undefined;
}

export function usePaged<T>(path: string | null, query: Query = {}): Paged<T> {
  const url = path === null ? null : withQuery(path, query);
  const [state, setState] = useState<{ items?: T[]; next?: string; total?: number; error?: ApiError; at?: number; loading: boolean }>({
    loading: true,
  });
  const [turn, setTurn] = useState(0);
  const current = useRef(url);
  current.current = url;
  const load = useCallback(
    (from: string, cursor: string | undefined, abort?: AbortSignal) => {
      setState((old) => ({ ...old, loading: true }));
      get<{ items: T[]; "next-cursor"?: string | null; total?: number | null }>(
        cursor ? `${from}${from.includes("?") ? "&" : "?"}cursor=${encodeURIComponent(cursor)}` : from,
        undefined,
        abort,
      ).then(
        (page) => {
          if (current.current !== from) return;
          setState((old) => ({
            items: cursor ? [...(old.items ?? []), ...page.items] : page.items,
            next: page["next-cursor"] ?? undefined,
            total: page.total ?? undefined,
            at: Date.now(),
            loading: false,
          }));
        },
        (cause: unknown) => {
          if (abort?.aborted || current.current !== from) return;
          const error = cause instanceof ApiError ? cause : new ApiError(0, "The answer could not be read", String(cause));
          setState((old) => ({ ...old, error, loading: false }));
        },
      );
    },
    [],
  );
  useEffect(() => {
    if (url === null) return;
    const abort = new AbortController();
    load(url, undefined, abort.signal);
    return () => abort.abort();
  }, [url, turn, load]);
  const { next } = state;
  return {
    data: state.items,
    error: state.error,
    loading: state.loading,
    at: state.at,
    total: state.total,
    reload: useCallback(() => setTurn((n) => n + 1), []),
    more: next && url !== null ? () => load(url, next) : undefined,
  };
}
