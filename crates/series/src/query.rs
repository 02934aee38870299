//! Reading: the samples of all series that match, from blocks and from what is in none yet.

use crate::database::{Database, lock_stream};
use crate::error::SeriesError;
use crate::promql::{Labels, Matcher, NAME, Sample};
use perigee_model::frame::{Series, StreamId};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

/// A hole this long ends a series' validity at once.
const HOLE_MS: i64 = 10_000;

/// What to read.
pub struct Selection<'a> {
    /// All must be met.
    pub matchers: &'a [Matcher],
    /// From this moment on, in milliseconds.
    pub from_ms: i64,
    /// Up to and with this one.
    pub to_ms: i64,
    /// The labels all series of a stream have; `None` for one that is not to be seen.
    pub labels: &'a dyn Fn(StreamId) -> Option<Labels>,
    /// At most so many samples.
    pub samples_max: u64,
}

/// Samples by series, of one stream.
type Found = HashMap<Arc<Series>, Vec<Sample>>;

/// A stretch of a stream: moments and wanted columns.
struct Stretch {
    times: Vec<i64>,
    columns: Vec<(Arc<Series>, Vec<Option<i64>>)>,
}

impl Database {
    /// Every series that meets all matchers, with its samples in rising time. A moment without a
    /// value, a hole and an end are gaps among them.
    ///
    /// # Errors
    /// `TooMuch`; `Damaged` when a block that is needed does not check.
    pub fn select(&self, selection: &Selection<'_>) -> Result<Vec<(Labels, Vec<Sample>)>, SeriesError> {
        let mut answer = Vec::new();
        let mut left = selection.samples_max;
        for id in self.streams() {
            let Some(base) = (selection.labels)(id) else { continue };
            let wants = |series: &Series| wants(selection.matchers, &base, series);
            let mut found = Found::new();
            for stretch in self.stretches(id, selection, &wants)? {
                let count = stretch.columns.iter().map(|(_, values)| values.len() as u64).sum::<u64>();
                left = left.checked_sub(count).ok_or(SeriesError::TooMuch(selection.samples_max))?;
                take(&mut found, stretch, selection);
            }
            answer.extend(
                found
                    .into_iter()
                    .filter(|(_, samples)| !samples.is_empty())
                    .map(|(series, samples)| (labels_of(&base, &series), settled(samples))),
            );
        }
        answer.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(answer)
    }

    /// The labels of every series that meets all matchers and was measured within the time.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn series(&self, selection: &Selection<'_>) -> Result<Vec<Labels>, SeriesError> {
        let mut all = std::collections::BTreeSet::new();
        for id in self.streams() {
            let Some(base) = (selection.labels)(id) else { continue };
            let mut add = |series: &[Arc<Series>]| {
                let wanted = series.iter().filter(|series| wants(selection.matchers, &base, series));
                all.extend(wanted.map(|series| labels_of(&base, series)));
            };
            let (from, to) = (selection.from_ms.saturating_mul(1000), selection.to_ms.saturating_mul(1000));
            for stored in self.blocks(id, from, to) {
                add(&self.series_of(&stored)?);
            }
            if let Some(shared) = self.all().get(&id) {
                let stream = lock_stream(shared);
                let heads =
                    stream.closed.iter().map(|(head, _)| &**head).chain(stream.open.iter().map(|(head, _)| head));
                for head in heads.filter(|head| head.times.last() >= Some(&from) && head.times.first() <= Some(&to)) {
                    add(&head.series);
                }
            }
        }
        Ok(all.into_iter().collect())
    }

    fn blocks(&self, id: StreamId, from: i64, to: i64) -> Vec<crate::segments::Stored> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.overlapping(from, to).filter(|stored| stored.meta.stream() == Some(id)).cloned().collect()
    }

    fn stretches(
        &self,
        id: StreamId,
        selection: &Selection<'_>,
        wants: &dyn Fn(&Series) -> bool,
    ) -> Result<Vec<Stretch>, SeriesError> {
        let (from, to) = (selection.from_ms.saturating_mul(1000), selection.to_ms.saturating_mul(1000) + 999);
        // First what is in no block: what becomes one meanwhile is then seen twice, never missed.
        let mut newest = Vec::new();
        if let Some(shared) = self.all().get(&id) {
            let stream = lock_stream(shared);
            let heads = stream.closed.iter().map(|(head, _)| &**head).chain(stream.open.iter().map(|(head, _)| head));
            for head in heads.filter(|head| head.times.last() >= Some(&from) && head.times.first() <= Some(&to)) {
                let wanted = head.series.iter().enumerate().filter(|(_, series)| wants(series));
                let columns = wanted.map(|(column, series)| (series.clone(), head.values(column))).collect();
                newest.push(Stretch { times: head.times.clone(), columns });
            }
        }
        let mut stretches = Vec::new();
        for stored in self.blocks(id, from, to) {
            let damaged = |_| SeriesError::Damaged(stored.file.path.clone());
            let series = self.series_of(&stored)?;
            let wanted: Vec<bool> = series.iter().map(|series| wants(series)).collect();
            let times = stored.meta.times(&stored).map_err(damaged)?;
            let columns = if wanted.contains(&true) {
                stored.meta.columns(&stored, &series, &wanted).map_err(damaged)?
            } else {
                Vec::new()
            };
            let columns = columns.into_iter().map(|(column, values)| (series[column].clone(), values)).collect();
            stretches.push(Stretch { times, columns });
        }
        stretches.extend(newest);
        Ok(stretches)
    }
}

/// Adds a stretch's samples; series that it does not have any more end where it begins.
fn take(found: &mut Found, stretch: Stretch, selection: &Selection<'_>) {
    let Some(begin) = stretch.times.first().map(|at| at / 1000) else { return };
    for (series, samples) in found.iter_mut() {
        let goes_on = stretch.columns.iter().any(|(known, _)| known == series);
        if !goes_on && samples.last().is_some_and(|last| !last.is_gap() && last.t_ms < begin) {
            samples.push(Sample::gap(begin));
        }
    }
    for (series, values) in stretch.columns {
        let form = series.form;
        let samples = found.entry(series).or_default();
        for (at, value) in stretch.times.iter().zip(values) {
            let t_ms = at / 1000;
            if t_ms < selection.from_ms || t_ms > selection.to_ms {
                continue;
            }
            match value {
                Some(raw) => samples.push(Sample { t_ms, v: form.value(raw) }),
                None if samples.last().is_some_and(|last| !last.is_gap()) => samples.push(Sample::gap(t_ms)),
                None => {}
            }
        }
    }
}

/// In rising time, each moment once, with a gap in every hole.
fn settled(mut samples: Vec<Sample>) -> Vec<Sample> {
    if !samples.windows(2).all(|pair| pair[0].t_ms < pair[1].t_ms) {
        // Stable: of two for one moment the later taken is behind the other.
        samples.sort_by_key(|sample| sample.t_ms);
        samples.reverse();
        samples.dedup_by_key(|sample| sample.t_ms);
        samples.reverse();
    }
    let mut spacing = HOLE_MS / 3;
    let mut whole: Vec<Sample> = Vec::with_capacity(samples.len());
    for sample in samples {
        if let Some(last) = whole.last().copied().filter(|last| !last.is_gap()) {
            let pause = sample.t_ms - last.t_ms;
            if pause > HOLE_MS.max(spacing * 3) {
                whole.push(Sample::gap(last.t_ms + spacing * 2));
            }
            // A host that is measured seldom has one gap at most: from then on this is its spacing.
            spacing = pause;
        }
        whole.push(sample);
    }
    whole
}

fn wants(matchers: &[Matcher], base: &Labels, series: &Series) -> bool {
    matchers.iter().all(|matcher| {
        let value = match matcher.label.as_str() {
            NAME => series.name.as_str(),
            label => match base.get(label) {
                "" => series.labels.get(label).map_or("", String::as_str),
                host => host,
            },
        };
        matcher.is_met_by(value)
    })
}

/// The host's labels win: a host cannot speak for another.
fn labels_of(base: &Labels, series: &Series) -> Labels {
    let mut labels = base.clone();
    labels.set(NAME, &series.name);
    for (label, value) in &series.labels {
        if base.get(label).is_empty() {
            labels.set(label, value);
        }
    }
    labels
}
