// How numbers, times and addresses are written: one way everywhere, with the unit last.

const SI = ["", "k", "M", "G", "T", "P"];

/** Three significant digits with an SI prefix: 12,345 -> "12.3 k". */
export function si(value: number, unit = ""): string {
  if (!Number.isFinite(value)) return "–";
  let scaled = Math.abs(value);
  let step = 0;
  while (scaled >= 999.5 && step < SI.length - 1) {
    scaled /= 1000;
    step += 1;
  }
  const digits = step === 0 && Number.isInteger(scaled) ? 0 : scaled < 9.995 ? 2 : scaled < 99.95 ? 1 : 0;
  const suffix = SI[step] + unit;
  return `${value < 0 ? "−" : ""}${scaled.toFixed(digits)}${suffix ? " " + suffix : ""}`;
}

/** Bytes in powers of 1,000, as disks and networks count. */
export const bytes = (value: number): string => si(value, "B");

const GROUPED = new Intl.NumberFormat("en");
/** Every digit, in groups of three. */
export const exact = (value: number): string => (Number.isFinite(value) ? GROUPED.format(value) : "–");

/** A share of one as percent, with enough digits that "0 %" means none. */
export function percent(share: number): string {
  if (!Number.isFinite(share)) return "–";
  const value = share * 100;
  if (value === 0) return "0 %";
  if (value < 0.01) return "< 0.01 %";
  return `${value < 1 ? value.toFixed(2) : value < 10 ? value.toFixed(1) : value.toFixed(0)} %`;
}

/** Nanoseconds as an operator reads latency. */
export function latency(nanoseconds: number): string {
  if (!Number.isFinite(nanoseconds)) return "–";
  if (nanoseconds < 1_000) return `${nanoseconds.toFixed(0)} ns`;
  if (nanoseconds < 1_000_000) return `${(nanoseconds / 1_000).toFixed(1)} µs`;
  return `${(nanoseconds / 1_000_000).toFixed(1)} ms`;
}

/** A length of time in its two largest units: "3 d 4 h". */
export function span(seconds: number): string {
  if (!Number.isFinite(seconds)) return "–";
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

/** "12 s ago", or "never". */
export function ago(at: string | null | undefined, now = Date.now()): string {
  if (!at) return "never";
  const seconds = (now - Date.parse(at)) / 1000;
  if (!Number.isFinite(seconds)) return "–";
  return seconds < 1 ? "now" : `${span(seconds).split(" ").slice(0, 2).join(" ")} ago`;
}

/** Local date and time to the second, sortable as text: 2026-11-23 07:12:05. */
export function moment(at: string | number | null | undefined): string {
  if (at === null || at === undefined || at === "") return "–";
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return "–";
  const two = (n: number) => String(n).padStart(2, "0");
  return (
    `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ` +
    `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`
  );
}

/** The same in coordinated universal time, for what is read elsewhere and later: 2026-11-23 07:12:05Z. */
export function utc(at: string | number | null | undefined): string {
  if (at === null || at === undefined || at === "") return "–";
  const date = new Date(at);
  return Number.isNaN(date.getTime()) ? "–" : `${date.toISOString().slice(0, 19).replace("T", " ")}Z`;
}

/** The time of day alone. */
export const clock = (at: string | number): string => moment(at).slice(11);

/** The first digits of a hash, enough to tell two apart by eye. */
export const short = (hash: string | null | undefined): string => (hash ? hash.slice(0, 12) : "–");

/** The console's user for whom it was done, else the user of the machine. */
export const who = (by: { name: string; "on-behalf-of"?: string | null }): string => by["on-behalf-of"] ?? by.name;

/** "1 device", "2 devices". */
export const count = (n: number, one: string, many = one + "s"): string => `${exact(n)} ${n === 1 ? one : many}`;
