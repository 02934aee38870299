use super::*;

fn endpoint(text: &str) -> Result<Endpoint, UriError> {
    Target::parse(text, true).map(|target| {
        assert_eq!(target.driver, "qemu:///system");
        target.endpoint
    })
}

#[test]
fn each_form_is_read() {
    let unix = |path: &str| Ok(Endpoint::Unix(path.into()));
    assert_eq!(endpoint("qemu:///system"), unix("/run/libvirt/libvirt-sock"));
    assert_eq!(endpoint("qemu+unix:///system?socket=/tmp/a%20b"), unix("/tmp/a b"));
    assert_eq!(endpoint("qemu+ssh://h/system"), Ok(Endpoint::Ssh(Ssh::new("h"))));
    let ssh = Ssh {
        user: Some("root".into()),
        port: Some(2222),
        keyfile: Some("/k".into()),
        known_hosts: Some("/n".into()),
        socket: Some("/s".into()),
        ..Ssh::new("::1")
    };
    let text = "qemu+ssh://root@[::1]:2222/system?keyfile=/k&socket=/s&known_hosts=/n";
    assert_eq!(endpoint(text), Ok(Endpoint::Ssh(ssh)));
    let Ok(Endpoint::Tls(tls)) = endpoint("qemu+tls://db-1.example:17/system?pkipath=/pki") else { panic!() };
    assert_eq!((tls.host.as_str(), tls.port, tls.key), ("db-1.example", 17, "/pki/clientkey.pem".into()));
    let Ok(Endpoint::Tls(tls)) = endpoint("qemu://h/system") else { panic!() };
    assert_eq!((tls.port, tls.authority), (16514, "/etc/pki/CA/cacert.pem".into()));
    assert_eq!(endpoint("qemu+tcp://h/system"), Ok(Endpoint::Tcp { host: "h".into(), port: 16509 }));
}

#[test]
fn everything_else_is_refused_by_name() {
    let form = |text: &str| matches!(endpoint(text), Err(UriError::Form(_)));
    for bad in [
        "",
        "qemu",
        "qemu:/system",
        "qemu://",
        "qemu:// h/system",
        "qemu+ssh:///system",
        "qemu+tls:///system",
        "qemu+unix://h/system",
        "qemu+ssh://-oProxyCommand=x/system",
        "qemu+ssh://-l@h/system",
        "qemu+ssh://h;id/system",
        "qemu+ssh://h:0/system",
        "qemu+ssh://h:70000/system",
        "qemu+ssh://[::1/system",
        "qemu+ssh://[x]/system",
        "qemu+ssh://[::1]x/system",
        "qemu+tls://user@h/system",
        "qemu+ssh://a%41/system",
        "qemu:///system#x",
        "qemu+ssh://@h/system",
        "qemu+ssh://h/system\n",
        &format!("qemu:///system?socket=/{}", "x".repeat(3000)),
    ] {
        assert!(form(bad), "{bad}: {:?}", endpoint(bad));
    }
    assert_eq!(endpoint("xen:///system"), Err(UriError::Driver("xen".into())));
    assert_eq!(endpoint("qemu+libssh2://h/system"), Err(UriError::Transport("libssh2".into())));
    assert_eq!(endpoint("qemu:///session"), Err(UriError::Path("session".into())));
    assert_eq!(endpoint("qemu+tls://h/system?no_verify=1"), Err(UriError::Parameter("no_verify".into())));
    assert_eq!(endpoint("qemu+ssh://h/system?command=/bin/x"), Err(UriError::Parameter("command".into())));
    assert_eq!(endpoint("qemu+unix:///system?socket=/a&socket=/b"), Err(UriError::Parameter("socket".into())));
    assert_eq!(endpoint("qemu+unix:///system?socket=a"), Err(UriError::Value("socket")));
    assert_eq!("qemu+tcp://h/system".parse::<Target>(), Err(UriError::PlainTcp));
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(qemu|x)?[+]?(ssh|tls)?:?/?/?.{0,40}") {
        if let Ok(Endpoint::Ssh(ssh)) = endpoint(&text) {
            proptest::prop_assert!(!ssh.host.starts_with('-') && !ssh.host.contains([' ', '\'', ';']));
        }
    }
}
