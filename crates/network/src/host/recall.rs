//! What the kernel still holds of the answers to names, read from `nft`'s JSON (libnftables-json(5)).

use crate::ruleset::{Held, set_of};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

#[derive(Deserialize)]
struct Listed {
    nftables: Vec<Object>,
}
#[derive(Deserialize)]
struct Object {
    set: Option<Set>,
}
#[derive(Deserialize)]
struct Set {
    name: String,
    table: String,
    #[serde(default)]
    elem: Vec<serde_json::Value>,
}
#[derive(Deserialize)]
struct Timed {
    elem: Element,
}
#[derive(Deserialize)]
struct Element {
    val: IpAddr,
    expires: u64,
}

/// What a table's sets of names hold; a text that is something else holds nothing.
pub(super) fn held(json: &str, table: &str) -> Vec<Held> {
    let Ok(listed) = serde_json::from_str::<Listed>(json) else { return Vec::new() };
    let mut found: BTreeMap<(Ipv4Addr, u32, IpAddr), (u64, u64)> = BTreeMap::new();
    for set in listed.nftables.into_iter().filter_map(|object| object.set).filter(|set| set.table == table) {
        let Some((guest, number, fresh)) = set_of(&set.name) else { continue };
        for element in set.elem.into_iter().filter_map(|element| serde_json::from_value::<Timed>(element).ok()) {
            let secs = found.entry((guest, number, element.elem.val)).or_default();
            *(if fresh { &mut secs.0 } else { &mut secs.1 }) = element.elem.expires;
        }
    }
    let one =
        |((guest, number, address), (fresh_secs, met_secs))| Held { guest, number, address, fresh_secs, met_secs };
    found.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_or_not_understood_is_passed_over() {
        let set = |table: &str, name: &str, elements: &str| {
            format!(r#"{{"set": {{"family": "inet", "name": "{name}", "table": "{table}", "elem": {elements}}}}}"#)
        };
        let element = |address: &str, secs: u64| {
            format!(r#"{{"elem": {{"val": "{address}", "timeout": 99, "expires": {secs}}}}}"#)
        };
        let sets = [
            set("ours", "fresh_172_16_0_2_0000001f", &format!("[{}]", element("1.1.1.1", 5))),
            set("ours", "met_172_16_0_2_0000001f", &format!("[{}, {}]", element("1.1.1.1", 50), element("2.2.2.2", 9))),
            set("ours", "fresh6_172_16_0_2_0000001f", &format!("[{}]", element("2606:4700::1111", 7))),
            set("theirs", "fresh_172_16_0_2_0000001f", &format!("[{}]", element("3.3.3.3", 5))),
            set("ours", "closed", r#"[{"prefix": {"addr": "10.0.0.0", "len": 8}}]"#),
        ];
        let json = format!(r#"{{"nftables": [{{"metainfo": {{}}}}, {}]}}"#, sets.join(", "));
        let found: Vec<_> =
            held(&json, "ours").iter().map(|h| (h.address.to_string(), h.fresh_secs, h.met_secs)).collect();
        let expected = [("1.1.1.1", 5, 50), ("2.2.2.2", 0, 9), ("2606:4700::1111", 7, 0)];
        assert_eq!(found, expected.map(|(address, fresh, met)| (address.to_owned(), fresh, met)));
        assert_eq!(held("no JSON", "ours"), []);
    }
}
