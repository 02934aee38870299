//! A sandbox's card: it takes the address that its host told its kernel, and asks nobody.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use crate::syscall;

const CARDS: &str = "/sys/class/net";
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
}

impl Card {
    /// From the words of the kernel's command line; `None` without an address.
    pub(crate) fn told(value: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let (address, network_bits) = value("perigee.address")?.split_once('/').and_then(|(address, bits)| {
            let bits = bits.parse().ok().filter(|bits| (1..=32).contains(bits))?;
            Some((address.parse().ok()?, bits))
        })?;
        let other = |name| value(name).and_then(|text| text.parse().ok());
        Some(Self { address, network_bits, gateway: other("perigee.gateway"), names: other("perigee.names") })
    }

    fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX << (32 - self.network_bits.clamp(1, 32)))
    }

    /// Gives the first card its address, sets it up and sends all else to the gateway.
    pub(crate) fn set_up(&self) -> io::Result<()> {
        let card = appear()?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        syscall::set_address(&socket, &card, self.address, self.mask())?;
        syscall::set_up(&socket, &card)?;
        if let Some(gateway) = self.gateway {
            syscall::set_default_route(&socket, gateway)?;
        }
        match self.names {
            Some(names) => std::fs::write("/etc/resolv.conf", format!("nameserver {names}\n")),
            None => Ok(()),
        }
    }
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
    }
}
