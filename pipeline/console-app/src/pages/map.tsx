import { useMemo, useState } from "preact/hooks";
import { useResource } from "../api/resource";
import type { Blast, Graph, Matrix } from "../api/types";
import { count } from "../model/format";
import { emphasised, index, OVERLAYS, tally, type Overlay } from "../model/matrix";
import { adjust, go, route } from "../model/route";
import { GraphView } from "../ui/graph";
import { STATES, State } from "../ui/marks";
import { MatrixView } from "../ui/matrix";
import { Panel } from "../ui/panel";
import { Table } from "../ui/table";
import { BlastPanel, CellPanel, GroupPanel } from "./map-side";
import { TimeSlider } from "./map-time";

type View = "matrix" | "table" | "graph";
const VIEWS: [View, string][] = [["matrix", "Matrix"], ["table", "Table"], ["graph", "Graph"]];

/** Who reaches whom: groups first, then down to the rule that decided. */
export function MapPage() {
  const { query } = route.value;
  const view = (VIEWS.some(([v]) => v === query.view) ? query.view : "matrix") as View;
  const overlay = (OVERLAYS.some((o) => o.overlay === query.overlay) ? query.overlay : "") as Overlay;
  const range = { from: query.from, to: query.to };
  const matrix = useResource<Matrix>("/map/matrix", range);
  const indexed = useMemo(() => (matrix.data ? index(matrix.data) : undefined), [matrix.data]);
  const graph = useResource<Graph>(
    view !== "graph" ? null : query.device ? "/map/neighbours" : "/map/graph",
    query.device ? { device: query.device, depth: 1 } : { focus: query.focus, limit: 2000 },
  );
  const blast = useResource<Blast>(overlay === "blast" && query.device ? "/map/blast" : null, { device: query.device, policy: query.policy ?? "active" });
  const reached = useMemo(() => new Set<string>(blast.data?.steps.flatMap((step) => Object.keys(step.groups)) ?? []), [blast.data]);
  const [picked, setPicked] = useState<string>();
  const chosen = query.a && query.b ? { from: query.a, to: query.b } : undefined;
  const side = chosen || query.g || overlay === "blast";
  const open = (a: string, b: string) => adjust({ a, b, g: "" });
  const openGroup = (g: string) => adjust({ g, a: "", b: "" });

  return (
    <div class="stack">
      <div class="title">
        <h1>Map</h1>
        <div class="row">
          <div class="segments" role="group" aria-label="View">
            {VIEWS.map(([v, name]) => (
              <button key={v} type="button" aria-pressed={v === view} onClick={() => adjust({ view: v === "matrix" ? "" : v })}>
                {name}
              </button>
            ))}
          </div>
          <label class="row">
            <span class="muted">Show</span>
            <select value={overlay} onChange={(e) => adjust({ overlay: e.currentTarget.value })}>
              {OVERLAYS.map((o) => (
                <option key={o.overlay} value={o.overlay}>
                  {o.name}
                </option>
              ))}
            </select>
          </label>
        </div>
      </div>
      <TimeSlider />
      <div class={`map ${side ? "" : "wide"}`}>
        {view === "graph" ? (
          <Panel
            title={query.device ? `Neighbours of ${query.device}` : "Devices by group"}
            from={graph}
            flush
            empty={{ when: graph.data?.nodes.length === 0, what: "Nothing was seen in this time.", hint: "Choose a longer time above." }}
            actions={
              <>
                {graph.data?.aggregated && <span class="badge">aggregated to {count(graph.data.nodes.length, "object")}</span>}
                {query.device && (
                  <button type="button" class="button small" onClick={() => adjust({ device: "" })}>
                    All groups
                  </button>
                )}
                {picked && (
                  <button type="button" class="button small" onClick={() => go(["devices", picked])}>
                    Open {graph.data?.nodes.find((node) => node.id === picked)?.label}
                  </button>
                )}
              </>
            }
          >
            {graph.data && <GraphView graph={graph.data} chosen={picked ?? query.device} choose={setPicked} open={(id) => go(["devices", id])} />}
          </Panel>
        ) : (
          <Panel
            title={view === "table" ? "Pairs of groups" : "Rows reach columns"}
            from={matrix}
            flush
            empty={{
              when: matrix.data?.groups.length === 0,
              what: "No device was seen in this time.",
              hint: "Groups appear as soon as the learning process has stored what the gateway saw; or choose a longer time above.",
            }}
          >
            {matrix.data?.trouble && <p class="notice warn">{matrix.data.trouble}</p>}
            {overlay === "staged" && matrix.data && !matrix.data.staged && <p class="notice">No policy is staged: “would be blocked” is what the policy in force would cut if every wire enforced it.</p>}
            {matrix.data && matrix.data["left-out"] > 0 && <p class="notice warn">{count(matrix.data["left-out"], "connection")} had no room and are not shown.</p>}
            <Legend matrix={matrix.data} />
            {indexed && view === "matrix" && (
              <MatrixView matrix={indexed} overlay={overlay} reached={reached} {...(chosen ? { chosen } : {})} open={open} openGroup={openGroup} />
            )}
            {matrix.data && view === "table" && <Pairs matrix={matrix.data} overlay={overlay} reached={reached} open={open} />}
          </Panel>
        )}
        {side && (
          <div class="stack side">
            {overlay === "blast" && <BlastPanel blast={blast} device={query.device} policy={query.policy ?? "active"} />}
            {chosen && <CellPanel from={chosen.from} to={chosen.to} range={range} close={() => adjust({ a: "", b: "" })} />}
            {query.g && <GroupPanel id={query.g} close={() => adjust({ g: "" })} />}
          </div>
        )}
      </div>
    </div>
  );
}

function Legend({ matrix }: { matrix: Matrix | undefined }) {
  const counts = tally(matrix?.cells ?? []);
  return (
    <ul class="legend" aria-label="What the marks mean">
      {STATES.map(({ state, meaning }) => (
        <li key={state} title={meaning}>
          <State state={state} /> <span class="muted">{counts.get(state) ?? 0}</span>
        </li>
      ))}
    </ul>
  );
}

/** The matrix as rows, worst first: what a screen reader and a phone read best. */
function Pairs(props: { matrix: Matrix; overlay: Overlay; reached: ReadonlySet<string>; open: (from: string, to: string) => void }) {
  const [shown, setShown] = useState(100);
  const names = useMemo(() => new Map(props.matrix.groups.map((group) => [group.id, group.name])), [props.matrix]);
  const rank = { "would-block": 0, blocked: 1, mixed: 2, unused: 3, used: 4 } as const;
  const rows = useMemo(
    () => props.matrix.cells.filter((cell) => emphasised(cell, props.overlay, props.reached)).sort((a, b) => rank[a.state] - rank[b.state] || b.connections - a.connections),
    [props.matrix, props.overlay, props.reached],
  );
  return (
    <Table
      caption="Pairs of groups"
      rows={rows.slice(0, shown)}
      id={(cell) => `${cell.from} ${cell.to}`}
      total={rows.length}
      more={shown < rows.length ? () => setShown(shown + 200) : undefined}
      columns={[
        {
          title: "From → to",
          cell: (cell) => (
            <button type="button" class="plain wrap" onClick={() => props.open(cell.from, cell.to)}>
              {names.get(cell.from) ?? cell.from} → {names.get(cell.to) ?? cell.to}
            </button>
          ),
        },
        { title: "State", cell: (cell) => <State state={cell.state} /> },
        { title: "Connections", number: true, cell: (cell) => cell.connections },
        { title: "Denied", number: true, cell: (cell) => cell.denied },
        { title: "New", number: true, cell: (cell) => cell.new },
        { title: "Services", cell: (cell) => cell.services.join(", ") },
      ]}
    />
  );
}

