//! The table of the family `bridge`: what a guest may put on the wire at all.

use super::Text;
use crate::plan::Plan;
use crate::subnet::mac_of;
use perigee_model::Mac;
use std::net::Ipv6Addr;

pub(super) fn table(out: &mut Text, plan: &Plan) {
    let (gateway, prefix) = (plan.subnet().gateway(), plan.names().prefix());
    let card = mac_of(gateway);
    let pins: Vec<_> = plan.members().map(|member| pin(plan, member, member.address.to_string())).collect();
    out.block(&format!("table bridge {}", plan.names().table()), |out| {
        out.set("pinned", "type ifname . ether_addr . ipv4_addr", &pins);
        if plan.block6().is_some() {
            let own = |member| Some(pin(plan, member, plan.six(member)?.to_string()));
            let pins: Vec<_> = plan.members().filter_map(own).collect();
            out.set("pinned6", "type ifname . ether_addr . ipv6_addr", &pins);
        }
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
        // The host knows whose address is whose, and asks nobody; what it tells groups of IPv6 (MLD; to cards
        // 33:33:…, RFC 2464) is for none of them.
        out.block("chain output", |out| {
            out.line("type filter hook output priority filter; policy accept;");
            out.line(format!("oifname \"{prefix}*\" ether daddr & ff:ff:00:00:00:00 == 33:33:00:00:00:00 drop"));
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
            if let Some(gateway) = plan.gateway6() {
                six(out, plan, gateway, card);
            }
            out.line("counter drop");
        });
    });
}

fn pin(plan: &Plan, member: &crate::Member, address: String) -> String {
    format!("\"{}\" . {} . {address}", plan.tap(member), member.mac())
}

/// Of IPv6 a guest says: who has the gateway's address (RFC 4861: a whole solicitation with one option, its own
/// hardware address, and nothing before or behind it), and packets to the gateway's card without a route of their own.
/// Of ICMPv6 it says echo requests and errors: neither routers' nor neighbours' announcements, redirects or groups.
fn six(out: &mut Text, plan: &Plan, gateway: Ipv6Addr, card: Mac) {
    let [.., a, b, c] = gateway.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let groups_card = format!("33:33:ff:{a:02x}:{b:02x}:{c:02x}");
    let hex = |mac: Mac| mac.to_string().replace(':', "");
    let known = plan.members().filter(|member| plan.six(member).is_some());
    let known: Vec<_> = known.map(|member| format!("\"{}\" . 0x{}", plan.tap(member), hex(member.mac()))).collect();
    let own = "iifname . ether saddr . ip6 saddr @pinned6";
    out.line(format!(
        "ip6 length 32 ip6 nexthdr ipv6-icmp ip6 hoplimit 255 icmpv6 type nd-neighbor-solicit \
         @th,64,128 {:#x} ip6 daddr {{ {gateway}, {group} }} ether daddr {{ {groups_card}, {card} }} {own} \
         @th,192,16 0x101 iifname . @th,208,48 {{ {} }} accept",
        gateway.to_bits(),
        known.join(", "),
    ));
    out.line("ip6 daddr ff00::/8 counter drop");
    out.line("exthdr rt exists counter drop");
    out.line(format!("ether daddr {card} meta l4proto != ipv6-icmp {own} accept"));
    out.line(format!(
        "ether daddr {card} icmpv6 type {{ destination-unreachable, packet-too-big, time-exceeded, \
         parameter-problem, echo-request }} {own} accept"
    ));
}
