import type { ComponentChildren } from "preact";
import { useMemo } from "preact/hooks";
import { usePaged, useResource, type Resource } from "../api/resource";
import type { AuditPage, Exceptions, HistoryReport, Learning, Matrix, Overview, Policy, Rule } from "../api/types";
import { count, exact, moment, si, span, who } from "../model/format";
import { lost } from "../model/losses";
import { stateOf, STATES } from "../ui/marks";
import { Panel } from "../ui/panel";
import { Table } from "../ui/table";

/** An evidence report for paper: what is declared, what was observed, what was changed, and by whom, as the
 *  gateway and its store tell it now. It says what it does not show; judging it is the reader's. */
export function ReportPage() {
  const overview = useResource<Overview>("/overview");
  const policy = useResource<Policy>("/policy");
  const rules = usePaged<Rule>("/policy/rules", { limit: 1000 });
  const matrix = useResource<Matrix>("/map/matrix");
  const learning = useResource<Learning>("/learning");
  const exceptions = useResource<Exceptions>("/grants");
  const history = useResource<HistoryReport>("/policy/history");
  const audit = useResource<AuditPage>("/audit", { limit: 200 });
  const at = useMemo(() => Date.now(), []);
  return (
    <div class="stack report">
      <div class="title">
        <h1>Evidence report</h1>
        <button type="button" class="button primary no-print" onClick={() => print()}>
          Print
        </button>
      </div>
      <Scope overview={overview} policy={policy} learning={learning} at={at} />
      <Zones matrix={matrix} />
      <Conduits rules={rules} />
      <Observed matrix={matrix} />
      <Standing exceptions={exceptions} />
      <Changes history={history} audit={audit} />
      <Losses learning={learning} overview={overview} />
      <Limits />
    </div>
  );
}

const Facts = ({ of }: { of: [name: string, value: ComponentChildren][] }) => (
  <dl class="facts-list">
    {of.map(([name, value]) => (
      <>
        <dt>{name}</dt>
        <dd>{value}</dd>
      </>
    ))}
  </dl>
);

function Scope(props: { overview: Resource<Overview>; policy: Resource<Policy>; learning: Resource<Learning>; at: number }) {
  const gateway = props.overview.data?.gateway;
  const policy = props.policy.data;
  const learning = props.learning.data;
  const wires = gateway?.wires ?? [];
  return (
    <Panel title="Scope" from={props.overview} empty={{ when: Boolean(props.overview.data && !gateway), what: "The gateway does not answer: there is no report now." }}>
      <Facts
        of={[
          ["Made", moment(props.at)],
          ["Software", `Bulkhead ${gateway?.version ?? "–"}, up ${span(gateway?.["uptime-seconds"] ?? NaN)}`],
          ["Clock", gateway?.["clock-synchronised"] ? "synchronised, as the gateway's machine says" : "not synchronised: times below are the machine's own"],
          ["Wires", wires.map((wire) => `${wire.name}: ${wire.mode}`).join(", ") || "–"],
          ["Policy", <span class="mono">{policy?.hash ?? "–"}</span>],
          ["Loaded", moment(policy?.["loaded-at"])],
          ["Rules", exact(policy?.rules ?? NaN)],
          ["Findings of the analysis", policy ? exact(policy.warnings.length) : "–"],
          ["Observed", learning ? `${span(learning.periods * learning["period-seconds"])}, from ${moment(learning["observed-since"])} until ${moment(learning["observed-until"])}` : "–"],
          ["Assets", learning ? `${count(learning.devices, "device")}, ${count(learning.edges, "connection")}` : "–"],
        ]}
      />
    </Panel>
  );
}

function Zones({ matrix }: { matrix: Resource<Matrix> }) {
  const rows = matrix.data?.groups ?? [];
  return (
    <Panel title="Zones (IEC 62443-3-3 SR 5.1)" from={matrix} flush empty={{ when: rows.length === 0, what: "No group has a device." }}>
      <Table
        caption="Zones"
        rows={rows}
        id={(group) => group.id}
        columns={[
          { title: "Group", cell: (group) => group.name },
          { title: "Kind", cell: (group) => group.kind },
          { title: "Devices", number: true, cell: (group) => exact(group.devices) },
        ]}
      />
    </Panel>
  );
}

function Conduits({ rules }: { rules: ReturnType<typeof usePaged<Rule>> }) {
  const rows = rules.data ?? [];
  return (
    <Panel title="Conduits: what the policy says (IEC 62443-3-3 SR 5.2)" from={rules} flush empty={{ when: rows.length === 0, what: "No rule: everything that is enforced is denied by default." }}>
      <Table
        caption="Conduits"
        rows={rows}
        id={(rule) => rule.name}
        more={rules.more}
        total={rules.total}
        columns={[
          { title: "Rule", cell: (rule) => <span class="wrap">{rule.name}</span> },
          { title: "Action", cell: (rule) => rule.action },
          { title: "From → to", cell: (rule) => <span class="wrap">{`${rule.from} ${rule.between ? "↔" : "→"} ${rule.to}`}</span> },
          { title: "Service", cell: (rule) => <span class="wrap">{rule.service}</span> },
          { title: "Purpose", cell: (rule) => <span class="wrap">{rule.reason ?? (rule.learned ? "learnt" : "none given")}</span> },
          { title: "Hits", number: true, cell: (rule) => si(rule.hits) },
          { title: "Last hit", cell: (rule) => moment(rule["last-hit"]) },
        ]}
      />
    </Panel>
  );
}

/** Declared against observed: how many pairs of groups are in which state. */
function Observed({ matrix }: { matrix: Resource<Matrix> }) {
  const cells = matrix.data?.cells ?? [];
  return (
    <Panel title="Declared against observed" from={matrix} flush>
      <Table
        caption="Pairs of groups by state"
        rows={STATES}
        id={(state) => state.state}
        columns={[
          { title: "State", cell: ({ state }) => `${stateOf(state).glyph} ${stateOf(state).name}` },
          { title: "Meaning", cell: (state) => state.meaning },
          { title: "Pairs of groups", number: true, cell: ({ state }) => exact(cells.filter((cell) => cell.state === state).length) },
          { title: "Denied packets", number: true, cell: ({ state }) => si(cells.filter((cell) => cell.state === state).reduce((sum, cell) => sum + cell.denied, 0)) },
        ]}
      />
    </Panel>
  );
}

function Standing({ exceptions }: { exceptions: Resource<Exceptions> }) {
  const rows = [
    ...(exceptions.data?.grants ?? []).map((grant) => ({ kind: "grant", what: `${grant.from} → ${grant.to} ${grant.service}`, until: moment(grant["expires-unix-ms"]), by: who(grant.who), why: grant.reason })),
    ...(exceptions.data?.quarantines ?? []).map((q) => ({ kind: "quarantine", what: q.device, until: "released", by: who(q.who), why: q.reason ?? "" })),
  ];
  return (
    <Panel title="Exceptions" from={exceptions} flush empty={{ when: rows.length === 0, what: "No exception holds and no device is in quarantine." }}>
      <Table
        caption="Exceptions"
        rows={rows}
        id={(row) => row.kind + row.what + row.until}
        columns={[
          { title: "What", cell: (row) => <span class="wrap">{row.what}</span> },
          { title: "Kind", cell: (row) => row.kind },
          { title: "Until", cell: (row) => row.until },
          { title: "By", cell: (row) => row.by },
          { title: "Why", cell: (row) => <span class="wrap">{row.why}</span> },
        ]}
      />
    </Panel>
  );
}

function Changes({ history, audit }: { history: Resource<HistoryReport>; audit: Resource<AuditPage> }) {
  const page = audit.data;
  return (
    <Panel title="Changes" from={audit} flush empty={{ when: page?.entries.length === 0, what: "Nothing was changed." }}>
      <p class="inset-text">
        {page?.verified ? "● The audit log's hash chain holds over every entry below." : `✕ The audit log's hash chain is broken: ${page?.broken ?? "it could not be verified"}.`}{" "}
        {history.data && `Version ${history.data["in-force"]} is in force, of ${count(history.data.versions.length, "kept version")}.`}
        {page?.["next-cursor"] && ` The newest ${page.entries.length} entries are shown.`}
      </p>
      <Table
        caption="Audit log"
        rows={page?.entries ?? []}
        id={(entry) => String(entry.sequence)}
        columns={[
          { title: "What", cell: (entry) => <span class="wrap">{entry.detail}</span> },
          { title: "When", cell: (entry) => moment(entry.time) },
          { title: "Who", cell: (entry) => who(entry.who) },
          { title: "Why", cell: (entry) => <span class="wrap">{entry.reason ?? "–"}</span> },
        ]}
      />
    </Panel>
  );
}

function Losses({ learning, overview }: { learning: Resource<Learning>; overview: Resource<Overview> }) {
  const verdicts = overview.data?.verdicts;
  return (
    <Panel title="Traffic, and what was not recorded" from={learning}>
      <Facts
        of={[
          ["Packets received", exact(verdicts?.received ?? NaN)],
          ["Forwarded", exact(verdicts?.forwarded ?? NaN)],
          ["Dropped", exact(verdicts?.dropped ?? NaN)],
          ["Would be dropped, on wires that observe", exact(verdicts?.["would-drop"] ?? NaN)],
          ["Records lost", (learning.data && lost(learning.data)) || "none"],
        ]}
      />
    </Panel>
  );
}

const Limits = () => (
  <Panel title="What this report does not show">
    <ul class="bullets">
      <li>Traffic that does not cross one of the wires above: within a switch, over another path, or by radio.</li>
      <li>What is inside permitted connections: the gateway judges who opens what to whom, not the content.</li>
      <li>The state of devices: their software, passwords, and whether they are taken over.</li>
      <li>The time before the store begins, and what was lost as told above.</li>
      <li>Whether a purpose that is written at a rule is a good one, and who answers for it.</li>
      <li>
        That any standard is met. It is evidence towards IEC 62443-3-3 SR 5.1 (network segmentation) and SR 5.2 (zone boundary protection), SEMI E187 (network security of fab equipment) and NIST SP 800-82r3 (network
        segmentation and isolation); an assessor judges it.
      </li>
    </ul>
  </Panel>
);
