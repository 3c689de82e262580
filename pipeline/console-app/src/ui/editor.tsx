import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { yaml } from "@codemirror/lang-yaml";
import { HighlightStyle, indentUnit, syntaxHighlighting } from "@codemirror/language";
import { highlightSelectionMatches, search, searchKeymap } from "@codemirror/search";
import { EditorState, RangeSet, StateEffect, StateField, type Range } from "@codemirror/state";
import { Decoration, EditorView, GutterMarker, gutter, highlightActiveLine, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { useEffect, useRef } from "preact/hooks";
import type { Finding } from "../api/types";

// The editor lives in a shadow root: there CodeMirror uses constructed style sheets, which a content
// security policy without inline styles permits. Colours come in through the custom properties.

const colours = EditorView.theme({
  "&": { color: "var(--text)", backgroundColor: "var(--surface)", fontSize: "12.5px", height: "100%" },
  "&.cm-focused": { outline: "2px solid var(--accent)", outlineOffset: "-2px" },
  ".cm-content": { fontFamily: "var(--mono)", caretColor: "var(--text)" },
  ".cm-scroller": { overflow: "auto", lineHeight: "1.5" },
  ".cm-gutters": { backgroundColor: "var(--raised)", color: "var(--muted)", border: "0", borderRight: "1px solid var(--line)" },
  ".cm-activeLine": { backgroundColor: "color-mix(in srgb, var(--raised) 50%, transparent)" },
  "&.cm-focused .cm-selectionBackground, .cm-selectionBackground, ::selection": { backgroundColor: "var(--accent-soft)" },
  ".cm-selectionMatch": { backgroundColor: "var(--warn-soft)" },
  ".cm-cursor": { borderLeftColor: "var(--text)" },
  ".cm-marks": { width: "18px", textAlign: "center" },
  ".mark-error": { color: "var(--bad)" },
  ".mark-warning": { color: "var(--warn)" },
  ".cm-error": { textDecoration: "underline wavy var(--bad)", textUnderlineOffset: "3px" },
  ".cm-warning": { textDecoration: "underline wavy var(--warn)", textUnderlineOffset: "3px" },
  ".cm-panels": { backgroundColor: "var(--raised)", color: "var(--text)" },
});

const words = HighlightStyle.define([
  { tag: [tags.propertyName, tags.definition(tags.propertyName)], color: "var(--accent)" },
  { tag: [tags.comment], color: "var(--muted)", fontStyle: "italic" },
  { tag: [tags.string, tags.number], color: "var(--text)" },
  { tag: [tags.punctuation, tags.separator], color: "var(--muted)" },
]);

class Mark extends GutterMarker {
  constructor(
    readonly severity: string,
    readonly text: string,
  ) {
    super();
  }
  override toDOM() {
    const span = document.createElement("span");
    span.className = `mark-${this.severity}`;
    span.textContent = this.severity === "error" ? "✕" : "▲";
    span.title = this.text;
    return span;
  }
}

const setFindings = StateEffect.define<Finding[]>();
const marks = StateField.define<{ gutter: RangeSet<GutterMarker>; text: RangeSet<Decoration> }>({
  create: () => ({ gutter: RangeSet.empty, text: Decoration.none }),
  update(value, transaction) {
    for (const effect of transaction.effects) {
      if (effect.is(setFindings)) return place(effect.value, transaction.state);
    }
    return transaction.docChanged
      ? { gutter: value.gutter.map(transaction.changes), text: value.text.map(transaction.changes) }
      : value;
  },
  provide: (field) => EditorView.decorations.from(field, (value) => value.text),
});

function place(diagnostics: Finding[], state: EditorState) {
  const gutters: Range<GutterMarker>[] = [];
  const spans: Range<Decoration>[] = [];
  for (const d of diagnostics) {
    if (!d.line || d.line > state.doc.lines) continue;
    const line = state.doc.line(d.line);
    gutters.push(new Mark(d.severity, d.message).range(line.from));
    const from = Math.min(line.to, line.from + Math.max(0, (d.column ?? 1) - 1));
    const word = /^[^\s,\]}#]+/.exec(line.text.slice(from - line.from));
    const to = from + (word?.[0].length ?? 0);
    if (to > from) spans.push(Decoration.mark({ class: `cm-${d.severity === "error" ? "error" : "warning"}` }).range(from, to));
  }
  return { gutter: RangeSet.of(gutters, true), text: RangeSet.of(spans, true) };
}

/** A text with line numbers, the parser's findings beside their lines, and `go` to bring a line into view. */
export function Editor(props: {
  text: string;
  /** The text is taken from outside only when this changes: what is typed is always newer. */
  revision: number;
  readOnly: boolean;
  label: string;
  diagnostics: Finding[];
  line?: number | undefined;
  changed: (text: string) => void;
}) {
  const host = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView>();
  const changed = useRef(props.changed);
  changed.current = props.changed;
  useEffect(() => {
    const element = host.current;
    if (!element) return;
    const root = element.shadowRoot ?? element.attachShadow({ mode: "open" });
    const created = new EditorView({
      root,
      parent: root,
      state: EditorState.create({
        doc: props.text,
        extensions: [
          lineNumbers(),
          marks,
          gutter({ class: "cm-marks", markers: (v) => v.state.field(marks).gutter }),
          history(),
          highlightActiveLine(),
          highlightSelectionMatches(),
          search({ top: true }),
          indentUnit.of("  "),
          yaml(),
          syntaxHighlighting(words),
          colours,
          keymap.of([...defaultKeymap, ...historyKeymap, ...searchKeymap, ...(props.readOnly ? [] : [indentWithTab])]),
          EditorState.readOnly.of(props.readOnly),
          EditorView.contentAttributes.of({ tabindex: "0", "aria-label": props.label, ...(props.readOnly ? { "aria-readonly": "true" } : {}) }),
          EditorView.updateListener.of((update) => {
            if (update.docChanged) changed.current(update.state.doc.toString());
          }),
        ],
      }),
    });
    view.current = created;
    return () => created.destroy();
  }, [props.label, props.readOnly]);
  useEffect(() => {
    const v = view.current;
    if (v && v.state.doc.toString() !== props.text) v.dispatch({ changes: { from: 0, to: v.state.doc.length, insert: props.text } });
  }, [props.revision, props.label]);
  useEffect(() => view.current?.dispatch({ effects: setFindings.of(props.diagnostics) }), [props.diagnostics, props.label]);
  useEffect(() => {
    const v = view.current;
    if (!v || !props.line || props.line > v.state.doc.lines) return;
    const at = v.state.doc.line(props.line).from;
    v.dispatch({ selection: { anchor: at }, effects: EditorView.scrollIntoView(at, { y: "center" }) });
  }, [props.line, props.label]);
  return <div class="editor" ref={host} />;
}
