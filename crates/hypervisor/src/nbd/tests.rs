use super::*;
use std::process::{Child, Command, Stdio};
use tokio::net::UnixListener;

/// A real server on a file, ended with this.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

const MIB: u64 = 1 << 20;

fn made(command: &mut Command) {
    assert!(command.stdout(Stdio::null()).status().unwrap().success(), "{command:?}");
}

async fn shown(dir: &Path, disk: &Path) -> (Server, Nbd) {
    let socket = dir.join("nbd");
    let mut command = Command::new("qemu-nbd");
    let command =
        command.args(["--format=qcow2", "--persistent", "--export-name=disk", "--socket"]).arg(&socket).arg(disk);
    let server = Server(command.stdin(Stdio::null()).spawn().unwrap());
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        match Nbd::open(&socket, "disk", &["base:allocation"]).await {
            Ok(nbd) => return (server, nbd),
            Err(error) if std::time::Instant::now() > deadline => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

#[tokio::test]
async fn real_what_is_put_on_a_disk_is_told_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.qcow2");
    made(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&disk).arg("96M"));
    let (server, mut nbd) = shown(dir.path(), &disk).await;
    assert_eq!(nbd.bytes(), 96 * MIB);
    let whole = u32::try_from(96 * MIB).unwrap();
    assert_eq!(nbd.extents("base:allocation", 0, whole).await.unwrap(), [Extent { bytes: 96 * MIB, flags: 3 }]);
    let bytes: Vec<u8> = (0..MIB).map(|at| u8::try_from(at % 251).unwrap()).collect();
    nbd.write(64 * MIB, &bytes).await.unwrap();
    nbd.flush().await.unwrap();
    let extents = nbd.extents("base:allocation", 60 * MIB, u32::try_from(36 * MIB).unwrap()).await.unwrap();
    let told: Vec<_> = extents.iter().map(|extent| (extent.bytes / MIB, extent.flags)).collect();
    assert_eq!(told, [(4, 3), (1, 0), (31, 3)]);
    assert_eq!(nbd.read(64 * MIB, u32::try_from(MIB).unwrap()).await.unwrap(), bytes);
    let around = nbd.read(64 * MIB - 7, 14).await.unwrap();
    assert_eq!((&around[..7], &around[7..]), (&[0; 7][..], &bytes[..7]), "zeros come as a hole");
    for (at, length) in [(96 * MIB, 1), (96 * MIB - 1, 2), (u64::MAX, 1), (0, 0), (0, REQUEST_BYTES_MAX + 1)] {
        let error = nbd.read(at, length).await.unwrap_err().to_string();
        assert!(error.contains("are not on a disk"), "{at} {length}: {error}");
    }
    assert!(nbd.extents("qemu:dirty-bitmap:x", 0, 512).await.is_err());
    nbd.close().await;
    let socket = dir.path().join("nbd");
    let none = Nbd::open(&socket, "other", &[]).await.err().expect("no such export").to_string();
    assert!(none.contains("refuses option"), "{none}");
    drop(server);
    assert!(Nbd::open(&socket, "disk", &[]).await.is_err(), "nobody listens");
}

/// Answers a client with these bytes, whatever it says, and hangs up.
async fn told(bytes: Vec<u8>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nbd");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        drop(stream.write_all(&bytes).await);
        let mut said = Vec::new();
        drop(tokio::time::timeout(Duration::from_millis(200), stream.read_to_end(&mut said)).await);
    });
    let asked = async {
        let mut nbd = Nbd::open(&socket, "disk", &["base:allocation"]).await?;
        nbd.read(0, 512).await
    };
    let answer = asked.await.map(|bytes| format!("{} bytes", bytes.len())).unwrap_or_else(|error| error.to_string());
    server.await.unwrap();
    answer
}

fn greeting() -> Vec<u8> {
    let mut bytes = b"NBDMAGICIHAVEOPT".to_vec();
    bytes.extend([0, 3]);
    bytes
}

fn option(bytes: &mut Vec<u8>, option: u32, kind: u32, body: &[u8]) {
    bytes.extend(OPTION_REPLY.to_be_bytes());
    bytes.extend(option.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
}

/// All that comes before the first request: a disk of 4 KiB.
fn opened() -> Vec<u8> {
    let mut bytes = greeting();
    option(&mut bytes, OPT_STRUCTURED, REP_ACK, &[]);
    option(&mut bytes, OPT_SET_META, REP_META, b"\0\0\0\x01base:allocation");
    option(&mut bytes, OPT_SET_META, REP_ACK, &[]);
    option(&mut bytes, OPT_GO, REP_INFO, &[0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 1]);
    option(&mut bytes, OPT_GO, REP_ACK, &[]);
    bytes
}

fn chunk(bytes: &mut Vec<u8>, flags: u16, kind: u16, cookie: u64, body: &[u8]) {
    bytes.extend(STRUCTURED_REPLY.to_be_bytes());
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
}

#[tokio::test]
async fn a_server_that_is_none_is_told_in_words() {
    assert!(told(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()).await.contains("does not speak NBD"));
    assert!(told(greeting()[..10].to_vec()).await.contains("NBD: "));
    let mut long = greeting();
    long.extend(OPTION_REPLY.to_be_bytes());
    long.extend([0, 0, 0, 8, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
    assert!(told(long).await.contains("an answer that is none"));
    let mut refused = greeting();
    option(&mut refused, OPT_STRUCTURED, REP_ERROR | 1, b"not here");
    assert!(told(refused).await.contains("not here"));
    let mut sizeless = greeting();
    option(&mut sizeless, OPT_STRUCTURED, REP_ACK, &[]);
    option(&mut sizeless, OPT_SET_META, REP_ACK, &[]);
    option(&mut sizeless, OPT_GO, REP_ACK, &[]);
    assert!(told(sizeless).await.contains("how large"));
}

#[tokio::test]
async fn bytes_that_are_missing_or_elsewhere_are_never_taken_for_zeros() {
    let with = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = opened();
        write(&mut bytes);
        told(bytes)
    };
    let data = |at: u64, length: usize| [&at.to_be_bytes()[..], &vec![1; length]].concat();
    assert_eq!(with(&|b| chunk(b, CHUNK_DONE, CHUNK_DATA, 1, &data(0, 512))).await, "512 bytes");
    assert!(with(&|b| chunk(b, CHUNK_DONE, CHUNK_DATA, 1, &data(0, 511))).await.contains("missing"));
    assert!(with(&|b| chunk(b, CHUNK_DONE, CHUNK_NONE, 1, &[])).await.contains("missing"));
    assert!(with(&|b| chunk(b, CHUNK_DONE, CHUNK_DATA, 1, &data(1, 512))).await.contains("ends early"));
    assert!(with(&|b| chunk(b, CHUNK_DONE, CHUNK_DATA, 2, &data(0, 512))).await.contains("something else"));
    assert!(with(&|b| chunk(b, CHUNK_DONE, 77, 1, &[])).await.contains("not known"));
    assert!(with(&|b| chunk(b, CHUNK_DONE, CHUNK_ERROR | 1, 1, &[0, 0, 0, 5, 0, 0])).await.contains("error 5"));
    assert!(with(&|b| chunk(b, CHUNK_DONE, CHUNK_ERROR | 1, 1, &[0, 0, 0, 28, 0, 0])).await.contains("no room"));
    assert!(with(&|b| b.extend([9; 40])).await.contains("a reply that is none"));
}
