//! Counts of durations in bounded memory. A bucket is at most 1/128 of its values wide and stands for
//! its middle, so that a percentile is wrong by less than 1 %; the maximum is exact. Pure.

/// Two to this power buckets for each doubling of the value.
const BITS: u32 = 7;
const SUB: usize = 1 << BITS;
/// Every value of 64 bits has its bucket.
const BUCKETS: usize = (64 - BITS as usize + 1) * SUB;

/// How often each duration was seen.
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS].into(), count: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        self.buckets[place(value)] += 1;
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The largest value, exactly.
    pub fn max(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max)
    }

    /// The value that the given share of all values does not exceed; none where nothing was counted.
    pub fn percentile(&self, share: f64) -> Option<u64> {
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        let place = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(middle(place).min(self.max))
    }
}

/// The bucket of a value: exact below `SUB`, then `SUB` buckets for each power of two.
fn place(value: u64) -> usize {
    let value_bits = 64 - (value | 1).leading_zeros();
    let shift = value_bits.saturating_sub(BITS + 1);
    shift as usize * SUB + (value >> shift) as usize
}

/// The middle of a bucket.
fn middle(place: usize) -> u64 {
    if place < 2 * SUB {
        return place as u64;
    }
    let shift = place / SUB - 1;
    let lowest = ((place - shift * SUB) as u64) << shift;
    lowest + ((1u64 << shift) - 1) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_within_one_percent_of_its_values() {
        let mut value = 1u64;
        while value < u64::MAX / 3 {
            for value in [value - 1, value, value + 1, value + value / 3] {
                let found = middle(place(value));
                assert!(found.abs_diff(value) as f64 <= value as f64 * 0.01, "{value}: {found}");
            }
            value = value + value / 97 + 1;
        }
        assert!(place(u64::MAX) < BUCKETS);
    }

    #[test]
    fn buckets_are_in_the_order_of_values() {
        for value in 1..100_000u64 {
            let (before, here) = (place(value - 1), place(value));
            assert!(here == before || here == before + 1, "{value}");
        }
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.percentile(0.5), histogram.max()), (None, None));
        for value in 1..=10_000 {
            histogram.record(value * 1000);
        }
        for (share, expected) in [(0.5, 5e6), (0.9, 9e6), (0.99, 9.9e6), (1.0, 1e7)] {
            let found = histogram.percentile(share).expect("values") as f64;
            assert!((found - expected).abs() <= expected * 0.01, "{share}: {found}");
        }
        assert_eq!((histogram.max(), histogram.count()), (Some(10_000_000), 10_000));
    }
}
