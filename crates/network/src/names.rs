//! Names of what this instance makes in the kernel: short enough for a device (15 bytes), made from ids
//! alone, found again by their prefix.
//!
//! ```text
//!   pg 1z141z4 br        the bridge        pg, the instance's 32 bits in base 36
//!   pg 1z141z4 k3f09a    a guest's TAP     and 31 bits of the guest's id
//!   perigee_0a1b2c3d     the tables
//! ```

use perigee_model::{GuestId, InstanceId};
use std::fmt;

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// 36⁷ is more than 2³², 15 − 2 − 7 are left for the guest.
const INSTANCE_DIGITS: usize = 7;
const GUEST_DIGITS: usize = 6;

/// A network device's name: 15 bytes at most, lower-case letters and digits. Only this crate makes them,
/// so one can be written into a ruleset as it is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct DeviceName(String);

impl DeviceName {
    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The names of one instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Names {
    prefix: String,
    table: String,
}

impl Names {
    /// Those of this instance.
    pub fn of(instance: &InstanceId) -> Self {
        let prefix = format!("pg{}", base36(u64::from(instance.bits()), INSTANCE_DIGITS));
        Self { prefix, table: format!("perigee_{instance}") }
    }

    /// What every device of the instance begins with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The bridge that its guests are on.
    pub fn bridge(&self) -> DeviceName {
        DeviceName(format!("{}br", self.prefix))
    }

    /// A guest's TAP. Two guests may be given the same name, once in a billion pairs;
    /// [`Plan::new`](crate::Plan::new) refuses the second.
    pub fn tap(&self, guest: GuestId) -> DeviceName {
        DeviceName(format!("{}{}", self.prefix, base36(guest.uuid().as_u128() as u64, GUEST_DIGITS)))
    }

    /// The tables, one in the family `bridge` and one in `inet`.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// A device that was found as one of this instance's TAPs.
    pub fn tap_found(&self, device: &str) -> Option<DeviceName> {
        let rest = device.strip_prefix(&self.prefix)?;
        let digits = rest.len() == GUEST_DIGITS && rest.bytes().all(|b| DIGITS.contains(&b));
        digits.then(|| DeviceName(device.to_owned()))
    }
}

/// The lowest `width` digits.
fn base36(mut number: u64, width: usize) -> String {
    let mut digits = vec![b'0'; width];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(number % 36) as usize];
        number /= 36;
    }
    digits.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn guest(bits: u128) -> GuestId {
        GuestId::new(Uuid::from_u128(bits))
    }

    #[test]
    fn names_fit_and_are_known_again() {
        let names = Names::of(&InstanceId::from_bits(u32::MAX));
        assert_eq!(names.bridge().as_str(), "pg1z141z3br");
        assert_eq!(names.table(), "perigee_ffffffff");
        for bits in [0, 1, u128::MAX, 0x0197_0000_0000_7000_8000_1234_5678_9abc] {
            let tap = names.tap(guest(bits));
            assert_eq!(tap.as_str().len(), 15, "{tap}");
            assert_eq!(names.tap_found(tap.as_str()), Some(tap));
        }
    }

    #[test]
    fn what_is_not_this_instances_is_not_known() {
        let names = Names::of(&InstanceId::from_bits(7));
        let other = Names::of(&InstanceId::from_bits(8)).tap(guest(1));
        let bridge = names.bridge();
        for foreign in [other.as_str(), bridge.as_str(), "eth0", "pg0000007", "pg0000007abc_ef", "pg0000007abcdefg"] {
            assert_eq!(names.tap_found(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn instances_and_guests_differ_by_name() {
        let names = |bits| Names::of(&InstanceId::from_bits(bits));
        assert_ne!(names(1).prefix(), names(1 << 31).prefix());
        assert_ne!(names(1).tap(guest(1)), names(1).tap(guest(2)));
    }
}
