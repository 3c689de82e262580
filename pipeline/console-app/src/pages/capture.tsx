import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, makeFile, type MadeFile } from "../api/client";
import { endsWhy, MAX_FILTER, MAX_PACKETS, MAX_SECONDS, WHOLE_PACKET } from "../model/capture";
import { download } from "../model/download";
import { bytes, count } from "../model/format";
import { Dialog, submitByKey } from "../ui/dialog";
import { Failure } from "../ui/panel";

/** The filter of the capture that is asked for; undefined while none is. */
const wanted = signal<string | undefined>(undefined);

/** Asks what to capture, beginning with this filter. */
export function captureEvidence(filter: string): void {
  wanted.value = filter;
}

/** Captures packets as they pass and hands them over as a file. Leaving it ends the capture. */
export function CaptureDialog() {
  const close = () => {
    wanted.value = undefined;
  };
  return (
    <Dialog title="Capture the evidence" open={wanted.value !== undefined} close={close}>
      {wanted.value !== undefined && <Form filter={wanted.value} close={close} />}
    </Dialog>
  );
}

function Form({ filter, close }: { filter: string; close: () => void }) {
  const [form, setForm] = useState({ filter, seconds: 30, packets: 1_000, payload: false, reason: "" });
  const [began, setBegan] = useState<number>();
  const [made, setMade] = useState<MadeFile>();
  const [error, setError] = useState<ApiError>();
  const abort = useRef<AbortController>();
  useEffect(() => () => abort.current?.abort(), []);
  const set = (change: Partial<typeof form>) => setForm({ ...form, ...change });
  const submit = async (event: Event) => {
    event.preventDefault();
    const mine = new AbortController();
    abort.current = mine;
    setError(undefined);
    setMade(undefined);
    setBegan(Date.now());
    try {
      const { seconds, packets, reason, payload } = form;
      const body = { filter: form.filter.trim(), seconds, packets, reason: reason.trim().replace(/\s+/g, " "), ...(payload ? { "payload-bytes": WHOLE_PACKET } : {}) };
      const file = await makeFile("/captures", body, mine.signal);
      if (Number(file.headers.get("x-bulkhead-packets") ?? 1) > 0) download(file.name, file.content);
      setMade(file);
    } catch (cause) {
      if (!mine.signal.aborted) setError(cause instanceof ApiError ? cause : new ApiError(0, "It could not be captured", String(cause)));
    } finally {
      setBegan(undefined);
    }
  };
  const running = began !== undefined;
  return (
    <form onSubmit={submit} onKeyDown={submitByKey}>
      <h2>Capture the evidence</h2>
      <p class="muted">Packets that pass from now on, until their number or the time is over. What was recorded before is not in it. The file opens in Wireshark; a comment at each packet says what became of it and why.</p>
      <fieldset class="stack plain" disabled={running}>
        <label class="field">
          <span>Which packets, as for bulkhead trace; empty means all</span>
          <textarea class="mono" maxLength={MAX_FILTER} spellcheck={false} autofocus value={form.filter} onInput={(e) => set({ filter: e.currentTarget.value })} />
        </label>
        <div class="row">
          <label class="field">
            <span>Seconds, at most {MAX_SECONDS}</span>
            <input type="number" required min={1} max={MAX_SECONDS} value={form.seconds} onInput={(e) => set({ seconds: e.currentTarget.valueAsNumber })} />
          </label>
          <label class="field">
            <span>Packets, at most {MAX_PACKETS.toLocaleString("en")}</span>
            <input type="number" required min={1} max={MAX_PACKETS} value={form.packets} onInput={(e) => set({ packets: e.currentTarget.valueAsNumber })} />
          </label>
        </div>
        <label class="row">
          <input type="checkbox" checked={form.payload} onChange={(e) => set({ payload: e.currentTarget.checked })} /> with payload: what applications said, passwords included. Without it, headers alone
        </label>
        <label class="field">
          <span>Reason, for the audit log (a ticket, an order, what you saw); Ctrl + Enter to go on</span>
          <textarea required minLength={3} maxLength={1000} value={form.reason} onInput={(e) => set({ reason: e.currentTarget.value })} />
        </label>
      </fieldset>
      {running && <Progress began={began} seconds={form.seconds} packets={form.packets} />}
      {made && <Outcome file={made} />}
      {error && <Failure error={error} />}
      <div class="dialog-actions">
        <button type="button" class="button" onClick={close}>
          {running ? "Stop and discard" : made ? "Close" : "Cancel"}
        </button>
        <button type="submit" class="button primary" disabled={running || form.reason.trim().length < 3}>
          {running ? "Capturing" : made ? "Capture again" : "Capture"}
        </button>
      </div>
    </form>
  );
}

function Progress({ began, seconds, packets }: { began: number; seconds: number; packets: number }) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 250);
    return () => clearInterval(timer);
  }, []);
  const passed = Math.min(seconds, (now - began) / 1000);
  return (
    <div class="field">
      <progress aria-label="Time of the capture" max={seconds} value={passed} />
      <span class="num">
        {passed.toFixed(0)} of {seconds} s; it ends sooner with {count(packets, "packet")}
      </span>
    </div>
  );
}

function Outcome({ file }: { file: MadeFile }) {
  const number = (name: string): number | undefined => {
    const text = file.headers.get(name);
    return text === null ? undefined : Number(text);
  };
  const packets = number("x-bulkhead-packets");
  const lost = number("x-bulkhead-lost") ?? 0;
  const why = endsWhy(file.headers.get("x-bulkhead-ended"));
  if (packets === 0) {
    return (
      <p class="notice warn" role="status">
        <strong>No packet matched, and {why}.</strong> Nothing was saved. Make the filter wider, or capture while the device tries again.
      </p>
    );
  }
  return (
    <div class="notice good" role="status">
      <p>
        <strong>{packets === undefined ? "Captured" : count(packets, "packet")}</strong>, {bytes(file.content.size)}, saved as <span class="mono wrap">{file.name}</span>; {why}.
      </p>
      {lost > 0 && <p class="warn">{count(lost, "step")} came faster than they could be told: the file is not complete.</p>}
      <button type="button" class="plain" onClick={() => download(file.name, file.content)}>
        Save again
      </button>
    </div>
  );
}
