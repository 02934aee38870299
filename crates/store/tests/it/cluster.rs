//! A private PostgreSQL 15 cluster on a Unix socket, gone when the test ends.

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

pub struct Cluster {
    folder: TempDir,
    server: Child,
}

impl Cluster {
    pub fn start() -> Self {
        let programs = Path::new(PROGRAMS);
        assert!(programs.join("initdb").exists(), "PostgreSQL 15 is not installed: `scripts/setup test` installs it");
        let folder = tempfile::Builder::new().prefix("perigee-pg-").tempdir_in("/tmp").unwrap();
        if geteuid().is_root() {
            let user = User::from_name("postgres").unwrap().expect("the user postgres; `scripts/setup test` makes it");
            chown(folder.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        let data = folder.path().join("data");
        let made = run_as_postgres(programs.join("initdb"))
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let server = run_as_postgres(programs.join("postgres"))
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(folder.path())
            .args(["-h", "", "-c", "fsync=off", "-c", "full_page_writes=off"])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let cluster = Self { folder, server };
        cluster.wait();
        cluster
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.folder.path().display())
    }

    /// Makes an empty database; gives its URL.
    pub async fn database(&self, name: &str) -> String {
        let mut link = PgConnection::connect(&self.url("postgres")).await.unwrap();
        let text = AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::raw_sql(text).execute(&mut link).await.unwrap();
        self.url(name)
    }

    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let asks = || {
            Command::new(Path::new(PROGRAMS).join("pg_isready")).arg("-q").arg("-h").arg(self.folder.path()).status()
        };
        while !asks().unwrap().success() {
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "PostgreSQL does not answer: {}", log());
            std::thread::yield_now();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.server.id()).unwrap());
        let _ = kill(pid, Signal::SIGINT);
        let _ = self.server.wait();
    }
}

/// PostgreSQL refuses to run as root; and it shall not outlive a test that was killed.
fn run_as_postgres(program: PathBuf) -> Command {
    let mut command = Command::new("setpriv");
    command.current_dir("/").args(["--pdeathsig", "INT"]);
    if geteuid().is_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups"]);
    }
    command.arg("--").arg(program);
    command
}
