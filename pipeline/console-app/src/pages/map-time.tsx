import { useResource } from "../api/resource";
import type { Times } from "../api/types";
import { moment } from "../model/format";
import { adjust, route } from "../model/route";

type Bucket = Times["buckets"][number];

/** From when to when the map counts, over bars of how much there was. Moving an end counts anew when it
 *  is let go. */
export function TimeSlider() {
  const times = useResource<Times>("/map/times");
  const buckets = times.data?.buckets ?? [];
  if (buckets.length < 2) return null;
  const { from, to } = route.value.query;
  const last = buckets.length - 1;
  const start = from ? nearest(buckets, (bucket) => bucket.from, from) : 0;
  const end = to ? nearest(buckets, (bucket) => bucket.to, to) : last;
  const most = Math.max(1, ...buckets.map((bucket) => bucket.flows));
  const set = (a: number, b: number) => {
    const [low, high] = a <= b ? [a, b] : [b, a];
    adjust({ from: low > 0 ? buckets[low]!.from : "", to: high < last ? buckets[high]!.to : "" });
  };
  return (
    <section class="panel" aria-label="Time">
      <div class="body slider">
        <span class="small num">{moment(buckets[start]!.from).slice(5, 16)}</span>
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
        <span class="small num">{moment(buckets[end]!.to).slice(5, 16)}</span>
        <div class="ends">
          <input
            type="range"
            aria-label="From"
            aria-valuetext={moment(buckets[start]!.from)}
            min={0}
            max={last}
            value={start}
            onChange={(e) => set(Number(e.currentTarget.value), end)}
          />
          <input type="range" aria-label="Until" aria-valuetext={moment(buckets[end]!.to)} min={0} max={last} value={end} onChange={(e) => set(start, Number(e.currentTarget.value))} />
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
