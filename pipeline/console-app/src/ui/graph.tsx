import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { CellState, Graph } from "../api/types";
import { count } from "../model/format";
import { layout, type Hull, type Placed } from "../model/layout";
import { token, useCanvas } from "./canvas";
import { STATES } from "./marks";

/** Lines between groups that are drawn at once. */
const MAX_LINKS = 140;
const DASHES: Record<string, number[]> = { "would-block": [6, 3], blocked: [2, 3], unused: [1, 4] };

/** Devices as points within their groups. Drag moves, the wheel or + and − zoom; nothing moves by itself.
 *  Without a choice lines join groups, not devices, the heaviest of them, or those of the group under the
 *  pointer; the neighbours of what is chosen stay, the rest fades. */
export function GraphView(props: { graph: Graph; state?: CellState | undefined; chosen?: string | undefined; choose: (id: string | undefined) => void; open: (id: string) => void }) {
  const { graph, chosen, state: only } = props;
  const placed = useMemo(() => layout(graph.nodes, graph.edges), [graph]);
  const [over, setOver] = useState<Hull>();
  const links = useMemo(() => {
    const wanted = placed.links.filter((link) => !only || link.state === only);
    // Over a group its own lines are drawn, all of them; else the heaviest, so that it stays a picture.
    return over ? wanted.filter((link) => link.from === over || link.to === over) : wanted.sort((a, b) => b.share - a.share).slice(0, MAX_LINKS);
  }, [placed, only, over]);
  const byId = useMemo(() => new Map(placed.nodes.map((node) => [node.id, node])), [placed]);
  const near = useMemo(() => {
    if (!chosen) return undefined;
    const set = new Set([chosen]);
    for (const edge of graph.edges) {
      if (edge.from === chosen) set.add(edge.to);
      if (edge.to === chosen) set.add(edge.from);
    }
    return set;
  }, [graph, chosen]);
  const [hover, setHover] = useState<Placed>();
  const view = useRef({ x: 0, y: 0, zoom: 0 });

  const draw = useCallback(
    (context: CanvasRenderingContext2D, width: number, height: number) => {
      if (view.current.zoom === 0) view.current = fit(placed.hulls, width, height);
      const { x, y, zoom } = view.current;
      context.fillStyle = token("surface");
      context.fillRect(0, 0, width, height);
      context.save();
      context.translate(width / 2 - x * zoom, height / 2 - y * zoom);
      context.scale(zoom, zoom);
      context.fillStyle = token("raised");
      context.beginPath();
      for (const hull of placed.hulls) {
        context.moveTo(hull.x + hull.r, hull.y);
        context.arc(hull.x, hull.y, hull.r, 0, 2 * Math.PI);
      }
      context.fill();
      for (const { state, token: name } of STATES) {
        context.strokeStyle = token(name);
        context.setLineDash((DASHES[state] ?? []).map((d) => d / zoom));
        if (near) {
          context.globalAlpha = 0.95;
          context.lineWidth = 1.6 / zoom;
          context.beginPath();
          for (const edge of graph.edges) {
            if (edge.state !== state || (edge.from !== chosen && edge.to !== chosen)) continue;
            const a = byId.get(edge.from);
            const b = byId.get(edge.to);
            if (!a || !b) continue;
            context.moveTo(a.x, a.y);
            context.lineTo(b.x, b.y);
          }
          context.stroke();
          continue;
        }
        context.globalAlpha = over ? 0.95 : state === "used" || state === "unused" ? 0.4 : 0.75;
        for (const link of links) {
          if (link.state !== state) continue;
          context.lineWidth = (0.7 + 2.2 * link.share) / zoom;
          context.beginPath();
          context.moveTo(link.from.x, link.from.y);
          context.lineTo(link.to.x, link.to.y);
          context.stroke();
        }
      }
      context.setLineDash([]);
      for (const bright of near ? [false, true] : [true]) {
        context.globalAlpha = bright ? 1 : 0.25;
        context.fillStyle = token(bright && near ? "accent" : "line-strong");
        context.beginPath();
        for (const node of placed.nodes) {
          if (near && near.has(node.id) !== bright) continue;
          context.moveTo(node.x + node.r, node.y);
          context.arc(node.x, node.y, node.r, 0, 2 * Math.PI);
        }
        context.fill();
      }
      context.globalAlpha = 1;
      context.restore();
      label(context, width, height);
    },
    [placed, links, graph, near, hover],
  );
  const { canvas, redraw } = useCanvas(draw);

  function label(context: CanvasRenderingContext2D, width: number, height: number) {
    const { x, y, zoom } = view.current;
    context.font = `12px ${token("font")}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    const taken: { left: number; right: number; y: number }[] = [];
    // What is written first keeps its place: nothing is written over it.
    const write = (text: string, at: { x: number; y: number; r: number }, strong: boolean) => {
      const px = width / 2 + (at.x - x) * zoom;
      const py = height / 2 + (at.y - at.r - y) * zoom - 8;
      const half = context.measureText(text).width / 2 + 3;
      if (px + half < 0 || px - half > width || py < 0 || py > height) return;
      if (taken.some((other) => Math.abs(other.y - py) < 14 && px - half < other.right && px + half > other.left)) return;
      taken.push({ left: px - half, right: px + half, y: py });
      context.strokeStyle = token("surface");
      context.lineWidth = 3;
      context.strokeText(text, px, py);
      context.fillStyle = token(strong ? "text" : "muted");
      context.fillText(text, px, py);
    };
    if (hover) write(hover.devices > 1 ? `${hover.label} and ${hover.devices - 1} like it` : hover.label, hover, true);
    if (near) {
      for (const node of placed.nodes) if (node.id === chosen) write(node.label, node, true);
      for (const node of placed.nodes) if (near.has(node.id)) write(node.label, node, false);
      return;
    }
    for (const hull of placed.hulls) write(hull.group, hull, true);
    if (zoom > 2.2) for (const node of placed.nodes) write(node.label, node, false);
  }
  const world = (event: { clientX: number; clientY: number }) => {
    const bounds = canvas.current!.getBoundingClientRect();
    const { x, y, zoom } = view.current;
    return { x: x + (event.clientX - bounds.left - bounds.width / 2) / zoom, y: y + (event.clientY - bounds.top - bounds.height / 2) / zoom };
  };
  const pick = (event: MouseEvent): Placed | undefined => {
    const point = world(event);
    const slack = 5 / view.current.zoom;
    let best: Placed | undefined;
    let distance = Infinity;
    for (const node of placed.nodes) {
      const d = Math.hypot(node.x - point.x, node.y - point.y) - node.r;
      if (d < slack && d < distance) {
        best = node;
        distance = d;
      }
    }
    return best;
  };
  const zoomBy = (factor: number, around?: { x: number; y: number }) => {
    const old = view.current;
    const zoom = Math.max(0.08, Math.min(8, old.zoom * factor));
    const c = around ?? { x: old.x, y: old.y };
    view.current = { x: c.x - ((c.x - old.x) * old.zoom) / zoom, y: c.y - ((c.y - old.y) * old.zoom) / zoom, zoom };
    redraw();
  };
  useEffect(() => {
    const element = canvas.current;
    if (!element) return;
    const wheel = (event: WheelEvent) => {
      event.preventDefault();
      zoomBy(Math.exp(-event.deltaY * 0.0015), world(event));
    };
    element.addEventListener("wheel", wheel, { passive: false });
    return () => element.removeEventListener("wheel", wheel);
  }, []);
  useEffect(() => {
    view.current = { x: 0, y: 0, zoom: 0 };
    redraw();
  }, [placed]);
  const drag = useRef<{ x: number; y: number; moved: boolean }>();
  const key = (event: KeyboardEvent) => {
    const step = 60 / view.current.zoom;
    const move: Record<string, [number, number]> = { ArrowUp: [0, -step], ArrowDown: [0, step], ArrowLeft: [-step, 0], ArrowRight: [step, 0] };
    const by = move[event.key];
    if (by) {
      event.preventDefault();
      view.current = { ...view.current, x: view.current.x + by[0], y: view.current.y + by[1] };
      redraw();
    } else if (event.key === "+" || event.key === "=") zoomBy(1.25);
    else if (event.key === "-") zoomBy(0.8);
    else if (event.key === "Escape") props.choose(undefined);
  };
  return (
    <div class="graph">
      <canvas
        ref={canvas}
        tabIndex={0}
        role="img"
        aria-label={`Graph of ${count(graph.nodes.length, "object")} and ${count(graph.edges.length, "connection")}. Arrow keys move, plus and minus zoom. The same as a table: switch to Table.`}
        onKeyDown={key}
        onPointerDown={(event) => {
          drag.current = { x: event.clientX, y: event.clientY, moved: false };
          event.currentTarget.setPointerCapture(event.pointerId);
        }}
        onPointerMove={(event) => {
          const from = drag.current;
          if (!from) {
            const found = pick(event);
            if (found?.id !== hover?.id) setHover(found);
            const { x, y } = world(event);
            setOver(placed.hulls.find((hull) => Math.hypot(hull.x - x, hull.y - y) < hull.r));
            return;
          }
          const dx = event.clientX - from.x;
          const dy = event.clientY - from.y;
          if (!from.moved && Math.hypot(dx, dy) < 4) return;
          drag.current = { x: event.clientX, y: event.clientY, moved: true };
          view.current = { ...view.current, x: view.current.x - dx / view.current.zoom, y: view.current.y - dy / view.current.zoom };
          redraw();
        }}
        onPointerLeave={() => {
          setHover(undefined);
          setOver(undefined);
        }}
        onPointerUp={(event) => {
          const from = drag.current;
          drag.current = undefined;
          if (!from || from.moved) return;
          props.choose(pick(event)?.id);
        }}
        onDblClick={(event) => {
          const found = pick(event);
          if (found) props.open(found.id);
        }}
      />
      <div class="graph-buttons">
        <button type="button" class="button small" aria-label="Zoom in" onClick={() => zoomBy(1.25)}>
          +
        </button>
        <button type="button" class="button small" aria-label="Zoom out" onClick={() => zoomBy(0.8)}>
          −
        </button>
        <button
          type="button"
          class="button small"
          onClick={() => {
            view.current = { x: 0, y: 0, zoom: 0 };
            redraw();
          }}
        >
          All
        </button>
      </div>
      {placed.links.length > MAX_LINKS && (
        <p class="graph-note small muted">
          {over ? `${count(links.length, "line")} of ${over.group}` : `The ${links.length} heaviest of ${count(placed.links.length, "line")} between groups; point at a group for all of its own`}
        </p>
      )}
    </div>
  );
}

/** The view that shows every group with a margin. */
function fit(hulls: { x: number; y: number; r: number }[], width: number, height: number) {
  if (hulls.length === 0) return { x: 0, y: 0, zoom: 1 };
  const left = Math.min(...hulls.map((h) => h.x - h.r));
  const right = Math.max(...hulls.map((h) => h.x + h.r));
  const top = Math.min(...hulls.map((h) => h.y - h.r)) - 20;
  const bottom = Math.max(...hulls.map((h) => h.y + h.r));
  const zoom = Math.min(3, 0.94 * Math.min(width / (right - left), height / (bottom - top)));
  return { x: (left + right) / 2, y: (top + bottom) / 2, zoom: zoom > 0 ? zoom : 1 };
}
