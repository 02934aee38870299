//! Load that does not wait for answers: requests leave on schedule, and each one's time counts from
//! when it was due. A server that stalls is charged for everybody who had to wait meanwhile.

use crate::numbers::Sample;
use anyhow::Result;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// Connections at most; who finds none waits, and the wait counts.
const IN_FLIGHT_MAX: usize = 256;
/// For answers after the last request was due.
const AFTER: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub per_second: u32,
    pub lasts: Duration,
}

#[derive(Debug, Default)]
pub struct Outcome {
    pub answered: Sample,
    pub refused: usize,
    /// No answer even `AFTER` the end.
    pub unanswered: usize,
    pub first_refusal: Option<String>,
    /// How late the tool itself was at worst.
    pub tool_late: Duration,
}

/// Runs on the current thread's runtime and keeps it busy: waiting for the next request is a spin,
/// because a timer's millisecond would be a tenth of what is measured.
pub async fn run<F, A>(shape: Shape, call: F) -> Outcome
where
    F: Fn(u32) -> A,
    A: Future<Output = Result<()>> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let gap = Duration::from_secs(1) / shape.per_second;
    let count = u32::try_from(shape.lasts.as_nanos() / gap.as_nanos()).unwrap_or(u32::MAX);
    let (began, mut outcome) = (Instant::now(), Outcome::default());
    let mut flying = JoinSet::new();
    for number in 0..count {
        let due = began + gap * number;
        while Instant::now() < due {
            take(&mut flying, &mut outcome);
            tokio::task::yield_now().await;
        }
        outcome.tool_late = outcome.tool_late.max(due.elapsed());
        let (room, answer) = (room.clone(), call(number));
        flying.spawn(async move {
            let _place = room.acquire_owned().await?;
            answer.await?;
            anyhow::Ok(due.elapsed())
        });
    }
    let deadline = began + gap * count + AFTER;
    while let Ok(Some(landed)) = timeout_at(deadline, flying.join_next()).await {
        outcome.count(landed);
    }
    outcome.unanswered = flying.len();
    outcome
}

type Landed = Result<Result<Duration>, tokio::task::JoinError>;

fn take(flying: &mut JoinSet<Result<Duration>>, outcome: &mut Outcome) {
    while let Some(landed) = flying.try_join_next() {
        outcome.count(landed);
    }
}

impl Outcome {
    fn count(&mut self, landed: Landed) {
        match landed.map_err(Into::into).flatten() {
            Ok(took) => self.answered.push(took),
            Err(error) => {
                self.refused += 1;
                self.first_refusal.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stall_is_charged_to_everybody_who_waited() {
        let shape = Shape { per_second: 100, lasts: Duration::from_millis(200) };
        let gate = Arc::new(tokio::sync::Mutex::new(()));
        let outcome = run(shape, |number| {
            let gate = gate.clone();
            async move {
                let _turn = gate.lock().await;
                anyhow::ensure!(number != 5, "number 5");
                tokio::time::sleep(Duration::from_millis(if number == 0 { 150 } else { 0 })).await;
                Ok(())
            }
        });
        let outcome = outcome.await;
        assert_eq!((outcome.refused, outcome.unanswered), (1, 0));
        assert_eq!(outcome.first_refusal.as_deref(), Some("number 5"));
        // Those due while the first one held the gate waited for the rest of its 150 ms.
        let spread = outcome.answered.spread();
        assert_eq!(spread.runs, 19);
        assert!(spread.median_ms > 30.0, "{spread:?}");
    }
}
