import { useEffect, useMemo, useState } from "preact/hooks";
import { useAgain, useResource } from "../api/resource";
import type { Report } from "../api/report";
import { count, utc } from "../model/format";
import { download } from "../model/download";
import { adjust, route } from "../model/route";
import { Panel } from "../ui/panel";
import { sections } from "./report-sections";

const TIMES: [name: string, days: number][] = [["the last 24 hours", 1], ["the last 7 days", 7], ["the last 30 days", 30], ["the last 90 days", 90]];
const DAY_MS = 86_400_000;

/** The evidence report, the same that `bulkhead report` makes: for the screen in parts, for paper whole. */
export function ReportPage() {
  const { query } = route.value;
  const [now, setNow] = useState(Date.now());
  const days = Number(query.days);
  const since = days > 0 ? new Date(now - days * DAY_MS).toISOString() : undefined;
  const report = useResource<Report>("/report", { since });
  const waits = useAgain(report);
  const printing = usePrinting();
  const data = report.data;
  const parts = useMemo(() => (data ? sections(data) : []), [data]);
  return (
    <div class="stack report">
      <div class="title">
        <div>
          <h1>Evidence of segmentation</h1>
          {data && (
            <p class="small">
              Made {utc(data.made)} by {data["made-by"]}
              {data.host && ` on ${data.host}`}; observations and changes {data.since ? `since ${utc(data.since)}` : "since the first record"} until {data.until ? utc(data.until) : "then"}.
            </p>
          )}
        </div>
        <div class="row no-print">
          <label class="row">
            <span class="muted">Of</span>
            <select
              aria-label="Time that the report is of"
              value={query.days ?? ""}
              onChange={(event) => {
                setNow(Date.now());
                adjust({ days: event.currentTarget.value });
              }}
            >
              <option value="">all that is recorded</option>
              {TIMES.map(([name, value]) => (
                <option key={value} value={value}>
                  {name}
                </option>
              ))}
            </select>
          </label>
          <button type="button" class="button" disabled={report.loading} onClick={() => (setNow(Date.now()), report.reload())}>
            {report.loading ? "Making it" : "Make anew"}
          </button>
          <button type="button" class="button" disabled={!data} onClick={() => data && keep(data)}>
            Download JSON
          </button>
          <button type="button" class="button primary" disabled={!data} onClick={() => print()}>
            Print
          </button>
        </div>
      </div>
      {data && data.unavailable.length > 0 && (
        <div class="notice bad" role="status">
          <strong>This report is incomplete: {count(data.unavailable.length, "part")} could not be had.</strong>
          <ul class="bullets">
            {data.unavailable.map(({ what, why }) => (
              <li key={what}>
                {what}: {why}
              </li>
            ))}
          </ul>
        </div>
      )}
      {data ? (
        <>
          {report.error && <Panel title="Making it anew failed" from={{ ...report, data: undefined }} />}
          <Contents parts={parts} />
          {parts.map((part) => (
            <div key={part.id} id={part.id} class="report-part">
              <Panel title={part.title} flush={part.flush ?? false}>
                <part.view report={data} all={printing} />
              </Panel>
            </div>
          ))}
        </>
      ) : (
        <>
          {(!report.error || waits) && (
            <p class="muted" role="status">
              {waits && "It is asked for again by itself. "}The gateway is asked, the communication store is read and the whole policy is analysed: with ten thousand devices this takes some seconds.
            </p>
          )}
          <Panel title="Report" from={report} />
        </>
      )}
    </div>
  );
}

const keep = (report: Report) =>
  download(`bulkhead-report-${report.made.slice(0, 19).replace(/[:T]/g, "-")}.json`, new Blob([JSON.stringify(report, null, 2)], { type: "application/json" }));

function Contents({ parts }: { parts: ReturnType<typeof sections> }) {
  return (
    <nav class="panel contents" aria-label="Parts of the report">
      <ol>
        {parts.map((part) => (
          <li key={part.id}>
            <a
              href={`#${part.id}`}
              onClick={(event) => {
                event.preventDefault();
                document.getElementById(part.id)?.scrollIntoView({ block: "start" });
              }}
            >
              {part.title}
            </a>{" "}
            <span class={part.tone ?? "muted"}>{part.note}</span>
          </li>
        ))}
      </ol>
    </nav>
  );
}

/** Is the page about to be printed? Then tables show all their rows. */
function usePrinting(): boolean {
  const [printing, setPrinting] = useState(false);
  useEffect(() => {
    const before = () => setPrinting(true);
    const after = () => setPrinting(false);
    addEventListener("beforeprint", before);
    addEventListener("afterprint", after);
    return () => {
      removeEventListener("beforeprint", before);
      removeEventListener("afterprint", after);
    };
  }, []);
  return printing;
}
