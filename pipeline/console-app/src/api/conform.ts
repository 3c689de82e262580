// Holds the types that the pages use against those generated from the server's OpenAPI document (`npm run
// types`): where an answer stops having what a page reads, `tsc` says so. No code comes of it.
import type { components } from "./schema";
import type { Report } from "./report";
import type * as used from "./types";

type Schemas = components["schemas"];
/** Nothing, unless an answer of the server lacks something that is used. */
type Fits<Answer extends Used, Used> = Answer extends Used ? true : never;

export type Conform = [
  Fits<Schemas["Session"], used.Session>,
  Fits<Schemas["Overview"], used.Overview>,
  Fits<Schemas["AuditEntries"], used.AuditPage>,
  Fits<Schemas["MatrixShown"], used.Matrix>,
  Fits<Schemas["EdgeShown"], used.Edge>,
  Fits<Schemas["DeniedShown"], used.Denied>,
  Fits<Schemas["GroupShown"], used.GroupDetail>,
  Fits<Schemas["Graph"], used.Graph>,
  Fits<Schemas["Blast"], used.Blast>,
  Fits<Schemas["Times"], used.Times>,
  Fits<Schemas["DeviceRow"], used.DeviceRow>,
  Fits<Schemas["DeviceShown"], used.DeviceDetail>,
  Fits<Schemas["PolicyReport"], used.Policy>,
  Fits<Schemas["RuleRow"], used.Rule>,
  Fits<Schemas["CheckReport"], used.CheckReport>,
  Fits<Schemas["DiffReport"], used.DiffReport>,
  Fits<Schemas["HistoryReport"], used.HistoryReport>,
  Fits<Schemas["LearningReport"], used.Learning>,
  Fits<Schemas["ProposalShown"], used.Proposal>,
  Fits<Schemas["StageReport"], used.Staged>,
  Fits<Schemas["DriftReport"], used.Drift>,
  Fits<Schemas["Exceptions"], used.Exceptions>,
  Fits<Schemas["UserShown"], used.User>,
  Fits<Schemas["TokenShown"], used.Token>,
  Fits<Schemas["ChangeReport"], used.ChangeReport>,
  Fits<Schemas["Report"], Report>,
];
