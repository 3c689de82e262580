//! `bulkhead status --watch`: what the gateway does, live, in a terminal that may stay open for weeks.
//!
//! A thread asks for the status; [`model`] makes rates of what it gets and remembers since when the
//! gateway is gone; [`screen`] draws that, with what [`keys`] chose. Where there is no terminal a line
//! is printed for each look.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event};

use self::keys::Ui;
use self::model::Model;
use crate::cli::exit;
use crate::control::client;
use crate::failure::bypassed::Bypassed;
use crate::status::{Status, StatusArgs};

pub mod keys;
pub mod model;
pub mod panels;
pub mod screen;

/// The shortest and the longest time between two looks.
const SHORTEST: f64 = 0.1;
const LONGEST: f64 = 3600.0;

/// How long the view waits for a key before it looks whether anything came.
const TURN: Duration = Duration::from_millis(100);

/// A look at the gateway: when, what it said or why it did not, and who bypasses wires in its place.
type Look = (Duration, Result<Box<Status>, String>, Option<Bypassed>);

/// Shows the status until told to end. Returns the exit code.
pub fn main(args: &StatusArgs) -> u8 {
    if !(SHORTEST..=LONGEST).contains(&args.interval) {
        eprintln!("error: --interval takes {SHORTEST} to {LONGEST} seconds");
        return exit::REFUSED;
    }
    let socket = match client::socket(&args.socket) {
        Ok(socket) => socket,
        Err(error) => {
            eprintln!("error: {error}");
            return exit::UNAVAILABLE;
        }
    };
    let interval = Duration::from_secs_f64(args.interval);
    let begun = Instant::now();
    let looks = look(socket, interval, begun);
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let ended = if args.socket.json || is_dumb || !io::stdout().is_terminal() {
        lines(&looks, args.socket.json)
    } else {
        show(&looks, interval, begun)
    };
    match ended {
        Ok(()) => exit::OK,
        Err(error) => {
            eprintln!("error: the terminal: {error}");
            exit::UNAVAILABLE
        }
    }
}

/// Looks at the gateway at every interval, on a thread that ends with its listener.
fn look(socket: std::path::PathBuf, interval: Duration, begun: Instant) -> Receiver<Look> {
    // While the terminal takes nothing, nothing is asked: looks must not pile up for weeks.
    let (sender, looks) = sync_channel(1);
    thread::spawn(move || {
        loop {
            let asked = Instant::now();
            let answer = client::status_at(&socket).map(Box::new);
            // A gateway that guards has ended it, whatever lies there still.
            let guards = answer.as_ref().is_ok_and(|status| status.ready);
            let bypassed = if guards { None } else { Bypassed::read(&socket) };
            if sender.send((begun.elapsed(), answer, bypassed)).is_err() {
                return;
            }
            thread::sleep(interval.saturating_sub(asked.elapsed()));
        }
    });
    looks
}

/// A line for each look: for logs, pipes and terminals that cannot move their cursor.
fn lines(looks: &Receiver<Look>, json: bool) -> io::Result<()> {
    let mut model = Model::default();
    let mut out = io::stdout().lock();
    while let Ok((at, answer, bypassed)) = looks.recv() {
        model.bypassed = bypassed;
        if let (true, Ok(status)) = (json, &answer) {
            serde_json::to_writer(&mut out, &**status)?;
            writeln!(out)?;
        } else {
            let error = answer.as_ref().err().cloned();
            model.take(at, answer);
            match error {
                Some(error) if json => eprintln!("error: {error}"),
                _ => writeln!(out, "{}", panels::line(&model, at))?,
            }
        }
        out.flush()?;
    }
    Ok(())
}

fn show(looks: &Receiver<Look>, interval: Duration, begun: Instant) -> io::Result<()> {
    // The terminal is given back as it was, whatever ends this.
    let told_to_end = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, told_to_end.clone())?;
    }
    let mut terminal = ratatui::try_init()?;
    let mut ui = Ui::new(interval, std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty()));
    let mut model = Model::default();
    let mut drawn: Option<Instant> = None;
    let ended = loop {
        let is_new = match looks.recv_timeout(Duration::ZERO) {
            Ok((at, answer, bypassed)) => {
                model.bypassed = bypassed;
                model.look(at, answer, ui.paused);
                true
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => break Ok(()),
        };
        let is_old = drawn.is_none_or(|drawn| drawn.elapsed() >= Duration::from_secs(1));
        if is_new || is_old || ui.changed {
            (drawn, ui.changed) = (Some(Instant::now()), false);
            if let Err(error) =
                terminal.draw(|frame| screen::draw(frame, &model, &ui, begun.elapsed()))
            {
                break Err(error);
            }
        }
        match event::poll(TURN) {
            Ok(false) => {}
            Ok(true) => match event::read() {
                Ok(Event::Key(key)) => {
                    if ui.key(key) {
                        break Ok(());
                    }
                }
                Ok(Event::Resize(..)) => ui.changed = true,
                Ok(_) => {}
                Err(error) => break Err(error),
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
        if told_to_end.load(Ordering::Relaxed) {
            break Ok(());
        }
    };
    ratatui::restore();
    ended
}
