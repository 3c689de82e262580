import type { ProposedRule } from "../api/types";
import { count } from "../model/format";

/** Why a rule is proposed, what it permits beyond what was seen, and what was not merged into it. */
export function EvidenceList({ rule, periods }: { rule: ProposedRule; periods: number }) {
  return (
    <dl class="stack">
      <div>
        <dt>
          <h3>
            {count(rule.witnesses, "witness", "witnesses")}, the steadiest in {rule.periods} of {periods} periods
          </h3>
        </dt>
        <dd>
          <Examples of={rule.witness} total={rule.witnesses} />
        </dd>
      </div>
      <div>
        <dt>
          <h3>Permits {count(rule.unused, "pair")} that nobody used</h3>
        </dt>
        <dd>
          <Examples of={rule["unused-some"]} total={rule.unused} />
        </dd>
      </div>
      <div>
        <dt>
          <h3>Nearest merge that was rejected</h3>
        </dt>
        <dd class="wrap">{rule["nearest-rejected-merge"] ?? <span class="muted">none</span>}</dd>
      </div>
      <div>
        <dt>
          <h3>Who</h3>
        </dt>
        <dd class="wrap">
          {rule.clients.join(", ")} → {rule.servers.join(", ")}
        </dd>
      </div>
    </dl>
  );
}

function Examples({ of, total }: { of: string[]; total: number }) {
  return (
    <ul class="mono wrap">
      {of.map((text) => (
        <li key={text}>{text}</li>
      ))}
      {total > of.length && <li class="muted">and {count(total - of.length, "other")}</li>}
    </ul>
  );
}
