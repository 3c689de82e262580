import { usePaged, useResource } from "../api/resource";
import type { Edge, GroupDetail } from "../api/types";
import { ago, bytes, count, exact, si } from "../model/format";
import { href } from "../model/route";
import { RuleLink, State } from "../ui/marks";
import { Panel } from "../ui/panel";
import { Table } from "../ui/table";

export const Close = ({ close }: { close: () => void }) => (
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
            cell: (device) => <a href={href(["devices", device.id])}>{device.name || device.id}</a>,
          },
          { title: "Connections", number: true, cell: (device) => exact(device.connections) },
          { title: "", cell: (device) => <a href={href(["map"], { view: "graph", device: device.id })}>Neighbours</a> },
        ]}
      />
    </Panel>
  );
}
