import { useEffect, useState } from "preact/hooks";
import { findDevice } from "../api/find";
import { useResource, type Resource } from "../api/resource";
import type { Blast } from "../api/types";
import { count, exact } from "../model/format";
import { adjust, href, route } from "../model/route";
import { Bar, Failure, Panel } from "../ui/panel";
import { Close } from "./map-side";

/** The policies that a device's reach is asked of, and what a missing one needs. */
export const POLICIES = [
  { policy: "active", name: "in force", missing: "No policy is in force." },
  { policy: "staged", name: "staged", missing: "No policy is staged." },
  { policy: "proposed", name: "proposed", missing: "Nothing is proposed yet: Learn and lock down, Propose rules." },
];

/** What one compromised device could reach, step by step, without a policy and with each that there is. */
export function BlastPanel({ blast, device, policy }: { blast: Resource<Blast>; device: string | undefined; policy: string }) {
  const [text, setText] = useState(device ?? "");
  const [missing, setMissing] = useState("");
  useEffect(() => setText(device ?? ""), [device]);
  const data = blast.data && !blast.error && blast.data.device === device ? blast.data : undefined;
  const chosen = POLICIES.find((p) => p.policy === policy)!;
  return (
    <Panel title="Blast radius" actions={<Close close={() => adjust({ overlay: "", policy: "" })} />}>
      <form
        class="stack"
        onSubmit={(event) => {
          event.preventDefault();
          setMissing("");
          void findDevice(text).then((id) => (id ? adjust({ device: id }) : setMissing(text)));
        }}
      >
        <label class="field">
          <span>Device that is taken over (name, address or MAC address)</span>
          <span class="row no-wrap">
            <input class="grow" required value={text} onInput={(e) => setText(e.currentTarget.value)} />
            <button class="button primary">Show</button>
          </span>
        </label>
      </form>
      {missing && <p class="notice warn spaced">No device, or more than one, is called {missing}.</p>}
      {!device && <p class="muted spaced">Shows where somebody gets who holds this device, from device to device, under the policy in force, the staged and the proposed one.</p>}
      {device && (
        <div class="stack blast">
          <Reach device={device} chosen={policy} />
          {blast.error && (blast.error.status === 404 ? <p class="notice">{chosen.missing}</p> : <Failure error={blast.error} retry={blast.reload} />)}
          {data && <Steps blast={data} name={chosen.name} />}
        </div>
      )}
    </Panel>
  );
}

/** How many devices are reached without a policy and with each, side by side; a press shows its steps. */
function Reach({ device, chosen }: { device: string; chosen: string }) {
  const active = useResource<Blast>("/map/blast", { device, policy: "active" });
  const staged = useResource<Blast>("/map/blast", { device, policy: "staged" });
  const proposed = useResource<Blast>("/map/blast", { device, policy: "proposed", proposal: route.value.query.proposal });
  const answers = [active, staged, proposed];
  const before = answers.find((answer) => answer.data)?.data?.before;
  return (
    <ul class="reach" aria-label="Devices that it reaches">
      {before !== undefined && (
        <li>
          <span class="muted">without a policy</span>
          <Bar share={1} tone="bad" />
          <span class="num">{exact(before)}</span>
        </li>
      )}
      {POLICIES.map(({ policy, name }, i) => {
        const { data, error, loading } = answers[i]!;
        const after = error ? undefined : data?.after;
        return (
          <li key={policy} class={policy === chosen ? "selected" : ""}>
            <button type="button" class="plain" aria-pressed={policy === chosen} onClick={() => adjust({ policy })}>
              {name}
            </button>
            {after === undefined || before === undefined ? <span class="muted">{loading ? "counting" : "none"}</span> : <Bar share={before ? after / before : 0} tone="warn" />}
            <span class="num">{after === undefined ? "–" : exact(after)}</span>
          </li>
        );
      })}
    </ul>
  );
}

function Steps({ blast, name }: { blast: Blast; name: string }) {
  return (
    <>
      <p>
        Under the policy {name} it reaches <strong>{count(blast.after, "device")}</strong>
        {blast.before > 0 && `, ${less(blast)} than without one`}.
      </p>
      <ol class="list" aria-label="Step by step">
        {blast.steps.map((step) => (
          <li key={step.depth}>
            <span class="nowrap">{step.depth === 0 ? "itself" : `step ${step.depth}`}</span>
            <span class="grow wrap">
              {Object.entries(step.groups)
                .map(([group, n]) => `${group} (${exact(n)})`)
                .join(", ")}
              {step.via.length > 0 && (
                <span class="muted">
                  {" by "}
                  {step.via.slice(0, 8).map((rule, i) => (
                    <>
                      {i > 0 && ", "}
                      <a href={href(["policy", "rules", rule])}>{rule}</a>
                    </>
                  ))}
                  {step.via.length > 8 && ` and ${count(step.via.length - 8, "other rule")}`}
                </span>
              )}
            </span>
            <span class="num">{exact(step.count)}</span>
          </li>
        ))}
      </ol>
      {blast.coarse && <p class="muted small">Counted by groups: an upper bound.</p>}
    </>
  );
}

/** "95.6 % less", and never "100 %" where something is reached. */
const less = ({ before, after }: Blast): string => {
  const share = 100 * (1 - after / before);
  return after > 0 && share > 99.9 ? "more than 99.9 % less" : `${share.toFixed(1)} % less`;
};
