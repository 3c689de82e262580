import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, may, send } from "../api/client";
import { overview, staged } from "../api/live";
import { useAgain, useResource } from "../api/resource";
import type { ChangeReport, Drift as DriftReport, Learning, Proposal, ProposedRule, Staged } from "../api/types";
import { count, exact, moment, percent, short, si, span } from "../model/format";
import { lost } from "../model/losses";
import { share, standsInTheWay } from "../model/obstacles";
import { adjust, href, route } from "../model/route";
import { change } from "../ui/dialog";
import { Mode, RuleLink } from "../ui/marks";
import { Failure, Figure, Panel } from "../ui/panel";
import { Table } from "../ui/table";
import { EvidenceList } from "./evidence";

/** From watching to lockdown, one step after the other, each with what it rests on. */
export function LearnPage() {
  const id = route.value.query.proposal;
  const learning = useResource<Learning>("/learning", {}, 10_000);
  const [pending, setPending] = useState(false);
  const proposal = useResource<Proposal>(id ? `/learning/proposals/${encodeURIComponent(id)}` : null, {}, pending ? 1_000 : undefined);
  const ready = id && proposal.data?.state === "ready" ? proposal.data : undefined;
  useEffect(() => setPending(proposal.data?.state === "pending"), [proposal.data]);
  const asked = useResource<Staged>("/staged");
  const tally = staged.value ?? asked.data;
  // The events tell of a staged policy while there is one: when that ends, or begins, it is asked for anew.
  const told = staged.value?.staged?.hash;
  useEffect(() => {
    if (asked.data) asked.reload();
  }, [told]);
  const wires = overview.value?.gateway?.wires ?? [];
  const enforcing = wires.length > 0 && wires.every((wire) => wire.mode === "enforce");
  const waiting = ready?.exceptions.filter((e) => !e.approved).length ?? 0;
  const steps = [
    { title: "Observe", done: (learning.data?.periods ?? 0) > 0, note: learning.data ? span(observed(learning.data)) : "" },
    { title: "Propose", done: Boolean(ready) || Boolean(tally?.staged) || enforcing, note: ready ? count(ready.rules.length, "rule") : "" },
    { title: "Review", done: (Boolean(ready) && waiting === 0) || Boolean(tally?.staged) || enforcing, note: ready ? `${waiting} open` : "" },
    { title: "Stage", done: Boolean(tally?.staged) || enforcing, note: tally?.staged ? `${si(tally.cut)} would be cut` : "" },
    { title: "Lock down", done: enforcing, note: enforcing ? "in force" : "" },
    { title: "Drift", done: false, note: "" },
  ];
  const current = steps.findIndex((step) => !step.done);
  return (
    <div class="stack">
      <div class="title">
        <h1>Learn and lock down</h1>
        <p class="small">Nothing on this page cuts anything before “Lock down”, and that can be rolled back.</p>
      </div>
      <ol class="steps" aria-label="Steps">
        {steps.map((step, i) => (
          <li key={step.title} class={step.done ? "done" : ""} aria-current={i === current ? "step" : undefined}>
            <a href={`#step-${i}`} onClick={(event) => jump(event, i)}>
              <span aria-hidden="true">{step.done ? "●" : i === current ? "▶" : "○"}</span> {i + 1}. {step.title}
            </a>
            <small>{step.note}</small>
          </li>
        ))}
      </ol>
      <Observed learning={learning} />
      <Proposed proposal={proposal} ready={ready} />
      <Exceptions proposal={ready} reload={proposal.reload} />
      <Rehearsal tally={tally} asked={asked} proposal={ready} />
      <Lockdown tally={tally} />
      <Drift />
    </div>
  );
}

/** Seconds of traffic that the store holds. */
const observed = (learning: Learning): number => learning.periods * learning["period-seconds"];

/** Goes to a step with the keyboard's focus, too. */
function visit(step: number) {
  const part = document.getElementById(`step-${step}`);
  part?.scrollIntoView({ block: "start" });
  part?.focus({ preventScroll: true });
}

function jump(event: Event, step: number) {
  event.preventDefault();
  visit(step);
}

type From<T> = ReturnType<typeof useResource<T>>;

function Observed({ learning }: { learning: From<Learning> }) {
  const data = learning.data;
  return (
    <div id="step-0" tabIndex={-1}>
      <Panel
        title="1. Observed"
        from={learning}
        empty={{ when: Boolean(data && !data["observed-since"]), what: "Nothing was stored yet.", hint: "The learning process stores what the gateway sees: systemctl status bulkhead-learn" }}
      >
        {data && (
          <>
            <dl class="figures">
              <Figure name="For" value={span(observed(data))} note={`since ${moment(data["observed-since"])}`} />
              <Figure name="Devices" value={exact(data.devices)} />
              <Figure name="Connections" value={si(data.edges)} note="client, server and service" />
              <Figure
                name="Records lost"
                value={exact(data.losses.reduce((sum, loss) => sum + loss.count, 0))}
                tone={data.losses.some((loss) => loss.count) ? "warn" : ""}
                note={lost(data) || "all was seen"}
              />
            </dl>
            {observed(data) < 86_400 && <p class="notice warn spaced">Less than a day was watched: what happens once a day or once a week is not in it. The prediction below counts with that, but longer is better.</p>}
          </>
        )}
      </Panel>
    </div>
  );
}

function Proposed({ proposal, ready }: { proposal: From<Proposal>; ready: Proposal | undefined }) {
  const [busy, setBusy] = useState(false);
  const [failed, setFailed] = useState<ApiError>();
  const [opened, setOpened] = useState<string>();
  const [shown, setShown] = useState(25);
  const asked = Boolean(route.value.query.proposal);
  const state = asked ? proposal.data?.state : undefined;
  const propose = async () => {
    setBusy(true);
    setFailed(undefined);
    try {
      const { id } = await send<{ id: string }>("POST", "/learning/proposals", {});
      adjust({ proposal: id });
    } catch (error) {
      setFailed(error as ApiError);
    } finally {
      setBusy(false);
    }
  };
  const rule = ready?.rules.find((r) => r.name === opened);
  return (
    <div id="step-1" class="stack" tabIndex={-1}>
      <Panel
        title="2. Proposed"
        {...(asked ? { from: proposal } : {})}
        flush={Boolean(ready)}
        actions={
          may("operator") && (
            <button type="button" class={`button small ${ready ? "" : "primary"}`} disabled={busy || state === "pending"} onClick={propose}>
              {busy || state === "pending" ? "Learning" : ready ? "Propose anew" : "Propose rules"}
            </button>
          )
        }
      >
        {failed && <Failure error={failed} />}
        {!asked && <p class="muted">Rules for groups of devices, from what was observed. Each shows whom it rests on; nothing is put in force.</p>}
        {state === "pending" && (
          <p class="muted" role="status">
            Learning from what was observed. With ten thousand devices this takes some minutes; you may leave the page.
          </p>
        )}
        {state === "failed" && <p class="notice bad">No proposal could be made: {proposal.data?.error}</p>}
        {ready && (
          <>
            <dl class="figures inset">
              <Figure name="Rules" value={exact(ready.rules.length)} note={`from ${count(ready.devices, "device")} and ${count(ready.edges, "connection")}`} />
              {ready.prediction ? (
                <Figure name="Expected wrong denials" value={percent(ready.prediction.denied)} note={`of what is used; between ${percent(ready.prediction.low)} and ${percent(ready.prediction.high)}`} />
              ) : (
                <Figure name="Expected wrong denials" value="–" note="too little was seen to say" tone="warn" />
              )}
              <Figure name="Exceptions to decide" value={exact(ready.exceptions.filter((e) => !e.approved).length)} note={`of ${exact(ready.exceptions.length)}`} />
              <Figure name="Makes no rule" value={exact(ready["makes-no-rule"])} note="connections of doubtful direction, or seen once" />
            </dl>
            <Table
              caption="Proposed rules"
              rows={ready.rules.slice(0, shown)}
              id={(r) => r.name}
              selected={opened ?? ""}
              total={ready.rules.length}
              more={shown < ready.rules.length ? () => setShown(shown + 100) : undefined}
              columns={[
                {
                  title: "Rule",
                  cell: (r) => (
                    <button type="button" class="plain wrap" aria-expanded={opened === r.name} onClick={() => setOpened(opened === r.name ? undefined : r.name)}>
                      {r.name}
                    </button>
                  ),
                },
                { title: "Opens", cell: (r) => r.services.join(", ") },
                { title: "Clients", number: true, cell: (r) => exact(r.clients.length) },
                { title: "Servers", number: true, cell: (r) => exact(r.servers.length) },
                { title: "Witnesses", number: true, cell: (r) => exact(r.witnesses) },
                { title: "Unused pairs", number: true, cell: (r) => exact(r.unused) },
              ]}
            />
            <details>
              <summary>The policy text</summary>
              <pre class="block">{ready.text}</pre>
            </details>
          </>
        )}
      </Panel>
      {rule && ready && (
        <Panel title={`Why ${rule.name}`}>
          <EvidenceList rule={rule} periods={ready.periods} />
        </Panel>
      )}
    </div>
  );
}

/** Focuses the next exception to decide, or staging after the last one, unless the person is elsewhere by now. */
function focusNext() {
  const at = document.activeElement;
  if (at && at !== document.body && !at.closest("#step-2")) return;
  const next = document.querySelector<HTMLButtonElement>("#step-2 td button");
  if (next) next.focus();
  else visit(3);
}

function Exceptions({ proposal, reload }: { proposal: Proposal | undefined; reload: () => void }) {
  // The exception that was approved last: once it is seen to be, its button is gone, and the focus with it.
  const approved = useRef<string>();
  useEffect(() => {
    if (!proposal?.exceptions.some((e) => e.approved && e.name === approved.current)) return;
    approved.current = undefined;
    focusNext();
  }, [proposal]);
  if (!proposal) {
    return (
      <div id="step-2" tabIndex={-1}>
        <Panel title="3. Exceptions to approve, one by one" empty={{ when: true, what: "Nothing is proposed yet.", hint: "What only one device of its kind does is listed here, for a person to decide." }} />
      </div>
    );
  }
  const approve = (name: string, what: string) => {
    change.value = {
      title: `Approve ${name}`,
      effect: `${what} becomes a rule of the proposal. It was seen, but only this device does it: approve what you know the purpose of.`,
      button: "Approve",
      act: async (reason) => {
        await send("POST", `/learning/proposals/${encodeURIComponent(proposal.id)}/approve`, { names: [name], reason });
        return `${name} is approved.`;
      },
      done: () => {
        approved.current = name;
        reload();
      },
    };
  };
  const what = (e: ProposedRule) => `${e.clients.join(", ")} → ${e.servers.join(", ")} ${e.services.join(", ")}`;
  return (
    <div id="step-2" tabIndex={-1}>
      <Panel title="3. Exceptions to approve, one by one" flush empty={{ when: proposal.exceptions.length === 0, what: "No exception: every connection belongs to a role." }}>
        <Table
          caption="Exceptions"
          rows={proposal.exceptions}
          id={(e) => e.name}
          columns={[
            {
              title: "What",
              cell: (e) => (
                <>
                  <strong class="wrap">{what(e)}</strong>
                  <br />
                  <span class="muted small">
                    {e.name}: only this member of its role does it, in {e.periods} of {proposal.periods} periods
                  </span>
                </>
              ),
            },
            { title: "Witness", cell: (e) => <span class="mono wrap">{e.witness[0] ?? "–"}</span> },
            {
              title: "",
              cell: (e) =>
                e.approved ? (
                  <span class="badge good">● approved</span>
                ) : (
                  may("operator") && (
                    <button type="button" class="button small" onClick={() => approve(e.name, what(e))}>
                      Approve
                    </button>
                  )
                ),
            },
          ]}
        />
      </Panel>
    </div>
  );
}

function Rehearsal({ tally, asked, proposal }: { tally: Staged | undefined; asked: From<Staged>; proposal: Proposal | undefined }) {
  const stage = () => {
    if (!proposal) return;
    const open = proposal.exceptions.filter((e) => !e.approved).length;
    change.value = {
      title: "Stage the proposal",
      effect: `${count(proposal.rules.length, "rule")} run beside the policy in force; every flow gets their verdict too, and nothing is cut.${open ? ` ${count(open, "exception")} not approved will count as cut.` : ""}`,
      button: "Stage",
      sign: { "proposal-id": proposal.id },
      act: async (reason, envelope) => {
        const report = await send<ChangeReport>("POST", "/policy/stage", { "proposal-id": proposal.id, expect: proposal.hash, reason, envelope });
        asked.reload();
        return report;
      },
    };
  };
  return (
    <div id="step-3" tabIndex={-1}>
      <Panel
        title="4. Staged: what would be cut"
        from={tally ? { data: tally } : asked}
        live={Boolean(tally)}
        flush
        empty={tally?.staged ? { when: false, what: "" } : { when: !proposal, what: "No policy is staged.", hint: "Propose rules above, or write some in the policy editor." }}
        actions={
          may("operator") &&
          proposal && (
            <button type="button" class={`button small ${tally?.staged ? "" : "primary"}`} onClick={stage}>
              {tally?.staged ? "Stage anew" : "Stage the proposal"}
            </button>
          )
        }
      >
        {tally?.staged && (
          <>
            <dl class="figures inset">
              <Figure name="Staged for" value={span(tally.staged["age-s"])} note={`${count(tally.staged.rules, "rule")} of ${tally.staged.source}`} />
              <Figure name="Flows judged" value={si(tally.flows)} />
              <Figure name="Would be cut" value={exact(tally.cut)} tone={tally.cut ? "warn" : "good"} note={`${percent(share(tally.cut, tally.passing))} of those that pass${tally["cut-by-default"] ? `; ${exact(tally["cut-by-default"])} of them by no rule` : ""}`} />
              <Figure name="Would be opened" value={exact(tally.opened)} note="denied now, permitted then" />
            </dl>
            {tally.differing.length > 0 && (
              <Table
                caption="Flows that the staged policy decides differently"
                rows={tally.differing.slice(0, 200)}
                id={(f) => f.flow + f["staged-rule"]}
                columns={[
                  { title: "Flow", cell: (f) => <span class="mono wrap">{f.flow}</span> },
                  { title: "Now", cell: (f) => `${f.passes ? "passes" : "denied"} by ${f.rule}` },
                  { title: "Staged", cell: (f) => <span class={f.passes ? "bad" : "good"}>{`${f.passes ? "✕ cut" : "● opened"} by ${f["staged-rule"]}`}</span> },
                  { title: "Nearest rule", cell: (f) => f.nearest ?? "–" },
                  { title: "Times", number: true, cell: (f) => exact(f.count) },
                ]}
              />
            )}
          </>
        )}
        {!tally?.staged && proposal && <p class="state">The proposal is ready to be staged.</p>}
      </Panel>
    </div>
  );
}

function Lockdown({ tally }: { tally: Staged | undefined }) {
  const wires = overview.value?.gateway?.wires ?? [];
  const obstacles = tally?.obstacles ?? [];
  // What is overridden are these obstacles of this policy: with others the box is empty again.
  const overridden = standsInTheWay(tally);
  const [forced, setForced] = useState("");
  const force = obstacles.length > 0 && forced === overridden;
  const ready = Boolean(tally?.staged) && (obstacles.length === 0 || force);
  const enforcing = wires.length > 0 && wires.every((wire) => wire.mode === "enforce");
  const lock = () => {
    // Bound to what is shown now: another policy, staged meanwhile, is refused by the gateway.
    const expect = tally?.staged?.hash;
    change.value = {
      title: "Lock down",
      effect: (
        <>
          {force && (
            <div class="notice bad">
              <strong>Nevertheless, although:</strong>
              <ul class="bullets">
                {obstacles.map((obstacle) => (
                  <li key={obstacle}>{obstacle}</li>
                ))}
              </ul>
            </div>
          )}
          <p>
            The staged policy <span class="mono">{short(expect)}</span> of {tally?.staged?.source} becomes the one in force and {count(wires.length, "wire")} enforce it: what it does not permit is dropped. {exact(tally?.cut ?? 0)} flows that were seen since staging would be cut.
          </p>
          <p class="muted">The way back is one click: Policy, History, Roll back.</p>
        </>
      ),
      button: "Lock down",
      danger: true,
      act: async (reason) => {
        const now = staged.value;
        if (force && now && standsInTheWay(now) !== overridden) {
          throw new ApiError(409, "Something else stands in the way by now", now.obstacles.join("; ") || "Nothing does any more.", "Nothing was changed. Leave this, look again, and decide.");
        }
        return send<ChangeReport>("POST", "/lockdown", { reason, force, expect });
      },
    };
  };
  const open = () => {
    change.value = {
      title: "Back to observing",
      effect: "Every wire forwards everything again and only records what the policy would drop. Nothing is protected while this lasts.",
      button: "Observe",
      danger: true,
      act: async (reason) => {
        return send<ChangeReport>("POST", "/observe", { reason });
      },
    };
  };
  return (
    <div id="step-4" tabIndex={-1}>
      <Panel title="5. Lock down" live>
        <div class="stack">
          <ul class="row">
            {wires.map((wire) => (
              <li key={wire.name} class="row">
                {wire.name} <Mode mode={wire.mode} />
              </li>
            ))}
          </ul>
          {obstacles.length > 0 && (
            <div class="notice warn">
              <strong>Lockdown is refused for now:</strong>
              <ul>
                {obstacles.map((obstacle) => (
                  <li key={obstacle}>{obstacle}</li>
                ))}
              </ul>
              {may("operator") && (
                <label class="row">
                  <input type="checkbox" checked={force} onChange={(e) => setForced(e.currentTarget.checked ? overridden : "")} /> lock down nevertheless
                </label>
              )}
            </div>
          )}
          {!tally?.staged && !enforcing && (
            <p class="muted" id="why-not">
              Lockdown puts the staged policy in force, and none is staged: go through steps 2 to 4 first.
            </p>
          )}
          {may("operator") ? (
            <div class="row">
              <button type="button" class="button danger" disabled={!ready} aria-describedby={tally?.staged || enforcing ? undefined : "why-not"} onClick={lock}>
                Lock down
              </button>
              <button type="button" class="button" disabled={wires.every((wire) => wire.mode === "observe")} onClick={open}>
                Back to observing
              </button>
              <a class="button" href={href(["policy", "history"])}>
                Roll back
              </a>
            </div>
          ) : (
            <p class="muted">An operator or an administrator may lock down.</p>
          )}
        </div>
      </Panel>
    </div>
  );
}

function Drift() {
  // It learns from everything that is stored: only when somebody asks.
  const drift = useResource<DriftReport>("/drift");
  useAgain(drift);
  const rows = drift.data?.denials ?? [];
  const unused = drift.data?.["unused-rules"] ?? [];
  // Before the first lockdown there is nothing to compare with; that is no failure.
  const early = drift.error?.status === 409;
  return (
    <div id="step-5" tabIndex={-1}>
      <Panel
        title="6. Drift"
        from={early ? { data: [] } : drift}
        flush
        actions={
          <button type="button" class="button small" disabled={drift.loading} onClick={drift.reload}>
            {drift.loading ? "Comparing" : "Compare anew"}
          </button>
        }
        empty={{
          when: rows.length === 0 && unused.length === 0,
          what: early ? "No wire enforces yet." : "What happens is what the rules were learnt from.",
          hint: early ? "After the lockdown this lists what was denied, and what to make of it." : "",
        }}
      >
        <Table
          caption="Denied since the lockdown"
          rows={rows}
          id={(d) => d.client + d.server + d.service}
          columns={[
            { title: "What", cell: (d) => <strong class="wrap">{`${d.client} → ${d.server} ${d.service}`}</strong> },
            { title: "Advice", cell: (d) => <span class={`badge ${d.advice === "quarantine" ? "bad" : ""}`}>{d.advice}</span> },
            { title: "Why", cell: (d) => d.text },
            { title: "Last", cell: (d) => <span class="nowrap">{moment(d.last)}</span> },
            { title: "Packets", number: true, cell: (d) => exact(d.packets) },
          ]}
        />
        {unused.length > 0 && (
          <div class="inset-text">
            <h3>Learnt rules that nobody used since</h3>
            <p class="wrap">
              {unused.map((name, i) => (
                <>
                  {i > 0 && ", "}
                  <RuleLink name={name} />
                </>
              ))}
            </p>
          </div>
        )}
      </Panel>
    </div>
  );
}
