import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { Role } from "../api/types";
import { OverviewPage } from "../pages/overview";

export interface PageInfo {
  path: string;
  title: string;
  /** Who sees it in the menu; the server decides what it answers. */
  role?: Role;
  view: ComponentType;
}

/** A page whose code is fetched when it is first opened. */
function later(load: () => Promise<ComponentType>): ComponentType {
  let loaded: ComponentType | undefined;
  return function Later() {
    const [, turn] = useState(0);
    const [failed, setFailed] = useState(false);
    useEffect(() => {
      if (loaded) return;
      load().then(
        (view) => {
          loaded = view;
          turn((n) => n + 1);
        },
        () => setFailed(true),
      );
    }, []);
    if (loaded) {
      const View = loaded;
      return <View />;
    }
    return failed ? (
      <div class="notice bad" role="alert">
        <strong>This page could not be loaded.</strong> The console was probably updated or ended. Reload the page.
      </div>
    ) : (
      <p class="muted" role="status">
        Loading
      </p>
    );
  };
}

export const PAGES: PageInfo[] = [
  { path: "", title: "Overview", view: OverviewPage },
  { path: "map", title: "Map", view: later(async () => (await import("../pages/map")).MapPage) },
  { path: "devices", title: "Devices", view: later(async () => (await import("../pages/devices")).DevicesPage) },
  { path: "policy", title: "Policy", view: later(async () => (await import("../pages/policy")).PolicyPage) },
  { path: "learn", title: "Learn and lock down", view: later(async () => (await import("../pages/learn")).LearnPage) },
  { path: "flows", title: "Flows", view: later(async () => (await import("../pages/flows")).FlowsPage) },
  { path: "denied", title: "Denied", view: later(async () => (await import("../pages/flows")).DeniedPage) },
  { path: "report", title: "Report", view: later(async () => (await import("../pages/report")).ReportPage) },
  { path: "access", title: "Users and audit", view: later(async () => (await import("../pages/access")).AccessPage) },
];

const Missing = () => (
  <div class="notice warn">
    <strong>There is no such page.</strong> <a href="#/">Go to the overview.</a>
  </div>
);

export const pageOf = (path: string): PageInfo =>
  PAGES.find((page) => page.path === path) ?? { path: "?", title: "No such page", view: Missing };
