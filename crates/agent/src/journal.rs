//! Small JSON documents that outlive the agent.
//!
//! Owns: atomic replacement: a document is there whole, as it was before or as it is after.
//! Refuses: knowing what the documents mean, and shelves or keys that are not plain names.
//!
//! One document is written by one task only, so no two writes of the same key meet.

use async_trait::async_trait;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// How much a write must survive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// The death of this process.
    Process,
    /// The loss of power too.
    Power,
}

/// What the journal could not do.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The operating system refused.
    #[error("the journal cannot {doing} {shelf}/{key}")]
    Os {
        /// `write`, `read`, …
        doing: &'static str,
        /// Which shelf.
        shelf: String,
        /// Which document.
        key: String,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// A shelf or key that could name something else on a file system.
    #[error("not a journal name")]
    BadName,
    /// A document is not what it should be.
    #[error("a document of {shelf} cannot be read or written")]
    Json {
        /// Which shelf.
        shelf: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// Documents by shelf and key.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Writes a document, replacing the one that was there.
    ///
    /// # Errors
    /// `Os`, `BadName`.
    async fn put(&self, shelf: &str, key: &str, json: Vec<u8>, keep: Keep) -> Result<(), JournalError>;
    /// Reads one; `None` when there is none.
    ///
    /// # Errors
    /// `Os`, `BadName`.
    async fn get(&self, shelf: &str, key: &str) -> Result<Option<Vec<u8>>, JournalError>;
    /// Every key of a shelf, sorted.
    ///
    /// # Errors
    /// `Os`, `BadName`.
    async fn list(&self, shelf: &str) -> Result<Vec<String>, JournalError>;
    /// Removes one. Fine when there is none.
    ///
    /// # Errors
    /// `Os`, `BadName`.
    async fn remove(&self, shelf: &str, key: &str) -> Result<(), JournalError>;
    /// Takes one that cannot be read off its shelf, and keeps its bytes for people. Fine when there
    /// is none.
    ///
    /// # Errors
    /// `Os`, `BadName`.
    async fn set_aside(&self, shelf: &str, key: &str) -> Result<(), JournalError>;
}

/// Writes a value as a document.
///
/// # Errors
/// As `Journal::put`.
pub async fn write<T: serde::Serialize + Sync>(
    journal: &dyn Journal,
    shelf: &str,
    key: &str,
    value: &T,
    keep: Keep,
) -> Result<(), JournalError> {
    let json = serde_json::to_vec(value);
    let json = json.map_err(|source| JournalError::Json { shelf: shelf.to_owned(), source })?;
    journal.put(shelf, key, json, keep).await
}

/// Reads a document as a value.
///
/// # Errors
/// As `Journal::get`, and `Json`.
pub async fn read<T: serde::de::DeserializeOwned>(
    journal: &dyn Journal,
    shelf: &str,
    key: &str,
) -> Result<Option<T>, JournalError> {
    let Some(json) = journal.get(shelf, key).await? else { return Ok(None) };
    let value = serde_json::from_slice(&json);
    value.map(Some).map_err(|source| JournalError::Json { shelf: shelf.to_owned(), source })
}

fn check(name: &str) -> Result<(), JournalError> {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if name.is_empty() || name.len() > 64 || !plain { Err(JournalError::BadName) } else { Ok(()) }
}

/// One folder per shelf, one file per document: written beside, then renamed.
#[derive(Debug, Clone)]
pub struct DirJournal {
    root: PathBuf,
}

impl DirJournal {
    /// Under this folder, which it makes (0700).
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(root: impl Into<PathBuf>) -> std::io::Result<Self> {
        let root = root.into();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
        Ok(Self { root })
    }

    fn path(&self, shelf: &str, key: &str) -> Result<PathBuf, JournalError> {
        check(shelf)?;
        check(key)?;
        Ok(self.root.join(shelf).join(format!("{key}.json")))
    }
}

fn os<'a>(doing: &'static str, shelf: &'a str, key: &'a str) -> impl FnOnce(std::io::Error) -> JournalError + 'a {
    move |source| JournalError::Os { doing, shelf: shelf.to_owned(), key: key.to_owned(), source }
}

/// Replaces a file: all of it or nothing.
pub(crate) fn replace(path: &Path, bytes: &[u8], keep: Keep) -> std::io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let open = || std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside);
    let mut file = match open() {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            open()?
        }
        other => other?,
    };
    file.write_all(bytes)?;
    if keep == Keep::Power {
        file.sync_all()?;
    }
    drop(file);
    std::fs::rename(&beside, path)?;
    if keep == Keep::Power {
        std::fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[async_trait]
impl Journal for DirJournal {
    async fn put(&self, shelf: &str, key: &str, json: Vec<u8>, keep: Keep) -> Result<(), JournalError> {
        let path = self.path(shelf, key)?;
        let written = match keep {
            // A few pages into the page cache: quicker than handing it to another thread.
            Keep::Process => replace(&path, &json, keep),
            Keep::Power => tokio::task::spawn_blocking(move || replace(&path, &json, keep))
                .await
                .unwrap_or_else(|e| Err(std::io::Error::other(e))),
        };
        written.map_err(os("write", shelf, key))
    }

    async fn get(&self, shelf: &str, key: &str) -> Result<Option<Vec<u8>>, JournalError> {
        match std::fs::read(self.path(shelf, key)?) {
            Ok(json) => Ok(Some(json)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(os("read", shelf, key)(e)),
        }
    }

    async fn list(&self, shelf: &str) -> Result<Vec<String>, JournalError> {
        check(shelf)?;
        let folder = match std::fs::read_dir(self.root.join(shelf)) {
            Ok(folder) => folder,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(os("list", shelf, "")(e)),
        };
        let mut keys = Vec::new();
        for entry in folder {
            let name = entry.map_err(os("list", shelf, ""))?.file_name();
            let key = name.to_str().and_then(|n| n.strip_suffix(".json"));
            keys.extend(key.filter(|k| check(k).is_ok()).map(str::to_owned));
        }
        keys.sort();
        Ok(keys)
    }

    async fn remove(&self, shelf: &str, key: &str) -> Result<(), JournalError> {
        match std::fs::remove_file(self.path(shelf, key)?) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(os("remove", shelf, key)(e)),
            _ => Ok(()),
        }
    }

    async fn set_aside(&self, shelf: &str, key: &str) -> Result<(), JournalError> {
        let path = self.path(shelf, key)?;
        match std::fs::rename(&path, path.with_extension("damaged")) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(os("set aside", shelf, key)(e)),
            _ => Ok(()),
        }
    }
}

type Documents = BTreeMap<(String, String), Vec<u8>>;

/// In memory; clones share, so that it outlives a simulated crash.
#[derive(Debug, Clone, Default)]
pub struct MemoryJournal {
    documents: Arc<Mutex<Documents>>,
}

impl MemoryJournal {
    fn with<T>(&self, f: impl FnOnce(&mut Documents) -> T) -> T {
        f(&mut self.documents.lock().unwrap_or_else(PoisonError::into_inner))
    }
    /// How many documents there are on a shelf.
    pub fn count(&self, shelf: &str) -> usize {
        self.with(|d| d.keys().filter(|(s, _)| s == shelf).count())
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn put(&self, shelf: &str, key: &str, json: Vec<u8>, _: Keep) -> Result<(), JournalError> {
        check(shelf)?;
        check(key)?;
        // Give a simulated crash a place before and after the write, as a real one has.
        tokio::task::yield_now().await;
        self.with(|d| d.insert((shelf.to_owned(), key.to_owned()), json));
        tokio::task::yield_now().await;
        Ok(())
    }
    async fn get(&self, shelf: &str, key: &str) -> Result<Option<Vec<u8>>, JournalError> {
        Ok(self.with(|d| d.get(&(shelf.to_owned(), key.to_owned())).cloned()))
    }
    async fn list(&self, shelf: &str) -> Result<Vec<String>, JournalError> {
        Ok(self.with(|d| d.keys().filter(|(s, _)| s == shelf).map(|(_, k)| k.clone()).collect()))
    }
    async fn remove(&self, shelf: &str, key: &str) -> Result<(), JournalError> {
        tokio::task::yield_now().await;
        self.with(|d| d.remove(&(shelf.to_owned(), key.to_owned())));
        Ok(())
    }
    async fn set_aside(&self, shelf: &str, key: &str) -> Result<(), JournalError> {
        self.remove(shelf, key).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn contract(journal: &dyn Journal) {
        assert_eq!(journal.get("guests", "a").await.unwrap(), None);
        assert_eq!(journal.list("guests").await.unwrap(), Vec::<String>::new());
        journal.put("guests", "b", b"1".to_vec(), Keep::Power).await.unwrap();
        journal.put("guests", "a", b"2".to_vec(), Keep::Process).await.unwrap();
        journal.put("guests", "a", b"3".to_vec(), Keep::Power).await.unwrap();
        assert_eq!(journal.get("guests", "a").await.unwrap(), Some(b"3".to_vec()));
        assert_eq!(journal.list("guests").await.unwrap(), ["a", "b"]);
        journal.remove("guests", "a").await.unwrap();
        journal.remove("guests", "a").await.unwrap();
        assert_eq!(journal.list("guests").await.unwrap(), ["b"]);
        journal.set_aside("guests", "b").await.unwrap();
        journal.set_aside("guests", "b").await.unwrap();
        assert_eq!(journal.list("guests").await.unwrap(), Vec::<String>::new());
        journal.put("guests", "b", b"4".to_vec(), Keep::Process).await.unwrap();
        assert_eq!(journal.get("guests", "b").await.unwrap(), Some(b"4".to_vec()), "another takes its place");
        for bad in ["", "..", "a/b", "A"] {
            assert!(matches!(journal.put("guests", bad, Vec::new(), Keep::Process).await, Err(JournalError::BadName)));
        }
    }

    #[tokio::test]
    async fn both_journals_keep_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        contract(&DirJournal::open(folder.path().join("journal")).unwrap()).await;
        contract(&MemoryJournal::default()).await;
    }
}
