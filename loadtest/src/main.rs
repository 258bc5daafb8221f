//! The command line of the judge.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use loadtest::error::Error;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    match cli::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("loadtest: {error}");
            ExitCode::from(if matches!(error, Error::Usage(_)) { USAGE } else { FAILED })
        }
    }
}

const FAILED: u8 = 1;
const USAGE: u8 = 2;
