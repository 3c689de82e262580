//! Definitions that name definitions: each resolved once, cycles and depth found on the way.

use crate::syntax::document::Name;
use crate::syntax::span::Span;
use crate::syntax::{Code, Findings, Problem, quoted};

/// Named definitions of one kind, in some stage of being resolved to a `T`.
pub(super) struct Nesting<'d, T> {
    kind: &'static str,
    names: Vec<&'d Name>,
    states: Vec<State<T>>,
    /// The definitions being resolved, outermost first, each with the reference that led to it.
    open: Vec<(usize, Span)>,
    limit: usize,
    /// Levels below the definition that is being resolved.
    height: usize,
}

enum State<T> {
    Untouched,
    Open,
    /// The value, [`None`] where it had errors, and the levels that it has.
    Done(Option<T>, usize),
}

/// What is to be done for a reference.
pub(super) enum Visit<T> {
    /// Nothing: this is the value, [`None`] where there was an error, which is reported.
    Known(Option<T>),
    /// Resolve the definition, then [`Nesting::leave`] it.
    Resolve(Outer),
}

/// What [`Nesting::leave`] restores.
pub(super) struct Outer {
    height: usize,
}

impl<'d, T: Clone> Nesting<'d, T> {
    /// None of the definitions is resolved yet; more than `limit` levels of them are refused.
    pub(super) fn new(kind: &'static str, names: Vec<&'d Name>, limit: usize) -> Self {
        let states = names.iter().map(|_| State::Untouched).collect();
        Self { kind, names, states, open: Vec::new(), limit, height: 0 }
    }

    /// Meets a reference to a definition.
    pub(super) fn enter(
        &mut self,
        index: usize,
        reference: Span,
        findings: &mut Findings,
    ) -> Visit<T> {
        match &self.states[index] {
            State::Done(value, levels) => {
                self.height = self.height.max(*levels);
                return Visit::Known(value.clone());
            }
            State::Open => {
                findings.push(self.cycle(index, reference));
                return Visit::Known(None);
            }
            State::Untouched => {}
        }
        if self.open.len() >= self.limit {
            findings.push(self.too_deep(index));
            self.states[index] = State::Done(None, 0);
            return Visit::Known(None);
        }
        self.states[index] = State::Open;
        self.open.push((index, reference));
        Visit::Resolve(Outer { height: std::mem::take(&mut self.height) })
    }

    /// The definition that was entered last is resolved to `value`.
    pub(super) fn leave(
        &mut self,
        outer: Outer,
        value: Option<T>,
        findings: &mut Findings,
    ) -> Option<T> {
        let (index, _) = self.open.pop()?;
        let levels = self.height + 1;
        self.height = outer.height.max(levels);
        let fits = levels <= self.limit;
        if !fits {
            findings.push(self.too_deep(index));
        }
        // One that is too deep has no levels, so that it is reported once and not by all above it.
        let (value, levels) = if fits { (value, levels) } else { (None, 0) };
        self.states[index] = State::Done(value.clone(), levels);
        value
    }

    /// The definitions that no reference has led to.
    pub(super) fn untouched(&self) -> impl Iterator<Item = &'d Name> {
        let all = self.names.iter().zip(&self.states);
        all.filter(|(_, state)| matches!(state, State::Untouched)).map(|(name, _)| *name)
    }

    /// The values so far.
    pub(super) fn values(&self) -> impl Iterator<Item = (&'d Name, &T)> {
        self.names.iter().zip(&self.states).filter_map(|(name, state)| match state {
            State::Done(Some(value), _) => Some((*name, value)),
            _ => None,
        })
    }

    fn cycle(&self, index: usize, reference: Span) -> Problem {
        let start = self.open.iter().position(|&(open, _)| open == index).unwrap_or(0);
        let cycle = &self.open[start..];
        let names: Vec<&str> = cycle.iter().map(|&(open, _)| &***self.names[open]).collect();
        let problem = contains_itself(self.kind, &names, reference);
        let inner = cycle.iter().zip(&names).skip(1).take(8);
        inner.fold(problem, |problem, (&(_, span), name)| {
            problem.label(span, format!("{} comes in here", quoted(name)))
        })
    }

    fn too_deep(&self, index: usize) -> Problem {
        let name = self.names[index];
        too_deep(self.kind, name, self.limit, name.span)
    }
}

/// Definitions of which each contains the next, and the last one the first.
pub(super) fn contains_itself(kind: &str, names: &[&str], span: Span) -> Problem {
    let first = names.first().copied().unwrap_or("");
    let path = names.iter().chain([&first]).copied().collect::<Vec<_>>().join(" → ");
    let message = format!("the {kind} {} contains itself: {path}", quoted(first));
    Problem::error(Code::Cycle, span, message)
}

/// A definition with more levels of others within it than the limit.
pub(super) fn too_deep(kind: &str, name: &str, limit: usize, span: Span) -> Problem {
    let message =
        format!("{kind}s within {kind}s are more than {limit} levels deep at {}", quoted(name));
    let problem = Problem::error(Code::LimitExceeded, span, message);
    problem.help("name the members directly instead of through other names")
}
