import { useEffect, useRef, useState } from "preact/hooks";
import { refreshSession, session, type ApiError } from "../api/client";
import { follow, overview } from "../api/live";
import { route } from "../model/route";
import { ChangeDialog, Toast } from "../ui/dialog";
import { Failure, Silence } from "../ui/panel";
import { Head, Nav } from "./frame";
import { Gate } from "./gate";
import { Palette } from "./palette";
import { pageOf } from "./pages";

/** The whole application: the log-in, or the frame with the page that the address names. */
export function App() {
  const [failed, setFailed] = useState<ApiError>();
  const ask = () => {
    setFailed(undefined);
    refreshSession().catch((error: ApiError) => setFailed(error));
  };
  useEffect(ask, []);
  if (failed) {
    return (
      <main class="gate">
        <Failure error={failed} retry={ask} />
      </main>
    );
  }
  if (session.value === undefined) {
    return (
      <main class="gate" aria-busy="true">
        <p class="muted" role="status">
          Asking the console
        </p>
      </main>
    );
  }
  if (session.value === null || route.value.parts[0] === "setup") return <Gate />;
  return <Frame />;
}

function Frame() {
  const [menu, setMenu] = useState(false);
  const main = useRef<HTMLElement>(null);
  const page = pageOf(route.value.parts[0] ?? "");
  const path = route.value.parts.join("/");
  useEffect(follow, []);
  useEffect(() => {
    setMenu(false);
    document.title = `${page.title} · Bulkhead`;
    scrollTo(0, 0);
  }, [path]);
  const Page = page.view;
  return (
    <div class="shell">
      <button type="button" class="button skip" onClick={() => main.current?.focus()}>
        Skip to the page
      </button>
      <Head menu={menu} toggleMenu={() => setMenu(!menu)} />
      <Nav open={menu} current={page.path} decisions={overview.value?.decisions.length ?? 0} />
      <main class="main" ref={main} tabIndex={-1} id="main">
        <Silence />
        <Page />
      </main>
      <Palette />
      <ChangeDialog />
      <Toast />
    </div>
  );
}
