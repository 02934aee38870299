//! Whether this host's processor runs guests itself.
//!
//! Refuses: `/dev/kvm` alone as a proof: it opens on machines whose processor has no virtualisation,
//! and a guest hangs there.

use std::fs::File;

/// Where the kernel tells what the processor can do (proc(5)).
pub const CPU_FLAGS: &str = "/proc/cpuinfo";

/// From the text of [`CPU_FLAGS`], and whether KVM may be used.
pub fn virtualisation(text: &str) -> bool {
    let kvm = || File::options().read(true).write(true).open("/dev/kvm").is_ok();
    (has_flag(text, "vmx") || has_flag(text, "svm")) && kvm()
}

/// Whether the processor has this flag.
pub fn has_flag(text: &str, wanted: &str) -> bool {
    let flags = text.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| line.split_ascii_whitespace().any(|flag| flag == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_words() {
        let text = "processor : 0\nflags\t\t: fpu vmxnet constant_tsc\n";
        assert!(!has_flag(text, "vmx") && has_flag(text, "constant_tsc") && !has_flag("", "vmx"));
    }
}
