import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";
import { may, send } from "../api/client";
import { usePaged, useResource, type Resource } from "../api/resource";
import type { ChangeReport, Exceptions, HistoryReport, Policy, Rule, RuleDetail, Version } from "../api/types";
import { ago, count, moment, short, si, who } from "../model/format";
import { adjust, href, route } from "../model/route";
import { change } from "../ui/dialog";
import { Panel } from "../ui/panel";
import { Table } from "../ui/table";

const TABS: [string, string][] = [["rules", "Rules"], ["warnings", "Warnings"], ["editor", "Editor"], ["grants", "Exceptions"], ["history", "History"]];

/** What is permitted, by which text, since when, and what it was before. */
export function PolicyPage() {
  const [, tab = "rules", name] = route.value.parts;
  const policy = useResource<Policy>("/policy");
  const data = policy.data;
  return (
    <div class="stack">
      <div class="title">
        <h1>Policy</h1>
        {data && (
          <p class="small">
            {count(data.rules, "rule")} in {count(data.files.length, "file")}, <span class="mono">{short(data.hash)}</span>, loaded {moment(data["loaded-at"])}
          </p>
        )}
      </div>
      <div class="row">
        <div class="segments" role="group" aria-label="Part of the policy">
          {TABS.map(([path, title]) => (
            <button key={path} type="button" aria-pressed={path === tab} onClick={() => (location.hash = href(["policy", path]))}>
              {title}
              {path === "warnings" && data && data.warnings.length > 0 && ` (${data.warnings.length})`}
            </button>
          ))}
        </div>
      </div>
      {tab === "rules" && (name ? <RuleView name={name} /> : <Rules />)}
      {tab === "warnings" && (
        <Panel title="What the analysis says" from={policy} flush empty={{ when: data?.warnings.length === 0, what: "No rule is shadowed, redundant or contradictory." }}>
          <Table
            caption="Warnings"
            rows={data?.warnings ?? []}
            id={(w) => `${w.file}:${w.line}:${w.message}`}
            columns={[
              { title: "Where", cell: (w) => (w.file ? <a class="mono" href={href(["policy", "editor"], { file: w.file, line: w.line })}>{`${w.file}:${w.line}`}</a> : "–") },
              { title: "What", cell: (w) => w.message },
              { title: "What to do", cell: (w) => w.help ?? "–" },
            ]}
          />
        </Panel>
      )}
      {tab === "editor" && <EditorTab />}
      {tab === "grants" && <Grants />}
      {tab === "history" && <History />}
    </div>
  );
}

function Rules() {
  const { query } = route.value;
  const [text, setText] = useState(query.search ?? "");
  const rules = usePaged<Rule>("/policy/rules", { search: query.search, limit: 100 });
  const rows = rules.data ?? [];
  return (
    <>
      <form
        class="filters"
        role="search"
        onSubmit={(event) => {
          event.preventDefault();
          adjust({ search: text.trim() });
        }}
      >
        <label class="field">
          <span>Name, group or service</span>
          <input type="search" value={text} onInput={(e) => setText(e.currentTarget.value)} />
        </label>
        <button class="button primary">Search</button>
      </form>
      <Panel
        title={rules.total === undefined ? "Rules, first match decides" : `${count(rules.total, "rule")}, first match decides`}
        from={rules}
        flush
        empty={{ when: rows.length === 0, what: query.search ? "No rule matches." : "There is no rule: the default decides everything.", hint: query.search ? "Take the search away." : "Learn and lock down proposes some." }}
      >
        <Table
          caption="Rules"
          rows={rows}
          id={(rule) => rule.name}
          more={rules.more}
          total={rules.total}
          loading={rules.loading}
          columns={[
            {
              title: "Rule",
              cell: (rule) => (
                <>
                  <a class="wrap" href={href(["policy", "rules", rule.name])}>
                    {rule.name}
                  </a>
                  {rule.warnings.length > 0 && (
                    <span class="badge warn" title={rule.warnings.join("; ")}>
                      ▲ {rule.warnings.length}
                    </span>
                  )}
                </>
              ),
            },
            { title: "Action", cell: (rule) => <Action action={rule.action} /> },
            { title: "From → to", cell: (rule) => ends(rule) },
            { title: "Service", cell: (rule) => rule.service },
            { title: "Hits", number: true, cell: (rule) => si(rule.hits) },
            { title: "Last hit", cell: (rule) => <span class="nowrap">{ago(rule["last-hit"])}</span> },
            { title: "Expires", cell: (rule) => (rule.expires ? <span class="warn nowrap">{moment(rule.expires)}</span> : "–") },
          ]}
        />
      </Panel>
    </>
  );
}

/** Who opens to whom; with ↔ either may. */
const ends = (rule: Rule): string => `${rule.from} ${rule.between ? "↔" : "→"} ${rule.to}`;

const Action = ({ action }: { action: string }) => (
  <span class={`nowrap ${action === "allow" ? "good" : "bad"}`}>
    <span aria-hidden="true">{action === "allow" ? "●" : "✕"}</span> {action}
  </span>
);

function RuleView({ name }: { name: string }) {
  const rule = useResource<RuleDetail>(`/policy/rules/${encodeURIComponent(name)}`);
  const data = rule.data;
  return (
    <div class="grid">
      <Panel title={`Rule ${name}`} class="span-6" from={rule} actions={<a href={href(["policy", "rules"])}>All rules</a>}>
        {data && (
          <dl class="facts-list">
            <dt>Action</dt>
            <dd>
              <Action action={data.action} />
            </dd>
            <dt>From → to</dt>
            <dd>{ends(data)}</dd>
            <dt>Service</dt>
            <dd>{data.service}</dd>
            <dt>Hits</dt>
            <dd>
              {si(data.hits)}, last {ago(data["last-hit"])}
            </dd>
            <dt>Reason</dt>
            <dd>{data.reason ?? "none given"}</dd>
            <dt>Expires</dt>
            <dd>{data.expires ? moment(data.expires) : "never"}</dd>
            <dt>Text</dt>
            <dd>
              <a class="mono" href={href(["policy", "editor"], { file: data.file, line: data.line })}>
                {data.file}:{data.line}
              </a>
            </dd>
            <dt>Traffic</dt>
            <dd>
              <a href={href(["flows"], { rule: data.name })}>Flows that it decided</a>
            </dd>
          </dl>
        )}
        {data?.warnings.map((warning) => (
          <p key={warning} class="notice warn">
            {warning}
          </p>
        ))}
        {data && <pre class="block">{data.text}</pre>}
      </Panel>
      <Panel
        title="Evidence: what it decides"
        class="span-6"
        from={rule}
        flush
        empty={{ when: data?.evidence.length === 0, what: "Nothing that was seen is decided by it.", hint: "It permits what nobody used; a narrower rule, or none, would cut nothing that was observed." }}
      >
        <Table
          caption="Connections that the rule decides"
          rows={data?.evidence ?? []}
          id={(edge) => `${edge.client} ${edge.server} ${edge.service} ${edge.wire}`}
          total={data?.["evidence-total"]}
          columns={[
            {
              title: "Client → server",
              cell: (edge) => (
                <>
                  <a href={href(["devices", edge.client])}>{edge["client-name"] || edge.client}</a>
                  {" → "}
                  <a href={href(["devices", edge.server])}>{edge["server-name"] || edge.server}</a>
                </>
              ),
            },
            { title: "Service", cell: (edge) => edge.service },
            { title: "Last", cell: (edge) => <span class="nowrap">{ago(edge["last-seen"])}</span> },
            { title: "Flows", number: true, cell: (edge) => si(edge.flows) },
          ]}
        />
      </Panel>
    </div>
  );
}

/** The editor's code is the largest part of the application: it comes when it is first opened. */
function EditorTab() {
  const [View, setView] = useState<ComponentType>();
  const [failed, setFailed] = useState(false);
  useEffect(() => {
    import("./editor").then(
      (module) => setView(() => module.EditorPage),
      () => setFailed(true),
    );
  }, []);
  if (failed) return <p class="notice bad">The editor could not be loaded. Reload the page.</p>;
  return View ? <View /> : <p class="muted">Loading the editor</p>;
}

function Grants() {
  const grants = useResource<Exceptions>("/grants", {}, 15_000);
  // What was denied can be handed over in the address.
  const { query } = route.value;
  const [from, setFrom] = useState(query.from ?? "");
  const [to, setTo] = useState(query.to ?? "");
  const [service, setService] = useState(query.service ?? "");
  const [hours, setHours] = useState(4);
  const rows = grants.data?.grants ?? [];
  return (
    <>
      {may("operator") && (
        <Panel title="Grant for a while">
          <form
            class="filters"
            onSubmit={(event) => {
              event.preventDefault();
              change.value = {
                title: "Grant an exception",
                effect: `${from} may open ${service} to ${to} for ${hours} hours. It ends by itself, even if the console is gone.`,
                button: "Grant",
                act: (reason) => send<ChangeReport>("POST", "/grants", { permit: { from, to, service }, "for-seconds": hours * 3600, reason }),
                done: grants.reload,
              };
            }}
          >
            <label class="field half">
              <span>From (group, device or address)</span>
              <input required value={from} onInput={(e) => setFrom(e.currentTarget.value)} />
            </label>
            <label class="field half">
              <span>To</span>
              <input required value={to} onInput={(e) => setTo(e.currentTarget.value)} />
            </label>
            <label class="field half">
              <span>Service (tcp/102, or a name)</span>
              <input required value={service} onInput={(e) => setService(e.currentTarget.value)} />
            </label>
            <label class="field half">
              <span>For</span>
              <select value={hours} onChange={(e) => setHours(Number(e.currentTarget.value))}>
                {[1, 2, 4, 8, 24, 72, 168].map((h) => (
                  <option key={h} value={h}>
                    {h} h
                  </option>
                ))}
              </select>
            </label>
            <button class="button primary">Grant</button>
          </form>
        </Panel>
      )}
      <Panel title="Grants" from={grants} flush empty={{ when: rows.length === 0, what: "Nothing is granted now." }}>
        <Table
          caption="Exceptions"
          rows={rows}
          id={(grant) => grant.name}
          columns={[
            { title: "From → to", cell: (grant) => `${grant.from} → ${grant.to}` },
            { title: "Service", cell: (grant) => grant.service },
            { title: "State", cell: (grant) => (grant.suspended ? <span class="badge warn">▲ left out: makes no sense beside the policy</span> : <span class="nowrap">● holds</span>) },
            { title: "Ends", cell: (grant) => <span class="nowrap">{moment(grant["expires-unix-ms"])}</span> },
            { title: "By", cell: (grant) => who(grant.who) },
            { title: "Reason", cell: (grant) => grant.reason },
            {
              title: "",
              cell: (grant) =>
                may("operator") && (
                  <button
                    type="button"
                    class="button small danger"
                    onClick={() => {
                      change.value = {
                        title: "Revoke the exception",
                        effect: `${grant.from} → ${grant.to} ${grant.service}: what runs under it ends at its next packet.`,
                        button: "Revoke",
                        danger: true,
                        act: (reason) => send<ChangeReport>("DELETE", `/grants/${encodeURIComponent(grant.name)}`, { reason }),
                        done: grants.reload,
                      };
                    }}
                  >
                    Revoke
                  </button>
                ),
            },
          ]}
        />
      </Panel>
      <Quarantines exceptions={grants} />
    </>
  );
}

/** Everything that is in quarantine, also what the store has never seen or what was put there by another
 *  name than a device's. */
function Quarantines({ exceptions }: { exceptions: Resource<Exceptions> }) {
  const rows = exceptions.data?.quarantines ?? [];
  return (
    <Panel title="In quarantine" from={exceptions} flush empty={{ when: rows.length === 0, what: "Nothing is in quarantine.", hint: "A device's page puts it there." }}>
      <Table
        caption="In quarantine"
        rows={rows}
        id={(quarantine) => quarantine.device}
        columns={[
          { title: "Device", cell: (quarantine) => <a href={href(["devices", quarantine.device])}>{quarantine.device}</a> },
          { title: "Since", cell: (quarantine) => <span class="nowrap">{moment(quarantine["since-unix-ms"])}</span> },
          { title: "By", cell: (quarantine) => who(quarantine.who) },
          { title: "Reason", cell: (quarantine) => quarantine.reason ?? "–" },
          {
            title: "",
            cell: (quarantine) =>
              may("operator") && (
                <button type="button" class="button small" onClick={() => release(quarantine.device, exceptions.reload)}>
                  Release
                </button>
              ),
          },
        ]}
      />
    </Panel>
  );
}

function release(device: string, done: () => void) {
  change.value = {
    title: `Release ${device} from quarantine`,
    effect: "The rules decide about it again, from the next packet on.",
    button: "Release",
    act: (reason) => send<ChangeReport>("DELETE", `/devices/${encodeURIComponent(device)}/quarantine`, { reason }),
    done,
  };
}

function History() {
  const versions = useResource<HistoryReport>("/policy/history");
  const rows = [...(versions.data?.versions ?? [])].reverse();
  const now = versions.data?.["in-force"];
  return (
    <Panel title="Versions that were in force" from={versions} flush empty={{ when: rows.length === 0, what: "No version is kept yet.", hint: "Each reload and each lockdown adds one." }}>
      <Table
        caption="Versions"
        rows={rows}
        id={(version) => String(version.number)}
        columns={[
          { title: "Version", number: true, cell: (version) => version.number },
          { title: "Since", cell: (version) => <span class="nowrap">{moment(version["at-unix-ms"])}</span> },
          { title: "By", cell: (version) => `${who(version.who)}, ${version.by}` },
          { title: "Rules", number: true, cell: (version) => version.rules },
          { title: "Hash", cell: (version) => <span class="mono">{short(version.hash)}</span> },
          {
            title: "",
            cell: (version) =>
              version.number === now ? (
                <span class="badge accent">in force</span>
              ) : (
                <div class="row">
                  <a class="button small" href={href(["policy", "editor"], { version: version.number })}>
                    Compare
                  </a>
                  {may("operator") && (
                    <button type="button" class="button small" onClick={() => rollBack(version, versions.reload)}>
                      Roll back
                    </button>
                  )}
                </div>
              ),
          },
        ]}
      />
    </Panel>
  );
}

function rollBack(version: Version, done: () => void) {
  change.value = {
    title: `Roll back to version ${version.number}`,
    effect: `The policy of ${moment(version["at-unix-ms"])} (${count(version.rules, "rule")}) and the modes of the wires at that time are in force again, at once. No packet is lost by it; what that policy forbids ends at its next packet.`,
    button: "Roll back",
    danger: true,
    act: async (reason) => {
      return send<ChangeReport>("POST", "/policy/rollback", { to: version.number, reason });
    },
    done,
  };
}
