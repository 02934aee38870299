//! Reading: the samples of all series that match, from blocks and from what is in none yet.

mod gathering;
mod picks;
mod plan;
mod wanted;

use crate::block::Dictionary;
use crate::cache::Opened;
use crate::column::Malformed;
use crate::database::{Database, lock_stream};
use crate::error::SeriesError;
use crate::head::Head;
use crate::promql::{Labels, Matcher, Moments, Reading, Sample};
use crate::rollup::{Columns, Resolution};
use crate::segments::{DAY_MICROS, Stored};
use gathering::Gathering;
use perigee_model::frame::{Series, StreamId};
use plan::Span;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};
use wanted::{Seen, Stream, Wanted};

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
    /// What is wanted of coarser steps, where there is nothing finer.
    pub reading: Reading,
    /// Steps up to this many milliseconds are as good as what was measured; 0 for none.
    pub coarsest_ms: i64,
    /// Only what is newest at one of these moments is wanted, and where it ends; `None`: everything.
    pub at: Option<Moments>,
}

impl Selection<'_> {
    fn micros(&self) -> (i64, i64) {
        (self.from_ms.saturating_mul(1000), self.to_ms.saturating_mul(1000).saturating_add(999))
    }
}

/// What a query may still read.
#[derive(Clone, Copy)]
struct Budget {
    left: u64,
    max: u64,
}

impl Budget {
    fn pay(&mut self, samples: usize) -> Result<(), SeriesError> {
        self.left = self.left.checked_sub(samples as u64).ok_or(SeriesError::TooMuch(self.max))?;
        Ok(())
    }
}

impl Database {
    /// Every series that meets all matchers, with its samples in rising time. A moment without a
    /// value, a hole and an end are gaps among them.
    ///
    /// # Errors
    /// `TooMuch`; `Damaged` when a block that is needed does not check.
    pub fn select(&self, selection: &Selection<'_>) -> Result<Vec<(Labels, Vec<Sample>)>, SeriesError> {
        let mut budget = Budget { left: selection.samples_max, max: selection.samples_max };
        let mut seen = Seen::of(self.streams().into_iter(), selection);
        // First what is in no block: what becomes one meanwhile is then seen twice, never missed.
        let mut newest = Vec::with_capacity(seen.streams.len());
        for stream in &seen.streams {
            let mut stretches: Vec<Unsealed> = Vec::new();
            self.unsealed(stream.id, selection, |head| {
                let wanted = head.series.iter().enumerate().filter(|(_, series)| seen.wants(stream, series));
                let wanted: Vec<_> = wanted.collect();
                budget.pay(wanted.len().saturating_mul(head.times.len()))?;
                let columns = wanted.into_iter().map(|(column, series)| (series.clone(), head.numbers(column)));
                stretches.push((head.times.clone(), columns.collect()));
                Ok::<_, SeriesError>(())
            })?;
            newest.push(stretches);
        }
        let (spans, mut blocks) = self.planned(selection, &seen.streams);
        let at = selection.at.filter(|_| spans.iter().all(|span| span.resolution.is_none()));
        let mut answer = Vec::new();
        for (stream, newest) in newest.into_iter().enumerate() {
            let blocks = blocks.remove(&seen.streams[stream].id).unwrap_or_default();
            let before = budget;
            let mut gather = |at| {
                budget = before;
                let mut gathering = Gathering::new(selection, at);
                for (span, group) in &blocks {
                    let wanted = |dictionary: &_| seen.wanted(stream, dictionary);
                    self.gather(&spans[*span], group, wanted, &mut gathering, &mut budget)?;
                }
                newest.iter().for_each(|stretch| gathering.unsealed(stretch));
                Ok::<_, SeriesError>(gathering)
            };
            let mut gathering = gather(at)?;
            if gathering.is_disordered() {
                gathering = gather(None)?;
            }
            let stream = &seen.streams[stream];
            answer.extend(gathering.rows().map(|(series, samples)| (stream.labels_of(&series), samples)));
        }
        answer.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(answer)
    }

    /// How coarse the coarsest samples of a selection would be, in milliseconds; 0: as measured.
    pub fn resolution(&self, selection: &Selection<'_>) -> i64 {
        let coarse = |span: &Span| span.resolution.map_or(0, Resolution::millis);
        self.spans(selection).iter().map(coarse).max().unwrap_or(0)
    }

    /// The labels of every series that meets all matchers and was measured within the time.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn series(&self, selection: &Selection<'_>) -> Result<Vec<Labels>, SeriesError> {
        let mut all = std::collections::BTreeSet::new();
        let seen = Seen::of(self.streams().into_iter(), selection);
        let mut add = |stream: &Stream, series: &[Arc<Series>]| {
            let wanted = series.iter().filter(|series| seen.wants(stream, series));
            all.extend(wanted.map(|series| stream.labels_of(series)));
        };
        for stream in &seen.streams {
            self.unsealed(stream.id, selection, |head| {
                add(stream, &head.series);
                Ok::<_, SeriesError>(())
            })?;
        }
        let (_, mut blocks) = self.planned(selection, &seen.streams);
        for stream in &seen.streams {
            for stored in blocks.remove(&stream.id).unwrap_or_default().iter().flat_map(|(_, group)| group) {
                add(stream, &self.dictionary_of(stored)?.series);
            }
        }
        Ok(all.into_iter().collect())
    }

    /// Shows a stream's stretches that are in no block and touch the selection.
    fn unsealed<E>(
        &self,
        id: StreamId,
        selection: &Selection<'_>,
        mut show: impl FnMut(&Head) -> Result<(), E>,
    ) -> Result<(), E> {
        let (from, to) = selection.micros();
        let Some(shared) = self.known(id) else { return Ok(()) };
        let stream = lock_stream(&shared);
        let heads = stream.closed.iter().map(|(head, _)| &**head).chain(stream.open.iter().map(|(head, _)| head));
        heads.filter(|head| head.times.last() >= Some(&from) && head.times.first() <= Some(&to)).try_for_each(&mut show)
    }

    fn spans(&self, selection: &Selection<'_>) -> Vec<Span> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let coarse = self.rolled.read().unwrap_or_else(PoisonError::into_inner);
        plan::spans(&segments, &coarse, selection.micros(), selection.coarsest_ms)
    }

    /// Which steps serve which time, and every stream's blocks of that, by span, those of one day's
    /// coarser steps together.
    fn planned(&self, selection: &Selection<'_>, streams: &[Stream]) -> (Vec<Span>, Groups) {
        let is_seen = |id: &StreamId| streams.binary_search_by(|stream| stream.id.cmp(id)).is_ok();
        let spans = self.spans(selection);
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let coarse = self.rolled.read().unwrap_or_else(PoisonError::into_inner);
        let mut blocks = Groups::new();
        for (number, span) in spans.iter().enumerate() {
            match span.resolution {
                None => {
                    for stored in segments.overlapping(span.from, span.to) {
                        let Some(id) = stored.meta.stream().filter(is_seen) else { continue };
                        blocks.entry(id).or_default().push((number, vec![stored.clone()]));
                    }
                }
                Some(resolution) => {
                    let mut days: BTreeMap<(i64, StreamId), Vec<Stored>> = BTreeMap::new();
                    for stored in coarse.of(resolution).overlapping(span.from, span.to) {
                        let Some(id) = stored.meta.stream().filter(is_seen) else { continue };
                        let day = stored.meta.from.div_euclid(DAY_MICROS);
                        days.entry((day, id)).or_default().push(stored.clone());
                    }
                    for ((_, id), group) in days {
                        blocks.entry(id).or_default().push((number, group));
                    }
                }
            }
        }
        (spans, blocks)
    }

    /// One stretch of a stream, from its blocks.
    fn gather(
        &self,
        span: &Span,
        group: &[Stored],
        mut wanted: impl FnMut(&Arc<Dictionary>) -> Arc<Wanted>,
        gathering: &mut Gathering<'_>,
        budget: &mut Budget,
    ) -> Result<(), SeriesError> {
        let coarse_ms = span.resolution.map_or(0, Resolution::millis);
        gathering.begin(group.iter().map(|stored| stored.meta.from).min(), coarse_ms);
        for stored in group {
            let damaged = |_| SeriesError::Damaged(stored.file.path.clone());
            let wanted = wanted(&self.dictionary_of(stored)?);
            if wanted.count == 0 {
                continue;
            }
            budget.pay(wanted.count.saturating_mul(stored.meta.moments as usize))?;
            let places = gathering.places(&wanted);
            let opened = stored.meta.times_cached(stored, &self.pages).map_err(damaged)?;
            let Opened::Times(times) = &*opened else { return Err(damaged(Malformed)) };
            let (meta, dictionary, wanted) = (&stored.meta, &wanted.dictionary, &wanted.columns);
            if span.resolution.is_none() {
                let cut = gathering.cut(times, (span.from, span.to));
                for (column, opened) in meta.values((stored, &self.pages), dictionary, wanted).map_err(damaged)? {
                    let Opened::Values(values) = &*opened else { return Err(damaged(Malformed)) };
                    gathering.frames(places[column], &cut, values);
                }
                continue;
            }
            let from = (stored as _, Some(&self.pages));
            for (column, points) in meta.columns(from, dictionary, wanted, Columns::read).map_err(damaged)? {
                let samples = points.samples(&dictionary.series[column], times, gathering.selection.reading);
                gathering.samples(places[column], samples);
            }
        }
        gathering.end();
        Ok(())
    }
}

/// By stream, in rising time: a span's number, and blocks that are one stretch together.
type Groups = HashMap<StreamId, Vec<(usize, Vec<Stored>)>>;

/// When each frame was measured, in microseconds, and the wanted columns with their values.
type Unsealed = (Vec<i64>, Vec<(Arc<Series>, Vec<f64>)>);
