//! Figures of several rounds as one: the median, and how far the rounds lie apart.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::error::{Error, Result};

/// An empty histogram of nanoseconds up to a minute, which keeps three decimal digits.
pub fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, NANOS_MAX, DIGITS)
        .map_err(|error| Error::Usage(format!("making a histogram: {error}")))
}

/// The median of some rounds, with the lowest and the highest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The one in the middle; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl Spread {
    /// Of no rounds there is none.
    pub fn of(figures: &[f64]) -> Option<Spread> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let median = if sorted.len() % 2 == 1 { upper } else { (upper + *sorted.get(middle - 1)?) / 2.0 };
        Some(Spread { median, low, high })
    }

    /// From the lowest to the highest, in percent of the median.
    pub fn percent(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.high - self.low) / self.median * 100.0 }
    }
}

/// `ours` in relation to `theirs`; none where there is nothing to relate to.
pub fn ratio(ours: f64, theirs: f64) -> Option<f64> {
    (theirs > 0.0).then(|| ours / theirs)
}

/// A figure with about three digits, and thousands set apart.
pub fn short(figure: f64) -> String {
    match figure {
        figure if figure >= 1000.0 => thousands(figure.round() as u64),
        figure if figure >= 100.0 => format!("{figure:.0}"),
        figure if figure >= 10.0 => format!("{figure:.1}"),
        figure => format!("{figure:.2}"),
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Decimal digits that latencies keep.
const DIGITS: u8 = 3;
/// What takes longer counts as this; nothing does, as the loads' deadlines are shorter.
const NANOS_MAX: u64 = 60_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        let spread = Spread::of(&[30.0, 10.0, 20.0]).unwrap();
        assert_eq!(spread, Spread { median: 20.0, low: 10.0, high: 30.0 });
        assert_eq!(spread.percent(), 100.0);
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of(&[7.0]).unwrap().percent(), 0.0);
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[0.0, 0.0]).unwrap().percent(), 0.0);
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        assert_eq!(ratio(3.0, 2.0), Some(1.5));
        assert_eq!(ratio(3.0, 0.0), None);
    }

    #[test]
    fn figures_are_short_to_read() {
        let shown = [0.0, 0.1234, 9.876, 61.62, 397.4, 999.6, 1234.5, 1_234_567.0].map(short);
        assert_eq!(shown, ["0.00", "0.12", "9.88", "61.6", "397", "1000", "1 235", "1 234 567"]);
    }
}
