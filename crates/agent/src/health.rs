//! How the agent is.
//!
//! Owns: one line for each part that can be ill, and whether the agent is ready. Refuses: serving
//! it ([`crate::web`] does) and any word that is secret.

use crate::journal::JournalError;
use perigee_model::GuestId;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The state of one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartHealth {
    /// It does its work.
    pub ready: bool,
    /// For people.
    pub text: String,
}

/// How the agent is; shared between the agent and whoever shows it.
#[derive(Default, Debug)]
pub struct Health {
    parts: Mutex<BTreeMap<&'static str, PartHealth>>,
    unknown: Mutex<BTreeSet<GuestId>>,
    heartbeat: Mutex<Option<bool>>,
    /// How often the network of guests was not as planned, and was made so again.
    mended: AtomicU64,
}

impl Health {
    /// Sets a part's state.
    pub fn set(&self, part: &'static str, ready: bool, text: impl Into<String>) {
        let text = text.into();
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if parts.get(part).is_none_or(|p| p.ready != ready || p.text != text) {
            parts.insert(part, PartHealth { ready, text });
        }
    }
    /// Every part's state.
    pub fn parts(&self) -> BTreeMap<&'static str, PartHealth> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Every part does its work, and at least the link has said so.
    pub fn is_ready(&self) -> bool {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.contains_key("link") && parts.values().all(|p| p.ready)
    }
    /// Guests of this instance that live here without a document; left alone.
    pub fn unknown_guests(&self) -> BTreeSet<GuestId> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the newest heartbeat left for the control plane; `None` before the first attempt.
    pub fn heartbeat(&self) -> Option<bool> {
        *self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often somebody else had changed the network of guests, and it was made good.
    pub fn mended(&self) -> u64 {
        self.mended.load(Ordering::Relaxed)
    }

    pub(crate) fn mend(&self) {
        self.mended.fetch_add(1, Ordering::Relaxed);
    }
    pub(crate) fn set_heartbeat(&self, success: bool) {
        *self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner) = Some(success);
    }
    pub(crate) fn add_unknown_guests(&self, guests: BTreeSet<GuestId>) {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner).extend(guests);
    }
    pub(crate) fn take_unknown_guest(&self, guest: GuestId) -> bool {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner).remove(&guest)
    }
    pub(crate) fn journal(&self, error: Option<&JournalError>) {
        match error {
            None => self.set("journal", true, "written"),
            Some(e) => self.set("journal", false, e.to_string()),
        }
    }
}
