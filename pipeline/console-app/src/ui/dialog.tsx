import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError } from "../api/client";
import { Failure } from "./panel";

/** What was just done, for a few seconds and for screen readers. */
export const said = signal("");
let quiet: ReturnType<typeof setTimeout> | undefined;
export function tell(text: string): void {
  said.value = text;
  clearTimeout(quiet);
  quiet = setTimeout(() => (said.value = ""), 8_000);
}

export function Toast() {
  return (
    <div role="status" aria-live="polite">
      {said.value && <div class="notice good toast">{said.value}</div>}
    </div>
  );
}

/** A question that stays until it is answered or left with Escape. */
export function Dialog(props: { title: string; open: boolean; close: () => void; class?: string; children: ComponentChildren }) {
  const element = useRef<HTMLDialogElement>(null);
  useEffect(() => {
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

export interface Change {
  title: string;
  /** What will happen, in one or two sentences, to be read before the button is pressed. */
  effect: ComponentChildren;
  button: string;
  danger?: boolean;
  /** Takes no reason: it concerns access to the console, and its entry says all. */
  plain?: boolean;
  /** Does it, and says what was done. */
  act: (reason: string) => Promise<string>;
  done?: () => void;
}

/** The change that waits for its reason; none when undefined. */
export const change = signal<Change | undefined>(undefined);

/** Asks for the reason that the audit log keeps, then does it; what the gateway refuses is shown here. */
export function ChangeDialog() {
  const wanted = change.value;
  const [reason, setReason] = useState("");
  const [error, setError] = useState<ApiError>();
  const [busy, setBusy] = useState(false);
  const close = () => {
    change.value = undefined;
    setReason("");
    setError(undefined);
  };
  if (!wanted) return <Dialog title="" open={false} close={close} children={null} />;
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setError(undefined);
    try {
      const result = await wanted.act(reason.trim());
      close();
      tell(result);
      wanted.done?.();
    } catch (cause) {
      setError(cause instanceof ApiError ? cause : new ApiError(0, "It could not be done", String(cause)));
    } finally {
      setBusy(false);
    }
  };
  return (
    <Dialog title={wanted.title} open close={close}>
      <form onSubmit={submit}>
        <h2>{wanted.title}</h2>
        <div>{wanted.effect}</div>
        {!wanted.plain && (
          <label class="field">
            <span>Reason, for the audit log (a ticket, an order, what you saw)</span>
            <textarea required minLength={3} maxLength={1000} value={reason} autofocus onInput={(e) => setReason(e.currentTarget.value)} />
          </label>
        )}
        {error && <Failure error={error} />}
        <div class="dialog-actions">
          <button type="button" class="button" onClick={close}>
            Cancel
          </button>
          <button type="submit" class={`button ${wanted.danger ? "danger" : "primary"}`} disabled={busy || (!wanted.plain && reason.trim().length < 3)}>
            {busy ? "Working" : wanted.button}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
