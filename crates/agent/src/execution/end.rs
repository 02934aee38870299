//! How an execution's end is told.

use super::Document;
use crate::spool::{Spool, Stream};
use perigee_agent_api::{Excerpt, ExecutionEnd};
use perigee_guest::protocol::ExecOutcome;
use perigee_hypervisor::ExecEnd;
use perigee_model::guest::Problem;
use perigee_model::limits::{OUTPUT_EXCERPT_BYTES, TEXT_BYTES_MAX};
use perigee_model::{ExecutionId, Outcome, Timestamp};

/// How it ended, as the task of the execution learnt it.
pub(super) enum Ending {
    /// The guest said so.
    Told(ExecEnd),
    /// It was never handed to the guest, or the guest refused it.
    NotStarted(Problem),
    /// Whether it finished is not known.
    Lost(Problem),
}

/// Bytes on this host and bytes dropped on this host, for one stream.
#[derive(Clone, Copy, Default)]
pub(super) struct Kept {
    pub bytes: u64,
    pub dropped: u64,
}

impl Ending {
    /// The document's end.
    pub(super) fn conclude(
        self,
        document: &Document,
        spool: &dyn Spool,
        kept: [Kept; 2],
        now: Timestamp,
    ) -> ExecutionEnd {
        let id = document.execute.execution;
        let mut stdout = excerpt(spool, id, Stream::Stdout, kept[0]);
        let mut stderr = excerpt(spool, id, Stream::Stderr, kept[1]);
        let (outcome, duration_ms, problem) = match self {
            Self::Told(end) => {
                stdout.bytes = stdout.bytes.max(end.stdout_bytes);
                stderr.bytes = stderr.bytes.max(end.stderr_bytes);
                stdout.truncated |= end.stdout_truncated;
                stderr.truncated |= end.stderr_truncated;
                (outcome(end.outcome), Some(end.duration_ms), None)
            }
            Self::NotStarted(problem) => (Outcome::FailedToStart { text: problem.text.clone() }, None, Some(problem)),
            Self::Lost(problem) => (Outcome::Lost, None, Some(problem)),
        };
        ExecutionEnd { outcome, at: now, duration_ms, stdout, stderr, problem }
    }
}

fn outcome(told: ExecOutcome) -> Outcome {
    match told {
        ExecOutcome::Exited { code } => Outcome::Exited { code },
        ExecOutcome::Signaled { signal } => Outcome::Signaled { signal },
        ExecOutcome::TimedOut => Outcome::TimedOut,
        ExecOutcome::FailedToStart { message, .. } => {
            let plain = message.chars().filter(|c| !c.is_control()).take(TEXT_BYTES_MAX / 4);
            Outcome::FailedToStart { text: plain.collect() }
        }
    }
}

/// First and last bytes of a stream; they never overlap.
fn excerpt(spool: &dyn Spool, id: ExecutionId, stream: Stream, kept: Kept) -> Excerpt {
    let most = OUTPUT_EXCERPT_BYTES as u64;
    let head = spool.read(id, stream, 0, OUTPUT_EXCERPT_BYTES).unwrap_or_default();
    let tail = if kept.bytes > most {
        let from = most.max(kept.bytes - most);
        spool.read(id, stream, from, OUTPUT_EXCERPT_BYTES).unwrap_or_default()
    } else {
        Vec::new()
    };
    Excerpt { head, tail, bytes: kept.bytes + kept.dropped, truncated: kept.dropped > 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::MemorySpool;
    use uuid::Uuid;

    #[test]
    fn excerpts_hold_both_ends_without_overlap() {
        let (spool, id) = (MemorySpool::default(), ExecutionId::new(Uuid::nil()));
        let kept = |bytes| Kept { bytes, dropped: 0 };
        assert_eq!(excerpt(&spool, id, Stream::Stdout, kept(0)), Excerpt::default());
        let bytes: Vec<u8> = (0..40_000u32).map(|i| (i % 251) as u8).collect();
        spool.append(id, Stream::Stdout, &bytes).unwrap();
        let cut = excerpt(&spool, id, Stream::Stdout, Kept { bytes: 40_000, dropped: 5 });
        assert_eq!((cut.head.len(), cut.tail.len()), (32_768, 40_000 - 32_768));
        assert_eq!([cut.head, cut.tail].concat(), bytes);
        assert_eq!((cut.bytes, cut.truncated), (40_005, true));
        spool.append(id, Stream::Stdout, &bytes).unwrap();
        let long = excerpt(&spool, id, Stream::Stdout, kept(80_000));
        assert_eq!(long.tail, bytes[40_000 - 32_768..]);
    }
}
