//! A sandbox's card: it takes the address that its host told its kernel, and asks nobody.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use crate::syscall;

const CARDS: &str = "/sys/class/net";
/// The kernel's switches of IPv6; not there in one without.
const SWITCHES: &str = "/proc/sys/net/ipv6/conf";
/// For the card to appear after its module.
const APPEARS_WITHIN: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(2);

/// What the card is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Card {
    /// The guest's address.
    pub address: Ipv4Addr,
    /// How many bits of it are the network's.
    pub network_bits: u8,
    /// Where all else goes.
    pub gateway: Option<Ipv4Addr>,
    /// Who answers names.
    pub names: Option<Ipv4Addr>,
    /// What it is given of IPv6; `None`: it speaks none.
    pub six: Option<Six>,
}

/// What a card is given of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Six {
    /// The guest's address.
    pub address: Ipv6Addr,
    /// How many bits of it are the network's.
    pub network_bits: u8,
    /// Where all else goes.
    pub gateway: Option<Ipv6Addr>,
}

impl Card {
    /// From the words of the kernel's command line; `None` without an address.
    pub(crate) fn told(value: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let (address, network_bits) = in_network(&value("perigee.address")?, 32)?;
        let other = |name| value(name).and_then(|text| text.parse().ok());
        let six = value("perigee.address6").and_then(|text| in_network(&text, 128)).map(|(address, network_bits)| {
            let gateway = value("perigee.gateway6").and_then(|text| text.parse().ok());
            Six { address, network_bits, gateway }
        });
        Some(Self { address, network_bits, gateway: other("perigee.gateway"), names: other("perigee.names"), six })
    }

    fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX << (32 - self.network_bits.clamp(1, 32)))
    }

    /// Gives the first card its address, sets it up and sends all else to the gateway.
    pub(crate) fn set_up(&self) -> io::Result<()> {
        let card = appear()?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        syscall::set_address(&socket, &card, self.address, self.mask())?;
        speak6(&card, self.six.is_some())?;
        syscall::set_up(&socket, &card)?;
        if let Some(six) = &self.six {
            let socket = UdpSocket::bind("[::]:0")?;
            syscall::set_address6(&socket, &card, six.address, six.network_bits)?;
            if let Some(gateway) = six.gateway {
                syscall::set_default_route6(&socket, &card, gateway)?;
            }
        }
        if let Some(gateway) = self.gateway {
            syscall::set_default_route(&socket, gateway)?;
        }
        match self.names {
            Some(names) => std::fs::write("/etc/resolv.conf", format!("nameserver {names}\n")),
            None => Ok(()),
        }
    }
}

/// An address with the size of its network, as `address/bits`.
fn in_network<A: std::str::FromStr>(text: &str, most: u8) -> Option<(A, u8)> {
    let (address, bits) = text.split_once('/')?;
    let bits = bits.parse().ok().filter(|bits| (1..=most).contains(bits))?;
    Some((address.parse().ok()?, bits))
}

/// The card has the IPv6 address that it is given, at once, and none of its own making; or none at all. Nobody on its
/// network says where routers are.
fn speak6(card: &str, speaks: bool) -> io::Result<()> {
    let conf = format!("{SWITCHES}/{card}");
    if !std::path::Path::new(&conf).exists() {
        return if speaks {
            Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel has no IPv6"))
        } else {
            Ok(())
        };
    }
    let switches: &[(&str, &str)] = match speaks {
        true => &[("accept_ra", "0"), ("autoconf", "0"), ("accept_dad", "0"), ("addr_gen_mode", "1")],
        false => &[("disable_ipv6", "1")],
    };
    switches.iter().try_for_each(|(name, value)| std::fs::write(format!("{conf}/{name}"), value))
}

fn appear() -> io::Result<String> {
    let until = Instant::now() + APPEARS_WITHIN;
    loop {
        let names = std::fs::read_dir(CARDS)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        match names.filter(|name| name != "lo").min() {
            Some(name) => return Ok(name),
            None if Instant::now() >= until => return Err(io::Error::new(io::ErrorKind::NotFound, "there is no card")),
            None => std::thread::sleep(POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::boot::CommandLine;

    #[test]
    fn a_card_is_what_the_command_line_says() {
        let card = |text: &str| CommandLine::parse(text).card;
        assert_eq!(card("quiet perigee.gateway=172.16.0.1"), None);
        for bad in ["perigee.address=172.16.0.2", "perigee.address=172.16.0.2/0", "perigee.address=x/24"] {
            assert_eq!(card(bad), None, "{bad}");
        }
        let whole = card("perigee.address=172.16.0.2/20 perigee.gateway=172.16.0.1 perigee.names=172.16.0.1").unwrap();
        assert_eq!(whole.mask().to_string(), "255.255.240.0");
        assert_eq!(
            (whole.address.octets(), whole.gateway, whole.names),
            ([172, 16, 0, 2], Some([172, 16, 0, 1].into()), Some([172, 16, 0, 1].into()))
        );
        assert_eq!(card("perigee.address=172.16.0.2/24 perigee.names=evil").unwrap().names, None);
        assert_eq!(whole.six, None);
        let six = |text: &str| card(&format!("perigee.address=172.16.0.2/24 {text}")).unwrap().six;
        for bad in ["", "perigee.address6=fd70::2", "perigee.address6=fd70::2/129", "perigee.address6=172.16.0.2/24"] {
            assert_eq!(six(bad), None, "{bad}");
        }
        let found = six("perigee.address6=fd70::ac10:2/64 perigee.gateway6=fd70::ac10:1").unwrap();
        assert_eq!(
            (found.address.to_string().as_str(), found.network_bits, found.gateway.unwrap().to_string().as_str()),
            ("fd70::ac10:2", 64, "fd70::ac10:1")
        );
    }
}
