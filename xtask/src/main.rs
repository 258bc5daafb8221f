//! The developers' tasks: `cargo xtask codegen`, `cargo xtask tidy`.

use std::process::ExitCode;

mod codegen;
mod tidy;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["codegen"] => codegen::write(),
        ["codegen", "--check"] => codegen::check(),
        ["tidy"] => tidy::check(),
        _ => {
            eprintln!("usage: cargo xtask codegen [--check]   Rust from the .proto files");
            eprintln!("       cargo xtask tidy                the rules of ARCHITECTURE.md");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
