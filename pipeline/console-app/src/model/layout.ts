import { forceCollide, forceLink, forceManyBody, forceSimulation, forceX, forceY, type SimulationNodeDatum } from "d3-force";
import type { CellState, GraphNode } from "../api/types";

export interface Placed extends GraphNode {
  x: number;
  y: number;
  r: number;
}
/** Where the members of a group lie, largest group first. */
export interface Hull {
  group: string;
  x: number;
  y: number;
  r: number;
}
/** All edges between two groups in one state, as one line; `share` of the heaviest one's weight. */
export interface Link {
  from: Hull;
  to: Hull;
  state: CellState;
  share: number;
}

const GOLDEN = Math.PI * (3 - Math.sqrt(5));
const SPACING = 9;
/** Enough for a hundred groups to settle; a fixed number, so that the same graph lies the same. */
const STEPS = 160;

/** FNV-1a: where a group starts depends on its name alone, so that one more group moves few others. */
export function hash(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i += 1) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  return h >>> 0;
}

interface Body extends SimulationNodeDatum {
  id: string;
  r: number;
}

/** Places groups by their connections, and the members of each in a spiral within it. The same input
 *  gives the same picture; nothing moves while it is looked at. */
export function layout(
  nodes: GraphNode[],
  edges: { from: string; to: string; state: CellState; weight: number }[],
): { nodes: Placed[]; hulls: Hull[]; links: Link[] } {
  const groups = new Map<string, GraphNode[]>();
  for (const node of nodes) {
    const list = groups.get(node.group);
    if (list) list.push(node);
    else groups.set(node.group, [node]);
  }
  const groupOf = new Map(nodes.map((node) => [node.id, node.group]));
  const bodies: Body[] = [...groups].sort(([a], [b]) => (a < b ? -1 : 1)).map(([id, list]) => {
    const h = hash(id);
    const angle = ((h & 0xffff) / 0x10000) * 2 * Math.PI;
    const distance = 60 + ((h >>> 16) / 0x10000) * 420;
    return { id, r: 10 + SPACING * Math.sqrt(list.length), x: Math.cos(angle) * distance, y: Math.sin(angle) * distance };
  });
  const links = new Map<string, { source: string; target: string; weight: number }>();
  for (const edge of edges) {
    const a = groupOf.get(edge.from);
    const b = groupOf.get(edge.to);
    if (a === undefined || b === undefined || a === b) continue;
    const [source, target] = a < b ? [a, b] : [b, a];
    const key = `${source}\n${target}`;
    const link = links.get(key);
    if (link) link.weight += edge.weight;
    else links.set(key, { source, target, weight: edge.weight });
  }
  const heaviest = Math.max(1, ...[...links.values()].map((link) => link.weight));
  forceSimulation(bodies)
    .force("charge", forceManyBody<Body>().strength((body) => -14 * body.r).distanceMax(900))
    .force(
      "link",
      forceLink<Body, { source: string; target: string; weight: number }>([...links.values()])
        .id((body) => body.id)
        .distance(120)
        .strength((link) => 0.02 + 0.2 * Math.sqrt(link.weight / heaviest)),
    )
    .force("x", forceX<Body>(0).strength(0.035))
    .force("y", forceY<Body>(0).strength(0.11))
    .force("apart", forceCollide<Body>((body) => body.r + 14).strength(0.9))
    .stop()
    .tick(STEPS);
  const placed: Placed[] = [];
  const hulls: Hull[] = [];
  for (const body of bodies) {
    const x = body.x ?? 0;
    const y = body.y ?? 0;
    hulls.push({ group: body.id, x, y, r: body.r });
    const list = [...(groups.get(body.id) ?? [])].sort((a, b) => (a.id < b.id ? -1 : 1));
    list.forEach((node, i) => {
      const reach = SPACING * Math.sqrt(i);
      placed.push({
        ...node,
        x: x + reach * Math.cos(i * GOLDEN),
        y: y + reach * Math.sin(i * GOLDEN),
        r: Math.min(9, 3 + Math.log2(Math.max(1, node.devices))),
      });
    });
  }
  hulls.sort((a, b) => b.r - a.r);
  return { nodes: placed, hulls, links: between(hulls, groupOf, edges) };
}

function between(hulls: Hull[], groupOf: Map<string, string>, edges: { from: string; to: string; state: CellState; weight: number }[]): Link[] {
  const hullOf = new Map(hulls.map((hull) => [hull.group, hull]));
  const found = new Map<string, Link>();
  for (const edge of edges) {
    const a = groupOf.get(edge.from);
    const b = groupOf.get(edge.to);
    const from = a === undefined ? undefined : hullOf.get(a);
    const to = b === undefined ? undefined : hullOf.get(b);
    if (!from || !to || from === to) continue;
    const key = `${a}\n${b}\n${edge.state}`;
    const link = found.get(key);
    if (link) link.share += edge.weight;
    else found.set(key, { from, to, state: edge.state, share: edge.weight });
  }
  const links = [...found.values()];
  const most = Math.max(1, ...links.map((link) => link.share));
  for (const link of links) link.share = Math.sqrt(link.share / most);
  return links;
}
