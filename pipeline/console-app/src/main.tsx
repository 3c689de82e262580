import { render } from "preact";
import "./styles/tokens.css";
import "./styles/base.css";
import "./styles/layout.css";
import "./styles/pages.css";
import { listen } from "./model/route";
import { App } from "./shell/app";
import { startTheme } from "./ui/theme";

startTheme();
listen();
const root = document.getElementById("app");
if (root) render(<App />, root);
