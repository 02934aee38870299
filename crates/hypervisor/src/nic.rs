//! A guest's card on a TAP.
//!
//! Owns: what a driver is told of it, and the words by which its guest's kernel or cloud-init hands that on.
//! Refuses: making networks; the TAP is there before the guest, and stays when it ends.

use crate::HypervisorError;
use perigee_model::Mac;
use std::net::{Ipv4Addr, Ipv6Addr};

/// One card, on a TAP that somebody made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// The device; whoever runs the VMM may open it.
    pub tap: String,
    /// The card's hardware address.
    pub mac: Mac,
    /// The guest's address: it takes it without asking anybody.
    pub address: Ipv4Addr,
    /// How many bits of it are the network's, 1 to 32.
    pub network_bits: u8,
    /// Where everything goes that is not for that network.
    pub gateway: Ipv4Addr,
    /// Who answers names; `None`: nobody does.
    pub names: Option<Ipv4Addr>,
    /// What it has of IPv6; `None`: nothing.
    pub six: Option<Nic6>,
}

/// What a card has of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nic6 {
    /// The guest's address.
    pub address: Ipv6Addr,
    /// How many bits of it are the network's, 1 to 128.
    pub network_bits: u8,
    /// Where everything goes that is not for that network.
    pub gateway: Ipv6Addr,
}

impl Nic {
    /// Refuses a name that is no device's, and a network without a size.
    pub(crate) fn check(&self) -> Result<(), HypervisorError> {
        let plain = (1..=15).contains(&self.tap.len()) && self.tap.bytes().all(|b| b.is_ascii_alphanumeric());
        let six = self.six.is_none_or(|six| (1..=128).contains(&six.network_bits));
        if plain && six && (1..=32).contains(&self.network_bits) {
            return Ok(());
        }
        Err(HypervisorError::BadPlan(format!("no card can be on `{}` with /{}", self.tap, self.network_bits)))
    }

    /// What cloud-init is told of it (network configuration, version 2).
    pub(crate) fn cloud_config(&self) -> serde_json::Value {
        let Self { mac, address, network_bits, gateway, .. } = self;
        let mut card = serde_json::json!({
            "match": { "macaddress": mac.to_string() },
            "dhcp4": false,
            "dhcp6": false,
            "addresses": [format!("{address}/{network_bits}")],
            "routes": [{ "to": "0.0.0.0/0", "via": gateway.to_string() }],
        });
        if let Some(names) = self.names {
            card["nameservers"] = serde_json::json!({ "addresses": [names.to_string()] });
        }
        card
    }

    /// What perigee-guest reads from its kernel's command line.
    pub(crate) fn kernel_options(&self) -> String {
        let names = self.names.map(|names| format!(" perigee.names={names}")).unwrap_or_default();
        let of6 = |six: &Nic6| {
            let Nic6 { address, network_bits, gateway } = six;
            format!(" perigee.address6={address}/{network_bits} perigee.gateway6={gateway}")
        };
        let six = self.six.as_ref().map(of6).unwrap_or_default();
        let Self { address, network_bits, gateway, .. } = self;
        format!("perigee.address={address}/{network_bits} perigee.gateway={gateway}{names}{six}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(tap: &str, network_bits: u8, names: Option<Ipv4Addr>) -> Nic {
        let (address, gateway) = (Ipv4Addr::new(172, 16, 0, 2), Ipv4Addr::new(172, 16, 0, 1));
        Nic { tap: tap.to_owned(), mac: Mac::from_bits(2), address, network_bits, gateway, names, six: None }
    }

    #[test]
    fn only_a_device_and_a_network_make_a_card() {
        assert!(nic("pg02sy3wd000002", 24, None).check().is_ok());
        for bad in ["", "tap,fd=3", "../tap", "a b", "pg02sy3wd0000022"] {
            assert!(nic(bad, 24, None).check().is_err(), "{bad}");
        }
        assert!(nic("tap0", 0, None).check().is_err() && nic("tap0", 33, None).check().is_err());
    }

    #[test]
    fn the_guest_is_told_what_it_has() {
        let card = "perigee.address=172.16.0.2/24 perigee.gateway=172.16.0.1";
        assert_eq!(nic("tap0", 24, None).kernel_options(), card);
        let names = nic("tap0", 24, Some(Ipv4Addr::new(172, 16, 0, 1))).kernel_options();
        assert_eq!(names, format!("{card} perigee.names=172.16.0.1"));
        let [address, gateway] = ["fd70::ac10:2", "fd70::ac10:1"].map(|text| text.parse().unwrap());
        let six = Nic { six: Some(Nic6 { address, network_bits: 64, gateway }), ..nic("tap0", 24, None) };
        let expected = format!("{card} perigee.address6=fd70::ac10:2/64 perigee.gateway6=fd70::ac10:1");
        assert_eq!(six.kernel_options(), expected);
    }
}
