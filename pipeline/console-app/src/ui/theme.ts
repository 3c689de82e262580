import { signal } from "@preact/signals";

export type Theme = "light" | "dark";
const KEY = "bulkhead-theme";

const system = (): Theme => (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");

function chosen(): Theme | undefined {
  try {
    const value = localStorage.getItem(KEY);
    return value === "light" || value === "dark" ? value : undefined;
  } catch {
    return undefined;
  }
}

/** What is shown: the operator's choice, else the system's. */
export const theme = signal<Theme>("light");

export function startTheme(): void {
  const apply = () => {
    theme.value = chosen() ?? system();
    document.documentElement.dataset.theme = theme.value;
  };
  apply();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
}

export function toggleTheme(): void {
  const next: Theme = theme.value === "dark" ? "light" : "dark";
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // Where storage is refused the choice lasts for this visit.
  }
  theme.value = next;
  document.documentElement.dataset.theme = next;
}
