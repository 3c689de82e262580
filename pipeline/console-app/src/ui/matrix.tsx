import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import type { Cell } from "../api/types";
import { count } from "../model/format";
import { emphasised, type Indexed, type Overlay } from "../model/matrix";
import { token, useCanvas } from "./canvas";
import { stateOf, STATES } from "./marks";

const LABEL_PX = 148;
const HEAD_PX = 112;

/** Groups against groups: rows reach columns. Only what is in view is drawn, so that a thousand groups
 *  scroll as smoothly as ten. Arrow keys move, Enter opens; what is under the cursor is told below. */
export function MatrixView(props: {
  matrix: Indexed;
  overlay: Overlay;
  reached?: ReadonlySet<string>;
  chosen?: { from: string; to: string };
  open: (from: string, to: string) => void;
  openGroup: (id: string) => void;
}) {
  const { matrix, overlay, reached, chosen } = props;
  const n = matrix.groups.length;
  const narrow = typeof innerWidth === "number" && innerWidth < 760;
  const labels = narrow ? 96 : LABEL_PX;
  const heads = narrow ? 84 : HEAD_PX;
  const box = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(900);
  const size = Math.max(narrow ? 18 : 15, Math.min(34, Math.floor((width - labels - 16) / Math.max(1, n))));
  const [at, setAt] = useState<{ row: number; column: number }>();
  const fit = (text: string, context: CanvasRenderingContext2D, width: number) => {
    if (context.measureText(text).width <= width) return text;
    let end = text.length - 1;
    while (end > 1 && context.measureText(text.slice(0, end) + "…").width > width) end -= 1;
    return text.slice(0, end) + "…";
  };

  const draw = useCallback(
    (context: CanvasRenderingContext2D, width: number, height: number) => {
      const left = box.current?.scrollLeft ?? 0;
      const top = box.current?.scrollTop ?? 0;
      const colours = new Map(STATES.map((s) => [s.state, token(s.token)]));
      const surface = token("surface");
      const line = token("line");
      const text = token("text");
      const accent = token("accent");
      context.fillStyle = surface;
      context.fillRect(0, 0, width, height);
      context.save();
      context.beginPath();
      context.rect(labels, heads, width - labels, height - heads);
      context.clip();
      const firstRow = Math.max(0, Math.floor(top / size));
      const lastRow = Math.min(n - 1, Math.floor((top + height - heads) / size));
      const firstColumn = Math.max(0, Math.floor(left / size));
      const lastColumn = Math.min(n - 1, Math.floor((left + width - labels) / size));
      context.font = `${Math.min(13, size - 5)}px ${token("font")}`;
      context.textAlign = "center";
      context.textBaseline = "middle";
      for (let row = firstRow; row <= lastRow; row += 1) {
        for (let column = firstColumn; column <= lastColumn; column += 1) {
          const x = labels + column * size - left;
          const y = heads + row * size - top;
          if (row === column) {
            context.fillStyle = token("raised");
            context.fillRect(x, y, size, size);
          }
          const cell = matrix.at[row * n + column];
          if (cell) drawCell(context, cell, x, y, size, colours, emphasised(cell, overlay, reached));
        }
      }
      context.strokeStyle = line;
      context.lineWidth = 1;
      context.beginPath();
      for (let row = firstRow; row <= lastRow + 1; row += 1) {
        const y = Math.round(heads + row * size - top) + 0.5;
        context.moveTo(labels, y);
        context.lineTo(Math.min(width, labels + n * size - left), y);
      }
      for (let column = firstColumn; column <= lastColumn + 1; column += 1) {
        const x = Math.round(labels + column * size - left) + 0.5;
        context.moveTo(x, heads);
        context.lineTo(x, Math.min(height, heads + n * size - top));
      }
      context.stroke();
      const marked = chosen ? { row: matrix.byId.get(chosen.from) ?? -1, column: matrix.byId.get(chosen.to) ?? -1 } : undefined;
      for (const [mark, thick] of [[marked, 3], [at, 2]] as const) {
        if (!mark || mark.row < 0 || mark.column < 0) continue;
        context.strokeStyle = thick === 3 ? accent : text;
        context.lineWidth = thick;
        context.strokeRect(labels + mark.column * size - left + 1, heads + mark.row * size - top + 1, size - 1, size - 1);
      }
      context.restore();
      context.font = `12px ${token("font")}`;
      context.fillStyle = surface;
      context.fillRect(0, heads, labels, height - heads);
      context.fillRect(0, 0, width, heads);
      context.textAlign = "right";
      for (let row = firstRow; row <= lastRow; row += 1) {
        const y = heads + row * size - top + size / 2;
        if (y < heads + 4) continue;
        context.fillStyle = at?.row === row ? accent : text;
        context.fillText(fit(matrix.groups[row]!.name, context, labels - 14), labels - 8, y);
      }
      context.textAlign = "left";
      for (let column = firstColumn; column <= lastColumn; column += 1) {
        const x = labels + column * size - left + size / 2;
        if (x < labels + 2) continue;
        context.save();
        context.translate(x, heads - 6);
        context.rotate(-Math.PI / 2);
        context.fillStyle = at?.column === column ? accent : text;
        context.fillText(fit(matrix.groups[column]!.name, context, heads - 14), 0, 0);
        context.restore();
      }
      context.fillStyle = token("muted");
      context.textAlign = "right";
      context.fillText("from ↓  to →", labels - 8, heads - 10);
    },
    [matrix, overlay, reached, chosen?.from, chosen?.to, at?.row, at?.column, size, labels, heads],
  );
  const { canvas, redraw } = useCanvas(draw);
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const observer = new ResizeObserver(() => setWidth(element.clientWidth));
    observer.observe(element);
    element.addEventListener("scroll", redraw, { passive: true });
    return () => {
      observer.disconnect();
      element.removeEventListener("scroll", redraw);
    };
  }, []);

  const find = (event: MouseEvent) => {
    const bounds = canvas.current?.getBoundingClientRect();
    if (!bounds) return undefined;
    const x = event.clientX - bounds.left;
    const y = event.clientY - bounds.top;
    const column = Math.floor((x - labels + (box.current?.scrollLeft ?? 0)) / size);
    const row = Math.floor((y - heads + (box.current?.scrollTop ?? 0)) / size);
    return { row: y < heads ? -1 : row < n ? row : -1, column: x < labels ? -1 : column < n ? column : -1 };
  };
  const click = (event: MouseEvent) => {
    const found = find(event);
    if (!found) return;
    const from = matrix.groups[found.row];
    const to = matrix.groups[found.column];
    if (from && to) props.open(from.id, to.id);
    else if (from ?? to) props.openGroup((from ?? to)!.id);
  };
  const key = (event: KeyboardEvent) => {
    const step: Record<string, [number, number]> = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const move = step[event.key];
    const now = at ?? { row: 0, column: 0 };
    if (move) {
      event.preventDefault();
      const next = { row: clamp(now.row + move[0], n), column: clamp(now.column + move[1], n) };
      setAt(next);
      reveal(box.current, next.row * size, next.column * size, size, labels, heads);
    } else if (event.key === "Enter" && at) {
      event.preventDefault();
      const from = matrix.groups[now.row];
      const to = matrix.groups[now.column];
      if (from && to) props.open(from.id, to.id);
    }
  };
  return (
    <>
      <div
        class="matrix"
        ref={box}
        tabIndex={0}
        role="application"
        aria-label={`Matrix of ${count(n, "group")}; arrow keys move, Enter opens. The same as a table: switch to Table.`}
        aria-describedby="matrix-at"
        onKeyDown={key}
        onClick={click}
        onMouseMove={(event) => {
          const found = find(event);
          if (found && found.row >= 0 && found.column >= 0) {
            if (found.row !== at?.row || found.column !== at?.column) setAt(found);
          } else if (at) setAt(undefined);
        }}
        onMouseLeave={() => setAt(undefined)}
      >
        <canvas ref={canvas} aria-hidden="true" />
        <div class="matrix-extent" style={{ width: `${labels + n * size + 2}px`, height: `${heads + n * size + 2}px` }} />
      </div>
      <p class="matrix-at" id="matrix-at" aria-live="polite">
        {describe(matrix, at)}
      </p>
    </>
  );
}

function drawCell(context: CanvasRenderingContext2D, cell: Cell, x: number, y: number, size: number, colours: Map<string, string>, strong: boolean) {
  const pad = 2;
  context.globalAlpha = strong ? 1 : 0.16;
  context.fillStyle = colours.get(cell.state) ?? "#888";
  context.fillRect(x + pad, y + pad, size - 2 * pad + 1, size - 2 * pad + 1);
  context.fillStyle = cell.state === "unused" ? token("text") : cell.state === "would-block" ? token("on-would") : "#fff";
  context.fillText(stateOf(cell.state).glyph, x + size / 2 + 0.5, y + size / 2 + 1);
  if (cell.new > 0) {
    context.fillStyle = token("text");
    context.fillRect(x + size - 6, y + 2, 4, 4);
  }
  context.globalAlpha = 1;
}

const clamp = (value: number, n: number) => Math.max(0, Math.min(n - 1, value));

function reveal(box: HTMLElement | null, y: number, x: number, size: number, labels: number, heads: number) {
  if (!box) return;
  if (y < box.scrollTop) box.scrollTop = y;
  if (y + size > box.scrollTop + box.clientHeight - heads) box.scrollTop = y + size - box.clientHeight + heads + 4;
  if (x < box.scrollLeft) box.scrollLeft = x;
  if (x + size > box.scrollLeft + box.clientWidth - labels) box.scrollLeft = x + size - box.clientWidth + labels + 4;
}

function describe(matrix: Indexed, at: { row: number; column: number } | undefined): string {
  const from = at && matrix.groups[at.row];
  const to = at && matrix.groups[at.column];
  if (!from || !to) return "Point at a cell, or use the arrow keys. A small square marks what is new since the baseline.";
  const cell = matrix.at[at.row * matrix.groups.length + at.column];
  if (!cell) return `${from.name} → ${to.name}: nothing permitted, nothing attempted.`;
  const parts = [stateOf(cell.state).name];
  if (cell.connections) parts.push(count(cell.connections, "connection"));
  if (cell.denied) parts.push(`${count(cell.denied, "denial")}`);
  if (cell.new) parts.push(`${cell.new} new`);
  if (cell.services.length) parts.push(cell.services.join(", "));
  return `${from.name} → ${to.name}: ${parts.join(" · ")}`;
}
