//! What goes wrong on a simulated host, and how often.
//!
//! Owns: a share in percent for each thing that can fail. All are zero at first; a share of zero
//! draws no random number, so turning one knob does not change what the others do.

use perigee_clock::Clock;
use std::sync::atomic::{AtomicU32, Ordering};

/// One thing that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `start` ends with `DidNotStart`.
    StartFails,
    /// The VMM runs, the guest never says hello; not under `Pace::Steady`.
    BootSilent,
    /// `destroy` ends with `Os`; the guest is still there.
    DestroyFails,
    /// `inventory` ends with `Os`.
    InventoryFails,
    /// A session breaks when it is used: at an exec, or at the next event of one.
    SessionBreaks,
    /// Keeping a guest, going back, or forgetting ends with `Os`; nothing was done.
    SnapshotFails,
    /// Opening a guest's disk for a backup ends with `Os`; nothing was done.
    BackupFails,
    /// Making, removing or plugging a volume ends with `Os`; nothing was done.
    VolumeFails,
}

const FAULTS: usize = 8;

/// The shares. Shared by everyone who turns them.
#[derive(Debug, Default)]
pub struct Knobs([AtomicU32; FAULTS]);

impl Knobs {
    /// Lets `fault` happen in so many of a hundred cases.
    pub fn set(&self, fault: Fault, percent: u32) {
        self.0[fault as usize].store(percent.min(100), Ordering::Relaxed);
    }

    /// Nothing fails from now on.
    pub fn calm(&self) {
        for knob in &self.0 {
            knob.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn strikes(&self, fault: Fault, clock: &Clock) -> bool {
        let percent = self.0[fault as usize].load(Ordering::Relaxed);
        percent > 0 && u32::from_le_bytes(clock.random()) % 100 < percent
    }
}
