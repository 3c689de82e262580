//! The gateway's end of a trace: tells the workers, and puts into words what they tell.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};
use std::time::{Duration, Instant};

use bulkhead_pipeline::trace::{Fate, Lookup, Snap, Step, Story, Wanted};
use bulkhead_rules::policy::RuleId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tracing::info;

use super::story::{Names, told};
use super::words::{self, Words};
use super::{
    MAX_BYTES, MAX_COUNT, MAX_PAYLOAD_BYTES, MAX_SECONDS, TraceBegan, TraceEnded, TraceMessage,
    TraceOrder, TracedLater,
};
use crate::audit::{Draft, What, Who};
use crate::control::Answer;
use crate::state::{Gateway, PolicyState};

/// How often the rings are emptied while little comes.
const TURN: Duration = Duration::from_millis(20);

/// Steps of a worker that are taken at once: the rest of the service is not held up.
const BATCH: usize = 64;

/// Steps, and bytes of packets, that may wait in a worker's rings.
const RING_STEPS: usize = 1024;
const RING_BYTES: usize = 1 << 20;

/// How long a client may take to take its lines.
const CLIENT_LIMIT: Duration = Duration::from_secs(5);

/// How long workers may take to give an order back: a loop, unless one hangs.
const OVER_LIMIT: Duration = Duration::from_millis(500);

/// Follows packets for a client, until the trace is over.
///
/// # Errors
///
/// What the connection says.
pub async fn serve<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    gateway: &Arc<Gateway>,
    who: Who,
    order: TraceOrder,
    (reader, writer): (&mut R, &mut W),
) -> io::Result<()> {
    let mut lines = Lines { writer, sent: 0 };
    let place = match Place::take(gateway) {
        Ok(place) => place,
        Err(error) => return lines.send(&Answer::Error(error)).await,
    };
    let begun = match begin(gateway, who, &order).await {
        Ok(begun) => begun,
        Err(error) => return lines.send(&Answer::Error(error)).await,
    };
    let mut trace = Trace { gateway, begun, order, packets: 0, rule: None };
    let followed = trace.follow(reader, &mut lines).await;
    let told = trace.end(followed, &mut lines).await;
    drop(place);
    told
}

/// The one place that there is for a trace.
struct Place<'a>(&'a Gateway);

impl<'a> Place<'a> {
    fn take(gateway: &'a Gateway) -> Result<Self, String> {
        if gateway.tracing.swap(true, AcqRel) {
            return Err(
                "another trace is running: one at a time, so that the workers are not slowed; \
                        it ends by itself"
                    .to_owned(),
            );
        }
        Ok(Self(gateway))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.tracing.store(false, Release);
    }
}

/// A trace that workers follow.
struct Begun {
    words: Words,
    since: Instant,
    /// What the workers had counted before: matched and lost.
    before: (u64, u64),
    began: TraceBegan,
}

async fn begin(gateway: &Gateway, who: Who, order: &TraceOrder) -> Result<Begun, String> {
    let wires: Vec<&str> = gateway.config.wires.iter().map(|wire| wire.name.as_str()).collect();
    let who = gateway.config.console.acts_for(who, order.on_behalf_of.clone())?;
    let words = words::read(&order.filter, &wires)?;
    for (what, is, most) in [
        ("packets", order.count, MAX_COUNT),
        ("seconds", order.seconds.into(), MAX_SECONDS.into()),
        ("bytes of a packet", order.payload_bytes.unwrap_or(1).into(), MAX_PAYLOAD_BYTES.into()),
    ] {
        if is == 0 || is > most {
            return Err(format!("{is} {what}: 1 to {most} can be traced"));
        }
    }
    if let Some(rule) = &words.rule {
        if number_of(&gateway.policy(), rule).is_none() {
            return Err(format!("no rule of the policy in force is called `{rule}`"));
        }
    }
    if gateway.workers().is_empty() {
        return Err("no worker runs yet: nothing can be followed".to_owned());
    }
    let filter = match order.filter.trim() {
        "" => "everything",
        filter => filter,
    };
    let bytes = match order.payload_bytes {
        Some(bytes) => format!("the first {bytes} bytes of each"),
        None => "headers only".to_owned(),
    };
    let (count, seconds) = (order.count, order.seconds);
    let detail =
        format!("a trace of {filter}: {bytes}, at most {count} packets and {seconds} seconds");
    let draft = Draft::new(who, What::Trace, detail.clone()).because(order.reason.as_deref());
    match order.payload_bytes {
        Some(_) => gateway.audit.enter(draft)?,
        None => gateway.audit.enter_anyway(draft),
    }
    info!("{detail}");
    let before = counted(gateway);
    let snap = order.payload_bytes.map_or(Snap::Headers, Snap::Bytes);
    let wanted = Wanted {
        filter: words.filter,
        snap,
        packets: count,
        ring: RING_STEPS,
        ring_bytes: RING_BYTES,
    };
    let since = Instant::now();
    for (index, worker) in gateway.workers().iter().enumerate() {
        while !worker.trace().begin(&wanted) {
            if since.elapsed() > OVER_LIMIT {
                gateway.workers().iter().for_each(|worker| worker.trace().end());
                return Err(format!("worker {index} does not answer: does it hang?"));
            }
            sleep(Duration::from_millis(1)).await;
        }
    }
    let began = TraceBegan {
        filter: filter.to_owned(),
        count,
        seconds,
        payload_bytes: order.payload_bytes,
        workers: gateway.workers().len(),
    };
    Ok(Begun { words, since, before, began })
}

/// Steps that matched, and that were lost, over all workers and traces.
fn counted(gateway: &Gateway) -> (u64, u64) {
    gateway.workers().iter().fold((0, 0), |(matched, lost), worker| {
        let source = worker.trace();
        let counters = source.counters();
        (matched + counters.matched.load(Relaxed), lost + counters.lost.load(Relaxed))
    })
}

/// The number of a rule in the policy in force.
fn number_of(state: &PolicyState, name: &str) -> Option<RuleId> {
    let policy = &state.publisher.as_ref()?.current().content.policy;
    let mut all = policy.order().chain([RuleId::DEFAULT]);
    all.find(|&rule| policy.rule_name(rule) == name)
}

/// Lines to a client.
struct Lines<'a, W> {
    writer: &'a mut W,
    sent: u64,
}

impl<W: AsyncWrite + Unpin> Lines<'_, W> {
    async fn send(&mut self, answer: &Answer) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(answer)?;
        bytes.push(b'\n');
        self.sent += bytes.len() as u64;
        timeout(CLIENT_LIMIT, self.writer.write_all(&bytes)).await?
    }

    async fn tell(&mut self, message: TraceMessage) -> io::Result<()> {
        self.send(&Answer::Trace(Box::new(message))).await
    }
}

struct Trace<'a> {
    gateway: &'a Gateway,
    begun: Begun,
    order: TraceOrder,
    packets: u64,
    /// The first epoch of the policy whose number for the rule was told to the workers.
    rule: Option<u64>,
}

impl Trace<'_> {
    /// Until the trace is over: why it is, or that the client went away.
    async fn follow<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        reader: &mut R,
        lines: &mut Lines<'_, W>,
    ) -> io::Result<&'static str> {
        self.tell_rule();
        lines.tell(TraceMessage::Began(self.begun.began.clone())).await?;
        let limit = Duration::from_secs(self.order.seconds.into());
        let mut more = [0; 16];
        loop {
            let took = self.turn(lines).await?;
            let is_over = match () {
                () if self.packets >= self.order.count => Some("count"),
                () if lines.sent >= MAX_BYTES => Some("bytes"),
                () if self.gateway.is_stopping() => Some("stopping"),
                () if self.begun.since.elapsed() >= limit => Some("seconds"),
                () => None,
            };
            if let Some(why) = is_over {
                return Ok(why);
            }
            self.tell_rule();
            // Whoever has heard enough closes the connection, or says anything.
            let rest = if took { Duration::ZERO } else { TURN };
            if let Ok(heard) = timeout(rest, reader.read(&mut more)).await {
                heard?;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
    }

    /// Tells some of what the workers told. Returns whether there may be more.
    async fn turn<W: AsyncWrite + Unpin>(&mut self, lines: &mut Lines<'_, W>) -> io::Result<bool> {
        let mut took = false;
        for index in 0..self.gateway.workers().len() {
            for message in self.messages(index) {
                took = true;
                let is_packet = matches!(message, TraceMessage::Packet(_));
                if is_packet && self.packets >= self.order.count {
                    continue;
                }
                self.packets += u64::from(is_packet);
                lines.tell(message).await?;
            }
        }
        Ok(took)
    }

    /// What a worker told, in words.
    fn messages(&self, index: usize) -> Vec<TraceMessage> {
        let Some(worker) = self.gateway.workers().get(index) else { return Vec::new() };
        let steps: Vec<_> = {
            let mut source = worker.trace();
            std::iter::from_fn(|| source.step()).take(BATCH).collect()
        };
        if steps.is_empty() {
            return Vec::new();
        }
        let state = self.gateway.policy();
        let names = Names { config: &self.gateway.config, state: &state };
        let message = |(step, bytes): (Step, Vec<u8>)| match step {
            Step::Story(story) => self
                .is_of_rule(&story, &names)
                .then(|| TraceMessage::Packet(Box::new(told(&story, index, &bytes, &names)))),
            Step::Later { id, fate } => {
                let id = format!("{index}-{id}");
                let (fate, reason) = match fate {
                    Fate::NotSent(reason) => ("not-sent", Some(reason.label().to_owned())),
                    _ => ("sent", None),
                };
                Some(TraceMessage::Later(TracedLater { id, fate: fate.to_owned(), reason }))
            }
        };
        steps.into_iter().filter_map(message).collect()
    }

    /// Whether a packet is of the rule that is asked for: workers go by numbers, which a reload may
    /// have given to another rule a moment ago.
    fn is_of_rule(&self, story: &Story, names: &Names<'_>) -> bool {
        let Some(wanted) = &self.begun.words.rule else { return true };
        let of_flow = match story.lookup {
            Lookup::Hit(flow) => Some((flow.rule, flow.judged_in)),
            _ => None,
        };
        let decided = story.decided_by.map(|rule| (rule, story.epoch));
        let mut both = [decided, of_flow].into_iter().flatten();
        both.any(|(rule, epoch)| names.rule_name(rule, epoch).as_deref() == Some(wanted))
    }

    /// Tells the workers which number the rule has, if another policy is in force.
    fn tell_rule(&mut self) {
        let Some(name) = &self.begun.words.rule else { return };
        let state = self.gateway.policy();
        let epoch = state.publisher.as_ref().map(|publisher| publisher.current().first_epoch());
        if epoch != self.rule {
            self.rule = epoch;
            let number = number_of(&state, name);
            self.gateway.workers().iter().for_each(|worker| worker.trace().rule_is(number));
        }
    }

    /// Takes the order back from the workers, and tells the rest.
    async fn end<W: AsyncWrite + Unpin>(
        &mut self,
        followed: io::Result<&'static str>,
        lines: &mut Lines<'_, W>,
    ) -> io::Result<()> {
        let workers = self.gateway.workers();
        workers.iter().for_each(|worker| worker.trace().end());
        let ended = Instant::now();
        while !workers.iter().all(|worker| worker.trace().is_over()) {
            if ended.elapsed() > OVER_LIMIT {
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
        let told = match followed {
            Ok(why) => self.last_words(why, lines).await,
            // Nobody listens any more.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(()),
            Err(error) => Err(error),
        };
        for worker in workers {
            let mut source = worker.trace();
            source.clear();
            source.rule_is(None);
        }
        told
    }

    async fn last_words<W: AsyncWrite + Unpin>(
        &mut self,
        why: &'static str,
        lines: &mut Lines<'_, W>,
    ) -> io::Result<()> {
        while self.turn(lines).await? {}
        let (matched, lost) = counted(self.gateway);
        let ended = TraceEnded {
            why: why.to_owned(),
            packets: self.packets,
            matched: matched - self.begun.before.0,
            lost: lost - self.begun.before.1,
            took_ms: u64::try_from(self.begun.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        lines.tell(TraceMessage::Ended(ended)).await
    }
}
