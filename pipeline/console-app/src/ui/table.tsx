import type { ComponentChildren } from "preact";
import { exact } from "../model/format";

export interface Column<T> {
  title: string;
  cell: (row: T) => ComponentChildren;
  number?: boolean;
}

/** A table that scrolls sideways by itself, and says how much of the whole it shows. On a narrow screen
 *  each row becomes a card whose values carry their column's name, so that nothing is cut off. */
export function Table<T>(props: {
  caption: string;
  columns: Column<T>[];
  rows: T[];
  id: (row: T) => string;
  selected?: string;
  more?: (() => void) | undefined;
  total?: number | undefined;
  loading?: boolean;
}) {
  // A table without rows says nothing, and is none to a screen reader.
  if (props.rows.length === 0) return null;
  const style = (column: Column<T>) => (column.number ? "num" : column.title ? "" : "actions");
  return (
    <>
      <div class="table-box" tabIndex={0} role="group" aria-label={`${props.caption}, scrolls sideways`}>
        <table class="cards" role="table">
          <caption class="visually-hidden">{props.caption}</caption>
          <thead>
            <tr>
              {props.columns.map((column) => (
                <th key={column.title} scope="col" class={style(column)}>
                  {column.title || <span class="visually-hidden">Actions</span>}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {props.rows.map((row) => (
              <tr key={props.id(row)} role="row" class={props.selected === props.id(row) ? "selected" : ""}>
                {props.columns.map((column) => {
                  const value = column.cell(row);
                  // On a narrow screen nothing is not worth a line.
                  const empty = value === "–" || value === "" || value === null || value === undefined;
                  return (
                    <td key={column.title} class={`${style(column)} ${empty ? "empty" : ""}`} role="cell" data-title={column.title || undefined}>
                      {value}
                    </td>
                  );
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {(props.more || props.total !== undefined) && (
        <div class="table-foot">
          <span>
            {exact(props.rows.length)}
            {props.total !== undefined && ` of ${exact(props.total)}`}
          </span>
          {props.more && (
            <button type="button" class="button small" onClick={props.more} disabled={props.loading}>
              {props.loading ? "Loading" : "Show more"}
            </button>
          )}
        </div>
      )}
    </>
  );
}
