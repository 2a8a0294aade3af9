//! Prints docs/CONFIG.md.

fn main() {
    print!("{}", culvertd::config::document::document());
}
