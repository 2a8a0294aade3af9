//! Whether the processor has wide registers: loops that copy much are compiled for them as well, and one of the two is chosen once a burst.
//!
//! A function for them is one with `#[target_feature]` around the same code: nothing is written twice.

/// AVX2, and the instructions for bits that came with it (the level x86-64-v3).
#[inline(always)]
pub(crate) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2")
}
