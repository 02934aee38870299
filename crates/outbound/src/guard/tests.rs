use super::*;
use proptest::prelude::*;

fn fault(address: &str) -> Option<&'static str> {
    Guard::default().fault(address.parse().unwrap())
}

#[test]
fn public_addresses_are_called() {
    for address in [
        "1.1.1.1",
        "8.8.8.8",
        "172.15.0.1",
        "172.32.0.1",
        "192.167.1.1",
        "100.63.0.1",
        "100.128.0.1",
        "168.63.129.15",
        "223.255.255.254",
        "2606:4700::1111",
        "2a00::1",
        "64:ff9b::808:808",
        "::ffff:1.1.1.1",
    ] {
        assert_eq!(fault(address), None, "{address}");
    }
}

#[test]
fn what_is_not_public_is_not_called() {
    for address in [
        "127.0.0.1",
        "127.255.0.9",
        "0.0.0.0",
        "0.1.2.3",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.8",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.9",
        "192.88.99.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:c0a8:1::",
        "2002:808:808::",
        "2001:0:1::",
        "2001:db8::1",
        "2001:2::1",
        "3fff::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "100::1",
        "5f00::1",
        "4000::1",
    ] {
        assert!(fault(address).is_some(), "{address}");
    }
}

#[test]
fn what_was_allowed_is_called_and_nothing_beside_it() {
    let guard = Guard { allowed: vec!["10.2.0.0/16".parse().unwrap(), "fd00::1".parse().unwrap()] };
    let fault = |address: &str| guard.fault(address.parse().unwrap());
    assert_eq!((fault("10.2.255.1"), fault("::ffff:10.2.0.9"), fault("fd00::1")), (None, None, None));
    assert!(fault("10.3.0.1").is_some() && fault("fd00::2").is_some() && fault("127.0.0.1").is_some());
    let all = Guard { allowed: vec!["0.0.0.0/0".parse().unwrap()] };
    assert_eq!(all.fault("127.0.0.1".parse().unwrap()), None);
    assert!(all.fault("::1".parse().unwrap()).is_some());
}

#[test]
fn a_network_is_read_strictly() {
    assert_eq!("10.0.0.0/8".parse::<Network>().unwrap().to_string(), "10.0.0.0/8");
    assert_eq!("::1".parse::<Network>().unwrap().to_string(), "::1/128");
    for text in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/", "10.0.0.0/-1", "example.org", "10.0.0.0/8/8"] {
        assert!(text.parse::<Network>().is_err(), "{text}");
    }
}

#[test]
fn an_address_is_http_without_credentials() {
    for text in ["https://example.org/a.img", "http://[2606::1]:8080/x?y=z"] {
        assert!(place(text).is_ok(), "{text}");
    }
    // However a number is written, it is the same address.
    for text in ["http://0x7f.1/", "http://2130706433/", "http://0177.0.0.1/", "http://127.1/", "http://１２７.0.0.1/"]
    {
        let Some(Host::Ipv4(address)) = place(text).unwrap().host().map(|h| h.to_owned()) else { panic!("{text}") };
        assert!(Guard::default().fault(IpAddr::V4(address)).is_some(), "{text}");
    }
    let long = format!("https://example.org/{}", "x".repeat(2048));
    for text in [
        "",
        "example.org/a",
        "file:///etc/shadow",
        "ftp://example.org/x",
        "nbd://example.org/x",
        "json:{\"driver\":\"file\"}",
        "data:,x",
        "unix:/run/x",
        "https://user@example.org/",
        "https://u:p@example.org/",
        "https://",
        "http://:80/",
        &long,
    ] {
        assert!(matches!(place(text), Err(OutboundError::BadAddress(_))), "{text}");
    }
}

proptest! {
    /// An IPv4 address is judged the same, however IPv6 wraps it.
    #[test]
    fn no_wrapping_helps(bits in any::<u32>()) {
        let plain = Ipv4Addr::from_bits(bits);
        let [a, b, c, d] = plain.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let guard = Guard::default();
        let judged = guard.fault(IpAddr::V4(plain)).is_some();
        prop_assert_eq!(guard.fault(IpAddr::V6(plain.to_ipv6_mapped())).is_some(), judged);
        let nat64 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low);
        prop_assert_eq!(guard.fault(IpAddr::V6(nat64)).is_some(), judged);
    }
}
