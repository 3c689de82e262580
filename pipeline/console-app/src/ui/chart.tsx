import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { theme } from "./theme";

export interface Series {
  name: string;
  values: number[];
  /** The name of a colour token. */
  colour: string;
  dash?: number[];
}

/** Lines over time. `times` are seconds since 1970; the text below says what a screen reader needs. */
export function Chart(props: { times: number[]; series: Series[]; format: (value: number) => string; label: string; height?: number }) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>();
  const newest = useRef(props);
  newest.current = props;
  const shape = props.series.map((s) => s.name).join() + theme.value;
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const style = getComputedStyle(document.documentElement);
    const token = (name: string) => style.getPropertyValue(`--${name}`).trim();
    const { series, format, height = 150 } = newest.current;
    const axis = { stroke: token("muted"), grid: { stroke: token("line"), width: 1 }, ticks: { stroke: token("line"), width: 1 }, font: "11px system-ui, sans-serif" };
    plot.current = new uPlot(
      {
        width: Math.max(120, element.clientWidth),
        height,
        legend: { show: false },
        padding: [8, 8, 0, 0],
        cursor: { y: false, points: { show: false } },
        scales: { y: { range: (_, __, max) => [0, max > 0 ? max * 1.1 : 1] } },
        axes: [
          { ...axis, size: 24, values: (_, ticks) => ticks.map((t) => new Date(t * 1000).toTimeString().slice(0, 5)) },
          { ...axis, size: 76, space: 26, values: (_, ticks) => ticks.map((v) => format(v)) },
        ],
        series: [
          {},
          ...series.map((s) => ({ label: s.name, stroke: token(s.colour), width: 1.5, dash: s.dash, points: { show: false } })),
        ],
      },
      data(newest.current),
      element,
    );
    const observer = new ResizeObserver(() => plot.current?.setSize({ width: Math.max(120, element.clientWidth), height }));
    observer.observe(element);
    return () => {
      observer.disconnect();
      plot.current?.destroy();
      plot.current = undefined;
    };
  }, [shape]);
  useEffect(() => plot.current?.setData(data(props)), [props.times, props.series]);
  const last = props.series.map((s) => `${s.name} ${props.format(s.values.at(-1) ?? 0)}`).join(", ");
  return (
    <figure>
      <figcaption class="row small muted">
        {props.series.map((s) => (
          <span key={s.name} class="row">
            <svg width="18" height="8" aria-hidden="true">
              <line x1="0" y1="4" x2="18" y2="4" stroke={`var(--${s.colour})`} stroke-width="2" stroke-dasharray={s.dash?.join(" ")} />
            </svg>
            {s.name}
          </span>
        ))}
      </figcaption>
      <div ref={box} role="img" aria-label={`${props.label}; now ${last}`} />
    </figure>
  );
}

const data = (props: { times: number[]; series: Series[] }): uPlot.AlignedData => [props.times, ...props.series.map((s) => s.values)];
