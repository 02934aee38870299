//! Files into and out of guests, and the output of executions.

use crate::canned::{answers, id};
use crate::fake::{Fake, Seen, refusal};
use perigee_model::Code;
use std::os::unix::fs::PermissionsExt;

#[test]
fn files_go_in_with_their_mode() {
    let fake = Fake::start(answers);
    let file = fake.dir.path().join("job.sh");
    std::fs::write(&file, "x".repeat(300_000)).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    let ran = fake.run(&["sandbox", "cp", file.to_str().unwrap(), "web:/root/"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""));
    let seen = fake.seen();
    assert_eq!(seen[0].line(), "PUT /api/v1/sandboxes/web/files?path=%2Froot%2Fjob.sh&mode=493");
    assert_eq!(seen[0].body.len(), 300_000);
    let ran = fake.run_with_input(&["sandbox", "cp", "-", "web:/a b"], b"from stdin");
    assert_eq!(ran.code, 0, "{}", ran.err);
    let last = fake.seen().pop().unwrap();
    assert_eq!(
        (last.line().as_str(), &last.body[..]),
        ("PUT /api/v1/sandboxes/web/files?path=%2Fa%20b&mode=420", &b"from stdin"[..])
    );
}

#[test]
fn files_come_out_whole_or_not_at_all() {
    let fake = Fake::start(answers);
    assert_eq!(fake.run(&["sandbox", "cp", "web:/etc/motd", "-"]).out, "content\n");
    let dir = tempfile::tempdir().unwrap();
    let ran = fake.run(&["sandbox", "cp", "web:/etc/motd", dir.path().to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(std::fs::read_to_string(dir.path().join("motd")).unwrap(), "content\n");
    let refusing = Fake::start(|_: &Seen| refusal(Code::NoSuchFile, 404, "/x"));
    let to = dir.path().join("motd");
    assert_eq!(refusing.run(&["sandbox", "cp", "web:/x", to.to_str().unwrap()]).code, 3);
    assert_eq!(std::fs::read_to_string(&to).unwrap(), "content\n", "what was there stays");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half-done is left");
}

#[test]
fn copies_need_one_guest() {
    let fake = Fake::start(answers);
    for (source, destination) in [("a", "b"), ("web:/a", "web:/b"), ("-", "-"), ("-", "web:/dir/")] {
        assert_eq!(fake.run(&["sandbox", "cp", source, destination]).code, 2, "{source} {destination}");
    }
    assert!(fake.lines().is_empty());
    assert_eq!(fake.run(&["sandbox", "cp", "/nowhere/at/all", "web:/x"]).code, 1);
}

#[test]
fn output_is_bytes() {
    let fake = Fake::start(answers);
    let mut command = fake.command(&["execution", "output", &id(0xe1), "--stream", "stderr"]);
    assert_eq!(command.output().unwrap().stdout, [0, 159, 146, 150]);
    assert!(fake.lines()[0].ends_with("/output?stream=stderr"));
}
