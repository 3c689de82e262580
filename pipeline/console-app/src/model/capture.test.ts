import { expect, it } from "vitest";
import { captureFilter, endsWhy, searchFilter } from "./capture";

const edge = { client: "10.1.0.9", server: "02:1b:1d:00:30:01", protocol: "tcp", port: 502, service: "tcp/502", wire: "line-1" };

it("writes a connection in the words of a trace", () => {
  expect(captureFilter(edge)).toBe("tcp 10.1.0.9 <-> 02:1b:1d:00:30:01 port 502 wire line-1");
  expect(captureFilter({ ...edge, client: "fe80::1", protocol: "icmpv6", port: null, service: "icmpv6" })).toBe("icmpv6 fe80::1 <-> 02:1b:1d:00:30:01 wire line-1");
  expect(captureFilter({ ...edge, protocol: "eth", port: null, service: "eth/0x8892" })).toBe("eth/0x8892 10.1.0.9 <-> 02:1b:1d:00:30:01 wire line-1");
});

it("leaves out what has no word, instead of asking for what is refused", () => {
  expect(captureFilter({ ...edge, server: "plc 7", protocol: "eth", port: null, service: "arp request", wire: "line 1" })).toBe("10.1.0.9 <-> any");
  expect(searchFilter({ device: "plc-7", service: "modbus" })).toBe("");
  expect(searchFilter({ device: "10.1.0.9", service: "tcp/502" })).toBe("tcp/502 10.1.0.9");
});

it("says why a capture ended, also in words that it does not know", () => {
  expect(endsWhy("bytes")).toContain("16 MiB");
  expect(endsWhy("watchdog")).toBe("watchdog");
  expect(endsWhy(null)).toBe("it was over");
});
