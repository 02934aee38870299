//! The repository: chunks in, chunks out.

use crate::disk::{self, Held, Temp};
use crate::key::KeyFile;
use crate::seal::{OVERHEAD_BYTES, Seal};
use crate::{RepositoryError, digest_of, packing};
use bytes::Bytes;
use perigee_model::Digest;
use perigee_model::limits::BACKUP_INDEX_BYTES_MAX;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

const FORMAT: u64 = 1;
const DESCRIPTION: &str = "repository.json";
/// A frame of bytes that cannot be packed is that much longer than they are, and less.
const PACKING_BYTES_MAX: usize = 64 << 10;
/// Most bytes of any file.
const FILE_BYTES_MAX: usize = BACKUP_INDEX_BYTES_MAX + PACKING_BYTES_MAX + OVERHEAD_BYTES;

/// What became of a chunk that was to be stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// It was not there before.
    pub new: bool,
    /// Bytes on the disk.
    pub stored_bytes: u64,
}

/// A repository of backups. Cheap to clone.
#[derive(Clone)]
pub struct Repository(pub(crate) Arc<Room>);

/// What its clones share.
pub(crate) struct Room {
    root: PathBuf,
    id: Uuid,
    key: KeyFile,
    /// Once something sealed was asked for and the key is known to be the right one.
    seal: Mutex<Option<Arc<Seal>>>,
}

/// `repository.json`.
#[derive(Serialize, Deserialize)]
struct Description {
    format: u64,
    id: Uuid,
    /// Which key seals here; none has yet without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_check: Option<String>,
}

/// A chunk's file, and how to close and open what is in it.
struct Place {
    path: PathBuf,
    seal: Option<Arc<Seal>>,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository").field("root", &self.0.root).field("id", &self.0.id).finish_non_exhaustive()
    }
}

impl Repository {
    /// Opens or makes the repository in a folder, mode 0700, and removes what killed writers left. The key
    /// is made when the first sealed chunk comes. Blocks.
    ///
    /// # Errors
    /// `OtherFormat`, `NoRepository`, `NoSpace`, `Io`.
    pub fn open(
        root: impl Into<PathBuf>,
        key_file: impl Into<PathBuf>,
        random: impl Fn(&mut [u8]) + Send + Sync + 'static,
    ) -> Result<Self, RepositoryError> {
        let root = root.into();
        let failed = |e| RepositoryError::io(&root, e);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(failed)?;
        let _alone = disk::hold_alone(&root.join("lock")).map_err(failed)?;
        let description = match Description::read(&root)? {
            Some(description) => description,
            None => Description::make(&root, &random)?,
        };
        for name in ["plain", "sealed", "temp", "damaged"] {
            disk::make_dir(&root.join(name)).map_err(failed)?;
        }
        disk::remove_leftovers(&root.join("temp")).map_err(failed)?;
        let key = KeyFile::at(key_file.into(), Arc::new(random));
        Ok(Self(Arc::new(Room { root, id: description.id, key, seal: Mutex::default() })))
    }

    /// Tells repositories apart.
    pub fn id(&self) -> Uuid {
        self.0.id
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Stores a chunk; when this returns it is durable. One that is there is not written again, and is not
    /// swept for as long as a new one.
    ///
    /// # Errors
    /// `TooLarge`, `WrongDigest`, `NoSpace`, `Key…`, `Io`.
    pub async fn put(&self, sealed: bool, digest: &Digest, plain: Bytes) -> Result<Stored, RepositoryError> {
        let digest = digest.clone();
        self.blocking(move |room| room.put(sealed, &digest, &plain)).await
    }

    /// Whether a chunk is there, and its bytes on the disk. It is not swept from now on for as long as a new
    /// one. Does not look into it.
    ///
    /// # Errors
    /// `Key…`, `Io`.
    pub async fn has(&self, sealed: bool, digest: &Digest) -> Result<Option<u64>, RepositoryError> {
        let digest = digest.clone();
        self.blocking(move |room| match room.place(sealed, &digest, false)? {
            Some(place) => room.claim(&place.path),
            None => Ok(None),
        })
        .await
    }

    /// A chunk's plain bytes: those that were stored, or an error.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`, `Key…`, `Io`.
    pub async fn get(&self, sealed: bool, digest: &Digest) -> Result<Bytes, RepositoryError> {
        let digest = digest.clone();
        self.blocking(move |room| room.get(sealed, &digest)).await
    }

    /// Reads a chunk and compares. A damaged one is taken out of the way, so that the next one who has it
    /// stores it anew.
    ///
    /// # Errors
    /// As of [`Repository::get`].
    pub async fn verify(&self, sealed: bool, digest: &Digest) -> Result<(), RepositoryError> {
        let digest = digest.clone();
        self.blocking(move |room| room.verify(sealed, &digest)).await
    }

    pub(crate) async fn blocking<T, F>(&self, work: F) -> Result<T, RepositoryError>
    where
        T: Send + 'static,
        F: FnOnce(&Room) -> Result<T, RepositoryError> + Send + 'static,
    {
        let room = self.0.clone();
        match tokio::task::spawn_blocking(move || work(&room)).await {
            Ok(done) => done,
            Err(stopped) => Err(RepositoryError::io(self.root(), io::Error::other(stopped))),
        }
    }
}

impl Room {
    fn put(&self, sealed: bool, digest: &Digest, plain: &[u8]) -> Result<Stored, RepositoryError> {
        if plain.len() > BACKUP_INDEX_BYTES_MAX {
            return Err(RepositoryError::TooLarge(plain.len()));
        }
        let found = digest_of(plain);
        if found != *digest {
            return Err(RepositoryError::WrongDigest { expected: digest.clone(), found });
        }
        let Some(place) = self.place(sealed, digest, true)? else {
            return Err(RepositoryError::KeyMissing(self.key.path().to_owned()));
        };
        if let Some(stored_bytes) = self.claim(&place.path)? {
            return Ok(Stored { new: false, stored_bytes });
        }
        let packed = packing::pack(plain).map_err(|e| RepositoryError::io(&place.path, e))?;
        let body = match &place.seal {
            Some(seal) => seal.close(digest, &packed).ok_or(RepositoryError::TooLarge(packed.len()))?,
            None => packed,
        };
        self.keep(&place.path, &body).map_err(|e| RepositoryError::io(&place.path, e))
    }

    /// Bytes first, then the name, then the folder: after a power cut a name has its bytes.
    fn keep(&self, path: &Path, body: &[u8]) -> io::Result<Stored> {
        let dir = path.parent().unwrap_or(&self.root);
        disk::make_dir(dir)?;
        let shared = self.shared()?;
        let mut temp = Temp::make(&self.root.join("temp"))?;
        drop(shared);
        temp.fill(body)?;
        let shared = self.shared()?;
        let stored = match disk::touch(path)? {
            // Somebody else was quicker.
            Some(stored_bytes) => Stored { new: false, stored_bytes },
            None => {
                temp.name(path)?;
                Stored { new: true, stored_bytes: body.len() as u64 }
            }
        };
        drop(shared);
        disk::sync_dir(dir)?;
        Ok(stored)
    }

    /// Whether it is there, kept from being swept. Whoever named it may not have come to sync the folder yet.
    fn claim(&self, path: &Path) -> Result<Option<u64>, RepositoryError> {
        let claimed = || -> io::Result<Option<u64>> {
            let shared = self.shared()?;
            let found = disk::touch(path)?;
            drop(shared);
            if found.is_some() {
                disk::sync_dir(path.parent().unwrap_or(&self.root))?;
            }
            Ok(found)
        };
        claimed().map_err(|e| RepositoryError::io(path, e))
    }

    fn get(&self, sealed: bool, digest: &Digest) -> Result<Bytes, RepositoryError> {
        let missing = || RepositoryError::NotFound(digest.clone());
        let place = self.place(sealed, digest, false)?.ok_or_else(missing)?;
        let damaged = |why| RepositoryError::Damaged { digest: digest.clone(), path: place.path.clone(), why };
        let read = disk::read(&place.path, FILE_BYTES_MAX).map_err(|e| RepositoryError::io(&place.path, e))?;
        let body = match read.ok_or_else(missing)? {
            body if body.is_empty() => return Err(damaged("its file is empty")),
            body if body.len() > FILE_BYTES_MAX => return Err(damaged("its file is too long")),
            body => body,
        };
        let frame = match &place.seal {
            Some(seal) => seal.open(digest, &body).ok_or_else(|| damaged("its seal is broken"))?,
            None => body,
        };
        let plain = packing::unpack(&frame, BACKUP_INDEX_BYTES_MAX).ok_or_else(|| damaged("it cannot be unpacked"))?;
        if digest_of(&plain) != *digest {
            return Err(damaged("it holds other bytes"));
        }
        Ok(plain.into())
    }

    fn verify(&self, sealed: bool, digest: &Digest) -> Result<(), RepositoryError> {
        let found = self.get(sealed, digest).map(drop);
        if !matches!(found, Err(RepositoryError::Damaged { .. })) {
            return found;
        }
        // Once more while nobody else can put a good one there.
        let alone = self.alone().map_err(|e| RepositoryError::io(&self.root, e))?;
        let found = self.get(sealed, digest).map(drop);
        if let Err(RepositoryError::Damaged { path, .. }) = &found {
            let aside = self.root.join("damaged").join(path.file_name().unwrap_or_default());
            std::fs::rename(path, aside).map_err(|e| RepositoryError::io(path, e))?;
        }
        drop(alone);
        found
    }

    /// `None`: nothing was sealed here yet, and `first` does not make it so.
    fn place(&self, sealed: bool, digest: &Digest, first: bool) -> Result<Option<Place>, RepositoryError> {
        if !sealed {
            return Ok(Some(Place { path: self.path("plain", digest.as_str()), seal: None }));
        }
        let seal = self.seal(first)?;
        Ok(seal.map(|seal| Place { path: self.path("sealed", &seal.name(digest)), seal: Some(seal) }))
    }

    fn path(&self, tree: &str, name: &str) -> PathBuf {
        self.root.join(tree).join(name.get(..2).unwrap_or_default()).join(name)
    }

    /// The key that this repository is sealed with. With `first` one is taken, or made, if there was none.
    pub(crate) fn seal(&self, first: bool) -> Result<Option<Arc<Seal>>, RepositoryError> {
        if let Some(seal) = &*self.known_seal() {
            return Ok(Some(seal.clone()));
        }
        let failed = |e| RepositoryError::io(&self.root, e);
        let _alone = self.alone().map_err(failed)?;
        let mut description = Description::read(&self.root)?
            .ok_or_else(|| RepositoryError::NoRepository { path: self.root.clone(), why: gone() })?;
        let missing = || RepositoryError::KeyMissing(self.key.path().to_owned());
        let seal = match &description.key_check {
            None if !first => return Ok(None),
            None => {
                let seal = Seal::of(&self.key.load_or_make()?);
                description.key_check = Some(seal.check().to_owned());
                description.write(&self.root)?;
                seal
            }
            Some(check) => {
                let seal = Seal::of(&self.key.load()?.ok_or_else(missing)?);
                if seal.check() != check {
                    return Err(RepositoryError::KeyWrong(self.key.path().to_owned()));
                }
                seal
            }
        };
        Ok(Some(self.known_seal().insert(Arc::new(seal)).clone()))
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn key_file(&self) -> &Path {
        self.key.path()
    }

    pub(crate) fn alone(&self) -> io::Result<Held> {
        disk::hold_alone(&self.root.join("lock"))
    }

    fn shared(&self) -> io::Result<Held> {
        disk::hold_shared(&self.root.join("lock"))
    }

    fn known_seal(&self) -> MutexGuard<'_, Option<Arc<Seal>>> {
        self.seal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Description {
    /// `None`: this is no repository yet.
    fn read(root: &Path) -> Result<Option<Self>, RepositoryError> {
        let path = root.join(DESCRIPTION);
        let wrong = |why: String| RepositoryError::NoRepository { path: root.to_owned(), why };
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let has_chunks = ["plain", "sealed"].iter().any(|tree| root.join(tree).exists());
                return if has_chunks { Err(wrong(gone())) } else { Ok(None) };
            }
            Err(error) => return Err(RepositoryError::io(&path, error)),
        };
        // Another format may have other fields.
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|e| wrong(format!("{DESCRIPTION}: {e}")))?;
        let format = value["format"].as_u64().ok_or_else(|| wrong(format!("{DESCRIPTION} names no format")))?;
        if format != FORMAT {
            return Err(RepositoryError::OtherFormat { path: root.to_owned(), format });
        }
        serde_json::from_value(value).map(Some).map_err(|e| wrong(format!("{DESCRIPTION}: {e}")))
    }

    fn make(root: &Path, random: &impl Fn(&mut [u8])) -> Result<Self, RepositoryError> {
        let mut bytes = [0; 16];
        random(&mut bytes);
        let made = Self { format: FORMAT, id: uuid::Builder::from_random_bytes(bytes).into_uuid(), key_check: None };
        made.write(root)?;
        Ok(made)
    }

    fn write(&self, root: &Path) -> Result<(), RepositoryError> {
        let path = root.join(DESCRIPTION);
        let text = serde_json::to_vec(self).map_err(io::Error::other);
        text.and_then(|text| disk::replace(&path, &text)).map_err(|e| RepositoryError::io(&path, e))
    }
}

fn gone() -> String {
    format!("{DESCRIPTION} is missing")
}
