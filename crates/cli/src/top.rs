//! `perigee host top`: what every host does now, drawn again as measurements come.

use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;
use crate::spark::{bar, sparkline};
use crate::table::aligned;
use crate::units::{show_age, show_bytes};
use perigee_api::live::{LiveMessage, LiveSeries};
use perigee_client::{ListQuery, LiveReceiver};
use perigee_model::Timestamp;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

/// Values kept for the sparkline of one host.
const KEPT: usize = 30;
const BAR_CELLS: usize = 12;
/// Ages go on between measurements.
const DRAW_EVERY: Duration = Duration::from_secs(1);
/// The first message holds all there is.
const FIRST_WITHIN: Duration = Duration::from_secs(10);
/// Older values are no news: three intervals.
const STALE_AFTER: Duration = Duration::from_secs(10);

const BEGIN: &str = "\x1b[?1049h\x1b[?25l";
const END: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const REST_OF_LINE: &str = "\x1b[K";
const REST_OF_SCREEN: &str = "\x1b[J";

/// What is known of one stream.
#[derive(Default)]
struct Seen {
    series: Vec<LiveSeries>,
    values: Vec<Option<f64>>,
    at_ms: i64,
    cpu: VecDeque<Option<f64>>,
}

impl Seen {
    fn value(&self, name: &str) -> Option<f64> {
        let at = self.series.iter().position(|s| s.name == name && s.labels.is_empty())?;
        *self.values.get(at)?
    }
    fn remember(&mut self) {
        self.cpu.push_back(self.value("perigee_host_cpu_usage_ratio"));
        if self.cpu.len() > KEPT {
            self.cpu.pop_front();
        }
    }
}

/// The picture: every host's node stream.
#[derive(Default)]
struct Picture(BTreeMap<String, Seen>);

impl Picture {
    fn take(&mut self, message: LiveMessage) {
        match message {
            LiveMessage::Snapshot { streams, .. } => {
                for stream in streams.into_iter().filter(|s| s.stream == "node") {
                    let seen = self.0.entry(stream.host).or_default();
                    (seen.series, seen.values, seen.at_ms) = (stream.series, stream.values, stream.at);
                    seen.remember();
                }
            }
            LiveMessage::Frame { host, stream, at, reset, added, columns, values, .. } if stream == "node" => {
                let seen = self.0.entry(host).or_default();
                if reset {
                    seen.series.clear();
                    seen.values.clear();
                }
                seen.series.extend(added);
                seen.values.resize(seen.series.len(), None);
                for (column, value) in columns.into_iter().zip(values) {
                    if let Some(place) = seen.values.get_mut(column as usize) {
                        *place = value;
                    }
                }
                seen.at_ms = at;
                seen.remember();
            }
            LiveMessage::Frame { .. } => {}
        }
    }

    fn rows(&self, names: &BTreeMap<String, String>, now: Timestamp) -> Vec<Vec<String>> {
        let heads = ["HOST", "CPU", "", "MEMORY", "", "LOAD", "AGE", "CPU_OVER_TIME"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        for (host, seen) in &self.0 {
            let age = now.since(Timestamp::from_micros(seen.at_ms.saturating_mul(1000)));
            let share = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{:.0}%", v * 100.0));
            let drawn = |value: Option<f64>| value.map_or(String::new(), |v| bar(v, BAR_CELLS));
            let cpu = seen.value("perigee_host_cpu_usage_ratio");
            let memory =
                seen.value("perigee_host_memory_used_bytes").zip(seen.value("perigee_host_memory_total_bytes"));
            let used = memory.map(|(used, total)| used / total);
            let old = if age > STALE_AFTER { " old" } else { "" };
            rows.push(vec![
                names.get(host).unwrap_or(host).clone(),
                share(cpu),
                drawn(cpu),
                memory.map_or("-".to_owned(), |(used, total)| format!("{} of {}", size(used), size(total))),
                drawn(used),
                seen.value("node_load1").map_or("-".to_owned(), |v| format!("{v:.2}")),
                show_age(age) + old,
                sparkline(&seen.cpu.iter().copied().collect::<Vec<_>>(), KEPT, Some(0.0), Some(1.0)),
            ]);
        }
        rows
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sizes; a negative one is none")]
fn size(bytes: f64) -> String {
    // Three digits are enough to look at.
    let bytes = bytes.max(0.0) as u64;
    show_bytes(if bytes > 1 << 30 { bytes >> 26 << 26 } else { bytes >> 20 << 20 })
}

/// Draws until Ctrl-C; where it cannot draw, prints what there is once.
pub async fn run(session: &Session, once: bool) -> Result<Exit, Failure> {
    let client = session.client()?;
    let mut receiver = client.watch(None).await?;
    let mut picture = Picture::default();
    let first = tokio::time::timeout(FIRST_WITHIN, receiver.next()).await;
    picture.take(first.map_err(|_| Failure::new(Exit::TIMEOUT, "No measurements came"))??);
    let names = names(session).await?;
    if once || !session.settings.stdout_terminal {
        let rows = picture.rows(&names, session.clock.now());
        session.out.text(&if session.settings.stdout_terminal {
            aligned(&rows)
        } else {
            crate::table::tabbed(&rows)
        })?;
        return Ok(Exit::OK);
    }
    session.out.text(BEGIN)?;
    let ended = draw(session, &mut receiver, &mut picture, names).await;
    session.out.text(END)?;
    ended.map(|()| Exit::OK)
}

async fn draw(
    session: &Session,
    receiver: &mut LiveReceiver,
    picture: &mut Picture,
    mut names: BTreeMap<String, String>,
) -> Result<(), Failure> {
    let mut tick = tokio::time::interval(DRAW_EVERY);
    loop {
        let now = session.clock.now();
        if picture.0.keys().any(|host| !names.contains_key(host)) {
            names = self::names(session).await?;
        }
        let mut text = format!("{HOME}perigee host top   {now}   Ctrl-C ends{REST_OF_LINE}\n{REST_OF_LINE}\n");
        for line in aligned(&picture.rows(&names, now)).lines() {
            let _ = writeln!(text, "{line}{REST_OF_LINE}");
        }
        text += REST_OF_SCREEN;
        session.out.text(&text)?;
        tokio::select! {
            message = receiver.next() => picture.take(message?),
            _ = tick.tick() => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

async fn names(session: &Session) -> Result<BTreeMap<String, String>, Failure> {
    let mut names = BTreeMap::new();
    let mut query = ListQuery { limit: Some(1000), ..ListQuery::default() };
    loop {
        let page = session.client()?.hosts(&query).await?;
        names.extend(page.items.into_iter().map(|host| (host.id, host.name)));
        match page.next_page_token {
            Some(token) => query.page_token = Some(token),
            None => return Ok(names),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str) -> LiveSeries {
        LiveSeries { name: name.to_owned(), labels: BTreeMap::new(), kind: "gauge".to_owned() }
    }

    #[test]
    fn frames_change_the_picture() {
        let mut picture = Picture::default();
        let frame = |reset, added: Vec<LiveSeries>, columns: Vec<u32>, values: Vec<Option<f64>>| LiveMessage::Frame {
            sequence: 1,
            host: "h".to_owned(),
            stream: "node".to_owned(),
            at: 1_000,
            reset,
            added,
            columns,
            values,
        };
        let cpu = "perigee_host_cpu_usage_ratio";
        picture.take(frame(true, vec![series("node_load1"), series(cpu)], vec![0, 1], vec![Some(0.5), Some(0.25)]));
        picture.take(frame(false, vec![], vec![1], vec![Some(0.75)]));
        let names = BTreeMap::from([("h".to_owned(), "web-1".to_owned())]);
        let rows = picture.rows(&names, Timestamp::from_micros(3_000_000));
        assert_eq!(rows[1].join("|"), "web-1|75%|█████████░░░|-||0.50|2s|▃▆");
        picture.take(frame(false, vec![], vec![1], vec![None]));
        let rows = picture.rows(&names, Timestamp::from_micros(60_000_000));
        assert_eq!(rows[1][..3].join("|"), "web-1|-|");
        assert_eq!(rows[1][6], "59s old");
    }
}
