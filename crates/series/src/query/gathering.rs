//! The samples of one stream's series, put together stretch by stretch.

use super::picks::{Pick, Picker};
use super::wanted::Wanted;
use super::{Selection, Unsealed};
use crate::promql::{GAP, Moments, Reading, Sample};
use perigee_model::frame::Series;
use std::collections::HashMap;
use std::sync::Arc;

/// A hole this long ends a series' validity at once.
pub const HOLE_MS: i64 = 10_000;
/// Room for so many moments is made at once: more of them may have few samples.
const PICKED_USUALLY: usize = 1024;
/// Ends of stretches and holes, which are picked beside the moments.
const PICKED_BESIDE: usize = 16;

/// The series found so far.
pub struct Gathering<'a> {
    pub selection: &'a Selection<'a>,
    /// By the series' address: equal ones are one.
    places: HashMap<*const Series, usize>,
    rows: Vec<Row>,
    /// So many samples a row mostly gets, where that is known.
    usual: usize,
    /// Where each column goes, by the address of what is wanted: most blocks share that, and the query holds it.
    columns: HashMap<*const Wanted, Arc<[usize]>>,
    stretch: usize,
    begin_ms: Option<i64>,
    /// Where the hole before the stretch begins.
    hole_ms: Option<i64>,
    /// The coarsest steps so far.
    coarse_ms: i64,
    /// Where only the newest at some moments is wanted.
    picker: Option<Picker>,
    is_disordered: bool,
}

/// The frames of a stretch that lie within a query's bounds, and what is taken of them; all without picks.
pub struct Cut<'t> {
    times: &'t [i64],
    begin: usize,
    picks: Option<Vec<Pick>>,
}

struct Row {
    series: Arc<Series>,
    samples: Vec<Sample>,
    /// The last stretch that had it.
    stretch: usize,
}

impl<'a> Gathering<'a> {
    /// `at`: only what is newest at one of these moments is wanted, of stretches
    /// as they were measured.
    pub fn new(selection: &'a Selection<'a>, at: Option<Moments>) -> Self {
        let (places, rows, columns) = (HashMap::new(), Vec::new(), HashMap::new());
        let (stretch, begin_ms, hole_ms, coarse_ms) = (0, None, None, 0);
        let (usual, picker) = (at.map_or(0, |at| at.count.min(PICKED_USUALLY) + PICKED_BESIDE), at.map(Picker::new));
        let is_disordered = false;
        Self { selection, places, rows, usual, columns, stretch, begin_ms, hole_ms, coarse_ms, picker, is_disordered }
    }

    /// Stretches did not follow each other: what was picked does not answer for all.
    pub fn is_disordered(&self) -> bool {
        self.is_disordered
    }

    /// What comes next was measured from then on, in microseconds, and is in such steps.
    pub fn begin(&mut self, at: Option<i64>, coarse_ms: i64) {
        self.stretch += 1;
        self.begin_ms = at.map(|at| at / 1000);
        self.hole_ms = None;
        self.coarse_ms = self.coarse_ms.max(coarse_ms);
    }

    /// Series that the stretch does not have any more end where it begins.
    pub fn end(&mut self) {
        let Some(begin) = self.hole_ms.or(self.begin_ms) else { return };
        for row in self.rows.iter_mut().filter(|row| row.stretch != self.stretch) {
            if row.samples.last().is_some_and(|last| !last.is_gap() && last.t_ms < begin) {
                row.samples.push(Sample::gap(begin));
            }
        }
    }

    /// Where a series is.
    pub fn place(&mut self, series: &Arc<Series>) -> usize {
        if let Some(place) = self.places.get(&Arc::as_ptr(series)) {
            return *place;
        }
        let place = self.rows.len();
        self.places.insert(Arc::as_ptr(series), place);
        self.rows.push(Row { series: series.clone(), samples: Vec::with_capacity(self.usual), stretch: 0 });
        place
    }

    /// Where the columns of a dictionary are; those that are not wanted have no place.
    pub fn places(&mut self, wanted: &Arc<Wanted>) -> Arc<[usize]> {
        if let Some(places) = self.columns.get(&Arc::as_ptr(wanted)) {
            return places.clone();
        }
        let columns = wanted.dictionary.series.iter().zip(&wanted.columns);
        let place = |(series, wanted): (&Arc<Series>, &bool)| if *wanted { self.place(series) } else { usize::MAX };
        let places: Arc<[usize]> = columns.map(place).collect();
        self.columns.insert(Arc::as_ptr(wanted), places.clone());
        places
    }

    /// What of a stretch's frames lies between two bounds in microseconds. Times rise.
    pub fn cut<'t>(&mut self, times: &'t [i64], (from, to): (i64, i64)) -> Cut<'t> {
        let (first, last) = self.selection.micros();
        let begin = times.partition_point(|at| *at < first.max(from));
        let end = times.partition_point(|at| *at <= last.min(to));
        let times = times.get(begin..end).unwrap_or(&[]);
        let picks = self.picker.as_mut().map(|picker| picker.pick(times));
        self.is_disordered |= matches!(picks, Some(None));
        let picks = picks.flatten();
        if let Some(Pick::Hole(at)) = picks.as_ref().and_then(|picks| picks.first()) {
            self.hole_ms = Some(*at);
        }
        Cut { times, begin, picks }
    }

    /// Adds a series' values as they were measured, gaps among them.
    pub fn frames(&mut self, place: usize, cut: &Cut<'_>, values: &[f64]) {
        let counts = self.selection.reading == Reading::Count;
        let row = &mut self.rows[place];
        row.stretch = self.stretch;
        let times = cut.times;
        let values = values.get(cut.begin..).unwrap_or(&[]);
        if let Some(picks) = &cut.picks {
            return row.picked(picks, values);
        }
        row.samples.reserve(times.len());
        for sample in times.iter().zip(values).map(|(at, v)| Sample { t_ms: at / 1000, v: *v }) {
            if sample.is_gap() {
                row.lacks(sample.t_ms);
            } else {
                row.samples.push(if counts { Sample { v: 1.0, ..sample } } else { sample });
            }
        }
    }

    /// Adds a stretch that is in no block.
    pub fn unsealed(&mut self, (times, columns): &Unsealed) {
        self.begin(times.first().copied(), 0);
        let cut = self.cut(times, (i64::MIN, i64::MAX));
        for (series, values) in columns {
            let place = self.place(series);
            self.frames(place, &cut, values);
        }
        self.end();
    }

    /// Adds samples of coarser steps, gaps among them.
    pub fn samples(&mut self, place: usize, samples: Vec<Sample>) {
        let (from_ms, to_ms) = (self.selection.from_ms, self.selection.to_ms);
        let row = &mut self.rows[place];
        row.stretch = self.stretch;
        for sample in samples.into_iter().filter(|sample| (from_ms..=to_ms).contains(&sample.t_ms)) {
            if sample.is_gap() {
                row.lacks(sample.t_ms);
            } else {
                row.samples.push(sample);
            }
        }
    }

    /// Every series that has samples, in rising time, each moment once, with a gap in every hole.
    pub fn rows(self) -> impl Iterator<Item = (Arc<Series>, Vec<Sample>)> {
        let found = self.rows.into_iter().filter(|row| !row.samples.is_empty());
        // Holes are among what was picked.
        let is_settled = self.picker.is_some();
        let hole_ms = HOLE_MS.max(self.coarse_ms * 3);
        found.map(move |row| (row.series, if is_settled { row.samples } else { settled(row.samples, hole_ms) }))
    }
}

impl Row {
    fn picked(&mut self, picks: &[Pick], values: &[f64]) {
        self.samples.reserve(picks.len());
        for pick in picks {
            let sample = match *pick {
                Pick::Hole(t_ms) => Sample::gap(t_ms),
                Pick::Frame(at, t_ms) => Sample { t_ms, v: values.get(at).copied().unwrap_or(GAP) },
            };
            if sample.is_gap() { self.lacks(sample.t_ms) } else { self.samples.push(sample) }
        }
    }

    fn lacks(&mut self, t_ms: i64) {
        if self.samples.last().is_some_and(|last| !last.is_gap()) {
            self.samples.push(Sample::gap(t_ms));
        }
    }
}

/// `hole_ms`: at least so long is a hole.
fn settled(mut samples: Vec<Sample>, hole_ms: i64) -> Vec<Sample> {
    if !samples.windows(2).all(|pair| pair[0].t_ms < pair[1].t_ms) {
        // Stable: of two for one moment the later taken is behind the other.
        samples.sort_by_key(|sample| sample.t_ms);
        samples.reverse();
        samples.dedup_by_key(|sample| sample.t_ms);
        samples.reverse();
    }
    let holes = holes(&samples, hole_ms);
    if holes.is_empty() {
        return samples;
    }
    let mut whole = Vec::with_capacity(samples.len() + holes.len());
    let mut begin = 0;
    for (place, gap) in holes {
        whole.extend_from_slice(&samples[begin..place]);
        whole.push(gap);
        begin = place;
    }
    whole.extend_from_slice(&samples[begin..]);
    whole
}

/// The gaps that are not there yet, each with the place of the sample it comes before.
fn holes(samples: &[Sample], hole_ms: i64) -> Vec<(usize, Sample)> {
    let mut spacing = hole_ms / 3;
    let mut holes = Vec::new();
    for (place, pair) in samples.windows(2).enumerate().filter(|(_, pair)| !pair[0].is_gap()) {
        let pause = pair[1].t_ms - pair[0].t_ms;
        if pause > hole_ms.max(spacing * 3) {
            holes.push((place + 1, Sample::gap(pair[0].t_ms + spacing * 2)));
        }
        // A host that is measured seldom has one gap at most: from then on this is its spacing.
        spacing = pause;
    }
    holes
}
