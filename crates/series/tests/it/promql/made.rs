//! Made-up series with what real ones have: jitter, resets, gaps, late starts, early ends, NaN,
//! infinities, large and small values. The same every time.

use perigee_series::promql::{Asked, Labels, Matcher, NAME, Sample, Source, SourceError};
use std::fmt::Write as _;

pub const FIRST_MS: i64 = 1_700_000_000_000;
pub const LAST_MS: i64 = FIRST_MS + 2 * 3_600_000;

/// All series, sorted by labels.
pub struct Made {
    series: Vec<(Labels, Vec<Sample>)>,
}

/// Marsaglia's xorshift: chance that is the same every time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    #[expect(clippy::cast_precision_loss, reason = "below 2^32")]
    fn share(&mut self) -> f64 {
        self.below(1 << 32) as f64 / (1_u64 << 32) as f64
    }
}

impl Made {
    pub fn new() -> Self {
        let mut made = Self { series: Vec::new() };
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
        made.counters(&mut chance);
        made.gauges(&mut chance);
        made.histograms(&mut chance);
        made.oddities(&mut chance);
        made.series.sort_by(|a, b| a.0.cmp(&b.0));
        made
    }

    fn add(&mut self, name: &str, labels: &[(&str, &str)], samples: Vec<Sample>) {
        let labels = labels.iter().copied().chain([(NAME, name)]).collect();
        self.series.push((labels, samples));
    }

    /// Counters with jitter in time, which begin again now and then.
    fn counters(&mut self, chance: &mut Chance) {
        for (job, instance, code) in [
            ("api", "0", "200"),
            ("api", "0", "500"),
            ("api", "1", "200"),
            ("api", "1", "500"),
            ("web", "0", "200"),
            ("web", "0", "500"),
            ("web", "1", "200"),
            ("web", "1", "404"),
        ] {
            let mut count = chance.share() * 1000.0;
            let samples = moments(15_000).map(|t_ms| {
                count = if chance.below(60) == 0 { chance.share() * 5.0 } else { count + chance.share() * 30.0 };
                let jitter = i64::try_from(chance.below(900)).expect("small") - 450;
                Sample { t_ms: t_ms + jitter, v: count.floor() }
            });
            let samples = samples.collect();
            self.add("requests_total", &[("job", job), ("instance", instance), ("code", code)], samples);
        }
    }

    /// Waves: one whole, one with a long gap, one with NaN, one that ends early, one that starts late.
    fn gauges(&mut self, chance: &mut Chance) {
        for (at, room) in ["attic", "bath", "cellar", "den", "entry"].into_iter().enumerate() {
            let mut samples: Vec<Sample> = moments(15_000)
                .zip(0..)
                .map(|(t_ms, n)| Sample { t_ms, v: 20.0 + (f64::from(n) / 17.0).sin() * 9.0 + chance.share() })
                .collect();
            let minute = |s: &Sample| (s.t_ms - FIRST_MS) / 60_000;
            match at {
                1 => samples.retain(|s| !(30..52).contains(&minute(s)) && chance.below(9) != 0),
                2 => samples.iter_mut().step_by(7).for_each(|s| s.v = f64::NAN),
                3 => samples.retain(|s| minute(s) < 40),
                4 => samples.retain(|s| minute(s) >= 91),
                _ => {}
            }
            self.add("temperature", &[("room", room)], samples);
            let floor = if room < "c" { "upper" } else { "lower" };
            self.add("room_info", &[("room", room), ("floor", floor)], steady(60_000, 1.0));
            self.add(
                "wanted",
                &[("room", room)],
                steady(30_000, 18.0 + chance.share().floor() + f64::from(u8::try_from(at).expect("few"))),
            );
        }
    }

    fn histograms(&mut self, chance: &mut Chance) {
        let bounds = ["0.005", "0.05", "0.5", "1", "2.5", "+Inf"];
        for job in ["api", "web"] {
            let mut counts = [0.0; 6];
            let mut by_bound = vec![Vec::new(); 6];
            let (mut sums, mut sum) = (Vec::new(), 0.0);
            for t_ms in moments(20_000) {
                for _ in 0..chance.below(40) {
                    let latency = chance.share().powi(3) * 4.0;
                    sum += latency;
                    for (count, bound) in counts.iter_mut().zip([0.005, 0.05, 0.5, 1.0, 2.5, f64::INFINITY]) {
                        *count += f64::from(u8::from(latency <= bound));
                    }
                }
                sums.push(Sample { t_ms, v: sum });
                by_bound.iter_mut().zip(counts).for_each(|(samples, v)| samples.push(Sample { t_ms, v }));
            }
            self.add("latency_seconds_count", &[("job", job)], by_bound[5].clone());
            self.add("latency_seconds_sum", &[("job", job)], sums);
            for (bound, samples) in bounds.into_iter().zip(by_bound) {
                self.add("latency_seconds_bucket", &[("job", job), ("le", bound)], samples);
            }
        }
    }

    fn oddities(&mut self, chance: &mut Chance) {
        self.add("constant", &[("kind", "pi")], steady(15_000, std::f64::consts::PI));
        self.add("constant", &[("kind", "negative")], steady(15_000, -2.5));
        self.add("constant", &[("kind", "infinite")], steady(60_000, f64::INFINITY));
        self.add(
            "sparse",
            &[],
            moments(240_000).zip(0..).map(|(t_ms, n)| Sample { t_ms, v: f64::from(n * n) }).collect(),
        );
        let many = |make: &mut dyn FnMut() -> f64| moments(15_000).map(|t_ms| Sample { t_ms, v: make() }).collect();
        let huge = many(&mut || (chance.share() - 0.2) * 1e300);
        self.add("huge", &[("n", "1")], huge);
        let huge = many(&mut || 1.7e308);
        self.add("huge", &[("n", "2")], huge);
        let tiny = many(&mut || chance.share() * 1e-9);
        self.add("tiny", &[], tiny);
        // Sums that lose everything unless what rounding loses is kept.
        let mut turn = 0;
        let cancelling = many(&mut || {
            turn += 1;
            [1e16, 1.0, -1e16, 3.5][turn % 4]
        });
        self.add("cancelling", &[], cancelling);
        // `+ 0.0`: no negative zeros, whose order among zeros no one promises.
        let whole = many(&mut || chance.share().mul_add(6.0, -2.0).round() + 0.0);
        self.add("level", &[("of", "a")], whole);
        let whole = many(&mut || chance.share().mul_add(3.0, 0.0).round());
        self.add("level", &[("of", "b")], whole);
    }

    /// All of it in the format that promtool reads.
    pub fn open_metrics(&self) -> String {
        let mut text = String::new();
        for (labels, samples) in &self.series {
            let rest: Vec<String> =
                labels.unnamed().iter().map(|(label, value)| format!("{label}={value:?}")).collect();
            for sample in samples {
                let (seconds, millis) = (sample.t_ms / 1000, sample.t_ms % 1000);
                let v = if sample.v.is_infinite() { "+Inf".to_owned() } else { sample.v.to_string() };
                writeln!(text, "{}{{{}}} {v} {seconds}.{millis:03}", labels.get(NAME), rest.join(","))
                    .expect("a string");
            }
        }
        text + "# EOF\n"
    }
}

fn moments(step_ms: i64) -> impl Iterator<Item = i64> {
    (0..).map(move |n| FIRST_MS + n * step_ms).take_while(|t_ms| *t_ms < LAST_MS)
}

fn steady(step_ms: i64, v: f64) -> Vec<Sample> {
    moments(step_ms).map(|t_ms| Sample { t_ms, v }).collect()
}

impl Source for Made {
    fn select(&self, asked: &Asked<'_>) -> Result<Vec<(Labels, Vec<Sample>)>, SourceError> {
        let Asked { matchers, from_ms, to_ms, .. } = *asked;
        let matching = self.series.iter().filter(|(labels, _)| Matcher::all_met_by(matchers, labels));
        let within =
            |samples: &[Sample]| samples.iter().filter(|s| (from_ms..=to_ms).contains(&s.t_ms)).copied().collect();
        Ok(matching.map(|(labels, samples)| (labels.clone(), within(samples))).collect())
    }
}
