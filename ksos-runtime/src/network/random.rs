//! Random numbers for transaction ids and pauses, from a seed: state machines stay repeatable.

/// A generator (xorshift64*, Vigna 2016). Not for secrets.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Returns a generator; any seed will do.
    pub fn new(seed: u64) -> Self {
        Random(seed | 1)
    }

    /// Returns the next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns `value` made longer or shorter by up to a `part`th of it.
    pub fn spread(&mut self, value: u64, part: u64) -> u64 {
        let width = value / part.max(1);
        value - width + self.number() % (2 * width + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_stays_within_its_part() {
        let mut random = Random::new(0);
        let values: Vec<u64> = (0..1000).map(|_| random.spread(1000, 4)).collect();
        assert!(values.iter().all(|value| (750..=1250).contains(value)));
        assert!(values.iter().any(|value| *value < 850) && values.iter().any(|value| *value > 1150));
        assert_eq!(random.spread(0, 4), 0);
        assert!(random.spread(3, 0) <= 6);
    }
}
