// The shapes of the evidence report, as `bulkhead report --json` prints it and the console answers it.

export interface Report {
  format: number;
  made: string;
  "made-by": string;
  host?: string | null;
  /** The time that observations and changes are of; absent where it is not bounded. */
  since?: string | null;
  until?: string | null;
  scope: Scope;
  policy?: PolicyInForce | null;
  assets: Asset[];
  zones: Zone[];
  conduits: Conduit[];
  "default-deny"?: DefaultDeny | null;
  observed?: Observed | null;
  exceptions: Exception[];
  /** Starts, stops, and changes of modes and of what happens on failure. */
  events: Change[];
  changes: Change[];
  audit?: AuditState | null;
  telemetry?: Telemetry | null;
  /** What could not be had, and why. */
  unavailable: { what: string; why: string }[];
  "not-shown": string[];
  standards: Requirement[];
}

export interface Scope {
  gateway?: string | null;
  "uptime-s"?: number | null;
  /** `kernel` (an NTP or PTP daemon has told it) or `trusted`. */
  "clock-source"?: string | null;
  "clock-synchronised"?: boolean | null;
  wires: WireInScope[];
}

export interface WireInScope {
  name: string;
  mode: string;
  /** `closed` or `open`; absent where the configuration could not be read. */
  fail?: string | null;
  /** The device, its driver and its link. */
  inside: string[];
  outside: string[];
  received: number;
  dropped: number;
  "would-drop": number;
}

export interface PolicyInForce {
  source: string;
  hash: string;
  rules: number;
  "age-s": number;
  fallback: boolean;
  standing: string[];
}

export interface Asset {
  name?: string | null;
  mac?: string | null;
  vendor?: string | null;
  addresses: string[];
  role: string;
  place: string;
  zones: string[];
  "first-seen"?: string | null;
  "last-seen"?: string | null;
}

export interface Zone {
  name: string;
  kind: string;
  members: string[];
  except: string[];
}

export interface Conduit {
  rule: string;
  at: string;
  from: string;
  to: string;
  "either-way": boolean;
  service: string;
  purpose?: string | null;
  tickets: string[];
  owner?: string | null;
  starts?: string | null;
  expires?: string | null;
  hits?: number | null;
  "last-hit"?: string | null;
}

export interface DefaultDeny {
  default: string;
  hits?: number | null;
  assertions: { holds: boolean; says: string }[];
  reach: { zone: string; access: { from: string; service: string; rule: string }[]; complete: boolean }[];
}

export interface Observed {
  conversations: number;
  permitted: number;
  unused: string[];
  "not-permitted": Conversation[];
  /** How many more than are listed were not permitted. */
  more: number;
}

export interface Conversation {
  client: string;
  server: string;
  service: string;
  "denied-packets": number;
  "let-through": number;
  rule: string;
  "last-seen"?: string | null;
}

export interface Exception {
  kind: string;
  what: string;
  who: string;
  reason?: string | null;
  since?: string | null;
  until?: string | null;
}

export interface Change {
  sequence: number;
  time: string;
  who: string;
  about: string;
  detail: string;
  reason?: string | null;
  /** The hashes of the policy before and after, where it changed. */
  policies?: string[] | null;
}

export interface AuditState {
  verified: boolean;
  broken?: string | null;
  entries: number;
  /** Whether there are earlier ones in the time asked for. */
  more: boolean;
}

export interface Telemetry {
  "in-flight"?: number | null;
  "gateway-lost"?: number | null;
  /** What the communication store's keeper counted, since the store was made. */
  store: Record<string, number>;
}

export interface Requirement {
  standard: string;
  requirement: string;
  /** What of the report speaks to it, and what of it the report does not speak to. */
  evidence: string;
  remains: string;
}
