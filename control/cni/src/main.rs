//! culvert-cni as container runtimes call it: variables in the environment, a configuration on standard input, a result or
//! an error on standard output, sentences for the log on standard error. Installed under the name `userspace` as well.

use std::io;
use std::process::ExitCode;

use culvert_cni::environment::Variables;

fn main() -> ExitCode {
    let (input, output) = (io::stdin(), io::stdout());
    culvert_cni::run(&Variables::of_process(), &mut input.lock(), &mut output.lock())
}
