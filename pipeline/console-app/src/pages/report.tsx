import { useState } from "preact/hooks";
import { useResource } from "../api/resource";
import { exact, moment } from "../model/format";
import { adjust, route } from "../model/route";
import { Panel } from "../ui/panel";

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** The evidence report as the gateway tells it, laid out for paper. It shows what was measured and says
 *  what it does not show; judging it is the reader's. */
export function ReportPage() {
  const { query } = route.value;
  const report = useResource<Record<string, Json>>("/report", { since: query.since, until: query.until });
  const [since, setSince] = useState((query.since ?? "").slice(0, 10));
  const [until, setUntil] = useState((query.until ?? "").slice(0, 10));
  const data = report.data;
  return (
    <div class="stack report">
      <div class="title">
        <h1>Evidence report</h1>
        <form
          class="row no-print"
          onSubmit={(event) => {
            event.preventDefault();
            adjust({ since: since && `${since}T00:00:00Z`, until: until && `${until}T23:59:59Z` });
          }}
        >
          <label class="row">
            <span class="muted">from</span>
            <input type="date" value={since} onInput={(e) => setSince(e.currentTarget.value)} />
          </label>
          <label class="row">
            <span class="muted">until</span>
            <input type="date" value={until} onInput={(e) => setUntil(e.currentTarget.value)} />
          </label>
          <button class="button">Show</button>
          <button type="button" class="button primary" disabled={!data} onClick={() => print()}>
            Print
          </button>
        </form>
      </div>
      {!data ? (
        <Panel title="Report" from={report} />
      ) : (
        <>
          <Panel title="Summary" from={report}>
            <Facts of={Object.fromEntries(Object.entries(data).filter(([, value]) => !deep(value)))} />
          </Panel>
          {Object.entries(data)
            .filter(([, value]) => deep(value))
            .map(([key, value]) => (
              <Panel key={key} title={title(key)} flush={Array.isArray(value)} empty={{ when: isEmpty(value), what: "None." }}>
                <Value of={value} />
              </Panel>
            ))}
        </>
      )}
    </div>
  );
}

const deep = (value: Json): boolean => typeof value === "object" && value !== null;
const isEmpty = (value: Json): boolean => deep(value) && Object.keys(value as object).length === 0;

/** "policy-changes" -> "Policy changes". */
export const title = (key: string): string => {
  const words = key.replace(/[-_]/g, " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
};

function Value({ of }: { of: Json }) {
  if (Array.isArray(of)) {
    if (of.every((item) => deep(item) && !Array.isArray(item))) return <Rows of={of as { [key: string]: Json }[]} />;
    return (
      <ul class="list">
        {of.map((item, i) => (
          <li key={i}>
            <Value of={item} />
          </li>
        ))}
      </ul>
    );
  }
  if (of !== null && typeof of === "object") return <Facts of={of} />;
  return <>{plain(of)}</>;
}

function plain(value: null | boolean | number | string): string {
  if (value === null || value === "") return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return Number.isInteger(value) ? exact(value) : String(value);
  return /^\d{4}-\d\d-\d\dT\d\d:\d\d/.test(value) ? moment(value) : value;
}

function Facts({ of }: { of: { [key: string]: Json } }) {
  return (
    <dl class="facts-list">
      {Object.entries(of).map(([key, value]) => (
        <>
          <dt>{title(key)}</dt>
          <dd>{isEmpty(value) ? "none" : <Value of={value} />}</dd>
        </>
      ))}
    </dl>
  );
}

function Rows({ of }: { of: { [key: string]: Json }[] }) {
  const keys = [...new Set(of.flatMap(Object.keys))];
  return (
    <div class="table-box" tabIndex={0} role="group" aria-label="Table of the report, scrolls sideways">
      <table>
        <thead>
          <tr>
            {keys.map((key) => (
              <th key={key} scope="col">
                {title(key)}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {of.map((row, i) => (
            <tr key={i}>
              {keys.map((key) => (
                <td key={key} class={typeof row[key] === "number" ? "num" : "wrap"}>
                  {row[key] === undefined ? "–" : <Value of={row[key]} />}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
