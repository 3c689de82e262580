import { useState } from "preact/hooks";
import { ApiError, refreshSession, send, session, setupNeeded } from "../api/client";
import { route } from "../model/route";
import { Failure } from "../ui/panel";
import { Mark } from "./frame";

/** Passwords shorter than this are refused; the server has the last word. */
export const PASSWORD_CHARACTERS = 10;

/** The log-in, or with a one-time link the first administrator. */
export function Gate() {
  const token = route.value.parts[0] === "setup" ? (route.value.query.token ?? route.value.parts[1]) : undefined;
  return (
    <main class="gate" id="main">
      {token !== undefined ? <Setup token={token} /> : <LogIn />}
    </main>
  );
}

function LogIn() {
  const [user, setUser] = useState("");
  const [password, setPassword] = useState("");
  const form = useForm(async () => {
    await send("POST", "/login", { user, password });
    await refreshSession();
  });
  return (
    <form onSubmit={form.submit}>
      <Heading text="Log in" />
      <label class="field">
        <span>User</span>
        <input required autofocus autocomplete="username" autocapitalize="none" value={user} onInput={(e) => setUser(e.currentTarget.value)} />
      </label>
      <label class="field">
        <span>Password</span>
        <input required type="password" autocomplete="current-password" value={password} onInput={(e) => setPassword(e.currentTarget.value)} />
      </label>
      {form.error && <Failure error={form.error} />}
      <button class="button primary" disabled={form.busy}>
        {form.busy ? "Checking" : "Log in"}
      </button>
      <p class="small muted">
        {setupNeeded.value ? "There is no user yet." : "No user yet, or locked out?"} On the gateway, as root: <code>bulkhead console --setup-link</code> prints a new one-time link.
      </p>
    </form>
  );
}

function Setup({ token }: { token: string }) {
  const [user, setUser] = useState("admin");
  const [password, setPassword] = useState("");
  const [again, setAgain] = useState("");
  const form = useForm(async () => {
    if (password !== again) throw new ApiError(0, "The two passwords differ", "Nothing was changed.");
    await send("POST", "/setup", { token, user, password });
    // The link is spent: it must not stay in the address bar or the history.
    history.replaceState(null, "", "#/");
    route.value = { parts: [], query: {} };
    await refreshSession();
  });
  return (
    <form onSubmit={form.submit}>
      <Heading text="First administrator" />
      <p class="muted">This link works once. The user that you make here may do everything, and makes the others.</p>
      <label class="field">
        <span>User</span>
        <input required autocomplete="username" autocapitalize="none" pattern="[A-Za-z0-9._@\-]+" value={user} onInput={(e) => setUser(e.currentTarget.value)} />
      </label>
      <label class="field">
        <span>Password, at least {PASSWORD_CHARACTERS} characters</span>
        <input required type="password" minLength={PASSWORD_CHARACTERS} autocomplete="new-password" value={password} onInput={(e) => setPassword(e.currentTarget.value)} />
      </label>
      <label class="field">
        <span>The same again</span>
        <input required type="password" autocomplete="new-password" value={again} onInput={(e) => setAgain(e.currentTarget.value)} />
      </label>
      {form.error && <Failure error={form.error} />}
      <button class="button primary" disabled={form.busy}>
        {form.busy ? "Working" : "Make the administrator"}
      </button>
    </form>
  );
}

const Heading = ({ text }: { text: string }) => (
  <div class="row">
    <Mark />
    <h1>{text}</h1>
    <span class="muted">Bulkhead</span>
  </div>
);

function useForm(act: () => Promise<void>) {
  const [error, setError] = useState<ApiError>();
  const [busy, setBusy] = useState(false);
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    setError(undefined);
    try {
      await act();
    } catch (cause) {
      setError(cause instanceof ApiError ? cause : new ApiError(0, "It could not be done", String(cause)));
      if (session.value === undefined) session.value = null;
    } finally {
      setBusy(false);
    }
  };
  return { submit, error, busy };
}
