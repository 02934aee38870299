//! N4, N6: what a sample takes on disk, and how long a question takes, beside Prometheus and
//! VictoriaMetrics that hold the very same samples.
//!
//! ```text
//! perigee-sim fleet --past ─ frames that waited in spools, over the agent link ─▶ perigeed
//!        └─ the same as text ─ promtool, one block ─▶ Prometheus
//!                └─ bulk import, flush, merge ─▶ VictoriaMetrics
//! ```

use crate::instance::Door;
use crate::numbers::Sample;
use crate::report::{Line, Report};
use crate::stores::{self, Looked, Store, host_name, until};
use crate::wire::Wire;
use crate::{Options, say};
use anyhow::{Context as _, Result, ensure};
use http::Method;
use perigee_clock::Clock;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::time::sleep;

/// So many hosts for those data that are asked about …
const HOSTS: usize = 20;
/// … and for those whose size alone is of interest.
const HOSTS_FEW: usize = 4;
const PAST_SECONDS: u32 = 1200;
/// Frames of a block when a host is measured each second.
const BLOCK_FRAMES: u32 = 600;
const TAKEN_WITHIN: Duration = Duration::from_secs(120);
/// A body of the bulk import.
const BULK_BYTES: usize = 8 << 20;
const REPEATS: usize = 5;
const ASKED: usize = 60;
/// Numbers that are nearer than this are one number.
const SAME: f64 = 1e-9;
/// Labels that Perigee gives to every series of a host.
const OURS: [&str; 3] = ["host_id", "instance", "job"];
const FROM_PROMETHEUS: f64 = 1.0 / 3.0;
const FROM_VICTORIA: f64 = 2.0 / 3.0;

/// A past that all three have.
struct Kept {
    perigee: Store,
    prometheus: Store,
    victoria: Store,
    /// The last second of it.
    end: i64,
    /// Bytes of a sample: blocks, with the index.
    bytes: [f64; 3],
    notes: Vec<String>,
}

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let clock = Clock::real();
    for mix in ["idle", "changing", "busy"] {
        let is_asked = mix == "busy";
        let hosts = if is_asked && !options.quick { HOSTS } else { HOSTS_FEW };
        say::progress(&format!("N4: {hosts} hosts, {mix}"));
        let folder = tempfile::Builder::new().prefix("pg-bench-").tempdir()?;
        let (instance, perigee) = stores::alone(options).await?;
        let kept = Kept::fill(perigee, instance.path(), &instance, folder.path(), &clock, hosts, mix).await?;
        kept.sizes(mix, report);
        if is_asked {
            kept.questions(&clock, hosts, report).await?;
        }
    }
    Ok(())
}

impl Kept {
    async fn fill(
        perigee: Store,
        root: &Path,
        instance: &crate::instance::Instance,
        folder: &Path,
        clock: &Clock,
        hosts: usize,
        mix: &str,
    ) -> Result<Self> {
        let texts = folder.join("texts");
        fs::create_dir_all(&texts)?;
        let before = Looked::at(clock, &[&perigee])?;
        let past = PAST_SECONDS.to_string();
        let fleet = stores::play(
            instance,
            hosts,
            &["--mix", mix, "--past", &past, "--past-dir", &texts.display().to_string()],
        )?;
        let blocks = hosts * (PAST_SECONDS / BLOCK_FRAMES) as usize;
        until("the past of all hosts in blocks", TAKEN_WITHIN, async || {
            Ok(blocks_in(&root.join("series/raw"))?.0 >= blocks)
        })
        .await?;
        drop(fleet);
        let took = perigee.scheduled()? - before.scheduled[0];
        let (found, ours) = blocks_in(&root.join("series/raw"))?;
        ensure!(found == blocks, "{found} blocks instead of {blocks}");
        let (samples, end) = count(&texts, hosts)?;
        let log = bytes_in(&root.join("series/log"))?;

        let (blocks, index) = make_blocks(&texts, folder, hosts)?;
        let prometheus = Store::prometheus(folder).await?;
        let victoria = Store::victoria(folder).await?;
        let bulk = import(&victoria, &texts, hosts).await?;
        let data = folder.join("victoria");
        let (values, names) = (bytes_in(&data.join("data"))?, bytes_in(&data.join("indexdb"))?);
        fs::remove_dir_all(&texts)?;
        let each = |bytes: u64| bytes as f64 / samples as f64;
        let nanos = |time: Duration| time.as_nanos() as f64 / samples as f64;
        let notes = vec![
            format!(
                "{mix}: {hosts} hosts, {samples} samples of {PAST_SECONDS} s; bytes for each: Perigee's blocks {:.3} (its log holds \
                 {log} bytes more at that moment); Prometheus {:.3} and index {:.3}; VictoriaMetrics {:.3} and index {:.3}",
                each(ours),
                each(blocks - index),
                each(index),
                each(values),
                each(names)
            ),
            format!(
                "{mix}, in bulk, processor time for each sample: Perigee {:.0} ns (joining, the link with TLS, log, blocks), \
                 VictoriaMetrics {:.0} ns (import of text, flush, merge)",
                nanos(took),
                nanos(bulk)
            ),
        ];
        let bytes = [each(ours), each(blocks), each(values + names)];
        Ok(Self { perigee, prometheus, victoria, end, bytes, notes })
    }

    fn sizes(&self, mix: &str, report: &mut Report) {
        let [ours, prometheus, victoria] = self.bytes.map(|bytes| [bytes].into_iter().collect::<Sample>());
        let line = || Line::new("N4", format!("{mix}: disk for each sample, with the index"), &ours).in_unit("B");
        report.line(line().beside("Prometheus", &prometheus).at_most_of_peer(FROM_PROMETHEUS));
        report.line(line().beside("VictoriaMetrics", &victoria).at_most_of_peer(FROM_VICTORIA));
        self.notes.iter().for_each(|note| report.note("N4", note.clone()));
    }

    async fn questions(&self, clock: &Clock, hosts: usize, report: &mut Report) -> Result<()> {
        let host = host_name(hosts / 2);
        let one = format!("node_network_receive_bytes_total{{host=\"{host}\",device=\"eth0\"}}");
        let sum = "sum by (host) (node_cpu_seconds_total{mode=\"user\"})".to_owned();
        // What any answer of so many points costs, HTTP and JSON: nothing is read for it.
        let nothing = ("a number", "1".to_owned(), None);
        for (what, query, most) in
            [nothing, ("one series", one, Some(0.5)), ("a sum for each host", sum, Some(1.0 / 3.0))]
        {
            let [ours, prometheus, victoria] = self.asked(clock, &query, hosts).await?;
            let what = format!("{what}: 15 min, a point every 5 s ({query})");
            let line = || Line::new("N6", what.clone(), &ours);
            for (name, theirs) in [("Prometheus", &prometheus), ("VictoriaMetrics", &victoria)] {
                let line = line().beside(name, theirs);
                report.line(match most {
                    Some(most) => line.at_most_of_peer(most),
                    None => line,
                });
            }
            report.line(Line::new("N6", format!("{query}: Prometheus"), &prometheus));
            report.line(Line::new("N6", format!("{query}: VictoriaMetrics"), &victoria));
        }
        Ok(())
    }

    /// All three in turns, after they agreed.
    async fn asked(&self, clock: &Clock, query: &str, hosts: usize) -> Result<[Sample; 3]> {
        let stores = [&self.perigee, &self.prometheus, &self.victoria];
        let (start, end) = (self.end / 60 * 60 - 960, self.end / 60 * 60 - 60);
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/api/v1/query_range?query={encoded}&start={start}&end={end}&step=5");
        let path = |store: &Store| format!("{path}{}", store.uncached);
        let ours = points(&self.perigee.get(&path(&self.perigee)).await?)?;
        ensure!(ours.len() == 1 || ours.len() == hosts, "{} series for {query}", ours.len());
        for store in &stores[1..] {
            agree(&ours, &points(&store.get(&path(store)).await?)?)
                .with_context(|| format!("{query}: {}", store.name))?;
        }
        let paths = stores.map(path);
        let doors = stores.map(|store| store.door.clone());
        let clock = clock.clone();
        let (samples, medians) = tokio::task::spawn_blocking(move || in_turns(&clock, &doors, &paths)).await??;
        say::progress(&format!("N6: medians of {REPEATS} rounds, {query}: {medians:.3?} ms"));
        Ok(samples)
    }
}

/// How long each takes to answer, in rounds of turns, and the medians of the rounds.
fn in_turns(clock: &Clock, doors: &[Door; 3], paths: &[String; 3]) -> Result<([Sample; 3], [Vec<f64>; 3])> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let [ours, prometheus, victoria] = doors;
        let mut wires = [Wire::connect(ours).await?, Wire::connect(prometheus).await?, Wire::connect(victoria).await?];
        let mut samples: [Sample; 3] = Default::default();
        let mut medians: [Vec<f64>; 3] = Default::default();
        for _ in 0..REPEATS {
            let mut round: [Sample; 3] = Default::default();
            for _ in 0..ASKED {
                for (turn, wire) in wires.iter_mut().enumerate() {
                    let began = clock.instant();
                    wire.get(&paths[turn]).await?;
                    let took = began.elapsed();
                    samples[turn].push(took);
                    round[turn].push(took);
                }
            }
            for (medians, round) in medians.iter_mut().zip(&round) {
                medians.push(round.spread().median_ms);
            }
        }
        Ok((samples, medians))
    })
}

type Points = BTreeMap<String, Vec<(f64, f64)>>;

/// Series and their points, of an answer in the shape of Prometheus.
fn points(body: &[u8]) -> Result<Points> {
    let answer: Value = serde_json::from_slice(body)?;
    let result = answer["data"]["result"].as_array().context("no result")?;
    let mut all = Points::new();
    for series in result {
        let labels = series["metric"].as_object().context("no labels")?;
        let name = labels
            .iter()
            .filter(|(name, _)| !OURS.contains(&name.as_str()))
            .map(|(name, value)| format!("{name}={value} "));
        let values = series["values"].as_array().context("no values")?;
        let point = |pair: &Value| Some((pair[0].as_f64()?, pair[1].as_str()?.parse().ok()?));
        all.insert(name.collect(), values.iter().map(point).collect::<Option<_>>().context("no points")?);
    }
    Ok(all)
}

fn agree(ours: &Points, theirs: &Points) -> Result<()> {
    ensure!(ours.keys().eq(theirs.keys()), "other series: {:?} and {:?}", ours.keys(), theirs.keys());
    for (name, points) in ours {
        let other = &theirs[name];
        ensure!(points.len() == other.len(), "{name}: {} points and {}", points.len(), other.len());
        for ((at, value), (at_too, too)) in points.iter().zip(other) {
            let is_same = at == at_too && (value - too).abs() <= SAME * value.abs().max(1.0);
            ensure!(is_same, "{name}: {value} at {at} and {too} at {at_too}");
        }
    }
    Ok(())
}

/// Samples of all texts, and the last second.
fn count(texts: &Path, hosts: usize) -> Result<(u64, i64)> {
    let (mut samples, mut end) = (0, 0);
    for host in 0..hosts {
        let mut last = String::new();
        for line in BufReader::new(File::open(texts.join(host_name(host)))?).lines() {
            last = line?;
            samples += 1;
        }
        end = last.rsplit(' ').next().context("no time")?.parse()?;
    }
    Ok((samples, end))
}

/// Prometheus's own tool makes its blocks; gives all bytes and those of the index.
fn make_blocks(texts: &Path, folder: &Path, hosts: usize) -> Result<(u64, u64)> {
    let (all, data) = (folder.join("all.txt"), folder.join("prometheus"));
    let mut file = File::create(&all)?;
    for host in 0..hosts {
        std::io::copy(&mut File::open(texts.join(host_name(host)))?, &mut file)?;
    }
    file.write_all(b"# EOF\n")?;
    let mut command = Command::new("promtool");
    command.args(["tsdb", "create-blocks-from", "openmetrics"]).arg(&all).arg(&data);
    let said = command.stdin(Stdio::null()).output().context("promtool (scripts/setup bench)")?;
    ensure!(said.status.success(), "promtool: {}", String::from_utf8_lossy(&said.stderr));
    fs::remove_file(&all)?;
    let mut index = 0;
    for entry in fs::read_dir(&data)? {
        index += fs::metadata(entry?.path().join("index")).map_or(0, |file| file.len());
    }
    ensure!(index > 0, "promtool made no block");
    Ok((bytes_in(&data)?, index))
}

/// In bulk, until it is merged; gives the processor time.
async fn import(victoria: &Store, texts: &Path, hosts: usize) -> Result<Duration> {
    let before = victoria.scheduled()?;
    for host in 0..hosts {
        let mut body = Vec::with_capacity(BULK_BYTES + 256);
        for line in BufReader::new(File::open(texts.join(host_name(host)))?).lines() {
            // Their times are in milliseconds; ours are whole seconds.
            body.extend_from_slice(line?.as_bytes());
            body.extend_from_slice(b"000\n");
            if body.len() >= BULK_BYTES {
                send(victoria, std::mem::take(&mut body)).await?;
            }
        }
        send(victoria, body).await?;
    }
    for path in ["/internal/force_flush", "/internal/force_merge", "/internal/force_flush"] {
        victoria.get(path).await?;
    }
    // It is over when nothing merges and no part went away since.
    let mut seen = -1.0;
    until("VictoriaMetrics merged", TAKEN_WITHIN, async || {
        sleep(Duration::from_millis(500)).await;
        let page = victoria.page().await?;
        let (merging, parts) = (page["vm_active_merges"], page["vm_parts"]);
        Ok(merging == 0.0 && std::mem::replace(&mut seen, parts) == parts)
    })
    .await?;
    Ok(victoria.scheduled()? - before)
}

async fn send(victoria: &Store, body: Vec<u8>) -> Result<()> {
    let answer = victoria.client.raw(Method::POST, "/api/v1/import/prometheus", Some(body.into())).await?;
    ensure!(answer.status.is_success(), "the import: {}", answer.status);
    Ok(())
}

/// How many blocks are in a folder's files, and their bytes (crates/series/src/block.rs).
fn blocks_in(folder: &Path) -> Result<(usize, u64)> {
    let (mut blocks, mut bytes) = (0, 0);
    for path in files_in(folder)? {
        let mut file = BufReader::new(File::open(path)?);
        let mut prefix = [0; 16];
        while file.read_exact(&mut prefix).is_ok() && prefix.starts_with(b"PGB1") {
            let number = |at: usize| u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]]);
            let length = u64::from(number(4)) + u64::from(number(8));
            file.seek_relative(i64::try_from(length)?)?;
            blocks += 1;
            bytes += length + prefix.len() as u64;
        }
    }
    Ok((blocks, bytes))
}

fn bytes_in(folder: &Path) -> Result<u64> {
    Ok(files_in(folder)?.iter().map(|path| fs::metadata(path).map_or(0, |file| file.len())).sum())
}

/// All files below a folder. Links are not followed.
fn files_in(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files_in(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(values: &str) -> Points {
        let text = format!("{{\"data\":{{\"result\":[{{\"metric\":{{\"host\":\"a\"}},\"values\":{values}}}]}}}}");
        points(text.as_bytes()).unwrap()
    }

    #[test]
    fn answers_that_differ_are_no_answers() {
        let ours = answer("[[1,\"5\"],[2,\"6\"]]");
        assert!(agree(&ours, &answer("[[1,\"5.0\"],[2.0,\"6.000000000001\"]]")).is_ok());
        for other in ["[[1,\"5\"]]", "[[1,\"5\"],[3,\"6\"]]", "[[1,\"5\"],[2,\"6.1\"]]"] {
            assert!(agree(&ours, &answer(other)).is_err(), "{other}");
        }
    }
}
