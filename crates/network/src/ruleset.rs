//! A plan as the text that `nft` reads: two tables, replaced as a whole in one transaction.
//!
//! Pure: the same plan gives the same text. Everything in it is a number, an address or a name that this crate
//! made; nothing that a user wrote comes into it as text.
//!
//! ```text
//!  TAP ─▶ bridge prerouting: the guest's own hardware address and addresses, to the gateway's card alone;
//!         ARP and neighbour discovery for the gateway alone; all else ends here (VLANs, DHCP, announcements of
//!         routers, other guests, scans; IPv6 of a guest that has no policy for it)
//!           ├─▶ inet input    to_host    answers, names (port 53 of the gateway), what the plan allows
//!           └─▶ inet forward  from_…     one chain for each guest: its policy
//!  world ─▶ inet prerouting   forwards   a port of the host becomes a port of the guest
//!           inet forward      to_…       answers, and what was forwarded
//! ```
//! Every packet that a guest sends is judged anew, also those of connections that are up: a policy that is taken
//! back ends them. Chains of others on the host (a firewall) still judge what these accept. Both families of addresses
//! have the same chains; what is of IPv6 is there only when a guest has it, and is named with a 6.

mod pins;

use crate::names::Names;
use crate::plan::{MEMBERS_MAX, Member, Plan};
use perigee_model::Forward;
use perigee_model::GuestId;
use perigee_model::egress::{Block, Egress, Family, Opening, Place, Ports, Protocol, join};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most connections of one guest to the world at a time: the host's table of connections is everybody's.
pub const CONNECTIONS_MAX: u32 = 4096;

/// What a name meant for a guest: an address that is open to it for some time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Held {
    /// The guest's address.
    pub guest: Ipv4Addr,
    /// For which of the names that are listed to it, by its number.
    pub number: u32,
    /// The address that was answered.
    pub address: IpAddr,
    /// New connections to it are let through for so many seconds more; 0: none.
    pub fresh_secs: u64,
    /// Connections that are up go on for so many seconds more.
    pub met_secs: u64,
}

/// What names mean now, as a ruleset has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Resolved<'a> {
    /// What is open because of answers.
    pub held: &'a [Held],
    /// We answer names at the gateway's address. If not, whoever else listens on port 53 of the host is closed to
    /// guests.
    pub answered: bool,
}

/// What `nft -f -` is given. Nothing of it holds if a part of it cannot be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ruleset {
    text: String,
}

impl Ruleset {
    /// The plan, with what its names mean now.
    pub fn of(plan: &Plan, resolved: Resolved<'_>) -> Self {
        let mut text = clearing(plan.names());
        text.push_str(&Self::tables(plan, resolved));
        Self { text }
    }

    /// Nothing of this instance.
    pub fn none(names: &Names) -> Self {
        Self { text: clearing(names) }
    }

    /// What opens addresses to guests, beside what is there.
    pub(crate) fn opened(names: &Names, held: &[Held]) -> Self {
        let mut text = String::new();
        let kinds = held.iter().flat_map(|held| [("fresh", held.fresh_secs, held), ("met", held.met_secs, held)]);
        for (kind, secs, Held { guest, number, address, .. }) in kinds.filter(|(_, secs, _)| *secs > 0) {
            let six = if address.is_ipv6() { Ipv6Addr::SIX } else { Ipv4Addr::SIX };
            let set = format!("inet {} {}", names.table(), set_name(kind, six, *guest, *number));
            // An element that is there keeps its time: it is taken away first, which needs it to be there.
            _ = writeln!(text, "add element {set} {{ {address} timeout 1s }}");
            _ = writeln!(text, "delete element {set} {{ {address} }}");
            _ = writeln!(text, "add element {set} {{ {address} timeout {secs}s }}");
        }
        Self { text }
    }

    /// The whole transaction.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The tables alone, as `nft -s list table` shows them but for white space and times.
    pub fn tables(plan: &Plan, resolved: Resolved<'_>) -> String {
        let mut out = Text::default();
        pins::table(&mut out, plan);
        inet_table(&mut out, plan, resolved);
        out.text
    }
}

/// A table can only be deleted if it is there, so it is made first; all in one transaction.
fn clearing(names: &Names) -> String {
    let table = names.table();
    ["bridge", "inet"].map(|family| format!("add table {family} {table}\ndelete table {family} {table}\n")).concat()
}

/// Lines, indented by the braces that are open.
#[derive(Default)]
struct Text {
    text: String,
    depth: usize,
}

impl Text {
    fn line(&mut self, line: impl AsRef<str>) {
        _ = writeln!(self.text, "{:width$}{}", "", line.as_ref(), width = self.depth * 4);
    }
    fn block(&mut self, head: &str, body: impl FnOnce(&mut Self)) {
        self.line(format!("{head} {{"));
        self.depth += 1;
        body(self);
        self.depth -= 1;
        self.line("}");
    }
    fn set(&mut self, name: &str, kind: &str, elements: &[String]) {
        self.block(&format!("set {name}"), |out| {
            out.line(kind);
            if !elements.is_empty() {
                out.line(format!("elements = {{ {} }}", elements.join(", ")));
            }
        });
    }
}

/// A family of addresses as rules speak of it.
trait Words: Family {
    const IP: &'static str;
    const KIND: &'static str;
    const PROTOCOL: &'static str;
    /// Behind the names of what is this family's.
    const SIX: &'static str;
    fn of_family(address: IpAddr) -> Option<Self>;
}
impl Words for Ipv4Addr {
    const IP: &'static str = "ip";
    const KIND: &'static str = "ipv4_addr";
    const PROTOCOL: &'static str = "ipv4";
    const SIX: &'static str = "";
    fn of_family(address: IpAddr) -> Option<Self> {
        if let IpAddr::V4(address) = address { Some(address) } else { None }
    }
}
impl Words for Ipv6Addr {
    const IP: &'static str = "ip6";
    const KIND: &'static str = "ipv6_addr";
    const PROTOCOL: &'static str = "ipv6";
    const SIX: &'static str = "6";
    fn of_family(address: IpAddr) -> Option<Self> {
        if let IpAddr::V6(address) = address { Some(address) } else { None }
    }
}

/// What a guest is in one family of addresses. Things are named by its IPv4 address in both.
struct Side<'a, A> {
    guest: GuestId,
    tail: String,
    name: Ipv4Addr,
    address: A,
    egress: &'a Egress<A>,
    forwards: &'a [Forward],
}

fn side(member: &Member) -> Side<'_, Ipv4Addr> {
    let (guest, tail, name) = (member.guest, tail(member.address), member.address);
    Side { guest, tail, name, address: member.address, egress: &member.egress, forwards: &member.forwards }
}

fn side6<'a>(plan: &Plan, member: &'a Member) -> Option<Side<'a, Ipv6Addr>> {
    let (guest, tail, name) = (member.guest, tail(member.address), member.address);
    Some(Side { guest, tail, name, address: plan.six(member)?, egress: member.egress6.as_ref()?, forwards: &[] })
}

fn inet_table(out: &mut Text, plan: &Plan, resolved: Resolved<'_>) {
    let askers = plan.members().filter(|member| resolved.answered && member.asks_names());
    let askers: Vec<_> = askers.map(|member| member.address.to_string()).collect();
    let sides: Vec<_> = plan.members().map(side).collect();
    let sides6: Vec<_> = plan.members().filter_map(|member| side6(plan, member)).collect();
    out.block(&format!("table inet {}", plan.names().table()), |out| {
        family_sets::<Ipv4Addr>(out);
        if !sides6.is_empty() {
            family_sets::<Ipv6Addr>(out);
        }
        out.set("askers", "type ipv4_addr", &askers);
        sides.iter().for_each(|side| name_sets(out, side, resolved.held));
        sides6.iter().for_each(|side| name_sets(out, side, resolved.held));
        base_chains(out, plan);
        forwards(out, plan);
        dispatch(out, plan, &sides, &sides6);
        to_host(out, plan);
        for side in &sides {
            from_guest(out, side);
            to_guest(out, side);
        }
        for side in &sides6 {
            from_guest(out, side);
            to_guest(out, side);
        }
    });
}

fn family_sets<A: Words>(out: &mut Text) {
    let (kind, six) = (A::KIND, A::SIX);
    let both = || A::PRIVATE.iter().chain(A::NEVER);
    // What lies in another is closed by that one, and `nft` wants each address once.
    let inside = |block: &Block<A>| both().any(|other| other != block && other.covers(*block));
    let mut closed: Vec<_> = both().filter(|block| !inside(block)).collect();
    closed.sort_unstable();
    let closed: Vec<_> = closed.into_iter().map(ToString::to_string).collect();
    out.block(&format!("set closed{six}"), |out| {
        out.line(format!("type {kind}"));
        out.line("flags interval");
        out.line(format!("elements = {{ {} }}", closed.join(", ")));
    });
    out.block(&format!("set connections{six}"), |out| {
        out.line(format!("type {kind}"));
        out.line(format!("size {MEMBERS_MAX}"));
        out.line("flags dynamic");
    });
}

/// For each name that is listed to a guest: what its new connections may go to, and what those that are up may.
fn name_sets<A: Words>(out: &mut Text, side: &Side<'_, A>, held: &[Held]) {
    for name in side.egress.listed_names() {
        let number = name.number(side.guest);
        let of_name = || held.iter().filter(|held| held.guest == side.name && held.number == number);
        let elements = |secs: fn(&Held) -> u64| {
            let live = of_name().filter(|held| secs(held) > 0);
            let mut live: Vec<_> = live.filter_map(|held| Some((A::of_family(held.address)?, secs(held)))).collect();
            live.sort_unstable();
            live.into_iter().map(|(address, secs)| format!("{address} timeout {secs}s")).collect::<Vec<_>>()
        };
        let kind = format!("type {}\n        flags timeout", A::KIND);
        out.set(&set_name("fresh", A::SIX, side.name, number), &kind, &elements(|held| held.fresh_secs));
        out.set(&set_name("met", A::SIX, side.name, number), &kind, &elements(|held| held.met_secs));
    }
}

fn base_chains(out: &mut Text, plan: &Plan) {
    let (prefix, bridge, subnet) = (plan.names().prefix(), plan.names().bridge(), plan.subnet().block());
    let chain = |out: &mut Text, name: &str, hook: &str, rules: &[String]| {
        out.block(&format!("chain {name}"), |out| {
            out.line(format!("type {hook}; policy accept;"));
            rules.iter().for_each(|rule| out.line(rule));
        });
    };
    let rules = [format!("iifname \"{prefix}*\" goto from_guest"), format!("oifname \"{prefix}*\" goto to_guest")];
    chain(out, "forward", "filter hook forward priority filter - 5", &rules);
    chain(out, "input", "filter hook input priority filter - 5", &[format!("iifname \"{prefix}*\" goto to_host")]);
    let rules = [format!("iifname != \"{bridge}\" fib daddr type local goto forwards")];
    chain(out, "prerouting", "nat hook prerouting priority dstnat - 5", &rules);
    let rules = ["fib daddr type local ip daddr != 127.0.0.0/8 goto forwards".to_owned()];
    chain(out, "output", "nat hook output priority -105", &rules);
    let masquerade = |ip: &str, block: &str| format!("oifname != \"{bridge}\" {ip} saddr {block} masquerade");
    let mut rules = vec![masquerade("ip", &subnet.to_string())];
    rules.extend(plan.block6().map(|block| masquerade("ip6", &block.to_string())));
    chain(out, "postrouting", "nat hook postrouting priority srcnat - 5", &rules);
}

fn forwards(out: &mut Text, plan: &Plan) {
    out.block("chain forwards", |out| {
        for member in plan.members() {
            for forward in &member.forwards {
                let (protocol, from, to) = (forward.protocol, forward.host_port, forward.guest_port);
                out.line(format!("{protocol} dport {from} dnat ip to {}:{to}", member.address));
            }
        }
    });
}

fn dispatch(out: &mut Text, plan: &Plan, sides: &[Side<'_, Ipv4Addr>], sides6: &[Side<'_, Ipv6Addr>]) {
    let (prefix, bridge) = (plan.names().prefix(), plan.names().bridge());
    out.block("chain from_guest", |out| {
        // A TAP that is off its bridge has not been judged there.
        out.line(format!("iifname != \"{bridge}\" counter drop"));
        out.line(format!("oifname \"{prefix}*\" counter drop"));
        out.line("ct state invalid counter drop");
        counted::<Ipv4Addr>(out);
        by_address(out, "from", "saddr", sides);
        if !sides6.is_empty() {
            counted::<Ipv6Addr>(out);
        }
        by_address(out, "from", "saddr", sides6);
        out.line("counter drop");
    });
    out.block("chain to_guest", |out| {
        by_address(out, "to", "daddr", sides);
        by_address(out, "to", "daddr", sides6);
        out.line("counter drop");
    });
}

fn counted<A: Words>(out: &mut Text) {
    let count = format!("{} saddr ct count over {CONNECTIONS_MAX}", A::IP);
    out.line(format!("ct state new add @connections{} {{ {count} }} counter drop", A::SIX));
}

fn by_address<A: Words>(out: &mut Text, kind: &str, which: &str, sides: &[Side<'_, A>]) {
    let goto = |side: &Side<'_, A>| format!("{} : goto {kind}{}_{}", side.address, A::SIX, side.tail);
    if !sides.is_empty() {
        let map: Vec<_> = sides.iter().map(goto).collect();
        out.line(format!("{} {which} vmap {{ {} }}", A::IP, map.join(", ")));
    }
}

fn to_host(out: &mut Text, plan: &Plan) {
    let gateway = plan.subnet().gateway();
    out.block("chain to_host", |out| {
        out.line(format!("iifname != \"{}\" counter drop", plan.names().bridge()));
        out.line("ct direction reply ct state established accept");
        if plan.block6().is_some() {
            // Of those for the gateway alone: others ended at the bridge.
            out.line("icmpv6 type nd-neighbor-solicit accept");
        }
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            out.line(format!("ip saddr @askers ip daddr {gateway} {protocol} dport 53 accept"));
        }
        for member in plan.members() {
            let mut ports = member.host.clone();
            join(&mut ports);
            let from = format!("ip saddr {} ip daddr {gateway}", member.address);
            by_ports(&ports, "dport")
                .filter(|_| !ports.is_empty())
                .for_each(|at| out.line(format!("{from} {at}accept")));
        }
        out.line("counter drop");
    });
}

fn from_guest<A: Words>(out: &mut Text, side: &Side<'_, A>) {
    let (ip, six) = (A::IP, A::SIX);
    out.block(&format!("chain from{six}_{}", side.tail), |out| {
        for at in forwarded(side.forwards, "sport") {
            out.line(format!("ct direction reply ct state established {at}accept"));
        }
        let closed = format!("{ip} daddr @closed{six} counter drop");
        match side.egress {
            Egress::None => {}
            Egress::All => {
                out.line(closed);
                out.line(format!("meta nfproto {} accept", A::PROTOCOL));
            }
            Egress::List(openings) => {
                let (private, other): (Vec<_>, Vec<_>) = openings.iter().partition(|opening| opening.is_private());
                private.into_iter().for_each(|opening| block_rules(out, opening));
                out.line(closed);
                other.into_iter().for_each(|opening| block_rules(out, opening));
                for name in side.egress.listed_names() {
                    for (state, kind) in [("new", "fresh"), ("established", "met")] {
                        let set = set_name(kind, six, side.name, name.number(side.guest));
                        by_ports(name.ports, "dport")
                            .for_each(|at| out.line(format!("ct state {state} {ip} daddr @{set} {at}accept")));
                    }
                }
            }
        }
        out.line("counter drop");
    });
}

fn block_rules<A: Words>(out: &mut Text, opening: &Opening<A>) {
    let Place::Block(block) = opening.place else { return };
    // nft writes one address without its prefix.
    let to = if block.bits() == A::BITS { block.first().to_string() } else { block.to_string() };
    by_ports(&opening.ports, "dport").for_each(|at| out.line(format!("{} daddr {to} {at}accept", A::IP)));
}

fn to_guest<A: Words>(out: &mut Text, side: &Side<'_, A>) {
    out.block(&format!("chain to{}_{}", A::SIX, side.tail), |out| {
        if *side.egress != Egress::None {
            out.line("ct direction reply ct state established,related accept");
        }
        if !side.forwards.is_empty() {
            out.line("ct state related ct status dnat accept");
        }
        for at in forwarded(side.forwards, "dport") {
            out.line(format!("ct status dnat ct direction original {at}accept"));
        }
        out.line("counter drop");
    });
}

/// The ports of a guest that forwards lead to, as matches.
fn forwarded(forwards: &[Forward], side: &'static str) -> impl Iterator<Item = String> {
    let one = |forward: &Forward| Ports::new(forward.protocol, forward.guest_port..=forward.guest_port);
    let mut ports: Vec<_> = forwards.iter().filter_map(one).collect();
    join(&mut ports);
    let matches: Vec<_> = by_ports(&ports, side).filter(|_| !ports.is_empty()).collect();
    matches.into_iter()
}

/// One match for each protocol, with a space behind it; without ports one that matches everything.
fn by_ports<'a>(ports: &'a [Ports], side: &'static str) -> impl Iterator<Item = String> + 'a {
    let of = move |protocol: Protocol| {
        let ranges = ports.iter().filter(|ports| ports.protocol == protocol).map(ToString::to_string);
        match ranges.collect::<Vec<_>>().as_slice() {
            [] => None,
            [one] => Some(format!("{protocol} {side} {one} ")),
            several => Some(format!("{protocol} {side} {{ {} }} ", several.join(", "))),
        }
    };
    let every = ports.is_empty().then(String::new);
    [Protocol::Tcp, Protocol::Udp].into_iter().filter_map(of).chain(every)
}

/// The guest and the number of the name that a set is about, and whether it is for new connections; of either family.
pub(crate) fn set_of(name: &str) -> Option<(Ipv4Addr, u32, bool)> {
    let (kind, rest) = name.split_once('_')?;
    let (guest, number) = rest.rsplit_once('_')?;
    let fresh = match kind {
        "fresh" | "fresh6" => true,
        "met" | "met6" => false,
        _ => return None,
    };
    Some((guest.replace('_', ".").parse().ok()?, u32::from_str_radix(number, 16).ok()?, fresh))
}

fn set_name(kind: &str, six: &str, guest: Ipv4Addr, number: u32) -> String {
    format!("{kind}{six}_{}_{number:08x}", tail(guest))
}

fn tail(address: Ipv4Addr) -> String {
    address.to_string().replace('.', "_")
}

#[cfg(test)]
mod tests;
