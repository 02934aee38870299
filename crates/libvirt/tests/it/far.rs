//! Daemons that are not on a local socket: a real one by TLS and TCP, and a stand-in for `ssh`.

use crate::daemon::{Daemon, QemuUser};
use perigee_libvirt::uri::Target;
use perigee_libvirt::{Broken, Connection, Endpoint, Error, Settings, Ssh, Tls, list};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const QEMU: Option<&str> = Some("qemu:///system");

fn settings() -> Settings {
    Settings { deadline: Duration::from_secs(20), ..Settings::default() }
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(folder: &Path, name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(folder.join(format!("{name}.pem")), authority.pem()).unwrap();
    authority
}

/// A certificate and its key as PEM: `WHOcert.pem`, `WHOkey.pem`.
fn certify(folder: &Path, who: &str, name: &str, authority: &Authority) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, who);
    let certificate = params.signed_by(&key, authority).unwrap();
    std::fs::write(folder.join(format!("{who}cert.pem")), certificate.pem()).unwrap();
    std::fs::write(folder.join(format!("{who}key.pem")), key.serialize_pem()).unwrap();
}

/// Runs this in the network of the daemon, on a thread of its own.
fn inside<T: Send>(daemon: &Daemon, what: impl Future<Output = T> + Send) -> T {
    let network = File::open(format!("/proc/{}/ns/net", daemon.pid())).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::setns(&network, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(what)
        });
        thread.join().unwrap()
    })
}

/// The first time somebody listens, within a deadline.
async fn opened(endpoint: &Endpoint) -> Result<Connection, Error> {
    let begun = Instant::now();
    loop {
        match Connection::open_with(endpoint, QEMU, 0, &settings()).await {
            Err(Error::Unreachable { source, .. })
                if source.kind() == std::io::ErrorKind::ConnectionRefused
                    && begun.elapsed() < Duration::from_secs(20) =>
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

#[test]
fn real_by_tls_with_certificates_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (ours, others) = (authority(at, "ours"), authority(at, "others"));
    certify(at, "server", "localhost", &ours);
    certify(at, "client", "anything", &ours);
    certify(at, "stranger", "anything", &others);
    let conf = format!(
        "listen_tls = 1\nlisten_tcp = 1\nauth_tcp = \"none\"\nauth_tls = \"none\"\nlisten_addr = \"127.0.0.1\"\n\
         ca_file = \"{0}/ours.pem\"\ncert_file = \"{0}/servercert.pem\"\nkey_file = \"{0}/serverkey.pem\"\n",
        at.display()
    );
    let daemon = Daemon::start_with(QemuUser::Root, &conf);
    let path = |name: &str| at.join(name);
    let good = Tls {
        authority: path("ours.pem"),
        certificate: path("clientcert.pem"),
        key: path("clientkey.pem"),
        ..Tls::new("localhost", None)
    };
    let refused = |tls: Tls| async move {
        match opened(&Endpoint::Tls(tls)).await {
            Err(Error::Unreachable { source, .. }) => source.to_string(),
            other => panic!("{:?}", other.map(|_| ())),
        }
    };
    inside(&daemon, async {
        let libvirt = opened(&Endpoint::Tls(good.clone())).await.unwrap();
        let here = Connection::open(&Endpoint::Unix(daemon.socket()), QEMU, 0).await.unwrap();
        assert_eq!(libvirt.hostname().await.unwrap(), here.hostname().await.unwrap());
        assert_eq!(libvirt.domains(list::ACTIVE).await.unwrap(), []);
        libvirt.close().await.unwrap();

        let wrong = refused(Tls { authority: path("others.pem"), ..good.clone() }).await;
        assert!(wrong.contains("UnknownIssuer"), "the daemon is not the authority's: {wrong}");
        let name = refused(Tls { host: "127.0.0.1".into(), ..good.clone() }).await;
        assert!(name.contains("certificate"), "the name is not in the certificate: {name}");
        let stranger = Tls { certificate: path("strangercert.pem"), key: path("strangerkey.pem"), ..good.clone() };
        refused(stranger).await;
        let none =
            Connection::open(&Endpoint::Tls(Tls { certificate: path("none.pem"), ..good.clone() }), QEMU, 0).await;
        assert!(matches!(&none, Err(Error::Credentials { path: file, .. }) if *file == path("none.pem")), "{none:?}");

        let plain = Target::parse("qemu+tcp://127.0.0.1/system", true).unwrap();
        let libvirt = opened(&plain.endpoint).await.unwrap();
        assert_eq!(libvirt.hostname().await.unwrap(), here.hostname().await.unwrap());
        // TLS spoken to what is none.
        let deaf = Tls { port: 16509, ..good.clone() };
        let settings = Settings { deadline: Duration::from_secs(2), ..Settings::default() };
        let silent = Connection::open_with(&Endpoint::Tls(deaf), QEMU, 0, &settings).await;
        assert!(matches!(silent, Err(Error::Unreachable { .. })), "{:?}", silent.map(|_| ()));
    });
}

/// A stand-in for `ssh` in a folder: writes its arguments down, then does as it is told.
fn stand_in(folder: &Path, script: &str) -> Ssh {
    let program = folder.join("ssh");
    let text =
        format!("#!/bin/sh\nprintf '%s\\n' \"$@\" > {}/arguments\nfor last; do :; done\n{script}\n", folder.display());
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    Ssh { program, ..Ssh::new("far.example") }
}

async fn by_ssh(ssh: Ssh, deadline: Duration) -> Result<Connection, Error> {
    let settings = Settings { deadline, ..Settings::default() };
    Connection::open_with(&Endpoint::Ssh(ssh), QEMU, 0, &settings).await
}

#[tokio::test]
async fn real_behind_ssh_by_the_helper_over_there() {
    let daemon = Daemon::start();
    let folder = tempfile::tempdir().unwrap();
    // The far end has the socket where it usually is.
    let usual = daemon.socket().parent().unwrap().join("run/libvirt/libvirt-sock");
    std::os::unix::fs::symlink(daemon.socket(), &usual).unwrap();
    let script = format!("exec nsenter -m -t {} sh -c \"$last\"", daemon.pid());
    let ssh = Ssh { user: Some("root".into()), port: Some(2200), ..stand_in(folder.path(), &script) };
    let libvirt = by_ssh(ssh, Duration::from_secs(20)).await.unwrap();
    let here = Connection::open(&Endpoint::Unix(daemon.socket()), QEMU, 0).await.unwrap();
    assert_eq!(libvirt.hostname().await.unwrap(), here.hostname().await.unwrap());
    let arguments = std::fs::read_to_string(folder.path().join("arguments")).unwrap();
    let wanted = "-T\n-e\nnone\n-o\nBatchMode=yes\n-o\nConnectTimeout=20\n-o\nServerAliveInterval=10\n-o\n\
                  ServerAliveCountMax=3\n-p\n2200\n-l\nroot\n--\nfar.example\nsh -c '";
    assert!(arguments.starts_with(wanted), "{arguments}");
    libvirt.close().await.unwrap();
}

#[test]
fn the_command_line_holds_every_wish_and_nothing_of_it_is_an_option() {
    let target: Target = "qemu+ssh://me@h/system?keyfile=/k&known_hosts=/n&socket=/it's".parse().unwrap();
    let Endpoint::Ssh(ssh) = target.endpoint else { panic!() };
    let words = ssh.arguments(Duration::from_millis(10));
    let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
    let end = words.iter().position(|word| *word == "--").unwrap();
    assert_eq!(words[end + 1], "h");
    assert_eq!(words.len(), end + 3);
    for pair in [["-o", "IdentitiesOnly=yes"], ["-i", "/k"], ["-o", "UserKnownHostsFile=\"/n\""], ["-l", "me"]] {
        assert!(words[..end].windows(2).any(|two| two == pair), "{pair:?} in {words:?}");
    }
    // What reaches the far shell is one word for `sh`, whatever the socket is called.
    let said = std::process::Command::new("sh")
        .arg("-c")
        .arg(words[end + 2].replacen("sh -c ", "printf %s ", 1))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap(), "exec nc -U '/it'\\''s'");
}

#[tokio::test]
async fn what_ssh_says_is_the_reason_and_a_banner_is_no_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let denied = stand_in(folder.path(), "echo 'me@far: Permission denied (publickey).' >&2; exit 255");
    let said = by_ssh(denied, Duration::from_secs(20)).await.map(|_| ()).unwrap_err();
    assert!(
        matches!(&said, Error::Carrier { said, .. } if said == "me@far: Permission denied (publickey)."),
        "{said:?}"
    );
    let chatty = stand_in(folder.path(), "echo 'Welcome to far!'; cat >/dev/null");
    let said = by_ssh(chatty, Duration::from_secs(20)).await.map(|_| ()).unwrap_err();
    assert!(matches!(said, Error::Broken(Broken::Protocol(_))), "{said:?}");
    let nobody = Ssh { program: PathBuf::from("/nonexistent/ssh"), ..Ssh::new("far.example") };
    let said = by_ssh(nobody, Duration::from_secs(20)).await.map(|_| ()).unwrap_err();
    assert!(matches!(said, Error::Unreachable { .. }), "{said:?}");
}

#[tokio::test]
async fn an_ssh_that_never_answers_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let mute = stand_in(folder.path(), &format!("echo $$ > {}/pid; exec sleep 1000", folder.path().display()));
    let said = by_ssh(mute, Duration::from_secs(2)).await.map(|_| ()).unwrap_err();
    assert!(matches!(said, Error::Deadline { .. }), "{said:?}");
    let pid = std::fs::read_to_string(folder.path().join("pid")).unwrap();
    let begun = Instant::now();
    while Path::new(&format!("/proc/{}/exe", pid.trim())).read_link().is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it lives on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
