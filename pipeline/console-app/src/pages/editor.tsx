import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { ApiError, get, may, send } from "../api/client";
import { useResource } from "../api/resource";
import type { ChangeReport, CheckReport, DiffReport, FileGiven, Policy, PolicyFile } from "../api/types";
import { count, short } from "../model/format";
import { adjust, href, route } from "../model/route";
import { change } from "../ui/dialog";
import { Editor } from "../ui/editor";
import { Failure, Panel } from "../ui/panel";
import { Table } from "../ui/table";

/** After so long without a key the text is checked, in milliseconds. */
const PAUSE_MS = 350;

/** The policy's text, checked while it is typed by the parser that the gateway runs, compared with what
 *  is in force, and staged beside it. Nothing here changes the running policy. */
export function EditorPage() {
  const { query } = route.value;
  const policy = useResource<Policy>("/policy");
  const [edits, setEdits] = useState<Record<string, string>>({});
  const [revision, setRevision] = useState(0);
  const [checked, setChecked] = useState<CheckReport>();
  const [failed, setFailed] = useState<ApiError>();
  const [differences, setDifferences] = useState<{ of: number | undefined; report: DiffReport }>();
  const asked = useRef(0);
  const files: PolicyFile[] = useMemo(() => (policy.data?.files ?? []).filter((file) => !file.added).map((file) => ({ ...file, text: edits[file.name] ?? file.text })), [policy.data, edits]);
  const file = files.find((f) => f.name === query.file) ?? files[0];
  const dirty = files.some((f) => edits[f.name] !== undefined && edits[f.name] !== policy.data?.files.find((old) => old.name === f.name)?.text);

  useEffect(() => {
    if (files.length === 0) return;
    let stale = false;
    const timer = setTimeout(() => {
      send<CheckReport>("POST", "/policy/check", { files: given(files) }).then(
        (answer) => {
          if (stale) return;
          setChecked(answer);
          setFailed(undefined);
        },
        (error: ApiError) => !stale && setFailed(error),
      );
    }, PAUSE_MS);
    return () => {
      stale = true;
      clearTimeout(timer);
    };
  }, [files]);
  useEffect(() => setDifferences(undefined), [edits]);
  useEffect(() => {
    if (query.version) void compare({ version: Number(query.version) });
  }, [query.version]);

  async function compare(what: { files: FileGiven[] } | { version: number }) {
    // Of two questions the later one is shown, whichever is answered first.
    const turn = (asked.current += 1);
    try {
      const report = await send<DiffReport>("POST", "/policy/diff", what);
      if (turn !== asked.current) return;
      setDifferences({ of: "version" in what ? what.version : undefined, report });
      setFailed(undefined);
    } catch (error) {
      if (turn === asked.current) setFailed(error as ApiError);
    }
  }
  const stage = () => {
    change.value = {
      title: "Stage this policy",
      effect: "It runs beside the one in force: every flow and every denied packet gets its verdict too, and nothing is cut. Lock down when its tally is what you expect.",
      button: "Stage",
      sign: { files: given(files) },
      act: async (reason, envelope) => {
        const now = await get<Policy>("/policy");
        if (now.hash !== policy.data?.hash) {
          throw new ApiError(
            409,
            "Another policy came into force since this text was opened",
            `These edits are of ${short(policy.data?.hash)}; ${short(now.hash)} is in force. Staging them would take back what others changed.`,
            "Nothing was staged. Copy what you wrote, reload the page, and edit the policy of now.",
          );
        }
        return send<ChangeReport>("POST", "/policy/stage", { files: given(files), reason, envelope });
      },
      done: () => {
        location.hash = href(["learn"]);
      },
    };
  };
  const mine = useMemo(() => checked?.diagnostics.filter((d) => d.file === file?.name) ?? [], [checked, file?.name]);
  const errors = checked?.diagnostics.filter((d) => d.severity === "error").length ?? 0;
  return (
    <>
      <Panel
        title="Text"
        from={policy}
        flush
        empty={{ when: files.length === 0, what: "The policy has no file.", hint: "Learn and lock down proposes the first." }}
        actions={
          <div class="row">
            <span role="status" class={errors ? "bad" : "good"}>
              {checked ? (errors ? `✕ ${count(errors, "error")}` : "● the parser accepts it") : "checking"}
            </span>
            <label class="row">
              <span class="visually-hidden">File</span>
              <select value={file?.name} onChange={(e) => adjust({ file: e.currentTarget.value, line: "" })}>
                {files.map((f) => (
                  <option key={f.name} value={f.name}>
                    {f.name}
                    {f.learned ? " (learnt)" : ""}
                    {edits[f.name] !== undefined && edits[f.name] !== policy.data?.files.find((o) => o.name === f.name)?.text ? " *" : ""}
                  </option>
                ))}
              </select>
            </label>
            <button type="button" class="button small" disabled={!dirty} onClick={() => (setEdits({}), setRevision(revision + 1))}>
              Discard edits
            </button>
            <button type="button" class="button small" disabled={!dirty || errors > 0} onClick={() => compare({ files: given(files) })}>
              Compare with what runs
            </button>
            {may("operator") && (
              <button type="button" class="button small primary" disabled={!dirty || errors > 0 || !checked} onClick={stage}>
                Stage
              </button>
            )}
          </div>
        }
      >
        {file && (
          <Editor
            text={file.text}
            revision={revision}
            label={`Text of ${file.name}`}
            readOnly={!may("operator")}
            diagnostics={mine}
            line={query.line ? Number(query.line) : undefined}
            changed={(text) => setEdits((old) => ({ ...old, [file.name]: text }))}
          />
        )}
      </Panel>
      {failed && <Failure error={failed} />}
      {checked && checked.diagnostics.length > 0 && (
        <Panel title="What the parser says" flush>
          <Table
            caption="Diagnostics"
            rows={checked.diagnostics}
            id={(d) => `${d.file}:${d.line}:${d.column}:${d.message}`}
            columns={[
              {
                title: "Where",
                cell: (d) =>
                  d.file ? (
                    <button type="button" class="plain mono" onClick={() => adjust({ file: d.file, line: d.line })}>
                      {d.file}:{d.line}:{d.column}
                    </button>
                  ) : (
                    "–"
                  ),
              },
              { title: "Kind", cell: (d) => <span class={d.severity === "error" ? "bad" : "warn"}>{d.severity}</span> },
              { title: "What", cell: (d) => d.message },
              { title: "What to do", cell: (d) => d.help ?? "–" },
            ]}
          />
        </Panel>
      )}
      {differences && <Differences differences={differences.report} version={differences.of} />}
    </>
  );
}

/** What the server is given of a file: it refuses fields that it does not know. */
const given = (files: PolicyFile[]): FileGiven[] => files.map(({ name, text }) => ({ name, text }));

function Differences({ differences, version }: { differences: DiffReport; version: number | undefined }) {
  const rows = differences.differences;
  return (
    <Panel
      title={version ? `What version ${version} decides differently` : "What would be decided differently"}
      flush
      empty={{ when: rows.length === 0 && differences.complete, what: "Nothing: both decide every packet alike.", hint: "Names, order and comments may differ." }}
    >
      <Table
        caption="Differences"
        rows={rows}
        id={(d) => d.witness + d["rule-after"]}
        total={rows.length + differences.more}
        columns={[
          { title: "Witness packet", cell: (d) => <span class="mono wrap">{d.witness}</span> },
          { title: "Runs now", cell: (d) => `${d.before} by ${d["rule-before"]}` },
          { title: "Then", cell: (d) => <strong class={d.after === "allow" ? "good" : "bad"}>{`${d.after} by ${d["rule-after"]}`}</strong> },
          { title: "From → to", cell: (d) => <span class="wrap">{`${d.from} → ${d.to} ${d.service}`}</span> },
        ]}
      />
      {!differences.complete && <p class="notice warn">The comparison was cut short: there may be more than these.</p>}
    </Panel>
  );
}
