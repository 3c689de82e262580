import type { Evidence } from "../api/types";

/** Why a learnt rule is there, what it permits beyond what was seen, and what was not merged into it. */
export function EvidenceList({ evidence }: { evidence: Evidence }) {
  return (
    <dl class="stack">
      <div>
        <dt>
          <h3>Witnesses</h3>
        </dt>
        <dd>
          <ul class="mono wrap">
            {evidence.witnesses.map((witness) => (
              <li key={witness}>{witness}</li>
            ))}
          </ul>
          {evidence.witnesses.length === 0 && <span class="muted">none kept</span>}
        </dd>
      </div>
      <div>
        <dt>
          <h3>Permits, though nobody used it</h3>
        </dt>
        <dd>
          <ul class="mono wrap">
            {evidence.unused.map((pair) => (
              <li key={pair}>{pair}</li>
            ))}
          </ul>
          {evidence.unused.length === 0 && <span class="muted">nothing</span>}
        </dd>
      </div>
      <div>
        <dt>
          <h3>Nearest merge that was rejected</h3>
        </dt>
        <dd class="wrap">{evidence["nearest-rejected-merge"] ?? <span class="muted">none</span>}</dd>
      </div>
      {evidence.confidence && (
        <div>
          <dt>
            <h3>Confidence</h3>
          </dt>
          <dd>{evidence.confidence}</dd>
        </div>
      )}
    </dl>
  );
}
