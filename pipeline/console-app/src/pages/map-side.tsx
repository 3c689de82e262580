import { useState } from "preact/hooks";
import { findDevice } from "../api/find";
import { usePaged, useResource, type Resource } from "../api/resource";
import type { Blast, Edge, GroupDetail } from "../api/types";
import { ago, bytes, count, exact, si } from "../model/format";
import { adjust, href } from "../model/route";
import { RuleLink, State } from "../ui/marks";
import { Panel } from "../ui/panel";
import { Table } from "../ui/table";

const Close = ({ close }: { close: () => void }) => (
  <button type="button" class="button small" onClick={close} aria-label="Close this panel">
    ✕
  </button>
);

/** One cell of the matrix: its edges, each with the rule that decided. */
export function CellPanel(props: { from: string; to: string; range: { from?: string | undefined; to?: string | undefined }; close: () => void }) {
  const edges = usePaged<Edge>("/map/cell", { from: props.from, to: props.to, since: props.range.from, until: props.range.to });
  return (
    <Panel
      title={`${props.from} → ${props.to}`}
      from={edges}
      flush
      actions={<Close close={props.close} />}
      empty={{ when: edges.data?.length === 0, what: "No connection was seen.", hint: "What is permitted here was never used; a narrower rule would not cut anything." }}
    >
      <p class="row small cell-links">
        <a href={href(["map"], { g: props.from })}>{props.from}</a>
        <a href={href(["map"], { g: props.to })}>{props.to}</a>
        <a href={href(["flows"], { group: props.from })}>Flows</a>
      </p>
      <Table
        caption={`Connections from ${props.from} to ${props.to}`}
        rows={edges.data ?? []}
        id={(edge) => `${edge.client} ${edge.server} ${edge.service} ${edge.wire}`}
        more={edges.more}
        total={edges.total}
        loading={edges.loading}
        columns={[
          {
            title: "Client → server",
            cell: (edge) => (
              <>
                <a href={href(["devices", edge.client])}>{edge["client-name"] || edge.client}</a>
                <br />
                <span aria-hidden="true">→ </span>
                <a href={href(["devices", edge.server])}>{edge["server-name"] || edge.server}</a>
                <br />
                <span class="muted small">
                  {edge.service} · last {ago(edge["last-seen"])}
                </span>
              </>
            ),
          },
          {
            title: "Decided by",
            cell: (edge) => (
              <>
                <State state={edge.state} />
                <br />
                <RuleLink name={edge.rule ?? edge["decided-by"]} />
              </>
            ),
          },
          { title: "Flows", number: true, cell: (edge) => <span title={`${exact(edge.packets)} packets, ${bytes(edge.bytes)}`}>{si(edge.flows)}</span> },
        ]}
      />
    </Panel>
  );
}

/** One group: its members. */
export function GroupPanel({ id, close }: { id: string; close: () => void }) {
  const group = useResource<GroupDetail>(`/map/group/${encodeURIComponent(id)}`);
  const data = group.data;
  return (
    <Panel title={`Group ${data?.name ?? id}`} from={group} flush actions={<Close close={close} />} empty={{ when: data?.members.length === 0, what: "This group has no device of its own.", hint: "It stands for a network behind a router." }}>
      <p class="row small cell-links">
        <span>
          {data?.kind}, {count(data?.devices ?? 0, "device")}
        </span>
        <a href={href(["map"], { view: "graph", focus: id })}>As a graph</a>
        <a href={href(["flows"], { group: id })}>Flows</a>
      </p>
      <Table
        caption={`Devices of ${data?.name ?? id}`}
        rows={data?.members ?? []}
        id={(device) => device.id}
        total={data?.devices}
        columns={[
          {
            title: "Device",
            cell: (device) => (
<a href={href(["devices", device.id])}>{device.name || device.id}</a>
            ),
          },
          { title: "Connections", number: true, cell: (device) => exact(device.connections) },
          { title: "", cell: (device) => <a href={href(["map"], { view: "graph", device: device.id })}>Neighbours</a> },
        ]}
      />
    </Panel>
  );
}

const POLICIES = ["active", "staged"];

/** What one compromised device could reach, step by step, without and with the policy. */
export function BlastPanel({ blast, device, policy }: { blast: Resource<Blast>; device: string | undefined; policy: string }) {
  const [text, setText] = useState(device ?? "");
  const [missing, setMissing] = useState("");
  const data = blast.data;
  return (
    <Panel title="Blast radius" actions={<Close close={() => adjust({ overlay: "", policy: "" })} />}>
      <form
        class="stack"
        onSubmit={(event) => {
          event.preventDefault();
          void findDevice(text).then((id) => (id ? adjust({ device: id }) : setMissing(text)));
        }}
      >
        <label class="field">
          <span>Device that is taken over (MAC address, address or name)</span>
          <input required value={text} onInput={(e) => setText(e.currentTarget.value)} />
        </label>
        <div class="row">
          <label class="row">
            <span class="muted">under the policy that is</span>
            <select value={policy} onChange={(e) => adjust({ policy: e.currentTarget.value })}>
              {POLICIES.map((p) => (
                <option key={p}>{p}</option>
              ))}
            </select>
          </label>
          <button class="button primary">Show</button>
        </div>
      </form>
      {missing && <p class="bad">No device is called {missing}.</p>}
      {device && blast.error && <p class="bad">{blast.error.message}</p>}
      {device && data && (
        <div class="stack blast">
          <p>
            Without a policy it reaches <strong>{exact(data.before)}</strong>, with the {policy} one <strong>{exact(data.after)}</strong> devices
            {data.before > 0 && `: ${(100 * (1 - data.after / data.before)).toFixed(1)} % less`}.
          </p>
          <ol class="list">
            {data.steps.map((step) => (
              <li key={step.depth}>
                <span class="nowrap">{step.depth === 0 ? "itself" : `step ${step.depth}`}</span>
                <span class="grow wrap">
                  {Object.entries(step.groups)
                    .map(([group, n]) => `${group} (${n})`)
                    .join(", ")}
                  {step.via.length > 0 && <span class="muted"> via {step.via.join(", ")}</span>}
                </span>
                <span class="num">{exact(step.count)}</span>
              </li>
            ))}
          </ol>
          {data.coarse && <p class="muted small">Counted by groups: an upper bound.</p>}
        </div>
      )}
    </Panel>
  );
}
