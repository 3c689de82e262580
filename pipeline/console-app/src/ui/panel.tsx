import type { ComponentChildren } from "preact";
import type { ApiError } from "../api/client";
import type { Resource } from "../api/resource";
import { alarms, bypassed, overview, silence } from "../api/live";
import { without } from "../model/fail";
import { clock, span } from "../model/format";

interface Shown {
  data: unknown;
  error?: ApiError | undefined;
  loading?: boolean;
  at?: number | undefined;
  reload?: () => void;
}

/** A titled part of a page, with what it shows while its data is on the way, missing, refused or old. */
export function Panel(props: {
  title: string;
  from?: Shown | Resource<unknown>;
  /** What to say when there is nothing, and what would change that. */
  empty?: { when: boolean; what: string; hint?: string };
  actions?: ComponentChildren;
  flush?: boolean;
  class?: string;
  live?: boolean;
  children?: ComponentChildren;
}) {
  const { from, empty } = props;
  const gone = props.live ? silence.value : undefined;
  const stale = Boolean(gone) || (from?.error !== undefined && from.data !== undefined);
  const id = `panel-${props.title.toLowerCase().replace(/[^a-z0-9]+/g, "-")}`;
  return (
    <section class={`panel ${stale ? "stale" : ""} ${props.class ?? ""}`} aria-labelledby={id} aria-busy={from?.loading}>
      <header>
        <h2 id={id}>{props.title}</h2>
        <div class="row">
          {stale && (
            <span class="badge warn" role="status">
              as of {clock(gone?.since ?? from?.at ?? Date.now())}
            </span>
          )}
          {props.actions}
        </div>
      </header>
      {body()}
    </section>
  );

  function body() {
    if (from && from.data === undefined) {
      if (from.error) return <Failure error={from.error} retry={from.reload} />;
      return (
        <div class="body" role="status" aria-label="loading">
          <div class="skeleton" />
          <div class="skeleton" />
          <div class="skeleton" />
        </div>
      );
    }
    if (empty?.when) {
      return (
        <div class="state">
          <strong>{empty.what}</strong>
          {empty.hint}
        </div>
      );
    }
    return (
      <>
        {from?.error && <Failure error={from.error} retry={from.reload} />}
        <div class={`body ${props.flush ? "flush" : ""}`}>{props.children}</div>
      </>
    );
  }
}

/** What happened, and what to do about it. */
export function Failure({ error, retry }: { error: ApiError; retry?: (() => void) | undefined }) {
  return (
    <div class="notice bad" role="alert">
      <strong>{error.title}</strong>
      {error.detail && <p>{error.detail}</p>}
      {error.obstacles.length > 0 && (
        <ul class="bullets">
          {error.obstacles.map((obstacle) => (
            <li key={obstacle}>{obstacle}</li>
          ))}
        </ul>
      )}
      {error.remedy && <p class="muted">{error.remedy}</p>}
      {retry && (
        <button type="button" class="plain" onClick={retry}>
          Try again
        </button>
      )}
    </div>
  );
}

/** One number with its name; `note` says what it is measured in or against. */
export function Figure(props: { name: string; value: ComponentChildren; note?: ComponentChildren; tone?: string }) {
  return (
    <div class="figure">
      <dt>{props.name}</dt>
      <dd class={props.tone ?? ""}>
        {props.value}
        {props.note && <small>{props.note}</small>}
      </dd>
    </div>
  );
}

/** A share as a bar with its text beside it, so that the bar is never the only carrier. */
export function Bar({ share, tone = "" }: { share: number; tone?: string }) {
  const width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return (
    <div class={`bar ${tone}`} aria-hidden="true">
      <i style={{ width }} />
    </div>
  );
}

/** The strips over every page while nothing new is heard, or while wires pass what nobody judges. */
export function Silence() {
  const gone = silence.value;
  const by = bypassed.value;
  const { cut, maybe } = without(overview.value?.gateway?.wires ?? [], by);
  return (
    <>
      {by && by.wires.length > 0 && (
        <div class="notice bad alarm" role="alert">
          <strong>
            {by.wires.join(", ")} {by.wires.length === 1 ? "passes" : "pass"} everything UNJUDGED since {clock(by.since)} ({span((Date.now() - Date.parse(by.since)) / 1000)}).
          </strong>
          <p>
            By {by.by}: {by.why}. Nothing is enforced or recorded there. It ends when a gateway guards again; to cut the traffic until then, on the gateway: <code>bulkhead bypass release</code>
          </p>
        </div>
      )}
      {gone && (
        <div class="notice bad" role="alert">
          <strong>
            {gone.who === "gateway" ? "The gateway does not answer" : "The console does not answer"} since {clock(gone.since)} ({span((Date.now() - gone.since) / 1000)}).
          </strong>
          {gone.who === "gateway" && alarms.value.map((alarm) => <p key={alarm}>{alarm}</p>)}
          {gone.who === "gateway" ? (
            <p>
              {cut.length > 0 && `Cut: ${cut.join(", ")}. `}
              {maybe.length > 0 && `Cut or passing everything, not known from here: ${maybe.join(", ")}. `}
              What you see is the last that was known. On the gateway: <code>systemctl status bulkhead</code>, then <code>bulkhead bypass</code>
            </p>
          ) : (
            <p>
              What you see is the last that was known. Packets are not affected. On the gateway: <code>systemctl status bulkhead-console</code>
            </p>
          )}
        </div>
      )}
    </>
  );
}
