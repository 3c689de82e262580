import { useState } from "preact/hooks";
import { may, send } from "../api/client";
import { usePaged, useResource, type Resource } from "../api/resource";
import type { ChangeReport, DeviceDetail, DeviceRow } from "../api/types";
import { ago, count, exact, moment, si, who } from "../model/format";
import { adjust, href, route } from "../model/route";
import { change } from "../ui/dialog";
import { Panel } from "../ui/panel";
import { Table } from "../ui/table";

/** A device is asked for anew so often: the console hears of a quarantine, by whomever, within seconds. */
const EVERY_MS = 2_000;

/** Everything that was ever seen, and what it is. */
export function DevicesPage() {
  const id = route.value.parts[1];
  return id ? <Device id={id} /> : <Inventory />;
}

function Inventory() {
  const { query } = route.value;
  const [text, setText] = useState(query.search ?? "");
  const devices = usePaged<DeviceRow>("/devices", { search: query.search, role: query.role, wire: query.wire, state: query.state, limit: 100 });
  const rows = devices.data ?? [];
  return (
    <div class="stack">
      <div class="title">
        <h1>Devices</h1>
      </div>
      <form
        class="filters"
        role="search"
        onSubmit={(event) => {
          event.preventDefault();
          adjust({ search: text.trim() });
        }}
      >
        <label class="field">
          <span>Name, address, MAC address or maker</span>
          <input type="search" value={text} onInput={(e) => setText(e.currentTarget.value)} />
        </label>
        <label class="field half">
          <span>Role</span>
          <select value={query.role ?? ""} onChange={(e) => adjust({ role: e.currentTarget.value })}>
            <option value="">any</option>
            {["router", "server", "client", "both", "silent"].map((role) => (
              <option key={role}>{role}</option>
            ))}
          </select>
        </label>
        <label class="field half">
          <span>Wire</span>
          <input value={query.wire ?? ""} onChange={(e) => adjust({ wire: e.currentTarget.value.trim() })} />
        </label>
        <label class="field">
          <span>State</span>
          <select value={query.state ?? ""} onChange={(e) => adjust({ state: e.currentTarget.value })}>
            <option value="">any</option>
            <option value="ungrouped">in no group</option>
            <option value="new">new</option>
            <option value="denied">denied something</option>
            <option value="quarantined">in quarantine</option>
          </select>
        </label>
        <button class="button primary">Search</button>
      </form>
      <Panel
        title={devices.total === undefined ? "Inventory" : `Inventory: ${count(devices.total, "device")}`}
        from={devices}
        flush
        empty={{ when: rows.length === 0, what: "No device matches.", hint: "Take a filter away, or wait: a device appears with its first packet." }}
      >
        <Table
          caption="Devices"
          rows={rows}
          id={(device) => device.id}
          more={devices.more}
          total={devices.total}
          loading={devices.loading}
          columns={[
            {
              title: "Device",
              cell: (device) => (
                <>
                  <a href={href(["devices", device.id])}>{device.name || device.id}</a>
                  <br />
                  <span class="small muted">{device.maker ?? "unknown maker"}</span>
                </>
              ),
            },
            { title: "Address", cell: (device) => <span class="mono">{device.addresses.slice(0, 2).join(", ")}</span> },
            { title: "Role", cell: (device) => device.role },
            { title: "Groups", cell: (device) => device.groups.join(", ") },
            { title: "Wire", cell: (device) => device.wire },
            { title: "Last seen", cell: (device) => <span class="nowrap">{ago(device["last-seen"])}</span> },
            { title: "State", cell: (device) => Standing({ device }) ?? "–" },
          ]}
        />
      </Panel>
    </div>
  );
}

function Standing({ device }: { device: DeviceRow }) {
  if (device.quarantined) {
    return (
      <span class="badge bad">
        <span aria-hidden="true">✕</span> quarantine
      </span>
    );
  }
  return device.groups.length === 0 ? <span class="badge warn">no group</span> : null;
}

function Device({ id }: { id: string }) {
  const device = useResource<DeviceDetail>(`/devices/${encodeURIComponent(id)}`, {}, EVERY_MS);
  const data = device.data;
  return (
    <div class="stack">
      <div class="title">
        <div class="row">
          <a href={href(["devices"])}>Devices</a> <span class="muted">/</span>
          <h1>{data?.name || id}</h1>
          {data && <Standing device={data} />}
        </div>
        {data && <Actions device={data} reload={device.reload} />}
      </div>
      {!data ? (
        <Panel title="Device" from={device} />
      ) : (
        <div class="grid">
          <Identity data={data} from={device} />
          <Services data={data} from={device} />
          <Panel title="Addresses" class="span-6" from={device} flush empty={{ when: data.history.length === 0, what: "No address was bound to it." }}>
            <Table
              caption="Address history"
              rows={data.history}
              id={(row) => row.address + row["first-seen"]}
              columns={[
                { title: "Address", cell: (row) => <span class="mono">{row.address}</span> },
                { title: "From", cell: (row) => moment(row["first-seen"]) },
                { title: "Until", cell: (row) => moment(row["last-seen"]) },
              ]}
            />
          </Panel>
        </div>
      )}
    </div>
  );
}

function Identity({ data, from }: { data: DeviceDetail; from: Resource<DeviceDetail> }) {
  return (
    <Panel title="Identity" class="span-6" from={from}>
      <dl class="facts-list">
        <dt>Identity</dt>
        <dd class="mono">{data.mac ?? data.addresses[0] ?? data.id}</dd>
        <dt>Maker</dt>
        <dd>{data.maker ?? "unknown"}</dd>
        <dt>Role</dt>
        <dd>{data.role}</dd>
        <dt>Groups</dt>
        <dd>
          {data.groups.map((group, i) => (
            <>
              {i > 0 && ", "}
              <a href={href(["devices"], { search: group })}>{group}</a>
            </>
          ))}
          {data.groups.length === 0 && "none"}
        </dd>
        <dt>Wire</dt>
        <dd>
          {data.wire}, {data.side}
          {data.vlan && `, VLAN ${data.vlan}`}
        </dd>
        <dt>On the map</dt>
        <dd>
          <a href={href(["map"], { g: data.group })}>{data.group}</a>
        </dd>
        <dt>First seen</dt>
        <dd>{moment(data["first-seen"])}</dd>
        <dt>Last seen</dt>
        <dd>
          {moment(data["last-seen"])} ({ago(data["last-seen"])})
        </dd>
        {data.quarantine && (
          <>
            <dt>Quarantine</dt>
            <dd>
              since {moment(data.quarantine["since-unix-ms"])} by {who(data.quarantine.who)}: {data.quarantine.reason}
            </dd>
          </>
        )}
        <dt>Neighbours</dt>
        <dd>
          <a href={href(["map"], { view: "graph", device: data.id })}>{exact(data["neighbours-count"])}</a>
        </dd>
      </dl>
    </Panel>
  );
}

function Services({ data, from }: { data: DeviceDetail; from: Resource<DeviceDetail> }) {
  const rows = [...data.offers.map((use) => ({ ...use, direction: "offers" })), ...data.uses.map((use) => ({ ...use, direction: "uses" }))];
  return (
    <Panel title="What it offers and uses" class="span-6" from={from} flush empty={{ when: rows.length === 0, what: "No service was seen, in either direction." }}>
      <Table
        caption="Services"
        rows={rows}
        id={(row) => row.direction + row.service}
        columns={[
          {
            title: "Service",
            cell: (row) => (
              <>
                {row.service} <span class="muted">{row.applications.join(", ")}</span>
              </>
            ),
          },
          { title: "Direction", cell: (row) => row.direction },
          { title: "Peers", number: true, cell: (row) => exact(row.peers) },
          { title: "Flows", number: true, cell: (row) => si(row.flows) },
          { title: "Denied", number: true, cell: (row) => <span class={row.denied ? "bad" : ""}>{si(row.denied)}</span> },
        ]}
      />
    </Panel>
  );
}

function Actions({ device, reload }: { device: DeviceDetail; reload: () => void }) {
  const path = (name: string) => `/devices/${encodeURIComponent(name)}/quarantine`;
  const name = device.name || device.id;
  return (
    <div class="row">
      <a class="button" href={href(["map"], { view: "graph", device: device.id })}>
        Neighbours
      </a>
      <a class="button" href={href(["map"], { overlay: "blast", device: device.id })}>
        Blast radius
      </a>
      <a class="button" href={href(["flows"], { device: device.id })}>
        Flows
      </a>
      {may("operator") && (
        <button
          type="button"
          class={`button ${device.quarantined ? "" : "danger"}`}
          onClick={() => {
            change.value = device.quarantined
              ? {
                  title: `Release ${name} from quarantine`,
                  effect: "The rules decide about it again, from the next packet on.",
                  button: "Release",
                  // By the name under which it was put there, which may be another than this device's.
                  act: (reason) => send<ChangeReport>("DELETE", path(device.quarantine?.device ?? device.id), { reason }),
                  done: reload,
                }
              : {
                  title: `Quarantine ${name}`,
                  effect: `Everything from and to ${device.addresses.join(", ") || device.id} is cut at once, on wires that only observe too, and what is open now with it. DHCP is all that it may still open. It stays so until somebody releases it.`,
                  button: "Quarantine",
                  danger: true,
                  act: (reason) => send<ChangeReport>("POST", path(device.id), { reason }),
                  done: reload,
                };
          }}
        >
          {device.quarantined ? "Release" : "Quarantine"}
        </button>
      )}
    </div>
  );
}
