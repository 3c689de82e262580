import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";

const files = (folder: string): string[] =>
  readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    return statSync(path).isDirectory() ? files(path) : [path];
  });

it("nowhere claims that a standard is met", () => {
  const pages = files("src").filter((path) => /\.(tsx|ts|css)$/.test(path) && !/\.test\.ts$|schema\.d\.ts$/.test(path));
  expect(pages.length).toBeGreaterThan(30);
  for (const path of pages) expect(readFileSync(path, "utf8"), path).not.toMatch(/complian/i);
});
