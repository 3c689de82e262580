import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { useResource } from "../api/resource";
import type { Blast, CellState, Graph, Matrix } from "../api/types";
import { count, moment } from "../model/format";
import { emphasised, index, OVERLAYS, tally, type Overlay } from "../model/matrix";
import { withGroups } from "../model/playback";
import { adjust, go, route } from "../model/route";
import { GraphView } from "../ui/graph";
import { STATES, State } from "../ui/marks";
import { MatrixView } from "../ui/matrix";
import { Panel } from "../ui/panel";
import { Table } from "../ui/table";
import { BlastPanel, POLICIES } from "./map-blast";
import { CellPanel, GroupPanel } from "./map-side";
import { TimeSlider } from "./map-time";

type View = "matrix" | "table" | "graph";
const NARROW_PX = 760;
const STACKED_PX = 1_100;
/** The map is asked for anew so often while it is looked at, in milliseconds. */
const EVERY_MS = 60_000;
const VIEWS: [View, string][] = [["matrix", "Matrix"], ["table", "Table"], ["graph", "Graph"]];

/** What the graph's lines show, where an overlay is of one state. */
const OVERLAY_STATE: Partial<Record<Overlay, CellState>> = { staged: "would-block", unused: "unused" };

/** Who reaches whom: groups first, then down to the rule that decided. */
export function MapPage() {
  const { query } = route.value;
  // A matrix wants a wide screen; on a narrow one its rows are a list.
  const usual: View = innerWidth < NARROW_PX ? "table" : "matrix";
  const view = (VIEWS.some(([v]) => v === query.view) ? query.view : usual) as View;
  const overlay = (OVERLAYS.some((o) => o.overlay === query.overlay) ? query.overlay : "") as Overlay;
  const range = { from: query.from, to: query.to };
  const matrix = useResource<Matrix>("/map/matrix", range, EVERY_MS, true);
  // The groups of all time, so that nothing jumps while a part of it is looked at.
  const whole = useResource<Matrix>(range.from || range.to ? "/map/matrix" : null);
  const shown = useMemo(() => (matrix.data ? withGroups(matrix.data, whole.data) : undefined), [matrix.data, whole.data]);
  const indexed = useMemo(() => (shown ? index(shown) : undefined), [shown]);
  const graph = useResource<Graph>(
    view !== "graph" ? null : query.device ? "/map/neighbours" : "/map/graph",
    query.device ? { device: query.device, depth: 1 } : { focus: query.focus, limit: 2000 },
  );
  const policy = POLICIES.some((p) => p.policy === query.policy) ? query.policy! : "active";
  const blast = useResource<Blast>(overlay === "blast" && query.device ? "/map/blast" : null, { device: query.device, policy });
  const reached = useMemo(() => new Set<string>(blast.data?.steps.flatMap((step) => Object.keys(step.groups)) ?? []), [blast.data]);
  const [picked, setPicked] = useState<string>();
  const chosen = query.a && query.b ? { from: query.a, to: query.b } : undefined;
  const side = chosen || query.g || overlay === "blast";
  // Where there is no room beside the map, what was chosen comes before it, and into view.
  const beside = useRef<HTMLDivElement>(null);
  const about = `${query.a} ${query.b} ${query.g} ${overlay === "blast"}`;
  useEffect(() => {
    if (innerWidth <= STACKED_PX) beside.current?.scrollIntoView({ block: "start" });
  }, [about]);
  const open = (a: string, b: string) => adjust({ a, b, g: "" });
  const openGroup = (g: string) => adjust({ g, a: "", b: "" });

  return (
    <div class="stack">
      <div class="title">
        <h1>Map</h1>
        <div class="row">
          <div class="segments" role="group" aria-label="View">
            {VIEWS.map(([v, name]) => (
              <button key={v} type="button" aria-pressed={v === view} onClick={() => adjust({ view: v === usual ? "" : v })}>
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
      {view !== "graph" && <TimeSlider arrived={!matrix.loading} />}
      <div class={`map ${side ? "" : "wide"}`}>
        {view === "graph" ? (
          <Panel
            title={query.device ? `Neighbours of ${query.device}` : "Devices by group"}
            from={graph}
            flush
            empty={{ when: graph.data?.nodes.length === 0, what: "Nothing was seen yet.", hint: "The graph fills as soon as the learning process has stored what the gateway saw." }}
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
            {graph.data && <GraphView graph={graph.data} state={OVERLAY_STATE[overlay]} chosen={picked ?? query.device} choose={setPicked} open={(id) => go(["devices", id])} />}
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
            {shown && view === "table" && <Pairs matrix={shown} overlay={overlay} reached={reached} open={open} />}
          </Panel>
        )}
        {side && (
          <div class="stack side" ref={beside}>
            {overlay === "blast" && <BlastPanel blast={blast} device={query.device} policy={policy} />}
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
      {matrix && <li class="muted">as of {moment(matrix.at)}</li>}
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
