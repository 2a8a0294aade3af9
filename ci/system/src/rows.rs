//! Numbered rows of a table that one test works through with one guest: each is run, those that failed are told at the end.

use std::io::Write;
use std::time::Instant;

use anyhow::{Result, bail, ensure};

/// What has failed so far.
#[derive(Default)]
pub struct Rows {
    failed: Vec<String>,
    passed: usize,
}

impl Rows {
    /// Runs a row, which may fail, and prints how it went.
    pub fn row(&mut self, name: &str, action: impl FnOnce() -> Result<()>) {
        print!("  {name:<60} ");
        // Only for whoever watches.
        let _ = std::io::stdout().flush();
        let start = Instant::now();
        let outcome = action();
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                println!("{seconds:5.1} s  ok");
                self.passed += 1;
            }
            Err(error) => {
                println!("{seconds:5.1} s  FAILED\n      {error:#}");
                self.failed.push(format!("{name}: {error:#}"));
            }
        }
    }

    /// Runs a row that compares what is with what should be.
    pub fn same<T: PartialEq + std::fmt::Debug>(&mut self, name: &str, is: T, should_be: T) {
        self.row(name, || {
            ensure!(is == should_be, "it is {is:?}, and should be {should_be:?}");
            Ok(())
        });
    }

    /// The end of the test.
    ///
    /// # Errors
    /// A row has failed.
    pub fn end(self) -> Result<()> {
        let Self { failed, passed } = self;
        if !failed.is_empty() {
            bail!("{} rows failed, {passed} passed:\n    {}", failed.len(), failed.join("\n    "));
        }
        println!("  {passed} rows passed");
        Ok(())
    }
}
