//! A sealed stretch of one stream: columns in pages, each compressed and checked by itself.
//!
//! ```text
//! block  = magic:4 header_length:4 body_length:4 header_crc:4 header body      (little endian)
//! header = JSON of `Meta`: whose, which sequences and times, and where the pages are
//! body   = page*      page = zstd(times) | zstd(series, JSON) | zstd(column*) for each family
//! ```
//! A page that does not check is an error, never a number. Columns stand in their family's page in
//! the order of the series; a query for one panel reads one page.

use crate::cache::{Cache, Key, Opened};
use crate::column::{self, Malformed};
use crate::head::Head;
use crate::promql::GAP;
use perigee_model::frame::{Series, StreamId, StreamName, interned};
use perigee_model::{HostId, RunId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

/// How a block begins.
pub const MAGIC: [u8; 4] = *b"PGB1";
/// Bytes before the header.
pub const PREFIX_BYTES: usize = 16;
/// Longest header and body that are believed.
pub const HEADER_BYTES_MAX: usize = 64 << 10;
/// As above.
pub const BODY_BYTES_MAX: usize = 256 << 20;
const LEVEL: i32 = 3;
const PAGE_BYTES_MAX: usize = 64 << 20;

/// What metrics are about, by the beginning of their names; the last takes the rest.
const FAMILIES: [(&str, &[&str]); 8] = [
    ("cpu", &["node_cpu", "node_load", "node_pressure", "node_schedstat", "node_softirqs"]),
    ("memory", &["node_memory", "node_vmstat"]),
    ("disk", &["node_disk", "node_filesystem"]),
    ("network", &["node_network", "node_net"]),
    ("process", &["perigee_process", "node_processes"]),
    ("gpu", &["perigee_gpu"]),
    ("vm", &["perigee_guest"]),
    ("other", &[""]),
];

/// Which page a series is in; less than [`FAMILY_COUNT`].
pub fn family(name: &str) -> usize {
    let fits = |(_, begins): &(&str, &[&str])| begins.iter().any(|begin| name.starts_with(begin));
    FAMILIES.iter().position(fits).unwrap_or(FAMILIES.len() - 1)
}

/// How many pages of columns a block has at most.
pub const FAMILY_COUNT: usize = FAMILIES.len();

/// Where a page is in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Page {
    offset: u32,
    length: u32,
    crc: u32,
}

/// A block's series by column, and the page each is in.
pub struct Dictionary {
    /// By column.
    pub series: Vec<Arc<Series>>,
    families: Vec<usize>,
}

impl Dictionary {
    /// Of these, by column.
    pub fn of(series: Vec<Arc<Series>>) -> Self {
        let families = series.iter().map(|series| family(&series.name)).collect();
        Self { series, families }
    }
}

/// What is known of a block without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    host: Uuid,
    stream: String,
    run: Uuid,
    /// Its frames, from this one …
    pub first: u64,
    /// … to this one.
    pub last: u64,
    /// When the first was measured, in microseconds.
    pub from: i64,
    /// And the last.
    pub to: i64,
    /// How many.
    pub moments: u32,
    /// Where the first was in the log: blocks were taken in this order.
    pub position: u64,
    times: Page,
    series: Page,
    /// By family; an empty one has none.
    pages: Vec<Option<Page>>,
}

impl Meta {
    /// Whose.
    pub fn stream(&self) -> Option<StreamId> {
        Some(StreamId { host: HostId::new(self.host), name: StreamName::parse(&self.stream)? })
    }
    /// Whose numbers the sequences are.
    pub fn run(&self) -> RunId {
        RunId::new(self.run)
    }
    /// Bytes of all pages.
    pub fn body_bytes(&self) -> u64 {
        let pages = self.pages.iter().flatten().chain([&self.times, &self.series]);
        pages.map(|page| u64::from(page.length)).sum()
    }
    /// What tells two blocks' series apart, almost always.
    pub fn series_mark(&self) -> (u32, u32) {
        (self.series.crc, self.series.length)
    }
}

/// A block and what is known of it.
pub struct Sealed {
    /// What is known.
    pub meta: Meta,
    /// Prefix, header and body.
    pub bytes: Vec<u8>,
}

/// A block to be made.
pub struct Draft<'a> {
    /// Whose.
    pub stream: StreamId,
    /// Whose numbers the sequences are.
    pub run: RunId,
    /// Its first frame and its last.
    pub sequences: (u64, u64),
    /// See [`Meta::position`].
    pub position: u64,
    /// When each was measured, in microseconds; rising.
    pub times: &'a [i64],
    /// By column.
    pub series: &'a [Arc<Series>],
}

/// Makes a block of frames.
///
/// # Errors
/// What the compressor says.
pub fn seal(stream: StreamId, head: &Head, position: u64) -> std::io::Result<Sealed> {
    let sequences = (head.first, head.last);
    let draft = Draft { stream, run: head.run, sequences, position, times: &head.times, series: &head.series };
    draft.seal(|column, out| column::encode(out, head.series[column].form, &head.values(column)))
}

impl Draft<'_> {
    /// Makes it. `write` appends a column.
    ///
    /// # Errors
    /// What the compressor says.
    pub fn seal(&self, mut write: impl FnMut(usize, &mut Vec<u8>)) -> std::io::Result<Sealed> {
        let mut body = Vec::new();
        let mut times = Vec::new();
        let moments: Vec<Option<i64>> = self.times.iter().map(|at| Some(*at)).collect();
        column::encode(&mut times, perigee_model::frame::Form::Decimal(0), &moments);
        let times = page(&mut body, &times)?;
        let series: Vec<&Series> = self.series.iter().map(|series| &**series).collect();
        let series = page(&mut body, &serde_json::to_vec(&series)?)?;
        let mut families: Vec<Vec<u8>> = vec![Vec::new(); FAMILIES.len()];
        for (column, series) in self.series.iter().enumerate() {
            write(column, &mut families[family(&series.name)]);
        }
        let mut pages = Vec::new();
        for columns in families {
            pages.push(if columns.is_empty() { None } else { Some(page(&mut body, &columns)?) });
        }
        let meta = Meta {
            host: self.stream.host.uuid(),
            stream: self.stream.name.text().to_owned(),
            run: self.run.uuid(),
            first: self.sequences.0,
            last: self.sequences.1,
            from: self.times.first().copied().unwrap_or(0),
            to: self.times.last().copied().unwrap_or(0),
            moments: u32::try_from(self.times.len()).unwrap_or(u32::MAX),
            position: self.position,
            times,
            series,
            pages,
        };
        let header = serde_json::to_vec(&meta)?;
        let length = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes();
        let mut bytes = MAGIC.to_vec();
        bytes.extend(length(header.len()));
        bytes.extend(length(body.len()));
        bytes.extend(crc32fast::hash(&header).to_le_bytes());
        bytes.extend(header);
        bytes.extend(body);
        Ok(Sealed { meta, bytes })
    }
}

fn page(body: &mut Vec<u8>, raw: &[u8]) -> std::io::Result<Page> {
    let packed = zstd::bulk::compress(raw, LEVEL)?;
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let page = Page { offset: number(body.len()), length: number(packed.len()), crc: crc32fast::hash(&packed) };
    body.extend(packed);
    Ok(page)
}

/// The lengths of header and body, and the header's checksum; `None` where no block begins.
pub fn prefix(bytes: &[u8; PREFIX_BYTES]) -> Option<(usize, usize, u32)> {
    let number = |at: usize| bytes[at..at + 4].iter().rev().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte));
    let (header, body) = (number(4) as usize, number(8) as usize);
    let believable = bytes[..4] == MAGIC && header <= HEADER_BYTES_MAX && body <= BODY_BYTES_MAX;
    believable.then_some((header, body, number(12)))
}

/// Reads a header that was found behind a prefix.
pub fn header(bytes: &[u8], crc: u32) -> Option<Meta> {
    if crc32fast::hash(bytes) != crc {
        return None;
    }
    let meta: Meta = serde_json::from_slice(bytes).ok()?;
    (meta.pages.len() == FAMILIES.len() && meta.stream().is_some()).then_some(meta)
}

/// Something that gives a part of a block's body.
pub trait Body {
    /// Fills the buffer from an offset on; `false` when it cannot.
    fn read_at(&self, into: &mut [u8], offset: u64) -> bool;
    /// What no other place has.
    fn key(&self, offset: u64) -> Key;
}

impl Meta {
    fn open(&self, body: &dyn Body, page: Page) -> Result<Vec<u8>, Malformed> {
        let mut packed = vec![0; page.length as usize];
        if !body.read_at(&mut packed, page.offset.into()) || crc32fast::hash(&packed) != page.crc {
            return Err(Malformed);
        }
        // The compressor wrote the length down; a page that claims more than any of ours is none.
        let length = zstd::zstd_safe::get_frame_content_size(&packed).ok().flatten().ok_or(Malformed)?;
        let length = usize::try_from(length).ok().filter(|length| *length <= PAGE_BYTES_MAX).ok_or(Malformed)?;
        zstd::bulk::decompress(&packed, length).map_err(|_| Malformed)
    }

    /// When each frame was measured, in microseconds.
    ///
    /// # Errors
    /// `Malformed`: the block is damaged.
    pub fn times(&self, body: &dyn Body) -> Result<Vec<i64>, Malformed> {
        let raw = self.open(body, self.times)?;
        let times = column::decode(&mut raw.as_slice(), self.moments as usize)?;
        times.into_iter().collect::<Option<Vec<i64>>>().ok_or(Malformed)
    }

    /// As [`Meta::times`], from the cache where they are.
    ///
    /// # Errors
    /// `Malformed`: the block is damaged.
    pub fn times_cached(&self, body: &dyn Body, cache: &Cache) -> Result<Arc<Opened>, Malformed> {
        cache.get(body.key(self.times.offset.into()), || Ok(Opened::Times(self.times(body)?)))
    }

    /// Its series, by column.
    ///
    /// # Errors
    /// `Malformed`: the block is damaged.
    pub fn dictionary(&self, body: &dyn Body) -> Result<Dictionary, Malformed> {
        let raw = self.open(body, self.series)?;
        let series: Vec<Series> = serde_json::from_slice(&raw).map_err(|_| Malformed)?;
        Ok(Dictionary::of(interned(series)))
    }

    /// Those columns that are wanted as numbers, a moment without a value as a gap, with their places; from the cache
    /// where they are.
    ///
    /// # Errors
    /// `Malformed`: the block is damaged.
    pub fn values(
        &self,
        (body, cache): (&dyn Body, &Cache),
        dictionary: &Dictionary,
        wanted: &[bool],
    ) -> Result<Vec<(usize, Arc<Opened>)>, Malformed> {
        let key = |column: usize| {
            let page = self.pages[dictionary.families[column]].ok_or(Malformed)?;
            let (file, offset, _) = body.key(page.offset.into());
            Ok((file, offset, Some(u32::try_from(column).map_err(|_| Malformed)?)))
        };
        let (mut found, mut missing) = (Vec::new(), wanted.to_vec());
        for (column, missing) in missing.iter_mut().enumerate().filter(|(_, wanted)| **wanted) {
            if let Some(known) = cache.known(key(column)?) {
                *missing = false;
                found.push((column, known));
            }
        }
        if missing.contains(&true) {
            for (column, raw) in self.columns((body, None), dictionary, &missing, frames)? {
                let form = dictionary.series[column].form;
                let values = raw.into_iter().map(|raw| raw.map_or(GAP, |raw| form.value(raw))).collect();
                found.push((column, cache.put(key(column)?, Opened::Values(values))));
            }
        }
        Ok(found)
    }

    /// Those columns that are wanted, with their places. `read` gets the page from the column on,
    /// and steps over what is not wanted. With a cache, pages that are there are not read again.
    ///
    /// # Errors
    /// `Malformed`: the block is damaged.
    pub fn columns<T>(
        &self,
        (body, cache): (&dyn Body, Option<&Cache>),
        dictionary: &Dictionary,
        wanted: &[bool],
        read: impl Fn(&mut &[u8], &Series, usize, bool) -> Result<Option<T>, Malformed>,
    ) -> Result<Vec<(usize, T)>, Malformed> {
        let is_wanted = |column: usize| wanted.get(column) == Some(&true);
        let mut families = [false; FAMILIES.len()];
        for (_, family) in dictionary.families.iter().enumerate().filter(|(column, _)| is_wanted(*column)) {
            families[*family] = true;
        }
        let moments = self.moments as usize;
        let mut found = Vec::new();
        for family in (0..FAMILIES.len()).filter(|family| families[*family]) {
            let page = self.pages[family].ok_or(Malformed)?;
            let mine = || dictionary.families.iter().enumerate().filter(|(_, number)| **number == family);
            let mine = || mine().map(|(column, _)| (column, &dictionary.series[column]));
            let Some(cache) = cache else {
                let raw = self.open(body, page)?;
                let mut rest = raw.as_slice();
                for (column, series) in mine() {
                    found.extend(read(&mut rest, series, moments, is_wanted(column))?.map(|read| (column, read)));
                }
                continue;
            };
            let opened = cache.get(body.key(page.offset.into()), || {
                let raw = self.open(body, page)?;
                let (mut rest, mut starts) = (raw.as_slice(), Vec::new());
                for (_, series) in mine() {
                    starts.push(u32::try_from(raw.len() - rest.len()).map_err(|_| Malformed)?);
                    read(&mut rest, series, moments, false)?;
                }
                Ok(Opened::Columns(raw, starts))
            })?;
            let Opened::Columns(raw, starts) = &*opened else { return Err(Malformed) };
            for ((column, series), start) in mine().zip(starts).filter(|((column, _), _)| is_wanted(*column)) {
                let mut rest = raw.get(*start as usize..).ok_or(Malformed)?;
                found.extend(read(&mut rest, series, moments, true)?.map(|read| (column, read)));
            }
        }
        Ok(found)
    }
}

/// How the columns of a block of frames are read, for [`Meta::columns`].
///
/// # Errors
/// `Malformed`.
pub fn frames(
    bytes: &mut &[u8],
    _: &Series,
    moments: usize,
    wanted: bool,
) -> Result<Option<Vec<Option<i64>>>, Malformed> {
    if wanted { column::decode(bytes, moments).map(Some) } else { column::skip(bytes, moments).map(|()| None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(Vec<u8>);

    impl Body for Bytes {
        fn read_at(&self, into: &mut [u8], offset: u64) -> bool {
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            let Some(bytes) = self.0.get(at..).and_then(|rest| rest.get(..into.len())) else { return false };
            into.copy_from_slice(bytes);
            true
        }
        fn key(&self, offset: u64) -> Key {
            (0, offset, None)
        }
    }

    fn sealed() -> Sealed {
        let (stream, run) =
            (StreamId { host: HostId::new(Uuid::nil()), name: StreamName::Node }, RunId::new(Uuid::nil()));
        let series = [Arc::new(Series::gauge("node_load1", 2))];
        let draft = Draft { stream, run, sequences: (1, 2), position: 0, times: &[10, 20], series: &series };
        draft.seal(|_, out| column::encode(out, series[0].form, &[Some(1), Some(2)])).unwrap()
    }

    #[test]
    fn numbers_from_the_cache_are_those_of_the_block() {
        let (stream, run) =
            (StreamId { host: HostId::new(Uuid::nil()), name: StreamName::Node }, RunId::new(Uuid::nil()));
        let series =
            ["node_load1", "node_load5", "node_memory_free_bytes"].map(|name| Arc::new(Series::gauge(name, 1)));
        let columns = [[Some(15), None], [None, Some(25)], [Some(35), Some(45)]];
        let draft = Draft { stream, run, sequences: (1, 2), position: 0, times: &[10, 20], series: &series };
        let Sealed { meta, bytes } = draft
            .seal(|column, out| column::encode(out, perigee_model::frame::Form::Decimal(1), &columns[column]))
            .unwrap();
        let body = Bytes(bytes[bytes.len() - usize::try_from(meta.body_bytes()).unwrap()..].to_vec());
        let (cache, dictionary) = (Cache::default(), meta.dictionary(&body).unwrap());
        let numbers = |wanted: [bool; 3]| {
            let found = meta.values((&body, &cache), &dictionary, &wanted).unwrap();
            let bits = |(column, opened): &(usize, Arc<Opened>)| match &**opened {
                Opened::Values(values) => (*column, values.iter().map(|v| v.to_bits()).collect::<Vec<_>>()),
                Opened::Times(_) | Opened::Columns(..) => panic!("no numbers"),
            };
            let mut found: Vec<_> = found.iter().map(bits).collect();
            found.sort();
            found
        };
        let gap = GAP.to_bits();
        let all = [vec![1.5f64.to_bits(), gap], vec![gap, 2.5f64.to_bits()], vec![3.5f64.to_bits(), 4.5f64.to_bits()]];
        let all: Vec<_> = all.into_iter().enumerate().collect();
        assert_eq!(numbers([false, true, false]), all[1..2]);
        assert_eq!(numbers([true, true, true]), all, "one of them from the cache");
        assert_eq!(numbers([true, true, true]), all, "all of them");
    }

    /// The column's values, when its page is replaced by another that checks.
    fn with_page(packed: &[u8]) -> Result<Vec<Placed>, Malformed> {
        let Sealed { mut meta, .. } = sealed();
        let page = Page { offset: 0, length: packed.len() as u32, crc: crc32fast::hash(packed) };
        meta.pages[family("node_load1")] = Some(page);
        let series = interned(vec![Series::gauge("node_load1", 2)]);
        let dictionary = Dictionary { families: vec![family("node_load1")], series };
        meta.columns((&Bytes(packed.to_vec()), None), &dictionary, &[true], frames)
    }

    type Placed = (usize, Vec<Option<i64>>);

    #[test]
    fn a_page_that_unpacks_to_more_than_any_of_ours_is_refused() {
        let pack = |raw: &[u8]| zstd::bulk::compress(raw, LEVEL).unwrap();
        let mut column = Vec::new();
        column::encode(&mut column, perigee_model::frame::Form::Decimal(2), &[Some(5), None]);
        assert_eq!(with_page(&pack(&column)).unwrap(), [(0, vec![Some(5), None])]);
        // 64 MiB and a byte of zeros are some kilobytes packed.
        let bomb = pack(&vec![0; PAGE_BYTES_MAX + 1]);
        assert!(bomb.len() < 64 << 10);
        assert_eq!(with_page(&bomb), Err(Malformed));
        // One that does not say how long it is would have to be unpacked to see.
        let mut silent = zstd::stream::Encoder::new(Vec::new(), LEVEL).unwrap();
        std::io::Write::write_all(&mut silent, &column).unwrap();
        assert_eq!(with_page(&silent.finish().unwrap()), Err(Malformed));
        assert_eq!(with_page(b"no frame of zstd"), Err(Malformed));
        // One that claims less than it has.
        let mut liar = pack(&vec![7; 300]);
        let at = liar.windows(2).position(|pair| pair == [44, 0]).unwrap();
        liar[at] = 43;
        assert_eq!(with_page(&liar), Err(Malformed));
    }
}
