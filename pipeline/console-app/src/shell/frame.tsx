import { useEffect, useState } from "preact/hooks";
import { send, session } from "../api/client";
import { bypassed, overview, silence } from "../api/live";
import { clock, short } from "../model/format";
import { modes } from "../model/health";
import { href } from "../model/route";
import { complain } from "../ui/dialog";
import { Mode } from "../ui/marks";
import { theme, toggleTheme } from "../ui/theme";
import { openPalette } from "./palette";
import { PAGES } from "./pages";

/** What is true on every page: which gateway, in which mode, under which policy, heard when. */
export function Head({ menu, toggleMenu }: { menu: boolean; toggleMenu: () => void }) {
  const now = overview.value;
  const wires = now?.gateway?.wires ?? [];
  return (
    <header class="head">
      <button type="button" class="button small menu-button" aria-expanded={menu} aria-controls="nav" onClick={toggleMenu}>
        Menu
      </button>
      <a class="brand" href="#/" aria-label="Bulkhead, overview">
        <Mark />
        <span class="optional">Bulkhead</span>
      </a>
      <div class="facts grow">
        {bypassed.value ? <span class="badge bad">✕ unjudged</span> : modes(wires).map(({ mode, wires: n }) => <Mode key={mode} mode={mode} wires={n === wires.length ? undefined : n} />)}
        {now?.gateway?.policy && (
          <span class="optional small muted" title={now.gateway.policy.hash}>
            policy <span class="mono">{short(now.gateway.policy.hash)}</span>
          </span>
        )}
        <Heard />
      </div>
      <button type="button" class="button small optional" onClick={openPalette}>
        Go to <span class="hint">/</span>
      </button>
      <Account />
    </header>
  );
}

/** Live, or since when not. */
function Heard() {
  const gone = silence.value;
  const at = overview.value?.at;
  if (gone) {
    return (
      <span class="bad nowrap">
        <span aria-hidden="true">✕</span> {gone.who} silent since {clock(gone.since)}
      </span>
    );
  }
  return (
    <span class="small nowrap muted">
      <span class="good" aria-hidden="true">
        ●
      </span>{" "}
      live{at ? ` ${clock(at)}` : ""}
    </span>
  );
}

function Account() {
  const [open, setOpen] = useState(false);
  useEffect(() => {
    if (!open) return;
    const close = (event: Event) => {
      if (event instanceof KeyboardEvent ? event.key === "Escape" : !(event.target as Element).closest?.(".account")) setOpen(false);
    };
    addEventListener("keydown", close);
    addEventListener("pointerdown", close);
    return () => {
      removeEventListener("keydown", close);
      removeEventListener("pointerdown", close);
    };
  }, [open]);
  const leave = async () => {
    try {
      await send("POST", "/logout");
      session.value = null;
    } catch (cause) {
      // An answer of 401 means that nobody is logged in, and has led to the log-in already.
      if (session.value) complain(`You are still logged in: ${cause instanceof Error ? cause.message : String(cause)}`);
    }
  };
  return (
    <div class="account">
      <button type="button" class="button small" aria-expanded={open} aria-haspopup="true" onClick={() => setOpen(!open)}>
        {session.value?.user}
      </button>
      {open && (
        <div class="account-menu">
          <p class="small muted">role: {session.value?.role}</p>
          <button type="button" class="button small" onClick={toggleTheme}>
            {theme.value === "dark" ? "Light theme" : "Dark theme"}
          </button>
          <a class="button small" href={href(["access"])} onClick={() => setOpen(false)}>
            Account
          </a>
          <button type="button" class="button small" onClick={leave}>
            Log out
          </button>
        </div>
      )}
    </div>
  );
}

export function Nav({ open, current, decisions }: { open: boolean; current: string; decisions: number }) {
  return (
    <nav class={`nav ${open ? "open" : ""}`} id="nav" aria-label="Pages">
      <ul>
        {PAGES.map((page) => (
          <li key={page.path}>
            <a href={page.path ? href([page.path]) : "#/"} aria-current={page.path === current ? "page" : undefined}>
              {page.title}
              {page.path === "" && decisions > 0 && (
                <span class="count" aria-label={`${decisions} need a decision`}>
                  {decisions}
                </span>
              )}
            </a>
          </li>
        ))}
      </ul>
    </nav>
  );
}

/** A wall with one door. */
export function Mark() {
  return (
    <svg width="22" height="22" viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="5" fill="#0b5a8a" />
      <path d="M7 7v18M16 7v7M16 18v7M25 7v18" stroke="#fff" stroke-width="3.2" />
      <path d="M3 16h8M21 16h8" stroke="#8fd0f5" stroke-width="2.4" />
    </svg>
  );
}
