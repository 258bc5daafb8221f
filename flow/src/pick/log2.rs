//! The binary logarithm in integers: every instance computes the same bits, which floating point does not promise.

/// How many fraction bits a result has.
pub(super) const FRACTION_BITS: u32 = 40;

/// `-log2((hash + 1) / 2^64)` with [`FRACTION_BITS`] fraction bits: an exponentially distributed cost for a uniform hash.
/// Between 0 (`u64::MAX`) and 64 (0); never rises as the hash rises. Off by less than 2^-22.
pub(super) fn minus_log2(hash: u64) -> u64 {
    match hash.checked_add(1) {
        Some(x) => (64 << FRACTION_BITS) - log2(x),
        None => 0,
    }
}

/// `log2(x)` for `x > 0`: the exponent, then the table at the fraction's first ten bits and a straight line between its
/// entries for the next 32.
fn log2(x: u64) -> u64 {
    debug_assert!(x > 0, "log2 of zero");
    let zeros = x.leading_zeros();
    let exponent = u64::from(63 - zeros);
    // The bits after the leading one, from the top.
    let fraction = (x << zeros) << 1;
    let index = (fraction >> (64 - INDEX_BITS)) as usize;
    let rest = (fraction << INDEX_BITS) >> 32;
    let (low, high) = (TABLE[index], TABLE[index + 1]);
    // A step is less than 2^31 and the rest less than 2^32: no overflow.
    (exponent << FRACTION_BITS) + low + (((high - low) * rest) >> 32)
}

const INDEX_BITS: u32 = 10;
const ENTRIES: usize = (1 << INDEX_BITS) + 1;

/// `log2(1 + i / 1024)` for i from 0 to 1024.
static TABLE: [u64; ENTRIES] = table();

const fn table() -> [u64; ENTRIES] {
    let mut table = [0; ENTRIES];
    let mut i = 0;
    while i < ENTRIES {
        table[i] = fraction_by_squaring(i as u128);
        i += 1;
    }
    table
}

/// `log2(1 + i / 1024)` bit by bit: squaring doubles the logarithm, and a result of 2 or more has the next bit set.
const fn fraction_by_squaring(i: u128) -> u64 {
    const ONE: u128 = 1 << 63;
    let mut x = ONE + (i << (63 - INDEX_BITS));
    if x >= 2 * ONE {
        return 1 << FRACTION_BITS;
    }
    let mut result = 0;
    let mut bit = 0;
    while bit < FRACTION_BITS {
        x = (x * x) >> 63;
        result <<= 1;
        if x >= 2 * ONE {
            x >>= 1;
            result |= 1;
        }
        bit += 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `floor(log2(x) * 2^40)` from 60-digit decimal arithmetic; the line between two entries may be 2^-22 below.
    #[test]
    fn known_values() {
        for (x, exact) in [
            (1, 0),
            (2, 1 << 40),
            (1 << 63, 63 << 40),
            (3, 1_742_684_699_131),
            (5, 2_552_986_939_188),
            (10, 3_652_498_566_964),
            (1_000_003, 21_914_996_160_559),
            (0xdead_beef_cafe_f00d, 70_147_544_122_058),
            (u64::MAX, (64 << 40) - 1),
        ] {
            let got = log2(x);
            assert!(got.abs_diff(exact) <= 1 << 18, "log2({x}) = {got}, should be {exact}");
        }
    }

    #[test]
    fn never_rises_with_the_hash() {
        assert_eq!((minus_log2(0), minus_log2(u64::MAX)), (64 << FRACTION_BITS, 0));
        let mut last = minus_log2(0);
        for step in 1..=200_000 {
            let cost = minus_log2(step * (u64::MAX / 200_000));
            assert!(cost < last, "step {step}: {cost} after {last}");
            last = cost;
        }
    }
}
