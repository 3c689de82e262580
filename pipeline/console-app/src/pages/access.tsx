import { useState } from "preact/hooks";
import { may, refreshSession, send, session } from "../api/client";
import { useResource } from "../api/resource";
import type { AuditEntry, AuditPage, Page, Role, Token, User } from "../api/types";
import { moment, who } from "../model/format";
import { adjust, route } from "../model/route";
import { PASSWORD_CHARACTERS } from "../shell/gate";
import { change, tell } from "../ui/dialog";
import { Failure, Panel } from "../ui/panel";
import { Table } from "../ui/table";

const ROLES: [Role, string][] = [["viewer", "sees everything, changes nothing"], ["operator", "also changes policy, modes and quarantine"], ["admin", "also manages users and tokens"]];
const TABS: [string, string][] = [["account", "Account"], ["users", "Users"], ["tokens", "Tokens"], ["audit", "Audit log"]];

/** Who may do what, and who did what. */
export function AccessPage() {
  const admin = may("admin");
  const tab = route.value.query.tab ?? "account";
  return (
    <div class="stack">
      <div class="title">
        <h1>Users and audit</h1>
      </div>
      <div class="row">
        <div class="segments" role="group" aria-label="Part">
          {TABS.filter(([name]) => admin || name !== "users").map(([name, title]) => (
            <button key={name} type="button" aria-pressed={name === tab} onClick={() => adjust({ tab: name })}>
              {title}
            </button>
          ))}
        </div>
      </div>
      {tab === "users" && admin ? <Users /> : tab === "tokens" ? <Tokens /> : tab === "audit" ? <Audit /> : <Account />}
    </div>
  );
}

function Account() {
  const [old, setOld] = useState("");
  const [password, setPassword] = useState("");
  const [error, setError] = useState<Parameters<typeof Failure>[0]["error"]>();
  const submit = async (event: Event) => {
    event.preventDefault();
    setError(undefined);
    try {
      await send("POST", "/password", { old, new: password });
      setOld("");
      setPassword("");
      await refreshSession();
      tell("The password is changed.");
    } catch (cause) {
      setError(cause as typeof error);
    }
  };
  return (
    <div class="grid">
      <Panel title="You" class="span-6">
        <dl class="facts-list">
          <dt>User</dt>
          <dd>{session.value?.user}</dd>
          <dt>Role</dt>
          <dd>
            {session.value?.role}: {ROLES.find(([role]) => role === session.value?.role)?.[1]}
          </dd>
          <dt>Session ends</dt>
          <dd>{moment(session.value?.expires)}</dd>
        </dl>
      </Panel>
      <Panel title="Password" class="span-6">
        <form class="stack" onSubmit={submit}>
          <input type="text" class="visually-hidden" autocomplete="username" aria-hidden="true" tabIndex={-1} value={session.value?.user} readOnly />
          <label class="field">
            <span>Password of now</span>
            <input required type="password" autocomplete="current-password" value={old} onInput={(e) => setOld(e.currentTarget.value)} />
          </label>
          <label class="field">
            <span>New password, at least {PASSWORD_CHARACTERS} characters</span>
            <input required type="password" minLength={PASSWORD_CHARACTERS} autocomplete="new-password" value={password} onInput={(e) => setPassword(e.currentTarget.value)} />
          </label>
          {error && <Failure error={error} />}
          <div>
            <button class="button primary">Change it</button>
          </div>
        </form>
      </Panel>
    </div>
  );
}

function RoleSelect({ role, set, label }: { role: Role; set: (role: Role) => void; label: string }) {
  return (
    <label class="field half">
      <span>{label}</span>
      <select value={role} onChange={(e) => set(e.currentTarget.value as Role)}>
        {ROLES.map(([value, meaning]) => (
          <option key={value} value={value}>
            {value}: {meaning}
          </option>
        ))}
      </select>
    </label>
  );
}

function Users() {
  const users = useResource<Page<User>>("/users");
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const [role, setRole] = useState<Role>("viewer");
  const rows = users.data?.items ?? [];
  const add = (event: Event) => {
    event.preventDefault();
    change.value = {
      title: `Add ${name}`,
      effect: `${name} may log in as ${role} with the password that you gave.`,
      button: "Add",
      plain: true,
      act: async () => {
        await send("POST", "/users", { name, password, role });
        setName("");
        setPassword("");
        return `${name} is added.`;
      },
      done: users.reload,
    };
  };
  const remove = (user: User) => {
    change.value = {
      title: `Remove ${user.name}`,
      effect: "Sessions and tokens of this user end at once.",
      button: "Remove",
      plain: true,
      danger: true,
      act: async () => {
        await send("DELETE", `/users/${encodeURIComponent(user.name)}`);
        return `${user.name} is removed.`;
      },
      done: users.reload,
    };
  };
  return (
    <>
      <Panel title="Add a user">
        <form class="filters" onSubmit={add}>
          <label class="field half">
            <span>Name</span>
            <input required pattern="[A-Za-z0-9._@\-]+" autocomplete="off" value={name} onInput={(e) => setName(e.currentTarget.value)} />
          </label>
          <label class="field half">
            <span>Password, at least {PASSWORD_CHARACTERS} characters</span>
            <input required type="password" minLength={PASSWORD_CHARACTERS} autocomplete="new-password" value={password} onInput={(e) => setPassword(e.currentTarget.value)} />
          </label>
          <RoleSelect role={role} set={setRole} label="Role" />
          <button class="button primary">Add</button>
        </form>
      </Panel>
      <Panel title="Users" from={users} flush empty={{ when: rows.length === 0, what: "There is no user." }}>
        <Table
          caption="Users"
          rows={rows}
          id={(user) => user.name}
          columns={[
            { title: "Name", cell: (user) => user.name },
            { title: "Role", cell: (user) => user.role },
            { title: "Made", cell: (user) => moment(user.created) },
            {
              title: "",
              cell: (user) =>
                user.name !== session.value?.user && (
                  <button type="button" class="button small danger" onClick={() => remove(user)}>
                    Remove
                  </button>
                ),
            },
          ]}
        />
      </Panel>
    </>
  );
}

function Tokens() {
  const tokens = useResource<Page<Token>>("/tokens");
  const [name, setName] = useState("");
  const [scope, setScope] = useState<Role>("viewer");
  const [days, setDays] = useState(90);
  const [made, setMade] = useState<string>();
  const rows = tokens.data?.items ?? [];
  const add = (event: Event) => {
    event.preventDefault();
    change.value = {
      title: `Make the token ${name}`,
      effect: `Whoever holds it may do what a ${scope} may, for ${days} days. It is shown once.`,
      button: "Make it",
      plain: true,
      act: async () => {
        const expires = new Date(Date.now() + days * 86_400_000).toISOString();
        const answer = await send<{ secret: string }>("POST", "/tokens", { name, scope, expires });
        setMade(answer.secret);
        setName("");
        return `The token ${name} is made.`;
      },
      done: tokens.reload,
    };
  };
  const revoke = (token: Token) => {
    change.value = {
      title: `Revoke the token ${token.name}`,
      effect: "Whatever uses it is refused from now on.",
      button: "Revoke",
      plain: true,
      danger: true,
      act: async () => {
        await send("DELETE", `/tokens/${encodeURIComponent(token.id)}`);
        return `The token ${token.name} is revoked.`;
      },
      done: tokens.reload,
    };
  };
  return (
    <>
      <Panel title="Make a token">
        <form class="filters" onSubmit={add}>
          <label class="field half">
            <span>Name</span>
            <input required value={name} onInput={(e) => setName(e.currentTarget.value)} />
          </label>
          <RoleSelect role={scope} set={setScope} label="Scope" />
          <label class="field half">
            <span>Days, at most 365</span>
            <input type="number" min={1} max={365} value={days} onInput={(e) => setDays(Number(e.currentTarget.value))} />
          </label>
          <button class="button primary">Make it</button>
        </form>
        {made && (
          <p class="notice good spaced" role="status">
            Copy it now, it is not shown again: <code class="wrap">{made}</code>
          </p>
        )}
      </Panel>
      <Panel title="Tokens" from={tokens} flush empty={{ when: rows.length === 0, what: "There is no token." }}>
        <Table
          caption="Tokens"
          rows={rows}
          id={(token) => token.id}
          columns={[
            { title: "Name", cell: (token) => token.name },
            { title: "Scope", cell: (token) => token.scope },
            { title: "Expires", cell: (token) => moment(token.expires) },
            { title: "Of", cell: (token) => token.user },
            {
              title: "",
              cell: (token) => (
                <button type="button" class="button small danger" onClick={() => revoke(token)}>
                  Revoke
                </button>
              ),
            },
          ]}
        />
      </Panel>
    </>
  );
}

function Audit() {
  const [entries, setEntries] = useState<AuditEntry[]>([]);
  const [cursor, setCursor] = useState<string>();
  const page = useResource<AuditPage>("/audit", { limit: 100, cursor });
  const rows = [...entries, ...(page.data?.entries ?? [])];
  const next = page.data?.["next-cursor"];
  return (
    <Panel
      title="Audit log"
      from={rows.length ? { ...page, data: rows } : page}
      flush
      empty={{ when: rows.length === 0, what: "Nothing was written yet." }}
      actions={
        page.data &&
        (page.data.verified ? (
          <span class="badge good">● the hash chain holds</span>
        ) : (
          <span class="badge bad">✕ the hash chain is broken</span>
        ))
      }
    >
      {page.data?.broken && <p class="notice bad">{page.data.broken}</p>}
      <Table
        caption="Audit log"
        rows={rows}
        id={(entry) => String(entry.sequence)}
        loading={page.loading}
        more={
          next
            ? () => {
                setEntries(rows);
                setCursor(next);
              }
            : undefined
        }
        columns={[
          { title: "What", cell: (entry) => <span class="wrap">{entry.detail}</span> },
          { title: "When", cell: (entry) => <span class="nowrap">{moment(entry.time)}</span> },
          { title: "Who", cell: (entry) => who(entry.who) },
          { title: "About", cell: (entry) => entry.what },
          { title: "Why", cell: (entry) => <span class="wrap">{entry.reason || "–"}</span> },
        ]}
      />
    </Panel>
  );
}
