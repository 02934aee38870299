//! What a guest takes from a host.

use crate::limits::{GUEST_CPUS_MAX, GUEST_MEMORY_BYTES_MAX, GUEST_MEMORY_BYTES_MIN};
use serde::{Deserialize, Serialize};

/// Virtual CPUs and memory. CPUs are shared, memory is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Virtual CPUs, 1 to 256.
    pub cpus: u32,
    /// Guest memory in bytes, a multiple of 1 MiB.
    pub memory_bytes: u64,
}

impl Resources {
    /// Says what is wrong with the request itself, if anything is: (JSON field, text).
    pub fn fault(&self) -> Option<(&'static str, String)> {
        if self.cpus == 0 || self.cpus > GUEST_CPUS_MAX {
            return Some(("cpus", format!("cpus is 1 to {GUEST_CPUS_MAX}, not {}", self.cpus)));
        }
        let fits = (GUEST_MEMORY_BYTES_MIN..=GUEST_MEMORY_BYTES_MAX).contains(&self.memory_bytes);
        if !fits || !self.memory_bytes.is_multiple_of(1 << 20) {
            return Some((
                "memory_bytes",
                format!(
                    "memory_bytes is a multiple of 1 MiB between {GUEST_MEMORY_BYTES_MIN} and {GUEST_MEMORY_BYTES_MAX}, not {}",
                    self.memory_bytes
                ),
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_sizes_are_refused() {
        let fault = |cpus, memory_bytes| Resources { cpus, memory_bytes }.fault().map(|f| f.0);
        assert_eq!(fault(1, 256 << 20), None);
        assert_eq!(fault(0, 256 << 20), Some("cpus"));
        assert_eq!(fault(10_000, 256 << 20), Some("cpus"));
        assert_eq!(fault(1, 0), Some("memory_bytes"));
        assert_eq!(fault(1, (256 << 20) + 1), Some("memory_bytes"));
        assert_eq!(fault(1, u64::MAX), Some("memory_bytes"));
    }
}
