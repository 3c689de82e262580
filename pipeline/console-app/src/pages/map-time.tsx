import { useLayoutEffect, useState } from "preact/hooks";
import { useResource } from "../api/resource";
import type { Times } from "../api/types";
import { moment, span } from "../model/format";
import { firstWindow, nextWindow, type Window } from "../model/playback";
import { adjust, route } from "../model/route";

type Bucket = Times["buckets"][number];

/** How long a piece of time is looked at while time is played, in milliseconds. */
const STEP_MS = 900;

/** From when to when the map counts, over bars of how much there was. Moving an end counts anew when it
 *  is let go; playing moves both on, step by step, not before the map has `arrived`. */
export function TimeSlider({ arrived }: { arrived: boolean }) {
  const times = useResource<Times>("/map/times");
  const [playing, setPlaying] = useState(false);
  const buckets = times.data?.buckets ?? [];
  const { from, to } = route.value.query;
  const last = buckets.length - 1;
  const start = from ? nearest(buckets, (bucket) => bucket.from, from) : 0;
  const end = to ? nearest(buckets, (bucket) => bucket.to, to) : last;
  const show = ({ start: low, end: high }: Window) => {
    if (last >= 0) adjust({ from: low > 0 ? buckets[low]!.from : "", to: high < last ? buckets[high]!.to : "" });
  };
  // Ended with the rendering, not after it is painted: meanwhile it would go on by one step more after a pause.
  useLayoutEffect(() => {
    if (!playing || !arrived) return;
    const timer = setTimeout(() => {
      const next = nextWindow(buckets.length, { start, end });
      if (next) show(next);
      else setPlaying(false);
    }, STEP_MS);
    return () => clearTimeout(timer);
  }, [playing, arrived, start, end]);
  if (buckets.length < 2) return null;
  const most = Math.max(1, ...buckets.map((bucket) => bucket.flows));
  const set = (a: number, b: number) => {
    setPlaying(false);
    show(a <= b ? { start: a, end: b } : { start: b, end: a });
  };
  const play = () => {
    if (!playing) show(firstWindow(buckets.length, { start, end }));
    setPlaying(!playing);
  };
  const isWhole = start === 0 && end === last;
  const [begins, ends] = [buckets[start]!.from, buckets[end]!.to];
  return (
    <section class="panel" aria-label="Time">
      <div class="body slider">
        <div class="row slider-buttons">
          <button type="button" class="button small" aria-pressed={playing} onClick={play}>
            <span aria-hidden="true">{playing ? "❚❚" : "▶"}</span> {playing ? "Pause" : "Play"}
          </button>
          <button type="button" class="button small" disabled={isWhole} onClick={() => set(0, last)}>
            All time
          </button>
        </div>
        <p class="small num slider-shown">
          {moment(begins).slice(0, 16)} to {moment(ends).slice(0, 16)} <span class="muted">({span((Date.parse(ends) - Date.parse(begins)) / 1000)})</span>
        </p>
        <svg class="bars" viewBox={`0 0 ${buckets.length} 26`} preserveAspectRatio="none" aria-hidden="true">
          {buckets.map((bucket, i) => (
            <rect
              key={bucket.from}
              x={i + 0.1}
              width={0.8}
              y={26 - (25 * bucket.flows) / most}
              height={(25 * bucket.flows) / most}
              fill={i >= start && i <= end ? "var(--accent)" : "var(--line-strong)"}
              opacity={i >= start && i <= end ? 1 : 0.4}
            />
          ))}
        </svg>
        <div class="ends">
          <input type="range" aria-label="From" aria-valuetext={moment(begins)} min={0} max={last} value={start} onChange={(e) => set(Number(e.currentTarget.value), end)} />
          <input type="range" aria-label="Until" aria-valuetext={moment(ends)} min={0} max={last} value={end} onChange={(e) => set(start, Number(e.currentTarget.value))} />
        </div>
      </div>
    </section>
  );
}

function nearest(buckets: Bucket[], end: (bucket: Bucket) => string, at: string): number {
  const wanted = Date.parse(at);
  let best = 0;
  buckets.forEach((bucket, i) => {
    if (Date.parse(end(bucket)) <= wanted) best = i;
  });
  return best;
}
