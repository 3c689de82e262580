import type { ComponentChildren, ComponentType } from "preact";
import { useState } from "preact/hooks";
import type { Change, Conduit, Report } from "../api/report";
import { count, exact, short, span, utc } from "../model/format";
import { isLoss } from "../model/losses";
import { Table, type Column } from "../ui/table";

type View = ComponentType<{ report: Report; all: boolean }>;
export interface Section {
  id: string;
  title: string;
  /** What the contents say beside the title. */
  note: string;
  tone?: "bad" | "warn";
  flush?: boolean;
  view: View;
}

/** The parts of a report, in the order in which they are read. */
export function sections(report: Report): Section[] {
  const { observed, audit, telemetry } = report;
  // The store's keeper counts what the gateway told it that was lost, too: the two are not added.
  const counters = Object.entries(telemetry?.store ?? {});
  const kept = counters.reduce((sum, [name, n]) => sum + (isLoss(name) ? n : 0), 0);
  const lost = Math.max(kept, telemetry?.["gateway-lost"] ?? 0);
  const idle = report.conduits.filter((conduit) => conduit.hits === 0).length;
  const unpurposed = report.conduits.filter((conduit) => !conduit.purpose).length;
  const parts: Section[] = [
    { id: "scope", title: "Scope", note: count(report.scope.wires.length, "wire"), flush: true, view: Scope },
    { id: "standards", title: "Which requirements this speaks to", note: count(report.standards.length, "requirement"), flush: true, view: Standards },
    { id: "zones", title: "Zones", note: exact(report.zones.length), flush: true, view: Zones },
    { id: "conduits", title: "Conduits: what is permitted", note: [exact(report.conduits.length), idle && `${exact(idle)} not hit`, unpurposed && `${exact(unpurposed)} without a purpose`].filter(Boolean).join(", "), flush: true, view: Conduits },
    denialSection(report),
    { id: "observed", title: "Declared against observed", note: observed ? `${exact(observed["not-permitted"].length + observed.more)} not permitted` : "not available", flush: true, view: Against },
    { id: "exceptions", title: "Exceptions", note: exact(report.exceptions.length), flush: true, view: Exceptions },
    { id: "events", title: "Modes and failures", note: count(report.events.length, "event"), flush: true, view: Events },
    {
      id: "changes",
      title: "Policy changes",
      note: audit ? (audit.verified ? `${exact(report.changes.length)}, chain verified` : "CHAIN BROKEN") : "not available",
      ...(audit?.verified ? {} : { tone: "bad" as const }),
      flush: true,
      view: Changes,
    },
    { id: "losses", title: "Losses in these records", note: telemetry ? (lost ? `${exact(lost)} records` : "none") : "not available", ...(lost ? { tone: "warn" as const } : {}), flush: true, view: Losses },
    { id: "assets", title: "Assets", note: exact(report.assets.length), flush: true, view: Assets },
    { id: "not-shown", title: "What this does not show", note: "", view: NotShown },
  ];
  return parts.map((part, i) => ({ ...part, title: `${i + 1}. ${part.title}` }));
}

function denialSection(report: Report): Section {
  const denial = report["default-deny"];
  const failed = denial?.assertions.filter((assertion) => !assertion.holds).length ?? 0;
  const part = { id: "default-deny", title: "Everything else is denied", flush: true, view: Denial };
  if (!denial) return { ...part, note: "not available", tone: "bad" };
  if (denial.default !== "deny") return { ...part, note: `the default is ${denial.default}`, tone: "bad" };
  return failed ? { ...part, note: `${count(failed, "assertion")} do not hold`, tone: "bad" } : { ...part, note: denial.assertions.length ? `${count(denial.assertions.length, "assertion")} proved` : "by default" };
}

const Facts = ({ of }: { of: [name: string, value: ComponentChildren][] }) => (
  <dl class="facts-list inset-text">
    {of.map(([name, value]) => (
      <>
        <dt>{name}</dt>
        <dd>{value}</dd>
      </>
    ))}
  </dl>
);
const Missing = () => <p class="inset-text bad">Not available: see the top of this report for the reason.</p>;
const None = ({ children }: { children: ComponentChildren }) => <p class="inset-text muted">{children}</p>;

/** Rows that the screen shows at first, and with each further click; paper shows all. */
const SCREEN = 50;
const FURTHER = 500;

function Rows<T>({ caption, rows, id, columns, all }: { caption: string; rows: T[]; id: (row: T, at: number) => string; columns: Column<T>[]; all: boolean }) {
  const [shown, setShown] = useState(SCREEN);
  const numbered = rows.slice(0, all ? undefined : shown).map((row, at) => ({ row, at }));
  return (
    <Table
      caption={caption}
      rows={numbered}
      id={({ row, at }) => id(row, at)}
      columns={columns.map((column) => ({ ...column, cell: ({ row }: { row: T }) => column.cell(row) }))}
      {...(rows.length > numbered.length ? { total: rows.length, more: () => setShown(shown + FURTHER) } : {})}
    />
  );
}

const clockSays = (source: string | null | undefined, synchronised: boolean | null | undefined): ComponentChildren => {
  if (synchronised === null || synchronised === undefined) return "whether it is synchronised is not known";
  const by = source === "trusted" ? "because the configuration says so (clock = \"trusted\")" : "as the kernel was told by its NTP or PTP daemon";
  return synchronised ? `synchronised, ${by}` : <strong class="bad">not synchronised: times in this report are the machine’s own</strong>;
};

const Scope: View = ({ report, all }) => {
  const { scope, policy } = report;
  return (
    <>
      <Facts
        of={[
          ["Software", scope.gateway ? `Bulkhead ${scope.gateway}, up ${span(scope["uptime-s"] ?? NaN)}; its counters are of that time` : "the gateway did not answer"],
          ["Clock", clockSays(scope["clock-source"], scope["clock-synchronised"])],
          ...(policy
            ? ([
                ["Policy", `${policy.source}, ${count(policy.rules, "rule")}, in force for ${span(policy["age-s"])}`],
                ["Policy SHA-256", <span class="mono wrap">{policy.hash}</span>],
              ] as [string, ComponentChildren][])
            : ([["Policy", "not available"]] as [string, ComponentChildren][])),
          ...(policy?.fallback ? ([["Attention", <strong class="bad">the policy’s files are bad; the last accepted policy is in force</strong>]] as [string, ComponentChildren][]) : []),
          ...(policy?.standing ?? []).map((text): [string, ComponentChildren] => ["By command", text]),
        ]}
      />
      <Rows
        all={all}
        caption="Wires"
        rows={scope.wires}
        id={(wire) => wire.name}
        columns={[
          { title: "Wire", cell: (wire) => <strong>{wire.name}</strong> },
          { title: "Mode", cell: (wire) => wire.mode },
          { title: "Without a gateway it", cell: (wire) => (wire.fail ? (wire.fail === "open" ? "passes all (fail open)" : "passes nothing (fail closed)") : "unknown") },
          { title: "Inside", cell: (wire) => <span class="wrap">{port(wire.inside)}</span> },
          { title: "Outside", cell: (wire) => <span class="wrap">{port(wire.outside)}</span> },
          { title: "Received", number: true, cell: (wire) => exact(wire.received) },
          { title: "Dropped", number: true, cell: (wire) => exact(wire.dropped) },
          { title: "Would drop", number: true, cell: (wire) => exact(wire["would-drop"]) },
        ]}
      />
    </>
  );
};
const port = ([device, ...details]: string[]): string => `${device ?? "–"} (${details.filter(Boolean).join(", ")})`;

const Standards: View = ({ report, all }) => (
  <>
    <p class="inset-text">Whether a requirement is met is for an assessor to judge: this says where evidence towards it stands, and what of it remains.</p>
    <Rows
      all={all}
      caption="Requirements"
      rows={report.standards}
      id={(row) => row.standard + row.requirement}
      columns={[
        {
          title: "Requirement",
          cell: (row) => (
            <>
              <strong>{row.standard}</strong>
              <br />
              {row.requirement}
            </>
          ),
        },
        { title: "What speaks to it here", cell: (row) => row.evidence },
        { title: "What remains", cell: (row) => row.remains },
      ]}
    />
  </>
);

const Zones: View = ({ report, all }) =>
  report.zones.length === 0 ? (
    <None>The policy names no group and no device.</None>
  ) : (
    <Rows
      all={all}
      caption="Zones"
      rows={report.zones}
      id={(zone) => zone.kind + zone.name}
      columns={[
        { title: "Zone", cell: (zone) => <strong class="wrap">{zone.name}</strong> },
        { title: "Kind", cell: (zone) => zone.kind },
        { title: "Members, as the policy writes them", cell: (zone) => <Many of={zone.members} all={all} /> },
        { title: "Except", cell: (zone) => <Many of={zone.except} all={all} /> },
      ]}
    />
  );

/** Names in a row of a table: on the screen the first of many, on paper all. */
function Many({ of, all }: { of: string[]; all: boolean }) {
  const [open, setOpen] = useState(false);
  const some = all || open ? of : of.slice(0, 12);
  if (of.length === 0) return <span class="muted">–</span>;
  return (
    <span class="wrap">
      {some.join(", ")}
      {some.length < of.length && (
        <>
          {" "}
          <button type="button" class="plain" onClick={() => setOpen(true)}>
            and {exact(of.length - some.length)} more
          </button>
        </>
      )}
    </span>
  );
}

const inForce = (conduit: Conduit): string => {
  if (!conduit.starts && !conduit.expires) return "always";
  return [conduit.starts && `from ${utc(conduit.starts)}`, conduit.expires && `until ${utc(conduit.expires)}`].filter(Boolean).join(" ");
};

const Conduits: View = ({ report, all }) =>
  report.conduits.length === 0 ? (
    <None>The policy permits nothing.</None>
  ) : (
    <>
      <p class="inset-text">Everything that the policy permits. Hits are decisions, one a new flow, since the gateway’s start or the rule’s; the last hit is by the communication store. Tickets are words of the purpose.</p>
      <Rows
        all={all}
        caption="Conduits"
        rows={report.conduits}
        id={(conduit, at) => `${at} ${conduit.rule}`}
        columns={[
          {
            title: "Rule",
            cell: (conduit) => (
              <>
                <strong class="wrap">{conduit.rule}</strong>
                <div class="muted small wrap">{conduit.at}</div>
              </>
            ),
          },
          { title: "From and to", cell: (conduit) => <span class="wrap">{`${conduit.from} ${conduit["either-way"] ? "↔" : "→"} ${conduit.to}`}</span> },
          { title: "Service", cell: (conduit) => <span class="wrap">{conduit.service}</span> },
          { title: "Purpose", cell: (conduit) => (conduit.purpose ? <span class="wrap">{conduit.purpose}</span> : <span class="warn">none stated</span>) },
          { title: "Ticket", cell: (conduit) => conduit.tickets.join(", ") || <span class="muted">none</span> },
          { title: "Owner", cell: (conduit) => conduit.owner ?? <span class="muted">not recorded</span> },
          { title: "In force", cell: (conduit) => inForce(conduit) },
          { title: "Hits", number: true, cell: (conduit) => (conduit.hits === null || conduit.hits === undefined ? "unknown" : exact(conduit.hits)) },
          { title: "Last hit", cell: (conduit) => (conduit["last-hit"] ? utc(conduit["last-hit"]) : <span class="muted">none seen</span>) },
        ]}
      />
    </>
  );

const Denial: View = ({ report, all }) => {
  const denial = report["default-deny"];
  if (!denial) return <Missing />;
  const rows = denial.reach.flatMap((zone) => [
    ...zone.access.map((access) => ({ zone: zone.zone, ...access })),
    ...(zone.complete ? (zone.access.length ? [] : [{ zone: zone.zone, service: "nothing", from: "nobody", rule: "" }]) : [{ zone: zone.zone, service: "this is not all: finding the rest takes too much work", from: "", rule: "" }]),
  ]);
  return (
    <>
      <p class="inset-text">
        Where no rule matches, the policy says <strong class={denial.default === "deny" ? "" : "bad"}>{denial.default}</strong>
        {denial.hits !== null && denial.hits !== undefined && `: ${count(denial.hits, "decision")}`}. {denial.assertions.length === 0 && "The policy has no assertions."}
      </p>
      {denial.assertions.length > 0 && (
        <ul class="inset-text">
          {denial.assertions.map((assertion) => (
            <li key={assertion.says} class={assertion.holds ? "" : "bad"}>
              <span aria-hidden="true">{assertion.holds ? "●" : "✕"}</span> {assertion.holds ? "Proved for every packet" : <strong>DOES NOT HOLD</strong>}: {assertion.says}
            </li>
          ))}
        </ul>
      )}
      <p class="inset-text">
        {rows.length === 0
          ? "The policy names no zone whose reach could be listed: the conduits above are all that is permitted."
          : "All that anybody may open to each zone, found by analysis of the whole policy for every packet at the time of this report. What is not listed is denied."}
      </p>
      <Rows
        all={all}
        caption="Reach of each zone"
        rows={rows}
        id={(row, at) => `${at} ${row.zone}`}
        columns={[
          { title: "To", cell: (row) => <strong class="wrap">{row.zone}</strong> },
          { title: "Service", cell: (row) => <span class="wrap">{row.service}</span> },
          { title: "May be opened by", cell: (row) => <span class="wrap">{row.from}</span> },
          { title: "Rule", cell: (row) => <span class="wrap">{row.rule}</span> },
        ]}
      />
    </>
  );
};

const Against: View = ({ report, all }) => {
  const observed = report.observed;
  if (!observed) return <Missing />;
  return (
    <>
      <Facts
        of={[
          ["Conversations seen", `${exact(observed.conversations)} (client, server and service)`],
          ["Permitted when seen", exact(observed.permitted)],
          ["Not permitted", exact(observed["not-permitted"].length + observed.more)],
          ["Permitted, used by nobody", observed.unused.length ? <Many of={observed.unused} all={all} /> : "none: every rule that permits something was used"],
        ]}
      />
      {observed["not-permitted"].length > 0 && (
        <Rows
          all={all}
          caption="Conversations that no rule permitted"
          rows={observed["not-permitted"]}
          id={(talk, at) => `${at} ${talk.client} ${talk.server}`}
          columns={[
            { title: "Not permitted", cell: (talk) => <strong class="wrap">{`${talk.client} → ${talk.server}`}</strong> },
            { title: "Service", cell: (talk) => talk.service },
            { title: "Denied packets", number: true, cell: (talk) => exact(talk["denied-packets"]) },
            { title: "Flows let through by observing", number: true, cell: (talk) => exact(talk["let-through"]) },
            { title: "Decided by", cell: (talk) => <span class="wrap">{talk.rule}</span> },
            { title: "Last seen", cell: (talk) => utc(talk["last-seen"]) },
          ]}
        />
      )}
      {observed.more > 0 && <p class="inset-text">{exact(observed.more)} more were not permitted than are listed.</p>}
    </>
  );
};

const Exceptions: View = ({ report, all }) =>
  report.exceptions.length === 0 ? (
    <None>No grant is in force and no device is in quarantine.</None>
  ) : (
    <Rows
      all={all}
      caption="Exceptions"
      rows={report.exceptions}
      id={(exception, at) => `${at} ${exception.what}`}
      columns={[
        { title: "What", cell: (exception) => <strong class="wrap">{exception.what}</strong> },
        { title: "Kind", cell: (exception) => exception.kind },
        { title: "By", cell: (exception) => exception.who },
        { title: "Why", cell: (exception) => <span class="wrap">{exception.reason || <span class="warn">none stated</span>}</span> },
        { title: "Since", cell: (exception) => utc(exception.since) },
        { title: "Until", cell: (exception) => (exception.until ? utc(exception.until) : "released") },
      ]}
    />
  );

function Log({ caption, entries, all }: { caption: string; entries: Change[]; all: boolean }) {
  return (
    <Rows
      all={all}
      caption={caption}
      rows={entries}
      id={(entry) => String(entry.sequence)}
      columns={[
        { title: "What", cell: (entry) => <span class="wrap">{entry.detail}</span> },
        { title: "No.", number: true, cell: (entry) => exact(entry.sequence) },
        { title: "When", cell: (entry) => utc(entry.time) },
        { title: "Who", cell: (entry) => entry.who },
        { title: "About", cell: (entry) => entry.about },
        { title: "Why", cell: (entry) => <span class="wrap">{entry.reason || "–"}</span> },
        { title: "Policy", cell: (entry) => (entry.policies ? <span class="mono">{entry.policies.map((hash) => (hash ? short(hash) : "none")).join(" → ")}</span> : "") },
      ]}
    />
  );
}

const Events: View = ({ report, all }) =>
  report.events.length === 0 ? <None>No start, stop, change of mode or failure is recorded in this time.</None> : <Log caption="Modes and failures" entries={report.events} all={all} />;

const Changes: View = ({ report, all }) => {
  const audit = report.audit;
  return (
    <>
      {!audit && <Missing />}
      {audit && (
        <p class="inset-text">
          {audit.verified ? (
            <>
              <span class="good" aria-hidden="true">
                ●
              </span>{" "}
              The hash chain of the audit log holds over the files of these {exact(audit.entries)} entries (modes, failures and changes).
            </>
          ) : (
            <strong class="bad">✕ THE AUDIT LOG IS NOT WHOLE{audit.broken ? `: ${audit.broken}` : ""}</strong>
          )}
          {audit.more && " There are earlier entries in this time that are left out: choose a shorter time."}
        </p>
      )}
      {report.changes.length === 0 ? <None>Nothing was changed in this time.</None> : <Log caption="Policy changes" entries={report.changes} all={all} />}
    </>
  );
};

const Losses: View = ({ report }) => {
  const telemetry = report.telemetry;
  if (!telemetry) return <Missing />;
  const or = (value: number | null | undefined) => (value === null || value === undefined ? "unknown" : exact(value));
  return (
    <Facts
      of={[
        ["Frames unaccounted for", `${or(telemetry["in-flight"])}: received or originated, less sent, dropped or held (what workers had in their hands just then)`],
        ["Lost by the gateway", `${or(telemetry["gateway-lost"])} flow records, copies and log events since its start`],
        ...named(telemetry.store, true, "Lost by the store’s keeper"),
        ...named(telemetry.store, false, "Read by the store’s keeper"),
      ]}
    />
  );
};

/** The counters of the store that count losses, or those that do not, as one fact. */
function named(store: Record<string, number>, losses: boolean, title: string): [string, string][] {
  const some = Object.entries(store).filter(([name]) => isLoss(name) === losses);
  return some.length ? [[title, some.map(([name, n]) => `${name} ${exact(n)}`).join("; ")]] : [];
}

const Assets: View = ({ report, all }) =>
  report.assets.length === 0 ? (
    <None>No device was heard in this time.</None>
  ) : (
    <>
      <p class="inset-text">Who was heard, by their own packets. Names are what the devices or DNS say: nobody vouches for them.</p>
      <Rows
        all={all}
        caption="Assets"
        rows={report.assets}
        id={(asset, at) => `${at} ${asset.mac ?? ""}`}
        columns={[
          { title: "Device", cell: (asset) => <strong class="wrap">{asset.name || asset.mac || asset.addresses[0]}</strong> },
          { title: "Addresses", cell: (asset) => <span class="wrap">{asset.addresses.join(", ")}</span> },
          { title: "MAC address", cell: (asset) => <span class="mono">{asset.mac ?? "behind a router"}</span> },
          { title: "Maker", cell: (asset) => asset.vendor ?? "–" },
          { title: "Role", cell: (asset) => asset.role },
          { title: "Where", cell: (asset) => asset.place },
          { title: "Zones", cell: (asset) => <span class="wrap">{asset.zones.join(", ") || "–"}</span> },
          { title: "Seen", cell: (asset) => `${utc(asset["first-seen"])} to ${utc(asset["last-seen"])}` },
        ]}
      />
    </>
  );

const NotShown: View = ({ report }) => (
  <ul class="bullets">
    {report["not-shown"].map((line) => (
      <li key={line}>{line}</li>
    ))}
  </ul>
);
