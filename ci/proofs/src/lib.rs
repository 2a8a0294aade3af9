//! Proofs by exhaustion: a *harness* is a function that takes [`Choices`], runs the product's own code on what it chooses, and asserts what
//! must hold. It stands in a file `proofs.rs` beside the code that it is about, and [`proofs!`] makes a test of it that runs it for every
//! sequence of choices there is.
//!
//! The same functions are harnesses for Kani, a model checker, which takes all choices at once: with `--cfg kani`, which Kani sets, a choice is
//! any value within the same bounds. There, `cargo kani -p culvert-guest --tests --harness NAME` runs one of them, with `--default-unwind` where it
//! has loops. Nobody has done that yet. A harness whose code asks the kernel for something (a file, a mapping, a descriptor) says so: Kani does
//! not know that.
//!
//! A harness depends on its choices alone. It must have as many cases as `proofs!` says at least, so that no change can make it empty.
//!
//! Why not the crate `exhaustigen`, which has the same idea: it has had one release, and is as long as [`explore`].

mod choices;
#[cfg(not(kani))]
mod explore;

pub use choices::{Choices, Number};
#[cfg(not(kani))]
pub use explore::explore;

/// Makes tests of harnesses: `proofs! { NAME: CASES, }`, where each is a function of that name with one parameter, [`&mut
/// Choices`](Choices), and has so many cases at least. With Kani each is a proof.
#[macro_export]
macro_rules! proofs {
    ($($name:ident: $least:literal),+ $(,)?) => {
        mod proved {
            $(
                #[cfg(not(kani))]
                #[test]
                fn $name() {
                    $crate::explore(stringify!($name), $least, super::$name);
                }

                #[cfg(kani)]
                #[kani::proof]
                fn $name() {
                    super::$name(&mut $crate::Choices::any());
                }
            )+
        }
    };
}
