//! What a calendar says of a moment: in UTC, by the proleptic Gregorian calendar.

/// A function of a moment in seconds since the epoch.
type OfMoment = fn(i64) -> i64;

/// By name. Without an argument they are about the moment that is evaluated.
pub const DATES: &[(&str, OfMoment)] = &[
    ("day_of_month", |s| civil(s).2),
    ("day_of_week", |s| (s.div_euclid(DAY) + 4).rem_euclid(7)),
    ("day_of_year", |s| s.div_euclid(DAY) - days_before(civil(s).0, 1) + 1),
    ("days_in_month", |s| {
        let (year, month, _) = civil(s);
        let next = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
        days_before(next.0, next.1) - days_before(year, month)
    }),
    ("hour", |s| s.rem_euclid(DAY) / 3600),
    ("minute", |s| s.rem_euclid(3600) / 60),
    ("month", |s| civil(s).1),
    ("year", |s| civil(s).0),
];

const DAY: i64 = 86_400;

/// Years of more digits are not asked about; so nothing overflows.
const SECONDS_MAX: f64 = 1e14;

/// A value taken for a moment; NaN where it can be none.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "bounded just before")]
pub fn of_value(function: OfMoment, v: f64) -> f64 {
    if v.abs() <= SECONDS_MAX { function(v as i64) as f64 } else { f64::NAN }
}

/// Year, month, day. Counts from 1 March, so that the leap day is a year's last (Hinnant's
/// `civil_from_days`).
fn civil(seconds: i64) -> (i64, i64, i64) {
    let days = seconds.div_euclid(DAY) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * from_march + 2) / 5 + 1)
}

/// Days from the epoch to the first of a month (Hinnant's `days_from_civil`).
fn days_before(year: i64, month: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * from_march + 2) / 5;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}
