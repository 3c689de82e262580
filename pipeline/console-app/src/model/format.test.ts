import { describe, expect, it } from "vitest";
import { ago, count, exact, latency, moment, percent, short, si, span, utc } from "./format";

describe("numbers", () => {
  it("keep three digits and never round up to a thousand of the smaller unit", () => {
    expect(si(0)).toBe("0");
    expect(si(999)).toBe("999");
    expect(si(12_345)).toBe("12.3 k");
    expect(si(999_999)).toBe("1.00 M");
    expect(si(1_500_000_000, "bit/s")).toBe("1.50 Gbit/s");
    expect(si(Number.NaN)).toBe("–");
    expect(exact(1_234_567)).toBe("1,234,567");
  });
  it("say of a share that is small but not nothing that it is not nothing", () => {
    expect(percent(0)).toBe("0 %");
    expect(percent(0.00001)).toBe("< 0.01 %");
    expect(percent(0.0012)).toBe("0.12 %");
    expect(percent(0.5)).toBe("50 %");
  });
  it("write latency in the unit that it has", () => {
    expect(latency(850)).toBe("850 ns");
    expect(latency(12_300)).toBe("12.3 µs");
    expect(latency(4_000_000)).toBe("4.0 ms");
  });
});

describe("times", () => {
  it("use the two largest units", () => {
    expect(span(59)).toBe("59 s");
    expect(span(3_725)).toBe("1 h 2 min");
    expect(span(90_000)).toBe("1 d 1 h");
  });
  it("tell never from long ago, and survive nonsense", () => {
    const now = Date.parse("2026-11-23T07:00:00Z");
    expect(ago(null, now)).toBe("never");
    expect(ago("2026-11-23T06:58:00Z", now)).toBe("2 min ago");
    expect(ago("nonsense", now)).toBe("–");
    expect(moment("nonsense")).toBe("–");
    expect(moment("2026-11-23T07:00:00Z")).toMatch(/^2026-11-2\d \d\d:\d\d:00$/);
  });
});

it("counts one and many", () => {
  expect(count(1, "device")).toBe("1 device");
  expect(count(2_000, "entry", "entries")).toBe("2,000 entries");
  expect(short("0123456789abcdef")).toBe("0123456789ab");
});

it("writes the times of a report so that they mean the same everywhere", () => {
  expect(utc("2026-10-25T02:30:00+02:00")).toBe("2026-10-25 00:30:00Z");
  expect(utc("2026-10-25T02:30:00+01:00")).toBe("2026-10-25 01:30:00Z");
  expect([utc(null), utc(""), utc("never")]).toEqual(["–", "–", "–"]);
});
