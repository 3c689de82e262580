import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { ApiError } from "../api/client";
import type { ChangeReport, Envelope } from "../api/types";
import { Failure } from "./panel";
import { Sign, type Signed } from "./sign";

/** What was just done, for a few seconds and for screen readers; what failed stays until it is put away. */
export const said = signal<{ text: string; failed: boolean } | undefined>(undefined);
let quiet: ReturnType<typeof setTimeout> | undefined;
export function tell(text: string): void {
  said.value = { text, failed: false };
  clearTimeout(quiet);
  quiet = setTimeout(() => (said.value = undefined), 8_000);
}
export function complain(text: string): void {
  clearTimeout(quiet);
  said.value = { text, failed: true };
}

export function Toast() {
  const now = said.value;
  return (
    <>
      <div role="status" aria-live="polite">
        {now && !now.failed && <div class="notice good toast">{now.text}</div>}
      </div>
      {now?.failed && (
        <div class="notice bad toast" role="alert">
          {now.text}{" "}
          <button type="button" class="plain" onClick={() => (said.value = undefined)}>
            Put away
          </button>
        </div>
      )}
    </>
  );
}

/** A question that stays until it is answered or left with Escape. */
export function Dialog(props: { title: string; open: boolean; close: () => void; class?: string; children: ComponentChildren }) {
  const element = useRef<HTMLDialogElement>(null);
  // Before the next key arrives: it goes to what is shown, neither past a dialog nor into one that is gone.
  useLayoutEffect(() => {
    const dialog = element.current;
    if (!dialog) return;
    if (props.open && !dialog.open) dialog.showModal();
    if (!props.open && dialog.open) dialog.close();
  }, [props.open]);
  return (
    <dialog ref={element} class={props.class ?? ""} aria-label={props.title} onClose={props.close} onCancel={props.close}>
      {props.open && props.children}
    </dialog>
  );
}

/** In a text of several lines Enter makes one more; with Ctrl it sends the form. */
export function submitByKey(event: KeyboardEvent & { currentTarget: HTMLFormElement }): void {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    event.currentTarget.requestSubmit();
  }
}

export interface Change {
  title: string;
  /** What will happen, in one or two sentences, to be read before the button is pressed. */
  effect: ComponentChildren;
  button: string;
  danger?: boolean;
  /** Takes no reason: it concerns access to the console, and its entry says all. */
  plain?: boolean;
  /** What a signature would be of, where the gateway asks for one. */
  sign?: Signed;
  /** Does it, and says what was done. */
  act: (reason: string, envelope?: Envelope) => Promise<string | ChangeReport>;
  done?: () => void;
}

/** The change that waits for its reason; none when undefined. */
export const change = signal<Change | undefined>(undefined);

/** What a person should read of a change that was made, one sentence each. */
export function notes(report: string | ChangeReport): string[] {
  if (typeof report === "string") return [];
  const worker = report["stalled-worker"];
  return [
    ...(worker === null || worker === undefined ? [] : [`Worker ${worker} hangs and does not judge by it: what passes through it is judged as before.`]),
    ...(report.findings ?? []).map((f) => [f.file ? `${f.file}:${f.line ?? 1}: ${f.message}` : f.message, f.help].filter(Boolean).join("; ")),
    ...(report.obstacles ?? []).map((obstacle) => `Done nevertheless: ${obstacle}`),
  ];
}

/** Asks for the reason that the audit log keeps, then does it; what the gateway refuses is shown here. */
export function ChangeDialog() {
  const wanted = change.value;
  const close = () => {
    if (change.value === wanted) change.value = undefined;
  };
  return (
    <Dialog title={wanted?.title ?? ""} open={wanted !== undefined} close={close}>
      {wanted && <Form key={keyOf(wanted)} wanted={wanted} close={close} />}
    </Dialog>
  );
}

const keys = new WeakMap<Change, number>();
let last = 0;
/** Each change has a form of its own: one that still runs moves no other. */
function keyOf(wanted: Change): number {
  let key = keys.get(wanted);
  if (key === undefined) keys.set(wanted, (key = last += 1));
  return key;
}

function Form({ wanted, close }: { wanted: Change; close: () => void }) {
  const [reason, setReason] = useState("");
  const [error, setError] = useState<ApiError>();
  const [busy, setBusy] = useState(false);
  const [unsigned, setUnsigned] = useState(false);
  const [envelope, setEnvelope] = useState<Envelope>();
  const [made, setMade] = useState<{ what: string; notes: string[] }>();
  const there = useRef(true);
  useEffect(
    () => () => {
      there.current = false;
    },
    [],
  );
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setError(undefined);
    try {
      // One line: the audit log has one for each entry.
      const report = await wanted.act(reason.trim().replace(/\s+/g, " "), envelope);
      const result = { what: typeof report === "string" ? report : report.what, notes: notes(report) };
      wanted.done?.();
      if (!there.current) (result.notes.length ? complain : tell)([`${wanted.title}: ${result.what}`, ...result.notes].join(" "));
      else if (result.notes.length) setMade(result);
      else {
        close();
        tell(result.what);
      }
    } catch (cause) {
      const failure = cause instanceof ApiError ? cause : new ApiError(0, "It could not be done", String(cause));
      if (failure.codes.includes("unsigned")) setUnsigned(true);
      if (there.current) setError(failure);
      else complain(`${wanted.title} failed: ${failure.message}`);
    } finally {
      setBusy(false);
    }
  };
  if (made) {
    return (
      <div class="dialog-body">
        <h2>{wanted.title}</h2>
        <p role="status">
          <strong>{made.what}</strong>
        </p>
        <div class="notice warn" role="alert">
          <strong>Read this:</strong>
          <ul class="bullets">
            {made.notes.map((note) => (
              <li key={note}>{note}</li>
            ))}
          </ul>
        </div>
        <div class="dialog-actions">
          <button type="button" class="button primary" autofocus onClick={close}>
            I have read it
          </button>
        </div>
      </div>
    );
  }
  return (
    <form onSubmit={submit} onKeyDown={submitByKey}>
      <h2>{wanted.title}</h2>
      <div>{wanted.effect}</div>
      {!wanted.plain && (
        <label class="field">
          <span>Reason, for the audit log (a ticket, an order, what you saw); Ctrl + Enter to go on</span>
          <textarea required minLength={3} maxLength={1000} readOnly={busy} value={reason} autofocus onInput={(e) => setReason(e.currentTarget.value)} />
        </label>
      )}
      {error && <Failure error={error} />}
      {unsigned && wanted.sign && <Sign of={wanted.sign} set={setEnvelope} />}
      <div class="dialog-actions">
        <button type="button" class="button" onClick={close}>
          {busy ? "Leave it running" : "Cancel"}
        </button>
        <button type="submit" class={`button ${wanted.danger ? "danger" : "primary"}`} disabled={busy || (!wanted.plain && reason.trim().length < 3)}>
          {busy ? "Working" : wanted.button}
        </button>
      </div>
    </form>
  );
}
