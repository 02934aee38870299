//! Numbers as pictures made of characters: bars and sparklines.

const EIGHTHS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A bar of so many cells, filled by a share of 0 to 1.
pub fn bar(share: f64, width: usize) -> String {
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    let full = cells(share, width);
    format!("{}{}", "█".repeat(full), "░".repeat(width - full))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "0 to width")]
fn cells(share: f64, width: usize) -> usize {
    ((share * width as f64).round() as usize).min(width)
}

/// One character a value, from `floor` (or the least value) to `ceiling` (or the greatest); a gap is
/// a blank. More values than cells are put together by their greatest: a peak is never hidden.
pub fn sparkline(values: &[Option<f64>], width: usize, floor: Option<f64>, ceiling: Option<f64>) -> String {
    let width = width.max(1);
    let merged: Vec<Option<f64>> = if values.len() <= width {
        values.to_vec()
    } else {
        (0..width)
            .map(|cell| {
                let part = &values[cell * values.len() / width..(cell + 1) * values.len() / width];
                part.iter().flatten().copied().reduce(f64::max)
            })
            .collect()
    };
    let known = || merged.iter().flatten().copied().filter(|v| v.is_finite());
    let low = floor.unwrap_or_else(|| known().fold(f64::INFINITY, f64::min));
    let high = ceiling.unwrap_or_else(|| known().fold(f64::NEG_INFINITY, f64::max));
    let height = |value: f64| {
        let share = if high > low { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.0 };
        EIGHTHS[cells(share, EIGHTHS.len() - 1)]
    };
    merged.iter().map(|value| value.filter(|v| v.is_finite()).map_or(' ', height)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_full_as_their_share() {
        assert_eq!(bar(0.0, 4), "░░░░");
        assert_eq!(bar(0.5, 4), "██░░");
        assert_eq!(bar(7.0, 4), "████");
        assert_eq!(bar(f64::NAN, 4), "░░░░");
    }

    #[test]
    fn sparklines_show_peaks_and_gaps() {
        let values = |texts: &[i32]| texts.iter().map(|v| (*v >= 0).then_some(f64::from(*v))).collect::<Vec<_>>();
        assert_eq!(sparkline(&values(&[0, 7, -1, 3]), 8, None, None), "▁█ ▄");
        assert_eq!(sparkline(&values(&[1, 1, 1, 9, 1, 1]), 3, Some(0.0), Some(9.0)), "▂█▂");
        assert_eq!(sparkline(&values(&[5, 5]), 8, None, None), "▁▁");
        assert_eq!(sparkline(&[], 8, None, None), "");
    }
}
