//! A network's definition. Format: libvirt, formatnetwork.html.

use super::{Out, empty, text};
use crate::NetworkPlan;
use perigee_model::NetworkKind;
use quick_xml::Writer;
use std::io;
use std::net::Ipv4Addr;

/// The whole definition. libvirt itself chooses the name of a bridge that it makes.
pub fn network(plan: &NetworkPlan) -> io::Result<String> {
    let mut out = Writer::new_with_indent(Vec::new(), b' ', 1);
    out.create_element("network").write_inner_content(|out| {
        text(out, "name", plan.name.as_str())?;
        text(out, "uuid", &plan.id.to_string())?;
        match plan.kind {
            NetworkKind::Nat => empty(out, "forward", &[("mode", "nat")])?,
            // Without a way out: libvirt's rules refuse what is for elsewhere, its DHCP server names no way there.
            NetworkKind::Isolated => {}
            NetworkKind::Bridged => empty(out, "forward", &[("mode", "bridge")])?,
        }
        match &plan.bridge {
            Some(bridge) => empty(out, "bridge", &[("name", bridge)])?,
            None => empty(out, "bridge", &[("stp", "on"), ("delay", "0")])?,
        }
        addresses(out, plan)
    })?;
    String::from_utf8(out.into_inner()).map_err(io::Error::other)
}

/// The first address is the host's, all others but the last are given out.
fn addresses(out: &mut Out, plan: &NetworkPlan) -> io::Result<()> {
    let Some(subnet) = plan.subnet else { return Ok(()) };
    let at = |address: u32| Ipv4Addr::from_bits(address).to_string();
    let (first, last) = (subnet.first().to_bits(), subnet.last().to_bits());
    let own = [("address", at(first.saturating_add(1))), ("prefix", subnet.bits().to_string())];
    let range = [("start", at(first.saturating_add(2))), ("end", at(last.saturating_sub(1)))];
    let ip = out.create_element("ip").with_attributes(own.iter().map(|(name, value)| (*name, value.as_str())));
    ip.write_inner_content(|out| {
        out.create_element("dhcp").write_inner_content(|out| {
            empty(out, "range", &range.each_ref().map(|(name, value)| (*name, value.as_str())))
        })?;
        Ok(())
    })?;
    Ok(())
}

/// The networks that the cards of a definition, of anybody's, are on.
pub fn networks_of(definition: &str) -> Vec<String> {
    let Ok(document) = roxmltree::Document::parse(definition) else { return Vec::new() };
    let sources = document.descendants().filter(|node| node.has_tag_name("source"));
    sources.filter_map(|source| source.attribute("network")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use perigee_model::{Name, NetworkId};
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    use uuid::Uuid;

    fn plan(kind: NetworkKind, subnet: &str, bridge: Option<&str>) -> NetworkPlan {
        NetworkPlan {
            id: NetworkId::new(Uuid::from_u128(7)),
            name: Name::parse("lab").unwrap(),
            kind,
            subnet: subnet.parse().ok(),
            bridge: bridge.map(str::to_owned),
        }
    }

    #[test]
    fn each_kind_says_what_it_is() {
        let said = |plan: NetworkPlan| network(&plan).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        let head = "<network> <name>lab</name> <uuid>00000000-0000-0000-0000-000000000007</uuid>";
        let nat = said(plan(NetworkKind::Nat, "10.20.0.0/24", None));
        let ip = "<bridge stp=\"on\" delay=\"0\"/> <ip address=\"10.20.0.1\" prefix=\"24\"> <dhcp> \
            <range start=\"10.20.0.2\" end=\"10.20.0.254\"/> </dhcp> </ip> </network>";
        assert_eq!(nat, format!("{head} <forward mode=\"nat\"/> {ip}"));
        assert_eq!(said(plan(NetworkKind::Isolated, "10.20.0.0/24", None)), format!("{head} {ip}"));
        let bridged = said(plan(NetworkKind::Bridged, "", Some("br0")));
        assert_eq!(bridged, format!("{head} <forward mode=\"bridge\"/> <bridge name=\"br0\"/> </network>"));
        let least = said(plan(NetworkKind::Nat, "10.20.0.0/30", None));
        assert!(least.contains("start=\"10.20.0.2\" end=\"10.20.0.2\""), "{least}");
    }

    #[test]
    fn who_is_on_a_network_is_seen() {
        let domain = "<domain><devices><interface type='network'><source network='a'/></interface>\
            <interface type='bridge'><source bridge='b'/></interface></devices></domain>";
        assert_eq!(networks_of(domain), ["a"]);
        assert_eq!(networks_of("<domain"), Vec::<String>::new());
    }

    /// libvirt's own schema takes every kind.
    #[test]
    fn real_the_schema_of_libvirt_takes_networks() {
        let bridged = plan(NetworkKind::Bridged, "", Some("br-lan.7"));
        for plan in [NetworkKind::Nat, NetworkKind::Isolated]
            .map(|kind| plan(kind, "172.16.0.0/16", None))
            .into_iter()
            .chain([bridged])
        {
            let mut validate = Command::new("virt-xml-validate")
                .args(["-", "network"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            validate.stdin.take().unwrap().write_all(network(&plan).unwrap().as_bytes()).unwrap();
            let said = validate.wait_with_output().unwrap();
            assert!(said.status.success(), "{plan:?}: {}", String::from_utf8_lossy(&said.stderr));
        }
    }
}
