//! Keeps the repository of backups: looks at all bytes of a backup when that is asked for, and whether it
//! boots, and removes what no backup needs any more.
//!
//! Owns: taking those tasks from the queue, one at a time, and when is swept. Refuses: knowing how chunks
//! are kept, which [`perigee_backups`] does.

use crate::imports::system_time;
use perigee_backups::{Kept, Repository, RepositoryError, Swept};
use perigee_control::Control;
use perigee_control::trials::Tried;
use perigee_control::verifications::VerifyOrder;
use perigee_model::guest::Problem;
use perigee_model::{Code, Digest, DiskIndex};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Progress is written down this often, and as often it is asked whether anybody still waits.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What no backup needs is looked for this often.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// Clocks of file systems on other machines may be behind ours by this.
const SLACK: Duration = Duration::from_secs(120);

/// The repository and whose backups are in it.
#[derive(Clone)]
pub struct Backups {
    /// Whose.
    pub control: Control,
    /// Where their bytes are.
    pub repository: Repository,
}

impl Backups {
    /// Works until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let verify = async {
            loop {
                let order = self.control.next_verification().await;
                self.verify(&order).await;
            }
        };
        let sweep = async {
            loop {
                match self.sweep().await {
                    Ok(Some(swept)) if swept.files > 0 => {
                        tracing::info!(files = swept.files, bytes = swept.bytes, "what no backup needs was removed");
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "what no backup needs cannot be removed"),
                }
                tokio::time::sleep(SWEEP_EVERY).await;
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = async { tokio::join!(verify, sweep); } => {}
        }
    }

    /// Looks at all bytes of a backup, then whether it boots, if that is wanted, and tells what it finds.
    pub async fn verify(&self, order: &VerifyOrder) {
        match self.look(order).await {
            Some(Ok(fault)) => {
                tracing::info!(backup = %order.backup.id, fault, "a backup was looked at");
                let found = match fault {
                    Some(fault) => Err(format!("it is damaged: {fault}")),
                    None if !order.boot => Ok(None),
                    None => match self.control.try_backup(order).await {
                        Tried::Booted(booted) => Ok(Some(booted)),
                        Tried::Silent(why) => Err(why),
                        Tried::Untried(problem) => return self.control.verification_fell(order.task, problem).await,
                        Tried::Unwanted => return,
                    },
                };
                if let Err(refusal) = self.control.verified(order, found).await {
                    tracing::warn!(%refusal, task = %order.task, "what was found could not be written down");
                }
            }
            Some(Err(error)) => {
                tracing::warn!(%error, backup = %order.backup.id, "a backup cannot be looked at");
                let problem =
                    Problem::new(Code::BackupFailed, "the repository of backups cannot be read; its log says why");
                self.control.verification_fell(order.task, problem).await;
            }
            None => tracing::info!(task = %order.task, "nobody waits for the look at the backup any more"),
        }
    }

    /// What is wrong with it, if anything is. `None`: nobody waits for it any more.
    async fn look(&self, order: &VerifyOrder) -> Option<Result<Option<String>, RepositoryError>> {
        let backup = &order.backup;
        let Some(stored) = &backup.stored else { return Some(Ok(Some("it has no index".to_owned()))) };
        let chunks = match self.index(backup.sealed, &stored.index).await {
            Ok(index) => index.digests().collect::<BTreeSet<Digest>>(),
            Err(error) => return Some(fault_of(error).map(Some)),
        };
        let (mut faults, mut first) = (0_usize, None);
        let mut told = self.control.clock().instant();
        for (seen, digest) in chunks.iter().enumerate() {
            if told.elapsed() >= LOOK_EVERY {
                told = self.control.clock().instant();
                if !self.control.is_wanted(order.task) {
                    return None;
                }
                let percent = u8::try_from(seen * 100 / chunks.len()).unwrap_or(100);
                let note = format!("looking at {seen} of {} chunks", chunks.len());
                self.control.progressed(order.task, note, Some(percent)).await;
            }
            if let Err(error) = self.repository.verify(backup.sealed, digest).await {
                match fault_of(error) {
                    Ok(fault) => {
                        faults += 1;
                        first.get_or_insert(fault);
                    }
                    Err(error) => return Some(Err(error)),
                }
            }
        }
        let fault = first.map(|first| format!("{faults} of {} chunks: {first}", chunks.len()));
        self.control.is_wanted(order.task).then_some(Ok(fault))
    }

    async fn index(&self, sealed: bool, digest: &Digest) -> Result<DiskIndex, RepositoryError> {
        let bytes = self.repository.get(sealed, digest).await?;
        let none = || RepositoryError::Damaged {
            digest: digest.clone(),
            path: self.repository.root().to_owned(),
            why: "it is no index",
        };
        DiskIndex::decode(&bytes).ok_or_else(none)
    }

    /// Removes what no backup needs. `None`: not now, one is being made.
    ///
    /// # Errors
    /// What the repository says. An index that cannot be read ends it: its chunks would be lost.
    pub async fn sweep(&self) -> Result<Option<Swept>, RepositoryError> {
        // What comes after this is newer than what is removed.
        let before = system_time(self.control.clock().now() - SLACK);
        if self.control.is_backing_up() {
            return Ok(None);
        }
        let mut kept = Kept::default();
        for (sealed, index) in self.control.needed_indexes() {
            let chunks = self.index(sealed, &index).await?;
            let kept = if sealed { &mut kept.sealed } else { &mut kept.plain };
            kept.extend(chunks.digests());
            kept.insert(index);
        }
        self.repository.sweep(kept, before).await.map(Some)
    }
}

/// What is wrong with the bytes; the error when it is not them.
fn fault_of(error: RepositoryError) -> Result<String, RepositoryError> {
    match error {
        RepositoryError::NotFound(digest) => Ok(format!("chunk {digest} is not there")),
        RepositoryError::Damaged { digest, why, .. } => Ok(format!("chunk {digest} is damaged: {why}")),
        RepositoryError::KeyMissing(_) | RepositoryError::KeyWrong(_) | RepositoryError::KeyMalformed(_) => {
            Ok(error.to_string())
        }
        error => Err(error),
    }
}
