//! Which streams and which of their series a query wants.
//!
//! Hosts that are alike share their lists of series: what is wanted of one is found out once for all of them.

use super::Selection;
use crate::block::Dictionary;
use crate::promql::{Labels, Matcher, NAME};
use perigee_model::frame::{Series, StreamId};
use std::collections::HashMap;
use std::sync::Arc;

/// The streams that may have what is wanted.
pub struct Seen<'a> {
    /// By their identity, rising.
    pub streams: Vec<Stream>,
    /// What their series have to meet, beyond what the streams do; mostly one list for all.
    conditions: Vec<Vec<&'a Matcher>>,
    known: HashMap<(*const Dictionary, usize), Arc<Wanted>>,
}

/// One of them.
pub struct Stream {
    pub id: StreamId,
    /// The labels that all its series have.
    pub labels: Labels,
    conditions: usize,
}

/// What of a list of series is wanted.
pub struct Wanted {
    /// Held, so that no other comes to be at its address.
    pub dictionary: Arc<Dictionary>,
    /// By column.
    pub columns: Vec<bool>,
    /// How many are wanted.
    pub count: usize,
}

impl<'a> Seen<'a> {
    /// Of these streams, in rising order.
    pub fn of(all: impl Iterator<Item = StreamId>, selection: &Selection<'a>) -> Self {
        let mut seen = Self { streams: Vec::new(), conditions: Vec::new(), known: HashMap::new() };
        for id in all {
            let Some(labels) = (selection.labels)(id) else { continue };
            let (own, rest): (Vec<_>, Vec<_>) =
                selection.matchers.iter().partition(|matcher| !labels.get(&matcher.label).is_empty());
            if own.iter().all(|matcher| matcher.is_met_by(labels.get(&matcher.label))) {
                let conditions = seen.conditions(rest);
                seen.streams.push(Stream { id, labels, conditions });
            }
        }
        seen
    }

    fn conditions(&mut self, list: Vec<&'a Matcher>) -> usize {
        let same = |known: &Vec<&Matcher>| known.iter().map(std::ptr::from_ref).eq(list.iter().map(std::ptr::from_ref));
        self.conditions.iter().position(same).unwrap_or_else(|| {
            self.conditions.push(list);
            self.conditions.len() - 1
        })
    }

    /// Whether a stream's series is wanted.
    pub fn wants(&self, stream: &Stream, series: &Series) -> bool {
        self.conditions[stream.conditions].iter().all(|matcher| {
            matcher.is_met_by(match matcher.label.as_str() {
                NAME => &series.name,
                label => series.labels.get(label).map_or("", String::as_str),
            })
        })
    }

    /// What is wanted of a stream's list.
    pub fn wanted(&mut self, stream: usize, dictionary: &Arc<Dictionary>) -> Arc<Wanted> {
        let stream = &self.streams[stream];
        let key = (Arc::as_ptr(dictionary), stream.conditions);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let columns: Vec<bool> = dictionary.series.iter().map(|series| self.wants(stream, series)).collect();
        let count = columns.iter().filter(|wanted| **wanted).count();
        let wanted = Arc::new(Wanted { dictionary: dictionary.clone(), columns, count });
        self.known.insert(key, wanted.clone());
        wanted
    }
}

impl Stream {
    /// Of one of its series. The host's labels win: a host cannot speak for another.
    pub fn labels_of(&self, series: &Series) -> Labels {
        let own = series.labels.iter().filter(|(label, _)| *label != NAME).map(|(label, value)| (&**label, &**value));
        self.labels.and(std::iter::once((NAME, &*series.name)).chain(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promql::{MatchOp, Reading};
    use perigee_model::HostId;
    use perigee_model::frame::{StreamName, interned};
    use uuid::Uuid;

    #[test]
    fn what_a_stream_answers_for_its_series_need_not_have() {
        let equal =
            |label: &str, value: &str| Matcher { label: label.to_owned(), op: MatchOp::Equal, value: value.to_owned() };
        let matchers = [equal(NAME, "up"), equal("zone", "a")];
        let stream = |n| StreamId { host: HostId::new(Uuid::from_u128(n)), name: StreamName::Node };
        let (a, b, none) = (stream(1), stream(2), stream(3));
        let labels = |id| {
            let zone = [(a, "a"), (b, "b")].into_iter().find(|(known, _)| *known == id).map(|(_, zone)| ("zone", zone));
            Some(zone.into_iter().collect())
        };
        let selection = Selection {
            matchers: &matchers,
            from_ms: 0,
            to_ms: 1,
            labels: &labels,
            samples_max: 1,
            reading: Reading::Value,
            coarsest_ms: 0,
            at: None,
        };
        let mut seen = Seen::of([a, b, none].into_iter(), &selection);
        let ids: Vec<StreamId> = seen.streams.iter().map(|stream| stream.id).collect();
        assert_eq!(ids, [a, none], "b is in another zone");

        let up = |zone: Option<&str>| {
            let series = Series::gauge("up", 0);
            zone.into_iter().fold(series, |series, zone| series.with("zone", zone))
        };
        let list = interned(vec![up(None), up(Some("a")), up(Some("b")), Series::gauge("down", 0).with("zone", "a")]);
        let dictionary = Arc::new(Dictionary::of(list));
        let all = seen.wanted(0, &dictionary);
        assert_eq!((&all.columns[..], all.count), (&[true, true, true, false][..], 3), "the stream is in zone a");
        assert_eq!(seen.wanted(1, &dictionary).columns, [false, true, false, false], "its series have to say so");
        assert!(Arc::ptr_eq(&seen.wanted(0, &dictionary), &all));
        let shown =
            |stream: usize, column: usize| seen.streams[stream].labels_of(&dictionary.series[column]).to_string();
        assert_eq!((shown(0, 2), shown(1, 1)), (r#"up{zone="a"}"#.to_owned(), r#"up{zone="a"}"#.to_owned()));
    }
}
