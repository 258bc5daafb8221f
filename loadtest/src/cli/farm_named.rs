//! `loadtest anycast`: the farm of network namespaces, as it is made, shown and removed by people.

use std::path::PathBuf;
use std::process::ExitCode;

use loadtest::anycast::named::{self, Farm};
use loadtest::anycast::plan::Plan;
use loadtest::error::{Error, Result};

use super::stick::binary;
use super::{AnycastArguments, AnycastVerb};

/// Does what was asked for.
pub async fn run(arguments: AnycastArguments) -> Result<ExitCode> {
    match arguments.verb {
        AnycastVerb::Up { instances, servers, bin } => {
            let own: PathBuf = std::env::current_exe().map_err(Error::io("finding this program"))?;
            let farm = named::up(Plan { instances, servers }, &binary(bin.as_deref())?, &own).await?;
            print!("{}", farm.status().await?.table());
            println!("\nTry: loadtest anycast shell clients curl -s http://192.0.2.1:9002/who");
        }
        AnycastVerb::Down => {
            let removed = named::down().await?;
            match removed.len() {
                0 => println!("there was no farm"),
                _ => println!("removed {}", removed.join(", ")),
            }
        }
        AnycastVerb::Status { json } => {
            let status = Farm::found()?.status().await?;
            if json {
                println!("{}", status.json());
            } else {
                print!("{}", status.table());
            }
            if !status.is_whole() {
                return Ok(ExitCode::FAILURE);
            }
        }
        AnycastVerb::Shell { host, command } => return named::shell(&host, &command),
    }
    Ok(ExitCode::SUCCESS)
}
