//! The screen: where everything stands, at any size, with sixteen colours or none.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row, Sparkline, Table};

use super::keys::{Panel, Ui};
use super::model::Model;
use super::panels::{
    self, CountedRow, bits, busiest, per_second, percent, short, si, time_ns, time_of_day,
};
use crate::status::{PortStatus, Status, Talker, duration};

/// Below this there is room for figures only.
const SMALL: (u16, u16) = (44, 9);

/// Lines of what needs attention that the overview shows at most.
const ATTENTION: usize = 3;

/// Styles, which are nothing but bold and dim where colours are not wanted.
#[derive(Clone, Copy)]
struct Look(bool);

impl Look {
    fn of(self, color: Color) -> Style {
        if self.0 { Style::new().fg(color) } else { Style::new() }
    }

    fn good(self) -> Style {
        self.of(Color::Green)
    }

    fn bad(self) -> Style {
        self.of(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn warn(self) -> Style {
        self.of(Color::Yellow)
    }

    fn head(self) -> Style {
        self.of(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }
}

/// Draws all of it. `at` is the time since the view began.
pub fn draw(frame: &mut Frame<'_>, model: &Model, ui: &Ui, at: Duration) {
    let (look, area) = (Look(ui.colour), frame.area());
    let silent = model.silent_for(at, ui.interval);
    if area.width < SMALL.0 || area.height < SMALL.1 {
        return small(frame, area, model, silent, look);
    }
    let noted = attention(model, silent, look);
    let noted = &noted[..noted.len().min(ATTENTION)];
    let rows = [
        Constraint::Length(1),
        Constraint::Length(noted.len() as u16),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ];
    let [title_at, noted_at, tabs_at, body, foot] = Layout::vertical(rows).areas(area);
    frame.render_widget(title(model, ui, silent, look), title_at);
    frame.render_widget(Paragraph::new(noted.to_vec()), noted_at);
    frame.render_widget(tabs(ui, look), tabs_at);
    match &model.status {
        Some(status) => {
            let shown = Shown { model, status, ui, look };
            match ui.panel {
                Panel::Overview => shown.overview(frame, body),
                Panel::Ports => shown.ports(frame, body),
                Panel::Verdicts => shown.verdicts(frame, body),
                Panel::Rules => shown.rules(frame, body),
                Panel::Talkers => shown.talkers(frame, body),
                Panel::Workers => shown.workers(frame, body),
            }
        }
        None => frame.render_widget(Paragraph::new("\n  nothing is known yet"), body),
    }
    let keys = "q quit  p pause  1-6 panel  s sort  ? help";
    frame.render_widget(Paragraph::new(Span::styled(keys, look.dim())), foot);
    if silent.is_some() {
        // What is known is old.
        frame.buffer_mut().set_style(body, look.dim());
    }
    if ui.help {
        help(frame, area, look);
    }
}

/// Figures only.
fn small(frame: &mut Frame<'_>, area: Rect, model: &Model, silent: Option<Duration>, look: Look) {
    let mut lines = Vec::new();
    match (&model.status, silent) {
        (_, Some(silent)) => {
            let text = format!("GONE {}", duration(silent.as_secs()));
            lines.push(Line::styled(text, look.bad()));
            if let Some(bypassed) = &model.bypassed {
                let text = format!("UNJUDGED {}", bypassed.may_pass().join(" "));
                lines.push(Line::styled(text, look.bad()));
            }
        }
        (Some(status), None) if status.ready => {
            let alarms = status.attention.iter().filter(|attention| attention.alarm).count();
            lines.push(match alarms {
                0 => Line::styled("guarding", look.good()),
                alarms => Line::styled(format!("{alarms} ALARMS"), look.bad()),
            });
        }
        (Some(_), None) => lines.push(Line::styled("NOT READY", look.bad())),
        (None, None) => lines.push(Line::raw("...")),
    }
    if let Some(status) = &model.status {
        let r = &model.rates;
        lines.push(Line::raw(format!("in {}", per_second(r.received))));
        lines.push(Line::raw(bits(r.received_bits)));
        lines.push(Line::raw(format!("drop {}", per_second(r.dropped))));
        lines.push(Line::raw(format!("would {}", per_second(r.would_drop))));
        lines.push(Line::raw(format!("flows {}", si(status.flows.open as f64))));
        lines.push(Line::raw(format!("p99 {}", time_ns(status.latency.p99_ns))));
        lines.push(Line::raw(format!("busy {}", percent(busiest(status)))));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn title<'a>(model: &Model, ui: &Ui, silent: Option<Duration>, look: Look) -> Paragraph<'a> {
    let Some(status) = &model.status else {
        return Paragraph::new(Span::styled("bulkhead", look.head()));
    };
    let (state, style) = match (silent, status.ready) {
        (Some(_), _) if model.bypassed.is_some() => ("gone, BYPASSED", look.bad()),
        (Some(_), _) => ("gone", look.bad()),
        (None, true) => ("guarding", look.good()),
        (None, false) => ("NOT READY", look.bad()),
    };
    let policy = status.policy.as_ref().map_or_else(
        || "no policy".to_owned(),
        |policy| format!("policy {}, {} rules", short(&policy.hash), policy.rules),
    );
    let mut spans = vec![
        Span::styled(format!("bulkhead {} ", status.version), look.head()),
        Span::styled(state.to_owned(), style),
        Span::raw(format!(
            "  {}  up {}  {policy}",
            time_of_day(status.unix_ms),
            duration(status.uptime_s)
        )),
    ];
    if ui.paused {
        spans.push(Span::styled("  PAUSED", look.warn()));
    }
    Paragraph::new(Line::from(spans))
}

/// What needs attention, the worst first; a line that says so where nothing does.
fn attention<'a>(model: &Model, silent: Option<Duration>, look: Look) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    if let Some(silent) = silent {
        let silent = duration(silent.as_secs());
        let text = match &model.gone {
            Some((_, why)) => format!("! GONE for {silent}: {why}"),
            None => format!("! no answer for {silent}: does the gateway hang?"),
        };
        lines.push(Line::styled(text, look.bad()));
    }
    let told = model.status.as_ref().is_some_and(|status| status.bypassed.is_some());
    if let Some(bypassed) = model.bypassed.as_ref().filter(|_| silent.is_some() || !told) {
        lines.push(Line::styled(format!("! {}", bypassed.describe()), look.bad()));
    }
    let Some(status) = &model.status else { return lines };
    let noted = &status.attention;
    for (nth, one) in noted.iter().enumerate() {
        let (mark, style) = if one.alarm { ("!", look.bad()) } else { ("-", look.warn()) };
        let more = match noted.len() - nth {
            left if lines.len() + 1 == ATTENTION && left > 1 => format!(" (and {} more)", left - 1),
            _ => String::new(),
        };
        let mut spans = vec![Span::styled(format!("{mark} {}{more}", one.what), style)];
        if !one.remedy.is_empty() {
            spans.push(Span::styled(format!(": {}", one.remedy), look.dim()));
        }
        lines.push(Line::from(spans));
    }
    if lines.is_empty() {
        lines.push(Line::styled("nothing needs attention", look.good()));
    }
    lines
}

fn tabs<'a>(ui: &Ui, look: Look) -> Paragraph<'a> {
    let mut spans = Vec::new();
    for (nth, panel) in Panel::ALL.into_iter().enumerate() {
        let text = format!(" {} {} ", nth + 1, panel.label());
        let style = match panel == ui.panel {
            true => look.head().add_modifier(Modifier::REVERSED),
            false => Style::new(),
        };
        spans.push(Span::styled(text, style));
    }
    spans.push(Span::styled(format!(" by {}", ui.sort.label()), look.dim()));
    Paragraph::new(Line::from(spans))
}

fn help(frame: &mut Frame<'_>, area: Rect, look: Look) {
    let lines = [
        "q, Esc, Ctrl-C   quit",
        "p, space         pause, and go on",
        "1 to 6, Tab      choose a panel",
        "s                sort by rate, total, name",
        "arrows, j, k     scroll",
        "?                this",
        "",
        "Rates are of the last interval. Latency, and",
        "totals, are since the gateway's start. Talkers",
        "are of flow records: of flows that go on, as of",
        "their last one (flow-records.interval-s).",
    ];
    let (width, height) = (52.min(area.width), (lines.len() as u16 + 2).min(area.height));
    let place = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    let block = Block::new().borders(Borders::ALL).title(Span::styled(" Keys ", look.head()));
    let text: Vec<Line<'_>> = lines.iter().map(|line| Line::raw(*line)).collect();
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(text).block(block), place);
}

/// What the panels draw from.
struct Shown<'a> {
    model: &'a Model,
    status: &'a Status,
    ui: &'a Ui,
    look: Look,
}

impl Shown<'_> {
    fn overview(&self, frame: &mut Frame<'_>, area: Rect) {
        let wires = self.status.wires.len() as u16;
        let lower = area.height.saturating_sub(6);
        let rows = [
            Constraint::Length(6),
            Constraint::Length((1 + wires).min(lower / 2).max(2)),
            Constraint::Min(0),
        ];
        let [figures, ports, rest] = Layout::vertical(rows).areas(area);
        // The left one needs so much at most, the right one takes what there is.
        let halves = [Constraint::Max(36), Constraint::Fill(1)];
        let [left, right] = Layout::horizontal(halves).spacing(1).areas(figures);
        self.traffic(frame, left);
        self.state(frame, right);
        self.wires(frame, ports);
        let thirds = [Constraint::Fill(1), Constraint::Fill(1), Constraint::Fill(1)];
        let [drops, rules, talkers] = Layout::horizontal(thirds).spacing(1).areas(rest);
        let (model, status, sort) = (self.model, self.status, self.ui.sort);
        self.counted(frame, drops, "DROPPED", &panels::verdicts(model, status, sort), 0);
        let by_rule = panels::counted(&status.rules, &model.rates.rules, false, sort);
        self.counted(frame, rules, "RULES", &by_rule, 0);
        self.hosts(frame, talkers, "TALKERS", &status.talkers.by_bytes, false, 0);
    }

    fn traffic(&self, frame: &mut Frame<'_>, area: Rect) {
        let [text, course] =
            Layout::vertical([Constraint::Length(4), Constraint::Min(0)]).areas(area);
        let r = &self.model.rates;
        let pair = |name: &str, packets: f64, rest: String| {
            Line::from(vec![
                Span::styled(format!("{name:<11}"), self.look.dim()),
                Span::raw(format!("{:>9}  {rest}", per_second(packets))),
            ])
        };
        let stopped = |rate: f64| if rate > 0.0 { self.look.warn() } else { Style::new() };
        let lines = vec![
            pair("in", r.received, bits(r.received_bits)),
            pair("out", r.transmitted, bits(r.transmitted_bits)),
            pair("dropped", r.dropped, format!("rejected {}", per_second(r.rejected)))
                .style(stopped(r.dropped)),
            pair("would drop", r.would_drop, String::new()).style(stopped(r.would_drop)),
        ];
        frame.render_widget(Paragraph::new(lines), text);
        let width = usize::from(course.width);
        let skipped = self.model.course.len().saturating_sub(width);
        let data: Vec<u64> = self.model.course.iter().skip(skipped).copied().collect();
        frame.render_widget(Sparkline::default().data(&data).style(self.look.good()), course);
    }

    fn state(&self, frame: &mut Frame<'_>, area: Rect) {
        let (status, look) = (self.status, self.look);
        let (f, l) = (&status.flows, &status.latency);
        let full = f.open as f64 / f.capacity.max(1) as f64;
        let named = |name: &str, rest: String| {
            Line::from(vec![Span::styled(format!("{name:<9}"), look.dim()), Span::raw(rest)])
        };
        let tight = |ns: u64| time_ns(ns).replace(' ', "");
        let (p50, p99, p999) = (tight(l.p50_ns), tight(l.p99_ns), tight(l.p999_ns));
        let latency = format!("p50 {p50} p99 {p99} p99.9 {p999}");
        let flows = format!(
            "{} open ({})  {} new",
            f.open,
            percent(full),
            per_second(self.model.rates.opened)
        );
        let hosts = format!("{} bound  held {}", status.bindings, status.traffic.held);
        let staged = status.staged.as_ref().map_or_else(
            || "nothing".to_owned(),
            |s| format!("{}: cuts {} of {}, opens {}", s.source, s.cut, s.flows, s.opened),
        );
        let reload = status.last_reload.as_ref().map_or_else(
            || "none".to_owned(),
            |last| format!("{} ({})", last.outcome.label(), last.trigger.label()),
        );
        let lines = vec![
            named("latency", latency),
            named("flows", flows),
            named(
                "workers",
                format!("busiest {}  of {}", percent(busiest(status)), status.workers.len()),
            ),
            named("hosts", hosts),
            named("staged", staged),
            named("reload", reload),
        ];
        frame.render_widget(Paragraph::new(lines), area);
    }

    /// A line for each wire.
    fn wires(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.status.wires.iter().enumerate().map(|(nth, wire)| {
            let rates = self.model.rates.ports.get(nth).copied().unwrap_or_default();
            let dropped = wire.inside.dropped + wire.outside.dropped;
            let would = wire.inside.would_drop + wire.outside.would_drop;
            Row::new(vec![
                Cell::new(wire.name.clone()),
                self.mode(&wire.mode),
                self.link(&wire.inside),
                self.link(&wire.outside),
                right(bits(rates[1][1])),
                right(bits(rates[0][1])),
                right(si(dropped as f64)),
                right(si(would as f64)),
            ])
        });
        let widths = [
            Constraint::Fill(3),
            Constraint::Length(8),
            Constraint::Fill(2),
            Constraint::Fill(2),
            Constraint::Length(11),
            Constraint::Length(11),
            Constraint::Length(7),
            Constraint::Length(7),
        ];
        let header = ["WIRE", "MODE", "INSIDE", "OUTSIDE", "IN", "OUT", "DROPPED", "WOULD"];
        self.table(frame, area, (&header, &[4, 5, 6, 7]), rows.collect(), &widths);
    }

    fn ports(&self, frame: &mut Frame<'_>, area: Rect) {
        let mut rows = Vec::new();
        for (nth, wire) in self.status.wires.iter().enumerate() {
            let rates = self.model.rates.ports.get(nth).copied().unwrap_or_default();
            for (side, port, rate) in
                [("inside", &wire.inside, rates[0]), ("outside", &wire.outside, rates[1])]
            {
                let is_first = side == "inside";
                rows.push(Row::new(vec![
                    Cell::new(if is_first { wire.name.clone() } else { String::new() }),
                    if is_first { self.mode(&wire.mode) } else { Cell::new("") },
                    Cell::new(side),
                    Cell::new(port.device.clone()),
                    Cell::new(port.link.clone()).style(self.link_style(port)),
                    right(bits(rate[1])),
                    right(bits(rate[3])),
                    right(si(port.dropped as f64)),
                    right(si(port.would_drop as f64)),
                ]));
            }
        }
        let header = ["WIRE", "MODE", "SIDE", "DEVICE", "LINK", "RX", "TX", "DROPPED", "WOULD"];
        let widths = [
            Constraint::Fill(2),
            Constraint::Length(7),
            Constraint::Length(7),
            Constraint::Fill(2),
            Constraint::Length(10),
            Constraint::Length(10),
            Constraint::Length(10),
            Constraint::Length(7),
            Constraint::Length(5),
        ];
        let rows = self.scrolled(rows);
        self.table(frame, area, (&header, &[5, 6, 7, 8]), rows, &widths);
    }

    fn verdicts(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = panels::verdicts(self.model, self.status, self.ui.sort);
        self.counted(frame, area, "REASON", &rows, self.ui.scroll);
    }

    fn rules(&self, frame: &mut Frame<'_>, area: Rect) {
        let (rules, rates) = (&self.status.rules, &self.model.rates.rules);
        let rows = panels::counted(rules, rates, false, self.ui.sort);
        self.counted(frame, area, "RULE", &rows, self.ui.scroll);
    }

    fn talkers(&self, frame: &mut Frame<'_>, area: Rect) {
        let talkers = &self.status.talkers;
        let [head, tables] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
        let since = duration(talkers.since_s);
        let mut said = format!("by flow records of the last {since}");
        if talkers.error_bytes > 0 {
            said += &format!(", each {}B more at most", si(talkers.error_bytes as f64));
        }
        frame.render_widget(Paragraph::new(Span::styled(said, self.look.dim())), head);
        let halves = [Constraint::Fill(1), Constraint::Fill(1)];
        let [left, right] = Layout::horizontal(halves).spacing(1).areas(tables);
        self.hosts(frame, left, "MOST BYTES", &talkers.by_bytes, false, self.ui.scroll);
        self.hosts(frame, right, "MOST DENIED", &talkers.by_denied, true, self.ui.scroll);
    }

    fn workers(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.status.workers.iter().enumerate().map(|(index, worker)| {
            let core = worker.core.map_or_else(|| "-".to_owned(), |core| core.to_string());
            let (state, style) = match worker.hangs {
                true => ("HANGS", self.look.bad()),
                false => ("runs", self.look.good()),
            };
            Row::new(vec![
                Cell::new(index.to_string()),
                Cell::new(core),
                Cell::new(state).style(style),
                right(percent(worker.busy_now)),
                right(percent(worker.busy)),
                right(worker.flows.to_string()),
                right(percent(worker.flows as f64 / worker.flow_capacity.max(1) as f64)),
                right(time_ns(worker.latency_p99_ns)),
                right(si(worker.handed_out as f64)),
                right(si(worker.handed_in as f64)),
            ])
        });
        let header =
            ["WORKER", "CORE", "STATE", "BUSY", "EVER", "FLOWS", "FULL", "P99", "OUT", "IN"];
        let widths = [
            Constraint::Length(6),
            Constraint::Length(4),
            Constraint::Length(5),
            Constraint::Length(5),
            Constraint::Length(5),
            Constraint::Fill(1),
            Constraint::Length(5),
            Constraint::Length(10),
            Constraint::Length(7),
            Constraint::Length(7),
        ];
        let rows = self.scrolled(rows.collect());
        self.table(frame, area, (&header, &[3, 4, 5, 6, 7, 8, 9]), rows, &widths);
    }

    fn counted(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        title: &str,
        rows: &[CountedRow],
        scroll: usize,
    ) {
        let row = |row: &CountedRow| {
            let name = if row.would { format!("({})", row.name) } else { row.name.clone() };
            let style = match (row.would, row.rate.unwrap_or(0.0) > 0.0) {
                (true, _) => self.look.dim(),
                (false, true) => Style::new().add_modifier(Modifier::BOLD),
                (false, false) => Style::new(),
            };
            let rate = row.rate.map_or_else(|| "-".to_owned(), per_second);
            Row::new(vec![Cell::new(name), right(rate), right(si(row.total as f64))]).style(style)
        };
        let rows = rows.iter().skip(scroll.min(rows.len().saturating_sub(1))).map(row).collect();
        let widths = [Constraint::Fill(1), Constraint::Length(7), Constraint::Length(6)];
        self.table(frame, area, (&[title, "RATE", "TOTAL"], &[1, 2]), rows, &widths);
    }

    fn hosts(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        title: &str,
        talkers: &[Talker],
        denied: bool,
        scroll: usize,
    ) {
        let row = |talker: &Talker| {
            let host = match talker.vlan {
                0 => talker.host.clone(),
                vlan => format!("{} vlan {vlan}", talker.host),
            };
            let (one, two) = match denied {
                true => (si(talker.denied_packets as f64), si(talker.sent_bytes as f64)),
                false => (si(talker.sent_bytes as f64), si(talker.received_bytes as f64)),
            };
            Row::new(vec![Cell::new(host), right(one), right(two)])
        };
        let heads = if denied { ["PACKETS", "BYTES"] } else { ["SENT", "TAKEN"] };
        let rows = talkers.iter().skip(scroll.min(talkers.len().saturating_sub(1)));
        let widths = [Constraint::Fill(1), Constraint::Length(7), Constraint::Length(6)];
        let header = [title, heads[0], heads[1]];
        self.table(frame, area, (&header, &[1, 2]), rows.map(row).collect(), &widths);
    }

    fn table(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        (header, numbers): (&[&str], &[usize]),
        rows: Vec<Row<'_>>,
        widths: &[Constraint],
    ) {
        let cells = header.iter().enumerate().map(|(nth, title)| match numbers.contains(&nth) {
            true => right((*title).to_owned()),
            false => Cell::new((*title).to_owned()),
        });
        let header = Row::new(cells).style(self.look.head());
        let table = Table::new(rows, widths.to_vec()).header(header).column_spacing(1);
        frame.render_widget(table, area);
    }

    fn scrolled<'a>(&self, mut rows: Vec<Row<'a>>) -> Vec<Row<'a>> {
        rows.drain(..self.ui.scroll.min(rows.len().saturating_sub(1)));
        rows
    }

    fn mode<'a>(&self, mode: &str) -> Cell<'a> {
        let style = if mode == "enforce" { self.look.good() } else { self.look.warn() };
        Cell::new(mode.to_owned()).style(style)
    }

    fn link<'a>(&self, port: &PortStatus) -> Cell<'a> {
        let text = match port.link.as_str() {
            "up" => port.device.clone(),
            link => format!("{} {link}", port.device),
        };
        Cell::new(text).style(self.link_style(port))
    }

    fn link_style(&self, port: &PortStatus) -> Style {
        match port.link.as_str() {
            "up" => self.look.good(),
            "held down" => self.look.warn(),
            _ => self.look.bad(),
        }
    }
}

/// A cell whose text stands at its right.
fn right<'a>(text: String) -> Cell<'a> {
    Cell::new(Line::raw(text).right_aligned())
}
