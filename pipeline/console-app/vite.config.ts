import { defineConfig } from "vitest/config";
import { fixture } from "./fixture/plugin";

// The built application is embedded in the gateway's binary and served from its root. What
// `vite dev` and `vite preview` answer for the API comes from a real console when BULKHEAD_CONSOLE
// names one, else from the fixture: 10,000 generated devices.
const upstream = process.env.BULKHEAD_CONSOLE;

export default defineConfig({
  plugins: upstream ? [] : [fixture()],
  esbuild: { jsx: "automatic", jsxImportSource: "preact" },
  build: {
    target: "es2022",
    // Every asset is a file: inlined data URLs would need exceptions in the content security policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  server: upstream ? { proxy: { "/api": { target: upstream, secure: false } } } : {},
  test: { include: ["src/**/*.test.ts", "fixture/**/*.test.ts"] },
});
