//! A plan as the text that `nft` reads: two tables, replaced as a whole in one transaction.
//!
//! Pure: the same plan gives the same text. Everything in it is a number, an address or a name that this crate
//! made; nothing that a user wrote comes into it as text.
//!
//! ```text
//!  TAP ─▶ bridge prerouting: the guest's own hardware address and IPv4 address, to the gateway's card alone;
//!         ARP for the gateway alone; all else ends here (IPv6, VLANs, DHCP, other guests, scans)
//!           ├─▶ inet input    to_host    answers, names (port 53 of the gateway), what the plan allows
//!           └─▶ inet forward  from_…     one chain for each guest: its policy
//!  world ─▶ inet prerouting   forwards   a port of the host becomes a port of the guest
//!           inet forward      to_…       answers, and what was forwarded
//! ```
//! Every packet that a guest sends is judged anew, also those of connections that are up: a policy that is taken
//! back ends them. Chains of others on the host (a firewall) still judge what these accept.

use crate::names::Names;
use crate::plan::{MEMBERS_MAX, Member, Plan};
use crate::subnet::mac_of;
use perigee_model::egress::{Egress, Opening, Place, Ports, Protocol, join};
use perigee_model::egress::{NEVER, PRIVATE};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

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
    pub address: Ipv4Addr,
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
            let set = format!("inet {} {}", names.table(), set_name(kind, *guest, *number));
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
        bridge_table(&mut out, plan);
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

fn bridge_table(out: &mut Text, plan: &Plan) {
    let (gateway, prefix) = (plan.subnet().gateway(), plan.names().prefix());
    let card = mac_of(gateway);
    let pin = |member: &Member| format!("\"{}\" . {} . {}", plan.tap(member), member.mac(), member.address);
    let pins: Vec<_> = plan.members().map(pin).collect();
    out.block(&format!("table bridge {}", plan.names().table()), |out| {
        out.set("pinned", "type ifname . ether_addr . ipv4_addr", &pins);
        out.block("chain prerouting", |out| {
            out.line("type filter hook prerouting priority dstnat; policy accept;");
            out.line(format!("iifname \"{prefix}*\" goto from_guest"));
        });
        // Frames to the bridge's own protocols (IEEE 802.1D, 01:80:c2:00:00:0x) that are never bridged.
        out.block("chain input", |out| {
            out.line("type filter hook input priority filter; policy accept;");
            out.line(format!(
                "iifname \"{prefix}*\" ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 counter drop"
            ));
        });
        out.block("chain from_guest", |out| {
            // The kernel takes a VLAN's tag off before it looks at what lies within.
            out.line("ether type { 8021q, 8021ad } counter drop");
            out.line(format!("ether daddr {card} iifname . ether saddr . ip saddr @pinned accept"));
            out.line(format!(
                "arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp operation {{ request, reply }} \
                 arp daddr ip {gateway} iifname . ether saddr . arp saddr ip @pinned \
                 iifname . arp saddr ether . arp saddr ip @pinned accept"
            ));
            out.line("counter drop");
        });
    });
}

fn inet_table(out: &mut Text, plan: &Plan, resolved: Resolved<'_>) {
    let closed = PRIVATE.iter().chain(&NEVER);
    let mut closed: Vec<_> = closed.collect();
    closed.sort_unstable();
    let closed: Vec<_> = closed.into_iter().map(ToString::to_string).collect();
    let askers = plan.members().filter(|member| resolved.answered && member.egress.asks_names());
    let askers: Vec<_> = askers.map(|member| member.address.to_string()).collect();
    out.block(&format!("table inet {}", plan.names().table()), |out| {
        out.block("set closed", |out| {
            out.line("type ipv4_addr");
            out.line("flags interval");
            out.line(format!("elements = {{ {} }}", closed.join(", ")));
        });
        out.block("set connections", |out| {
            out.line("type ipv4_addr");
            out.line(format!("size {MEMBERS_MAX}"));
            out.line("flags dynamic");
        });
        out.set("askers", "type ipv4_addr", &askers);
        for member in plan.members() {
            name_sets(out, member, resolved.held);
        }
        base_chains(out, plan);
        forwards(out, plan);
        dispatch(out, plan);
        to_host(out, plan);
        for member in plan.members() {
            from_guest(out, member);
            to_guest(out, member);
        }
    });
}

/// For each name that is listed to a guest: what its new connections may go to, and what those that are up may.
fn name_sets(out: &mut Text, member: &Member, held: &[Held]) {
    for number in member.names() {
        let of_name = || held.iter().filter(|held| held.guest == member.address && held.number == number);
        let elements = |secs: fn(&Held) -> u64| {
            let live = of_name().filter(|held| secs(held) > 0);
            let mut live: Vec<_> = live.map(|held| (held.address, secs(held))).collect();
            live.sort_unstable();
            live.into_iter().map(|(address, secs)| format!("{address} timeout {secs}s")).collect::<Vec<_>>()
        };
        let kind = "type ipv4_addr\n        flags timeout";
        out.set(&set_name("fresh", member.address, number), kind, &elements(|held| held.fresh_secs));
        out.set(&set_name("met", member.address, number), kind, &elements(|held| held.met_secs));
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
    let rules = [format!("oifname != \"{bridge}\" ip saddr {subnet} masquerade")];
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

fn dispatch(out: &mut Text, plan: &Plan) {
    let (prefix, bridge) = (plan.names().prefix(), plan.names().bridge());
    let members = plan.members().len();
    let map = |kind: &str| {
        let goto = |member: &Member| format!("{} : goto {kind}_{}", member.address, tail(member.address));
        plan.members().map(goto).collect::<Vec<_>>().join(", ")
    };
    out.block("chain from_guest", |out| {
        // A TAP that is off its bridge has not been judged there.
        out.line(format!("iifname != \"{bridge}\" counter drop"));
        out.line(format!("oifname \"{prefix}*\" counter drop"));
        out.line("ct state invalid counter drop");
        let count = format!("ip saddr ct count over {CONNECTIONS_MAX}");
        out.line(format!("ct state new add @connections {{ {count} }} counter drop"));
        if members > 0 {
            out.line(format!("ip saddr vmap {{ {} }}", map("from")));
        }
        out.line("counter drop");
    });
    out.block("chain to_guest", |out| {
        if members > 0 {
            out.line(format!("ip daddr vmap {{ {} }}", map("to")));
        }
        out.line("counter drop");
    });
}

fn to_host(out: &mut Text, plan: &Plan) {
    let gateway = plan.subnet().gateway();
    out.block("chain to_host", |out| {
        out.line(format!("iifname != \"{}\" counter drop", plan.names().bridge()));
        out.line("ct direction reply ct state established accept");
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

fn from_guest(out: &mut Text, member: &Member) {
    out.block(&format!("chain from_{}", tail(member.address)), |out| {
        for at in forwarded(member, "sport") {
            out.line(format!("ct direction reply ct state established {at}accept"));
        }
        match &member.egress {
            Egress::None => {}
            Egress::All => {
                out.line("ip daddr @closed counter drop");
                out.line("meta nfproto ipv4 accept");
            }
            Egress::List(openings) => {
                let (private, other): (Vec<_>, Vec<_>) = openings.iter().partition(|opening| opening.is_private());
                private.into_iter().for_each(|opening| block_rules(out, opening));
                out.line("ip daddr @closed counter drop");
                other.into_iter().for_each(|opening| block_rules(out, opening));
                for name in member.egress.listed_names() {
                    for (state, kind) in [("new", "fresh"), ("established", "met")] {
                        let set = set_name(kind, member.address, name.number(member.guest));
                        by_ports(name.ports, "dport")
                            .for_each(|at| out.line(format!("ct state {state} ip daddr @{set} {at}accept")));
                    }
                }
            }
        }
        out.line("counter drop");
    });
}

fn block_rules(out: &mut Text, opening: &Opening) {
    let Place::Block(block) = opening.place else { return };
    // nft writes one address without its prefix.
    let to = if block.bits() == 32 { block.first().to_string() } else { block.to_string() };
    by_ports(&opening.ports, "dport").for_each(|at| out.line(format!("ip daddr {to} {at}accept")));
}

fn to_guest(out: &mut Text, member: &Member) {
    out.block(&format!("chain to_{}", tail(member.address)), |out| {
        if member.egress != Egress::None {
            out.line("ct direction reply ct state established,related accept");
        }
        if !member.forwards.is_empty() {
            out.line("ct state related ct status dnat accept");
        }
        for at in forwarded(member, "dport") {
            out.line(format!("ct status dnat ct direction original {at}accept"));
        }
        out.line("counter drop");
    });
}

/// The ports of a guest that forwards lead to, as matches.
fn forwarded(member: &Member, side: &'static str) -> impl Iterator<Item = String> {
    let one = |forward: &crate::Forward| Ports::new(forward.protocol, forward.guest_port..=forward.guest_port);
    let mut ports: Vec<_> = member.forwards.iter().filter_map(one).collect();
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

/// The guest and the number of the name that a set is about, and whether it is for new connections.
pub(crate) fn set_of(name: &str) -> Option<(Ipv4Addr, u32, bool)> {
    let (kind, rest) = name.split_once('_')?;
    let (guest, number) = rest.rsplit_once('_')?;
    let fresh = match kind {
        "fresh" => true,
        "met" => false,
        _ => return None,
    };
    Some((guest.replace('_', ".").parse().ok()?, u32::from_str_radix(number, 16).ok()?, fresh))
}

fn set_name(kind: &str, guest: Ipv4Addr, number: u32) -> String {
    format!("{kind}_{}_{number:08x}", tail(guest))
}

fn tail(address: Ipv4Addr) -> String {
    address.to_string().replace('.', "_")
}

#[cfg(test)]
mod tests;
