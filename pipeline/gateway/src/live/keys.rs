//! What is shown, as keys chose it.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// What is shown.
#[derive(Clone, PartialEq, Debug)]
pub struct Ui {
    /// The panel.
    pub panel: Panel,
    /// The order of its rows.
    pub sort: Sort,
    /// Rows of it that are scrolled past.
    pub scroll: usize,
    /// Whether the screen stands still.
    pub paused: bool,
    /// Whether the keys are explained.
    pub help: bool,
    /// Whether colours may be used.
    pub colour: bool,
    /// The time between two looks.
    pub interval: Duration,
    /// Whether the screen has to be drawn again.
    pub changed: bool,
}

/// A panel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are those on the screen")]
pub enum Panel {
    Overview,
    Ports,
    Verdicts,
    Rules,
    Talkers,
    Workers,
}

impl Panel {
    /// Every panel, in the order of their keys.
    pub const ALL: [Self; 6] =
        [Self::Overview, Self::Ports, Self::Verdicts, Self::Rules, Self::Talkers, Self::Workers];

    /// Its name on the screen.
    pub fn label(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Ports => "Ports",
            Self::Verdicts => "Verdicts",
            Self::Rules => "Rules",
            Self::Talkers => "Talkers",
            Self::Workers => "Workers",
        }
    }

    fn next(self, by: usize) -> Self {
        let at = Self::ALL.iter().position(|panel| *panel == self).unwrap_or(0);
        Self::ALL[(at + by) % Self::ALL.len()]
    }
}

/// The order of rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sort {
    /// What happens most now comes first.
    Rate,
    /// What happened most since the start.
    Total,
    /// By name.
    Name,
}

impl Sort {
    /// Its name on the screen.
    pub fn label(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Total => "total",
            Self::Name => "name",
        }
    }
}

impl Ui {
    /// As it begins.
    pub fn new(interval: Duration, colour: bool) -> Self {
        Self {
            panel: Panel::Overview,
            sort: Sort::Rate,
            scroll: 0,
            paused: false,
            help: false,
            colour,
            interval,
            changed: true,
        }
    }

    /// Does what a key says. Returns whether that is to end.
    pub fn key(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return false;
        }
        self.changed = true;
        let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c' | 'd') if with_control => return true,
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => return true,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('?' | 'h') => self.help = !self.help,
            KeyCode::Char('s') => {
                self.sort = match self.sort {
                    Sort::Rate => Sort::Total,
                    Sort::Total => Sort::Name,
                    Sort::Name => Sort::Rate,
                };
            }
            KeyCode::Char(digit @ '1'..='6') => {
                self.show(Panel::ALL[usize::from(digit as u8 - b'1')]);
            }
            KeyCode::Tab | KeyCode::Right => self.show(self.panel.next(1)),
            KeyCode::BackTab | KeyCode::Left => self.show(self.panel.next(Panel::ALL.len() - 1)),
            KeyCode::Down | KeyCode::Char('j') => self.scroll = self.scroll.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageDown => self.scroll = self.scroll.saturating_add(10),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(10),
            KeyCode::Home => self.scroll = 0,
            _ => {}
        }
        false
    }

    fn show(&mut self, panel: Panel) {
        (self.panel, self.scroll) = (panel, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(ui: &mut Ui, code: KeyCode) -> bool {
        ui.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn keys_choose_and_end() {
        let mut ui = Ui::new(Duration::from_secs(1), true);
        assert!(!press(&mut ui, KeyCode::Char('5')) && ui.panel == Panel::Talkers);
        press(&mut ui, KeyCode::Tab);
        press(&mut ui, KeyCode::Tab);
        assert_eq!(ui.panel, Panel::Overview);
        press(&mut ui, KeyCode::BackTab);
        assert_eq!(ui.panel, Panel::Workers);
        press(&mut ui, KeyCode::Up);
        press(&mut ui, KeyCode::Down);
        assert_eq!(ui.scroll, 1);
        let sorts: Vec<Sort> = (0..3)
            .map(|_| {
                press(&mut ui, KeyCode::Char('s'));
                ui.sort
            })
            .collect();
        assert_eq!(sorts, [Sort::Total, Sort::Name, Sort::Rate]);
        press(&mut ui, KeyCode::Char('p'));
        assert!(ui.paused);
        press(&mut ui, KeyCode::Char('?'));
        assert!(!press(&mut ui, KeyCode::Esc), "it closes the help first");
        assert!(press(&mut ui, KeyCode::Esc) && press(&mut ui, KeyCode::Char('q')));
        assert!(ui.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    }
}
