import { useMemo } from "preact/hooks";
import { bypassed, overview, recent, silence } from "../api/live";
import { useResource } from "../api/resource";
import type { Overview } from "../api/types";
import { ago, exact, latency, moment, percent, short, si, span, who } from "../model/format";
import { failWords } from "../model/fail";
import { health } from "../model/health";
import { Chart } from "../ui/chart";
import { Mode } from "../ui/marks";
import { Bar, Figure, Panel } from "../ui/panel";

/** Is it well, what changed, and what waits for somebody. */
export function OverviewPage() {
  const asked = useResource<Overview>("/overview");
  const now = overview.value ?? asked.data;
  const from = { data: now, error: now ? undefined : asked.error, loading: asked.loading, reload: asked.reload };
  return (
    <div class={`stack ${silence.value ? "stale-page" : ""}`}>
      <div class="title">
        <h1>Overview</h1>
        {now?.gateway && (
          <p class="small">
            Bulkhead {now.gateway.version}, up {span(now.gateway["uptime-seconds"])}, clock {now.gateway["clock-synchronised"] ? "synchronised" : "not synchronised"}
          </p>
        )}
      </div>
      {now?.gateway && now.gateway.standing.length > 0 && (
        <div class="notice warn">
          <ul class="bullets">
            {now.gateway.standing.map((text) => (
              <li key={text}>{text}</li>
            ))}
          </ul>
        </div>
      )}
      {now && !silence.value && <State now={now} />}
      {now ? <Figures now={now} /> : <Panel title="Now" from={from} />}
      <div class="grid">
        <div class="stack span-5">
          <Decisions from={from} now={now} />
          <Wires from={from} now={now} />
          <Changes from={from} now={now} />
        </div>
        <div class="stack span-7">
          <Traffic />
          <Drops from={from} now={now} />
          <Workers from={from} now={now} />
        </div>
      </div>
    </div>
  );
}

type Part = { from: Parameters<typeof Panel>[0]["from"]; now: Overview | undefined };

const GLYPHS = { good: "●", warn: "▲", bad: "✕" };

/** The answer to the first question: is it well? And if not, what is wrong. */
function State({ now }: { now: Overview }) {
  const state = health(now);
  if (!state) return null;
  return (
    <section class={`notice health ${state.tone}`} aria-label="State">
      <strong>
        <span class={state.doing} aria-hidden="true">
          {GLYPHS[state.doing]}
        </span>{" "}
        {state.headline}
      </strong>
      {state.problems.map((problem) => (
        <p key={problem.text}>
          <span class={problem.tone} aria-hidden="true">
            {GLYPHS[problem.tone]}
          </span>{" "}
          {problem.link ? <a href={problem.link}>{problem.text}</a> : problem.text}
        </p>
      ))}
      {state.problems.length === 0 && <p class="muted">Links are up and workers keep pace.</p>}
    </section>
  );
}

function Figures({ now }: { now: Overview }) {
  return (
    <dl class="figures">
      <Figure name="Throughput" value={si(now.rates.bits, "bit/s")} note={si(now.rates.packets, "packets/s")} />
      <Figure name="Forwarded" value={si(now.verdicts.forwarded)} note="packets since start" />
      <Figure name="Dropped" value={si(now.verdicts.dropped)} note={`${si(now.rates.dropped)} per second now`} />
      <Figure
        name="Would drop"
        value={si(now.verdicts["would-drop"])}
        note={now.verdicts["would-drop"] ? "on wires that observe" : "nothing on wires that observe"}
        tone={now.verdicts["would-drop"] ? "warn" : ""}
      />
      <Figure name="Latency p99" value={now.latency.p99 ? latency(now.latency.p99) : "–"} note={now.latency.p99 ? `p50 ${latency(now.latency.p50)}, p99.9 ${latency(now.latency.p999)}` : "no packet yet"} />
      <Figure name="Flows" value={si(now.flows.used)} note={`${percent(now.flows.capacity ? now.flows.used / now.flows.capacity : 0)} of ${si(now.flows.capacity)}`} />
      <Figure name="Policy" value={now.gateway?.policy ? exact(now.gateway.policy.rules) : "none"} note={now.gateway?.policy ? `rules, ${short(now.gateway.policy.hash)}, loaded ${ago(now.gateway.policy["loaded-at"])}` : "everything is denied where it is enforced"} />
    </dl>
  );
}

function Decisions({ from, now }: Part) {
  return (
    <Panel
      title="Needs a decision"
      from={from}
      flush
      empty={{ when: now?.decisions.length === 0, what: "Nothing waits for you.", hint: "Exceptions to approve, expiring grants, unknown devices and refused reloads appear here." }}
    >
      <ul class="list">
        {now?.decisions.map((decision) => (
          <li key={decision.kind + decision.what}>
            <span class="grow wrap">
              {decision.link ? <a href={page(decision.link)}>{decision.what}</a> : decision.what}
            </span>
            <span class="badge">{decision.kind}</span>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

function Traffic() {
  const history = useResource<{ items: Overview[] }>("/overview/history", { minutes: 60 });
  const live = recent.value;
  const points = useMemo(() => {
    const old = history.data?.items ?? [];
    const start = live[0]?.at ?? "";
    return [...(start ? old.filter((point) => point.at < start) : old), ...live];
  }, [history.data, live]);
  const times = points.map((point) => Date.parse(point.at) / 1000);
  return (
    <Panel
      title="The last hour"
      live
      from={points.length ? { data: points } : history}
      empty={{ when: points.length < 2, what: "Two seconds of numbers make the first line.", hint: "The console keeps the last hour from its own start." }}
    >
      <Chart label="Bits per second" times={times} format={(v) => si(v, "b/s")} series={[{ name: "throughput, bit/s", values: points.map((p) => p.rates.bits), colour: "accent" }]} height={140} />
      <Chart
        label="Packets dropped, or that would be, per second"
        times={times}
        format={(v) => si(v, "/s")}
        series={[{ name: "dropped or would be, packets/s", values: points.map((p) => p.rates.dropped + p.rates["would-drop"]), colour: "bad", dash: [5, 3] }]}
        height={110}
      />
    </Panel>
  );
}

function Drops({ from, now }: Part) {
  const drops = [...(now?.drops ?? [])].sort((a, b) => b.rate - a.rate || b.count - a.count).slice(0, 10);
  const most = Math.max(1, ...drops.map((drop) => drop.count));
  return (
    <Panel title="Drops by reason" live from={from} flush empty={{ when: drops.length === 0, what: "Nothing was dropped since the gateway started." }}>
      <div role="table" aria-label="Drops by reason">
        {drops.map((drop) => (
          <div class="drop-row" role="row" key={drop.reason}>
            <span role="cell">
              {drop.reason}
            </span>
            <span role="cell">
              <Bar share={drop.count / most} />
            </span>
            <span role="cell" class="num">
              {si(drop.count)}
            </span>
            <span role="cell" class="num muted">
              {si(drop.rate)}/s
            </span>
          </div>
        ))}
      </div>
    </Panel>
  );
}

function Workers({ from, now }: Part) {
  const rows = now?.workers ?? [];
  return (
    <Panel title="Workers" live from={from} flush empty={{ when: rows.length === 0, what: "The gateway reports no worker." }}>
      <ul class="list">
        {rows.map((worker, i) => (
          <li key={i}>
            <span>core {worker.core ?? "–"}</span>
            <span class="grow">
              <Bar share={worker["busy-ratio"]} tone={worker.hung ? "bad" : worker["busy-ratio"] > 0.85 ? "warn" : ""} />
            </span>
            <span class="num">{percent(worker["busy-ratio"])} busy</span>
            {worker.hung && <span class="badge bad">hung</span>}
          </li>
        ))}
      </ul>
    </Panel>
  );
}

function Wires({ from, now }: Part) {
  const wires = now?.gateway?.wires ?? [];
  return (
    <Panel title="Wires" live from={from} flush empty={{ when: wires.length === 0, what: "No wire is known." }}>
      <ul class="wires">
        {wires.map((wire) => (
          <li key={wire.name}>
            <div class="row">
              <strong class="grow wrap">{wire.name}</strong>
              {bypassed.value?.wires.includes(wire.name) ? <span class="badge bad">✕ unjudged</span> : <Mode mode={wire.mode} />}
            </div>
            <div class="small muted row">
              {wire.ports.map((port) => (
                <span key={port.name} class={port.link === "up" ? "" : "bad"}>
                  {port.name} <span aria-hidden="true">{port.link === "up" ? "●" : "✕"}</span> {port.link}
                </span>
              ))}
              {failWords(wire) && <span title="What becomes of it while no gateway judges">{failWords(wire)}</span>}
            </div>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

function Changes({ from, now }: Part) {
  const entries = now?.["changes-since"] ?? [];
  return (
    <Panel title="Changed since yesterday" from={from} flush empty={{ when: entries.length === 0, what: "Nothing was changed in the last 24 hours." }} actions={<a href="#/access?tab=audit">Audit log</a>}>
      <ul class="list">
        {entries.map((entry) => (
          <li key={entry.sequence}>
            <span class="grow wrap">
              {entry.detail} <span class="muted">by {who(entry.who)}</span>
              {entry.reason && <span class="muted">: {entry.reason}</span>}
            </span>
            <time class="muted small nowrap" dateTime={entry.time}>
              {moment(entry.time)}
            </time>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

/** What the server calls a page, as an address of this application. */
const page = (link: string): string => `#${({ "/overview": "/", "/grants": "/policy/grants" } as Record<string, string>)[link] ?? link}`;
