import { useEffect, useRef } from "preact/hooks";
import { theme } from "./theme";

/** The colour behind a token in the theme of now. */
export function token(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Draws into a canvas at the screen's own resolution, at most once a frame, whenever `draw` changes,
 *  its box is resized or the theme switches. Returns the canvas's ref and a way to ask for a frame. */
export function useCanvas(draw: (context: CanvasRenderingContext2D, width: number, height: number) => void) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const newest = useRef(draw);
  const frame = useRef(0);
  newest.current = draw;
  const request = useRef(() => {
    if (frame.current) return;
    frame.current = requestAnimationFrame(() => {
      frame.current = 0;
      const element = canvas.current;
      const context = element?.getContext("2d");
      if (!element || !context) return;
      const scale = devicePixelRatio || 1;
      const width = element.clientWidth;
      const height = element.clientHeight;
      if (element.width !== Math.round(width * scale) || element.height !== Math.round(height * scale)) {
        element.width = Math.round(width * scale);
        element.height = Math.round(height * scale);
      }
      context.setTransform(scale, 0, 0, scale, 0, 0);
      newest.current(context, width, height);
    });
  });
  useEffect(() => {
    const element = canvas.current;
    if (!element) return;
    const observer = new ResizeObserver(() => request.current());
    observer.observe(element);
    return () => {
      observer.disconnect();
      cancelAnimationFrame(frame.current);
      frame.current = 0;
    };
  }, []);
  const shade = theme.value;
  useEffect(() => request.current(), [draw, shade]);
  return { canvas, redraw: request.current };
}
