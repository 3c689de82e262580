import { useState } from "preact/hooks";
import { may } from "../api/client";
import { findDevice } from "../api/find";
import { overview } from "../api/live";
import { usePaged } from "../api/resource";
import type { Denied, Edge } from "../api/types";
import { captureFilter, searchFilter } from "../model/capture";
import { bytes, count, exact, moment, si } from "../model/format";
import { adjust, href, route } from "../model/route";
import { RuleLink, State } from "../ui/marks";
import { Panel } from "../ui/panel";
import { Table } from "../ui/table";
import { CaptureDialog, captureEvidence } from "./capture";

type Row = Edge & Partial<Denied>;

const TIMES: [string, number][] = [["15 min", 15], ["1 h", 60], ["24 h", 1_440], ["7 d", 10_080]];

export const FlowsPage = () => <Search denied={false} />;
export const DeniedPage = () => <Search denied />;

/** What passed, or what did not and why, newest first. */
function Search({ denied }: { denied: boolean }) {
  const { query } = route.value;
  const [form, setForm] = useState({ device: query.device ?? "", group: query.group ?? "", service: query.service ?? "", rule: query.rule ?? "" });
  const [missing, setMissing] = useState("");
  // The beginning is kept while the filters stay, so that paging does not slide.
  const [now, setNow] = useState(Date.now());
  const since = query.last ? new Date(now - Number(query.last) * 60_000).toISOString() : undefined;
  const flows = usePaged<Row>(denied ? "/denied" : "/flows", {
    device: query.device,
    group: query.group,
    service: query.service,
    rule: query.rule,
    verdict: denied ? undefined : query.verdict,
    since,
    limit: 100,
  });
  const rows = flows.data ?? [];
  const observing = overview.value?.gateway?.wires.filter((wire) => wire.mode === "observe").length ?? 0;
  const search = async () => {
    setMissing("");
    const { device, ...rest } = form;
    const id = device ? (await findDevice(device)) : "";
    if (id === undefined) setMissing(device);
    else adjust({ ...rest, device: id });
  };
  const field = (name: keyof typeof form, title: string) => (
    <label class="field half">
      <span>{title}</span>
      <input type="search" value={form[name]} onInput={(e) => setForm({ ...form, [name]: e.currentTarget.value })} />
    </label>
  );
  return (
    <div class="stack">
      <div class="title">
        <h1>{denied ? "Denied" : "Flows"}</h1>
        <p class="small">{denied ? "What was dropped, with the nearest rule and what would permit it." : "Who opened what to whom, and the rule that decided."}</p>
      </div>
      <form
        class="filters"
        role="search"
        onSubmit={(event) => {
          event.preventDefault();
          setNow(Date.now());
          void search();
        }}
      >
        {field("device", "Device or address")}
        {field("group", "Group")}
        {field("service", "Service")}
        {field("rule", "Rule")}
        {!denied && (
          <label class="field half">
            <span>Verdict</span>
            <select value={query.verdict ?? ""} onChange={(e) => adjust({ verdict: e.currentTarget.value })}>
              <option value="">any</option>
              <option value="allow">permitted</option>
              <option value="deny">denied by the policy</option>
              <option value="blocked">blocked</option>
              <option value="would-block">would be blocked</option>
            </select>
          </label>
        )}
        <label class="field half">
          <span>Last</span>
          <select value={query.last ?? ""} onChange={(e) => adjust({ last: e.currentTarget.value })}>
            <option value="">all that is stored</option>
            {TIMES.map(([name, minutes]) => (
              <option key={name} value={minutes}>
                {name}
              </option>
            ))}
          </select>
        </label>
        <button class="button primary">Search</button>
        {query.device && (
          <button type="button" class="button" onClick={() => adjust({ device: "" })}>
            device {query.device} ✕
          </button>
        )}
      </form>
      {denied && observing > 0 && (
        <p class="notice">
          {count(observing, "wire observes", "wires observe")} and {observing === 1 ? "drops" : "drop"} nothing: what {observing === 1 ? "it" : "they"} would drop passes, and stands under{" "}
          <a href={href(["flows"], { verdict: "would-block" })}>Flows that would be blocked</a>.
        </p>
      )}
      {missing && <p class="notice warn">No device, or more than one, is called {missing}.</p>}
      <Panel
        title={flows.total === undefined || flows.total === null ? "Matches" : `${exact(flows.total)} match`}
        from={flows}
        flush
        empty={{ when: rows.length === 0, what: denied ? "Nothing was denied." : "Nothing matches.", hint: "Take a filter away, or look at a longer time." }}
        actions={
          <>
            {may("operator") && (
              <button type="button" class="button small" onClick={() => captureEvidence(searchFilter(query))}>
                Capture packets
              </button>
            )}
            <button type="button" class="button small" onClick={() => (setNow(Date.now()), flows.reload())}>
              Newest
            </button>
          </>
        }
      >
        <Table
          caption={denied ? "Denied" : "Flows"}
          rows={rows}
          id={(flow) => `${flow.client} ${flow.server} ${flow.service} ${flow.wire} ${flow.reason ?? ""}`}
          more={flows.more}
          total={flows.total}
          loading={flows.loading}
          columns={[
            {
              title: "Client → server",
              cell: (flow) => (
                <>
                  <a href={href(["devices", flow.client])}>{flow["client-name"] || flow.client}</a>
                  {" → "}
                  <a href={href(["devices", flow.server])}>{flow["server-name"] || flow.server}</a>
                </>
              ),
            },
            { title: "Service", cell: (flow) => flow.service },
            { title: "Last", cell: (flow) => <span class="nowrap">{moment(flow["last-seen"])}</span> },
            {
              title: "Decided by",
              cell: (flow) => (
                <>
                  <State state={flow.state} /> <RuleLink name={flow.rule ?? flow["decided-by"]} />
                  {flow.reason && <div class="muted small">{flow.reason}</div>}
                </>
              ),
            },
            ...(denied
              ? [
                  {
                    title: "Nearest rule, and what to do",
                    cell: (flow: Row) => (
                      <>
                        {flow.nearest && <span class="wrap">{flow.nearest}</span>}
                        {flow.remedy && <div class="muted small">{flow.remedy}</div>}
                      </>
                    ),
                  },
                ]
              : [
                  { title: "Wire", cell: (flow: Row) => <span class="nowrap">{flow.wire}</span> },
                  { title: "Flows", number: true, cell: (flow: Row) => si(flow.flows) },
                  { title: "Bytes", number: true, cell: (flow: Row) => bytes(flow.bytes) },
                ]),
            { title: denied ? "Denied packets" : "Packets", number: true, cell: (flow) => si(denied ? flow.denied : flow.packets) },
            ...(may("operator")
              ? [
                  {
                    title: "",
                    cell: (flow: Row) => (
                      <div class="row">
                      {denied && (
                        <a class="button small" href={href(["policy", "grants"], { from: flow.client, to: flow.server, service: flow.service })} aria-label={`Grant ${flow.service} of ${flow["client-name"] || flow.client} to ${flow["server-name"] || flow.server} for a while`}>
                          Grant
                        </a>
                      )}
                      <button
                        type="button"
                        class="button small"
                        aria-label={`Capture ${flow.service} of ${flow["client-name"] || flow.client} and ${flow["server-name"] || flow.server}`}
                        onClick={() => captureEvidence(captureFilter(flow))}
                      >
                        Capture
                      </button>
                      </div>
                    ),
                  },
                ]
              : []),
          ]}
        />
      </Panel>
      <CaptureDialog />
    </div>
  );
}
