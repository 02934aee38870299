//! What a guest may reach.

mod address;
mod domain;

pub use address::{Block, BlockError, Family, NEVER, NEVER6, PRIVATE, PRIVATE6, is_public};
pub use domain::{Domain, DomainError};

use crate::{GuestId, Refusal};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Most places of one list.
pub const OPENINGS_MAX: usize = 256;
/// Most ranges of ports of one place.
pub const PORTS_MAX: usize = 32;

/// What a guest may reach of the world outside its host, by one family of addresses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", bound = "A: Family")]
pub enum Egress<A = Ipv4Addr> {
    /// Nothing; no name is answered either.
    None,
    /// These places alone, and names only if they are listed.
    List(Vec<Opening<A>>),
    /// The public internet: all but [`Family::PRIVATE`] and [`Family::NEVER`].
    All,
}

/// What a guest may reach by IPv6.
pub type Egress6 = Egress<Ipv6Addr>;

/// All that a guest with a card may reach.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reach {
    /// By IPv4.
    pub egress: Egress,
    /// By IPv6; `None`: it has none, not even an address.
    pub egress6: Option<Egress6>,
}

/// One place that is open.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String", bound = "A: Family")]
pub struct Opening<A = Ipv4Addr> {
    /// Where.
    pub place: Place<A>,
    /// At which of its ports; empty: at all, and by any protocol. Sorted, and no two touch.
    pub ports: Vec<Ports>,
}

/// Where an opening leads.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place<A = Ipv4Addr> {
    /// To addresses. A private network is open only to a block that lies inside it.
    Block(Block<A>),
    /// To what this name means at the time it is asked for, as long as that lasts.
    Domain(Domain),
}

/// A protocol with ports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A range of ports of one protocol; 1 to 65535.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Ports {
    /// The protocol.
    pub protocol: Protocol,
    first: u16,
    last: u16,
}

/// What is wrong with an opening.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpeningError {
    /// Neither a block nor a name.
    #[error("`{0}` is neither addresses ({1}) nor a name (example.com, *.example.com)")]
    Place(String, &'static str),
    /// No ports.
    #[error("`{0}` are no ports: write 443, 8000-8100 or udp/53, with commas between them, 32 at most")]
    Ports(String),
    /// Closed to every policy.
    #[error("{0} lies in {1}, which no policy opens")]
    Never(String, String),
    /// A private network with something in it that is closed to every policy.
    #[error("{0} holds {1}, which no policy opens: list what you need beside it")]
    Holds(String, String),
}

impl Protocol {
    /// `tcp` or `udp`.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "tcp" => Some(Self::Tcp),
            "udp" => Some(Self::Udp),
            _ => None,
        }
    }
}

impl Ports {
    /// From the first to the last, both included; `None` if there are none, or 0 is one.
    pub fn new(protocol: Protocol, range: RangeInclusive<u16>) -> Option<Self> {
        let (first, last) = range.into_inner();
        (1 <= first && first <= last).then_some(Self { protocol, first, last })
    }

    /// Whether this port is one of them.
    pub fn hold(self, protocol: Protocol, port: u16) -> bool {
        self.protocol == protocol && (self.first..=self.last).contains(&port)
    }
}

impl<A: Family> Opening<A> {
    /// To a place; refuses a block inside of [`Family::NEVER`], a private one around a part of it, and too many ports.
    pub fn new(place: Place<A>, mut ports: Vec<Ports>) -> Result<Self, OpeningError> {
        if let Place::Block(block) = place
            && let Some(never) = A::NEVER.iter().find(|never| never.overlaps(block))
        {
            if never.covers(block) {
                return Err(OpeningError::Never(block.to_string(), never.to_string()));
            }
            if is_private(block) {
                return Err(OpeningError::Holds(block.to_string(), never.to_string()));
            }
        }
        join(&mut ports);
        if ports.len() > PORTS_MAX {
            return Err(OpeningError::Ports(format!("{} ranges", ports.len())));
        }
        Ok(Self { place, ports })
    }

    /// It leads into a private network on purpose.
    pub fn is_private(&self) -> bool {
        matches!(self.place, Place::Block(block) if is_private(block))
    }
}

fn is_private<A: Family>(block: Block<A>) -> bool {
    A::PRIVATE.iter().any(|private| private.covers(block))
}

/// Sorts them, and makes one range of those that touch.
pub fn join(ports: &mut Vec<Ports>) {
    ports.sort_unstable();
    ports.dedup_by(|next, kept| {
        let touch = next.protocol == kept.protocol && next.first <= kept.last.saturating_add(1);
        if touch {
            kept.last = kept.last.max(next.last);
        }
        touch
    });
}

impl<A: Family> FromStr for Opening<A> {
    type Err = OpeningError;
    /// `PLACE` or `PLACE:PORTS`: `example.com`, `*.example.com:443`, `1.1.1.1:udp/53,853`, `10.1.0.0/16:5432`,
    /// `2001:db8::/32:443`, `[2606:4700::1111]:443`.
    fn from_str(text: &str) -> Result<Self, OpeningError> {
        let (place, ports) = A::apart(text);
        let block = place.parse().map(Place::Block);
        let place = block.or_else(|_| place.parse().map(Place::Domain));
        let place = place.map_err(|_| OpeningError::Place(text.to_owned(), A::SAMPLE))?;
        let read = |ports: &str| read_ports(ports).ok_or_else(|| OpeningError::Ports(ports.to_owned()));
        Self::new(place, ports.map(read).transpose()?.unwrap_or_default())
    }
}

fn read_ports(text: &str) -> Option<Vec<Ports>> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    let one = |text: &str| {
        let (protocol, range) = match text.split_once('/') {
            Some((word, range)) => (Protocol::parse(word)?, range),
            None => (Protocol::Tcp, text),
        };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Ports::new(protocol, number(first)?..=number(last)?)
    };
    text.split(',').map(one).collect()
}

impl<A: Family> fmt::Display for Opening<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Block(block) => block.fmt(f)?,
            Place::Domain(domain) => domain.fmt(f)?,
        }
        for (index, ports) in self.ports.iter().enumerate() {
            write!(f, "{}{}/{ports}", if index == 0 { ":" } else { "," }, ports.protocol)?;
        }
        Ok(())
    }
}
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}
/// The numbers alone, as a ruleset has them.
impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl<A: Family> TryFrom<String> for Opening<A> {
    type Error = OpeningError;
    fn try_from(text: String) -> Result<Self, OpeningError> {
        text.parse()
    }
}
impl<A: Family> From<Opening<A>> for String {
    fn from(opening: Opening<A>) -> Self {
        opening.to_string()
    }
}

impl<A: Family> Egress<A> {
    /// As a user writes it: `none`, `all`, or places.
    ///
    /// # Errors
    /// `BadField` of `egress` or `egress6`, with what is wrong.
    pub fn parse(words: &[String]) -> Result<Self, Refusal> {
        match words {
            [] => return Err(Refusal::field(A::FIELD, "say none, all, or which places")),
            [one] if one == "none" => return Ok(Self::None),
            [one] if one == "all" => return Ok(Self::All),
            _ => {}
        }
        if words.iter().any(|word| word == "none" || word == "all") {
            return Err(Refusal::field(A::FIELD, "none and all stand alone"));
        }
        if words.len() > OPENINGS_MAX {
            return Err(Refusal::field(A::FIELD, format!("{OPENINGS_MAX} places at most, not {}", words.len())));
        }
        let read =
            |word: &String| word.parse().map_err(|fault: OpeningError| Refusal::field(A::FIELD, fault.to_string()));
        words.iter().map(read).collect::<Result<_, _>>().map(Self::List)
    }

    /// As a user writes it.
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::None => vec!["none".to_owned()],
            Self::All => vec!["all".to_owned()],
            Self::List(openings) => openings.iter().map(Opening::to_string).collect(),
        }
    }

    /// Whether names are answered to such a guest at all.
    pub fn asks_names(&self) -> bool {
        match self {
            Self::None => false,
            Self::List(openings) => openings.iter().any(|opening| matches!(opening.place, Place::Domain(_))),
            Self::All => true,
        }
    }

    /// The openings that lead to names, each once.
    pub fn listed_names(&self) -> Vec<ListedName<'_>> {
        let Self::List(openings) = self else { return Vec::new() };
        let mut names: Vec<ListedName<'_>> = Vec::new();
        for opening in openings {
            let Place::Domain(domain) = &opening.place else { continue };
            let name = ListedName { ports: &opening.ports, domain };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

/// A name that is open at some ports: a set in the kernel. Each has its own, so that a policy that lists it, too,
/// keeps what it was answered for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListedName<'a> {
    /// At these; empty: at all.
    pub ports: &'a [Ports],
    /// The name.
    pub domain: &'a Domain,
}

impl ListedName<'_> {
    /// A number of what it says, to whom (FNV-1a): what was answered for it stays open as long as that stays.
    pub fn number(&self, guest: GuestId) -> u32 {
        let ports = self.ports.iter().map(|ports| format!("{}/{ports} ", ports.protocol));
        let text: String = ports.chain([format!("{} ", self.domain)]).collect();
        let bytes = guest.uuid().into_bytes().into_iter().chain(text.bytes());
        bytes.fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    }
}

impl Reach {
    /// Whether names are answered to such a guest at all.
    pub fn asks_names(&self) -> bool {
        self.egress.asks_names() || self.egress6.as_ref().is_some_and(Egress::asks_names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let said = text.parse::<Opening>().map_or_else(|fault| fault.to_string(), |opening| opening.to_string());
        assert_eq!(said, expected);
    }

    #[track_caller]
    fn check6(text: &str, expected: &str) {
        let read = |text: &str| text.parse::<Opening<Ipv6Addr>>();
        let said = read(text).map_or_else(|fault| fault.to_string(), |opening| opening.to_string());
        assert_eq!(said, expected);
        assert!(read(text).is_err() || read(&said) == read(text), "{said} is read as it was written");
    }

    #[test]
    fn openings_are_read_and_written() {
        check("example.com", "example.com");
        check("*.Example.com:443", "*.example.com:tcp/443");
        check("1.1.1.1:udp/53,853,853", "1.1.1.1/32:tcp/853,udp/53");
        check("10.1.0.0/16:8000-8100,5432", "10.1.0.0/16:tcp/5432,tcp/8000-8100");
        check("a.com:5-9,1-6,10,12,udp/13,65535", "a.com:tcp/1-10,tcp/12,tcp/65535,udp/13");
        check("0.0.0.0/0", "0.0.0.0/0");
    }

    #[test]
    fn openings_of_ipv6_are_read_and_written() {
        check6("*.Example.com:443,udp/443", "*.example.com:tcp/443,udp/443");
        check6("2606:4700::/32:443", "2606:4700::/32:tcp/443");
        check6("[2606:4700::1111]:udp/53,853", "2606:4700::1111/128:tcp/853,udp/53");
        check6("[2606:4700::/32]:443", "2606:4700::/32:tcp/443");
        check6("2606:4700::1111", "2606:4700::1111/128");
        check6("fd12:3456:789a::/48:5432", "fd12:3456:789a::/48:tcp/5432");
        check6("::/0", "::/0");
        check6("fe80::1", "fe80::1/128 lies in fe00::/7, which no policy opens");
        check6("[fd00:ec2::254]:80", "fd00:ec2::254/128 lies in fd00:ec2::/48, which no policy opens");
        check6("fd00::/8", "fd00::/8 holds fd00:c1::/48, which no policy opens: list what you need beside it");
        check6("::ffff:10.0.0.1", "::ffff:10.0.0.1/128 lies in ::/3, which no policy opens");
        let place = "is neither addresses (2001:db8::/32) nor a name (example.com, *.example.com)";
        for bad in ["1.1.1.1", "10.0.0.0/8:443", "2606:4700::1/32", "[2606:4700::1", "[::1]443", "2606:4700::/32;drop"]
        {
            check6(bad, &format!("`{bad}` {place}"));
        }
        let ports = "are no ports: write 443, 8000-8100 or udp/53, with commas between them, 32 at most";
        check6("2606:4700::/32:x", &format!("`x` {ports}"));
        let place = "is neither addresses (192.0.2.0/24) nor a name (example.com, *.example.com)";
        check("2606:4700::/32:443", &format!("`2606:4700::/32:443` {place}"));
    }

    #[test]
    fn what_is_no_opening_is_refused() {
        let ports = "are no ports: write 443, 8000-8100 or udp/53, with commas between them, 32 at most";
        for bad in ["", "0", "70000", "2-1", "+1", "sctp/1", "1,,2", "1-2-3", "443 accept"] {
            check(&format!("a.com:{bad}"), &format!("`{bad}` {ports}"));
        }
        let place = "is neither addresses (192.0.2.0/24) nor a name (example.com, *.example.com)";
        for bad in ["", "10.0.0.1/8", "localhost", "a_b.com", "a.com;drop"] {
            check(bad, &format!("`{bad}` {place}"));
        }
        check("169.254.169.254", "169.254.169.254/32 lies in 169.254.0.0/16, which no policy opens");
        check("127.0.0.1:80", "127.0.0.1/32 lies in 127.0.0.0/8, which no policy opens");
    }

    #[test]
    fn a_policy_is_written_as_it_is_read() {
        let parse =
            |words: &str| Egress::<Ipv4Addr>::parse(&words.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        for text in ["none", "all", "*.example.com:tcp/443 10.1.0.0/16"] {
            let egress = parse(text).unwrap();
            assert_eq!(egress.words().join(" "), text);
            let json = serde_json::to_string(&egress).unwrap();
            assert_eq!(serde_json::from_str::<Egress>(&json).unwrap(), egress);
        }
        for bad in ["", "all a.com", "none none", "localhost", "127.0.0.1", "a.com;drop"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse(&"a.com ".repeat(OPENINGS_MAX + 1)).is_err());
        assert!(
            serde_json::from_str::<Egress>(r#"{"list":["127.0.0.1"]}"#).is_err(),
            "a document cannot open it either"
        );
        assert!(serde_json::from_str::<Egress6>(r#"{"list":["::1"]}"#).is_err());
        assert!(serde_json::from_str::<Egress6>(r#"{"list":["1.1.1.1"]}"#).is_err(), "nor one of another family");
        let said = Egress6::parse(&["fe80::1".to_owned()]).unwrap_err();
        assert_eq!(said.pointer.as_deref(), Some("/egress6"));
    }

    #[test]
    fn names_are_listed_once_each_at_its_ports() {
        let list = ["a.com:443", "10.0.0.0/8", "b.com", "a.com:443", "a.com:80"].map(|text| text.parse().unwrap());
        let egress = Egress::<Ipv4Addr>::List(list.to_vec());
        let words = |name: &ListedName<'_>| format!("{} {}", name.domain, name.ports.len());
        assert_eq!(egress.listed_names().iter().map(words).collect::<Vec<_>>(), ["a.com 1", "b.com 0", "a.com 1"]);
        assert!(egress.asks_names());
        assert!(!Egress::<Ipv4Addr>::List(list[1..2].to_vec()).asks_names());
    }

    #[test]
    fn a_name_is_known_by_what_it_says_and_to_whom() {
        let numbers = |openings: &str, guest: u128| {
            let list = openings.split(' ').map(|opening| opening.parse().unwrap()).collect();
            let egress = Egress::<Ipv4Addr>::List(list);
            let guest = GuestId::new(uuid::Uuid::from_u128(guest));
            egress.listed_names().iter().map(|name| name.number(guest)).collect::<std::collections::BTreeSet<_>>()
        };
        let both = numbers("a.com:443 b.com:443 10.0.0.0/8", 1);
        assert_eq!((both.len(), numbers("b.com:443 a.com:443", 1)), (2, both.clone()));
        assert!(numbers("a.com:443", 1).is_subset(&both), "a policy that lists less keeps what it lists");
        assert!(numbers("a.com:444 *.a.com:443 a.com", 1).is_disjoint(&both));
        assert!(numbers("a.com:443", 2).is_disjoint(&both));
    }
}
