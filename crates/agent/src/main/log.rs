//! Log lines: JSON on standard error, each with program, version and instance.

use std::io::Write;
use std::sync::OnceLock;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt, registry};

static INSTANCE: OnceLock<String> = OnceLock::new();

/// Begins to log what a filter like `info,perigee_agent=debug` lets through.
pub fn start(filter: &str) {
    let filter = filter.parse().unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    let lines = fmt::layer().json().flatten_event(true).with_writer(|| Marked);
    registry().with(lines.with_filter(filter)).init();
}

/// From now on lines carry this instance.
pub fn set_instance(instance: &str) {
    let _ = INSTANCE.set(instance.to_owned());
}

/// Puts our fields in front of a line's own. A line comes in one piece.
struct Marked;

impl Write for Marked {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let mut out = std::io::stderr().lock();
        out.write_all(&marked(line, INSTANCE.get().map(String::as_str)))?;
        Ok(line.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

fn marked(line: &[u8], instance: Option<&str>) -> Vec<u8> {
    let Some(rest) = line.strip_prefix(b"{") else { return line.to_vec() };
    let version = env!("CARGO_PKG_VERSION");
    let mut all = format!("{{\"program\":\"perigee-agent\",\"version\":\"{version}\",").into_bytes();
    if let Some(instance) = instance {
        all.extend_from_slice(format!("\"instance\":\"{instance}\",").as_bytes());
    }
    all.extend_from_slice(rest);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_json() {
        let line = marked(b"{\"level\":\"INFO\"}\n", Some("0badcafe"));
        let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((&json["level"], &json["instance"]), (&"INFO".into(), &"0badcafe".into()));
        assert_eq!(marked(b"plain\n", None), b"plain\n");
    }
}
