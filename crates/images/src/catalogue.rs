//! The catalogue: images by name that others publish.
//!
//! Owns: the list that comes with the program, and a file that adds to it or replaces entries of it.
//! Refuses: a file that is not understood, as a whole: half a catalogue would hide what is wrong.

use perigee_model::limits::NAME_CHARS_MAX;
use perigee_model::{Checksum, DiskFormat, Import, ImportFrom};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

/// What comes with the program.
const OWN: &str = include_str!("catalogue.toml");
/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 256 << 10;
/// Most entries.
const ENTRIES_MAX: usize = 1000;

/// One image that others publish.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// For people.
    #[serde(default)]
    pub title: String,
    /// Where its disk is.
    pub url: String,
    /// What its bytes come to, where that does not change.
    #[serde(default)]
    pub checksum: Option<Checksum>,
    /// Where a list has their checksum.
    #[serde(default)]
    pub checksums: Option<String>,
    /// What it is.
    pub format: DiskFormat,
    /// `x86_64` or `aarch64`.
    pub arch: String,
}

impl Entry {
    /// The import that brings it here.
    pub fn import(&self) -> Import {
        Import {
            from: ImportFrom::Url(self.url.clone()),
            checksum: self.checksum.clone(),
            checksums_at: self.checksums.clone(),
            format: Some(self.format),
            arch: self.arch.clone(),
        }
    }
}

/// Why there is no catalogue.
#[derive(thiserror::Error, Debug)]
pub enum CatalogueError {
    /// It is not what a catalogue looks like.
    #[error("{place}: {fault}")]
    Fault {
        /// Which file.
        place: String,
        /// What is wrong, on one line.
        fault: String,
    },
    /// It cannot be read.
    #[error("{place} cannot be read: {source}")]
    Io {
        /// Which file.
        place: String,
        /// Why.
        source: io::Error,
    },
}

/// Names with their entries. A name has letters, digits, `-` and `.`: it is not an image's yet.
pub type Catalogue = BTreeMap<String, Entry>;

/// Our own, with what the file says over it, if there is one.
///
/// # Errors
/// `Fault`, `Io`.
pub fn read(file: &Path) -> Result<Catalogue, CatalogueError> {
    let mut catalogue = parse(OWN, "the program's own catalogue")?;
    let place = || file.display().to_string();
    let mut text = String::new();
    match std::fs::File::open(file).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(catalogue),
        Err(source) => return Err(CatalogueError::Io { place: place(), source }),
        Ok(read) if read as u64 > FILE_BYTES_MAX => {
            return Err(CatalogueError::Fault { place: place(), fault: "it has more than 256 KiB".to_owned() });
        }
        Ok(_) => {}
    }
    catalogue.extend(parse(&text, &place())?);
    Ok(catalogue)
}

fn parse(text: &str, place: &str) -> Result<Catalogue, CatalogueError> {
    let fault = |fault: String| CatalogueError::Fault { place: place.to_owned(), fault };
    let entries: BTreeMap<String, Entry> = toml::from_str(text).map_err(|error| fault(error.message().to_owned()))?;
    if entries.len() > ENTRIES_MAX {
        return Err(fault(format!("it has more than {ENTRIES_MAX} entries")));
    }
    let checked = entries.into_iter().map(|(name, entry)| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
        if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.bytes().all(fits) {
            return Err(fault(format!("{name}: a name has letters, digits, - and .")));
        }
        if !matches!(entry.arch.as_str(), "x86_64" | "aarch64") {
            return Err(fault(format!("{name}: its arch is x86_64 or aarch64")));
        }
        match crate::import::fault(&entry.import()) {
            Some(wrong) => Err(fault(format!("{name}: {wrong}"))),
            None => Ok((name, entry)),
        }
    });
    checked.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("catalogue.toml");
        std::fs::write(&file, text).unwrap();
        match read(&file) {
            Ok(catalogue) => catalogue.iter().map(|(name, entry)| format!("{name} {}\n", entry.format)).collect(),
            Err(error) => error.to_string().replace(&file.display().to_string(), "FILE"),
        }
    }

    #[test]
    fn our_own_is_understood_and_each_entry_can_be_checked() {
        let own = read(Path::new("/does/not/exist")).unwrap();
        let names: Vec<_> = own.keys().map(String::as_str).collect();
        assert_eq!(names, ["debian-12", "debian-13", "ubuntu-22.04"]);
        for (name, entry) in own {
            assert!(entry.checksum.is_some() || entry.checksums.is_some(), "{name}");
            assert!(entry.url.starts_with("https://"), "{name}");
        }
    }

    #[test]
    fn a_file_adds_and_replaces() {
        let file = "[debian-12]\nurl = \"https://mirror.example/d.raw\"\nformat = \"raw\"\narch = \"x86_64\"\n\
                    [own]\nurl = \"https://example.org/o.iso\"\nformat = \"iso\"\narch = \"aarch64\"\n";
        assert_eq!(told(file), "debian-12 raw\ndebian-13 qcow2\nown iso\nubuntu-22.04 qcow2\n");
        assert_eq!(told(""), "debian-12 qcow2\ndebian-13 qcow2\nubuntu-22.04 qcow2\n");
    }

    #[test]
    fn a_file_with_a_fault_is_refused_whole() {
        let entry = |line: &str| format!("[a]\nformat = \"raw\"\narch = \"x86_64\"\n{line}");
        for (text, words) in [
            ("[a", "FILE: "),
            (entry("").as_str(), "missing field `url`"),
            (entry("url = \"https://x/\"\nuser = 1").as_str(), "unknown field `user`"),
            (entry("url = \"file:///etc/shadow\"").as_str(), "a: an address begins with https:// or http://"),
            (entry("url = \"http://x/\"").as_str(), "a: an address of plain http needs a checksum"),
            (entry("url = \"https://x/\"\nchecksum = \"md5:00\"").as_str(), "a checksum is sha256:"),
            ("[\"a b\"]\nurl=\"https://x/\"\nformat=\"raw\"\narch=\"x86_64\"", "a b: "),
            ("[a]\nurl=\"https://x/\"\nformat=\"vmdk\"\narch=\"x86_64\"", "unknown variant `vmdk`"),
            ("[a]\nurl=\"https://x/\"\nformat=\"raw\"\narch=\"mips\"", "its arch is"),
            (&"#".repeat(300 << 10), "more than 256 KiB"),
        ] {
            let told = told(text);
            assert!(told.contains(words), "{told:?} does not say {words:?}");
        }
    }
}
