//! The seed's dice.
//!
//! Owns: one stream of draws for each actor, made from the seed and the actor's name, so that a
//! change in what one actor draws does not change the luck of the others.
//! Refuses: any other source of chance.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;

/// One actor's dice.
#[derive(Debug)]
pub struct Draw(StdRng);

impl Draw {
    /// The dice of `actor` in the world of `seed`.
    pub fn new(seed: u64, actor: &str) -> Self {
        // FNV-1a, 64 bits: stable for ever, which a std hasher does not promise.
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let bytes = seed.to_le_bytes().into_iter().chain(actor.bytes());
        Self(StdRng::seed_from_u64(bytes.fold(0xcbf2_9ce4_8422_2325, mix)))
    }

    /// A number below `bound`; zero when `bound` is.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { self.0.random_range(0..bound) }
    }

    /// True in so many of a hundred cases. Zero draws nothing.
    pub fn chance(&mut self, percent: u32) -> bool {
        percent > 0 && self.0.random_range(0..100) < percent
    }

    /// So many milliseconds, both ends included.
    pub fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.0.random_range(least..=most.max(least)))
    }

    /// From 0 up to, but without, 1.
    pub fn share(&mut self) -> f64 {
        self.0.random()
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() { None } else { of.get(self.below(of.len())) }
    }
}
