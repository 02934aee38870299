//! What can go wrong, precisely.

use perigee_model::frame::FrameError;
use std::path::PathBuf;

/// Why the store cannot be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum SeriesError {
    /// Another process has it open.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The operating system refused.
    #[error("{} cannot be used", .path.display())]
    Os {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// So much waits to be written that no more is taken: the disk is full or stands still.
    #[error("what was measured cannot be written to disk")]
    Stuck,
    /// A stored block does not check; it is not read.
    #[error("a block in {} is damaged", .0.display())]
    Damaged(PathBuf),
    /// A query would read more than is allowed.
    #[error("more than {0} samples would be read")]
    TooMuch(u64),
}

/// Why a frame was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It was taken before.
    #[error("the frame was taken before")]
    Duplicate,
    /// It belongs to a run that another has followed.
    #[error("a newer run has begun")]
    OldRun,
    /// It needs frames that are not here: send a key frame.
    #[error("the frames before it are not here")]
    NeedsKey,
    /// Further ahead of our clock than is believed.
    #[error("it is from the future")]
    Future,
    /// Older than what is kept.
    #[error("it is older than what is kept")]
    TooOld,
    /// It is no frame.
    #[error(transparent)]
    Frame(FrameError),
    /// It cannot be kept now; send it again later.
    #[error(transparent)]
    Store(#[from] SeriesError),
}

pub(crate) fn os(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> SeriesError {
    let path = path.into();
    move |source| SeriesError::Os { path, source }
}
