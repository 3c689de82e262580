import { render } from "preact";
import "./styles/tokens.css";
import "./styles/base.css";
import "./styles/layout.css";
import "./styles/pages.css";
import { href, listen } from "./model/route";
import { App } from "./shell/app";
import { startTheme } from "./ui/theme";

// The one-time link is /setup#SECRET: from then on the application lives at its root.
if (location.pathname === "/setup") history.replaceState(null, "", `/${href(["setup", location.hash.slice(1)])}`);
startTheme();
listen();
const root = document.getElementById("app");
if (root) render(<App />, root);
