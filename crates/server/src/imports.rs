//! Brings the bytes of imported images here.
//!
//! Owns: taking orders from the queue, a few at once, telling how far they are, and letting go of those
//! that nobody waits for any more. Refuses: knowing formats and addresses, which `images` and `outbound`
//! do.

use perigee_blobs::BlobDir;
use perigee_control::Control;
use perigee_control::imports::ImportOrder;
use perigee_images::import::{Found, ImportError, Progress, fetch};
use perigee_images::inspect::InspectError;
use perigee_model::guest::Problem;
use perigee_model::limits::{IMPORTS_MAX, UPLOAD_KEPT};
use perigee_model::{Code, Refusal, Timestamp};
use perigee_outbound::{Outbound, OutboundError};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Progress is written down this often, and as often it is asked whether anybody still waits.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Uploads that were left are looked for this often.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// What an import needs.
#[derive(Clone)]
pub struct Imports {
    /// Whose orders.
    pub control: Control,
    /// Where the bytes go.
    pub blobs: BlobDir,
    /// How they come.
    pub outbound: Outbound,
}

impl Imports {
    /// Works until cancelled. What is under way then begins again in the next reign.
    pub async fn run(self, cancel: CancellationToken) {
        let sweep = self.sweep_uploads();
        let work = self.work();
        tokio::select! {
            () = cancel.cancelled() => {}
            () = async { tokio::join!(sweep, work); } => {}
        }
    }

    async fn work(&self) {
        if let Err(refusal) = self.control.resume_own_work().await {
            tracing::warn!(%refusal, "what was under way could not be taken up again");
        }
        let room = Arc::new(Semaphore::new(IMPORTS_MAX));
        let mut working = JoinSet::new();
        while let Ok(place) = room.clone().acquire_owned().await {
            let (imports, order) = (self.clone(), self.control.next_import().await);
            working.spawn(async move {
                imports.import(&order).await;
                drop(place);
            });
            while working.try_join_next().is_some() {}
        }
    }

    async fn import(&self, order: &ImportOrder) {
        let done = match self.fetched(order).await {
            None => return tracing::info!(task = %order.task, "nobody waits for the import any more"),
            Some(Ok(found)) => self.keep(order, found).await,
            Some(Err(error)) => Err(error),
        };
        let Err(error) = done else { return };
        tracing::info!(task = %order.task, %error, "an import fell");
        let (problem, again) = problem(&error);
        told(order, self.control.import_fell(order, problem, again).await);
    }

    /// `None` when nobody waits for it any more.
    async fn fetched(&self, order: &ImportOrder) -> Option<Result<Found, ImportError>> {
        let (tell, told) = watch::channel(None);
        let mut tell = |progress| _ = tell.send_replace(Some(progress));
        let fetched = fetch(&self.blobs, &self.outbound, &order.import, &mut tell);
        tokio::pin!(fetched);
        loop {
            tokio::select! {
                biased;
                found = &mut fetched => return Some(found),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if !self.control.is_wanted(order.task) {
                return None;
            }
            let progress = *told.borrow();
            if let Some(progress) = progress {
                let (note, percent) = said(progress);
                self.control.progressed(order.task, note, percent).await;
            }
        }
    }

    /// Written down as needed first, then named: a sweep between the two takes nothing away.
    async fn keep(&self, order: &ImportOrder, found: Found) -> Result<(), ImportError> {
        let (part, inspected) = (found.part.clone(), found.inspected);
        if let Err(refusal) = self.control.import_found(order, &part).await {
            told(order, Err(refusal));
            return Ok(());
        }
        found.keep().await?;
        tracing::info!(task = %order.task, digest = %part.digest, ?inspected, "an image was imported");
        told(order, self.control.import_kept(order).await);
        Ok(())
    }

    async fn sweep_uploads(&self) {
        loop {
            let before = system_time(self.control.clock().now() - UPLOAD_KEPT);
            if let Err(error) = self.blobs.remove_partials(before) {
                tracing::warn!(%error, "uploads that were left could not be removed");
            }
            tokio::time::sleep(SWEEP_EVERY).await;
        }
    }
}

fn told(order: &ImportOrder, written: Result<(), Refusal>) {
    if let Err(refusal) = written {
        tracing::warn!(%refusal, task = %order.task, "an import's end could not be written down");
    }
}

fn said(progress: Progress) -> (String, Option<u8>) {
    let here = progress.bytes >> 20;
    match progress.total.filter(|total| *total > 0) {
        Some(total) => {
            let percent = u8::try_from(progress.bytes.saturating_mul(100) / total).unwrap_or(100);
            (format!("fetching, {here} of {} MiB", total >> 20), Some(percent.min(100)))
        }
        None => (format!("fetching, {here} MiB"), None),
    }
}

/// What its owner is told, and whether another attempt may help.
fn problem(error: &ImportError) -> (Problem, bool) {
    let (code, text, again) = match error {
        ImportError::Source(source) => (source_code(source), error.to_string(), source.may_pass()),
        ImportError::NoSpace(_) => {
            (Code::DiskFull, "the control plane's disk is full; free some, then import again".to_owned(), false)
        }
        ImportError::Io { .. } | ImportError::Refused(InspectError::Io(_)) => {
            (Code::ImageUnreachable, "the control plane's disk failed; its log has the reason".to_owned(), true)
        }
        ImportError::Busy(_) => (Code::ImageUnreachable, error.to_string(), true),
        ImportError::Refused(_)
        | ImportError::WrongChecksum { .. }
        | ImportError::NotListed { .. }
        | ImportError::NoUpload(_) => (Code::ImageRefused, error.to_string(), false),
    };
    (Problem::new(code, text), again)
}

fn source_code(error: &OutboundError) -> Code {
    match error {
        OutboundError::BadAddress(_)
        | OutboundError::Forbidden { .. }
        | OutboundError::Downgrade { .. }
        | OutboundError::TooLarge { .. } => Code::ImageRefused,
        OutboundError::TooManyRedirects(_)
        | OutboundError::Unresolved { .. }
        | OutboundError::Unreachable { .. }
        | OutboundError::NoAuthorities
        | OutboundError::Status { .. }
        | OutboundError::Strange { .. }
        | OutboundError::Stalled { .. }
        | OutboundError::Broken { .. }
        | OutboundError::Changed { .. } => Code::ImageUnreachable,
    }
}

pub fn system_time(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(at.micros()).unwrap_or(0))
}
