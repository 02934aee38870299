//! Standard input of an execution, across broken sessions.
//!
//! Owns: what its source gave and the command may not have yet. Refuses: input of an earlier life
//! of the agent; nobody has its bytes any more, so it ends.

use bytes::Bytes;
use perigee_hypervisor::{ExecStdin, HypervisorError};
use std::collections::VecDeque;
use tokio::sync::mpsc;

/// More than a session can have on its way: its HTTP/2 window and a chunk on either end.
const KEPT_BYTES: u64 = 1 << 20;

/// A source and its last bytes.
pub(super) struct Input {
    source: Option<mpsc::Receiver<Bytes>>,
    kept: VecDeque<Bytes>,
    /// Positions in the stream of the first byte kept and of the one behind the last.
    start: u64,
    end: u64,
}

impl Input {
    pub fn new(source: Option<mpsc::Receiver<Bytes>>) -> Self {
        Self { source, kept: VecDeque::new(), start: 0, end: 0 }
    }

    /// Carries it to the command, from where the last session stopped, to its end. May be dropped
    /// at any time and begun again with another session.
    ///
    /// # Errors
    /// `Channel` when the session broke or the command closed its input.
    pub async fn carry(&mut self, stdin: &mut dyn ExecStdin) -> Result<(), HypervisorError> {
        let given = stdin.offset();
        if (self.start..=self.end).contains(&given) {
            for bytes in self.behind(given) {
                stdin.write(bytes).await?;
            }
            while let Some(source) = &mut self.source {
                let Some(bytes) = source.recv().await else { break };
                // Kept before anything is awaited: dropping this loses nothing.
                self.keep(bytes.clone());
                stdin.write(bytes).await?;
            }
        }
        stdin.finish().await
    }

    fn behind(&self, given: u64) -> Vec<Bytes> {
        let mut at = self.start;
        let mut left = Vec::new();
        for bytes in &self.kept {
            let skip = usize::try_from(given.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
            at += bytes.len() as u64;
            if skip < bytes.len() {
                left.push(bytes.slice(skip..));
            }
        }
        left
    }

    fn keep(&mut self, bytes: Bytes) {
        self.end += bytes.len() as u64;
        self.kept.push_back(bytes);
        while let Some(first) = self.kept.front().map(|bytes| bytes.len() as u64)
            && self.end - self.start - first >= KEPT_BYTES
        {
            self.start += first;
            self.kept.pop_front();
        }
    }
}
