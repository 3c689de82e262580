import { signal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { get } from "../api/client";
import type { DeviceRow, Page } from "../api/types";
import { Dialog } from "../ui/dialog";
import { toggleTheme } from "../ui/theme";
import { href } from "../model/route";
import { PAGES } from "./pages";

const open = signal(false);
export const openPalette = () => {
  open.value = true;
};

interface Entry {
  name: string;
  kind: string;
  run: () => void;
}

const visit = (hash: string) => () => {
  location.hash = hash;
};
const FIXED = (): Entry[] => [
  ...PAGES.map((page) => ({ name: page.title, kind: "page", run: visit(page.path ? href([page.path]) : "#/") })),
  { name: "Map as a graph", kind: "view", run: visit(href(["map"], { view: "graph" })) },
  { name: "Map: would be blocked by the staged policy", kind: "view", run: visit(href(["map"], { overlay: "staged" })) },
  { name: "Policy editor", kind: "view", run: visit(href(["policy", "editor"])) },
  { name: "Policy history and rollback", kind: "view", run: visit(href(["policy", "history"])) },
  { name: "Switch light and dark", kind: "command", run: toggleTheme },
];

/** `/` anywhere: go to a page, a view, or a device by name or address. */
export function Palette() {
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  const [devices, setDevices] = useState<DeviceRow[]>([]);
  const list = useRef<HTMLUListElement>(null);
  // There as soon as the page is seen.
  useLayoutEffect(() => {
    const key = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      const typing = target.closest?.("input, textarea, select, [contenteditable], .editor") !== null;
      if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !document.querySelector("dialog[open]")) {
        event.preventDefault();
        open.value = true;
      }
    };
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  }, []);
  useEffect(() => {
    setAt(0);
    if (!open.value || text.trim().length < 2) {
      setDevices([]);
      return;
    }
    const abort = new AbortController();
    const timer = setTimeout(() => {
      get<Page<DeviceRow>>("/devices", { search: text.trim(), limit: 8 }, abort.signal).then(
        (page) => setDevices(page.items),
        () => setDevices([]),
      );
    }, 120);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [text, open.value]);
  const close = () => {
    open.value = false;
    setText("");
  };
  const wanted = text.trim().toLowerCase();
  const entries: Entry[] = [
    ...FIXED().filter((entry) => entry.name.toLowerCase().includes(wanted)),
    ...devices.map((device) => ({
      name: `${device.name || device.id}  ${device.addresses[0] ?? ""}`,
      kind: device.role,
      run: visit(href(["devices", device.id])),
    })),
  ];
  const run = (entry: Entry | undefined) => {
    if (!entry) return;
    close();
    entry.run();
  };
  const key = (event: KeyboardEvent) => {
    const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    if (step) {
      event.preventDefault();
      const next = (at + step + entries.length) % Math.max(1, entries.length);
      setAt(next);
      list.current?.children[next]?.scrollIntoView({ block: "nearest" });
    }
    if (event.key === "Enter") run(entries[at]);
  };
  return (
    <Dialog title="Go to" open={open.value} close={close} class="palette">
      <input
        autofocus
        type="text"
        role="combobox"
        aria-label="Go to a page or a device"
        aria-expanded="true"
        aria-controls="palette-list"
        aria-activedescendant={entries.length ? `palette-${at}` : undefined}
        placeholder="Page, device name or address"
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={key}
      />
      <ul id="palette-list" role="listbox" aria-label="Matches" ref={list}>
        {entries.map((entry, i) => (
          <li key={entry.kind + entry.name} id={`palette-${i}`} role="option" aria-selected={i === at} onClick={() => run(entry)}>
            <span class="wrap">{entry.name}</span>
            <span class="muted small">{entry.kind}</span>
          </li>
        ))}
      </ul>
      {entries.length === 0 && <p class="state">Nothing matches.</p>}
    </Dialog>
  );
}
