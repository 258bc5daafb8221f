//! Certificates for a fleet under judgement, made as an operator makes them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::process;
use crate::error::Result;

/// Has the product make an authority for the fleet and a certificate for each of these labels, in `pki/` of the directory.
/// What the configuration says of them is returned.
pub async fn issue(binary: &Path, directory: &Path, fleet: &str, labels: &[String]) -> Result<&'static str> {
    let pki = |words: &[&str]| {
        let mut command = Command::new(binary);
        command.current_dir(directory).arg("pki").args(words).args(["--dir", "pki", "--fleet", fleet]);
        process::run(command, COMMAND_DEADLINE)
    };
    pki(&["init"]).await?;
    for label in labels {
        pki(&["issue", label]).await?;
    }
    Ok("\n[fleet.tls]\nca = \"pki/ca.pem\"\ncert = \"pki/{label}.pem\"\nkey = \"pki/{label}.key\"\n")
}

const COMMAND_DEADLINE: Duration = Duration::from_secs(10);
