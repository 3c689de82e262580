// The shapes of the console's JSON API that the pages use.

export type Role = "viewer" | "operator" | "admin";

export interface Session {
  user: string;
  role: Role;
  csrf: string;
  expires: string;
  "setup-needed"?: boolean;
}

/** One page of a list; `next-cursor` is absent on the last. */
export interface Page<T> {
  items: T[];
  "next-cursor"?: string | null;
  total?: number | null;
}

export interface Counted {
  reason: string;
  count: number;
  rate: number;
}

export interface Decision {
  kind: string;
  what: string;
  link?: string | null;
}

export interface AuditEntry {
  at: string;
  who: string;
  what: string;
  reason?: string | null;
  outcome?: string | null;
}

export interface WireInfo {
  name: string;
  mode: string;
  fail?: string | null;
  ports: { name: string; link: string }[];
}

export interface Overview {
  at: string;
  gateway: {
    version: string;
    "uptime-seconds": number;
    policy: { hash: string; "loaded-at": string; rules: number } | null;
    wires: WireInfo[];
    clock: string;
  } | null;
  rates: { packets: number; bits: number };
  verdicts: { forwarded: number; dropped: number; "would-drop": number };
  drops: Counted[];
  workers: { core: number | null; "busy-ratio": number; hung: boolean }[];
  latency: { p50: number; p90: number; p99: number; p999: number } | null;
  flows: { used: number; capacity: number };
  "changes-since": AuditEntry[];
  decisions: Decision[];
}

export interface HistoryPoint {
  at: string;
  packets: number;
  bits: number;
  dropped: number;
  "would-drop": number;
}

export type CellState = "used" | "unused" | "would-block" | "blocked" | "mixed";

export interface Group {
  id: string;
  name: string;
  kind: "declared" | "learned" | "network" | "unknown";
  devices: number;
}

export interface Cell {
  from: string;
  to: string;
  state: CellState;
  connections: number;
  bytes: number;
  denied: number;
  new: number;
  services: string[];
}

export interface Matrix {
  groups: Group[];
  cells: Cell[];
}

export interface Edge {
  client: string;
  server: string;
  protocol: string;
  port: number | null;
  service: string;
  "first-seen": string;
  "last-seen": string;
  flows: number;
  packets: number;
  bytes: number;
  verdict: string;
  rule: string;
  "staged-verdict"?: string | null;
}

export interface GroupDetail extends Group {
  members: DeviceRow[];
}

export interface GraphNode {
  id: string;
  label: string;
  group: string;
  devices: number;
}

export interface Graph {
  nodes: GraphNode[];
  edges: { from: string; to: string; state: CellState; weight: number }[];
  aggregated: boolean;
}

export interface Blast {
  steps: { depth: number; devices: number; groups: string[]; via: string[] }[];
  before: number;
  after: number;
}

export interface Times {
  first: string | null;
  last: string | null;
  buckets: { at: string; flows: number }[];
}

export interface DeviceRow {
  id: string;
  name: string | null;
  addresses: string[];
  maker: string | null;
  role: string;
  wire: string;
  groups: string[];
  "first-seen": string;
  "last-seen": string;
  quarantined: boolean;
  decisions: number;
}

export interface DeviceDetail extends DeviceRow {
  history: { address: string; "first-seen": string; "last-seen": string; leased: boolean }[];
  names: { name: string; source: string }[];
  protocols: { service: string; direction: "offers" | "uses"; peers: number; flows: number }[];
  open: Decision[];
  "neighbours-count": number;
}

export interface PolicyFile {
  name: string;
  text: string;
  learned: boolean;
}

export interface Policy {
  hash: string;
  files: PolicyFile[];
  "loaded-at": string;
  rules: number;
  warnings: Diagnostic[];
}

export interface Rule {
  name: string;
  file: string;
  line: number;
  action: string;
  from: string;
  to: string;
  service: string;
  hits: number;
  "last-hit": string | null;
  expires: string | null;
  owner: string | null;
  reason: string | null;
  warnings: string[];
}

export interface RuleDetail extends Rule {
  text: string;
  evidence: Evidence | null;
}

export interface Evidence {
  witnesses: string[];
  unused: string[];
  "nearest-rejected-merge": string | null;
  confidence: string;
}

export interface Diagnostic {
  file: string;
  line: number;
  column: number;
  severity: "error" | "warning" | "note";
  message: string;
  remedy?: string | null;
}

export interface Difference {
  before: string;
  after: string;
  witness: string;
  "rule-before": string;
  "rule-after": string;
  count: number;
}

export interface Version {
  number: number;
  at: string;
  hash: string;
  rules: number;
  source: string;
  who: string;
  by: string;
  reason?: string | null;
}

export interface Learning {
  "observed-since": string | null;
  hours: number;
  devices: number;
  edges: number;
  losses: number;
  store: { path: string; bytes: number; state: string };
}

export interface ProposedRule extends Evidence {
  name: string;
  text: string;
}

export interface ProposalException {
  name: string;
  what: string;
  why: string;
  witness: string;
  approved: boolean;
}

export interface Proposal {
  id: string;
  rules: ProposedRule[];
  exceptions: ProposalException[];
  prediction: { denied: number; low: number; high: number } | null;
  text: string;
}

export interface Staged {
  staged: { source: string; hash: string; rules: number; "since": string } | null;
  flows: number;
  passing: number;
  cut: number;
  opened: number;
  "denied-ratio": number;
  rules: { name: string; cut: number; opened: number; "by-default": boolean }[];
  differing: {
    flow: string;
    passes: boolean;
    rule: string;
    "staged-rule": string;
    nearest: string | null;
    count: number;
    last: string;
  }[];
  obstacles: string[];
}

export interface DriftItem {
  kind: string;
  what: string;
  why: string;
  remedy: string;
  count: number;
}

export interface Grant {
  id: string;
  from: string;
  to: string;
  service: string;
  expires: string;
  who: string;
  reason: string;
}

export interface Flow {
  at: string;
  client: string;
  server: string;
  protocol: string;
  port: number | null;
  service: string;
  wire: string;
  verdict: string;
  rule: string;
  packets: number;
  bytes: number;
  "drop-reason"?: string | null;
  nearest?: string | null;
  remedy?: string | null;
}

export interface User {
  name: string;
  role: Role;
  "last-login": string | null;
  locked: boolean;
}

export interface Token {
  id: string;
  name: string;
  scope: Role;
  expires: string;
  "last-used": string | null;
}

/** The overview's numbers, each second, and whether the gateway's control socket answers. */
export interface LiveEvent {
  kind: "overview" | "staged" | "gone" | "back";
  data: unknown;
}
