// The shapes of the console's JSON API that the pages use.

export type Role = "viewer" | "operator" | "admin";

export interface Session {
  user: string;
  role: Role;
  /** What a change sends in X-Bulkhead-CSRF. */
  csrf?: string | null;
  expires?: string | null;
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

/** Who did something: a user of the gateway's machine, or for the console its own. */
export interface Who {
  uid?: number | null;
  name: string;
  "on-behalf-of"?: string | null;
}

export interface AuditEntry {
  sequence: number;
  time: string;
  who: Who;
  what: string;
  detail: string;
  reason?: string | null;
}

export interface AuditPage {
  entries: AuditEntry[];
  "next-cursor"?: string | null;
  verified: boolean;
  broken?: string | null;
}

export interface WireInfo {
  name: string;
  mode: string;
  /** What becomes of it while no gateway judges: `closed`, or `open: kernel`, `open: command`, `open: none`. */
  fail?: string | null;
  ports: { name: string; device?: string; link: string }[];
}

/** Wires that pass everything unjudged. */
export interface Bypass {
  wires: string[];
  by: string;
  why: string;
  since: string;
}

export interface Overview {
  at: string;
  /** Who bypasses wires; absent where nobody does, or where that is not known. */
  bypassed?: Bypass | null;
  gateway?: {
    version: string;
    ready: boolean;
    "uptime-seconds": number;
    policy?: { hash: string; source: string; "loaded-at": string; rules: number; fallback: boolean } | null;
    wires: WireInfo[];
    "clock-synchronised": boolean;
    standing: string[];
  } | null;
  unreachable?: string | null;
  "unreachable-since"?: string | null;
  rates: { packets: number; bits: number; forwarded: number; dropped: number; "would-drop": number };
  verdicts: { received: number; forwarded: number; dropped: number; "would-drop": number };
  drops: Counted[];
  "would-drops": Counted[];
  workers: { core?: number | null; "busy-ratio": number; hung: boolean; flows: number; "flow-capacity": number }[];
  /** Nanoseconds. */
  latency: { p50: number; p90: number; p99: number; p999: number };
  flows: { used: number; capacity: number };
  "changes-since": AuditEntry[];
  decisions: Decision[];
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
  used: number;
  "would-block": number;
  blocked: number;
  new: number;
  flows: number;
  bytes: number;
  /** Denied packets. */
  denied: number;
  services: string[];
}

export interface Matrix {
  groups: Group[];
  cells: Cell[];
  "new-since": string;
  staged: boolean;
  at: string;
  "left-out": number;
  trouble?: string | null;
}

export interface Edge {
  client: string;
  "client-name": string;
  server: string;
  "server-name": string;
  protocol: string;
  port?: number | null;
  service: string;
  wire: string;
  "first-seen": string;
  "last-seen": string;
  flows: number;
  packets: number;
  bytes: number;
  denied: number;
  state: CellState;
  rule?: string | null;
  "staged-rule"?: string | null;
  "decided-by": string;
}

export interface Denied extends Edge {
  reason: string;
  nearest?: string | null;
  remedy: string;
}

export interface GroupDetail extends Group {
  members: { id: string; name: string; connections: number }[];
  opens: Cell[];
  serves: Cell[];
}

export interface GraphNode {
  id: string;
  label: string;
  "is-group"?: boolean;
  group: string;
  devices: number;
}

export interface Graph {
  nodes: GraphNode[];
  edges: { from: string; to: string; state: CellState; weight: number }[];
  aggregated: boolean;
}

export interface Blast {
  device: string;
  steps: { depth: number; count: number; devices: string[]; groups: Record<string, number>; via: string[] }[];
  before: number;
  after: number;
  coarse: boolean;
}

export interface Times {
  first?: string | null;
  last?: string | null;
  buckets: { from: string; to: string; flows: number; denied: number }[];
}

export interface DeviceRow {
  id: string;
  name: string;
  addresses: string[];
  mac?: string | null;
  maker?: string | null;
  role: string;
  groups: string[];
  group: string;
  wire: string;
  side: string;
  vlan: string;
  "first-seen": string;
  "last-seen": string;
  connections: number;
  quarantined: boolean;
}

export interface ServiceUse {
  service: string;
  applications: string[];
  peers: number;
  flows: number;
  denied: number;
}

export interface DeviceDetail extends DeviceRow {
  history: { address: string; "first-seen": string; "last-seen": string }[];
  offers: ServiceUse[];
  uses: ServiceUse[];
  "neighbours-count": number;
  quarantine?: { device: string; reason?: string | null; who: Who; "since-unix-ms": number } | null;
}

/** A text of the policy, as it is sent. */
export interface FileGiven {
  name: string;
  text: string;
}

/** A manifest and its signature, for gateways that take only signed policies. */
export interface Envelope {
  manifest: string;
  signature: string;
}

export interface PolicyFile extends FileGiven {
  learned: boolean;
  /** The gateway made it of grants and quarantines: it is no file, and comes of itself. */
  added: boolean;
}

export interface Policy {
  hash: string;
  source: string;
  files: PolicyFile[];
  "loaded-at"?: string | null;
  rules: number;
  warnings: Finding[];
}

export interface Rule {
  name: string;
  file: string;
  line: number;
  action: string;
  from: string;
  to: string;
  between: boolean;
  service: string;
  hits: number;
  "last-hit"?: string | null;
  expires?: string | null;
  reason?: string | null;
  learned: boolean;
  warnings: string[];
}

export interface RuleDetail extends Rule {
  text: string;
  evidence: Edge[];
  "evidence-total": number;
}

/** What the parser, or the analysis, says of a text. */
export interface Finding {
  severity: string;
  message: string;
  file?: string | null;
  line?: number | null;
  column?: number | null;
  help?: string | null;
}

export interface CheckReport {
  ok: boolean;
  diagnostics: Finding[];
  rules?: number | null;
}

export interface Difference {
  before: string;
  after: string;
  "rule-before": string;
  "rule-after": string;
  from: string;
  to: string;
  service: string;
  witness: string;
}

export interface DiffReport {
  before: string;
  after: string;
  differences: Difference[];
  more: number;
  complete: boolean;
}

export interface Version {
  number: number;
  "at-unix-ms": number;
  hash: string;
  rules: number;
  source: string;
  who: Who;
  by: string;
  "brought-back"?: number | null;
}

export interface HistoryReport {
  "in-force": number;
  pinned: boolean;
  versions: Version[];
}

export interface Learning {
  "observed-since"?: string | null;
  "observed-until"?: string | null;
  periods: number;
  "period-seconds": number;
  devices: number;
  edges: number;
  losses: { what: string; count: number }[];
  store: string;
  enforcing: { wire: string; since: string }[];
}

export interface ProposedRule {
  name: string;
  kind: string;
  clients: string[];
  servers: string[];
  services: string[];
  witnesses: number;
  witness: string[];
  unused: number;
  "unused-some": string[];
  periods: number;
  "nearest-rejected-merge"?: string | null;
  approved: boolean;
}

export interface Proposal {
  id: string;
  state: "pending" | "ready" | "failed";
  /** Of its text: what is staged is bound to it. */
  hash?: string | null;
  at: string;
  error?: string | null;
  rules: ProposedRule[];
  exceptions: ProposedRule[];
  templates: string[];
  prediction?: { denied: number; low: number; high: number; "ahead-periods": number } | null;
  "makes-no-rule": number;
  devices: number;
  edges: number;
  periods: number;
  text: string;
}

export interface Staged {
  staged?: { source: string; hash: string; rules: number; "age-s": number; restarts?: number; unreviewed: string[] } | null;
  flows: number;
  passing: number;
  cut: number;
  opened: number;
  /** Of `cut`, those that no rule of the staged policy names. */
  "cut-by-default": number;
  unlisted: number;
  rules: { name: string; cut: number; opened: number; "by-default": boolean }[];
  differing: {
    flow: string;
    passes: boolean;
    rule: string;
    "staged-rule": string;
    nearest?: string | null;
    count: number;
    "last-unix-ms": number;
  }[];
  obstacles: string[];
}

/** What was denied since the lockdown, and what to make of it. */
export interface Drift {
  since: string;
  denials: {
    client: string;
    server: string;
    service: string;
    packets: number;
    last: string;
    rule: string;
    reason: string;
    advice: string;
    text: string;
  }[];
  "unused-rules": string[];
}

export interface Grant {
  name: string;
  from: string;
  to: string;
  service: string;
  "expires-unix-ms": number;
  who: Who;
  reason: string;
  suspended?: boolean;
}

export interface Exceptions {
  grants: Grant[];
  quarantines: { device: string; reason?: string | null; who: Who; "since-unix-ms": number }[];
}

export interface User {
  name: string;
  role: Role;
  created: string;
}

export interface Token {
  id: string;
  name: string;
  scope: Role;
  user: string;
  created: string;
  expires: string;
}

/** What the gateway says of a change that it made. */
export interface ChangeReport {
  done: boolean;
  what: string;
  /** What was overridden, or stood in the way. */
  obstacles?: string[];
  /** What a person should look at, although it was done. */
  findings?: { severity: string; message: string; file?: string | null; line?: number | null; help?: string | null }[];
  /** A worker that does not judge by it yet. */
  "stalled-worker"?: number | null;
  name?: string | null;
}
