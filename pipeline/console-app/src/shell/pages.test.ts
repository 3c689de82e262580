import { existsSync, readFileSync } from "node:fs";
import { expect, it } from "vitest";

it("has a picture of every page beside the README's text, and no picture that is gone", () => {
  const readme = readFileSync("README.md", "utf8");
  const pictures = [...readme.matchAll(/\]\((docs\/[^)]+)\)/g)].map((match) => match[1]!);
  for (const picture of pictures) expect(existsSync(picture), picture).toBe(true);
  // The table of contents needs a browser to be loaded; its text does not.
  const paths = [...readFileSync("src/shell/pages.tsx", "utf8").matchAll(/\{ path: "([a-z]*)", title:/g)].map((match) => match[1] || "overview");
  expect(paths.length).toBeGreaterThan(7);
  for (const path of paths) expect(pictures.some((picture) => picture.startsWith(`docs/${path}-`)), path).toBe(true);
});
