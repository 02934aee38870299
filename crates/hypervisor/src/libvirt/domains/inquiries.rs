//! Inquiries: what a guest's own VMM must be asked for, as often as that is worth its price.
//!
//! Owns: when the next round is due, one round at a time, and what the last one told.
//! Refuses: to hold up who asks: a round that takes long ends beside them.
//!
//! A guest's disks and its memory report cost 1.5 to 3 ms of its VMM's and libvirt's time for each guest, what
//! libvirt itself knows a twentieth of that. So the rounds fill at most a part of the time: few guests are asked
//! in each second, many every few seconds.

use perigee_clock::{Clock, Instant};
use perigee_libvirt::{Domain, DomainStats, Watch, Wish};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// After a round it rests for so many times what the round took.
const REST: u32 = 29;
/// But never longer than this.
const REST_MAX: Duration = Duration::from_secs(30);
/// And hardly, after one that not everyone answered: it took its time waiting.
const REST_AFTER_SILENCE: Duration = Duration::from_secs(1);
/// How long who asked for a round waits for it; then they go on without.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long a VMM may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A domain in one life of it.
type Life = (Uuid, Option<i32>);

/// The rounds of one libvirt.
pub struct Inquiries {
    clock: Clock,
    watch: Arc<Mutex<Watch>>,
    running: Option<JoinHandle<Round>>,
    due: Option<Instant>,
    last: Option<Round>,
}

/// What one round told.
struct Round {
    at: Instant,
    took: Duration,
    /// Everyone who was asked.
    told: BTreeMap<Life, Option<DomainStats>>,
}

/// What is known of one domain from the last round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Inquired<'a> {
    /// It was not asked about yet.
    NotYet,
    /// It did not tell.
    Silent,
    /// This, then.
    Told(&'a DomainStats, Instant),
}

impl Inquiries {
    /// Of this libvirt, on a connection of their own. Nothing is asked before the first [`Inquiries::about`].
    pub fn new(clock: Clock, wish: Wish) -> Self {
        let wish = Wish { deadline: wish.deadline.max(ANSWER_WITHIN), ..wish };
        let watch = Arc::new(Mutex::new(Watch::new(wish)));
        Self { clock, watch, running: None, due: None, last: None }
    }

    /// Asks about those of these that run, when it is time for that. Call inside a runtime.
    pub async fn about(&mut self, domains: impl Iterator<Item = &Domain>) {
        let now = self.clock.instant();
        let mut patience = Duration::ZERO;
        if self.running.is_none() && self.due.is_none_or(|due| due <= now) {
            let domains: Vec<_> = domains.filter(|domain| domain.id.is_some()).cloned().collect();
            self.running = Some(tokio::spawn(round(self.clock.clone(), self.watch.clone(), domains)));
            patience = PATIENCE;
        }
        let Some(running) = &mut self.running else { return };
        let Ok(ended) = tokio::time::timeout(patience, running).await else { return };
        self.running = None;
        // A round that was cut short, by a runtime that ends, told nothing.
        self.last = ended.ok();
        self.due = self.last.as_ref().map(|round| round.at.after(rest(round.took, round.is_whole())));
    }

    /// What is known of a domain.
    pub fn of(&self, domain: &Domain) -> Inquired<'_> {
        let life = life(domain);
        match self.last.as_ref().and_then(|round| Some((round.told.get(&life)?, round.at))) {
            None => Inquired::NotYet,
            Some((None, _)) => Inquired::Silent,
            Some((Some(told), at)) => Inquired::Told(told, at),
        }
    }
}

impl Round {
    /// Whether everyone told.
    fn is_whole(&self) -> bool {
        self.told.values().all(Option::is_some)
    }
}

/// How long nothing is asked after a round.
fn rest(took: Duration, whole: bool) -> Duration {
    took.saturating_mul(REST).min(if whole { REST_MAX } else { REST_AFTER_SILENCE })
}

async fn round(clock: Clock, watch: Arc<Mutex<Watch>>, domains: Vec<Domain>) -> Round {
    let began = clock.instant();
    let mut told: BTreeMap<Life, Option<DomainStats>> = domains.iter().map(|domain| (life(domain), None)).collect();
    if !domains.is_empty() {
        match watch.lock().await.inquire(&domains).await {
            Ok(stats) => told.extend(stats.into_iter().map(|stats| (life(&stats.domain), Some(stats)))),
            Err(error) => tracing::debug!(%error, "no hypervisor of libvirt's told anything"),
        }
    }
    Round { at: clock.instant(), took: began.elapsed(), told }
}

fn life(domain: &Domain) -> Life {
    (domain.uuid, domain.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_fill_a_thirtieth_of_the_time_and_come_soon_after_a_silence() {
        let ms = Duration::from_millis;
        for (took, whole, rests) in [
            (ms(0), true, ms(0)),
            (ms(15), true, ms(435)),
            (ms(80), true, ms(2_320)),
            (ms(5_000), true, ms(30_000)),
            (ms(10_000), false, ms(1_000)),
            (ms(10), false, ms(290)),
            (Duration::MAX, true, ms(30_000)),
        ] {
            assert_eq!(rest(took, whole), rests, "{took:?} {whole}");
        }
    }
}
