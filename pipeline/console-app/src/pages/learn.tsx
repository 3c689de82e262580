import { useState } from "preact/hooks";
import { may, send, type ApiError } from "../api/client";
import { overview, staged } from "../api/live";
import { useResource } from "../api/resource";
import type { DriftItem, Learning, Page, Proposal, Staged } from "../api/types";
import { bytes, count, exact, moment, percent, si } from "../model/format";
import { adjust, href, route } from "../model/route";
import { change } from "../ui/dialog";
import { Mode } from "../ui/marks";
import { Failure, Figure, Panel } from "../ui/panel";
import { Table } from "../ui/table";
import { EvidenceList } from "./evidence";

/** From watching to lockdown, one step after the other, each with what it rests on. */
export function LearnPage() {
  const id = route.value.query.proposal ?? "latest";
  const learning = useResource<Learning>("/learning", {}, 10_000);
  const proposal = useResource<Proposal>(route.value.query.proposal ? `/learning/proposals/${encodeURIComponent(id)}` : null);
  const asked = useResource<Staged>("/staged");
  const tally = staged.value ?? asked.data;
  const wires = overview.value?.gateway?.wires ?? [];
  const enforcing = wires.length > 0 && wires.every((wire) => wire.mode === "enforce");
  const waiting = proposal.data?.exceptions.filter((e) => !e.approved).length ?? 0;
  const steps = [
    { title: "Observe", done: (learning.data?.hours ?? 0) > 0, note: learning.data ? `${exact(learning.data.hours)} h` : "" },
    { title: "Propose", done: Boolean(proposal.data) || Boolean(tally?.staged) || enforcing, note: proposal.data ? count(proposal.data.rules.length, "rule") : "" },
    { title: "Review", done: (Boolean(proposal.data) && waiting === 0) || Boolean(tally?.staged) || enforcing, note: proposal.data ? `${waiting} open` : "" },
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
      <Proposed proposal={proposal} />
      {proposal.data && <Exceptions proposal={proposal.data} reload={proposal.reload} />}
      <Rehearsal tally={tally} asked={asked} proposal={proposal.data} />
      <Lockdown tally={tally} />
      <Drift />
    </div>
  );
}

function jump(event: Event, step: number) {
  event.preventDefault();
  document.getElementById(`step-${step}`)?.scrollIntoView({ block: "start" });
}

type From<T> = ReturnType<typeof useResource<T>>;

function Observed({ learning }: { learning: From<Learning> }) {
  const data = learning.data;
  return (
    <div id="step-0">
      <Panel
        title="1. Observed"
        from={learning}
        empty={{ when: Boolean(data && !data["observed-since"]), what: "Nothing was stored yet.", hint: "The learning process stores what the gateway sees: systemctl status bulkhead-learn" }}
      >
        {data && (
          <>
            <dl class="figures">
              <Figure name="For" value={`${exact(data.hours)} h`} note={`since ${moment(data["observed-since"])}`} />
              <Figure name="Devices" value={exact(data.devices)} />
              <Figure name="Connections" value={si(data.edges)} note="client, server and service" />
              <Figure name="Records lost" value={exact(data.losses)} tone={data.losses ? "warn" : ""} note={data.losses ? "what was lost may be denied later" : "all was seen"} />
              <Figure name="Store" value={bytes(data.store.bytes)} note={data.store.state} />
            </dl>
            {data.hours < 24 && <p class="notice warn spaced">Less than a day was watched: what happens once a day or once a week is not in it. The prediction below counts with that, but longer is better.</p>}
          </>
        )}
      </Panel>
    </div>
  );
}

function Proposed({ proposal }: { proposal: From<Proposal> }) {
  const [busy, setBusy] = useState(false);
  const [failed, setFailed] = useState<ApiError>();
  const [opened, setOpened] = useState<string>();
  const [shown, setShown] = useState(25);
  const data = proposal.data;
  const propose = async () => {
    setBusy(true);
    setFailed(undefined);
    try {
      const { id } = await send<{ id: string | number }>("POST", "/learning/proposals", { reason: "asked for in the console" });
      adjust({ proposal: String(id) });
      proposal.reload();
    } catch (error) {
      setFailed(error as ApiError);
    } finally {
      setBusy(false);
    }
  };
  const rule = data?.rules.find((r) => r.name === opened);
  return (
    <div id="step-1" class="stack">
      <Panel
        title="2. Proposed"
        {...(route.value.query.proposal ? { from: proposal } : {})}
        flush={Boolean(data)}
        actions={
          may("operator") && (
            <button type="button" class={`button small ${data ? "" : "primary"}`} disabled={busy} onClick={propose}>
              {busy ? "Learning" : data ? "Propose anew" : "Propose rules"}
            </button>
          )
        }
      >
        {failed && <Failure error={failed} />}
        {!data && <p class="muted">Rules for groups of devices, from what was observed. Each shows whom it rests on; nothing is put in force.</p>}
        {data?.prediction && (
          <dl class="figures inset">
            <Figure name="Rules" value={exact(data.rules.length)} />
            <Figure name="Expected wrong denials" value={percent(data.prediction.denied)} note={`of flow-hours; between ${percent(data.prediction.low)} and ${percent(data.prediction.high)}`} />
            <Figure name="Exceptions to decide" value={exact(data.exceptions.filter((e) => !e.approved).length)} note={`of ${exact(data.exceptions.length)}`} />
          </dl>
        )}
        {data && (
          <Table
            caption="Proposed rules"
            rows={data.rules.slice(0, shown)}
            id={(r) => r.name}
            selected={opened ?? ""}
            total={data.rules.length}
            more={shown < data.rules.length ? () => setShown(shown + 100) : undefined}
            columns={[
              {
                title: "Rule",
                cell: (r) => (
                  <button type="button" class="plain wrap" aria-expanded={opened === r.name} onClick={() => setOpened(opened === r.name ? undefined : r.name)}>
                    {r.name}
                  </button>
                ),
              },
              { title: "Witnesses", number: true, cell: (r) => r.witnesses.length },
              { title: "Unused pairs", number: true, cell: (r) => r.unused.length },
              { title: "Confidence", secondary: true, cell: (r) => r.confidence },
            ]}
          />
        )}
      </Panel>
      {rule && (
        <Panel title={`Why ${rule.name}`}>
          <div class="grid">
            <pre class="block span-6">{rule.text}</pre>
            <div class="span-6">
              <EvidenceList evidence={rule} />
            </div>
          </div>
        </Panel>
      )}
    </div>
  );
}

function Exceptions({ proposal, reload }: { proposal: Proposal; reload: () => void }) {
  const approve = (names: string[], what: string) => {
    change.value = {
      title: names.length === 1 ? `Approve ${names[0]}` : `Approve ${names.length} exceptions`,
      effect: `${what} becomes a rule of the proposal. It was seen, but only one device does it: approve what you know the purpose of.`,
      button: "Approve",
      act: async (reason) => {
        await send("POST", `/learning/proposals/${encodeURIComponent(proposal.id)}/approve`, { names, reason });
        return `${count(names.length, "exception")} approved.`;
      },
      done: reload,
    };
  };
  return (
    <div id="step-2">
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
                  <strong class="wrap">{e.what}</strong>
                  <br />
                  <span class="muted small">{e.why}</span>
                </>
              ),
            },
            { title: "Witness", secondary: true, cell: (e) => <span class="mono wrap">{e.witness}</span> },
            {
              title: "",
              cell: (e) =>
                e.approved ? (
                  <span class="badge good">● approved</span>
                ) : (
                  may("operator") && (
                    <button type="button" class="button small" onClick={() => approve([e.name], e.what)}>
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
      act: async (reason) => {
        await send("POST", "/policy/stage", { "proposal-id": proposal.id, reason });
        asked.reload();
        return "Staged. The tally counts from now.";
      },
    };
  };
  return (
    <div id="step-3">
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
              <Figure name="Staged since" value={moment(tally.staged.since).slice(11)} note={`${count(tally.staged.rules, "rule")} of ${tally.staged.source}`} />
              <Figure name="Flows judged" value={si(tally.flows)} />
              <Figure name="Would be cut" value={exact(tally.cut)} tone={tally.cut ? "warn" : "good"} note={`${percent(tally["denied-ratio"])} of those that pass`} />
              <Figure name="Would be opened" value={exact(tally.opened)} note="denied now, permitted then" />
            </dl>
            {tally.differing.length > 0 && (
              <Table
                caption="Flows that the staged policy decides differently"
                rows={tally.differing.slice(0, 200)}
                id={(f) => f.flow + f["staged-rule"]}
                columns={[
                  { title: "Flow", cell: (f) => <span class="mono wrap">{f.flow}</span> },
                  { title: "Now", secondary: true, cell: (f) => `${f.passes ? "passes" : "denied"} by ${f.rule}` },
                  { title: "Staged", cell: (f) => <span class={f.passes ? "bad" : "good"}>{`${f.passes ? "✕ cut" : "● opened"} by ${f["staged-rule"]}`}</span> },
                  { title: "Nearest rule", secondary: true, cell: (f) => f.nearest ?? "–" },
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
  const [force, setForce] = useState(false);
  const obstacles = tally?.obstacles ?? [];
  const ready = Boolean(tally?.staged) && (obstacles.length === 0 || force);
  const lock = () => {
    change.value = {
      title: "Lock down",
      effect: (
        <>
          <p>
            The staged policy becomes the one in force and {count(wires.length, "wire")} enforce it: what it does not permit is dropped. {exact(tally?.cut ?? 0)} flows that were seen since staging would be cut.
          </p>
          <p class="muted">The way back is one click: Policy, History, Roll back.</p>
        </>
      ),
      button: "Lock down",
      danger: true,
      act: async (reason) => {
        await send("POST", "/lockdown", { reason, force });
        return "Locked down. Watch Denied for what was missed.";
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
        await send("POST", "/observe", { reason });
        return "The wires observe: everything is forwarded.";
      },
    };
  };
  return (
    <div id="step-4">
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
                  <input type="checkbox" checked={force} onChange={(e) => setForce(e.currentTarget.checked)} /> lock down nevertheless
                </label>
              )}
            </div>
          )}
          {may("operator") ? (
            <div class="row">
              <button type="button" class="button danger" disabled={!ready} onClick={lock}>
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
  const drift = useResource<Page<DriftItem>>("/drift", {}, 30_000);
  const rows = drift.data?.items ?? [];
  return (
    <div id="step-5">
      <Panel title="6. Drift" from={drift} flush empty={{ when: rows.length === 0, what: "What happens is what the rules were learnt from." }}>
        <Table
          caption="Drift"
          rows={rows}
          id={(d) => d.kind + d.what}
          columns={[
            { title: "What", cell: (d) => <strong class="wrap">{d.what}</strong> },
            { title: "Kind", cell: (d) => <span class="badge">{d.kind}</span> },
            { title: "Why", secondary: true, cell: (d) => d.why },
            { title: "What to do", cell: (d) => d.remedy },
            { title: "Times", number: true, cell: (d) => exact(d.count) },
          ]}
        />
      </Panel>
    </div>
  );
}
